//! adit itself: its command lines and files, kept in this one place.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::load::Pace;
use testkit::process::{self, Process};
use testkit::raw;
use testkit::relay::{Link, Relay};
use tokio::runtime::Runtime;

use super::peers::{Missing, Peer, free_addr};
use super::runtimes;
use super::service::Origin;

/// Where the binary is unless `ADIT_BIN` says otherwise.
const BINARY: &str = "target/release/adit";
/// How long any step of the start may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a starting server is asked whether it is ready.
const ASK: Duration = Duration::from_micros(500);
/// Public ports of TCP tunnels.
const PORTS: std::ops::Range<u16> = 20_000..21_000;

/// A server, and an agent when one was started.
#[derive(Debug)]
pub(crate) struct Product {
    binary: PathBuf,
    dir: TempDir,
    /// The server's process.
    pub(crate) server: Process,
    /// The agent's process.
    pub(crate) agent: Option<Process>,
    /// Where visitors come in.
    pub(crate) public: SocketAddr,
    /// Where agents come in.
    pub(crate) agents: SocketAddr,
    /// From the start of the process until it said that it is ready.
    pub(crate) ready_in: Duration,
    /// Public port of the TCP tunnel to the HTTP service.
    pub(crate) web: SocketAddr,
    /// Public port of the TCP tunnel to the TCP service.
    pub(crate) raw: SocketAddr,
    relay: Option<(Relay, Runtime)>,
}

impl Product {
    /// A whole product as a peer; with `tcp` the HTTP service is reached through a TCP tunnel too.
    pub(crate) fn peer(origin: &Origin, tcp: bool) -> Result<Peer, Missing> {
        let mut product = Self::server()?;
        product.expose(origin, None)?;
        let (name, web, host) = match tcp {
            true => ("adit-tcp", product.web, "localhost".to_owned()),
            false => ("adit-http", product.public, format!("web.localhost:{}", product.public.port())),
        };
        let raw = tcp.then_some(product.raw);
        Ok(Peer { name, web, host, raw, processes: Vec::new(), product: Some(product), _dir: None })
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn server() -> Result<Self, Missing> {
        let binary = std::env::var_os("ADIT_BIN").map_or_else(|| PathBuf::from(BINARY), PathBuf::from);
        if !binary.exists() {
            return Err(Missing::NotInstalled(format!("{} (build it, or set ADIT_BIN)", binary.display())));
        }
        let dir = tempfile::tempdir()?;
        let (public, agents, admin) = (free_addr()?, free_addr()?, free_addr()?);
        fs::write(dir.path().join("server.yaml"), server_yaml(&dir, public, agents, admin))?;
        let mut command = Command::new(&binary);
        command.args(["server", "--config"]).arg(dir.path().join("server.yaml"));
        let started = Instant::now();
        let server = Process::start(&mut command)?;
        until_ready(&server, admin)?;
        let ready_in = started.elapsed();
        let (web, raw) = (public_port(0)?, public_port(1)?);
        Ok(Self { binary, dir, server, agent: None, public, agents, ready_in, web, raw, relay: None })
    }

    /// Starts an agent with three tunnels: the HTTP service by name and by port, the TCP service by port.
    /// With a `link` it reaches the server through a relay that plays that network.
    pub(crate) fn expose(&mut self, origin: &Origin, link: Option<Link>) -> Result<(), Missing> {
        let mut server = self.agents;
        if let Some(link) = link {
            let runtime = runtimes::apart(1).map_err(Missing::Failed)?;
            let relay = runtime.block_on(Relay::start(self.agents, link))?;
            server = relay.addr();
            self.relay = Some((relay, runtime));
        }
        let token_file = self.dir.path().join("token");
        fs::write(&token_file, self.token()?)?;
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;
        let config = format!(
            "version: 1\npublish:\n  server: {server}\n  token_file: {}\n  fingerprint: \"{}\"\n  tunnels:\n\
             \x20   web: {{ to: \"http://{http}\" }}\n\
             \x20   webtcp: {{ to: \"tcp://{http}\", port: {} }}\n\
             \x20   raw: {{ to: \"tcp://{}\", port: {} }}\n",
            token_file.display(),
            self.fingerprint()?,
            self.web.port(),
            origin.tcp,
            self.raw.port(),
            http = origin.http,
        );
        let file = self.dir.path().join("adit.yaml");
        fs::write(&file, config)?;
        let agent = Process::start(Command::new(&self.binary).args(["expose", "--config"]).arg(&file))?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Makes a token for the account `bench`.
    pub(crate) fn token(&self) -> Result<String, Missing> {
        let ports = format!("{}-{}", PORTS.start, PORTS.end - 1);
        let mut command = Command::new(&self.binary);
        command.args(["server", "token", "create", "--config"]).arg(self.dir.path().join("server.yaml"));
        command.args(["--account", "bench", "--allow", "*", "--ports", &ports]);
        let made = process::run(&mut command, b"", DEADLINE).map_err(|error| Missing::Failed(error.to_string()))?;
        match made.0.success() {
            true => Ok(made.1.stdout().trim().to_owned()),
            false => Err(Missing::Failed(format!("no token: {}", made.1.output()))),
        }
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        std::iter::once(&self.server).chain(&self.agent)
    }

    /// The fingerprint the server printed when it made its certificate.
    fn fingerprint(&self) -> Result<String, Missing> {
        let line = self.server.wait_line(DEADLINE, |line| line.contains("sha256:"));
        let line = line.map_err(|error| Missing::Failed(format!("no fingerprint: {error}")))?;
        let from = line.find("sha256:").unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == ':';
        Ok(line[from..].chars().take_while(|c| legal(*c)).collect())
    }
}

/// The server's file: defaults, but for addresses and the quotas and limits that the idle rows go beyond.
fn server_yaml(dir: &TempDir, public: SocketAddr, agents: SocketAddr, admin: SocketAddr) -> String {
    let dir = dir.path().display();
    format!(
        "version: 1\n\
         data_dir: {dir}\n\
         public: {{ listen: \"{public}\", base_domain: localhost, tcp_listen: 127.0.0.1, tcp_ports: {}-{} }}\n\
         agents: {{ listen: \"{agents}\" }}\n\
         admin: {{ listen: \"{admin}\" }}\n\
         quotas: {{ agents: 10000, tunnels: 20000, streams: 50000 }}\n\
         limits: {{ connections: 20000, agents: 10000, unauthenticated: 10000, unauthenticated_per_prefix: 10000 }}\n\
         log: {{ access: {dir}/access.log }}\n",
        PORTS.start,
        PORTS.end - 1,
    )
}

fn until_ready(server: &Process, admin: SocketAddr) -> Result<(), Missing> {
    let runtime = runtimes::single().map_err(Missing::Failed)?;
    runtime.block_on(async {
        let mut pace = Pace::new()?;
        let end = Instant::now() + DEADLINE;
        loop {
            if raw::get(admin, "localhost", "/health/ready").await.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() > end || !server.is_running() {
                return Err(Missing::Failed(format!("the server is not ready; its output:\n{}", server.output())));
            }
            pace.rest(ASK).await?;
        }
    })
}

/// A port for a TCP tunnel that was free a moment ago.
fn public_port(number: u16) -> Result<SocketAddr, Missing> {
    let half = PORTS.len() / 2;
    let offset = std::process::id() as usize % half + half * usize::from(number);
    let mut ports = PORTS.cycle().skip(offset).take(half);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = ports.find(free).ok_or_else(|| Missing::Failed("no free port for a TCP tunnel".to_owned()))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}
