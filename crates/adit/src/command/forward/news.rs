//! What is worth a line after the start: a target that is lost, back, or another one.

use std::time::{Duration, Instant};

use ::forward::ForwardReport;
use adit_core::forward::ForwardState;

/// A loss that is over sooner is not worth a line, only where it has moved.
pub(super) const GRACE: Duration = Duration::from_millis(250);
/// What is waited for is said at most so often.
const WAITING_EVERY: Duration = Duration::from_secs(1);

/// Compares reports of one forward.
#[derive(Debug)]
pub(super) struct News {
    /// The pod that connections go to, or last went to.
    pod: Option<String>,
    /// Since when it is lost.
    lost: Option<Lost>,
    /// Pods change with every connection; that is no news.
    balanced: bool,
}

#[derive(Debug)]
struct Lost {
    since: Instant,
    said: Option<Instant>,
    cause: Option<String>,
    /// Whether another target is looked for, as opposed to another connection.
    resolving: bool,
    waiting: Option<String>,
    waiting_said: Option<String>,
}

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// No connection can be made.
    Lost { pod: Option<String>, cause: Option<String>, resolving: bool },
    /// It is waited for something else than before.
    Waiting { text: String },
    /// Connections can be made again.
    Back { pod: Option<String>, outage: Duration },
    /// New connections go elsewhere, and there was no gap.
    Moved { from: Option<String>, to: String },
}

/// What counts of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) ready: bool,
    pub(super) resolving: bool,
    pub(super) pod: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) waiting: Option<String>,
}

impl Seen {
    pub(super) fn of(report: &ForwardReport) -> Self {
        Self {
            ready: report.is_ready(),
            resolving: report.status.state == ForwardState::Resolving,
            pod: report.pod.clone(),
            cause: report.status.reason.as_deref().map(str::to_owned),
            waiting: report.waiting_for.clone(),
        }
    }
}

impl News {
    /// From a report of a forward that is ready.
    pub(super) fn new(pod: Option<String>, balanced: bool) -> Self {
        Self { pod, lost: None, balanced }
    }

    /// Takes a report.
    pub(super) fn take(&mut self, seen: Seen, now: Instant) -> Option<Item> {
        if seen.ready {
            return self.ready(seen.pod, now);
        }
        let lost = self.lost.get_or_insert(Lost {
            since: now,
            said: None,
            cause: None,
            resolving: false,
            waiting: None,
            waiting_said: None,
        });
        lost.resolving = seen.resolving;
        lost.cause = seen.cause.or(lost.cause.take());
        lost.waiting = seen.waiting;
        self.due(now)
    }

    /// What the passing of time makes worth a line.
    pub(super) fn due(&mut self, now: Instant) -> Option<Item> {
        if self.next().is_none_or(|at| at > now) {
            return None;
        }
        let lost = self.lost.as_mut()?;
        let first = lost.said.is_none();
        lost.said = Some(now);
        if first {
            // What is waited for may be the cause itself: it is not said twice.
            if lost.waiting == lost.cause {
                lost.waiting_said.clone_from(&lost.waiting);
            }
            return Some(Item::Lost { pod: self.pod.clone(), cause: lost.cause.clone(), resolving: lost.resolving });
        }
        lost.waiting_said.clone_from(&lost.waiting);
        Some(Item::Waiting { text: lost.waiting.clone()? })
    }

    /// When [`News::due`] has something.
    pub(super) fn next(&self) -> Option<Instant> {
        let lost = self.lost.as_ref()?;
        match lost.said {
            None => Some(lost.since + GRACE),
            Some(said) if lost.waiting.is_some() && lost.waiting != lost.waiting_said => Some(said + WAITING_EVERY),
            Some(_) => None,
        }
    }

