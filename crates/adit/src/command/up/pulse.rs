//! When the view looks again: soon while something happens, seldom while nothing does, at once when a forward changes.

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

/// How forwards are, as it changes.
pub(super) type News = Vec<watch::Receiver<Arc<ForwardReport>>>;

/// What was seen when it was last looked.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Streams so far, and bytes both ways.
    carried: (u64, u64),
}

impl Pulse {
    /// How long nothing new is expected after a look that saw this; `changed`: it told something.
    pub(super) fn pause(&mut self, rows: &[Row], changed: bool) -> Duration {
        let before = self.carried;
        let sum = |(opened, bytes): (u64, u64), row: &Row| (opened + row.opened, bytes + row.bytes_in + row.bytes_out);
        self.carried = rows.iter().fold((0, 0), sum);
        if changed || self.carried != before {
            SOON
        } else if rows.iter().any(|row| row.health.is_some() || matches!(row.kind, "route" | "host")) {
            UNTOLD
        } else {
            SELDOM
        }
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
