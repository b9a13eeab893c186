//! The services, the SSH server, and daemons and `ssh -L` in front of them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::process::Process;
use testkit::raw;
use testkit::sshd::Sshd;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::told;
use crate::figures::Contender;
use crate::k8s::home::Home;
use crate::k8s::load;
use crate::peers::free_addr;
use crate::runtimes;
use crate::service::Origin;

/// Where the binary is unless `ADIT_BIN` says otherwise.
const ADIT: &str = "target/release/adit";
/// How long a start, or anything else, may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// Ports of forwards: below those that the system gives to connections.
const PORTS: std::ops::Range<u16> = 21_000..31_000;
/// As an installation has it, without the debug log that the tests read.
const SSHD: &[&str] = &["LogLevel INFO"];

/// Who carries the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Nobody: straight to the service.
    Direct,
    /// `ssh -L` as it comes.
    Ssh,
    /// The same, told to use AES-256-GCM, which it does not take by itself.
    SshGcm,
    /// localport: nothing is measured, what it publishes of itself is repeated.
    Localport,
    /// adit.
    Adit,
}

/// Services and programs.
pub(super) struct Stand {
    /// The HTTP and the TCP service.
    pub(super) origin: Origin,
    /// The SSH server.
    pub(super) sshd: Sshd,
    /// The cluster that forwards lead to.
    cluster: Home,
    /// Where what waits for the server runs.
    pub(super) runtime: Runtime,
    adit: PathBuf,
    version: String,
}

/// A forward of a daemon's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the TCP service.
    Tcp,
    /// To the TCP service, as the SSH server sees it.
    Ssh,
    /// To the HTTP service, as the SSH server sees it.
    SshWeb,
    /// To a service of a cluster.
    Kubernetes,
}

/// A daemon that runs in the foreground, in a home of its own.
pub(super) struct Daemon {
    process: Process,
    home: TempDir,
    /// From the start of the process until it said that it is ready.
    pub(super) ready_in: Duration,
    /// Where its forwards listen, in the order of the file.
    pub(super) addrs: Vec<SocketAddr>,
}

/// `ssh -L` to both services, or nobody.
pub(super) struct Tunnel {
    process: Option<Process>,
    pub(super) raw: SocketAddr,
    pub(super) web: SocketAddr,
}

impl Peer {
    /// All there are, in the order of the tables.
    pub(super) const ALL: [Self; 5] = [Self::Direct, Self::Ssh, Self::SshGcm, Self::Localport, Self::Adit];
}

impl Contender for Peer {
    const ADIT: Self = Self::Adit;

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ssh => "ssh-L",
            Self::SshGcm => "ssh-L-gcm",
            Self::Localport => "localport",
            Self::Adit => "adit",
        }
    }
}

impl Stand {
    /// Starts the services and looks for the peers.
    pub(super) fn build() -> Result<Self, String> {
        let adit = std::env::var_os("ADIT_BIN").map_or_else(|| PathBuf::from(ADIT), PathBuf::from);
        if !adit.exists() {
            return Err(format!("{} is missing: build it, or set ADIT_BIN", adit.display()));
        }
        // Children are started in other directories.
        let adit = fs::canonicalize(adit).map_err(told)?;
        let version = Command::new("ssh").arg("-V").output().map_err(|error| format!("no ssh: {error}"))?;
        let runtime = runtimes::apart(1)?;
        let sshd = runtime.block_on(Sshd::start(SSHD));
        let version = String::from_utf8_lossy(&version.stderr).trim().to_owned();
        let origin = Origin::start()?;
        let cluster = Home::start(&origin, 1)?;
        Ok(Self { origin, sshd, cluster, runtime, adit, version })
    }

    /// What is compared.
    pub(super) fn description(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        format!("adit beside {}; {cores} cores for clients, server, services and load together; medians", self.version)
    }

