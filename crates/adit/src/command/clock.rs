//! The clock's jump and another network: the machine slept or was carried elsewhere, and what was connected is dead
//! without anybody having said so.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use adit_core::clock_jump::{ClockJump, Jumped};
use runtime::Scope;
use runtime::network::Network;
use tokio::time::{Interval, MissedTickBehavior};

/// How often the clocks are compared.
const TICK: Duration = Duration::from_secs(5);
/// How often the network is looked at: as long as a person takes to find out that it is another one.
const NETWORK_TICK: Duration = Duration::from_secs(2);

/// Ticks at whole multiples of a time: those of several tasks come together, so that what does nothing most times wakes the
/// machine seldom.
pub(super) fn ticks(every: Duration) -> Interval {
    static EPOCH: OnceLock<tokio::time::Instant> = OnceLock::new();
    let now = tokio::time::Instant::now();
    let epoch = *EPOCH.get_or_init(|| now);
    let past = now.saturating_duration_since(epoch).as_nanos() % every.as_nanos().max(1);
    let left = every.saturating_sub(Duration::from_nanos(u64::try_from(past).unwrap_or(0)));
    let mut ticks = tokio::time::interval_at(now + left, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Calls `woke` with the length of each sleep, until the scope drains. `now` reads both clocks.
pub(super) async fn watch(scope: &Scope, now: impl Fn() -> (Instant, SystemTime), woke: impl Fn(Duration)) {
    let (instant, system) = now();
    let mut jump = ClockJump::new(TICK, instant, system);
    let mut ticks = ticks(TICK);
    loop {
        tokio::select! {
            biased;
            () = scope.drained() => return,
            _ = ticks.tick() => {}
        }
        let (instant, system) = now();
        if let Some(Jumped(slept)) = jump.tick(instant, system) {
            woke(slept);
        }
    }
}

/// Calls `moved` when the way out of this machine is another one, until the scope drains. While there is none nothing is
/// told: there is nothing to dial.
pub(super) async fn watch_network(scope: &Scope, now: impl Fn() -> Network, moved: impl Fn()) {
    let mut known = now();
    let mut ticks = ticks(NETWORK_TICK);
    loop {
        tokio::select! {
            biased;
            () = scope.drained() => return,
            _ = ticks.tick() => {}
        }
        let network = now();
        if network != known && network.is_connected() {
            known = network;
            moved();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticks_of_several_tasks_come_together() {
        let (mut first, mut second) = (ticks(Duration::from_secs(2)), {
            tokio::time::sleep(Duration::from_millis(700)).await;
            ticks(Duration::from_secs(2))
        });
        for _ in 0..3 {
            let (one, other) = tokio::join!(first.tick(), second.tick());
            assert_eq!(one, other);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_is_told_once_and_the_end_ends_it() {
        let (scope, start) = (Scope::root(), tokio::time::Instant::now());
        let (slept, told) = (AtomicU64::new(0), AtomicU64::new(0));
        let now = || {
            let awake = start.elapsed();
            let asleep = Duration::from_secs(slept.load(Ordering::Relaxed));
            (start.into_std() + awake, SystemTime::UNIX_EPOCH + awake + asleep)
        };
        let watching = watch(&scope, now, |slept| {
            told.fetch_add(slept.as_secs(), Ordering::Relaxed);
        });
        let life = async {
            tokio::time::sleep(TICK * 3).await;
            assert_eq!(told.load(Ordering::Relaxed), 0, "nobody slept");
            slept.store(600, Ordering::Relaxed);
            tokio::time::sleep(TICK * 3).await;
            assert!(told.load(Ordering::Relaxed).abs_diff(600) <= 10, "{told:?}");
            // A clock that is set by eight hours is a sleep once, and set back none.
            slept.store(8 * 3600, Ordering::Relaxed);
            tokio::time::sleep(TICK * 3).await;
            assert!(told.load(Ordering::Relaxed).abs_diff(8 * 3600) <= 20, "{told:?}");
            slept.store(0, Ordering::Relaxed);
            tokio::time::sleep(TICK * 3).await;
            assert!(told.load(Ordering::Relaxed).abs_diff(8 * 3600) <= 20, "{told:?}");
            scope.drain();
        };
        tokio::join!(watching, life);
    }
}
