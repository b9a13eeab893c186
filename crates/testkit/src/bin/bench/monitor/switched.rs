//! What the monitor adds to a connection, in one process that watches all the time and takes its programs off and on.
//!
//! A shared machine is a tenth slower or faster from one moment to the next, and for some hundredths of a second after a
//! program was attached everything is (half a microsecond a connection, also with programs that return at once). So there
//! is a pause after each switch, and beside each connection two that no program sees, of local sockets, are made: what is
//! compared is how many of these a connection costs.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use super::stand::{BEAT, RATE, Stand, rest, spent, usual};
use super::{Figure, told};
use crate::asked::Options;
use crate::k8s::figures::median;
use crate::runtimes;

/// Connections of a block: a quarter of a second of 20,000 a second.
const BLOCK: usize = 5_000;
/// Blocks with the programs, in a round, for each pace.
const PAIRS: usize = 20;
/// After a switch.
const PAUSE: Duration = Duration::from_millis(100);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("20,000/s: without, µs a connection", 2),
    Figure::lower("20,000/s: added, µs a connection", 2),
    Figure::lower("20,000/s: added, %", 2).values(3.0, 1.0),
    Figure::lower("20,000/s: its standard error, %", 2),
    Figure::lower("as fast as it goes: without, µs a connection", 2),
    Figure::lower("as fast as it goes: added, µs a connection", 2),
    Figure::lower("as fast as it goes: added, %", 2),
    Figure::lower("as fast as it goes: its standard error, %", 2),
];

/// One round.
pub(super) fn measure(stand: &Stand, options: &Options) -> Result<Vec<f64>, String> {
    let load = Load::build()?;
    let mut watcher = stand.switched()?;
    let mut values = Vec::new();
    for paced in [true, false] {
        let mut one = |on: bool| {
            watcher.switch(on)?;
            runtimes::pass(PAUSE)?;
            load.block(paced)
        };
        let (mut without, mut added) = (Vec::new(), Vec::new());
        let mut before = one(false)?;
        for _ in 0..options.count(PAIRS) {
            let with = one(true)?;
            let after = one(false)?;
            added.push((with.others() / before.others().midpoint(after.others()) - 1.0) * 100.0);
            without.push(before.connection.midpoint(after.connection));
            before = after;
        }
        let (without, error) = (median(without).unwrap_or(f64::NAN), error_of_median(&mut added));
        let added = median(added).unwrap_or(f64::NAN);
        values.extend([without, added / 100.0 * without, added, error]);
    }
    watcher.end()?;
    Ok(values)
}

/// The standard error of the median, from the middle half as if it were normal: single blocks are far off.
fn error_of_median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let middle = values[count * 3 / 4] - values[count / 4];
    1.253 * middle / 1.349 / (count as f64).sqrt()
}

/// Connections that the programs see, and others.
struct Load {
    seen: TcpListener,
    others: UnixListener,
    path: PathBuf,
    /// Where the thread may run otherwise: it keeps to one processor meanwhile.
    processors: CpuSet,
    _directory: TempDir,
}

/// What one of each has taken, in microseconds.
#[derive(Clone, Copy)]
struct Taken {
    connection: f64,
    other: f64,
}

impl Taken {
    /// How many of the others a connection costs.
    fn others(self) -> f64 {
        self.connection / self.other
    }
}

impl Load {
    fn build() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(told)?;
        let path = directory.path().join("other");
        let others = UnixListener::bind(&path).map_err(told)?;
        let seen = TcpListener::bind("127.0.0.1:0").map_err(told)?;
        let processors = sched_getaffinity(None).map_err(told)?;
        let mut last = CpuSet::new();
        last.set((0..CpuSet::MAX_CPU).rev().find(|one| processors.is_set(*one)).unwrap_or_default());
        sched_setaffinity(None, &last).map_err(told)?;
        Ok(Self { seen, others, path, processors, _directory: directory })
    }

    /// One block, at the pace or as fast as it goes.
    fn block(&self, paced: bool) -> Result<Taken, String> {
        let address = self.seen.local_addr().map_err(told)?;
        let (mut connections, mut others) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
        let start = Instant::now();
        for done in 0..BLOCK {
            let first = spent();
            let client = TcpStream::connect(address).map_err(told)?;
            let served = self.seen.accept().map_err(told)?;
            drop(client);
            drop(served);
            let second = spent();
            other(&self.others, &self.path)?;
            other(&self.others, &self.path)?;
            connections.push(second - first);
            others.push((spent() - second) / 2.0);
            let due = Duration::from_secs_f64((done + 1) as f64 / RATE as f64);
            if let Some(early) = due.checked_sub(start.elapsed()).filter(|early| paced && *early >= BEAT) {
                rest(early);
            }
        }
        Ok(Taken { connection: usual(connections), other: usual(others) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Of this thread, which goes on to other rows.
        let _ = sched_setaffinity(None, &self.processors);
    }
}

/// A connection of local sockets: the same four calls.
fn other(listener: &UnixListener, path: &Path) -> Result<(), String> {
    let client = UnixStream::connect(path).map_err(told)?;
    let served = listener.accept().map_err(told)?;
    drop(client);
    drop(served);
    Ok(())
}
