//! Probes: does what stands behind a byte stream answer as it should? Each kind asks in the service's own protocol, over
//! the forward's own path, and reads no more than it must.
//!
//! | module | what is in it |
//! |---|---|
//! | `wire` | reading within bounds, and knowing a wrong protocol when it is seen |
//! | `http`, `grpc` | requests |
//! | `postgres`, `mysql`, `redis`, `kafka` | logins and questions |
//! | `scram` | the login that sends no password |
//! | `exec` | a program that decides |

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_core::config::forwards::{Credentials, HealthProbe, ProbeText, ProbeTls};
use adit_core::config::gateway::PasswordSource;
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::secret::Secret;
use runtime::Scope;
use runtime::connect::{BoxFuture, Connect, ConnectError, Io, TlsConnect};
use runtime::password::read_password;
use runtime::tls::{ServerTrust, TlsError};
use tokio::io::AsyncReadExt as _;

mod exec;
mod grpc;
mod http;
mod kafka;
mod mysql;
mod postgres;
mod redis;
mod scram;
mod wire;

use wire::{Head, Noted, Wire};

/// Through a cluster a stream opens before the service takes it: one that is refused ends within this time.
const STAYS: Duration = Duration::from_millis(500);

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// How long it took, from opening the stream to the last answer.
    pub latency: Duration,
    /// What was learnt, in a few words: a version, a status.
    pub detail: String,
}

/// Probes what is behind `connect`, whose host is called `host` in requests and certificates.
///
/// # Errors
/// [`ProbeError`]: what was seen in place of a good answer. No text holds a secret.
pub async fn probe(
    kind: &HealthProbe,
    connect: &dyn Connect,
    host: &str,
    timeout: Duration,
) -> Result<ProbeReport, ProbeError> {
    let begun = Instant::now();
    let doing = Doing::default();
    let asking = Asking { connect, host, timeout, doing: &doing };
    let asked: BoxFuture<'_, Result<String, ProbeError>> = match kind {
        HealthProbe::Tcp => Box::pin(tcp(&asking)),
        HealthProbe::Http(probe) => Box::pin(http::ask(&asking, probe)),
        HealthProbe::Postgres(probe) => Box::pin(postgres::ask(&asking, probe)),
        HealthProbe::Redis(probe) => Box::pin(redis::ask(&asking, probe)),
        HealthProbe::Mysql => Box::pin(mysql::ask(&asking)),
        HealthProbe::Grpc(probe) => Box::pin(grpc::ask(&asking, probe)),
        HealthProbe::Kafka(probe) => Box::pin(kafka::ask(&asking, probe)),
        HealthProbe::Exec(probe) => Box::pin(exec::run(&asking, probe)),
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(result) => {
            let latency = doing.settled().unwrap_or_else(Instant::now) - begun;
            match result {
                Ok(detail) => Ok(ProbeReport { latency, detail: hidden(kind, detail) }),
                Err(ProbeError::Refused { message }) => Err(ProbeError::Refused { message: hidden(kind, message) }),
                Err(ProbeError::Malformed { wanted, what }) => {
                    Err(ProbeError::Malformed { wanted, what: hidden(kind, what) })
                }
                Err(ProbeError::Setup { reason }) => Err(ProbeError::Setup { reason: hidden(kind, reason) }),
                Err(other) => Err(other),
            }
        }
        Err(_) => Err(ProbeError::Timeout { after: timeout, doing: doing.now() }),
    }
}

/// What a server or a probe says, without what variables hold of the probe's settings: a server repeats the names that it was asked for.
fn hidden(kind: &HealthProbe, said: String) -> String {
    let texts: [Option<&ProbeText>; 2] = match kind {
        HealthProbe::Http(probe) => [probe.content.as_ref(), None],
        HealthProbe::Postgres(probe) => [probe.login.user.as_ref(), probe.database.as_ref()],
        HealthProbe::Redis(probe) => [probe.login.user.as_ref(), None],
        HealthProbe::Kafka(probe) => [probe.login.user.as_ref(), None],
        HealthProbe::Grpc(probe) => [Some(&probe.service), probe.host_header.as_ref()],
        HealthProbe::Tcp | HealthProbe::Mysql | HealthProbe::Exec(_) => [None, None],
    };
    texts.into_iter().flatten().fold(said, |said, text| text.hide_in(&said))
}

