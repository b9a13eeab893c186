//! What a forward keeps in memory.

use std::time::Duration;

use testkit::load::Idle;

use super::client::{Stand, Who};
use super::figures::Figure;
use super::options::Options;
use crate::runtimes;

/// Open streams.
const STREAMS: usize = 500;
/// Time after which memory is looked at.
const SETTLED: Duration = Duration::from_millis(500);
/// Bytes of a MiB.
const MIB: f64 = (1 << 20) as f64;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("at start, MiB", 1).values(20.0, 10.0),
    Figure::lower("with 500 streams, MiB", 1).values(40.0, 20.0),
    Figure::lower("a stream, KiB", 1),
    Figure::lower("private at start, MiB", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, who: Who, _: &Options) -> Result<Vec<f64>, String> {
    let forward = stand.forward(who, "web")?;
    runtimes::pass(SETTLED)?;
    let before = forward.usage();
    let runtime = runtimes::apart(1)?;
    let idle = runtime.block_on(Idle::open(forward.raw, STREAMS));
    if idle.errors > 0 {
        let first = idle.first_error.unwrap_or_default();
        return Err(format!("{} of {STREAMS} streams did not open ({first})\n{}", idle.errors, forward.output()));
    }
    runtimes::pass(SETTLED)?;
    let after = forward.usage();
    let each = after.resident.saturating_sub(before.resident) as f64 / 1024.0 / STREAMS as f64;
    Ok(vec![before.resident as f64 / MIB, after.resident as f64 / MIB, each, before.private as f64 / MIB])
}
