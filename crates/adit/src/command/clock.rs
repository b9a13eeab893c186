//! The clock's jump and another network: the machine slept or was carried elsewhere, and what was connected is dead
//! without anybody having said so.

use std::time::{Duration, Instant, SystemTime};

use adit_core::clock_jump::{ClockJump, Jumped};
use runtime::Scope;
use runtime::network::Network;
use tokio::time::MissedTickBehavior;

/// How often the clocks are compared.
const TICK: Duration = Duration::from_secs(5);
/// How often the network is looked at: as long as a person takes to find out that it is another one.
const NETWORK_TICK: Duration = Duration::from_secs(2);

/// Calls `woke` with the length of each sleep, until the scope drains. `now` reads both clocks.
pub(super) async fn watch(scope: &Scope, now: impl Fn() -> (Instant, SystemTime), woke: impl Fn(Duration)) {
    let (instant, system) = now();
    let mut jump = ClockJump::new(TICK, instant, system);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
    let mut ticks = tokio::time::interval(NETWORK_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            scope.drain();
        };
        tokio::join!(watching, life);
    }
}
