//! What becomes of the pod while streams lead into it, and the words for what goes wrong there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::StreamTarget;
use crate::cluster::Shared;

/// Open streams end this long after their pod's object is gone.
const AFTER_REMOVAL: Duration = Duration::from_millis(150);
/// What containerd needs to notice the end of a container, before it waits for the other direction.
const AFTER_RESTART: Duration = Duration::from_millis(100);

/// One pod as it was when the connection was made. A later pod of the same name is another one.
pub(super) struct Pod {
    shared: Arc<Shared>,
    target: Arc<StreamTarget>,
    uid: String,
    sandbox: String,
}

impl Pod {
    pub(super) fn new(shared: &Arc<Shared>, target: &Arc<StreamTarget>) -> Self {
        let pod = shared.pod(&target.namespace, &target.pod);
        let uid = pod.as_deref().map(uid).unwrap_or_default().to_owned();
        let digest = Sha256::digest(format!("{}/{}/{uid}", target.namespace, target.pod));
        let sandbox = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { shared: Arc::clone(shared), target: Arc::clone(target), uid, sandbox }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.target.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.target.pod
    }

    /// Whether it is still there.
    pub(super) fn lives(&self) -> bool {
        self.restarts().is_some()
    }

    pub(super) fn forwarding_failed(&self, port: u16, text: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid : {text}", self.sandbox)
    }

    pub(super) fn no_sandbox(&self) -> String {
        format!("failed to find sandbox {:?} in store: not found", self.sandbox)
    }

    pub(super) fn refused(&self, port: u16, why: &str) -> String {
        format!(
            "{}failed to connect to localhost:{port} inside namespace {:?}, IPv4: dial tcp4 127.0.0.1:{port}: connect: {why} \
             IPv6 dial tcp6: address localhost: no suitable address found ",
            self.in_namespace(),
            self.sandbox,
        )
    }

    pub(super) fn copy_failed(&self, socket: &TcpStream, port: u16, error: &std::io::Error) -> String {
        let local = socket.local_addr().map_or(0, |local| local.port());
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
            std::io::ErrorKind::BrokenPipe => "write: broken pipe".to_owned(),
            _ => error.to_string(),
        };
        format!("{}read tcp4 127.0.0.1:{local}->127.0.0.1:{port}: {why}", self.in_namespace())
    }

    fn in_namespace(&self) -> String {
        let netns = self.sandbox.get(..36).unwrap_or_default();
        format!("failed to execute portforward in network namespace \"/var/run/netns/cni-{netns}\": ")
    }

    /// How often its containers were restarted; `None` when it is gone.
    fn restarts(&self) -> Option<u64> {
        let pod = self.shared.pod(&self.target.namespace, &self.target.pod)?;
        if uid(&pod) != self.uid {
            return None;
        }
        let containers = pod["status"]["containerStatuses"].as_array();
        Some(containers.into_iter().flatten().filter_map(|status| status["restartCount"].as_u64()).sum())
    }
}

/// Tells the streams of a connection what becomes of their pod.
pub(super) struct Fates(Arc<watch::Sender<Option<u64>>>);

impl Fates {
    /// Watches the pod for as long as it runs.
    pub(super) fn follow(&self, pod: Arc<Pod>) -> impl Future<Output = ()> + Send + use<> {
        let tell = Arc::clone(&self.0);
        let mut changes = pod.shared.changes();
        async move {
            loop {
                let now = pod.restarts();
                tell.send_if_modified(|known| std::mem::replace(known, now) != now);
                if now.is_none() || changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }

    /// For a stream that begins now.
    pub(super) fn of(&self, pod: &Pod) -> Fate {
        Fate { restarts: pod.restarts(), now: self.0.subscribe(), wait: pod.shared.options.half_close_wait }
    }
}

impl Default for Fates {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Some(0))))
    }
}

/// The pod as one stream found it.
#[derive(Clone)]
pub(super) struct Fate {
    restarts: Option<u64>,
    now: watch::Receiver<Option<u64>>,
    wait: Duration,
}

impl Fate {
    /// Waits until what the stream leads to is gone; how much longer the stream stays.
    pub(super) async fn ended(mut self) -> Duration {
        let before = self.restarts;
        let Ok(now) = self.now.wait_for(|now| *now > before || now.is_none()).await.map(|now| *now) else {
            return std::future::pending().await;
        };
        if now.is_none() { AFTER_REMOVAL } else { AFTER_RESTART + self.wait }
    }
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}
