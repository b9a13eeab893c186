//! `ssh -R` through a private sshd on loopback, with keys made for this run.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testkit::process::{self, Process};

use super::{Missing, Peer, free_addr};
use crate::service::Origin;

/// Where Debian's sshd is; it refuses to start without its full path.
const SSHD: &str = "/usr/sbin/sshd";
/// sshd wants this directory when it is run by root.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";
/// How long making keys and logging in may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// Starts both ends.
pub(super) fn start(origin: &Origin) -> Result<Peer, Missing> {
    if !Path::new(SSHD).exists() {
        return Err(Missing::NotInstalled(SSHD.to_owned()));
    }
    let dir = tempfile::tempdir()?;
    let at = |file: &str| dir.path().join(file).display().to_string();
    for key in ["host", "user"] {
        let made = process::run(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]),
            b"",
            DEADLINE,
        );
        made.map_err(|error| Missing::Failed(error.to_string()))?;
    }
    fs::copy(at("user.pub"), at("authorized"))?;
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all(PRIVILEGE_SEPARATION)?;
    }
    let listen = free_addr()?;
    let config = format!(
        "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile {}\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin yes\nAllowTcpForwarding yes\nMaxSessions 100\nLogLevel ERROR\n",
        listen.port(),
        at("host"),
        at("authorized"),
        at("pid")
    );
    fs::write(at("sshd_config"), config)?;
    let server = Process::start(Command::new(SSHD).args(["-D", "-e", "-f", &at("sshd_config")]))?;
    wait_for(listen)?;
    let (web, raw) = (free_addr()?, free_addr()?);
    let user = process::run(Command::new("id").arg("-un"), b"", DEADLINE)
        .map_err(|error| Missing::Failed(error.to_string()))?;
    let known = format!("UserKnownHostsFile={}", at("known"));
    let mut command = Command::new("ssh");
    command.args(["-N", "-F", "none", "-i", &at("user"), "-p", &listen.port().to_string()]);
    command.args(["-o", "StrictHostKeyChecking=no", "-o", &known, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
    command.args(["-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=ERROR"]);
    command.args(["-R", &format!("{web}:{}", origin.http), "-R", &format!("{raw}:{}", origin.tcp)]);
    command.arg(format!("{}@127.0.0.1", user.1.stdout().trim()));
    let client = Process::start(&mut command)?;
    Ok(Peer::of("ssh-R", web, Some(raw), vec![server, client], dir))
}

/// Waits until `addr` accepts.
fn wait_for(addr: SocketAddr) -> Result<(), Missing> {
    let end = std::time::Instant::now() + DEADLINE;
    while std::net::TcpStream::connect(addr).is_err() {
        if std::time::Instant::now() > end {
            return Err(Missing::Failed(format!("nobody listens on {addr}")));
        }
        crate::runtimes::pass(Duration::from_millis(10)).map_err(Missing::Failed)?;
    }
    Ok(())
}
