//! What many forwards share, a cluster or an SSH server, while there is no way to it: one of them dials at a time, at a
//! measured pace, and all come back at once when it is back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::backoff::{Backoff, BackoffSettings};
use tokio::sync::watch;
use tokio::time::Instant;

/// The waits between two tries.
const AGAIN: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(50),
    base: Duration::from_millis(100),
    growth: 2.0,
    cap: Duration::from_secs(2),
};
/// What went away is back soon, most times: for a while no wait is longer than this.
const RESTART: Duration = Duration::from_millis(400);
/// See [`RESTART`].
const RESTARTING: Duration = Duration::from_secs(60);

/// Whether there is a way to something that forwards share.
pub(crate) struct Reach {
    state: Mutex<State>,
    /// Told when a turn ended.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    away: Option<Away>,
    /// Somebody tries whether it is back.
    dialing: bool,
}

struct Away {
    since: Instant,
    backoff: Backoff,
    next: Instant,
}

/// The permission to dial; while it is away, for one at a time.
pub(crate) struct Turn {
    reach: Arc<Reach>,
    is_only: bool,
}

enum Next {
    Go { is_only: bool },
    Wait { until: Option<Instant> },
}

impl Reach {
    /// It is there as far as is known.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// Waits for the turn to dial: none while it is there.
    pub(crate) async fn turn(self: &Arc<Self>) -> Turn {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let until = match self.next(Instant::now()) {
                Next::Go { is_only } => return Turn { reach: Arc::clone(self), is_only },
                Next::Wait { until } => until,
            };
            let due = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = changed.changed() => {}
                () = due => {}
            }
        }
    }

    fn next(&self, now: Instant) -> Next {
        let mut state = self.state();
        let Some(next) = state.away.as_ref().map(|away| away.next) else { return Next::Go { is_only: false } };
        if state.dialing {
            return Next::Wait { until: None };
        }
        if next > now {
            return Next::Wait { until: Some(next) };
        }
        state.dialing = true;
        Next::Go { is_only: true }
    }

    /// There is a way to it: whoever waits goes on.
    pub(crate) fn is_back(&self) {
        if self.state().away.take().is_some() {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// There is none. Those that dialled at the same time say so once.
    pub(crate) fn is_away(&self, random: u64) {
        let now = Instant::now();
        let mut state = self.state();
        let away = state.away.get_or_insert_with(|| Away { since: now, backoff: Backoff::new(AGAIN), next: now });
        if away.next > now {
            return;
        }
        let wait = away.backoff.next_wait(random);
        away.next = now + if now - away.since < RESTARTING { wait.min(RESTART) } else { wait };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_only {
            self.reach.state().dialing = false;
            self.reach.changed.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use runtime::Scope;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_it_is_there_nobody_waits() {
        let reach = Reach::new();
        let (one, two) = tokio::join!(reach.turn(), reach.turn());
        assert!(!one.is_only && !two.is_only);
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_away_one_dials_at_a_time_at_a_measured_pace_and_all_go_on_at_once() {
        let (reach, scope) = (Reach::new(), Scope::root());
        reach.is_away(u64::MAX);
        let (dials, at_once, done) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let back = Instant::now() + Duration::from_secs(30);
        for _ in 0..50 {
            let (reach, dials, at_once, done) =
                (Arc::clone(&reach), Arc::clone(&dials), Arc::clone(&at_once), Arc::clone(&done));
            scope.spawn("a forward", async move {
                loop {
                    let _turn = reach.turn().await;
                    if Instant::now() >= back {
                        reach.is_back();
                        break;
                    }
                    dials.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(at_once.fetch_add(1, Ordering::Relaxed), 0, "one at a time");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    at_once.fetch_sub(1, Ordering::Relaxed);
                    reach.is_away(u64::MAX);
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        scope.idle().await;
        assert_eq!(done.load(Ordering::Relaxed), 50);
        let dials = dials.load(Ordering::Relaxed);
        assert!((60..120).contains(&dials), "{dials} in 30 s, one each 400 ms");
        assert!(Instant::now() - back < Duration::from_secs(1), "all at once");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_its_turn_leaves_it_to_another() {
        let reach = Reach::new();
        reach.is_away(u64::MAX);
        let only = reach.turn().await;
        assert!(only.is_only);
        let waiting = reach.turn();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting.as_mut()).await.is_err());
        drop(only);
        assert!(waiting.await.is_only);
    }
}
