//! Stock `kubectl` against the fake cluster: port-forward and exec, over SPDY and over WebSockets.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers are tests too")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use testkit::cluster::{Cluster, ClusterOptions, Host, PodSpec, ServerVersion};
use testkit::origin::TcpOrigin;
use testkit::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for anything kubectl does.
const SOON: Duration = Duration::from_secs(20);

/// A cluster with one pod, and kubectl's way to it.
struct Bench {
    cluster: Cluster,
    origin: TcpOrigin,
    dir: TempDir,
}

/// Which way kubectl asks for streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Spdy,
    WebSocket,
}

const WAYS: [Way; 2] = [Way::Spdy, Way::WebSocket];

impl Bench {
    /// `None`, with a word on why, when there is no kubectl.
    async fn start(version: ServerVersion) -> Option<Self> {
        if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
            println!("skipped: kubectl is not installed");
            return None;
        }
        let cluster = Cluster::start(ClusterOptions { version, ..ClusterOptions::default() }).await;
        let origin = TcpOrigin::start().await.unwrap();
        cluster.add_pod(PodSpec::new("default", "web").port("tcp", 7000).backend(7000, origin.addr()));
        let dir = tempfile::tempdir().unwrap();
        cluster.write_kubeconfig(&dir.path().join("config"));
        Some(Self { cluster, origin, dir })
    }

    fn kubectl(&self, way: Way, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        let websockets = if way == Way::WebSocket { "true" } else { "false" };
        command
            .env("KUBECONFIG", self.dir.path().join("config"))
            .env("HOME", self.dir.path())
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .args(args);
        command
    }

    /// Starts a port-forward; where it listens.
    async fn forward(&self, way: Way, port: u16) -> (Process, SocketAddr) {
        let port = format!(":{port}");
        let mut command = self.kubectl(way, &["port-forward", "pod/web", &port, "--address", "127.0.0.1"]);
        let process = Process::start(&mut command).unwrap();
        let line = process.line(SOON, |line| line.starts_with("Forwarding from 127.0.0.1:")).await.unwrap();
        let address = line.split_whitespace().nth(2).unwrap().parse().unwrap();
        (process, address)
    }

    /// Runs an exec to its end: code, stdout, stderr.
    async fn exec(&self, way: Way, args: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
        let args: Vec<&str> = ["exec", "-i", "web", "--"].iter().chain(args).copied().collect();
        let process = Process::start(&mut self.kubectl(way, &args)).unwrap();
        process.write_stdin(input).unwrap();
        process.close_stdin();
        let status = process.exited(SOON).await.unwrap();
        (status.code(), process.stdout(), process.stderr())
    }
}

/// Whether this kubectl forwards ports over WebSockets: 1.30 and later do.
fn knows_websockets() -> bool {
    let output = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output().unwrap();
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    minor.trim_end_matches('+').parse::<u32>().is_ok_and(|minor| minor >= 30)
}

