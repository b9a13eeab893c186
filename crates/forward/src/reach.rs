//! What many forwards share, a cluster or an SSH server, while there is no way to it: one of them dials at a time, at a
//! measured pace, and all come back at once when it is back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::backoff::{Backoff, BackoffSettings};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// The waits between two tries to connect.
pub(crate) const AGAIN: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(50),
    base: Duration::from_millis(100),
    growth: 2.0,
    cap: Duration::from_secs(2),
};
/// What went away is back soon, most times: for a while no wait is longer than this.
pub(crate) const RESTART: Duration = Duration::from_millis(400);
/// See [`RESTART`]. A try may cost a process, so not for ever.
pub(crate) const RESTARTING: Duration = Duration::from_secs(60);

/// Whether there is a way to something that forwards share.
pub(crate) struct Reach {
    away: Mutex<Option<Away>>,
    /// The one place to dial from while it is away, given in the order in which it was asked for: whoever has tried in
    /// vain is behind all others.
    place: Arc<Semaphore>,
    /// Told when nobody has to wait any more.
    free: watch::Sender<u64>,
}

struct Away {
    since: Instant,
    backoff: Backoff,
    next: Instant,
}

/// The permission to dial; while it is away, for one at a time.
pub(crate) struct Turn {
    #[cfg_attr(not(test), expect(dead_code, reason = "it is held, and given back when the turn is over"))]
    only: Option<OwnedSemaphorePermit>,
}

impl Reach {
    /// It is there as far as is known.
    pub(crate) fn new() -> Arc<Self> {
        let (place, free) = (Arc::new(Semaphore::new(1)), watch::Sender::new(0));
        Arc::new(Self { away: Mutex::default(), place, free })
    }

    /// Waits for the turn to dial: none while it is there.
    pub(crate) async fn turn(self: &Arc<Self>) -> Turn {
        let mut free = self.free.subscribe();
        if self.next().is_none() {
            return Turn { only: None };
        }
        let only = tokio::select! {
            biased;
            _ = free.changed() => return Turn { only: None },
            place = Arc::clone(&self.place).acquire_owned() => place.ok(),
        };
        loop {
            match self.next() {
                None => return Turn { only: None },
                Some(next) if next <= Instant::now() => return Turn { only },
                Some(next) => tokio::select! {
                    biased;
                    _ = free.changed() => return Turn { only: None },
                    () = tokio::time::sleep_until(next) => {}
                },
            }
        }
    }

    /// When it may be dialled, while it is away.
    fn next(&self) -> Option<Instant> {
        self.away().as_ref().map(|away| away.next)
    }

    /// There is a way to it: whoever waits goes on.
    pub(crate) fn is_back(&self) {
        if self.away().take().is_some() {
            self.free.send_modify(|count| *count += 1);
        }
    }

    /// The machine slept, or its network changed: what was known of it is no more, and nobody waits.
    pub(crate) fn wake(&self) {
        self.is_back();
    }

    /// There is none. Those that dialled at the same time say so once.
    pub(crate) fn is_away(&self, random: u64) {
        let now = Instant::now();
        let mut away = self.away();
        let away = away.get_or_insert_with(|| Away { since: now, backoff: Backoff::new(AGAIN), next: now });
        if away.next > now {
            return;
        }
        let wait = away.backoff.next_wait(random);
        away.next = now + if now - away.since < RESTARTING { wait.min(RESTART) } else { wait };
    }

    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use adit_core::forward::ForwardState;
    use adit_core::target::Target;
    use runtime::Scope;

    use super::*;
    use crate::clusters::Clusters;
    use crate::k8s::kubeconfig::KubeSettings;
    use crate::supervisor::{Forward, ForwardOptions};

