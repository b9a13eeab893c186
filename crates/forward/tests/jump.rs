//! Jumps through a fake cluster: the tool, both half-closes, reasons, transports, pods made for it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_core::diagnose::Diagnose as _;
use adit_core::target::Target;
use forward::{Clusters, CreatePod, Forward, ForwardOptions, JumpOptions, KubeSettings};
use runtime::connect::{Connect as _, Io};
use runtime::{Scope, connect::ConnectError};
use testkit::cluster::{Cluster, ClusterOptions, Host, PodSpec, PodStart, ServerVersion, ServicePort, Transport};
use testkit::origin::TcpOrigin;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// What every wait here is given; nothing should need a tenth of it.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long the slow answer takes.
const SLOW: Duration = Duration::from_secs(5);
const DB: &str = "jump:///default/pod/web/db.internal:5432";

/// A cluster with the pod `web`, from which `db.internal:5432` is reached.
struct Bed {
    cluster: Cluster,
    origin: TcpOrigin,
    scope: Scope,
    clusters: Arc<Clusters>,
    _dir: tempfile::TempDir,
}

impl Bed {
    async fn start() -> Self {
        Self::of(ClusterOptions::default()).await
    }

    async fn of(options: ClusterOptions) -> Self {
        let cluster = Cluster::start(options).await;
        let origin = TcpOrigin::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        cluster.write_kubeconfig(&path);
        cluster.add_pod(PodSpec::new("default", "web").label("app", "web").image("shop/web:7"));
        cluster.set_host("default", "web", "db.internal:5432", origin.addr());
        Self { cluster, origin, scope: Scope::root(), clusters: clusters(&path), _dir: dir }
    }

    fn forward(&self, target: &str) -> Forward {
        self.forward_with(target, JumpOptions::default())
    }

    fn forward_with(&self, target: &str, jump: JumpOptions) -> Forward {
        let options = ForwardOptions { jump, first_timeout: DEADLINE, ..ForwardOptions::default() };
        Forward::new(&self.scope, &self.clusters, "db", Target::parse(target).unwrap(), options)
    }

    fn execs(&self, words: &str) -> usize {
        self.cluster.requests().iter().filter(|line| line.contains("/exec?") && line.contains(words)).count()
    }

    /// What `forward` says for `host`, when a connection to it is tried.
    async fn refusal(&self, host: &str) -> io::Error {
        let forward = self.forward(&format!("jump:///default/pod/web/{host}"));
        forward.ready().await.unwrap();
        let mut stream = connect(&forward).await;
        stream.write_all(b"hello").await.unwrap();
        let mut nothing = Vec::new();
        let error = timeout(DEADLINE, stream.read_to_end(&mut nothing)).await.unwrap().unwrap_err();
        assert!(nothing.is_empty());
        error
    }

    /// Drains, and shows that nothing is left.
    async fn end(self) {
        self.scope.drain();
        timeout(DEADLINE, self.scope.idle())
            .await
            .unwrap_or_else(|_| panic!("still there: {:?}", self.scope.running()));
        assert_eq!(self.scope.panics(), 0);
        self.cluster.shutdown().await;
    }
}

fn clusters(kubeconfig: &Path) -> Arc<Clusters> {
    Clusters::new(KubeSettings { kubeconfig: Some(kubeconfig.to_str().unwrap().to_owned()), ..KubeSettings::default() })
}

async fn connect(forward: &Forward) -> Io {
    timeout(DEADLINE, forward.connect()).await.unwrap().unwrap()
}

/// Sends, half-closes, and reads to the end.
async fn ask(forward: &Forward, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(forward).await;
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap()?;
    Ok(answer)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A host that answers `done` five seconds after its client's end.
async fn slow_host(scope: &Scope) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let at = scope.clone();
    scope.spawn("slow host", async move {
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = Vec::new();
            stream.read_to_end(&mut question).await.unwrap();
            tokio::time::sleep(SLOW).await;
            // Whoever gave up has gone.
            let _ = stream.write_all(b"done").await;
        };
        at.until_cancelled(accept).await;
    });
    address
}

