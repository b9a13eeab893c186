//! Requests on kept connections.

use std::time::Duration;

use testkit::load::HttpLoad;

use super::Figure;
use super::stand::{Peer, Stand, micros};
use crate::asked::Options;
use crate::runtimes;

/// Connections.
const CONNECTIONS: usize = 64;
/// Time for pools to fill.
const WARM_UP: Duration = Duration::from_millis(500);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::higher("requests per CPU second", 0).times(Peer::Nginx, 0.6, 1.0),
    Figure::lower("CPU µs/request", 1),
    Figure::higher("requests/s", 0),
    Figure::lower("p50 µs", 0),
    Figure::lower("p99 µs", 0),
    Figure::lower("failed", 0),
];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let entrance = stand.http(peer)?;
    let load = HttpLoad::get(entrance.addr, &entrance.host, "/").connections(CONNECTIONS);
    let runtime = runtimes::single()?;
    runtime.block_on(load.clone().duration(WARM_UP).closed());
    let before = entrance.cpu();
    let report = runtime.block_on(load.duration(options.window(3000)).closed());
    let cpu = entrance.cpu().saturating_sub(before);
    if report.requests == 0 {
        return Err(entrance.failed(&report.first_error.unwrap_or_default()));
    }
    Ok(vec![
        report.requests as f64 / cpu.as_secs_f64(),
        micros(cpu, report.requests),
        report.rate(),
        report.latency.quantile(0.5).as_secs_f64() * 1e6,
        report.latency.quantile(0.99).as_secs_f64() * 1e6,
        report.errors as f64,
    ])
}