    /// Nothing of this takes long.
    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn while_it_is_there_nobody_waits() {
        let reach = Reach::new();
        let (one, two) = tokio::join!(reach.turn(), reach.turn());
        assert!(one.only.is_none() && two.only.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_away_one_dials_at_a_time_at_a_measured_pace_and_all_go_on_at_once() {
        let (reach, scope) = (Reach::new(), Scope::root());
        reach.is_away(u64::MAX);
        let (dials, at_once, done) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let back = Instant::now() + Duration::from_secs(30);
        for who in 0..50 {
            let (reach, dials, at_once, done) =
                (Arc::clone(&reach), Arc::clone(&dials), Arc::clone(&at_once), Arc::clone(&done));
            scope.spawn("a forward", async move {
                loop {
                    let turn = reach.turn().await;
                    if Instant::now() >= back {
                        reach.is_back();
                        break;
                    }
                    dials.lock().unwrap().push(who);
                    assert_eq!(at_once.fetch_add(1, Ordering::Relaxed), 0, "one at a time");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    at_once.fetch_sub(1, Ordering::Relaxed);
                    reach.is_away(u64::MAX);
                    drop(turn);
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        scope.idle().await;
        assert_eq!(done.load(Ordering::Relaxed), 50);
        let dials = dials.lock().unwrap().clone();
        assert!((60..120).contains(&dials.len()), "{} in 30 s, one each 400 ms", dials.len());
        assert!(Instant::now() - back < Duration::from_secs(1), "all at once");
        let first: HashSet<_> = dials.iter().take(50).collect();
        assert_eq!(first.len(), 50, "each before any a second time: {dials:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_sleep_nobody_waits_for_what_was_away_before_it() {
        let reach = Reach::new();
        reach.is_away(u64::MAX);
        let _dialing = reach.turn().await;
        let waiting = reach.turn();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting.as_mut()).await.is_err());
        let woken = Instant::now();
        reach.wake();
        assert!(waiting.await.only.is_none());
        assert_eq!(Instant::now(), woken);
    }

    #[tokio::test]
    async fn a_forward_that_wakes_dials_whoever_has_the_turn() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("ssh://someone@{}/db:5432", listener.local_addr().unwrap());
        let target = Target::parse(&target).unwrap();
        let (scope, clusters) = (Scope::root(), Clusters::new(KubeSettings::default()));
        let reach = clusters.reach(&target).unwrap();
        reach.is_away(0);
        let _held = reach.turn().await;
        let forward = Forward::new(&scope, &clusters, "db", target, ForwardOptions::default());
        let mut reports = forward.status();
        let waits = reports.wait_for(|report| report.status.state == ForwardState::Connecting);
        assert!(tokio::time::timeout(DEADLINE, waits).await.unwrap().is_ok());
        forward.wake();
        let dialled = tokio::time::timeout(DEADLINE, listener.accept()).await;
        assert!(dialled.unwrap().is_ok());
        scope.drain();
        scope.abort();
    }

    #[tokio::test]
    async fn a_dial_of_what_is_away_is_no_restart_of_the_forward() {
        let closed = testkit::process::Closed::take().unwrap();
        let target = format!("ssh://someone@{}/db:5432", closed.address);
        let (scope, clusters) = (Scope::root(), Clusters::new(KubeSettings::default()));
        let target = Target::parse(&target).unwrap();
        let forward = Forward::new(&scope, &clusters, "db", target, ForwardOptions::default());
        let mut reports = forward.status();
        let tried = reports.wait_for(|report| report.status.attempt.number() >= 4);
        let report = tokio::time::timeout(DEADLINE, tried).await.unwrap().unwrap().clone();
        assert_eq!(report.restarts, 0, "{report:?}");
        scope.drain();
        scope.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_its_turn_leaves_it_to_another() {
        let reach = Reach::new();
        reach.is_away(u64::MAX);
        let only = reach.turn().await;
        assert!(only.only.is_some());
        let waiting = reach.turn();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting.as_mut()).await.is_err());
        drop(only);
        assert!(waiting.await.only.is_some());
    }
}