#[tokio::test]
async fn a_host_behind_a_pod_is_reached_and_the_tool_is_looked_for_once() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    let report = forward.ready().await.unwrap();
    assert_eq!((report.pod.as_deref(), report.remote_port), (Some("web"), Some(5432)));
    assert_eq!(report.transport, Some("exec-spdy"));
    for _ in 0..3 {
        assert_eq!(ask(&forward, b"sink\nabcde").await.unwrap(), b"5");
    }
    assert_eq!(bed.execs("command=-V"), 1, "the tool was looked for once");
    assert!(bed.execs("command=nc") == 0 && bed.execs("command=sh") == 0);
    let vector = "command=socat&command=-d&command=-b&command=65536&command=-t&command=600&command=STDIO%2Cshut-close&command=TCP%3Adb.internal%3A5432";
    assert_eq!(bed.execs(vector), 3, "{:?}", bed.cluster.requests());
    bed.end().await;
}

#[tokio::test]
async fn many_callers_at_once_look_for_the_tool_once() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    let asked = (0..20).map(|_| ask(&forward, b"sink\nabc"));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.unwrap(), b"3");
    }
    assert_eq!(bed.execs("command=-V"), 1);
    until("all processes end", || bed.cluster.faults().streams().running_processes() == 0).await;
    bed.end().await;
}

#[tokio::test]
async fn large_transfers_arrive_whole_in_both_directions() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    assert_eq!(ask(&forward, b"source 5000000 k\n").await.unwrap().len(), 5_000_000);
    let mut upload = b"sink\n".to_vec();
    upload.resize(5_000_005, b'x');
    assert_eq!(ask(&forward, &upload).await.unwrap(), b"5000000");
    bed.end().await;
}

#[tokio::test]
async fn an_answer_five_seconds_after_the_clients_end_arrives_whole() {
    let bed = Bed::start().await;
    bed.cluster.set_host("default", "web", "slow:1", slow_host(&bed.scope).await);
    let forward = bed.forward("jump:///default/pod/web/slow:1");
    let begun = Instant::now();
    assert_eq!(ask(&forward, b"question").await.unwrap(), b"done");
    assert!(begun.elapsed() >= SLOW);
    bed.end().await;
}

#[tokio::test]
async fn the_same_over_a_websocket() {
    let bed = Bed::start().await;
    bed.cluster.faults().streams().force(Transport::Spdy, Some(403));
    bed.cluster.set_host("default", "web", "slow:1", slow_host(&bed.scope).await);
    let forward = bed.forward("jump:///default/pod/web/slow:1");
    assert_eq!(ask(&forward, b"question").await.unwrap(), b"done");
    bed.end().await;
}

#[tokio::test]
async fn the_hosts_end_reaches_the_client_at_once_and_the_other_direction_goes_on() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    forward.ready().await.unwrap();
    let mut stream = connect(&forward).await;
    stream.write_all(b"first up\n").await.unwrap();
    let mut hello = Vec::new();
    let begun = Instant::now();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut hello)).await.expect("the end comes at once").unwrap();
    assert_eq!(hello, b"hello");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    until("the host has it all", || bed.origin.tally("up") == 100_000).await;
    drop(stream);
    bed.end().await;
}

#[tokio::test]
async fn a_server_that_takes_no_spdy_gets_version_5_and_that_is_remembered() {
    let bed = Bed::start().await;
    bed.cluster.faults().streams().force(Transport::Spdy, Some(403));
    let forward = bed.forward(DB);
    let report = forward.ready().await.unwrap();
    assert_eq!(report.transport, Some("exec-websocket"));
    let refused = bed.cluster.count_requests("POST");
    assert_eq!(ask(&forward, b"sink\nabcde").await.unwrap(), b"5");
    assert_eq!(ask(&forward, b"source 300000 k\n").await.unwrap().len(), 300_000);
    assert_eq!(bed.cluster.count_requests("POST"), refused, "SPDY was not tried again");
    bed.end().await;
}

