//! Requests: kept-alive, on new connections, and the first byte of a new one.

use std::time::Duration;

use testkit::load::{HttpLoad, Report};

use crate::options::Options;
use crate::peers::{Peer, Spent};
use crate::runtimes;
use crate::table::Cell;

/// Columns of the kept-alive rows.
pub(super) const COLUMNS: &[&str] = &[
    "c=1 p50 µs",
    "c=1 p99 µs",
    "c=64 req/s",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "CPU µs/req (c=64)",
    "CPU µs/req (c=1)",
    "open loop p50 µs",
    "p99 µs",
    "p99.9 µs",
    "errors",
];

/// Time for caches, pools and windows to settle.
const WARM_UP: Duration = Duration::from_millis(500);
/// Connections of the loaded measurement.
const MANY: usize = 64;
/// Connections at a time when each request has its own.
const FRESH: usize = 16;

/// One connection, then 64, then an open loop at a fixed rate.
pub(super) fn kept(peer: &Peer, options: &Options) -> Result<Vec<Cell>, String> {
    let load = HttpLoad::get(peer.web, &peer.host, "/").duration(options.duration());
    let (one, one_spent) = run(peer, &load, None)?;
    let (many, many_spent) = run(peer, &load.clone().connections(MANY), None)?;
    let (open, _) = run(peer, &load.connections(MANY), Some(options.rate))?;
    Ok(vec![
        Cell::micros(one.latency.quantile(0.5)),
        Cell::micros(one.latency.quantile(0.99)),
        Cell::Number(many.rate(), 0),
        Cell::micros(many.latency.quantile(0.5)),
        Cell::micros(many.latency.quantile(0.99)),
        Cell::micros(many.latency.quantile(0.999)),
        per_request(many_spent, &many),
        per_request(one_spent, &one),
        Cell::micros(open.latency.quantile(0.5)),
        Cell::micros(open.latency.quantile(0.99)),
        Cell::micros(open.latency.quantile(0.999)),
        Cell::count(one.errors + many.errors + open.errors),
    ])
}

/// A new connection for each request.
pub(super) fn fresh(peer: &Peer, options: &Options) -> Result<Vec<Cell>, String> {
    let load = HttpLoad::get_fresh(peer.web, &peer.host, "/").connections(FRESH).duration(options.duration());
    let (report, spent) = run(peer, &load, None)?;
    Ok(vec![
        Cell::Number(report.rate(), 0),
        Cell::micros(report.latency.quantile(0.5)),
        Cell::micros(report.latency.quantile(0.99)),
        per_request(spent, &report),
        Cell::count(report.errors),
    ])
}

/// The time from the first packet of a connection to the first byte of its answer.
pub(super) fn first_byte(peer: &Peer, options: &Options) -> Result<Vec<Cell>, String> {
    let load = HttpLoad::get_fresh(peer.web, &peer.host, "/").duration(options.duration());
    let (report, spent) = run(peer, &load, None)?;
    Ok(vec![
        Cell::micros(report.first_byte.quantile(0.5)),
        Cell::micros(report.first_byte.quantile(0.99)),
        Cell::micros(report.first_byte.quantile(0.999)),
        per_request(spent, &report),
        Cell::count(report.errors),
    ])
}

fn run(peer: &Peer, load: &HttpLoad, rate: Option<f64>) -> Result<(Report, Spent), String> {
    runtimes::single()?.block_on(async {
        load.clone().duration(WARM_UP).closed().await;
        let mark = peer.mark();
        let report = match rate {
            None => load.closed().await,
            Some(rate) => load.open(rate).await,
        };
        match report.requests {
            0 => Err(format!("no request was answered: {}", report.first_error.unwrap_or_default())),
            _ => Ok((report, peer.since(mark))),
        }
    })
}

fn per_request(spent: Spent, report: &Report) -> Cell {
    Cell::Number(spent.cpu.as_secs_f64() * 1e6 / report.requests as f64, 1)
}
