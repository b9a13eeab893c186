//! The SSH server goes away with all its connections, and comes back.

use std::time::{Duration, Instant};

use super::stand::{DEADLINE, Kind, Peer, Stand};
use super::{Figure, millis};
use crate::asked::Options;
use crate::k8s::load;
use crate::runtimes;

/// How often a client that does not give up asks.
const ASK: Duration = Duration::from_millis(20);
/// How long the server is away, and whether clients ask meanwhile: started again at once, and long enough for pauses
/// between attempts to grow.
const AWAY: [(Duration, bool); 4] = [
    (Duration::from_millis(300), false),
    (Duration::from_millis(300), true),
    (Duration::from_secs(6), true),
    (Duration::from_secs(20), false),
];

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("away 0.3 s, nobody asked meanwhile, ms", 0).values(2000.0, 300.0),
    Figure::lower("away 0.3 s, a client asks all the time, ms", 0).values(2000.0, 300.0),
    Figure::lower("away 6 s, a client asks all the time, ms", 0).values(2000.0, 300.0),
    Figure::lower("away 20 s, nobody asked meanwhile, ms", 0).values(2000.0, 300.0),
];

/// One round.
pub(super) fn measure(stand: &Stand, _: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let shorter = if options.quick { 3 } else { 1 };
    AWAY.iter().map(|(away, asked)| back(stand, *away / shorter, *asked).map(millis)).collect()
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