#[tokio::test]
async fn an_old_server_serves_jumps_over_spdy() {
    let bed = Bed::of(ClusterOptions { version: ServerVersion::V1_28, ..ClusterOptions::default() }).await;
    let forward = bed.forward(DB);
    assert_eq!(ask(&forward, b"sink\nabc").await.unwrap(), b"3");
    bed.end().await;
}

#[tokio::test]
async fn an_old_server_without_spdy_is_not_spoken_to_in_version_4() {
    let bed = Bed::of(ClusterOptions { version: ServerVersion::V1_28, ..ClusterOptions::default() }).await;
    bed.cluster.faults().streams().force(Transport::Spdy, Some(403));
    let forward = bed.forward(DB);
    let error = timeout(DEADLINE, forward.ready()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("takes neither SPDY nor v5.channel.k8s.io"), "{error}");
    assert_eq!(bed.cluster.faults().streams().processes(), 0);
    bed.end().await;
}

#[tokio::test]
async fn nc_serves_where_there_is_no_socat() {
    let bed = Bed::start().await;
    bed.cluster.set_tools("default", "web", &["nc"]);
    let forward = bed.forward(DB);
    assert_eq!(ask(&forward, b"sink\nabcde").await.unwrap(), b"5");
    assert_eq!(bed.execs("command=nc&command=db.internal&command=5432"), 1);
    assert_eq!((bed.execs("command=-V"), bed.execs("command=-h")), (1, 1));
    bed.end().await;
}

#[tokio::test]
async fn the_nc_of_openbsd_is_told_to_pass_the_end_on() {
    let bed = Bed::start().await;
    bed.cluster.set_tools("default", "web", &["nc-openbsd"]);
    let forward = bed.forward(DB);
    assert_eq!(ask(&forward, b"sink\nabcde").await.unwrap(), b"5");
    assert_eq!(bed.execs("command=nc&command=-N&command=-v&command=db.internal"), 1);
    bed.cluster.faults().streams().inside().set_host("default", "web", "closed:1", Host::Refused);
    assert_eq!(bed.refusal("closed:1").await.kind(), io::ErrorKind::ConnectionRefused);
    bed.end().await;
}

#[tokio::test]
async fn a_pod_without_a_tool_is_named_with_its_image_and_what_to_do() {
    let bed = Bed::start().await;
    bed.cluster.set_tools("default", "web", &["cat"]);
    let error = bed.forward(DB).ready().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("neither socat nor nc in container main of pod web (image shop/web:7)"), "{text}");
    assert!(error.hint().unwrap().contains("create: {image: alpine/socat}"));
    bed.end().await;
}

#[tokio::test]
async fn a_container_is_the_one_asked_for_or_the_pods_default() {
    let bed = Bed::start().await;
    let pod = || PodSpec::new("default", "two").container("tools");
    bed.cluster.add_pod(pod().annotation("kubectl.kubernetes.io/default-container", "tools"));
    bed.cluster.set_host("default", "two", "db:1", bed.origin.addr());
    let by = |container: Option<&str>| JumpOptions { container: container.map(str::to_owned), create: None };
    let target = "jump:///default/pod/two/db:1";
    for (asked, used) in [(None, "tools"), (Some("main"), "main")] {
        let forward = bed.forward_with(target, by(asked));
        assert_eq!(ask(&forward, b"sink\nab").await.unwrap(), b"2");
        assert!(bed.execs(&format!("container={used}&command=socat")) > 0, "{used}");
    }
    let error = bed.forward_with(target, by(Some("nosuch"))).ready().await.unwrap_err();
    assert_eq!(error.to_string(), "pod two has no container nosuch");
    assert_eq!(error.hint().as_deref(), Some("it has main, tools"));
    bed.end().await;
}