/// Says `line`, sends `bytes`, and reads so many bytes.
async fn converse(address: SocketAddr, line: &str, bytes: &[u8], expected: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let mut got = vec![0; expected];
    let (sent, read) = timeout(SOON, async { tokio::join!(writing.write_all(bytes), reading.read_exact(&mut got)) })
        .await
        .expect("the answer came in time");
    sent.unwrap();
    read.unwrap();
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_forward_carries_many_connections_at_once_both_ways() {
    for way in WAYS {
        let Some(bench) = Bench::start(ServerVersion::V1_36).await else { return };
        let (_kubectl, address) = bench.forward(way, 7000).await;
        let body: Vec<u8> = (0..3_000_000u32).map(|at| at.to_le_bytes()[1]).collect();
        let (one, other) =
            tokio::join!(converse(address, "echo", &body, body.len()), converse(address, "echo", b"short", 5),);
        assert!(one == body, "{way:?}: a long answer came garbled");
        assert_eq!(other, b"short", "{way:?}");
        let streams = bench.cluster.faults().streams();
        assert_eq!((streams.connections(), streams.streams()), (1, 2), "{way:?}");
        assert_eq!(bench.origin.connections(), 2);
        let upgrades =
            bench.cluster.requests().iter().filter(|line| line.contains("portforward")).cloned().collect::<Vec<_>>();
        assert_eq!(upgrades.len(), 1, "{way:?}: {upgrades:?}");
        let websocket = way == Way::WebSocket && knows_websockets();
        assert_eq!(upgrades[0].starts_with("GET"), websocket, "{way:?}: {upgrades:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_falls_back_to_spdy_where_the_server_knows_no_tunnel() {
    let Some(bench) = Bench::start(ServerVersion::V1_28).await else { return };
    let (_kubectl, address) = bench.forward(Way::WebSocket, 7000).await;
    assert_eq!(converse(address, "echo", b"hello", 5).await, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_port_ends_kubectl_with_its_usual_words() {
    for way in WAYS {
        let Some(bench) = Bench::start(ServerVersion::V1_36).await else { return };
        let (kubectl, address) = bench.forward(way, 9999).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut got = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut got)).await.expect("the connection ended");
        assert!(got.is_empty());
        kubectl.line(SOON, |line| line.contains("an error occurred forwarding")).await.unwrap();
        let said = kubectl.stderr();
        assert!(said.contains("error forwarding port 9999 to pod"), "{way:?}: {said}");
        assert!(said.contains("connection refused"), "{way:?}: {said}");
        kubectl.line(SOON, |line| line.contains("lost connection to pod")).await.unwrap();
        assert_eq!(kubectl.exited(SOON).await.unwrap().code(), Some(1), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_pods_side_reaches_the_client() {
    for way in WAYS {
        let Some(bench) = Bench::start(ServerVersion::V1_36).await else { return };
        let (_kubectl, address) = bench.forward(way, 7000).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"source 100000\n").await.unwrap();
        let mut got = Vec::new();
        timeout(SOON, stream.read_to_end(&mut got)).await.expect("the end came").unwrap();
        assert_eq!(got.len(), 100_000, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_carries_output_input_and_exit_codes() {
    for way in WAYS {
        let Some(bench) = Bench::start(ServerVersion::V1_36).await else { return };
        let (code, out, _) = bench.exec(way, &["echo", "hello", "pod"], b"").await;
        assert_eq!((code, out.trim()), (Some(0), "hello pod"), "{way:?}");
        let (code, out, _) = bench.exec(way, &["cat"], b"one\ntwo\n").await;
        assert_eq!((code, out.lines().count()), (Some(0), 2), "{way:?}: {out}");
        let (code, _, err) = bench.exec(way, &["exit", "7"], b"").await;
        assert_eq!(code, Some(7), "{way:?}");
        assert!(err.contains("command terminated with exit code 7"), "{way:?}: {err}");
        let (code, _, err) = bench.exec(way, &["nosuch"], b"").await;
        assert_eq!(code, Some(1), "{way:?}");
        assert!(err.contains("error executing command in container"), "{way:?}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socat_and_nc_in_the_pod_reach_hosts_behind_it() {
    for way in WAYS {
        let Some(bench) = Bench::start(ServerVersion::V1_36).await else { return };
        bench.cluster.set_host("default", "web", "db.internal:5432", bench.origin.addr());
        bench.cluster.faults().streams().inside().set_host("default", "web", "closed.internal:1", Host::Refused);
        for tool in [&["socat", "-", "TCP:db.internal:5432"][..], &["nc", "db.internal", "5432"]] {
            let (code, out, err) = bench.exec(way, tool, b"echo\nthrough the pod\n").await;
            assert_eq!((code, out.trim()), (Some(0), "through the pod"), "{way:?} {tool:?}: {err}");
        }
        let (code, _, err) = bench.exec(way, &["socat", "-", "TCP:127.0.0.1:1"], b"").await;
        assert_eq!(code, Some(1));
        assert!(err.contains("E connect(5, AF=2 127.0.0.1:1, 16): Connection refused"), "{way:?}: {err}");
        let (code, _, err) = bench.exec(way, &["nc", "nosuch", "80"], b"").await;
        assert_eq!(code, Some(1));
        assert!(err.contains("nc: bad address 'nosuch'"), "{way:?}: {err}");
    }
}
