//! A change of one forward while streams run through all the others.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::load::Idle;

use super::stand::{Kind, Peer, Stand};
use super::{Figure, millis, told};
use crate::asked::Options;
use crate::k8s::figures::median;
use crate::peers::free_addr;
use crate::runtimes;

/// Forwards.
const FORWARDS: usize = 200;
/// Changes in a round.
const CHANGES: usize = 8;
/// The watch looks at a file that was quiet for 200 ms; the next change comes after that.
const QUIET: Duration = Duration::from_millis(600);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("POST /v1/reload, ms", 2).values(50.0, 10.0),
    Figure::lower("the longest, ms", 2),
    Figure::lower("of 199 streams lost", 0).values(0.0, 0.0),
    Figure::lower("forwards touched beside the changed one", 0).values(0.0, 0.0),
    Figure::lower("reload with nothing changed, ms", 2),
];

/// One round.
pub(super) fn measure(stand: &Stand, _: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let kinds: Vec<Kind> = (0..FORWARDS).map(|at| if at % 4 == 3 { Kind::Ssh } else { Kind::Tcp }).collect();
    let daemon = stand.daemon(&kinds, "")?;
    let runtime = runtimes::apart(1)?;
    let mut open = Vec::new();
    for addr in daemon.addrs.iter().skip(1) {
        let idle = runtime.block_on(Idle::open(*addr, 1));
        if idle.errors > 0 {
            return Err(daemon.failed(&idle.first_error.unwrap_or_default()));
        }
        open.push(idle);
    }
    let (mut times, mut quiet, mut touched) = (Vec::new(), Vec::new(), 0.0);
    let mut addrs = daemon.addrs.clone();
    for _ in 0..options.count(CHANGES) {
        addrs[0] = free_addr().map_err(told)?;
        let file = daemon.home().path().join("adit.yaml");
        fs::write(file.with_extension("new"), stand.yaml(&kinds, &addrs, "")).map_err(told)?;
        fs::rename(file.with_extension("new"), &file).map_err(told)?;
        let reload = || {
            let start = Instant::now();
            let answer = runtime.block_on(daemon.ask("POST", "/v1/reload")).map_err(|error| daemon.failed(&error))?;
            Ok::<_, String>((start.elapsed(), answer))
        };
        let (time, answer) = reload()?;
        times.push(millis(time));
        let others = FORWARDS as f64 - 1.0 - answer["unchanged"].as_f64().unwrap_or(0.0);
        if answer["changed"] != json!(["forward f0"]) && answer["changed"] != json!(["f0"]) {
            return Err(daemon.failed(&format!("the reload answered {answer}")));
        }
        touched += others;
        crate::k8s::load::echo(addrs[0], QUIET).map_err(|error| daemon.failed(&error))?;
        runtimes::pass(QUIET)?;
        quiet.push(millis(reload()?.0));
    }
    let mut lost = 0;
    for idle in &mut open {
        lost += runtime.block_on(idle.check(1)).1;
    }
    let longest = times.iter().copied().fold(0.0, f64::max);
    let middle = |times: Vec<f64>| median(times).unwrap_or(f64::NAN);
    Ok(vec![middle(times), longest, lost as f64, touched, middle(quiet)])
}