#[tokio::test]
async fn who_may_not_exec_reads_which_right_is_missing() {
    let bed = Bed::start().await;
    bed.cluster.faults().deny("*", "pods/exec");
    let error = bed.forward(DB).ready().await.unwrap_err();
    assert!(error.to_string().contains("pods/exec"), "{error}");
    assert!(error.hint().unwrap().contains("pods/exec"), "{:?}", error.hint());
    bed.end().await;
}

#[tokio::test]
async fn what_a_host_does_not_do_is_told_by_reading_and_never_as_an_end() {
    let bed = Bed::start().await;
    let inside = bed.cluster.faults().streams().inside();
    inside.set_connect_timeout(Duration::from_millis(50));
    inside.set_host("default", "web", "closed:1", Host::Refused);
    inside.set_host("default", "web", "[fd00::1]:80", Host::Refused);
    inside.set_host("default", "web", "10.1.2.3:80", Host::TimesOut);
    for tools in [&["socat"][..], &["nc"], &["nc-openbsd"]] {
        bed.cluster.set_tools("default", "web", tools);
        for (host, kind, words) in [
            ("closed:1", io::ErrorKind::ConnectionRefused, "closed:1 refused the connection from pod web"),
            ("[fd00::1]:80", io::ErrorKind::ConnectionRefused, "[fd00::1]:80 refused the connection from pod web"),
            ("10.1.2.3:80", io::ErrorKind::TimedOut, "10.1.2.3:80 did not answer pod web in time"),
            ("nosuch:80", io::ErrorKind::NotFound, "pod web cannot resolve the name of nosuch:80"),
            ("10.9.9.9:80", io::ErrorKind::HostUnreachable, "pod web has no route to 10.9.9.9:80"),
        ] {
            let error = bed.refusal(host).await;
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, words), "{tools:?}");
        }
    }
    bed.end().await;
}

#[tokio::test]
async fn a_writer_hears_the_reason_too_and_no_broken_pipe() {
    let bed = Bed::start().await;
    bed.cluster.faults().streams().inside().set_host("default", "web", "closed:1", Host::Refused);
    let forward = bed.forward("jump:///default/pod/web/closed:1");
    let mut stream = connect(&forward).await;
    let writing = async { while stream.write_all(&[b'x'; 1000]).await.map_err(|error| error.kind()) == Ok(()) {} };
    timeout(DEADLINE, writing).await.unwrap();
    let error = timeout(DEADLINE, stream.write_all(b"more")).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    let (mut local, mut peer) = tokio::io::duplex(64);
    peer.write_all(b"question").await.unwrap();
    let mut stream = connect(&forward).await;
    let spliced = timeout(DEADLINE, tokio::io::copy_bidirectional(&mut local, &mut stream)).await.unwrap();
    assert_eq!(spliced.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    drop(stream);
    bed.end().await;
}

#[tokio::test]
async fn a_tool_that_vanished_is_looked_for_anew() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    assert_eq!(ask(&forward, b"sink\nab").await.unwrap(), b"2");
    bed.cluster.set_tools("default", "web", &["nc"]);
    let error = ask(&forward, b"sink\nab").await.unwrap_err();
    assert!(error.to_string().starts_with("socat could not be started in pod web"), "{error}");
    assert_eq!(ask(&forward, b"sink\nab").await.unwrap(), b"2", "nc is there");
    bed.end().await;
}

#[tokio::test]
async fn connections_one_after_another_leave_nothing_behind() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    for _ in 0..100 {
        assert_eq!(ask(&forward, b"sink\nab").await.unwrap(), b"2");
    }
    let streams = bed.cluster.faults().streams();
    until("all processes end", || streams.running_processes() == 0).await;
    until("all connections are closed", || streams.open_connections() == 0).await;
    until("all tasks end", || !bed.scope.running().contains_key("exec")).await;
    bed.end().await;
}

