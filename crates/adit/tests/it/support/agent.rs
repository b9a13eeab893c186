//! `adit expose` as a process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::process::Process;

use super::server::{no_errors, report, write_secret};
use super::{DEADLINE, Server, adit};

/// An agent to be started.
pub(crate) struct Publish {
    dir: TempDir,
    arguments: Vec<OsString>,
    tunnels: usize,
    server: SocketAddr,
    trust: Vec<String>,
    token: String,
    kubeconfig: Option<PathBuf>,
    errors_expected: bool,
}

impl Publish {
    /// An agent of account `acme` for `server`, that publishes nothing yet.
    pub(crate) fn to(server: &Server) -> Self {
        Self::with_token(server, &server.token("acme"))
    }

    /// The same with another token.
    pub(crate) fn with_token(server: &Server, token: &str) -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory for the agent"),
            arguments: Vec::new(),
            tunnels: 0,
            server: server.agents,
            trust: vec!["--fingerprint".into(), server.fingerprint.clone()],
            token: token.to_owned(),
            kubeconfig: None,
            errors_expected: false,
        }
    }

    /// Publishes a local HTTP service under a name.
    pub(crate) fn http(self, name: &str, local: SocketAddr) -> Self {
        self.target(&format!("http://{local}"), &["--as", name])
    }

    /// Publishes a local TCP service on a port; 0 for any.
    pub(crate) fn tcp(self, local: SocketAddr, port: u16) -> Self {
        self.target(&format!("tcp://{local}"), &["--port", &port.to_string()])
    }

    /// Finds clusters in this file.
    pub(crate) fn kubeconfig(mut self, path: &Path) -> Self {
        self.kubeconfig = Some(path.to_owned());
        self
    }

    /// Publishes any target.
    pub(crate) fn target(mut self, target: &str, arguments: &[&str]) -> Self {
        self.arguments.push(target.into());
        self.arguments.extend(arguments.iter().map(OsString::from));
        self.tunnels = 1;
        self
    }

    /// Publishes the tunnels of a file: lines below `tunnels:`, each as `name: { to: … }`.
    pub(crate) fn file(mut self, tunnels: &[&str]) -> Self {
        let lines: String = tunnels.iter().map(|line| format!("    {line}\n")).collect();
        let path = self.dir.path().join("adit.yaml");
        std::fs::write(&path, format!("version: 1\npublish:\n  tunnels:\n{lines}")).expect("adit.yaml");
        self.arguments.extend(["--config".into(), path.into()]);
        self.tunnels = tunnels.len();
        self
    }

    /// More arguments.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// Connects there instead of to the server itself: a relay.
    pub(crate) fn through(mut self, relay: SocketAddr) -> Self {
        self.server = relay;
        self
    }

    /// Trusts what these arguments say instead of the fingerprint.
    pub(crate) fn trusting(mut self, arguments: &[&str]) -> Self {
        self.trust = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// Lines of level ERROR are part of this test.
    pub(crate) fn errors_expected(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Starts it and waits until all its tunnels are published.
    pub(crate) async fn start(self) -> Agent {
        let tunnels = self.tunnels;
        let mut agent = self.spawn();
        agent.published(tunnels).await;
        agent
    }

    /// Starts it without waiting for anything.
    pub(crate) fn spawn(self) -> Agent {
        let token_file = self.dir.path().join("token");
        write_secret(&token_file, &self.token).expect("the token file");
        let mut agent = Agent { plan: self, process: None, urls: Vec::new() };
        agent.run();
        agent
    }
}

/// A running agent.
pub(crate) struct Agent {
    plan: Publish,
    process: Option<Process>,
    /// The public URLs, in the order they were published.
    pub(crate) urls: Vec<String>,
}

impl Agent {
    fn command(&self) -> Command {
        let mut command = adit(self.plan.dir.path());
        command.arg("expose").args(&self.plan.arguments);
        command.args(["--server", &self.plan.server.to_string()]);
        command.arg("--token-file").arg(self.plan.dir.path().join("token"));
        command.args(&self.plan.trust);
        if let Some(path) = &self.plan.kubeconfig {
            command.env("KUBECONFIG", path);
        }
        command
    }

    fn run(&mut self) {
        self.process = Some(Process::start(&mut self.command()).expect("adit expose starts"));
    }

    /// Waits until so many tunnels are published.
    async fn published(&mut self, tunnels: usize) {
        let process = self.process();
        let seen = || process.stdout().lines().filter_map(url_of).collect::<Vec<_>>();
        let end = Instant::now() + DEADLINE;
        let mut urls = seen();
        while urls.len() < tunnels {
            // One line more each time; a process that has ended has no more.
            let from = process.line_count();
            urls = seen();
            if urls.len() >= tunnels {
                break;
            }
            let left = end.saturating_duration_since(Instant::now());
            if let Err(error) = process.line_from(from, left, |_| true).await {
                panic!("{tunnels} tunnels were not published: {error}");
            }
            urls = seen();
        }
        self.urls = urls;
    }

    /// The agent's process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("the agent runs")
    }

    /// The first public URL.
    pub(crate) fn url(&self) -> &str {
        self.urls.first().expect("a tunnel is published")
    }

    /// The public address of its TCP tunnel.
    pub(crate) fn port(&self) -> SocketAddr {
        let port = self.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("the URL has a port");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Waits for a line that contains `text`.
    pub(crate) async fn says(&self, text: &str) -> String {
        self.process()
            .line(DEADLINE, |line| line.contains(text))
            .await
            .unwrap_or_else(|error| panic!("`{text}`: {error}"))
    }

    /// Waits for a line that contains `text`, among those from number `from` on.
    pub(crate) async fn says_from(&self, from: usize, text: &str) -> String {
        let line = self.process().line_from(from, DEADLINE, |line| line.contains(text)).await;
        line.unwrap_or_else(|error| panic!("`{text}`: {error}"))
    }

    /// Writes another token into its token file.
    pub(crate) fn set_token(&self, token: &str) {
        write_secret(&self.plan.dir.path().join("token"), token).expect("the token file");
    }

    /// Waits for its end and returns its exit code.
    pub(crate) async fn exit_code(&self, deadline: Duration) -> Option<i32> {
        self.process().exited(deadline).await.unwrap_or_else(|error| panic!("{error}")).code()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&mut self) {
        let process = self.process.take().expect("the agent runs");
        process.kill().expect("a signal");
        process.exited(DEADLINE).await.expect("a killed process ends");
    }

    /// Starts it again with the same arguments, after [`Agent::kill`]; the agent id is the same then.
    pub(crate) async fn start_again(&mut self) {
        self.run();
        self.published(self.plan.tunnels).await;
    }

    /// Starts a second process with the same arguments, agent id included.
    pub(crate) async fn twin(&self) -> Process {
        let process = Process::start(&mut self.command()).expect("adit expose starts");
        process.line(DEADLINE, |line| url_of(line).is_some()).await.expect("the twin publishes");
        process
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let Some(process) = &self.process else { return };
        if std::thread::panicking() {
            report("adit expose", &process.output());
        } else if !self.plan.errors_expected {
            no_errors("adit expose", &process.stderr());
        }
    }
}

/// The URL of a line `label  URL → local`.
fn url_of(line: &str) -> Option<String> {
    let (before, _) = line.split_once(" → ")?;
    before.split_whitespace().last().filter(|url| url.contains("://")).map(str::to_owned)
}
