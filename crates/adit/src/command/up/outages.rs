//! One outage of a cluster is one line, however many entrances lead there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So long is waited for others that the same outage concerns, before it is told.
const GATHER: Duration = Duration::from_secs(1);
/// So long another reason must stay before it is told: connections that end and new ones that are refused are one thing.
const STAYS: Duration = Duration::from_secs(5);
/// Of those that wait so many are named.
const NAMED: usize = 5;
/// So many reasons of one outage are known as told.
const REASONS: usize = 8;

/// Clusters that cannot be used, by context.
#[derive(Debug, Default)]
pub(super) struct Outages(HashMap<String, Outage>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// When it is told, until it was.
    due: Option<Instant>,
    /// When a reason that was not told yet is told, if it stays.
    changed: Option<Instant>,
    /// Of how many entrances it was told as of one thing; one is told as its own.
    told_of: usize,
    /// One of them works again.
    over: bool,
    /// What was heard last.
    reason: String,
    /// What was told; each is worth one line.
    told: Vec<String>,
    waiting: Vec<Waiting>,
}

/// An entrance that waits.
#[derive(Debug)]
struct Waiting {
    name: String,
    /// What is said of it if it stays the only one.
    line: String,
    /// It was among those of whom it was told.
    is_told: bool,
}

/// What is to be said of an entrance that works again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// What is always said.
    Usual,
    /// This before it: nobody has heard yet that it was lost.
    After(String),
    /// This in the place of it, once for all.
    ForAll(String),
    /// Nothing more.
    Nothing,
}

impl Outages {
    /// An entrance waits for its cluster.
    pub(super) fn handle_lost(&mut self, now: Instant, context: &str, reason: &str, name: &str, line: String) {
        // A reload may have led it to another cluster.
        self.forget(name, |other| other != context);
        let outage = self.0.entry(context.to_owned()).or_insert_with(|| Outage::begin(now));
        match outage.waiting.iter_mut().find(|waiting| waiting.name == name) {
            Some(waiting) => waiting.line = line,
            None => {
                // What has worked in the meantime is lost anew.
                if outage.over {
                    *outage = Outage { waiting: std::mem::take(&mut outage.waiting), ..Outage::begin(now) };
                }
                outage.waiting.push(Waiting { name: name.to_owned(), line, is_told: false });
                // That it was one entrance only is no longer true.
                if outage.told_of == 1 {
                    outage.due.get_or_insert(now + GATHER);
                }
            }
        }
        if outage.told.iter().any(|told| told == reason) {
            outage.changed = None;
        } else if outage.told_of > 0 {
            outage.changed.get_or_insert(now + STAYS);
        }
        reason.clone_into(&mut outage.reason);
    }

    /// An entrance works again.
    pub(super) fn handle_back(&mut self, now: Instant, name: &str) -> Back {
        let found = self.0.iter_mut().find_map(|(context, outage)| Some((context, outage.forget(name)?, outage)));
        let Some((context, was, outage)) = found else { return Back::Usual };
        let back = match outage.told_of {
            0 | 1 if was.is_told => Back::Usual,
            0 | 1 => Back::After(was.line),
            _ if outage.over => Back::Nothing,
            _ => {
                let seconds = (now - outage.since).as_secs_f64();
                Back::ForAll(format!("context {context}: back after {seconds:.1} s"))
            }
        };
        outage.over = true;
        self.0.retain(|_, outage| !outage.waiting.is_empty());
        back
    }

    /// Nobody waits for an entrance any more.
    pub(super) fn handle_left(&mut self, name: &str) {
        self.forget(name, |_| true);
    }

    fn forget(&mut self, name: &str, of: impl Fn(&str) -> bool) {
        for (_, outage) in self.0.iter_mut().filter(|(context, _)| of(context)) {
            outage.forget(name);
        }
        self.0.retain(|_, outage| !outage.waiting.is_empty());
    }

    /// Whether anything is to be told soon.
    pub(super) fn is_due_soon(&self) -> bool {
        self.0.values().any(|outage| outage.next().is_some())
    }

    /// What is to be told now.
    pub(super) fn poll_lines(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter_mut().filter(|(_, outage)| outage.next().is_some_and(|due| due <= now));
        due.map(|(context, outage)| {
            outage.set_told();
            outage.line(context)
        })
        .collect()
    }
}

impl Outage {
    fn begin(now: Instant) -> Self {
        Self {
            since: now,
            due: Some(now + GATHER),
            changed: None,
            told_of: 0,
            over: false,
            reason: String::new(),
            told: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn forget(&mut self, name: &str) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.name == name)?;
        Some(self.waiting.remove(at))
    }

