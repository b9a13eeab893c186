//! A real `sshd` on loopback with keys of its own, in a directory of its own.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::network::Network;
use crate::process::{self, Process, Signal};

/// Where sshd is; it refuses to start without its full path.
const SSHD: &str = "/usr/sbin/sshd";
/// sshd wants this directory when it is run by root.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";
/// How long making keys and starting may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A running `sshd`, killed with all its children when this is dropped.
#[derive(Debug)]
pub struct Sshd {
    dir: tempfile::TempDir,
    addr: SocketAddr,
    user: String,
    /// Where it runs, when that is no namespace of ours.
    network: Option<Arc<Network>>,
    process: Mutex<Option<Process>>,
}

impl Sshd {
    /// Starts one that lets in the key [`Sshd::key`]. `lines` are put before our own in `sshd_config`, so they win.
    ///
    /// `MaxSessions 1` makes a shell more than one fail, which nothing here asks for; forwarded streams are not counted by it.
    ///
    /// # Panics
    /// When `sshd` is not installed, see `./dev setup`, or does not start.
    pub async fn start(lines: &[&str]) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, None, lines).await
    }

    /// The same in another network, at an address of it.
    ///
    /// # Panics
    /// When `sshd` is not installed, see `./dev setup`, or does not start.
    pub async fn start_in(network: &Arc<Network>, ip: Ipv4Addr, lines: &[&str]) -> Self {
        Self::start_at(ip, Some(Arc::clone(network)), lines).await
    }

    async fn start_at(ip: Ipv4Addr, network: Option<Arc<Network>>, lines: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory for sshd");
        let addr = SocketAddr::from((ip, process::free_port().expect("a free port")));
        let sshd = Self { dir, addr, user: user(), network, process: Mutex::new(None) };
        sshd.make_key("host", "ed25519", "");
        sshd.make_key("id", "ed25519", "");
        fs::copy(sshd.path("id.pub"), sshd.path("authorized")).expect("a file is copied");
        let at = |file: &str| sshd.path(file).display().to_string();
        let config = format!(
            "{}\nPort {}\nListenAddress {ip}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             AllowTcpForwarding yes\nMaxSessions 1\nLogLevel DEBUG1\n",
            lines.join("\n"),
            addr.port(),
            at("host"),
            at("authorized"),
        );
        fs::write(sshd.path("sshd_config"), config).expect("sshd_config is written");
        sshd.write_known_hosts();
        sshd.restart().await;
        sshd
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Who may log in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A file in its directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The private key that it lets in.
    pub fn key(&self) -> PathBuf {
        self.path("id")
    }

    /// A file with its host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.path("known_hosts")
    }

    /// Its host key as `TYPE BASE64`.
    pub fn host_key(&self) -> String {
        let text = fs::read_to_string(self.path("host.pub")).expect("the host key is read");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// Its name in `known_hosts`.
    pub fn known_name(&self) -> String {
        format!("[{}]:{}", self.addr.ip(), self.addr.port())
    }

    /// Makes a pair of keys in its directory.
    pub fn make_key(&self, file: &str, kind: &str, passphrase: &str) -> PathBuf {
        let path = self.path(file);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", kind, "-N", passphrase, "-f"]).arg(&path);
        keygen(&mut command);
        path
    }

    /// Lets in another key.
    pub fn authorize(&self, key: &Path) {
        let public = fs::read_to_string(key.with_extension("pub")).expect("a public key is read");
        let known = fs::read_to_string(self.path("authorized")).unwrap_or_default();
        fs::write(self.path("authorized"), known + &public).expect("authorized_keys is written");
    }

    /// Runs `ssh-keygen` with other arguments.
    pub fn keygen(&self, arguments: &[&str]) {
        keygen(Command::new("ssh-keygen").current_dir(self.dir.path()).args(arguments));
    }

    /// Another host key, as after an attack or a new installation.
    pub async fn change_host_key(&self) {
        self.kill().await;
        let _ = fs::remove_file(self.path("host"));
        self.make_key("host", "ed25519", "");
        self.restart().await;
    }

    /// Kills it with all its connections.
    pub async fn kill(&self) {
        let process = self.process.lock().expect("no panic while it is held").take();
        if let Some(process) = process {
            signal_all(&process, Signal::KILL);
            let gone = process.exited(DEADLINE).await;
            gone.expect("sshd ends when it is killed");
        }
    }

    /// Starts it again where it was.
    pub async fn restart(&self) {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: install openssh-server, as ./dev setup says");
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all(PRIVILEGE_SEPARATION).expect("sshd's directory");
        }
        let mut command = self.network.as_ref().map_or_else(|| Command::new(SSHD), |network| network.inside(SSHD));
        command.args(["-D", "-e", "-f"]).arg(self.path("sshd_config"));
        let process = Process::start(&mut command).expect("sshd starts");
        let up = process.line(DEADLINE, |line| line.contains("Server listening on")).await;
        up.expect("sshd listens");
        *self.process.lock().expect("no panic while it is held") = Some(process);
    }

    /// Stops it and its connections in their tracks; they go on with [`Sshd::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills its connections and leaves the listener.
    pub fn drop_connections(&self) {
        let process = self.process.lock().expect("no panic while it is held");
        if let Some(process) = process.as_ref() {
            for pid in process::tree(process.pid()).into_iter().filter(|pid| *pid != process.pid()) {
                kill(pid, Signal::KILL);
            }
        }
    }

    /// Stops its connections in their tracks and leaves the listener; they go on with [`Sshd::thaw`].
    pub fn freeze_connections(&self) {
        let process = self.process.lock().expect("no panic while it is held");
        if let Some(process) = process.as_ref() {
            for pid in process::tree(process.pid()).into_iter().filter(|pid| *pid != process.pid()) {
                kill(pid, Signal::STOP);
            }
        }
    }

    /// How many connections it has taken so far.
    pub fn connections(&self) -> usize {
        self.log().matches("Connection from ").count()
    }

    /// How many logins it has let in.
    pub fn logins(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("Accepted ") && line.contains(" port ")).count()
    }

    /// How many credentials it has refused.
    pub fn refusals(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("Failed ") && line.contains(" port ")).count()
    }

    /// What it says of itself since it was started.
    pub fn log(&self) -> String {
        self.process.lock().expect("no panic while it is held").as_ref().map(Process::output).unwrap_or_default()
    }

    /// Waits until its log says something.
    pub async fn says(&self, deadline: Duration, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + deadline;
        while !wanted(&self.log()) {
            assert!(Instant::now() < end, "sshd did not say it: {}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    fn write_known_hosts(&self) {
        let line = format!("{} {}\n", self.known_name(), self.host_key());
        fs::write(self.known_hosts(), line).expect("known_hosts is written");
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.process.lock().expect("no panic while it is held").as_ref() {
            signal_all(process, signal);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn signal_all(process: &Process, signal: Signal) {
    for pid in process::tree(process.pid()) {
        kill(pid, signal);
    }
}

fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn keygen(command: &mut Command) {
    let (status, process) = process::run(command, b"", DEADLINE).expect("ssh-keygen runs");
    assert!(status.success(), "ssh-keygen: {}", process.output());
}

fn user() -> String {
    let (_, process) = process::run(Command::new("id").arg("-un"), b"", DEADLINE).expect("id runs");
    process.stdout().trim().to_owned()
}

/// A listener that takes connections and never says a word.
pub async fn mute() -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind("127.0.0.1:0").await
}
