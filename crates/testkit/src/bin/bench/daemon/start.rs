//! From the start of the process until the daemon is ready.

use std::time::{Duration, Instant};

use testkit::process::{self, Process};

use super::stand::{DEADLINE, Kind, Peer, Stand};
use super::{Figure, millis, told};
use crate::asked::Options;
use crate::k8s::figures::median;

/// Forwards.
const FORWARDS: usize = 50;
/// Starts in a round.
const STARTS: usize = 8;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("process start to READY=1, ms", 1).values(150.0, 40.0),
    Figure::lower("`adit daemon start` until it returns, ms", 1).values(150.0, 40.0),
    Figure::lower("CPU until ready, ms", 0),
    Figure::lower("adit --version, ms", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, _: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let kinds: Vec<Kind> = (0..FORWARDS).map(|at| [Kind::Tcp, Kind::Ssh, Kind::Kubernetes][at % 3]).collect();
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..options.count(STARTS) {
        let daemon = stand.daemon(&kinds, "")?;
        let cpu = daemon.process().usage().cpu;
        let background = background(stand, &kinds)?;
        let version = Instant::now();
        let process = Process::start(&mut stand.adit(daemon.home(), &["--version"])).map_err(told)?;
        process.wait_line(DEADLINE, |_| true).map_err(told)?;
        let each = [daemon.ready_in, background, cpu, version.elapsed()];
        for (all, time) in times.iter_mut().zip(each) {
            all.push(millis(time));
        }
    }
    Ok(times.map(|all| median(all).unwrap_or(f64::NAN)).to_vec())
}

/// As a user starts it: what the command takes until the prompt is back.
fn background(stand: &Stand, kinds: &[Kind]) -> Result<Duration, String> {
    let (home, _) = stand.home(kinds, "")?;
    let run = |arguments: &[&str]| {
        let mut command = stand.adit(&home, arguments);
        let start = Instant::now();
        let (status, process) = process::run(&mut command, b"", DEADLINE).map_err(told)?;
        match status.success() {
            true => Ok(start.elapsed()),
            false => Err(format!("{arguments:?}: {}", process.output())),
        }
    };
    let started = run(&["daemon", "start"])?;
    run(&["daemon", "stop"])?;
    Ok(started)
}
