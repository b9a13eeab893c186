//! New connections through one SSH connection that is up, one after another.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::load::Histogram;

use super::stand::{DEADLINE, Peer, Stand};
use super::{Figure, millis, told};
use crate::asked::Options;
use crate::k8s::load::open;

/// Connections in a round, and those before it that are not counted.
const CONNECTIONS: usize = 500;
/// See [`CONNECTIONS`].
const WARM_UP: usize = 50;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("p50, ms", 3).times(Peer::Ssh, 1.0, 0.7),
    Figure::lower("p99, ms", 3).times(Peer::Ssh, 1.0, 0.7),
    Figure::lower("CPU of the client, µs each", 0),
];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let (tunnel, daemon) = stand.tunnel(peer)?;
    let failed = |error: io::Error| daemon.as_ref().map_or_else(|| error.to_string(), |daemon| daemon.failed(&error));
    for _ in 0..WARM_UP {
        first_byte(tunnel.raw).map_err(failed)?;
    }
    let cpu = || tunnel.process(daemon.as_ref()).map(|process| process.usage().cpu).unwrap_or_default();
    let (mut times, before) = (Histogram::default(), cpu());
    let count = options.count(CONNECTIONS);
    for _ in 0..count {
        times.record(first_byte(tunnel.raw).map_err(told)?);
    }
    let each = cpu().saturating_sub(before).as_secs_f64() * 1e6 / count as f64;
    let cost = if peer == Peer::Direct { f64::NAN } else { each };
    Ok(vec![millis(times.quantile(0.5)), millis(times.quantile(0.99)), cost])
}

/// From the connect to the echo of the first byte.
fn first_byte(addr: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = open(addr, DEADLINE)?;
    stream.write_all(b"echo\nx")?;
    stream.read_exact(&mut [0])?;
    Ok(start.elapsed())
}
