//! Stock `kubectl` takes the fake cluster for a real one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests; a skipped test says why")]

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use testkit::cluster::{AuthMode, Cluster, ClusterOptions, PodSpec, ServerVersion, ServicePort};
use testkit::process::{Process, run};

/// Longest wait for anything kubectl does.
const SOON: Duration = Duration::from_secs(20);

/// A cluster with a service and its pods, and kubectl's way to it.
struct Bench {
    cluster: Cluster,
    dir: TempDir,
}

impl Bench {
    /// `None`, with a word on why, when there is no kubectl.
    async fn start(options: ClusterOptions) -> Option<Self> {
        if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
            println!("skipped: kubectl is not installed");
            return None;
        }
        let cluster = Cluster::start(options).await;
        cluster.add_deployment("default", "web", &[("app", "web")]);
        cluster.add_service("default", "web", &[("app", "web")], &[ServicePort::new(80).to_named("http")]);
        for name in ["web-a", "web-b"] {
            cluster.add_pod(PodSpec::new("default", name).label("app", "web").port("http", 8080));
        }
        cluster.add_pod(PodSpec::new("other", "lonely"));
        let dir = tempfile::tempdir().unwrap();
        cluster.write_kubeconfig(&dir.path().join("config"));
        Some(Self { cluster, dir })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.dir.path().join("config")).env("HOME", self.dir.path()).args(line.split(' '));
        command
    }

    /// Its exit code, and all it said.
    async fn kubectl(&self, line: &str) -> (i32, String) {
        let mut command = self.command(line);
        let ended = tokio::task::spawn_blocking(move || run(&mut command, b"", SOON)).await.unwrap();
        let (status, process) = ended.unwrap();
        (status.code().unwrap_or(-1), process.output())
    }

    /// What it said, when it went well.
    async fn good(&self, line: &str) -> String {
        let (code, output) = self.kubectl(line).await;
        assert_eq!(code, 0, "kubectl {line}: {output}");
        output
    }
}

/// The first word of every line but the first.
fn first_column(table: &str) -> Vec<&str> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_gets_objects_in_every_form() {
    let Some(bench) = Bench::start(ClusterOptions::default()).await else { return };
    assert_eq!(first_column(&bench.good("get pods").await), ["web-a", "web-b"]);
    assert!(bench.good("get pods -o wide").await.contains("10.244."));
    assert!(bench.good("get deploy").await.contains("2/1"));
    assert!(bench.good("get svc,endpointslices").await.contains("service/web"));
    assert_eq!(bench.good("get pods -A -o name").await.lines().count(), 3);
    assert_eq!(bench.good("get pod web-a -o jsonpath={.metadata.labels.app}").await.trim(), "web");
    assert!(bench.good("get pod web-a -o yaml").await.contains("containerPort: 8080"));
    assert_eq!(first_column(&bench.good("get pods --chunk-size=1").await).len(), 2);
    assert_eq!(first_column(&bench.good("get pods -l app!=web -A").await), ["other"]);
    assert_eq!(first_column(&bench.good("get pods --field-selector metadata.name=web-b").await), ["web-b"]);
    assert!(bench.good("get all").await.contains("deployment.apps/web"));
    assert!(bench.good("get pods -n empty").await.contains("No resources found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_says_what_is_wrong_in_its_usual_words() {
    let Some(bench) = Bench::start(ClusterOptions::default()).await else { return };
    let (code, output) = bench.kubectl("get pod nosuch").await;
    assert_eq!((code, output.trim()), (1, "Error from server (NotFound): pods \"nosuch\" not found"));
    let (_, output) = bench.kubectl("get nosuch").await;
    assert!(output.contains("the server doesn't have a resource type \"nosuch\""), "{output}");
    bench.cluster.faults().deny("list", "pods");
    let (_, output) = bench.kubectl("get pods").await;
    let wanted = "Error from server (Forbidden): pods is forbidden: User \"fake\" cannot list resource \"pods\"";
    assert!(output.contains(wanted), "{output}");
    bench.cluster.faults().token_expired(true);
    let (_, output) = bench.kubectl("get pods").await;
    assert!(output.contains("You must be logged in to the server"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches() {
    let Some(bench) = Bench::start(ClusterOptions::default()).await else { return };
    let kubectl = Process::start(&mut bench.command("get pods -w")).unwrap();
    kubectl.line(SOON, |line| line.starts_with("web-b") && line.contains("1/1")).await.unwrap();
    // The list is printed before the watch is asked for; what changes between the two is in the watch all the same.
    bench.cluster.set_ready("default", "web-b", false);
    kubectl.line(SOON, |line| line.starts_with("web-b") && line.contains("0/1")).await.unwrap();
    bench.cluster.terminate("default", "web-a");
    kubectl.line(SOON, |line| line.starts_with("web-a") && line.contains("Terminating")).await.unwrap();
    let heads = kubectl.stdout().lines().filter(|line| line.starts_with("NAME")).count();
    assert_eq!(heads, 1, "{}", kubectl.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_makes_waits_for_and_deletes_a_pod() {
    let Some(bench) = Bench::start(ClusterOptions::default()).await else { return };
    assert!(bench.good("run tool --image=example/tool:1").await.contains("pod/tool created"));
    assert!(bench.good("wait --for=condition=Ready pod/tool --timeout=10s").await.contains("condition met"));
    bench.cluster.set_log("default", "tool", "", "first\nlast\n");
    assert_eq!(bench.good("logs tool --tail=1").await.trim(), "last");
    bench.cluster.add_event("default", "tool", "Warning", "FailedMount", "no volume");
    assert!(bench.good("describe pod tool").await.contains("no volume"));
    bench.good("label pod tool team=x").await;
    assert_eq!(bench.cluster.get("Pod", "default", "tool").unwrap()["metadata"]["labels"]["team"], "x");
    assert!(bench.good("delete pod tool").await.contains("deleted"));
    assert!(bench.cluster.get("Pod", "default", "tool").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_let_in_by_every_credential() {
    let modes = [
        AuthMode::random_token(),
        AuthMode::ClientCert,
        AuthMode::ExecPlugin { lifetime: Duration::from_secs(3600) },
        AuthMode::Basic { username: "user".to_owned(), password: "pass: word".to_owned() },
        AuthMode::None,
    ];
    for auth in modes {
        let options = ClusterOptions { auth: auth.clone(), ..ClusterOptions::default() };
        let Some(bench) = Bench::start(options).await else { return };
        assert_eq!(first_column(&bench.good("get pods").await).len(), 2, "{auth:?}");
        let plugin = matches!(auth, AuthMode::ExecPlugin { .. });
        assert_eq!(bench.cluster.plugin_runs() > 0, plugin, "{auth:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_its_way_behind_a_prefix_on_old_versions_and_without_aggregated_discovery() {
    let path_prefix = Some("/k8s/clusters/c-x".to_owned());
    let options = ClusterOptions {
        version: ServerVersion::V1_28,
        path_prefix,
        aggregated_discovery: false,
        ..ClusterOptions::default()
    };
    let Some(bench) = Bench::start(options).await else { return };
    assert_eq!(first_column(&bench.good("get pods").await).len(), 2);
    assert!(bench.good("version").await.contains("v1.28.15"));
    assert!(bench.cluster.count_requests("GET /apis/apps/v1") > 0, "{:?}", bench.cluster.requests());
}
