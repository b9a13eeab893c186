//! `adit server` as a process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::process::{self, Process};
use testkit::raw::{self, Response};

use super::{DEADLINE, adit, eventually};

/// What a test wants different from the defaults.
#[derive(Default)]
pub(crate) struct Setup {
    public: String,
    sections: String,
    ports: Option<PortBlock>,
    errors_expected: bool,
    arguments: Vec<String>,
    before: Vec<(String, String)>,
}

impl Setup {
    /// Adds keys to `public`, each as `key: value`.
    pub(crate) fn public(mut self, key_and_value: &str) -> Self {
        self.public.push_str(&format!(", {key_and_value}"));
        self
    }

    /// Adds a top-level section, e.g. `quotas: { agents: 2 }`. `DATA` stands for the data directory.
    pub(crate) fn section(mut self, yaml: &str) -> Self {
        self.sections.push_str(yaml);
        self.sections.push('\n');
        self
    }

    /// Offers a block of TCP ports no other test has.
    pub(crate) fn tcp_ports(mut self) -> Self {
        self.ports = Some(PortBlock::take());
        self
    }

    /// Adds command-line arguments.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Writes a file of mode 0600 into the data directory before the start.
    pub(crate) fn secret(mut self, name: &str, content: &str) -> Self {
        self.before.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Lines of level ERROR are part of this test; without this they fail it.
    pub(crate) fn errors_expected(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn start(self) -> Server {
        Server::start_with(self).await
    }
}

/// A running server, with a directory of its own.
pub(crate) struct Server {
    dir: TempDir,
    setup: Setup,
    process: Option<Process>,
    /// Where visitors connect.
    pub(crate) public: SocketAddr,
    /// Where agents connect.
    pub(crate) agents: SocketAddr,
    /// Metrics and health.
    pub(crate) admin: SocketAddr,
    /// What agents pin.
    pub(crate) fingerprint: String,
    /// The ports of [`Setup::tcp_ports`].
    pub(crate) ports: Option<PortBlock>,
}

impl Server {
    /// A server with the defaults, but on free ports of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        Setup::default().start().await
    }

    /// What may be different, to be finished with [`Setup::start`].
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    async fn start_with(mut setup: Setup) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the server");
        let ports = setup.ports.take();
        if let Some(ports) = &ports {
            setup = setup.public(&format!("tcp_ports: {}-{}", ports.first, ports.last()));
        }
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self {
            dir,
            setup,
            process: None,
            public: unknown,
            agents: unknown,
            admin: unknown,
            fingerprint: String::new(),
            ports,
        };
        std::fs::create_dir_all(server.data_dir()).expect("the data directory");
        for (name, content) in &server.setup.before {
            write_secret(&server.data_dir().join(name), content).expect("a file before the start");
        }
        std::fs::write(server.config_path(), server.yaml("")).expect("the server's file");
        server.run().await;
        server
    }

    /// Starts the process on the ports it had before, if any.
    async fn run(&mut self) {
        let mut command = adit(self.dir.path());
        command.arg("server").arg("--config").arg(self.config_path());
        for (option, address) in
            [("--public-listen", self.public), ("--agents-listen", self.agents), ("--admin-listen", self.admin)]
        {
            command.args([option, &address.to_string()]);
        }
        command.args(&self.setup.arguments);
        let process = Process::start(&mut command).expect("adit server starts");
        let address = async |label: &str| {
            let line = process.line(DEADLINE, |line| line.starts_with(label)).await;
            let line = line.unwrap_or_else(|error| panic!("no `{label}` line: {error}"));
            let rest = line[label.len()..].trim().trim_start_matches("http://");
            let end = rest.find([' ', '/', ',']).unwrap_or(rest.len());
            rest[..end].parse::<SocketAddr>().unwrap_or_else(|error| panic!("{line}: {error}"))
        };
        self.public = address("visitors").await;
        self.agents = address("agents").await;
        self.admin = address("metrics").await;
        if let Ok(line) = process.line(Duration::ZERO, |line| line.starts_with("fingerprint")).await {
            self.fingerprint = line.trim_start_matches("fingerprint").trim().to_owned();
        }
        self.process = Some(process);
    }

    /// The text of server.yaml, with `more` appended.
    pub(crate) fn yaml(&self, more: &str) -> String {
        let data = self.data_dir();
        let data = data.display();
        let sections = format!("{}{more}", self.setup.sections).replace("DATA", &data.to_string());
        let log =
            if sections.contains("log:") { String::new() } else { format!("log: {{ access: {data}/access.log }}\n") };
        format!(
            "version: 1\ndata_dir: {data}\npublic: {{ base_domain: localhost{} }}\n{log}{sections}",
            self.setup.public,
        )
    }