/// Why a target is not well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No stream could be opened.
    #[error("cannot connect")]
    Connect {
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// It took too long.
    #[error("no answer within {after:?} while {doing}")]
    Timeout {
        /// The deadline.
        after: Duration,
        /// What was waited for.
        doing: &'static str,
    },
    /// The other side closed the stream.
    #[error("the connection was closed while {doing}")]
    Closed {
        /// What was waited for.
        doing: &'static str,
    },
    /// The stream itself said why it ended: the cluster told it.
    #[error("{reason}")]
    Cut {
        /// Why.
        reason: String,
        /// Nothing listens there.
        refused: bool,
    },
    /// No TLS, or the wrong certificate.
    #[error("tls failed")]
    Tls {
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// Something else answers there.
    #[error("it answers {found}, not {wanted}")]
    Protocol {
        /// What it speaks.
        found: &'static str,
        /// What was expected.
        wanted: &'static str,
    },
    /// The answer is none of the protocol.
    #[error("its answer is not {wanted}: {what}")]
    Malformed {
        /// The protocol.
        wanted: &'static str,
        /// What is wrong.
        what: String,
    },
    /// It answers, and says that it is not well or that we are not welcome.
    #[error("{message}")]
    Refused {
        /// In its words.
        message: String,
    },
    /// The command of the probe says no.
    #[error("{message}")]
    Command {
        /// How it ended, and its last words.
        message: String,
    },
    /// The probe itself cannot be made.
    #[error("the probe cannot be made: {reason}")]
    Setup {
        /// Why.
        reason: String,
    },
}

/// Until there is a stream.
const CONNECTING: &str = "connecting";

/// Where the cause of a failure lies, which says what may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The way to the target, or a target that says nothing: another connection may help.
    Path,
    /// A target that answers, if only with a refusal: only another target may help.
    Target,
    /// The probe's own settings: nothing that is restarted helps.
    Probe,
}

impl ProbeError {
    /// Where the cause lies.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            // Somebody said no, in the target's place: the way there is well.
            Self::Connect { source: ConnectError::Refused { .. } | ConnectError::Resolve { .. } } => Blame::Target,
            Self::Cut { refused: true, .. } => Blame::Target,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Cut { .. }
            | Self::Command { .. } => Blame::Path,
            Self::Tls { .. } | Self::Protocol { .. } | Self::Malformed { .. } | Self::Refused { .. } => Blame::Target,
            Self::Setup { .. } => Blame::Probe,
        }
    }
}

/// What somebody may do about a probe that fails: the service may be ill, or the probe wrong, and who reads it knows which.
/// Of a way by an SSH server that one may be silent, and the service and its probe well.
pub(crate) fn what_to_do(error: &ProbeError, kind: &str, ssh_server: Option<&str>) -> String {
    if let (ProbeError::Timeout { doing: CONNECTING, .. }, Some(server)) = (error, ssh_server) {
        return format!("no stream came to be: see with `adit ssh test {server}` whether the SSH server answers");
    }
    if let (ProbeError::Cut { .. }, Some(hint)) = (error, error.hint()) {
        return hint;
    }
    if let Some(hint) = error.hint() {
        return format!("{hint}; it is the {kind} probe in `health` of the forward");
    }
    match error.blame() {
        Blame::Target => {
            format!("the way there holds: mend the service, or what the {kind} probe in `health` expects of it")
        }
        Blame::Path => format!("see whether the service answers; if it does, mend the {kind} probe in `health`"),
        Blame::Probe => format!("mend the {kind} probe in `health`: nothing is started anew for it"),
    }
}

