//! How a small exchange fares beside large transfers and beside ends that are stuck.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::load::{BulkDirection, Histogram, StalledReaders, StalledWriters, ping};

use super::bulk::Transfers;
use crate::options::Options;
use crate::peers::Peer;
use crate::runtimes;
use crate::table::Cell;

/// Columns of the row beside bulk.
pub(super) const COLUMNS: &[&str] = &[
    "no bulk p50 µs",
    "p99 µs",
    "full down p50 µs",
    "full down p99 µs",
    "MB/s",
    "full up p50 µs",
    "full up p99 µs",
    "MB/s",
];
/// Columns of the row with stalled ends.
pub(super) const STALLED_COLUMNS: &[&str] = &[
    "MB/s free",
    "with stalled readers",
    "ping p99 µs",
    "RSS +KB",
    "resumed",
    "with stalled writers",
    "ping p99 µs",
    "absorbed KB/stream",
    "RSS +KB",
];

/// Bytes of an echo.
const SIZE: usize = 64;
/// Rest between echoes: a person or a program that thinks, not a second load.
const GAP: Duration = Duration::from_millis(1);
/// Time for windows to open.
const WARM_UP: Duration = Duration::from_millis(700);
/// Stalled ends.
const STALLED: usize = 4;
/// Bytes each stalled reader must still get when it reads again.
const RESUMED: usize = 16 << 20;

/// Alone, beside two downloads, beside two uploads.
pub(super) fn beside_bulk(peer: &Peer, options: &Options) -> Result<Vec<Cell>, String> {
    let addr = raw(peer)?;
    let alone = pings(addr, options)?;
    let mut cells = vec![Cell::micros(alone.quantile(0.5)), Cell::micros(alone.quantile(0.99))];
    for direction in [BulkDirection::Down, BulkDirection::Up] {
        let (times, rate) = with_bulk(peer, direction, options)?;
        cells.push(Cell::micros(times.quantile(0.5)));
        cells.push(Cell::micros(times.quantile(0.99)));
        cells.push(Cell::Number(rate / 1e6, 0));
    }
    Ok(cells)
}

/// Two downloads alone, then beside stalled readers, then beside stalled writers.
pub(super) fn stalled(peer: &Peer, options: &Options) -> Result<Vec<Cell>, String> {
    let addr = raw(peer)?;
    let failed = |error: std::io::Error| error.to_string();
    let runtime = runtimes::apart(1)?;
    let free = Transfers::start(peer, BulkDirection::Down, 2)?;
    runtimes::pass(WARM_UP)?;
    let mut cells = vec![Cell::Number(free.rate(options.duration())? / 1e6, 0)];
    drop(free);

    let before = peer.usage().resident;
    let mut readers = runtime.block_on(StalledReaders::open(addr, STALLED)).map_err(failed)?;
    runtimes::pass(WARM_UP)?;
    let grown = grown(peer, before);
    let (times, rate) = with_bulk(peer, BulkDirection::Down, options)?;
    let resumed = runtime.block_on(readers.resume(RESUMED));
    drop(readers);
    cells.extend([Cell::Number(rate / 1e6, 0), Cell::micros(times.quantile(0.99)), grown, Cell::count(resumed as u64)]);

    let before = peer.usage().resident;
    let writers = runtime.block_on(StalledWriters::open(addr, STALLED)).map_err(failed)?;
    let grown = self::grown(peer, before);
    let (times, rate) = with_bulk(peer, BulkDirection::Down, options)?;
    let absorbed = writers.absorbed as f64 / STALLED as f64 / 1024.0;
    cells.extend([Cell::Number(rate / 1e6, 0), Cell::micros(times.quantile(0.99)), Cell::Number(absorbed, 0), grown]);
    Ok(cells)
}

fn with_bulk(peer: &Peer, direction: BulkDirection, options: &Options) -> Result<(Histogram, f64), String> {
    let transfers = Transfers::start(peer, direction, 2)?;
    runtimes::pass(WARM_UP)?;
    let (start, bytes) = (std::time::Instant::now(), transfers.bulk.bytes());
    let times = pings(raw(peer)?, options)?;
    let rate = (transfers.bulk.bytes() - bytes) as f64 / start.elapsed().as_secs_f64();
    Ok((times, rate))
}

fn pings(addr: SocketAddr, options: &Options) -> Result<Histogram, String> {
    runtimes::single()?.block_on(ping(addr, SIZE, GAP, options.duration())).map_err(|error| error.to_string())
}

fn raw(peer: &Peer) -> Result<SocketAddr, String> {
    peer.raw.ok_or_else(|| format!("{} carries no streams", peer.name))
}

fn grown(peer: &Peer, before: u64) -> Cell {
    Cell::Number((peer.usage().resident as f64 - before as f64) / 1024.0, 0)
}
