//! Token bucket: requests per second with a burst, and bytes per second as a debt to be waited off.

use std::time::{Duration, Instant};

/// The longest wait that is ever said; a rate near zero would otherwise mean centuries.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// A bucket that fills at a rate up to its burst.
///
/// Two ways to use it: [`TokenBucket::take`] refuses what is not there (requests), [`TokenBucket::take_debt`] lets
/// the level go below zero and says how long to wait before the next (bytes that have already been read).
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: f64,
    burst: f64,
    level: f64,
    filled: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `rate` units a second and `burst` units at most. A rate of zero is no limit.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "rates above 2^53 a second are no limit at all")]
    pub fn new(rate: u64, burst: u64) -> Self {
        let burst = burst.max(1) as f64;
        Self { rate: rate as f64, burst, level: burst, filled: None }
    }

    /// A bucket that never refuses.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(0, 1)
    }

    /// Whether it never refuses.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.rate <= 0.0
    }

    /// Takes `n` units, or says how long to wait until they are there.
    ///
    /// More units than the burst count as the burst: what can never be there is granted by a full bucket.
    ///
    /// # Errors
    /// With the time until a new attempt may succeed, never zero.
    pub fn take(&mut self, now: Instant, n: u64) -> Result<(), Duration> {
        if self.is_unlimited() {
            return Ok(());
        }
        self.fill(now);
        let wanted = units(n).min(self.burst);
        if self.level >= wanted {
            self.level -= wanted;
            return Ok(());
        }
        Err(self.wait_for(wanted - self.level))
    }

    /// Takes `n` units that are used already, and says how long to wait before using more. Zero: go on.
    pub fn take_debt(&mut self, now: Instant, n: u64) -> Duration {
        if self.is_unlimited() {
            return Duration::ZERO;
        }
        self.fill(now);
        self.level -= units(n);
        self.debt()
    }

    /// How long to wait before using more, without taking anything.
    pub fn wait(&mut self, now: Instant) -> Duration {
        if self.is_unlimited() {
            return Duration::ZERO;
        }
        self.fill(now);
        self.debt()
    }

    /// Whole units that could be taken now.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to zero and above; a float cast saturates"
    )]
    pub fn available(&mut self, now: Instant) -> u64 {
        if self.is_unlimited() {
            return u64::MAX;
        }
        self.fill(now);
        self.level.max(0.0) as u64
    }

    /// Changes rate and burst, keeping the level as far as the new burst permits; for reloads.
    pub fn adjust(&mut self, now: Instant, rate: u64, burst: u64) {
        let fresh = Self::new(rate, burst);
        if self.is_unlimited() {
            *self = fresh;
            return;
        }
        self.fill(now);
        self.rate = fresh.rate;
        self.burst = fresh.burst;
        self.level = self.level.min(self.burst);
    }

    fn fill(&mut self, now: Instant) {
        let since = self.filled.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.level = self.rate.mul_add(since.as_secs_f64(), self.level).min(self.burst);
        // A clock value from before the last one must not be counted a second time later.
        self.filled = Some(self.filled.map_or(now, |then| then.max(now)));
    }

    fn debt(&self) -> Duration {
        if self.level >= 0.0 {
            return Duration::ZERO;
        }
        self.wait_for(-self.level)
    }

    fn wait_for(&self, missing: f64) -> Duration {
        // One nanosecond more, so that rounding never asks for an attempt that must fail again.
        Duration::try_from_secs_f64(missing / self.rate)
            .unwrap_or(WAIT_MAX)
            .saturating_add(Duration::from_nanos(1))
            .min(WAIT_MAX)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts above 2^53 do not occur in one call")]
const fn units(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_burst_is_there_at_the_start_and_then_the_rate_decides() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(10, 3);
        for _ in 0..3 {
            assert_eq!(bucket.take(now, 1), Ok(()));
        }
        let wait = bucket.take(now, 1).unwrap_err();
        assert!(wait >= ms(100) && wait < ms(101), "{wait:?}");
        assert!(bucket.take(now + ms(50), 1).is_err());
        assert_eq!(bucket.take(now + wait, 1), Ok(()));
    }

    #[test]
    fn it_never_fills_beyond_the_burst() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(1000, 5);
        assert_eq!(bucket.available(now + Duration::from_secs(60)), 5);
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let now = Instant::now();
        let mut bucket = TokenBucket::unlimited();
        assert_eq!(bucket.take(now, u64::MAX), Ok(()));
        assert_eq!(bucket.take_debt(now, u64::MAX), Duration::ZERO);
        assert_eq!(bucket.available(now), u64::MAX);
    }

    #[test]
    fn debt_is_waited_off_at_the_rate() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(1000, 1000);
        assert_eq!(bucket.take_debt(now, 1000), Duration::ZERO);
        let wait = bucket.take_debt(now, 500);
        assert!(wait >= ms(500) && wait < ms(501), "{wait:?}");
        assert!(bucket.wait(now + ms(499)) > Duration::ZERO);
        assert_eq!(bucket.wait(now + ms(501)), Duration::ZERO);
    }

    #[test]
    fn more_than_the_burst_is_granted_by_a_full_bucket() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(10, 5);
        assert_eq!(bucket.take(now, 50), Ok(()));
        assert!(bucket.take(now, 50).is_err());
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut bucket = TokenBucket::new(10, 10);
        assert_eq!(bucket.take(now, 10), Ok(()));
        assert!(bucket.take(now - Duration::from_secs(50), 1).is_err());
        assert!(bucket.take(now, 1).is_err());
    }

    #[test]
    fn a_reload_keeps_the_level_within_the_new_burst() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(10, 100);
        bucket.adjust(now, 10, 5);
        assert_eq!(bucket.available(now), 5);
        bucket.adjust(now, 0, 0);
        assert!(bucket.is_unlimited());
        bucket.adjust(now, 10, 7);
        assert_eq!(bucket.available(now), 7);
    }

    #[test]
    fn the_longest_wait_is_an_hour() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(1, 1);
        assert_eq!(bucket.take_debt(now, u64::MAX), WAIT_MAX);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_permit(
            rate in 1u64..1000, burst in 1u64..100,
            steps in proptest::collection::vec((0u64..200, 1u64..50), 1..100)
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = TokenBucket::new(rate, burst);
            let mut taken = 0;
            for (pause, n) in steps {
                now += ms(pause);
                if bucket.take(now, n).is_ok() {
                    taken += n.min(burst);
                }
                let elapsed = u64::try_from((now - start).as_millis()).unwrap();
                prop_assert!(taken * 1000 <= burst * 1000 + rate * elapsed + 1000);
            }
        }

        #[test]
        fn the_wait_that_is_said_is_enough(rate in 1u64..100_000, n in 1u64..100) {
            let now = Instant::now();
            let mut bucket = TokenBucket::new(rate, 100);
            bucket.take(now, 100).unwrap();
            let wait = bucket.take(now, n).unwrap_err();
            prop_assert_eq!(bucket.take(now + wait, n), Ok(()));
        }
    }
}
