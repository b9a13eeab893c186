//! What is said when there was no room for all that happened, and how often.

use std::time::Duration;

use ::monitor::source::{Counts, Way};

/// After a warning the next one, should more be lost, comes no sooner.
const AGAIN: Duration = Duration::from_secs(600);
/// So many times the room there is, at most, is recommended.
const AT_ONCE: usize = 8;
/// The least number of connections that `--max-connections` takes.
pub(super) const LEAST: u32 = 64;
/// The greatest number of connections that `--max-connections` takes.
pub(super) const MOST: u32 = 4_194_304;

/// What had no room, with what to do about it.
pub(in crate::command) fn lacks(counts: &Counts, way: &Way) -> Vec<String> {
    let mut texts = Vec::new();
    if counts.map_full > 0 {
        // Room is promised for half of the places alone.
        let (count, places) = (counts.map_full, way.capacity.saturating_mul(2));
        let room = format!("{count} connections found no room in the kernel and are not seen: it has {places} places");
        // There are at least twice as many places as are asked for. What found no room in all this time did not need it all at once.
        let wanted = way.capacity.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
        let wanted = wanted.checked_next_power_of_two().unwrap_or(usize::MAX);
        let more = wanted.clamp(places, places.saturating_mul(AT_ONCE)).min(MOST as usize);
        let is_most = places >= MOST as usize * 2;
        texts.push(if is_most { room } else { format!("{room}; --max-connections {more} makes {}", more * 2) });
    }
    if counts.events_lost > 0 {
        let count = counts.events_lost;
        texts
            .push(format!("{count} ends or steps were lost, as adit got too little of the processor to take them all"));
    }
    if counts.unseen > 0 {
        let count = counts.unseen;
        texts.push(format!(
            "{count} connections are over of which nobody saw the end: they are in no line and no sum of a process"
        ));
    }
    texts
}

/// When the last warning was, and what was lost by then.
#[derive(Debug, Default)]
pub(in crate::command) struct Warned {
    at: Option<Duration>,
    /// Of each kind.
    lost: [u64; 4],
    /// Whether each connection is told by itself: then those that are in sums alone are lost, too.
    one_by_one: bool,
}

impl Warned {
    /// For whoever tells each connection by itself.
    pub(in crate::command) fn one_by_one() -> Self {
        Self { one_by_one: true, ..Self::default() }
    }

    /// What is to be said now: the first time that something of a kind is lost, then only after a while, and when it is more.
    pub(in crate::command) fn texts(&mut self, now: Duration, counts: &Counts, way: &Way) -> Vec<String> {
        let is_new = self.lost(counts).iter().zip(self.lost).any(|(lost, before)| *lost > 0 && before == 0);
        let is_due = self.at.is_none_or(|at| now.saturating_sub(at) >= AGAIN);
        if is_new || is_due { self.rest(now, counts, way) } else { Vec::new() }
    }

    fn lost(&self, counts: &Counts) -> [u64; 4] {
        [counts.map_full, counts.events_lost, counts.unseen, if self.one_by_one { counts.folded } else { 0 }]
    }

    /// What is to be said at the end: when more is lost than was said.
    pub(in crate::command) fn rest(&mut self, now: Duration, counts: &Counts, way: &Way) -> Vec<String> {
        let lost @ [.., folded] = self.lost(counts);
        if lost.iter().zip(self.lost).all(|(lost, before)| *lost <= before) {
            return Vec::new();
        }
        (self.at, self.lost) = (Some(now), lost);
        let mut texts = lacks(counts, way);
        if folded > 0 {
            texts.push(format!("{folded} connections ended too fast to be told one by one, and are in no line"));
        }
        texts
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
        let more = |lost| {
            lacks(&counts(lost, 0), &way(64))[0].rsplit_once("--max-connections ").map(|(_, more)| more.to_owned())
        };
        assert_eq!(more(873).as_deref(), Some("1024 makes 2048"), "as many as would have had room");
        assert_eq!(more(1).as_deref(), Some("128 makes 256"));
        assert_eq!(more(1_000_000).as_deref(), Some("1024 makes 2048"), "of a long time");
        assert!(texts[1].starts_with("3 ends or steps were lost"), "{texts:?}");
        let missed = Counts { unseen: 2, ..Counts::default() };
        assert!(lacks(&missed, &way(64))[0].starts_with("2 connections are over"));
        assert_eq!(Warned::default().texts(Duration::from_secs(1), &missed, &way(64)).len(), 1);
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

    #[test]
    fn what_is_lost_for_the_first_time_is_told_at_once_also_after_a_warning_of_something_else() {
        let mut warned = Warned::default();
        let mut said = |seconds, map_full, events_lost| {
            let counts = Counts { map_full, events_lost, ..Counts::default() };
            warned.texts(Duration::from_secs(seconds), &counts, &way(64)).len()
        };
        assert_eq!([said(1, 5, 0), said(2, 6, 0), said(3, 6, 7), said(4, 6, 8), said(700, 6, 8)], [1, 0, 2, 0, 2]);
    }

    #[test]
    fn ends_that_are_in_sums_alone_are_lost_to_lines_and_what_is_not_said_yet_is_said_at_the_end() {
        let counts = |folded| Counts { folded, ..Counts::default() };
        let at = Duration::from_secs;
        assert!(Warned::default().texts(at(1), &counts(9), &way(64)).is_empty(), "sums have them");
        let mut lines = Warned::one_by_one();
        let said = lines.texts(at(1), &counts(9), &way(64));
        assert_eq!(said, ["9 connections ended too fast to be told one by one, and are in no line"]);
        assert!(lines.rest(at(2), &counts(9), &way(64)).is_empty(), "it was said");
        assert!(lines.texts(at(2), &counts(10), &way(64)).is_empty(), "not so soon again");
        assert!(lines.rest(at(3), &counts(10), &way(64))[0].starts_with("10 "));
    }
}
