//! From the start of the process until it forwards.

use std::time::{Duration, Instant};

use testkit::process::Process;

use super::client::{Stand, Who, listening};
use super::figures::{Figure, median};
use super::load;
use super::options::Options;

/// Starts of each kind in a round.
const STARTS: usize = 8;
/// How long the first request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("pod: ready line, ms", 1).times(0.5, 0.25),
    Figure::lower("pod: first answer, ms", 1),
    Figure::lower("service: ready line, ms", 1).times(0.5, 0.25),
    Figure::lower("service: first answer, ms", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    let mut values = Vec::new();
    for (target, port) in [("pod/web-0", super::home::WEB), ("svc/web", 80)] {
        let (mut lines, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..options.count(STARTS) {
            let mut command = stand.command(who, target, &[port]);
            let start = Instant::now();
            let process = Process::start(&mut command).map_err(|error| error.to_string())?;
            let addr = listening(&process, None)?;
            lines.push(start.elapsed().as_secs_f64() * 1e3);
            load::request(addr, DEADLINE).map_err(|error| format!("{error}; {}", process.output()))?;
            answers.push(start.elapsed().as_secs_f64() * 1e3);
        }
        values.extend([median(lines), median(answers)].into_iter().flatten());
    }
    Ok(values)
}