impl Diagnose for ProbeError {
    fn fault(&self) -> Fault {
        match self {
            Self::Setup { .. } => Fault::Config,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Cut { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::Command { .. } => Fault::Upstream,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Connect { source } | Self::Tls { source } => return source.hint(),
            Self::Protocol { .. } | Self::Malformed { .. } => "check the port of the forward and the type of its probe",
            Self::Timeout { .. } => "raise the probe's timeout if the service is slow and well",
            Self::Cut { refused: true, .. } => "start the service there, or correct the port of the forward",
            Self::Closed { .. }
            | Self::Cut { .. }
            | Self::Refused { .. }
            | Self::Command { .. }
            | Self::Setup { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// What all probes need.
struct Asking<'a> {
    connect: &'a dyn Connect,
    host: &'a str,
    timeout: Duration,
    doing: &'a Doing,
}

/// What is waited for now, in words that follow "while", and when the answer was there if that is not the end.
#[derive(Default)]
struct Doing(Mutex<(Option<&'static str>, Option<Instant>)>);

impl Doing {
    fn lock(&self) -> MutexGuard<'_, (Option<&'static str>, Option<Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, doing: &'static str) {
        self.lock().0 = Some(doing);
    }

    fn now(&self) -> &'static str {
        self.lock().0.unwrap_or(CONNECTING)
    }

    fn settle(&self) {
        self.lock().1 = Some(Instant::now());
    }

    fn settled(&self) -> Option<Instant> {
        self.lock().1
    }
}

impl Asking<'_> {
    /// A stream to the target, with TLS if that is wanted; what comes first on it is noted.
    async fn open(&self, tls: Option<&ProbeTls>, alpn: &[&[u8]]) -> Result<(Io, Head), ProbeError> {
        let (io, head) = Noted::over(self.connect.connect().await.map_err(|source| ProbeError::Connect { source })?);
        match tls {
            None => Ok((io, head)),
            Some(tls) => self.secure(io, tls, alpn).await.map_err(|error| head.stranger("TLS").unwrap_or(error)),
        }
    }

    /// TLS over an open stream.
    async fn secure(&self, io: Io, tls: &ProbeTls, alpn: &[&[u8]]) -> Result<(Io, Head), ProbeError> {
        self.doing.begin("shaking hands for tls");
        let name = tls.server_name.as_ref().map_or(self.host, |name| name.as_str());
        let open = Open { io: Mutex::new(Some(io)), name: name.to_owned() };
        let connect = if tls.verify {
            let trust = tls.ca.clone().map_or(ServerTrust::Roots, ServerTrust::CaFile);
            trust.client_config(alpn).and_then(|config| TlsConnect::new(open, name, config, self.timeout))
        } else {
            TlsConnect::unverified(open, name, alpn, self.timeout)
        };
        let io = connect.map_err(|error| setup(&error))?.connect().await;
        let io = io.map_err(|source| ProbeError::Tls { source })?;
        Ok(Noted::over(io))
    }

    /// A stream for a protocol that is read by hand.
    async fn wire(&self, tls: Option<&ProbeTls>, wanted: &'static str) -> Result<Wire<'_>, ProbeError> {
        let (io, head) = self.open(tls, &[]).await?;
        Ok(Wire::new(io, head, wanted, self.doing))
    }
}

/// A stream that is open already, for whoever wants a `Connect`.
struct Open {
    io: Mutex<Option<Io>>,
    name: String,
}

impl Connect for Open {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        let io = self.io.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            io.ok_or_else(|| ConnectError::Unavailable {
                target: self.name.clone(),
                reason: "its one stream is in use".into(),
                hint: None,
            })
        })
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

async fn tcp(asking: &Asking<'_>) -> Result<String, ProbeError> {
    let (mut io, head) = asking.open(None, &[]).await?;
    asking.doing.settle();
    asking.doing.begin("looking whether it stays open");
    let grace = STAYS.min(asking.timeout / 2);
    match tokio::time::timeout(grace, io.read(&mut [0])).await {
        Ok(Ok(0) | Err(_)) => Err(head.closed(asking.doing.now())),
        Ok(Ok(_)) | Err(_) => Ok("it takes connections".to_owned()),
    }
}

fn setup(error: &TlsError) -> ProbeError {
    ProbeError::Setup { reason: crate::error::chain(error) }
}

/// The password of a login, from where it is kept.
async fn password(login: &Credentials) -> Result<Option<Secret<String>>, ProbeError> {
    match &login.password {
        None => Ok(None),
        Some(PasswordSource::Value(password)) => Ok(Some(password.clone())),
        Some(PasswordSource::File(path)) => {
            let file = path.clone();
            let fault =
                |reason| ProbeError::Setup { reason: format!("the password file {}: {reason}", path.display()) };
            aside(move || read_password(&file)).await?.map(Some).map_err(fault)
        }
    }
}

/// Does what takes long, or waits for a disk, where it holds up no stream: the probe's deadline is kept, and as its scope is
/// of its own nobody's end waits for it.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ProbeError> {
    let done = Scope::root().spawn_blocking("probe", work).await;
    done.map_err(|lost| ProbeError::Setup { reason: lost.to_string() })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;
    use crate::k8s::connection::{PodFault, StreamFault};

    /// A stream that the cluster cuts with a reason.
    struct Refusing;

    impl AsyncRead for Refusing {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let said =
                "error forwarding port 80 to pod 1: failed to connect to localhost:80: connect: connection refused";
            Poll::Ready(Err(StreamFault::Pod(PodFault::of(said)).into_io()))
        }
    }

    impl AsyncWrite for Refusing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Connect for Refusing {
        fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
            Box::pin(async { Ok(Io::other(Self)) })
        }

        fn describe(&self) -> String {
            "refusing".to_owned()
        }
    }

