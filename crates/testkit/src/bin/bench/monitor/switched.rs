//! What the monitor adds to a connection, from short blocks that follow each other: in one process that watches all the time
//! the programs are taken off and put on. So both are measured within a few hundredths of a second, on the same machine.

use std::net::TcpListener;

use super::stand::{Stand, Taken, block};
use super::{Figure, told};
use crate::asked::Options;
use crate::k8s::figures::median;

/// Connections of a block: 5 ms of 20,000 a second.
const BLOCK: usize = 100;
/// Before it, as after a switch its code is in no cache.
const BEFORE: usize = 40;
/// Blocks with the programs, in a round, for each pace.
const PAIRS: usize = 400;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("20,000/s: without, µs a connection", 2),
    Figure::lower("20,000/s: added, µs a connection", 2),
    Figure::lower("20,000/s: added, %", 2).values(3.0, 1.0),
    Figure::lower("20,000/s: its standard error, %", 2),
    Figure::lower("20,000/s: added, % of the mean of all, with what the host has taken", 2),
    Figure::lower("as fast as it goes: without, µs a connection", 2),
    Figure::lower("as fast as it goes: added, µs a connection", 2),
    Figure::lower("as fast as it goes: added, %", 2),
    Figure::lower("as fast as it goes: its standard error, %", 2),
    Figure::lower("as fast as it goes: added, % of the mean of all, with what the host has taken", 2),
];

/// One round.
pub(super) fn measure(stand: &Stand, options: &Options) -> Result<Vec<f64>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(told)?;
    let mut watcher = stand.switched()?;
    let mut values = Vec::new();
    for paced in [true, false] {
        let mut one = |on: bool| {
            watcher.switch(on)?;
            block(&listener, BEFORE, paced)?;
            block(&listener, BLOCK, paced)
        };
        let (mut usual, mut all) = (Pairs::default(), Pairs::default());
        let mut before = one(false)?;
        for _ in 0..options.count(PAIRS) {
            let with = one(true)?;
            let after = one(false)?;
            usual.add([before, with, after], |taken| taken.usual);
            all.add([before, with, after], |taken| taken.mean);
            before = after;
        }
        let [without, added, error] = usual.figures();
        let [mean, more, _] = all.figures();
        values.extend([without, added, added / without * 100.0, error / without * 100.0, more / mean * 100.0]);
    }
    watcher.end()?;
    Ok(values)
}

/// Each block with the programs beside those around it.
#[derive(Default)]
struct Pairs {
    without: Vec<f64>,
    added: Vec<f64>,
}

impl Pairs {
    fn add(&mut self, [before, with, after]: [Taken; 3], of: impl Fn(Taken) -> f64) {
        let without = of(before).midpoint(of(after));
        self.without.push(without);
        self.added.push(of(with) - without);
    }

    /// Without, and added with its standard error, all by the median: that of a normal distribution from the middle half,
    /// as single blocks are far off.
    fn figures(mut self) -> [f64; 3] {
        self.added.sort_by(f64::total_cmp);
        let count = self.added.len();
        let middle = self.added[count * 3 / 4] - self.added[count / 4];
        let error = 1.253 * middle / 1.349 / (count as f64).sqrt();
        [median(self.without).unwrap_or(f64::NAN), median(self.added).unwrap_or(f64::NAN), error]
    }
}
