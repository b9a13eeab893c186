//! What a connection costs more while somebody looks at all of them, whoever that is: he is started and ended between two
//! blocks. On a shared machine a second is enough for it to be another, so single rounds say little; see [`super::switched`].

use std::fs;

use super::stand::{Services, Stand, block, end, programs};
use super::{Figure, Peer, told};
use crate::asked::Options;
use crate::k8s::figures::median;

/// Connections of a block.
const BLOCK: usize = 2_000;
/// Blocks with him who looks, in a round, for each pace.
const PAIRS: usize = 12;
/// Where the kernel is told to count how long programs run.
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("20,000/s: without, µs a connection", 2),
    Figure::lower("20,000/s: added, µs a connection", 2),
    Figure::lower("20,000/s: added, %", 2),
    Figure::lower("as fast as it goes: without, µs a connection", 2),
    Figure::lower("as fast as it goes: added, µs a connection", 2),
    Figure::lower("as fast as it goes: added, %", 2),
    Figure::lower("runs of programs, a connection (bpf_stats)", 1),
    Figure::lower("time in programs with the two clock reads of each run, µs a connection (bpf_stats)", 2),
];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let mut services = Services::bind()?;
    let mut values = Vec::new();
    for paced in [true, false] {
        let (mut without, mut added) = (Vec::new(), Vec::new());
        block(&mut services, BLOCK, paced)?;
        let mut before = block(&mut services, BLOCK, paced)?;
        for _ in 0..options.count(PAIRS) {
            let watcher = stand.watcher(peer)?;
            block(&mut services, BLOCK / 20, paced)?;
            let with = block(&mut services, BLOCK, paced)?;
            end(&watcher)?;
            let after = block(&mut services, BLOCK, paced)?;
            added.push(with - before.midpoint(after));
            without.push(before.midpoint(after));
            before = after;
        }
        let (without, added) = (median(without).unwrap_or(f64::NAN), median(added).unwrap_or(f64::NAN));
        values.extend([without, added, added / without * 100.0]);
    }
    values.extend(counted(stand, peer, &mut services)?);
    Ok(values)
}

/// What the kernel counts of the programs' runs itself.
fn counted(stand: &Stand, peer: Peer, services: &mut Services) -> Result<[f64; 2], String> {
    let watcher = stand.watcher(peer)?;
    let was = fs::read_to_string(STATS).map_err(told)?;
    fs::write(STATS, "1").map_err(told)?;
    let before = programs(&watcher);
    let done = block(services, BLOCK, false);
    let after = programs(&watcher);
    fs::write(STATS, was.trim()).map_err(told)?;
    end(&watcher)?;
    done?;
    let count = BLOCK as f64;
    Ok([(after.1 - before.1) / count, (after.0 - before.0) / count / 1e3])
}
