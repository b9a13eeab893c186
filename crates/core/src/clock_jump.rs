//! Notices that the machine slept.
//!
//! On Linux the monotonic clock stands still while the machine sleeps and the wall clock does not; elsewhere both go on,
//! and the tick comes late. Either way whoever ticks regularly learns of it at the first tick afterwards.

use std::time::{Duration, Instant, SystemTime};

/// How far the wall clock may run ahead of the monotonic one: more than a correction by NTP makes of it.
const AHEAD_MAX: Duration = Duration::from_secs(10);

/// How late a tick may come: more than a busy machine makes of it.
const LATE_MAX: Duration = Duration::from_secs(15);

/// Compares both clocks from tick to tick.
#[derive(Clone, Debug)]
pub struct ClockJump {
    every: Duration,
    last: (Instant, SystemTime),
}

/// The machine slept, or stood still, for about this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jumped(pub Duration);

impl ClockJump {
    /// A detector that is going to be told the time every so often.
    #[must_use]
    pub const fn new(every: Duration, now: Instant, wall: SystemTime) -> Self {
        Self { every, last: (now, wall) }
    }

    /// Takes a tick. A wall clock that was set forward by more than 10 s looks like a sleep: redialling once is the
    /// lesser harm. One that was set back is no sleep.
    pub fn tick(&mut self, now: Instant, wall: SystemTime) -> Option<Jumped> {
        let (last, last_wall) = std::mem::replace(&mut self.last, (now, wall));
        let elapsed = now.saturating_duration_since(last);
        let wall_elapsed = wall.duration_since(last_wall).unwrap_or_default();
        let ahead = wall_elapsed.saturating_sub(elapsed);
        let late = elapsed.saturating_sub(self.every);
        (ahead > AHEAD_MAX || late > LATE_MAX).then_some(Jumped(ahead.saturating_add(late)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: Duration = Duration::from_secs(1);

    /// A detector and what it says when the clocks advance by so many milliseconds, one pair after the other.
    fn run(steps: &[(u64, i64)]) -> Vec<Option<u64>> {
        let (mut now, mut wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let mut clock = ClockJump::new(TICK, now, wall);
        let step = |(monotonic, walled): &(u64, i64)| {
            now += Duration::from_millis(*monotonic);
            let by = Duration::from_millis(walled.unsigned_abs());
            wall = if *walled < 0 { wall - by } else { wall + by };
            clock.tick(now, wall).map(|Jumped(slept)| u64::try_from(slept.as_millis()).unwrap())
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn regular_ticks_are_no_sleep() {
        assert_eq!(run(&[(1000, 1000), (1004, 1003), (900, 905)]), [None; 3]);
    }

    #[test]
    fn a_wall_clock_that_ran_on_alone_tells_of_a_sleep_on_linux() {
        assert_eq!(run(&[(1000, 1000), (1000, 3_601_000), (1000, 1000)]), [None, Some(3_600_000), None]);
    }

    #[test]
    fn a_late_tick_tells_of_a_sleep_elsewhere() {
        assert_eq!(run(&[(61_000, 61_000), (1000, 1000)]), [Some(60_000), None]);
    }

    #[test]
    fn small_steps_of_the_wall_clock_and_small_delays_are_no_sleep() {
        assert_eq!(run(&[(1000, 11_000), (16_000, 16_000), (1000, 500)]), [None; 3]);
        assert_eq!(run(&[(1000, 11_001)]), [Some(10_001)]);
        assert_eq!(run(&[(16_001, 0)]), [Some(15_001)]);
    }

    #[test]
    fn a_wall_clock_that_was_set_back_is_no_sleep_now_or_at_the_next_tick() {
        assert_eq!(run(&[(1000, -3_600_000), (1000, 1000)]), [None; 2]);
    }

    #[test]
    fn a_clock_that_is_set_by_eight_hours_is_one_wake_at_most() {
        let hours = 8 * 3600 * 1000;
        let eight = 8 * 3600 * 1000 + 1000;
        assert_eq!(run(&[(1000, eight), (1000, 1000), (1000, 1000)]), [Some(hours), None, None], "forward");
        assert_eq!(run(&[(1000, -eight), (1000, 1000), (1000, 1000)]), [None, None, None], "back");
    }

    proptest! {
        #[test]
        fn whatever_the_clocks_do_it_is_no_panic(steps in proptest::collection::vec((0u64..1 << 40, -(1i64 << 39)..1 << 40), 0..20)) {
            let _ = run(&steps);
        }

        #[test]
        fn a_sleep_is_told_once_with_its_length(ticks in 1usize..10, slept in 11u64..1 << 20, monotonic in any::<bool>()) {
            let mut steps = vec![(1000, 1000); ticks];
            let slept = (slept + 5) * 1000;
            let asleep = i64::try_from(slept).unwrap() + 1000;
            steps.insert(ticks / 2, (if monotonic { slept + 1000 } else { 1000 }, asleep));
            let told: Vec<u64> = run(&steps).into_iter().flatten().collect();
            prop_assert_eq!(told, [slept]);
        }
    }
}