#[tokio::test]
async fn ipv6_hosts_are_reached() {
    let bed = Bed::start().await;
    bed.cluster.set_host("default", "web", "[fd00::1]:80", bed.origin.addr());
    let forward = bed.forward("jump:///default/pod/web/[fd00::1]:80");
    assert_eq!(ask(&forward, b"sink\nabc").await.unwrap(), b"3");
    assert_eq!(bed.execs("command=TCP6%3A%5Bfd00%3A%3A1%5D%3A80"), 1);
    bed.end().await;
}

#[tokio::test]
async fn a_reset_by_the_host_is_no_end() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    let mut stream = connect(&forward).await;
    stream.write_all(b"reset 1000\n").await.unwrap();
    let mut got = Vec::new();
    let error = timeout(DEADLINE, stream.read_to_end(&mut got)).await.unwrap().unwrap_err();
    assert_eq!((got.len(), error.kind()), (1000, io::ErrorKind::ConnectionReset), "{error}");
    drop(stream);
    bed.end().await;
}

#[tokio::test]
async fn an_end_without_a_status_is_an_error() {
    for transport in [None, Some(Transport::Spdy)] {
        let bed = Bed::start().await;
        if let Some(refused) = transport {
            bed.cluster.faults().streams().force(refused, Some(403));
        }
        let forward = bed.forward(DB);
        forward.ready().await.unwrap();
        let mut stream = connect(&forward).await;
        stream.write_all(b"head\n").await.unwrap();
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).await.unwrap();
        bed.cluster.faults().streams().cut_all();
        let mut rest = Vec::new();
        let error = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
        assert!(error.to_string().contains("through pod web to db.internal:5432 was cut"), "{error}");
        drop(stream);
        assert_eq!(ask(&forward, b"sink\na").await.unwrap(), b"1", "the next one works");
        bed.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_process() {
    let bed = Bed::start().await;
    let forward = bed.forward(DB);
    let mut stream = connect(&forward).await;
    stream.write_all(b"head\n").await.unwrap();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    drop(stream);
    let streams = bed.cluster.faults().streams();
    until("the process has ended", || streams.running_processes() == 0).await;
    until("its connection is closed", || streams.open_connections() == 0).await;
    bed.end().await;
}

#[tokio::test]
async fn services_deployments_and_labels_lead_to_a_ready_pod() {
    let bed = Bed::start().await;
    bed.cluster.add_service("default", "web", &[("app", "web")], &[ServicePort::new(80)]);
    bed.cluster.add_deployment("default", "web", &[("app", "web")]);
    bed.cluster.add_pod(PodSpec::new("default", "a-broken").label("app", "web").ready(false));
    for via in ["service/web", "deployment/web", "selector/app=web"] {
        let forward = bed.forward(&format!("jump:///default/{via}/db.internal:5432"));
        assert_eq!(ask(&forward, b"sink\nab").await.unwrap(), b"2", "{via}");
        assert_eq!(forward.report().pod.as_deref(), Some("web"), "{via}");
    }
    bed.end().await;
}

#[tokio::test]
async fn when_the_pod_goes_the_next_one_takes_over() {
    let bed = Bed::start().await;
    bed.cluster.add_deployment("default", "web", &[("app", "web")]);
    let forward = bed.forward("jump:///default/deployment/web/db.internal:5432");
    assert_eq!(ask(&forward, b"sink\nab").await.unwrap(), b"2");
    bed.cluster.add_pod(PodSpec::new("default", "web-2").label("app", "web"));
    bed.cluster.set_host("default", "web-2", "db.internal:5432", bed.origin.addr());
    bed.cluster.delete("Pod", "default", "web");
    assert_eq!(ask(&forward, b"sink\nabc").await.unwrap(), b"3");
    bed.end().await;
}

#[tokio::test]
async fn a_pod_that_is_not_there_is_told_with_its_name() {
    let bed = Bed::start().await;
    let error = bed.forward("jump:///default/pod/nosuch/db:1").ready().await.unwrap_err();
    assert_eq!(error.to_string(), "pods \"nosuch\" not found");
    let failed = bed.forward("jump:///default/pod/nosuch/db:1");
    assert!(failed.ready().await.is_err());
    assert!(matches!(failed.connect().await, Err(ConnectError::Missing { .. })));
    bed.end().await;
}

fn create(keep: bool) -> JumpOptions {
    JumpOptions {
        container: None,
        create: Some(CreatePod {
            image: "alpine/socat".into(),
            command: Vec::new(),
            timeout: Duration::from_secs(20),
            labels: BTreeMap::from([("team".to_owned(), "db".to_owned())]),
            keep,
        }),
    }
}

const MADE: &str = "jump:///default/pod/adit-jump/db:1";

/// What the pod that is to be made will reach.
async fn bed_to_make() -> Bed {
    let bed = Bed::start().await;
    bed.cluster.set_host("default", "adit-jump", "db:1", bed.origin.addr());
    bed
}

#[tokio::test]
async fn a_pod_is_made_with_labels_limits_and_a_deadline_and_removed_at_exit() {
    let bed = bed_to_make().await;
    let forward = bed.forward_with(MADE, create(false));
    forward.ready().await.unwrap();
    assert_eq!(ask(&forward, b"sink\nabc").await.unwrap(), b"3");
    let pod = bed.cluster.get("Pod", "default", "adit-jump").unwrap();
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/name"], "adit-jump");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "adit");
    assert_eq!(labels["team"], "db");
    assert!(labels["adit.dev/owner"].as_str().is_some_and(|owner| !owner.is_empty()));
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 43200);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["command"]),
        (&"alpine/socat".into(), &serde_json::json!(["sleep", "infinity"]))
    );
    assert_eq!(container["resources"]["limits"], serde_json::json!({ "cpu": "100m", "memory": "64Mi" }));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    bed.scope.drain();
    timeout(DEADLINE, bed.scope.idle()).await.unwrap();
    until("the pod is gone", || bed.cluster.get("Pod", "default", "adit-jump").is_none()).await;
    bed.end().await;
}

