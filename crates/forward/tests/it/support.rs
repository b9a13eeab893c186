//! A cluster with a service in it, and what all tests ask of a forward.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_core::diagnose::{Diagnose, Fault};
use adit_core::forward::ForwardState;
use adit_core::target::Target;
use forward::{Clusters, Forward, ForwardError, ForwardOptions, ForwardReport, KubeSettings};
use runtime::connect::Io;
use runtime::{Connect, Scope};
use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};
use testkit::origin::TcpOrigin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long any step of a test may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// What happens "at once" may take this long on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(3);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A cluster, a service outside it that its pods lead to, and a kubeconfig.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) origin: TcpOrigin,
    pub(crate) scope: Scope,
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) settings: KubeSettings,
    pub(crate) dir: tempfile::TempDir,
}

impl Bed {
    /// The latest cluster, without pods.
    pub(crate) async fn new() -> Self {
        Self::with(ClusterOptions::default()).await
    }

    /// The latest cluster with the ready pod `web-1` behind the service `web`.
    pub(crate) async fn web() -> Self {
        Self::web_with(ClusterOptions::default()).await
    }

    pub(crate) async fn web_with(options: ClusterOptions) -> Self {
        let bed = Self::with(options).await;
        bed.pod("web-1");
        bed.service();
        bed
    }

    pub(crate) async fn with(options: ClusterOptions) -> Self {
        let cluster = Cluster::start(options).await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        cluster.write_kubeconfig(&path);
        let settings = settings(&path);
        Self {
            clusters: Clusters::new(settings.clone()),
            settings,
            cluster,
            origin: TcpOrigin::start().await.unwrap(),
            scope: Scope::root(),
            dir,
        }
    }

    /// A description of a pod of the service `web`.
    pub(crate) fn spec(&self, name: &str) -> PodSpec {
        let spec = PodSpec::new("default", name).label("app", "web").port("http", 8080);
        spec.backend(8080, self.origin.addr())
    }

    /// Adds a ready pod of the service `web`.
    pub(crate) fn pod(&self, name: &str) {
        self.cluster.add_pod(self.spec(name));
    }

    /// Adds the service `web`.
    pub(crate) fn service(&self) {
        let port = ServicePort::new(80).named("http").to_named("http");
        self.cluster.add_service("default", "web", &[("app", "web")], &[port]);
    }

    /// A forward to `KIND/NAME:PORT`.
    pub(crate) fn forward(&self, target: &str) -> Forward {
        self.forward_with(target, ForwardOptions::default())
    }

    pub(crate) fn forward_with(&self, target: &str, options: ForwardOptions) -> Forward {
        let target = Target::parse(&format!("k8s:///default/{target}")).unwrap();
        Forward::new(&self.scope, &self.clusters, "web", target, options)
    }

    /// A forward to the service `web`, ready.
    pub(crate) async fn ready(&self) -> Forward {
        let forward = self.forward("service/web:80");
        ready(&forward).await;
        forward
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.scope.abort();
    }
}

/// Settings with this kubeconfig.
pub(crate) fn settings(path: &std::path::Path) -> KubeSettings {
    KubeSettings { kubeconfig: Some(path.display().to_string()), ..KubeSettings::default() }
}

/// Options of a forward that waits for `patience` and no longer.
pub(crate) fn patience(patience: Duration) -> ForwardOptions {
    ForwardOptions { first_timeout: patience, later_timeout: patience, ..ForwardOptions::default() }
}

/// Waits until a forward is ready.
pub(crate) async fn ready(forward: &Forward) -> Arc<ForwardReport> {
    match tokio::time::timeout(DEADLINE, forward.ready()).await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => panic!("not ready: {}", told(&error)),
        Err(_) => panic!("not ready: {:?}", forward.report()),
    }
}

/// What a user reads of a forward that does not become ready.
pub(crate) struct Refusal {
    pub(crate) text: String,
    pub(crate) hint: String,
    pub(crate) fault: Fault,
}

/// Waits until a forward has failed.
pub(crate) async fn refusal(forward: &Forward) -> Refusal {
    match tokio::time::timeout(DEADLINE, forward.ready()).await {
        Ok(Ok(report)) => panic!("it is ready: {report:?}"),
        Ok(Err(error)) => Refusal::of(&error),
        Err(_) => panic!("it has not failed: {:?}", forward.report()),
    }
}

