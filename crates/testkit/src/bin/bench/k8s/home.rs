//! `bench cluster`: the fake cluster, in a process of its own so that its CPU is nobody's.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};
use testkit::process::{Process, raise_descriptor_limit};

use crate::runtimes;
use crate::service::Origin;

/// How long the child may take for anything it is told.
const DEADLINE: Duration = Duration::from_secs(10);
/// Ports of the pods: the HTTP service and the TCP service.
pub(crate) const WEB: u16 = 8080;
/// See [`WEB`].
pub(crate) const RAW: u16 = 7000;
/// A service whose pod answers HTTP itself, as one on another machine does: with no cost to this one's sockets.
pub(crate) const BUSY: &str = "busy";
/// Its whole answer.
const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

/// The child process, seen from the bench.
#[derive(Debug)]
pub(crate) struct Home {
    process: Process,
    dir: TempDir,
}

impl Home {
    /// Starts this binary again as the cluster in front of the origin, with so many worker threads.
    pub(crate) fn start(origin: &Origin, workers: usize) -> Result<Self, String> {
        let told = |error: std::io::Error| error.to_string();
        let dir = tempfile::tempdir().map_err(told)?;
        let this = std::env::current_exe().map_err(told)?;
        let mut command = Command::new(this);
        command.arg("cluster").arg(origin.http.to_string()).arg(origin.tcp.to_string());
        command.arg(dir.path().join("config")).arg(workers.to_string());
        let process = Process::start(&mut command).map_err(told)?;
        process.wait_line(DEADLINE, |line| line == "ready").map_err(|error| error.to_string())?;
        Ok(Self { process, dir })
    }

    /// The kubeconfig that leads to it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    /// A home directory for clients, whose caches stay between their starts.
    pub(crate) fn home(&self) -> &Path {
        self.dir.path()
    }

    /// Tells it something and returns what it answers.
    pub(crate) fn ask(&self, line: &str) -> Result<String, String> {
        let from = self.process.line_count();
        self.process.write_stdin(format!("{line}\n").as_bytes()).map_err(|error| error.to_string())?;
        let answer = runtimes::single()?.block_on(self.process.line_from(from, DEADLINE, |_| true));
        answer.map_err(|error| error.to_string())
    }
}

/// The child's own main: serves until its stdin ends.
///
/// | line | what it does |
/// |---|---|
/// | `pair A B` | the service `pair` has these two pods and no others |
/// | `which` | answers with the pod that a forward was last opened to |
/// | `terminate POD`, `delete POD` | marks it as ending; removes it at once |
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let [http, tcp, file, workers] = arguments else { return Err("cluster needs HTTP TCP FILE WORKERS".to_owned()) };
    let backend = |text: &str| text.parse::<SocketAddr>().map_err(|_| format!("`{text}` is not an address"));
    let services = (backend(http)?, backend(tcp)?);
    raise_descriptor_limit().map_err(told)?;
    let runtime = runtimes::apart(workers.parse().map_err(|_| format!("`{workers}` is no number"))?)?;
    let _inside = runtime.enter();
    let cluster = runtime.block_on(Cluster::start(ClusterOptions::default()));
    let ports = [ServicePort::new(80).named("http").to(WEB), ServicePort::new(7).named("tcp").to(RAW)];
    for name in ["web", "pair", BUSY] {
        cluster.add_service("default", name, &[("app", name)], &ports);
    }
    add_pod(&cluster, "web", "web-0", services);
    add_pod(&cluster, BUSY, "busy-0", services);
    cluster.faults().streams().inside().set_answer("default", "busy-0", WEB, HELLO);
    cluster.write_kubeconfig(Path::new(file));
    let mut stdout = std::io::stdout();
    let mut say = |text: &str| writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(told);
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(told)?;
        say(&act(&cluster, services, &line.split(' ').collect::<Vec<_>>()))?;
    }
    Ok(())
}

fn act(cluster: &Cluster, services: (SocketAddr, SocketAddr), words: &[&str]) -> String {
    match words {
        ["pair", pods @ ..] => {
            for pod in cluster.list("Pod") {
                if pod["metadata"]["labels"]["app"] == "pair" {
                    cluster.delete("Pod", "default", pod["metadata"]["name"].as_str().unwrap_or_default());
                }
            }
            for pod in pods {
                add_pod(cluster, "pair", pod, services);
            }
        }
        ["which"] => return last_forwarded(&cluster.requests()).unwrap_or_default(),
        ["terminate", pod] => cluster.terminate("default", pod),
        ["delete", pod] => {
            cluster.delete("Pod", "default", pod);
        }
        _ => return "unknown".to_owned(),
    }
    "done".to_owned()
}

fn add_pod(cluster: &Cluster, app: &str, name: &str, (http, tcp): (SocketAddr, SocketAddr)) {
    let pod = PodSpec::new("default", name).label("app", app).port("http", WEB).port("tcp", RAW);
    cluster.add_pod(pod.backend(WEB, http).backend(RAW, tcp));
}

/// The pod of the latest port-forward among request lines.
fn last_forwarded(requests: &[String]) -> Option<String> {
    let path = requests.iter().rev().find(|line| line.contains("/portforward"))?;
    let (_, rest) = path.split_once("/pods/")?;
    rest.split_once('/').map(|(pod, _)| pod.to_owned())
}

#[cfg(test)]
mod tests {
    use super::last_forwarded;

    #[test]
    fn the_latest_forward_names_its_pod() {
        let lines = [
            "POST /api/v1/namespaces/default/pods/a/portforward",
            "GET /api/v1/namespaces/default/pods/b/portforward?x",
            "GET /api/v1/namespaces/default/pods/c",
        ];
        assert_eq!(last_forwarded(&lines.map(str::to_owned)).as_deref(), Some("b"));
        assert_eq!(last_forwarded(&[]), None);
    }
}
