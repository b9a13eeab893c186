//! A running target, whatever its kind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_core::forward::Reason;
use adit_core::target::{LocalTarget, Target};
use runtime::Scope;
use runtime::connect::{ConnectError, Io, TcpConnect};
use tokio::sync::watch;

use crate::clusters::Clusters;
use crate::error::ForwardError;
use crate::k8s::jump::JumpSession;
use crate::k8s::target::{KubeSession, KubeStatus};
use crate::ssh::target::SshSession;

/// How long a plain address may take to answer.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a jump needs to know beyond its URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JumpOptions {
    /// The container to run in; the pod's first one if not given.
    pub container: Option<String>,
    /// A pod to be made when there is none of that name.
    pub create: Option<CreatePod>,
}

/// A pod made to jump through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePod {
    /// Its image, which has socat or nc.
    pub image: String,
    /// What it runs; `sleep infinity` if empty.
    pub command: Vec<String>,
    /// How long it may take to be ready.
    pub timeout: Duration,
    /// Labels beside ours.
    pub labels: BTreeMap<String, String>,
    /// It stays at exit.
    pub keep: bool,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    pub(crate) balance: bool,
    /// How long a connection waits for a pod that takes it.
    pub(crate) patience: Duration,
    pub(crate) jump: JumpOptions,
}

/// A running target.
pub(crate) enum Session {
    Kube(KubeSession),
    Jump(JumpSession),
    Ssh(SshSession),
    Direct { connect: TcpConnect, status: watch::Sender<KubeStatus> },
}

/// Where a session leads, for reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) context: Option<String>,
    pub(crate) namespace: Option<String>,
}

impl Session {
    /// Starts a session; connects in the background.
    ///
    /// # Errors
    /// What is wrong with the kubeconfig or the target.
    pub(crate) async fn start(
        scope: &Scope,
        clusters: &Clusters,
        target: &Target,
        options: SessionOptions,
    ) -> Result<(Self, Place), ForwardError> {
        match target {
            Target::Kubernetes(target) => {
                let cluster = clusters.cluster(target.context.as_deref()).await?;
                let place = place(&cluster.api, target.namespace.as_ref());
                let session =
                    KubeSession::start(scope, cluster.api, cluster.pools, target, options.balance, options.patience);
                Ok((Self::Kube(session), place))
            }
            Target::Jump(target) => {
                let cluster = clusters.cluster(target.context.as_deref()).await?;
                let place = place(&cluster.api, target.namespace.as_ref());
                let session = JumpSession::start(scope, cluster.api, target, options.jump, options.patience);
                Ok((Self::Jump(session), place))
            }
            Target::Ssh(target) => {
                let session = SshSession::start(scope, clusters.ssh(), target, options.patience);
                Ok((Self::Ssh(session), Place::default()))
            }
            Target::Local(target) => Ok((Self::direct(target), Place::default())),
            Target::Forward(name) => Err(ForwardError::Unsupported {
                target: format!("forward:{name}"),
                reason: "it is a forward of a file, and none is read here".into(),
            }),
        }
    }

    fn direct(target: &LocalTarget) -> Self {
        let status = KubeStatus { port: Some(target.port), ..KubeStatus::default() };
        let connect = TcpConnect::new(&target.host, target.port, DIRECT_TIMEOUT);
        Self::Direct { connect, status: watch::Sender::new(status) }
    }

    /// What is known, as it changes.
    pub(crate) fn status(&self) -> watch::Receiver<KubeStatus> {
        match self {
            Self::Kube(session) => session.status(),
            Self::Jump(session) => session.status(),
            Self::Ssh(session) => session.status(),
            Self::Direct { status, .. } => status.subscribe(),
        }
    }

    /// Waits until there is something to connect to.
    pub(crate) async fn resolved(&self) -> Result<(), ForwardError> {
        match self {
            Self::Kube(session) => session.resolved().await,
            Self::Jump(session) => session.resolved().await,
            Self::Ssh(_) | Self::Direct { .. } => Ok(()),
        }
    }

    /// Waits until streams can be opened.
    pub(crate) async fn ready(&self) -> Result<(), ForwardError> {
        match self {
            Self::Kube(session) => session.ready().await,
            Self::Jump(session) => session.ready().await,
            Self::Ssh(session) => session.ready().await,
            Self::Direct { .. } => Ok(()),
        }
    }

    /// Waits until no stream can be opened any more; why.
    pub(crate) async fn lost(&self) -> Reason {
        match self {
            Self::Kube(session) => session.lost().await,
            Self::Ssh(session) => session.lost().await.into(),
            Self::Jump(_) | Self::Direct { .. } => std::future::pending().await,
        }
    }

    /// Opens a stream, waiting so long for a way to the API server once it is known that there is none.
    pub(crate) async fn open(&self, unreached: Duration) -> Result<Io, ConnectError> {
        match self {
            Self::Kube(session) => session.open(unreached).await.map(Io::buffered),
            Self::Jump(session) => session.open().await,
            Self::Ssh(session) => session.open().await,
            Self::Direct { connect, .. } => connect.open().await.map(Io::Tcp),
        }
    }

    /// Since when there is no way to what it leads through, as far as that is known: an SSH server.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        match self {
            Self::Ssh(session) => session.down_since(),
            Self::Kube(_) | Self::Jump(_) | Self::Direct { .. } => None,
        }
    }

    /// The SSH server that it leads through.
    pub(crate) fn ssh_server(&self) -> Option<String> {
        match self {
            Self::Ssh(session) => Some(session.server()),
            Self::Kube(_) | Self::Jump(_) | Self::Direct { .. } => None,
        }
    }

    /// Until when nothing is tried, as it waits for a person.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        match self {
            Self::Ssh(session) => session.held_until(),
            Self::Kube(_) | Self::Jump(_) | Self::Direct { .. } => None,
        }
    }

    /// Somebody finds no place: perhaps those who are there hold theirs in vain.
    pub(crate) fn doubt(&self) {
        if let Self::Ssh(session) = self {
            session.doubt();
        }
    }

    /// Waits until what only a person can see to is seen to.
    pub(crate) async fn seen_to(&self) {
        match self {
            Self::Ssh(session) => session.seen_to().await,
            Self::Kube(_) | Self::Jump(_) | Self::Direct { .. } => std::future::pending().await,
        }
    }

    /// The machine slept, or its network changed.
    pub(crate) fn wake(&self) {
        match self {
            Self::Kube(session) => session.wake(),
            Self::Jump(session) => session.wake(),
            Self::Ssh(session) => session.wake(),
            Self::Direct { .. } => {}
        }
    }

    /// Whether there is another target beside the one that streams go to.
    pub(crate) fn has_another(&self) -> bool {
        self.status().borrow().pods > 1
    }

    /// Probes of the target fail: the next streams go to another one if there is one, and over new connections. Those
    /// that run stay where they are.
    pub(crate) fn renew(&self) {
        match self {
            Self::Kube(session) => session.renew(),
            Self::Jump(session) => session.renew(),
            Self::Ssh(session) => session.renew(),
            Self::Direct { .. } => {}
        }
    }
}

fn place(api: &crate::k8s::api::Api, namespace: Option<&String>) -> Place {
    Place {
        context: Some(api.context().to_owned()),
        namespace: Some(namespace.cloned().unwrap_or_else(|| api.default_namespace())),
    }
}
