//! A cluster, a directory, and `adit up` in it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use testkit::cert::Leaf;
use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};
use testkit::origin::HttpOrigin;
use testkit::process::{Process, Signal};
use testkit::raw::{self, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::{DEADLINE, adit, eventually, no_errors, report};

/// The service every bed has.
pub(crate) const WEB: &str = "k8s://fake/default/service/web:80";

/// A cluster with the service `web` (80 → http, 8080 in the pod; 81 → nothing) and its one pod `web-1`, and a directory
/// to run in.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) home: TempDir,
    pub(crate) origin: HttpOrigin,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::start_with(ClusterOptions::default()).await
    }

    pub(crate) async fn start_with(options: ClusterOptions) -> Self {
        let bed = Self {
            cluster: Cluster::start(options).await,
            home: tempfile::tempdir().expect("a directory"),
            origin: HttpOrigin::start().await.expect("a service"),
        };
        let ports = [ServicePort::new(80).named("http").to_named("http"), ServicePort::new(81).named("dead").to(8081)];
        bed.cluster.add_service("default", "web", &[("app", "web")], &ports);
        bed.add_pod("web-1");
        bed.cluster.write_kubeconfig(&bed.home.path().join("kubeconfig"));
        bed
    }

    /// A ready pod of `web`.
    pub(crate) fn add_pod(&self, name: &str) {
        let pod = PodSpec::new("default", name).label("app", "web").port("http", 8080);
        self.cluster.add_pod(pod.backend(8080, self.origin.addr()));
    }

    /// Another service with one pod, whose port leads to an address of this machine.
    pub(crate) fn add_service(&self, name: &str, port: u16, backend: SocketAddr) {
        self.cluster.add_service("default", name, &[("app", name)], &[ServicePort::new(port)]);
        let pod = PodSpec::new("default", &format!("{name}-1")).label("app", name).port("", port);
        self.cluster.add_pod(pod.backend(port, backend));
    }

    /// The file that is run.
    pub(crate) fn file(&self) -> PathBuf {
        self.home.path().join("adit.yaml")
    }

    /// Writes it: what comes after the version.
    pub(crate) fn write(&self, yaml: &str) {
        std::fs::write(self.file(), format!("version: 1\n{yaml}")).expect("adit.yaml can be written");
    }

    /// `adit up` in this directory.
    pub(crate) fn command(&self) -> Command {
        let mut command = adit(self.home.path());
        command.args(["up", "-o", "json"]).env("KUBECONFIG", self.home.path().join("kubeconfig"));
        command
    }

    /// Runs this file and waits until everything is open.
    pub(crate) async fn up(&self, yaml: &str) -> Up {
        self.write(yaml);
        Up::start(&mut self.command()).await
    }
}

/// A section `gateway` on a free port: more keys of it, each as a line, and routes as `host: { … }`.
pub(crate) fn gateway(keys: &[&str], routes: &[&str]) -> String {
    let lines = |lines: &[&str], indent: &str| lines.iter().map(|line| format!("{indent}{line}\n")).collect::<String>();
    let head = format!("gateway:\n  listen: 127.0.0.1:0\n{}", lines(keys, "  "));
    if routes.is_empty() { head } else { format!("{head}  routes:\n{}", lines(routes, "    ")) }
}

/// The route `web.localhost` to the service of the bed.
pub(crate) fn web() -> String {
    format!("web.localhost: {{ to: \"{WEB}\" }}")
}

/// `adit up`, everything open. It ends with this, and must not have logged an error.
pub(crate) struct Up {
    pub(crate) process: Process,
    errors_expected: bool,
}

impl Up {
    /// Starts it and waits until everything is open.
    pub(crate) async fn start(command: &mut Command) -> Self {
        let up = Self { process: Process::start(command).expect("adit up starts"), errors_expected: false };
        up.event("started").await;
        up
    }

    /// Lines of level ERROR are part of this test.
    pub(crate) fn errors_expected(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// The first event of this name.
    pub(crate) async fn event(&self, name: &str) -> Value {
        self.event_from(0, name, |_| true).await
    }

    /// The first event of this name among the lines from number `from` on that is `wanted`.
    pub(crate) async fn event_from(&self, from: usize, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let is_it = |line: &str| event(line).is_some_and(|event| event["event"] == name && wanted(&event));
        let line = self.process.line_from(from, DEADLINE, is_it).await;
        event(&line.unwrap_or_else(|error| panic!("no event `{name}`: {error}"))).expect("an event")
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.process.stdout().lines().filter_map(event).collect()
    }

    /// How many events of this name there were.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.events().iter().filter(|event| event["event"] == name).count()
    }

