//! What a peer adds to the time of a request when it is not busy.

use std::time::Duration;

use testkit::load::{Histogram, HttpLoad};

use super::Figure;
use super::stand::{Entrance, Peer, Stand, millis};
use crate::asked::Options;
use crate::runtimes;

/// Requests a second.
const RATE: f64 = 1000.0;
/// Connections that wait for their turn to send.
const CONNECTIONS: usize = 32;
/// Turns of a peer and the bare service, so that other work on the machine meets both.
const TURNS: u32 = 4;
/// Time for pools to fill.
const WARM_UP: Duration = Duration::from_millis(200);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("added at p99, ms", 3).values(2.0, 0.5),
    Figure::lower("added at p50, ms", 3),
    Figure::lower("p99, ms", 3),
    Figure::lower("p50, ms", 3),
    Figure::lower("failed", 0),
];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let (direct, entrance) = (stand.http(Peer::Direct)?, stand.http(peer)?);
    let runtime = runtimes::single()?;
    let (mut bare, mut through, mut failed) = (Histogram::default(), Histogram::default(), 0);
    for _ in 0..TURNS {
        for (at, times) in [(&direct, &mut bare), (&entrance, &mut through)] {
            let load = load(at);
            runtime.block_on(load.clone().duration(WARM_UP).open(RATE));
            let report = runtime.block_on(load.duration(options.window(4000) / TURNS).open(RATE));
            failed += report.errors;
            times.merge(&report.latency);
        }
    }
    let added = |at: f64| match peer {
        Peer::Direct => f64::NAN,
        _ => millis(through.quantile(at)) - millis(bare.quantile(at)),
    };
    let at = |at: f64| millis(through.quantile(at));
    Ok(vec![added(0.99), added(0.5), at(0.99), at(0.5), failed as f64])
}

fn load(entrance: &Entrance) -> HttpLoad {
    HttpLoad::get(entrance.addr, &entrance.host, "/").connections(CONNECTIONS)
}
