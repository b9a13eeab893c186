//! Memory and wake-ups of a daemon that nobody uses.

use std::fs;
use std::time::Duration;

use super::Figure;
use super::stand::{DEADLINE, Daemon, Kind, Peer, Stand};
use crate::asked::Options;
use crate::k8s::load;
use crate::runtimes;

/// Forwards, a third of each kind.
const FORWARDS: usize = 200;
/// What a start leaves to do is done after this.
const SETTLED: Duration = Duration::from_secs(3);
/// How long wake-ups are counted.
const WINDOW: u64 = 10_000;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("on demand, none ever used: resident MB", 1).values(40.0, 20.0),
    Figure::lower("the same: wake-ups/s", 2).values(5.0, 1.0),
    Figure::lower("the same: private MB", 1),
    Figure::lower("start: always, TCP and SSH, each used once: resident MB", 1).values(40.0, 20.0),
    Figure::lower("the same: wake-ups/s", 2).values(5.0, 1.0),
    Figure::lower("the same: private MB", 1),
    Figure::lower("threads", 0),
];

/// One round.
pub(super) fn measure(stand: &Stand, _: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let kinds: Vec<Kind> = (0..FORWARDS).map(|at| [Kind::Tcp, Kind::Ssh, Kind::Kubernetes][at % 3]).collect();
    let mut values = costs(&stand.daemon(&kinds, "")?, options)?;
    let kinds: Vec<Kind> = (0..FORWARDS).map(|at| [Kind::Tcp, Kind::Ssh][at % 2]).collect();
    let daemon = stand.daemon(&kinds, ", start: always")?;
    for addr in &daemon.addrs {
        load::echo(*addr, DEADLINE).map_err(|error| daemon.failed(&error))?;
    }
    values.extend(costs(&daemon, options)?);
    values.push(daemon.process().usage().threads as f64);
    Ok(values)
}

fn costs(daemon: &Daemon, options: &Options) -> Result<Vec<f64>, String> {
    runtimes::pass(SETTLED)?;
    let pid = daemon.process().pid();
    let (window, before) = (options.window(WINDOW), wake_ups(pid));
    runtimes::pass(window)?;
    let rate = wake_ups(pid).saturating_sub(before) as f64 / window.as_secs_f64();
    let usage = daemon.process().usage();
    Ok(vec![usage.resident as f64 / 1e6, rate, usage.private as f64 / 1e6])
}

/// How often its threads have gone to sleep so far, which is how often they were woken.
fn wake_ups(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_task = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    tasks.filter_map(|task| of_task(fs::read_to_string(task.path().join("status")).ok()?)).sum()
}