    /// When something is to be told of it.
    fn next(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.changed).min()
    }

    fn set_told(&mut self) {
        (self.due, self.changed, self.told_of) = (None, None, self.waiting.len());
        // Some of it came back, and these did not.
        self.over = false;
        self.waiting.iter_mut().for_each(|waiting| waiting.is_told = true);
        if self.told.len() == REASONS {
            self.told.remove(0);
        }
        self.told.push(self.reason.clone());
    }

    fn line(&self, context: &str) -> String {
        if let [only] = self.waiting.as_slice() {
            return only.line.clone();
        }
        let names: Vec<&str> = self.waiting.iter().take(NAMED).map(|waiting| waiting.name.as_str()).collect();
        let (all, names, reason) = (self.waiting.len(), names.join(", "), &self.reason);
        let more = if all > NAMED { format!(" and {} more", all - NAMED) } else { String::new() };
        format!("context {context}: {all} entrances wait: {reason}\nthose are {names}{more}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: &str = "the API server h:1 cannot be reached: connection refused";

    fn lost(outages: &mut Outages, now: Instant, name: &str) {
        outages.handle_lost(now, "dev", GONE, name, format!("{name}: lost: {GONE}"));
    }

    #[test]
    fn many_that_wait_for_one_cluster_are_one_line_and_one_when_it_is_back() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        for (at, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
            lost(&mut outages, start + Duration::from_millis(100) * u32::try_from(at).unwrap(), name);
        }
        assert!(outages.is_due_soon() && outages.poll_lines(start).is_empty());
        let lines = outages.poll_lines(start + GATHER);
        assert_eq!(lines, [format!("context dev: 6 entrances wait: {GONE}\nthose are a, b, c, d, e and 1 more")]);
        // Its attempts fail on, and another one comes.
        lost(&mut outages, start + GATHER * 2, "a");
        lost(&mut outages, start + GATHER * 2, "late");
        assert!(!outages.is_due_soon() && outages.poll_lines(start + GATHER * 9).is_empty());
        let back = outages.handle_back(start + GATHER * 10, "b");
        assert_eq!(back, Back::ForAll("context dev: back after 10.0 s".into()));
        for name in ["a", "c", "d", "e", "f", "late"] {
            assert_eq!(outages.handle_back(start + GATHER * 11, name), Back::Nothing);
        }
        assert_eq!(outages.handle_back(start + GATHER * 12, "a"), Back::Usual, "it is forgotten");
    }

    #[test]
    fn a_single_one_is_told_as_ever() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        assert_eq!(outages.poll_lines(start + GATHER), [format!("a: lost: {GONE}")]);
        assert_eq!(outages.handle_back(start + GATHER * 2, "a"), Back::Usual);
    }

    #[test]
    fn what_is_back_before_it_was_told_is_told_with_its_return() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        assert_eq!(outages.handle_back(start, "a"), Back::After(format!("a: lost: {GONE}")));
        assert!(outages.poll_lines(start + GATHER).is_empty());
    }

    #[test]
    fn a_second_outage_while_some_wait_still_is_told_again() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        lost(&mut outages, start, "b");
        assert_eq!(outages.poll_lines(start + GATHER).len(), 1);
        outages.handle_back(start + GATHER, "a");
        lost(&mut outages, start + GATHER * 2, "a");
        assert_eq!(outages.poll_lines(start + GATHER * 3).len(), 1);
    }

    #[test]
    fn what_nobody_needs_any_more_does_not_wait() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        outages.handle_left("a");
        assert!(outages.poll_lines(start + GATHER).is_empty());
    }

    #[test]
    fn another_reason_that_stays_is_told_once_and_so_is_the_return() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        lost(&mut outages, start, "b");
        outages.poll_lines(start + GATHER);
        for round in 1..=3 {
            let mut at = start + STAYS * 2 * round;
            for reason in ["the credentials are refused", GONE] {
                for name in ["a", "b"] {
                    outages.handle_lost(at, "dev", reason, name, format!("{name}: {reason}"));
                }
                at += STAYS;
                let lines = outages.poll_lines(at);
                let told = "context dev: 2 entrances wait: the credentials are refused\nthose are a, b";
                let is_new = round == 1 && reason != GONE;
                assert_eq!(lines, if is_new { vec![told] } else { vec![] });
            }
        }
        let back = Back::ForAll("context dev: back after 40.0 s".into());
        assert_eq!(outages.handle_back(start + STAYS * 8, "a"), back);
        assert_eq!(outages.handle_back(start + STAYS * 8, "b"), Back::Nothing);
    }

    #[test]
    fn another_reason_that_does_not_stay_is_not_told() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        lost(&mut outages, start, "b");
        outages.poll_lines(start + GATHER);
        outages.handle_lost(start + GATHER * 2, "dev", "the connection was reset", "a", "a: reset".into());
        lost(&mut outages, start + GATHER * 3, "b");
        assert!(!outages.is_due_soon() && outages.poll_lines(start + STAYS * 9).is_empty());
    }

    #[test]
    fn another_reason_of_a_single_one_is_told() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        outages.poll_lines(start + GATHER);
        outages.handle_lost(start + GATHER * 2, "dev", "other", "a", "a: other".into());
        assert!(outages.poll_lines(start + GATHER * 3).is_empty());
        assert_eq!(outages.poll_lines(start + GATHER * 2 + STAYS), ["a: other"]);
        assert_eq!(outages.handle_back(start + GATHER * 9, "a"), Back::Usual);
    }

    #[test]
    fn one_that_joins_a_single_one_is_told() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        outages.poll_lines(start + GATHER);
        lost(&mut outages, start + GATHER * 2, "b");
        lost(&mut outages, start + GATHER * 2, "c");
        // The one that was told is back as one that was told, the other one as one that was not.
        assert_eq!(outages.handle_back(start + GATHER * 2, "c"), Back::After(format!("c: lost: {GONE}")));
        let lines = outages.poll_lines(start + GATHER * 3);
        assert_eq!(lines, [format!("context dev: 2 entrances wait: {GONE}\nthose are a, b")]);
        assert_eq!(outages.handle_back(start + GATHER * 4, "b"), Back::ForAll("context dev: back after 4.0 s".into()));
    }

    #[test]
    fn an_entrance_whose_context_has_changed_waits_for_the_new_one_only() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        lost(&mut outages, start, "a");
        outages.handle_lost(start, "prod", GONE, "a", "a: prod".into());
        assert_eq!(outages.poll_lines(start + GATHER), ["a: prod"]);
        assert_eq!(outages.handle_back(start + GATHER * 2, "a"), Back::Usual);
        assert!(outages.0.is_empty());
    }
}
