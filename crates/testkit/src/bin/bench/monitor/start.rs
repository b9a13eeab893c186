//! How soon the monitor is ready, and gone.

use std::time::Instant;

use super::Figure;
use super::stand::Stand;
use crate::asked::Options;
use crate::k8s::figures::median;

/// Starts in a round.
const STARTS: usize = 8;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("until /readiness says 200, ms", 0).values(500.0, 150.0),
    Figure::lower("CPU until then, ms", 0),
    Figure::lower("from SIGTERM until it is gone, ms", 0),
    Figure::lower("resident MB", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, options: &Options) -> Result<Vec<f64>, String> {
    let mut all: [Vec<f64>; 4] = Default::default();
    for _ in 0..options.count(STARTS) {
        let monitor = stand.monitor()?;
        let (ready, usage) = (monitor.ready_in, monitor.process.usage());
        let told_to_end = Instant::now();
        monitor.end()?;
        let each = [ready, usage.cpu, told_to_end.elapsed()].map(|time| time.as_secs_f64() * 1e3);
        for (values, value) in all.iter_mut().zip(each.into_iter().chain([usage.resident as f64 / 1e6])) {
            values.push(value);
        }
    }
    Ok(all.map(|values| median(values).unwrap_or(f64::NAN)).to_vec())
}
