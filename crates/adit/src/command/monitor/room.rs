//! What is said when there was no room for all that happened, and how often.

use std::time::Duration;

use ::monitor::source::{Counts, Way};

/// After a warning the next one, should more be lost, comes no sooner.
const AGAIN: Duration = Duration::from_secs(600);
/// The greatest number of connections that `--max-connections` takes.
pub(super) const MOST: u32 = 4_194_304;

/// What had no room, with what to do about it.
pub(in crate::command) fn lacks(counts: &Counts, way: &Way) -> Vec<String> {
    let mut texts = Vec::new();
    if counts.map_full > 0 {
        // Room is promised for half of the places alone.
        let (count, places) = (counts.map_full, way.capacity.saturating_mul(2));
        let room = format!("{count} connections found no room in the kernel and are not seen: it has {places} places");
        // There are at least twice as many places as are asked for.
        let more = places.min(MOST as usize);
        let is_most = places >= MOST as usize * 2;
        texts.push(if is_most { room } else { format!("{room}; --max-connections {more} makes {}", more * 2) });
    }
    if counts.events_lost > 0 {
        let count = counts.events_lost;
        texts
            .push(format!("{count} ends or steps were lost, as adit got too little of the processor to take them all"));
    }
    texts
}

/// When the last warning was, and what was lost by then.
#[derive(Debug, Default)]
pub(in crate::command) struct Warned {
    at: Option<Duration>,
    lost: u64,
}

impl Warned {
    /// What is to be said now: the first time that something is lost, then only after a while, and when it is more.
    pub(in crate::command) fn texts(&mut self, now: Duration, counts: &Counts, way: &Way) -> Vec<String> {
        let lost = counts.map_full.saturating_add(counts.events_lost);
        let is_due = self.at.is_none_or(|at| now.saturating_sub(at) >= AGAIN);
        if lost <= self.lost || !is_due {
            return Vec::new();
        }
        *self = Self { at: Some(now), lost };
        lacks(counts, way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(capacity: usize) -> Way {
        Way { capacity, ..Way::default() }
    }

    #[test]
    fn what_had_no_room_is_told_with_the_option_that_makes_more() {
        let counts = |map_full, events_lost| Counts { map_full, events_lost, ..Counts::default() };
        assert!(lacks(&counts(0, 0), &way(65_536)).is_empty());
        let texts = lacks(&counts(7, 3), &way(65_536));
        assert!(texts[0].starts_with("7 connections found no room in the kernel"), "{texts:?}");
        assert!(texts[0].ends_with("it has 131072 places; --max-connections 131072 makes 262144"), "{texts:?}");
        assert!(texts[1].starts_with("3 ends or steps were lost"), "{texts:?}");
        assert!(!lacks(&counts(7, 0), &way(MOST as usize))[0].contains("--max"), "there are no more");
    }

    #[test]
    fn a_warning_comes_once_and_again_only_after_a_while_when_more_was_lost() {
        let mut warned = Warned::default();
        let mut said = |seconds, map_full| {
            let counts = Counts { map_full, ..Counts::default() };
            !warned.texts(Duration::from_secs(seconds), &counts, &way(64)).is_empty()
        };
        assert_eq!([said(1, 0), said(2, 5), said(3, 6), said(601, 7)], [false, true, false, false]);
        assert_eq!([said(602, 7), said(1_500, 7), said(1_501, 7)], [true, false, false], "nothing is lost any more");
        assert!(said(1_502, 8));
    }
}
