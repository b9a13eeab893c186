//! Connections that fail: one line a second for each reason, with the number of those kept back.

use std::time::{Duration, Instant};

/// At most one line in this time about the same reason.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Reasons are forgotten after this time without a connection that failed so.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Different reasons remembered; with more of them the oldest is forgotten.
const REASONS: usize = 64;

/// Decides which failures are said.
#[derive(Debug, Default)]
pub(super) struct Faults {
    known: Vec<Known>,
}

/// A failure to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The local port.
    pub(super) port: u16,
    pub(super) reason: String,
    /// How many more there were since the last line.
    pub(super) more: u64,
}

#[derive(Debug)]
struct Known {
    port: u16,
    reason: String,
    said: Instant,
    kept_back: u64,
}

impl Faults {
    /// Takes a failure; gives it back when it is to be said now.
    pub(super) fn take(&mut self, port: u16, reason: &str, now: Instant) -> Option<Said> {
        self.known.retain(|known| known.kept_back > 0 || now.duration_since(known.said) < FORGOTTEN);
        if let Some(known) = self.known.iter_mut().find(|known| known.port == port && known.reason == reason) {
            if now.duration_since(known.said) < EVERY {
                known.kept_back += 1;
                return None;
            }
            known.said = now;
            let more = std::mem::take(&mut known.kept_back);
            return Some(Said { port, reason: reason.to_owned(), more });
        }
        if self.known.len() == REASONS {
            self.known.remove(0);
        }
        self.known.push(Known { port, reason: reason.to_owned(), said: now, kept_back: 0 });
        Some(Said { port, reason: reason.to_owned(), more: 0 })
    }

    /// What was kept back and is due; `more` is without the one that this line stands for.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Said> {
        let due = self.known.iter_mut().filter(|known| known.kept_back > 0 && now.duration_since(known.said) >= EVERY);
        due.map(|known| {
            known.said = now;
            let more = std::mem::take(&mut known.kept_back) - 1;
            Said { port: known.port, reason: known.reason.clone(), more }
        })
        .collect()
    }

    /// When [`Faults::due`] has something to say.
    pub(super) fn next(&self) -> Option<Instant> {
        self.known.iter().filter(|known| known.kept_back > 0).map(|known| known.said + EVERY).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn the_first_is_said_at_once_and_the_rest_counted() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        assert_eq!(faults.take(8080, "refused", start).unwrap().more, 0);
        for at in 1..=4 {
            assert_eq!(faults.take(8080, "refused", start + TENTH * at), None);
        }
        assert_eq!(faults.next(), Some(start + EVERY));
        assert!(faults.due(start + TENTH * 9).is_empty());
        assert_eq!(faults.due(start + EVERY), [Said { port: 8080, reason: "refused".into(), more: 3 }]);
        assert_eq!(faults.next(), None);
    }

    #[test]
    fn ports_and_reasons_are_told_apart() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        for (port, reason) in [(1, "a"), (1, "b"), (2, "a")] {
            assert!(faults.take(port, reason, now).is_some());
        }
    }

    #[test]
    fn however_many_reasons_there_are_little_is_kept() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        for reason in 0..10 * REASONS {
            faults.take(1, &reason.to_string(), now);
        }
        assert_eq!(faults.known.len(), REASONS);
        faults.take(1, "late", now + FORGOTTEN);
        assert_eq!(faults.known.len(), 1);
    }
}
