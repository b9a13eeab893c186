//! Small requests: on new connections, on kept ones, one at a time and fifty.

use std::time::{Duration, Instant};

use testkit::load::Histogram;

use super::client::{Forward, Stand, Who};
use super::figures::Figure;
use super::home::BUSY;
use super::load::{self, Load};
use super::options::Options;
use crate::runtimes;

/// New connections of a round.
const CONNECTIONS: usize = 400;
/// Connections that are not counted, for caches and pools to warm.
const WARM: usize = 20;
/// Connections of the load.
const WORKERS: usize = 50;
/// Time before the load is counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// Longest wait for one exchange.
const DEADLINE: Duration = Duration::from_secs(10);

/// New connections.
pub(super) const NEW_FIGURES: &[Figure] = &[
    Figure::lower("p50, ms", 3).times(0.6, 0.4),
    Figure::lower("p99, ms", 3),
    Figure::lower("client CPU a connection, µs", 0),
];
/// One kept connection.
pub(super) const KEPT_FIGURES: &[Figure] = &[Figure::lower("p50, ms", 3).times(0.9, 0.7), Figure::lower("p99, ms", 3)];
/// Fifty kept connections.
pub(super) const LOAD_FIGURES: &[Figure] = &[
    Figure::lower("client CPU a request, µs", 1).times(0.5, 0.25),
    Figure::higher("requests a second", 0).times(2.0, 4.0),
    Figure::lower("failed", 0),
];
/// Fifty workers with a connection for each request.
pub(super) const FRESH_FIGURES: &[Figure] = &[
    Figure::lower("client CPU a connection, µs", 0).times(0.4, 0.2),
    Figure::higher("connections a second", 0),
    Figure::lower("failed", 0),
];

/// One round of new connections.
pub(super) fn new_connections(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    let forward = stand.forward(who, "web")?;
    let mut times = Histogram::default();
    let count = options.count(CONNECTIONS);
    let mut cpu = forward.cpu();
    for number in 0..WARM + count {
        if number == WARM {
            cpu = forward.cpu();
        }
        let time = load::request(forward.web, DEADLINE).map_err(|error| failed(&error, &forward))?;
        if number >= WARM {
            times.record(time);
        }
    }
    let cpu = forward.cpu().saturating_sub(cpu);
    Ok(vec![millis(times.quantile(0.5)), millis(times.quantile(0.99)), micros(cpu, count as u64)])
}

/// One round of requests on one connection.
pub(super) fn kept(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    let forward = stand.forward(who, "web")?;
    let mut stream = load::open(forward.web, DEADLINE).map_err(|error| failed(&error, &forward))?;
    let mut times = Histogram::default();
    let (start, window) = (Instant::now(), options.window(2000));
    while start.elapsed() < window {
        let begun = Instant::now();
        times.record(load::exchange(&mut stream, begun).map_err(|error| failed(&error, &forward))?);
    }
    Ok(vec![millis(times.quantile(0.5)), millis(times.quantile(0.99))])
}

/// One round of fifty kept connections.
pub(super) fn load(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    many(stand, who, options, false)
}

/// One round of fifty workers with a connection for each request.
pub(super) fn fresh(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    many(stand, who, options, true)
}

fn many(stand: &Stand, who: Who, options: &Options, fresh: bool) -> Result<Vec<f64>, String> {
    // Fifty at a time are a matter of CPU, of which the pod's service has none on this machine; see `home::BUSY`.
    let forward = stand.forward(who, if fresh { "web" } else { BUSY })?;
    let load = Load::start(forward.web, WORKERS, fresh)?;
    runtimes::pass(WARM_UP)?;
    let (cpu, served, failed) = (forward.cpu(), load.served(), load.failed());
    let rate = load.rate(options.window(3000))?;
    let cpu = forward.cpu().saturating_sub(cpu);
    let (served, failed) = (load.served() - served, load.failed() - failed);
    if served == 0 {
        return Err(format!("nothing was served; its output:\n{}", forward.output()));
    }
    Ok(vec![micros(cpu, served), rate, failed as f64])
}

fn failed(error: &std::io::Error, forward: &Forward) -> String {
    format!("{error}; its output:\n{}", forward.output())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / count.max(1) as f64
}
