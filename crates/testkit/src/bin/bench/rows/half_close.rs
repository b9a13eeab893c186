//! Ends that come one direction at a time, and whether every byte arrives.

use std::time::Duration;

use testkit::load::{half_close, noise_echo};

use crate::options::Options;
use crate::peers::Peer;
use crate::runtimes;
use crate::table::{Cell, note};

/// Columns of the row.
pub(super) const COLUMNS: &[&str] = &["passed", "failed", "8 × 8 MB equal"];

/// Each case may take this long.
const DEADLINE: Duration = Duration::from_secs(10);

/// All six cases and the noise.
pub(super) fn all(peer: &Peer, _: &Options) -> Result<Vec<Cell>, String> {
    let addr = peer.raw.ok_or_else(|| format!("{} carries no streams", peer.name))?;
    let runtime = runtimes::apart(2)?;
    let results = runtime.block_on(half_close(addr, DEADLINE));
    let failed: Vec<&str> = results.iter().filter(|(_, result)| result.is_err()).map(|(case, _)| *case).collect();
    for (case, result) in &results {
        if let Err(error) = result {
            note(&format!("  {} {case}: {error}", peer.name));
        }
    }
    let equal = runtime.block_on(noise_echo(addr, 8, 8_000_000));
    Ok(vec![
        Cell::count((results.len() - failed.len()) as u64),
        Cell::Text(if failed.is_empty() { "–".to_owned() } else { failed.join(", ") }),
        Cell::Text(format!("{equal}/8")),
    ])
}
