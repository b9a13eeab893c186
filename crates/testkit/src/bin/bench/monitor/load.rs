//! What the monitor takes while connections come and go.

use std::time::Instant;

use super::stand::{RATE, Services, Stand, block};
use super::{Figure, told};
use crate::asked::Options;

/// Milliseconds of load.
const WINDOW: u64 = 4_000;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::higher("connections/s that were made", 0),
    Figure::lower("CPU of the monitor, % of a core", 1).values(10.0, 3.0),
    Figure::lower("the same at 20,000/s, by proportion", 1),
    Figure::lower("lost: events, connections, changes", 0).values(0.0, 0.0),
    Figure::lower("ends that were added up by process", 0),
    Figure::lower("resident MB afterwards", 1),
    Figure::lower("largest resident MB", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, options: &Options) -> Result<Vec<f64>, String> {
    let mut services = Services::bind()?;
    let monitor = stand.monitor()?;
    block(&mut services, RATE / 20, true)?;
    let count = RATE * usize::try_from(options.window(WINDOW).as_millis()).map_err(told)? / 1_000;
    let (start, before) = (Instant::now(), monitor.process.usage().cpu);
    block(&mut services, count, true)?;
    let (time, cpu) = (start.elapsed().as_secs_f64(), (monitor.process.usage().cpu - before).as_secs_f64());
    let rate = count as f64 / time;
    let part = cpu / time * 100.0;
    let lost = ["event_no_room", "connection_no_room", "table_connection", "hook_missed", "event_unreadable"];
    let lost = stand.metric(&monitor, "adit_monitor_lost_total", &lost)?;
    let folded = stand.metric(&monitor, "adit_monitor_folded_total", &[])?;
    let usage = monitor.process.usage();
    monitor.end()?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let even = part * RATE as f64 / rate;
    Ok(vec![rate, part, even, lost, folded, megabytes(usage.resident), megabytes(usage.peak)])
}