    /// `adit` with these arguments, in a home of its own.
    pub(super) fn adit(&self, home: &TempDir, arguments: &[&str]) -> Command {
        let path = home.path();
        let mut command = Command::new(&self.adit);
        command.args(arguments).current_dir(path).env("HOME", path).env("NO_COLOR", "1");
        command.env("KUBECONFIG", self.cluster.kubeconfig());
        command.env("XDG_STATE_HOME", path.join("state")).env("XDG_CONFIG_HOME", path.join("config"));
        let strange = ["XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "NOTIFY_SOCKET", "SSH_AUTH_SOCK"];
        for name in strange.into_iter().chain(["ADIT_CONFIG", "ADIT_LOG"]) {
            command.env_remove(name);
        }
        command
    }

    /// A home with a file of forwards; where they listen.
    pub(super) fn home(&self, kinds: &[Kind], more: &str) -> Result<(TempDir, Vec<SocketAddr>), String> {
        let home = tempfile::tempdir().map_err(told)?;
        let addrs = free_addrs(kinds.len()).map_err(told)?;
        fs::write(home.path().join("adit.yaml"), self.yaml(kinds, &addrs, more)).map_err(told)?;
        Ok((home, addrs))
    }

    /// The file: forward N is called `fN`; `more` is said of each.
    pub(super) fn yaml(&self, kinds: &[Kind], addrs: &[SocketAddr], more: &str) -> String {
        let mut text = "version: 1\nforwards:\n".to_owned();
        for (number, (kind, addr)) in kinds.iter().zip(addrs).enumerate() {
            let target = match kind {
                Kind::Tcp => format!("\"tcp://{}\"", self.origin.tcp),
                Kind::Ssh => self.ssh_target(self.origin.tcp),
                Kind::SshWeb => self.ssh_target(self.origin.http),
                Kind::Kubernetes => "\"k8s:///default/service/web:80\"".to_owned(),
            };
            let _ = writeln!(text, "  f{number}: {{ to: {target}, listen: \"{addr}\"{more} }}");
        }
        text
    }

    fn ssh_target(&self, to: SocketAddr) -> String {
        format!(
            "{{ ssh: {{ server: \"{}@{}\", host: {}, port: {}, key: \"{}\", known_hosts: \"{}\" }} }}",
            self.sshd.user(),
            self.sshd.addr(),
            to.ip(),
            to.port(),
            self.sshd.key().display(),
            self.sshd.known_hosts().display()
        )
    }

    /// A daemon with these forwards, when it is ready.
    pub(super) fn daemon(&self, kinds: &[Kind], more: &str) -> Result<Daemon, String> {
        let (home, addrs) = self.home(kinds, more)?;
        let notices = UnixDatagram::bind(home.path().join("notify")).map_err(told)?;
        notices.set_read_timeout(Some(DEADLINE)).map_err(told)?;
        let mut command = self.adit(&home, &["--quiet", "daemon", "start", "--foreground"]);
        command.env("NOTIFY_SOCKET", home.path().join("notify"));
        let start = Instant::now();
        let process = Process::start(&mut command).map_err(told)?;
        let mut notice = [0; 256];
        loop {
            let got =
                notices.recv(&mut notice).map_err(|error| format!("{error}; its output:\n{}", process.output()))?;
            if notice[..got].starts_with(b"READY=1") {
                break;
            }
        }
        Ok(Daemon { process, home, ready_in: start.elapsed(), addrs })
    }

    /// Something between here and both services, when it carries; the second one is its client's CPU.
    pub(super) fn tunnel(&self, peer: Peer) -> Result<(Tunnel, Option<Daemon>), String> {
        let (tunnel, daemon) = match peer {
            Peer::Direct | Peer::Localport => {
                (Tunnel { process: None, raw: self.origin.tcp, web: self.origin.http }, None)
            }
            Peer::Ssh => (self.ssh(&[])?, None),
            Peer::SshGcm => (self.ssh(&["-c", "aes256-gcm@openssh.com"])?, None),
            Peer::Adit => {
                let daemon = self.daemon(&[Kind::Ssh, Kind::SshWeb], "")?;
                (Tunnel { process: None, raw: daemon.addrs[0], web: daemon.addrs[1] }, Some(daemon))
            }
        };
        let end = Instant::now() + DEADLINE;
        while let Err(error) = load::echo(tunnel.raw, DEADLINE).and_then(|()| load::request(tunnel.web, DEADLINE)) {
            if Instant::now() > end {
                return Err(format!("it carries nothing ({error}); its output:\n{}", tunnel.output(daemon.as_ref())));
            }
            runtimes::pass(Duration::from_millis(10))?;
        }
        Ok((tunnel, daemon))
    }

    fn ssh(&self, more: &[&str]) -> Result<Tunnel, String> {
        let (raw, web) = (free_addr().map_err(told)?, free_addr().map_err(told)?);
        let mut command = Command::new("ssh");
        command.args(["-N", "-F", "none", "-p", &self.sshd.addr().port().to_string(), "-i"]).arg(self.sshd.key());
        command.args(["-o", &format!("UserKnownHostsFile={}", self.sshd.known_hosts().display())]);
        for option in ["StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "BatchMode=yes", "ExitOnForwardFailure=yes"] {
            command.args(["-o", option]);
        }
        command.args(more).args(["-L", &format!("{raw}:{}", self.origin.tcp)]);
        command.args(["-L", &format!("{web}:{}", self.origin.http)]);
        command.arg(format!("{}@127.0.0.1", self.sshd.user()));
        let process = Process::start(command.env_remove("SSH_AUTH_SOCK")).map_err(told)?;
        Ok(Tunnel { process: Some(process), raw, web })
    }
}

/// Addresses on loopback that were free a moment ago, no two the same, and none that the system gives to a connection.
fn free_addrs(count: usize) -> io::Result<Vec<SocketAddr>> {
    // Another bench at the same time begins elsewhere.
    let offset = std::process::id().wrapping_mul(211) % u32::from(PORTS.end - PORTS.start);
    let from = PORTS.start + u16::try_from(offset).unwrap_or_default();
    let ports = (from..PORTS.end).chain(PORTS.start..from);
    let bound: Vec<TcpListener> =
        ports.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(count).collect();
    bound.iter().map(TcpListener::local_addr).collect()
}

impl Tunnel {
    /// The process that does the work; none for nobody.
    pub(super) fn process<'a>(&'a self, daemon: Option<&'a Daemon>) -> Option<&'a Process> {
        self.process.as_ref().or_else(|| daemon.map(Daemon::process))
    }

    fn output(&self, daemon: Option<&Daemon>) -> String {
        self.process(daemon).map(Process::output).unwrap_or_default()
    }
}

impl Daemon {
    /// Its process.
    pub(super) const fn process(&self) -> &Process {
        &self.process
    }

    /// Its directory.
    pub(super) const fn home(&self) -> &TempDir {
        &self.home
    }

    /// A request to its control socket.
    pub(super) async fn ask(&self, method: &str, path: &str) -> Result<Value, String> {
        let socket = self.home.path().join("state/adit/run/control.sock");
        let stream = UnixStream::connect(&socket).await.map_err(|error| format!("{}: {error}", socket.display()))?;
        let answer = raw::Client::new(stream).request(method, "adit", path, &[], b"").await.map_err(told)?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).map_err(told),
            status => Err(format!("{method} {path}: {status} {}", answer.text())),
        }
    }

    /// A failure, and the end of what it logged.
    pub(super) fn failed(&self, error: &dyn std::fmt::Display) -> String {
        let log = fs::read_to_string(self.home.path().join("state/adit/logs/daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("{error}; its output:\n{}{last}", self.process.output())
    }
}
