//! The SSH server goes away with all its connections, and comes back.

use std::time::{Duration, Instant};

use super::stand::{DEADLINE, Kind, Peer, Stand};
use super::{Figure, millis};
use crate::asked::Options;
use crate::k8s::load;
use crate::runtimes;

/// How often a client that does not give up asks.
const ASK: Duration = Duration::from_millis(20);
/// How long the server is away: started again at once, and long enough for pauses between attempts to grow.
const AWAY: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(6)];

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("away 0.3 s, nobody asked meanwhile, ms", 1).values(2000.0, 300.0),
    Figure::lower("away 0.3 s, a client asks all the time, ms", 1).values(2000.0, 300.0),
    Figure::lower("away 6 s, nobody asked meanwhile, ms", 1).values(2000.0, 300.0),
    Figure::lower("away 6 s, a client asks all the time, ms", 1).values(2000.0, 300.0),
];

/// One round.
pub(super) fn measure(stand: &Stand, _: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let mut values = Vec::new();
    for away in AWAY {
        for asked in [false, true] {
            let away = if options.quick { away / 3 } else { away };
            values.push(millis(back(stand, away, asked)?));
        }
    }
    Ok(values)
}

fn back(stand: &Stand, away: Duration, asked: bool) -> Result<Duration, String> {
    let daemon = stand.daemon(&[Kind::Ssh], ", start: always")?;
    let addr = *daemon.addrs.first().ok_or("no forward")?;
    load::echo(addr, DEADLINE).map_err(|error| daemon.failed(&error))?;
    stand.runtime.block_on(stand.sshd.kill());
    let end = Instant::now() + away;
    while Instant::now() < end {
        if asked {
            // It fails: that is the point.
            let _ = load::echo(addr, end.saturating_duration_since(Instant::now()).max(ASK));
        }
        runtimes::pass(if asked { ASK } else { away })?;
    }
    stand.runtime.block_on(stand.sshd.restart());
    let start = Instant::now();
    while let Err(error) = load::echo(addr, DEADLINE) {
        if start.elapsed() > DEADLINE {
            return Err(daemon.failed(&error));
        }
        runtimes::pass(ASK / 4)?;
    }
    Ok(start.elapsed())
}