    fn ready(&mut self, pod: Option<String>, now: Instant) -> Option<Item> {
        if pod.is_none() && self.pod.is_some() {
            // Which pod it is will be said in a moment.
            return None;
        }
        let before = std::mem::replace(&mut self.pod, pod.clone());
        match self.lost.take() {
            Some(Lost { said: Some(_), since, .. }) => Some(Item::Back { pod, outage: now.duration_since(since) }),
            _ if self.balanced => None,
            _ => pod.filter(|to| before.as_ref() != Some(to)).map(|to| Item::Moved { from: before, to }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(pod: &str) -> Seen {
        Seen { ready: true, pod: Some(pod.into()), ..Seen::default() }
    }

    fn waiting(text: &str) -> Seen {
        Seen { resolving: true, cause: Some("deleted".into()), waiting: Some(text.into()), ..Seen::default() }
    }

    #[test]
    fn a_loss_is_said_once_and_so_is_its_end() {
        let (mut news, start) = (News::new(Some("web-1".into()), false), Instant::now());
        assert_eq!(news.take(waiting("pod web-2: pulling"), start), None);
        assert_eq!(news.next(), Some(start + GRACE));
        let lost = Item::Lost { pod: Some("web-1".into()), cause: Some("deleted".into()), resolving: true };
        assert_eq!(news.due(start + GRACE), Some(lost));
        assert_eq!(news.due(start + GRACE), None);
        let back = start + Duration::from_secs(3);
        let expected = Item::Back { pod: Some("web-2".into()), outage: Duration::from_secs(3) };
        assert_eq!(news.take(ready("web-2"), back), Some(expected));
        assert_eq!(news.next(), None);
    }

    #[test]
    fn a_gap_too_short_to_notice_is_a_move_or_nothing() {
        let (mut news, start) = (News::new(Some("web-1".into()), false), Instant::now());
        news.take(waiting("x"), start);
        assert_eq!(news.take(ready("web-1"), start + GRACE / 2), None);
        news.take(waiting("x"), start);
        let moved = Item::Moved { from: Some("web-1".into()), to: "web-2".into() };
        assert_eq!(news.take(ready("web-2"), start + GRACE / 2), Some(moved));
        assert_eq!(news.take(ready("web-2"), start + GRACE), None);
    }

    #[test]
    fn what_is_waited_for_is_said_when_it_changes() {
        let (mut news, start) = (News::new(None, false), Instant::now());
        news.take(waiting("one"), start);
        news.due(start + GRACE).expect("the loss");
        let second = start + GRACE + WAITING_EVERY;
        assert_eq!(news.due(second), Some(Item::Waiting { text: "one".into() }));
        assert_eq!(news.take(waiting("one"), second + WAITING_EVERY), None);
        assert_eq!(news.take(waiting("two"), second + WAITING_EVERY * 2), Some(Item::Waiting { text: "two".into() }));
    }

    #[test]
    fn a_cause_that_is_waited_for_is_not_said_twice() {
        let (mut news, start) = (News::new(Some("web-1".into()), false), Instant::now());
        let refused = Seen { cause: Some("refused".into()), waiting: Some("refused".into()), ..Seen::default() };
        news.take(refused.clone(), start);
        assert!(matches!(news.due(start + GRACE), Some(Item::Lost { .. })));
        assert_eq!(news.next(), None);
        assert_eq!(news.take(refused, start + GRACE + WAITING_EVERY), None);
        let other = waiting("pod web-2: pulling");
        let said = Item::Waiting { text: "pod web-2: pulling".into() };
        assert_eq!(news.take(other, start + GRACE + WAITING_EVERY * 2), Some(said));
    }

    #[test]
    fn it_is_back_when_the_pod_is_known() {
        let (mut news, start) = (News::new(Some("web-1".into()), false), Instant::now());
        news.take(waiting("x"), start);
        news.due(start + GRACE).expect("the loss");
        assert_eq!(news.take(Seen { ready: true, ..Seen::default() }, start + GRACE), None);
        assert!(matches!(news.take(ready("web-1"), start + GRACE), Some(Item::Back { pod: Some(_), .. })));
    }

    #[test]
    fn when_connections_are_spread_another_pod_is_no_news() {
        let mut news = News::new(Some("web-1".into()), true);
        assert_eq!(news.take(ready("web-2"), Instant::now()), None);
    }
}
