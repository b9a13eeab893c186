//! What any part says as a warning or an error, into the journal: nobody reads a daemon's standard error.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use runtime::telemetry::Listener;
use serde_json::{Value, json};

use super::journal::Journal;

/// In this time at most `BURST` are told; the others are counted. A disk must not be filled by one that repeats itself.
const WINDOW: Duration = Duration::from_secs(10);
const BURST: u32 = 50;
/// A longer text is cut.
const TEXT_MAX: usize = 2000;
/// Told by the view in its own words.
const TOLD_ELSEWHERE: &str = "forward::supervisor::health";

/// Passes warnings on to the journal, as soon as there is one.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Inner>);

#[derive(Default)]
struct Inner {
    journal: OnceLock<Arc<Journal>>,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    since: Option<Instant>,
    told: u32,
    left_out: u64,
}

impl Heard {
    /// For the telemetry.
    pub(super) fn listener(&self) -> Listener {
        let inner = Arc::clone(&self.0);
        Box::new(move |target, text| inner.hear(target, text, Instant::now()))
    }

    /// From now on it is noted there.
    pub(super) fn tell(&self, journal: &Arc<Journal>) {
        // There is one journal in a process.
        let _ = self.0.journal.set(Arc::clone(journal));
    }
}

impl Inner {
    fn hear(&self, target: &str, text: &str, now: Instant) {
        let Some(journal) = self.journal.get().filter(|_| target != TOLD_ELSEWHERE) else { return };
        let Some(left_out) = self.window.lock().unwrap_or_else(PoisonError::into_inner).admit(now) else { return };
        if left_out > 0 {
            let text = format!("{left_out} warnings were left out: there were too many at once");
            journal.note("left-out", &text, &json!({ "entries": left_out }));
        }
        let text: String = text.chars().take(TEXT_MAX).collect();
        let details: Value = json!({ "target": target });
        journal.note("warning", &text, &details);
    }
}

impl Window {
    /// Whether another one may be told, with the number of those before it that were not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told >= BURST {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::Place;
    use super::*;

    #[test]
    fn warnings_are_in_the_journal_and_too_many_at_once_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place { runtime: directory.path().into(), state: directory.path().into() };
        let journal = Journal::start(place.logs()).unwrap();
        let (heard, now) = (Heard::default(), Instant::now());
        heard.0.hear("x", "nobody listens yet", now);
        heard.tell(&journal);
        for _ in 0..BURST + 7 {
            heard.0.hear("runtime::watch", "a file cannot be watched", now);
        }
        heard.0.hear("x", "later", now + WINDOW);
        journal.flush();
        let all = std::fs::read_to_string(place.logs().daemon()).unwrap();
        assert_eq!(all.matches("cannot be watched").count(), BURST as usize);
        assert!(all.contains("7 warnings were left out") && all.contains("later"), "{all}");
        assert!(all.contains("\"level\":\"warn\"") && !all.contains("nobody listens"), "{all}");
    }
}