#[tokio::test]
async fn a_pod_that_is_to_be_kept_stays() {
    let bed = bed_to_make().await;
    bed.forward_with(MADE, create(true)).ready().await.unwrap();
    bed.scope.drain();
    timeout(DEADLINE, bed.scope.idle()).await.unwrap();
    assert_eq!(bed.cluster.count_requests("DELETE"), 0);
    bed.end().await;
}

#[tokio::test]
async fn the_pod_is_not_removed_under_a_running_stream() {
    let bed = bed_to_make().await;
    let forward = bed.forward_with(MADE, create(false));
    forward.ready().await.unwrap();
    let mut stream = connect(&forward).await;
    stream.write_all(b"head\n").await.unwrap();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    bed.scope.drain();
    stream.write_all(b"still here").await.unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(bed.cluster.count_requests("DELETE"), 0);
    drop(stream);
    timeout(DEADLINE, bed.scope.idle()).await.unwrap();
    assert_eq!(bed.cluster.count_requests("DELETE"), 1);
    bed.end().await;
}

#[tokio::test]
async fn cancelling_removes_the_pod_though_streams_run() {
    let bed = bed_to_make().await;
    let forward = bed.forward_with(MADE, create(false));
    forward.ready().await.unwrap();
    let stream = connect(&forward).await;
    bed.scope.cancel();
    timeout(DEADLINE, bed.scope.idle()).await.unwrap();
    assert_eq!(bed.cluster.count_requests("DELETE"), 1);
    drop(stream);
    bed.end().await;
}

