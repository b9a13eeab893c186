//! Which reasons were told already: what lasts is told once.

use std::time::{Duration, Instant};

use runtime::connect::without_waits;

/// For how long a reason that was told is not told again as that of a request, and how many of them are kept.
const REASON_HOLDS: Duration = Duration::from_secs(10);
const REASONS: usize = 32;

/// Reasons that were told a moment ago, each of one target.
#[derive(Default)]
pub(super) struct Reasons(Vec<(Instant, String, String)>);

impl Reasons {
    /// It was told of this target.
    pub(super) fn add(&mut self, target: &str, reason: &str, now: Instant) {
        let surplus = (self.0.len() + 1).saturating_sub(REASONS);
        self.0.drain(..surplus);
        self.0.push((now, target.to_owned(), plain(reason)));
    }

    /// Whether the reason within a text was told of this target.
    pub(super) fn holds(&self, target: &str, text: &str, now: Instant) -> bool {
        let text = plain(text);
        self.0.iter().any(|(at, of, reason)| {
            now.duration_since(*at) < REASON_HOLDS && of == target && !reason.is_empty() && text.contains(reason)
        })
    }
}

/// Reasons that were told of a row since it last worked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said(Vec<String>);

impl Said {
    /// So many are known; then the oldest is told again when it comes back.
    const MOST: usize = 8;

    /// Whether it was not told yet; now it is. How long was waited makes no other reason.
    pub(super) fn is_new(&mut self, why: &str) -> bool {
        let why = without_waits(why);
        if self.0.contains(&why) {
            return false;
        }
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push(why);
        true
    }
}

/// A request's text is a sentence: its first letter and its end may differ, and how long it was waited for.
fn plain(text: &str) -> String {
    without_waits(text).to_lowercase().trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_of_each_target_for_a_while() {
        let (mut reasons, now) = (Reasons::default(), Instant::now());
        reasons.add("tcp://a:1", "the target is gone", now);
        assert!(reasons.holds("tcp://a:1", "502: The target is gone.", now));
        assert!(!reasons.holds("tcp://b:1", "502: The target is gone.", now), "of another one it is news");
        assert!(!reasons.holds("tcp://a:1", "502: The target is gone.", now + REASON_HOLDS), "after a while, too");
        reasons.add("tcp://c:1", "no answer (waited 3.1s)", now);
        assert!(reasons.holds("tcp://c:1", "504: No answer (waited 20s).", now), "however long it was waited for");
    }

    #[test]
    fn a_reason_without_words_holds_nothing_back() {
        let (mut reasons, now) = (Reasons::default(), Instant::now());
        reasons.add("tcp://a:1", "", now);
        reasons.add("tcp://a:1", ".", now);
        assert!(!reasons.holds("tcp://a:1", "something else", now));
    }

    #[test]
    fn reasons_that_come_in_turns_are_each_told_once() {
        let mut said = Said::default();
        let reasons = ["refused", "no answer (waited 3s)", "refused", "no answer (waited 10s)", "refused"];
        assert_eq!(reasons.map(|reason| said.is_new(reason)), [true, true, false, false, false]);
    }

    #[test]
    fn what_is_kept_of_them_has_a_bound() {
        let mut said = Said::default();
        (0..100).for_each(|number| assert!(said.is_new(&format!("reason {number}"))));
        assert_eq!(said.0.len(), Said::MOST);
    }
}
