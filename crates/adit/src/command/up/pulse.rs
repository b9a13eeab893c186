//! When the view looks again: soon while something happens, seldom while nothing does, at once when a forward changes. And when
//! there is memory to give back.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::forward::ForwardReport;
use gateway::rows::Row;
use runtime::scope::Scope;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// How often is looked while something happens, and how often at most.
const SOON: Duration = Duration::from_millis(250);
/// What probes say, and what becomes of routes and hosts, is no news of a forward of the file.
const UNTOLD: Duration = Duration::from_secs(1);
/// What else nobody tells: the first failed connection to a plain address after a quiet time.
const SELDOM: Duration = Duration::from_secs(5);

/// After so many connections or bytes much memory may be free that the allocator keeps.
const MUCH: (u64, u64) = (1_000, 64 << 20);
/// To give memory back costs a few milliseconds, and what comes next has to ask for it again.
const GIVE_BACK_AT_MOST: Duration = Duration::from_secs(10);

/// How forwards are, as it changes.
pub(super) type News = Vec<watch::Receiver<Arc<ForwardReport>>>;

/// What was seen when it was last looked.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Streams so far, and bytes both ways.
    carried: (u64, u64),
    /// Nothing was carried between the last two looks.
    is_quiet: bool,
    /// What had been carried when memory was last given back, when that was, and whether it is to be done once more.
    given_back: (u64, u64),
    gave_back_at: Option<Instant>,
    gives_back_again: bool,
}

impl Pulse {
    /// How long nothing new is expected after a look that saw this; `changed`: it told something.
    pub(super) fn pause(&mut self, rows: &[Row], changed: bool) -> Duration {
        let before = self.carried;
        let sum = |(opened, bytes): (u64, u64), row: &Row| (opened + row.opened, bytes + row.bytes_in + row.bytes_out);
        self.carried = rows.iter().fold((0, 0), sum);
        self.is_quiet = self.carried == before;
        // What a forward has carried goes with it.
        self.given_back = (self.given_back.0.min(self.carried.0), self.given_back.1.min(self.carried.1));
        if changed || !self.is_quiet {
            SOON
        } else if rows.iter().any(|row| row.health.is_some() || matches!(row.kind, "route" | "host")) {
            UNTOLD
        } else {
            SELDOM
        }
    }

    /// Whether memory should be given back to the system now: much was carried since that was last done, and nothing is being carried.
    /// Without it a burst of short connections leaves its most behind: 226 MB were resident after 360,000 that their clients cut, and 42 MB were in use.
    pub(super) fn gives_back(&mut self) -> bool {
        let is_much = self.carried.0.saturating_sub(self.given_back.0) >= MUCH.0
            || self.carried.1.saturating_sub(self.given_back.1) >= MUCH.1;
        let is_due = (is_much || self.gives_back_again)
            && self.is_quiet
            && self.gave_back_at.is_none_or(|at| at.elapsed() >= GIVE_BACK_AT_MOST);
        if is_due {
            self.given_back = self.carried;
            self.gave_back_at = Some(Instant::now());
            // What clients have left may still be on its way to the servers the first time.
            self.gives_back_again = is_much;
        }
        is_due
    }
}

/// Waits until it is time to look again; `reloaded` is told when there may be other forwards. `false`: the scope drains.
pub(super) async fn wait(scope: &Scope, pause: Duration, mut news: News, reloaded: &Notify) -> bool {
    let looked = Instant::now();
    let told = tokio::select! {
        biased;
        () = scope.drained() => return false,
        () = sleep_until(looked + pause) => return true,
        () = any(&mut news) => looked + SOON,
        () = reloaded.notified() => looked + SOON,
    };
    tokio::select! {
        biased;
        () = scope.drained() => false,
        () = sleep_until(told) => true,
    }
}

/// Waits until one of them changes; of one that has ended nothing comes any more.
pub(super) async fn any<T>(news: &mut Vec<watch::Receiver<T>>) {
    news.retain(|one| one.has_changed().is_ok());
    let mut changes: Vec<_> = news.iter_mut().map(|one| Box::pin(one.changed())).collect();
    std::future::poll_fn(|cx| {
        let mut ready = false;
        for change in &mut changes {
            if Pin::new(change).poll(cx).is_ready() {
                ready = true;
                break;
            }
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn after(pause: Duration, news: News, reloaded: &Notify) -> Duration {
        let begun = Instant::now();
        assert!(wait(&Scope::root(), pause, news, reloaded).await);
        begun.elapsed()
    }

    #[test]
    fn it_is_soon_while_something_happens_and_seldom_while_nothing_does() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.pause(&[], true), SOON);
        assert_eq!(pulse.pause(&[], false), SELDOM);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_given_back_when_much_was_carried_and_nothing_is_any_more() {
        let mut pulse = Pulse { carried: (MUCH.0, 0), ..Pulse::default() };
        assert!(!pulse.gives_back(), "something is being carried");
        pulse.is_quiet = true;
        assert!(pulse.gives_back());
        assert!(!pulse.gives_back(), "not so soon again");
        tokio::time::advance(GIVE_BACK_AT_MOST).await;
        assert!(pulse.gives_back(), "a second time");
        tokio::time::advance(GIVE_BACK_AT_MOST).await;
        assert!(!pulse.gives_back(), "and no third time");
        pulse.carried.1 += MUCH.1;
        assert!(pulse.gives_back());
        // The forward with all of them is removed, and another one carries as much.
        pulse.pause(&[], true);
        tokio::time::advance(GIVE_BACK_AT_MOST).await;
        assert!(!pulse.gives_back());
        (pulse.gives_back_again, pulse.carried, pulse.is_quiet) = (false, (MUCH.0, 0), true);
        assert!(pulse.gives_back());
    }

    #[tokio::test(start_paused = true)]
    async fn without_news_it_is_the_whole_pause() {
        assert_eq!(after(LONG, News::new(), &Notify::new()).await, LONG);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_ends_the_pause_also_one_before_it() {
        let reloaded = Notify::new();
        reloaded.notify_one();
        assert_eq!(after(LONG, News::new(), &reloaded).await, SOON);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_ends_the_pause_and_what_is_gone_does_not() {
        let (sender, receiver) = watch::channel(0);
        let (gone, ended) = watch::channel(0);
        drop(gone);
        let mut receivers = vec![ended, receiver];
        let changing = async {
            tokio::time::sleep(LONG).await;
            sender.send_replace(1);
        };
        let begun = Instant::now();
        tokio::join!(any(&mut receivers), changing);
        assert_eq!(begun.elapsed(), LONG);
    }

    #[tokio::test]
    async fn the_end_ends_the_pause() {
        let scope = Scope::root();
        scope.drain();
        assert!(!wait(&scope, LONG, News::new(), &Notify::new()).await);
    }
}