#[tokio::test]
async fn of_two_that_share_a_pod_only_its_maker_removes_it_and_the_other_makes_a_new_one() {
    let bed = bed_to_make().await;
    let first = Scope::root();
    let other = Forward::new(
        &first,
        &bed.clusters,
        "db",
        Target::parse(MADE).unwrap(),
        ForwardOptions { jump: create(false), ..ForwardOptions::default() },
    );
    other.ready().await.unwrap();
    let forward = bed.forward_with(MADE, create(false));
    forward.ready().await.unwrap();
    let uid = |bed: &Bed| bed.cluster.get("Pod", "default", "adit-jump").map(|pod| pod["metadata"]["uid"].clone());
    let shared = uid(&bed).unwrap();
    assert_eq!(
        bed.cluster.count_requests("POST /api/v1/namespaces/default/pods"),
        bed.execs("POST") + 1,
        "one was made"
    );
    first.drain();
    timeout(DEADLINE, first.idle()).await.unwrap();
    until("another one is made", || uid(&bed).is_some_and(|now| now != shared)).await;
    assert_eq!(ask(&forward, b"sink\nabc").await.unwrap(), b"3");
    bed.scope.drain();
    timeout(DEADLINE, bed.scope.idle()).await.unwrap();
    assert_eq!(bed.cluster.count_requests("DELETE"), 2);
    bed.end().await;
}

#[tokio::test]
async fn many_forwards_that_want_the_same_pod_make_one() {
    let bed = bed_to_make().await;
    let forwards: Vec<_> = (0..8).map(|_| bed.forward_with(MADE, create(false))).collect();
    for ready in futures_util::future::join_all(forwards.iter().map(Forward::ready)).await {
        ready.unwrap();
    }
    bed.scope.drain();
    timeout(DEADLINE, bed.scope.idle()).await.unwrap();
    assert_eq!(bed.cluster.count_requests("DELETE"), 1, "only its maker removes it");
    bed.end().await;
}

#[tokio::test]
async fn a_foreign_pod_of_that_name_is_used_as_it_is_and_never_removed() {
    let bed = bed_to_make().await;
    bed.cluster.add_pod(PodSpec::new("default", "adit-jump"));
    let forward = bed.forward_with(MADE, create(false));
    assert_eq!(ask(&forward, b"sink\nabc").await.unwrap(), b"3");
    bed.scope.drain();
    timeout(DEADLINE, bed.scope.idle()).await.unwrap();
    assert_eq!((bed.cluster.count_requests("DELETE"), bed.execs("POST")), (0, bed.cluster.count_requests("POST")));
    bed.end().await;
}

#[tokio::test]
async fn a_pod_of_ours_that_has_ended_is_replaced() {
    let bed = bed_to_make().await;
    bed.cluster.add_pod(PodSpec::new("default", "adit-jump").label("app.kubernetes.io/managed-by", "adit"));
    bed.cluster.set_phase(
        "default",
        "adit-jump",
        "Failed",
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    );
    let forward = bed.forward_with(MADE, create(false));
    assert_eq!(ask(&forward, b"sink\nabc").await.unwrap(), b"3");
    bed.end().await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_made_or_does_not_start_says_why() {
    let quick = || {
        let mut options = create(false);
        options.create.as_mut().unwrap().timeout = Duration::from_millis(500);
        options
    };
    for (start, words) in [
        (PodStart::Refused { message: "exceeded quota: pods".into() }, "exceeded quota: pods"),
        (PodStart::Unschedulable { message: "0/1 nodes are available".into() }, "0/1 nodes are available"),
        (
            PodStart::Waiting { reason: "ImagePullBackOff".into(), message: "Back-off pulling image".into() },
            "was not ready within 500ms: waiting for pod adit-jump: pulling image alpine/socat (ImagePullBackOff",
        ),
        (
            PodStart::Ended { after: Duration::ZERO, code: 3 },
            "has ended: adit-jump: container jump ended with exit code 3",
        ),
    ] {
        let bed = bed_to_make().await;
        bed.cluster.on_create(start);
        let error = bed.forward_with(MADE, quick()).ready().await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().is_some(), "{error}");
        bed.end().await;
    }
}

#[tokio::test]
async fn only_a_pod_can_be_made() {
    let bed = bed_to_make().await;
    let error = bed.forward_with("jump:///default/service/web/db:1", create(false)).ready().await.unwrap_err();
    assert!(error.to_string().contains("only a pod can be made"), "{error}");
    bed.end().await;
}
