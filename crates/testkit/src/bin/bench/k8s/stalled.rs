//! What fifty active streams lose beside one download that nobody reads.

use std::time::Duration;

use testkit::load::StalledReaders;

use super::client::{Forward, Stand, Who};
use super::figures::Figure;
use super::load::Load;
use super::options::Options;
use crate::runtimes;

/// Active streams.
const WORKERS: usize = 50;
/// Pairs of windows, without and with the stalled stream.
const PAIRS: usize = 2;
/// Time for a load to run evenly.
const WARM_UP: Duration = Duration::from_millis(300);
/// Time for all buffers in front of the stalled one to fill.
const FILL: Duration = Duration::from_millis(800);

/// Time for a client to be rid of a stalled stream whose reader has gone: the cluster gives it a second.
const RECOVER: Duration = Duration::from_millis(1500);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("rate lost, opened before the 50, %", 1).values(5.0, 1.0),
    Figure::lower("rate lost, opened beside the 50, %", 1).values(5.0, 1.0),
    Figure::lower("failed", 0),
    Figure::higher("requests a second, none stalled", 0),
];

/// One round.
pub(super) fn measure(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    let forward = stand.forward(who, "web")?;
    let runtime = runtimes::apart(1)?;
    let stall = || {
        let opened = runtime.block_on(StalledReaders::open(forward.raw, 1)).map_err(|error| error.to_string());
        opened.and_then(|stalled| runtimes::pass(FILL).map(|()| stalled))
    };
    let window = options.window(1000);
    let (mut failed, mut free, mut beside) = (0, 0.0, 0.0);
    for _ in 0..PAIRS {
        free += anew(&forward, window, &mut failed)?;
        let stalled = stall()?;
        beside += anew(&forward, window, &mut failed)?;
        drop(stalled);
        runtimes::pass(RECOVER)?;
    }
    let before = lost(free, beside);

    let load = Load::start(forward.web, WORKERS, false)?;
    let (mut free, mut beside) = (0.0, 0.0);
    runtimes::pass(WARM_UP)?;
    for _ in 0..PAIRS {
        free += load.rate(window)?;
        let stalled = stall()?;
        beside += load.rate(window)?;
        drop(stalled);
        runtimes::pass(RECOVER)?;
    }
    failed += load.failed();
    Ok(vec![before, lost(free, beside), failed as f64, free / PAIRS as f64])
}

/// The rate of fifty new connections.
fn anew(forward: &Forward, window: Duration, failed: &mut u64) -> Result<f64, String> {
    let load = Load::start(forward.web, WORKERS, false)?;
    runtimes::pass(WARM_UP)?;
    let rate = load.rate(window)?;
    *failed += load.failed();
    Ok(rate)
}

fn lost(free: f64, beside: f64) -> f64 {
    (1.0 - beside / free.max(1e-9)) * 100.0
}
