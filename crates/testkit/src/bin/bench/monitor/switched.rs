//! What the monitor adds to a connection, in one process that watches all the time and takes its programs off and on.
//!
//! A shared machine is a tenth slower or faster from one moment to the next, and for some hundredths of a second after a
//! program was attached everything is (half a microsecond a connection, also with programs that return at once). So there
//! is a pause after each switch, and beside the connections others that no program sees, of local sockets, are made: what is
//! compared is how many of these a connection costs.

use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::stand::{Stand, keep_pace, usual};
use super::{Figure, told};
use crate::asked::Options;
use crate::k8s::figures::median;
use crate::runtimes;

/// Connections of a block: a tenth of a second of 20,000 a second. Many short blocks say more than few long ones.
const BLOCK: usize = 2_000;
/// Blocks with the programs, in a round, at the pace, and as fast as it goes.
const PAIRS: [usize; 2] = [60, 20];
/// After a switch.
const PAUSE: Duration = Duration::from_millis(100);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::higher("20,000/s: connections/s that were made", 0),
    Figure::lower("20,000/s: without, µs a connection", 2),
    Figure::lower("20,000/s: added, µs a connection", 2),
    Figure::lower("20,000/s: added, %", 2).values(3.0, 1.0),
    Figure::lower("20,000/s: its standard error, %", 2),
    Figure::higher("as fast as it goes: connections/s that were made", 0),
    Figure::lower("as fast as it goes: without, µs a connection", 2),
    Figure::lower("as fast as it goes: added, µs a connection", 2),
    Figure::lower("as fast as it goes: added, %", 2),
    Figure::lower("as fast as it goes: its standard error, %", 2),
];

/// Who makes connections, and beside them as many others that the programs do not see.
pub(super) trait Load {
    /// How many of each in one step.
    const STEP: usize;

    /// One step: what one of each has taken.
    fn step(&mut self) -> Result<Taken, String>;
}

/// What one connection has taken and one of the others, in microseconds of processor time.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) connection: f64,
    pub(super) other: f64,
}

impl Taken {
    /// How many of the others a connection costs.
    fn others(self) -> f64 {
        self.connection / self.other
    }
}

/// One round. The monitor is started first: where the load keeps to a processor, it does not.
pub(super) fn measure<L: Load>(
    stand: &Stand,
    options: &Options,
    build: fn() -> Result<L, String>,
) -> Result<Vec<f64>, String> {
    let mut watcher = stand.switched()?;
    let mut load = build()?;
    let mut values = Vec::new();
    for (paced, pairs) in [true, false].into_iter().zip(PAIRS) {
        let mut rates = Vec::new();
        let mut one = |on: bool| {
            watcher.switch(on)?;
            runtimes::pass(PAUSE)?;
            let (taken, rate) = block(&mut load, paced)?;
            rates.push(rate);
            Ok::<Taken, String>(taken)
        };
        let (mut without, mut added) = (Vec::new(), Vec::new());
        let mut before = one(false)?;
        for _ in 0..options.count(pairs) {
            let with = one(true)?;
            let after = one(false)?;
            added.push((with.others() / before.others().midpoint(after.others()) - 1.0) * 100.0);
            without.push(before.connection.midpoint(after.connection));
            before = after;
        }
        let (without, error) = (median(without).unwrap_or(f64::NAN), error_of_median(&mut added));
        let added = median(added).unwrap_or(f64::NAN);
        let rate = median(rates).unwrap_or(f64::NAN);
        values.extend([rate, without, added / 100.0 * without, added, error]);
    }
    watcher.end()?;
    Ok(values)
}

/// One block, at the pace or as fast as it goes, and how many connections a second these were.
fn block<L: Load>(load: &mut L, paced: bool) -> Result<(Taken, f64), String> {
    let steps = BLOCK / L::STEP;
    let (mut connections, mut others) = (Vec::with_capacity(steps), Vec::with_capacity(steps));
    let start = Instant::now();
    for done in 1..=steps {
        let taken = load.step()?;
        connections.push(taken.connection);
        others.push(taken.other);
        if paced {
            keep_pace(start, done * L::STEP);
        }
    }
    let rate = BLOCK as f64 / start.elapsed().as_secs_f64();
    Ok((Taken { connection: usual(connections), other: usual(others) }, rate))
}

/// The standard error of the median, from the middle half as if it were normal: single blocks are far off.
fn error_of_median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let middle = values[count * 3 / 4] - values[count / 4];
    1.253 * middle / 1.349 / (count as f64).sqrt()
}

/// A thread that keeps to one processor meanwhile.
pub(super) struct Kept {
    /// Where it may run otherwise.
    before: CpuSet,
}

/// The processors that this thread may use.
pub(super) fn processors() -> Result<Vec<usize>, String> {
    let all = sched_getaffinity(None).map_err(told)?;
    Ok((0..CpuSet::MAX_CPU).filter(|one| all.is_set(*one)).collect())
}

impl Kept {
    /// Keeps this thread to a processor.
    pub(super) fn to(processor: usize) -> Result<Self, String> {
        let before = sched_getaffinity(None).map_err(told)?;
        let mut one = CpuSet::new();
        one.set(processor);
        sched_setaffinity(None, &one).map_err(told)?;
        Ok(Self { before })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It goes on to other rows.
        let _ = sched_setaffinity(None, &self.before);
    }
}
