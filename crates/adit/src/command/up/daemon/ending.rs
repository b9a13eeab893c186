//! The end of a daemon, as whoever asks meanwhile sees it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_core::diagnose::Fault;
use adit_core::shutdown::{Phase, PhaseTimes};
use serde_json::{Value, json};

use crate::command::up::running::Running;
use crate::report::Failure;

/// Where the end is, and how long it may take.
pub(super) struct End {
    held: Mutex<Held>,
}

struct Held {
    times: PhaseTimes,
    /// The phase, since when, and when the first one began.
    phase: Option<(Phase, Instant, Instant)>,
}

impl End {
    pub(super) fn new(times: PhaseTimes) -> Self {
        Self { held: Mutex::new(Held { times, phase: None }) }
    }

    /// Other lengths, for an end that has not begun.
    pub(super) fn set_times(&self, times: PhaseTimes) {
        let mut held = self.held();
        if held.phase.is_none() {
            held.times = times;
        }
    }

    pub(super) fn times(&self) -> PhaseTimes {
        self.held().times
    }

    pub(super) fn enter(&self, phase: Phase) {
        let mut held = self.held();
        let now = Instant::now();
        let begun = held.phase.map_or(now, |(.., begun)| begun);
        held.phase = Some((phase, now, begun));
    }

    /// Nothing before it has begun.
    pub(super) fn json(&self, running: &Running) -> Value {
        let held = self.held();
        let Some((phase, since, begun)) = held.phase else { return Value::Null };
        json!({
            "phase": phase.as_str(),
            "seconds": begun.elapsed().as_secs(),
            "phase_seconds_left": held.times.of(phase).map(|time| time.saturating_sub(since.elapsed()).as_secs()),
            "live": in_use(running),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What carries something, with how much.
pub(super) fn in_use(running: &Running) -> Vec<String> {
    let snapshot = running.snapshot();
    let rows: Vec<_> = snapshot.rows.iter().filter(|row| row.streams > 0).collect();
    // What runs through a forward that was stopped has no row.
    let stopped = running.entrances().ports().filter(|(name, _)| rows.iter().all(|row| row.name != *name));
    let stopped = stopped.map(|(name, traffic)| (name.to_owned(), traffic.live())).filter(|(_, live)| *live > 0);
    let published = snapshot.published.iter().map(|row| (row.name.clone(), row.streams()));
    let published = published.filter(|(_, live)| *live > 0);
    let all = rows.iter().map(|row| (row.name.clone(), row.streams)).chain(stopped).chain(published);
    all.map(|(name, live)| format!("{name} ({live} live)")).collect()
}

/// What is said to whoever wants something of a daemon that ends.
pub(super) fn refused() -> Failure {
    let text = format!("the daemon (pid {}) is ending", std::process::id());
    Failure::new(Fault::Upstream, text, "what is live finishes first; then start another: adit daemon start")
}

/// Nothing is changed while another process is being made the daemon: it has read what holds.
pub(super) fn given_up_to_another() -> Failure {
    Failure::new(Fault::Upstream, "another process is taking over", "ask again in a moment")
}

/// The phases as people read them.
pub(in crate::command) fn in_words(ending: &Value) -> Option<String> {
    let doing = match ending["phase"].as_str()? {
        "stop_accepting" => "it takes nothing new",
        "draining" => "what is live finishes",
        "cancelling" => "what was not done in time is told to stop",
        _ => "what is left is dropped",
    };
    let live: Vec<&str> = ending["live"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let live = if live.is_empty() { String::new() } else { format!("; {}", live.join(", ")) };
    let left = ending["phase_seconds_left"].as_u64().map(|left| format!(", for {left} s at most")).unwrap_or_default();
    Some(format!("the daemon is ending: {doing}{left}{live}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_are_told_in_words() {
        let ending = json!({ "phase": "draining", "phase_seconds_left": 7, "live": ["web (1 live)", "db (2 live)"] });
        let text = in_words(&ending).unwrap();
        assert_eq!(text, "the daemon is ending: what is live finishes, for 7 s at most; web (1 live), db (2 live)\n");
        assert_eq!(in_words(&Value::Null), None);
    }

    #[test]
    fn the_lengths_of_an_end_that_has_begun_stay() {
        let end = End::new(PhaseTimes::default());
        end.enter(Phase::StopAccepting);
        end.set_times(PhaseTimes { drain: std::time::Duration::ZERO, ..PhaseTimes::default() });
        assert_eq!(end.times(), PhaseTimes::default());
    }
}
