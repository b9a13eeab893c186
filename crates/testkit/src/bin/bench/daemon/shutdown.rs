//! The end of a daemon: with nothing to wait for, with clients that go when they are told, with clients that do not.

use std::time::{Duration, Instant};

use testkit::load::Idle;
use testkit::process::Process;
use tokio::time::timeout;

use super::stand::{DEADLINE, Daemon, Kind, Peer, Stand};
use super::{Figure, millis, told};
use crate::asked::Options;
use crate::runtimes;

/// Forwards, every other one over SSH.
const FORWARDS: usize = 50;
/// What localport says of itself.
const PUBLISHED: f64 = 2840.0;
/// How long the end of a daemon with clients that stay is waited for: its phases, and a little.
const STAYING: Duration = Duration::from_secs(40);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("a live stream on each, which its client ends when told, ms", 1).values(1000.0, 300.0),
    Figure::lower("no stream, ms", 1).values(150.0, 30.0),
    Figure::lower("streams that nobody ends, second signal at once, ms", 1),
    Figure::lower("streams that nobody ends, one signal, ms", 0),
];

/// Who ends the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    /// There are none.
    None,
    /// Their clients, when the signal is sent.
    Told,
    /// Nobody; the signal comes twice.
    Twice,
    /// Nobody.
    Stay,
}

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    if peer == Peer::Localport {
        return Ok(vec![PUBLISHED, f64::NAN, f64::NAN, f64::NAN]);
    }
    let mut values = Vec::new();
    for streams in [Streams::Told, Streams::None, Streams::Twice, Streams::Stay] {
        // That is ten seconds by design: it shows nothing more the second time.
        values.push(match streams == Streams::Stay && options.quick {
            true => f64::NAN,
            false => millis(end(stand, streams)?),
        });
    }
    Ok(values)
}

fn end(stand: &Stand, streams: Streams) -> Result<Duration, String> {
    let kinds: Vec<Kind> = (0..FORWARDS).map(|at| if at % 2 == 0 { Kind::Tcp } else { Kind::Ssh }).collect();
    let daemon = stand.daemon(&kinds, "")?;
    let runtime = runtimes::apart(1)?;
    let mut open = Vec::new();
    if streams != Streams::None {
        for addr in &daemon.addrs {
            let idle = runtime.block_on(Idle::open(*addr, 1));
            if idle.errors > 0 {
                return Err(daemon.failed(&idle.first_error.unwrap_or_default()));
            }
            open.push(idle);
        }
    }
    let start = Instant::now();
    daemon.process().terminate().map_err(told)?;
    match streams {
        Streams::Told => open.clear(),
        Streams::Twice => {
            // Two signals at the same moment are one.
            runtime.block_on(heard(&daemon))?;
            daemon.process().terminate().map_err(told)?;
        }
        Streams::None | Streams::Stay => {}
    }
    ended(daemon.process(), start).map_err(|error| daemon.failed(&error))
}

/// Waits until it has heard the signal: it takes nothing new.
async fn heard(daemon: &Daemon) -> Result<(), String> {
    let refused = async {
        while let Some(addr) = daemon.addrs.first() {
            if tokio::net::TcpStream::connect(addr).await.is_err() {
                return;
            }
        }
    };
    timeout(DEADLINE, refused).await.map_err(|_| daemon.failed(&"it went on taking connections"))
}

fn ended(process: &Process, start: Instant) -> Result<Duration, String> {
    process.wait(STAYING).map_err(told)?;
    Ok(start.elapsed())
}