    /// The server's process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    /// The directory that holds everything of this server; goes with it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Tokens, certificate, names, logs.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its server.yaml.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.path().join("server.yaml")
    }

    /// Runs `adit server token ARGUMENTS`, and returns its output on stdout.
    pub(crate) fn token_command(&self, arguments: &[&str]) -> String {
        let mut command = adit(self.dir.path());
        command.args(["server", "token"]).args(arguments).arg("--config").arg(self.config_path());
        let (status, process) = process::run(&mut command, b"", DEADLINE).expect("adit server token runs");
        assert!(status.success(), "{}", process.output());
        process.stdout()
    }

    /// A new token of `account` for any name, and for the server's TCP ports.
    pub(crate) fn token(&self, account: &str) -> String {
        self.token_with(account, &[])
    }

    /// As [`Server::token`], with more arguments; an `--allow` among them replaces the one for any name.
    pub(crate) fn token_with(&self, account: &str, more: &[&str]) -> String {
        let ports = self.ports.as_ref().map(|ports| format!("{}-{}", ports.first, ports.last()));
        let mut arguments = vec!["create", "--account", account];
        if !more.contains(&"--allow") {
            arguments.extend(["--allow", "*"]);
        }
        if let Some(ports) = ports.as_deref().filter(|_| !more.contains(&"--ports")) {
            arguments.extend(["--ports", ports]);
        }
        arguments.extend(more);
        self.token_command(&arguments).trim().to_owned()
    }

    /// Writes a token into a file only its owner may read.
    pub(crate) fn token_file(&self, name: &str, token: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        write_secret(&path, token).expect("the token file");
        path
    }

    /// The Host of a tunnel: `app1.localhost:PORT`.
    pub(crate) fn host(&self, name: &str) -> String {
        format!("{name}.localhost:{}", self.public.port())
    }

    /// A GET by a visitor of its own.
    pub(crate) async fn get(&self, name: &str, target: &str) -> Response {
        raw::get(self.public, &self.host(name), target).await.expect("an answer")
    }

    /// A request by a visitor of its own.
    pub(crate) async fn request(
        &self,
        method: &str,
        name: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        raw::request(self.public, method, &self.host(name), target, headers, body).await.expect("an answer")
    }

    /// An admin page.
    pub(crate) async fn admin(&self, path: &str) -> Response {
        raw::get(self.admin, &self.admin.to_string(), path).await.expect("the admin server answers")
    }

    /// The value of the first metric line that starts with `start`, e.g. `tunnel_requests_total{method="GET"`.
    pub(crate) async fn metric(&self, start: &str) -> Option<f64> {
        let page = self.admin("/metrics").await.text();
        let line = page.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// The audit log so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        json_lines(&self.data_dir().join("audit.jsonl"))
    }

    /// Waits for an audit line of this event.
    pub(crate) async fn audited(&self, event: &str) -> Value {
        let found = || async { self.audit().into_iter().find(|line| line["event"] == event) };
        eventually(DEADLINE, &format!("an audit line `{event}`"), found).await
    }

    /// The access log's lines so far.
    pub(crate) fn access_log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.data_dir().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for a line of the access log.
    pub(crate) async fn accessed(&self, wanted: impl Fn(&str) -> bool) -> String {
        eventually(DEADLINE, "an access line", || async { self.access_log().into_iter().find(|line| wanted(line)) })
            .await
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&mut self) {
        let process = self.process.take().expect("the server runs");
        process.kill().expect("a signal");
        process.exited(DEADLINE).await.expect("a killed process ends");
    }

    /// Starts it again on the same ports with the same data, after [`Server::kill`] or its own end.
    pub(crate) async fn start_again(&mut self) -> Duration {
        self.process = None;
        let started = Instant::now();
        self.run().await;
        started.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(process) = &self.process else { return };
        if std::thread::panicking() {
            report("adit server", &process.output());
        } else if !self.setup.errors_expected {
            no_errors("adit server", &process.stderr());
        }
    }
}

/// TCP ports of one test: a block below the ephemeral ones, free when it was taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PortBlock {
    /// The first port.
    pub(crate) first: u16,
}

impl PortBlock {
    const SIZE: u16 = 8;
    const BASE: u16 = 20_000;
    const BLOCKS: u16 = 1500;

    fn take() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let pid = u16::try_from(std::process::id() % u32::from(Self::BLOCKS)).unwrap_or_default();
        for _ in 0..Self::BLOCKS {
            let block = (pid.wrapping_mul(7) + NEXT.fetch_add(1, Ordering::Relaxed)) % Self::BLOCKS;
            let block = Self { first: Self::BASE + block * Self::SIZE };
            if (block.first..=block.last()).all(is_free) {
                return block;
            }
        }
        panic!("no block of free ports");
    }

    /// The last port.
    pub(crate) fn last(self) -> u16 {
        self.first + Self::SIZE - 1
    }

    /// The public address of the block's port number `n`.
    pub(crate) fn address(self, n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.first + n))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Writes a file of mode 0600, replacing an older one as a whole.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let beside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(beside, path)
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Shows a child's output beside a test's failure.
#[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
pub(crate) fn report(what: &str, output: &str) {
    eprintln!("---- {what} said:\n{output}----");
}

/// Fails the test when a child logged an error or panicked.
pub(crate) fn no_errors(what: &str, stderr: &str) {
    let bad: Vec<&str> =
        stderr.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked at")).collect();
    assert!(bad.is_empty(), "{what} logged errors:\n{}", bad.join("\n"));
}
