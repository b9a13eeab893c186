//! Starts the product and what it is tested with.

mod agent;
mod curl;
mod server;
// Other systems have other ways to names.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) mod silent;
mod wait;

pub(crate) use agent::{Agent, Publish};
pub(crate) use curl::{curl, curl_said};
pub(crate) use server::{Server, Setup, no_errors, report, write_secret};
pub(crate) use wait::{DEADLINE, SOON, eventually, within};

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tokio::net::{TcpSocket, TcpStream};

/// A connection whose reader has little room: who sends feels at once that it reads slowly.
pub(crate) async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("a small buffer");
    socket.connect(address).await.expect("a connection")
}

/// A named pipe, into which nobody writes.
pub(crate) fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_adit");

/// `adit` in a directory of its own, with nothing of this user's settings.
pub(crate) fn adit(home: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env_remove("STATE_DIRECTORY")
        .env_remove("ADIT_CONFIG")
        .env_remove("ADIT_LOG")
        .env_remove("ADIT_SERVER")
        .env_remove("ADIT_TOKEN")
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("NO_COLOR", "1");
    command
}
