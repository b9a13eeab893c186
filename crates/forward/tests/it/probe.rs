//! Probes, as they are written in a file, of real servers and of servers that are not what they should be.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_core::config::AgentFile;
use adit_core::config::forwards::HealthConfig;
use forward::probe::{ProbeError, ProbeReport, probe};
use runtime::connect::TcpConnect;

use crate::support::{DEADLINE, told};

mod command;
mod driver;
mod kafka;
mod mysql;
mod postgres;
mod redis;
mod requests;
mod wrong;

/// The section `health` of a forward.
pub(crate) fn health(body: &str) -> HealthConfig {
    let text = format!("forwards: {{ f: {{ to: 1, health: {{ {body} }} }} }}");
    let file = AgentFile::parse("/nowhere/adit.yaml", &text, &|_| None);
    let mut file = file.unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    file.forwards.remove(0).health.expect("it is probed")
}

async fn ask_within(body: &str, addr: SocketAddr, timeout: Duration) -> Result<ProbeReport, ProbeError> {
    let connect = TcpConnect::new("127.0.0.1", addr.port(), DEADLINE);
    probe(&health(body).probe, &connect, "localhost", timeout).await
}

/// What a probe of a service that is well has learnt.
async fn good(body: &str, addr: SocketAddr) -> String {
    match ask_within(body, addr, DEADLINE).await {
        Ok(report) => report.detail,
        Err(error) => panic!("{body}: {}", told(&error)),
    }
}

/// What a probe of a service that is not well says.
async fn bad(body: &str, addr: SocketAddr) -> String {
    match ask_within(body, addr, DEADLINE).await {
        Ok(report) => panic!("{body}: {report:?}"),
        Err(error) => told(&error),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A file with a password that nobody else may read.
fn password_file(dir: &Path, password: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join("password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}