    #[tokio::test]
    async fn what_the_cluster_says_of_a_stream_is_why_its_probe_fails() {
        let kinds = [HealthProbe::Tcp, HealthProbe::Mysql];
        for kind in kinds {
            let error = probe(&kind, &Refusing, "web", Duration::from_secs(5)).await.unwrap_err();
            assert!(error.to_string().contains("nothing listens on port 80 there"), "{error}");
            assert_eq!(error.blame(), Blame::Target);
            let hint = what_to_do(&error, kind.as_str(), None);
            assert!(hint.contains("port of the forward") && !hint.contains("probe"), "{hint}");
        }
    }

    #[test]
    fn s6_a_server_that_repeats_what_a_variable_holds_does_not_get_it_into_a_text() {
        let text = "forwards:\n  a: { to: 1, health: { type: postgres, user: \"${WHO}\", password: x, database: \"db-${WHO}\" } }\n";
        let file = adit_core::config::AgentFile::parse("adit.yaml", text, &|_| Some("hunter2".to_owned())).unwrap();
        let probe = file.forward("a").unwrap().health.clone().unwrap().probe;
        let said = hidden(&probe, "database \"db-hunter2\" does not exist for hunter2".to_owned());
        assert!(
            !said.contains("hunter2") && said.starts_with("database \"db-") && said.contains("does not exist for"),
            "{said}"
        );
    }

    #[test]
    fn where_no_stream_comes_to_be_it_is_the_ssh_server_that_is_looked_at() {
        let late = |doing| ProbeError::Timeout { after: Duration::from_secs(2), doing };
        let hint = what_to_do(&late(CONNECTING), "postgres", Some("me@bastion"));
        assert!(hint.contains("`adit ssh test me@bastion`") && !hint.contains("raise"), "{hint}");
        for hint in [
            what_to_do(&late("waiting for its answer"), "postgres", Some("me@bastion")),
            what_to_do(&late(CONNECTING), "postgres", None),
        ] {
            assert!(hint.contains("postgres probe in `health`"), "{hint}");
        }
    }
}