impl Refusal {
    pub(crate) fn of(error: &ForwardError) -> Self {
        Self { text: told(error), hint: error.hint().unwrap_or_default(), fault: error.fault() }
    }

    /// Checks words of the text and of the hint.
    #[track_caller]
    pub(crate) fn has(&self, text: &[&str], hint: &[&str]) -> &Self {
        for word in text {
            assert!(self.text.contains(word), "no `{word}` in: {}", self.text);
        }
        for word in hint {
            assert!(self.hint.contains(word), "no `{word}` in the hint: {}", self.hint);
        }
        self
    }
}

/// An error with its causes, each once.
pub(crate) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Opens a stream.
pub(crate) async fn open(forward: &Forward) -> Io {
    match within("a stream is opened", forward.connect()).await {
        Ok(io) => io,
        Err(error) => panic!("no stream: {}", told(&error)),
    }
}

/// Sends bytes and waits until they come back; the first ones of a stream must not begin with a word of [`TcpOrigin`].
pub(crate) async fn trip(io: &mut Io, bytes: &[u8]) -> std::io::Result<()> {
    let mut got = vec![0; bytes.len()];
    let turn = async {
        io.write_all(bytes).await?;
        io.read_exact(&mut got).await
    };
    within("the bytes come back", turn).await?;
    assert_eq!(got, bytes);
    Ok(())
}

/// One connection: opens a stream, sends, gets it back, closes.
pub(crate) async fn call(forward: &Forward) {
    let mut io = open(forward).await;
    if let Err(error) = trip(&mut io, b"hello, pod\n").await {
        panic!("the stream failed: {}", told(&error));
    }
}

/// Opens a stream and says what it wants.
pub(crate) async fn say(forward: &Forward, line: &str) -> Io {
    let mut io = open(forward).await;
    within("the line is sent", io.write_all(line.as_bytes())).await.unwrap();
    io
}

/// All that comes until the end.
pub(crate) async fn rest(io: &mut Io) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    within("the stream ends", io.read_to_end(&mut all)).await.map(|_| all)
}

/// Waits for a state.
pub(crate) async fn state(forward: &Forward, state: ForwardState) {
    let mut reports = forward.status();
    let reached = reports.wait_for(|report| report.status.state == state);
    drop(within(state.as_str(), reached).await.unwrap());
}

/// Waits until new connections go to this pod.
pub(crate) async fn moved(forward: &Forward, pod: &str) -> Duration {
    let begun = Instant::now();
    let mut reports = forward.status();
    let reached = reports.wait_for(|report| report.is_ready() && report.pod.as_deref() == Some(pod));
    drop(within(pod, reached).await.unwrap());
    begun.elapsed()
}

/// Does something that ends the connections of a forward, and waits until it has noticed and is ready again.
pub(crate) async fn lose(forward: &Forward, harm: impl Fn()) {
    let before = forward.report().status.attempt;
    let mut reports = forward.status();
    let lost = async {
        loop {
            harm();
            let lost = reports.wait_for(|report| report.status.attempt > before);
            // A spare connection that was being opened has escaped.
            if tokio::time::timeout(Duration::from_millis(300), lost).await.is_ok() {
                return;
            }
        }
    };
    within("it is lost", lost).await;
    drop(within("it is ready again", reports.wait_for(|report| report.is_ready())).await.unwrap());
}

/// Waits until a forward says that it waits for something that has these words.
pub(crate) async fn waiting(forward: &Forward, words: &str) {
    let mut reports = forward.status();
    let reached = async {
        loop {
            let waiting = reports.borrow_and_update().waiting_for.clone().unwrap_or_default();
            if waiting.contains(words) {
                return;
            }
            reports.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(DEADLINE, reached).await.is_err() {
        panic!("it does not wait for `{words}`: {:?}", forward.report());
    }
}

/// The first time `look` is true; panics with `what` when it is not within `deadline`.
pub(crate) async fn eventually(deadline: Duration, what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !look() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The result of `future`; panics with `what` when it takes longer than [`DEADLINE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_of(DEADLINE, what, future).await
}

/// The same with a deadline of its own.
pub(crate) async fn within_of<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {deadline:?}: {what}"),
    }
}
