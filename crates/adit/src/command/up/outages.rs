//! One outage of a cluster is one line, however many entrances lead there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So long is waited for others that the same outage concerns, before it is told.
const GATHER: Duration = Duration::from_secs(1);
/// Of those that wait so many are named.
const NAMED: usize = 5;

/// Clusters that cannot be used, by context.
#[derive(Debug, Default)]
pub(super) struct Outages(HashMap<String, Outage>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// When it is told, until it was.
    due: Option<Instant>,
    /// Of how many entrances it was told as of one thing; one is told as its own.
    told_of: usize,
    /// One of them works again.
    over: bool,
    /// What was heard last.
    reason: String,
    /// Those that wait, and what is said of each if it stays the only one.
    waiting: Vec<(String, String)>,
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
        let begun = || Outage {
            since: now,
            due: Some(now + GATHER),
            told_of: 0,
            over: false,
            reason: String::new(),
            waiting: Vec::new(),
        };
        let outage = self.0.entry(context.to_owned()).or_insert_with(begun);
        reason.clone_into(&mut outage.reason);
        match outage.waiting.iter_mut().find(|(waiting, _)| waiting == name) {
            Some((_, told)) => *told = line,
            None => {
                // What has worked in the meantime is lost anew.
                if outage.over {
                    *outage =
                        Outage { waiting: std::mem::take(&mut outage.waiting), reason: reason.to_owned(), ..begun() };
                }
                outage.waiting.push((name.to_owned(), line));
            }
        }
    }

    /// An entrance works again.
    pub(super) fn handle_back(&mut self, now: Instant, name: &str) -> Back {
        let Some((context, outage)) = self.0.iter_mut().find(|(_, outage)| outage.is_waiting(name)) else {
            return Back::Usual;
        };
        let line = outage.forget(name);
        let back = match (outage.due, outage.told_of) {
            (Some(_), _) => Back::After(line),
            (None, 0 | 1) => Back::Usual,
            (None, _) if outage.over => Back::Nothing,
            (None, _) => {
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
        for outage in self.0.values_mut() {
            outage.forget(name);
        }
        self.0.retain(|_, outage| !outage.waiting.is_empty());
    }

    /// Whether anything is to be told soon.
    pub(super) fn is_due_soon(&self) -> bool {
        self.0.values().any(|outage| outage.due.is_some())
    }

    /// What is to be told now.
    pub(super) fn poll_lines(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter_mut().filter(|(_, outage)| outage.due.is_some_and(|due| due <= now));
        due.map(|(context, outage)| {
            outage.due = None;
            outage.told_of = outage.waiting.len();
            outage.line(context)
        })
        .collect()
    }
}

impl Outage {
    fn is_waiting(&self, name: &str) -> bool {
        self.waiting.iter().any(|(waiting, _)| waiting == name)
    }

    /// What was to be said of it.
    fn forget(&mut self, name: &str) -> String {
        let at = self.waiting.iter().position(|(waiting, _)| waiting == name);
        at.map(|at| self.waiting.remove(at).1).unwrap_or_default()
    }

    fn line(&self, context: &str) -> String {
        if let [(_, line)] = self.waiting.as_slice() {
            return line.clone();
        }
        let names: Vec<&str> = self.waiting.iter().take(NAMED).map(|(name, _)| name.as_str()).collect();
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
}
