//! One large transfer each way through an SSH server on loopback.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::Figure;
use super::stand::{Daemon, Peer, Stand};
use crate::asked::Options;
use crate::k8s::bulk::{down, up};

/// Bytes each way.
const BYTES: usize = 1 << 30;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::higher("down: GiB per CPU second of the client", 2).times(Peer::Ssh, 1.0, 1.5),
    Figure::higher("up: GiB per CPU second of the client", 2).times(Peer::Ssh, 1.0, 1.5),
    Figure::lower("down: CPU s/GiB", 2),
    Figure::lower("up: CPU s/GiB", 2),
    Figure::higher("down: MB/s", 0),
    Figure::higher("up: MB/s", 0),
    Figure::lower("resident at most, MB", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let (tunnel, daemon) = stand.tunnel(peer)?;
    let process = tunnel.process(daemon.as_ref()).ok_or("nobody is no client")?;
    let bytes = options.count(BYTES);
    let gib = bytes as f64 / (1_u64 << 30) as f64;
    let (mut per_second, mut cost, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for (transfer, addr) in [(down as fn(SocketAddr, usize) -> io::Result<()>, tunnel.raw), (up, tunnel.web)] {
        let (start, before) = (Instant::now(), process.usage().cpu);
        let told = |error: io::Error| {
            daemon.as_ref().map_or_else(|| error.to_string(), |daemon: &Daemon| daemon.failed(&error))
        };
        transfer(addr, bytes).map_err(told)?;
        let (elapsed, cpu) = (start.elapsed(), process.usage().cpu.saturating_sub(before));
        per_second.push(gib / cpu.as_secs_f64());
        cost.push(cpu.as_secs_f64() / gib);
        rates.push(bytes as f64 / 1e6 / elapsed.as_secs_f64());
    }
    rates.push(process.usage().peak as f64 / 1e6);
    Ok([per_second, cost, rates].concat())
}