    /// Where the gateway listens.
    pub(crate) fn gateway(&self) -> SocketAddr {
        let event = self.events().into_iter().find(|event| event["event"] == "gateway").expect("a gateway");
        event["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    /// Where a forward listened at the start.
    pub(crate) fn port(&self, name: &str) -> SocketAddr {
        let open = |event: &Value| event["event"] == "open" && event["kind"] == "port" && event["name"] == name;
        let event = self.events().into_iter().find(open).unwrap_or_else(|| panic!("no port `{name}`"));
        event["entrance"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    /// A host with the gateway's port.
    pub(crate) fn host(&self, host: &str) -> String {
        format!("{host}:{}", self.gateway().port())
    }

    /// A GET on its own connection.
    pub(crate) async fn get(&self, host: &str, target: &str) -> Response {
        raw::get(self.gateway(), &self.host(host), target).await.expect("an answer")
    }

    /// The status of a GET for `/`, if there is an answer.
    pub(crate) async fn status(&self, host: &str) -> Option<u16> {
        raw::get(self.gateway(), &self.host(host), "/").await.ok().map(|answer| answer.status)
    }

    /// A GET that wants JSON.
    pub(crate) async fn json(&self, host: &str, target: &str) -> (u16, Value) {
        let accept = [("Accept", "application/json")];
        let answer = raw::request(self.gateway(), "GET", &self.host(host), target, &accept, b"").await;
        let answer = answer.expect("an answer");
        let value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()));
        (answer.status, value)
    }

    /// Sends a signal and waits for the end.
    pub(crate) async fn end(&self, signal: Signal) -> Option<i32> {
        self.process.signal(signal).expect("a signal");
        self.process.exited(DEADLINE).await.expect("it ends").code()
    }

    /// Writes the file anew and waits until it is in force; the event.
    pub(crate) async fn reload(&self, bed: &Bed, yaml: &str) -> Value {
        let from = self.process.line_count();
        bed.write(yaml);
        self.event_from(from, "reloaded", |_| true).await
    }

    /// Writes the file anew and waits until it is refused; the event.
    pub(crate) async fn refused(&self, bed: &Bed, yaml: &str) -> Value {
        let from = self.process.line_count();
        bed.write(yaml);
        self.event_from(from, "reload-failed", |_| true).await
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report("adit up", &self.process.output());
        } else if !self.errors_expected {
            no_errors("adit up", &self.process.stderr());
        }
    }
}

fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok().filter(|value: &Value| value["event"].is_string())
}

/// Waits until the cluster carries so many streams.
pub(crate) async fn streams(bed: &Bed, count: u64) {
    let streams = bed.cluster.faults().streams();
    let found = || async { (streams.open_streams() == count).then_some(()) };
    eventually(DEADLINE, &format!("{count} streams in the cluster, not {}", streams.open_streams()), found).await;
}

/// Runs all of them side by side.
#[expect(clippy::disallowed_methods, reason = "a crowd of clients; all are waited for here")]
pub(crate) async fn together<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for future in futures {
        tasks.spawn(future);
    }
    tasks.join_all().await
}

/// A task that ends with this.
pub(crate) struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs beside the test until this is dropped.
#[expect(clippy::disallowed_methods, reason = "the test holds its handle")]
pub(crate) fn beside(future: impl Future<Output = ()> + Send + 'static) -> Running {
    Running(tokio::spawn(future))
}

/// TLS with this certificate in front of a service.
pub(crate) struct TlsOrigin {
    pub(crate) address: SocketAddr,
    _running: Running,
}

impl TlsOrigin {
    pub(crate) async fn start(leaf: &Leaf, alpn: &[&str], inner: SocketAddr) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(leaf.server(alpn).expect("a server")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let running = beside(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                #[expect(clippy::disallowed_methods, reason = "they end with the set, which ends with the test")]
                connections.spawn(async move {
                    let mut outer = acceptor.accept(stream).await.ok()?;
                    let mut inner = TcpStream::connect(inner).await.ok()?;
                    tokio::io::copy_bidirectional(&mut outer, &mut inner).await.ok()
                });
            }
        });
        Self { address, _running: running }
    }
}
