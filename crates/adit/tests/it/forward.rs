//! `adit forward` as a process, against the fake cluster.

mod command;
mod events;
mod lines;
mod mistakes;
mod ports;
mod secrets;
mod services;
mod trouble;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};
use testkit::origin::HttpOrigin;
use testkit::process::Process;
use testkit::raw;

use crate::support::{DEADLINE, adit, eventually};

/// A cluster with the service `web` (80 → http, 8080 in the pod) and its one pod `web-1`, and a directory to run in.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) home: TempDir,
    pub(crate) origin: HttpOrigin,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let bench = Self {
            cluster: Cluster::start(ClusterOptions::default()).await,
            home: tempfile::tempdir().expect("a directory"),
            origin: HttpOrigin::start().await.expect("a service"),
        };
        let ports = [ServicePort::new(80).named("http").to_named("http"), ServicePort::new(81).named("dead").to(8081)];
        bench.cluster.add_service("default", "web", &[("app", "web")], &ports);
        bench.add_pod("web-1", true);
        bench.cluster.write_kubeconfig(&bench.home.path().join("kubeconfig"));
        bench
    }

    /// A pod of `web`.
    pub(crate) fn add_pod(&self, name: &str, ready: bool) {
        let pod =
            PodSpec::new("default", name).label("app", "web").port("http", 8080).backend(8080, self.origin.addr());
        self.cluster.add_pod(pod.ready(ready));
    }

    /// `adit forward` with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = adit(self.home.path());
        command.arg("forward").args(arguments).env("KUBECONFIG", self.home.path().join("kubeconfig"));
        command
    }

    /// Starts it.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        Process::start(&mut self.command(arguments)).expect("adit forward starts")
    }

    /// Starts it and waits for the lines of so many ports.
    pub(crate) async fn forward(&self, arguments: &[&str], ports: usize) -> Process {
        let process = self.spawn(arguments);
        eventually(DEADLINE, "the ready lines", || async {
            assert!(process.is_running(), "{}", process.output());
            let lines = process.stdout().matches("Forwarding from 127.0.0.1").count();
            (lines >= ports && process.stderr().matches("ready in").count() >= ports).then_some(())
        })
        .await;
        process
    }
}

/// The addresses of kubectl's lines so far.
pub(crate) fn addresses(process: &Process) -> Vec<SocketAddr> {
    let address = |line: &str| line.strip_prefix("Forwarding from ")?.split_once(" -> ")?.0.parse().ok();
    process.stdout().lines().filter_map(address).collect()
}

/// Waits for the ready line, and for kubectl's lines, which come over another pipe.
pub(crate) async fn ready(process: &Process) {
    process.line(DEADLINE, |line| line.contains("ready in")).await.expect("it becomes ready");
    eventually(DEADLINE, "the port's line", || async { addresses(process).first().copied() }).await;
}

/// The first of them.
pub(crate) fn address(process: &Process) -> SocketAddr {
    *addresses(process).first().unwrap_or_else(|| panic!("no port: {}", process.output()))
}

/// The status of a request for `/`.
pub(crate) async fn status(address: SocketAddr) -> Option<u16> {
    let answer = tokio::time::timeout(Duration::from_secs(5), raw::get(address, "localhost", "/")).await;
    answer.ok()?.ok().map(|response| response.status)
}
