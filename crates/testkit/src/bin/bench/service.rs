//! `bench origin`: the services behind every peer, in a process of their own so that their CPU is nobody's.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use testkit::origin::{HttpOrigin, TcpOrigin};
use testkit::process::{Process, raise_descriptor_limit};

use super::runtimes;

/// How long the child may take to say where it listens.
const READY: Duration = Duration::from_secs(10);

/// The child process, seen from the bench.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The HTTP service.
    pub(crate) http: SocketAddr,
    /// The TCP service.
    pub(crate) tcp: SocketAddr,
    _process: Process,
}

impl Origin {
    /// Starts this binary again as the origin.
    pub(crate) fn start() -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let process = Process::start(Command::new(this).arg("origin")).map_err(|error| error.to_string())?;
        let line = process.wait_line(READY, |line| line.starts_with("origin ")).map_err(|error| error.to_string())?;
        let mut addresses = line.split(' ').skip(1).filter_map(|word| word.parse().ok());
        match (addresses.next(), addresses.next()) {
            (Some(http), Some(tcp)) => Ok(Self { http, tcp, _process: process }),
            _ => Err(format!("the origin said {line:?}")),
        }
    }
}

/// The child's own main: serves until its stdin ends.
pub(crate) fn run() -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    raise_descriptor_limit().map_err(told)?;
    let fast = runtimes::apart(1)?;
    let bulk = runtimes::apart(2)?;
    let http = fast.block_on(HttpOrigin::start_quiet()).map_err(told)?;
    let tcp = bulk.block_on(TcpOrigin::start()).map_err(told)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "origin {} {}", http.addr(), tcp.addr()).map_err(told)?;
    stdout.flush().map_err(told)?;
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(told)?;
    Ok(())
}
