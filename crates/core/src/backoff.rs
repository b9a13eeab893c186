//! How long to wait before the next attempt to reconnect.
//!
//! The first attempt comes within 100 ms, because most outages are a restart. After that full jitter: a random
//! part of 0.1 s × 2ⁿ, at most 10 s, for ever, unless the settings say otherwise. Full jitter spreads thousands of agents best when their server comes back.

use std::time::Duration;

/// The limits of the waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffSettings {
    /// The longest first wait.
    pub first: Duration,
    /// What grows with each failure.
    pub base: Duration,
    /// By what it grows; at least 1.
    pub growth: f64,
    /// The longest wait of all.
    pub cap: Duration,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            base: Duration::from_millis(100),
            growth: 2.0,
            cap: Duration::from_secs(10),
        }
    }
}

/// Counts failures and says how long to wait.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    settings: BackoffSettings,
    attempts: u32,
}

impl Backoff {
    /// A backoff that has seen no failure.
    #[must_use]
    pub const fn new(settings: BackoffSettings) -> Self {
        Self { settings, attempts: 0 }
    }

    /// The wait before the next attempt. `random` is any 64 random bits.
    pub fn next_wait(&mut self, random: u64) -> Duration {
        let most = self.longest();
        self.attempts = self.attempts.saturating_add(1);
        fraction(most, random)
    }

    /// The longest that the next wait can be.
    #[must_use]
    pub fn longest(&self) -> Duration {
        if self.attempts == 0 {
            return self.settings.first.min(self.settings.cap);
        }
        let factor = self.settings.growth.max(1.0).powi(i32::try_from(self.attempts).unwrap_or(i32::MAX));
        let grown = Duration::try_from_secs_f64(self.settings.base.as_secs_f64() * factor);
        grown.map_or(self.settings.cap, |grown| grown.min(self.settings.cap))
    }

    /// Attempts since the last success.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// An attempt succeeded: the next failure starts over.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// The part `random / 2⁶⁴` of a duration.
#[must_use]
pub fn fraction(most: Duration, random: u64) -> Duration {
    let nanos = (most.as_nanos().min(u128::from(u64::MAX)) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_wait_is_at_most_100_ms() {
        let mut backoff = Backoff::default();
        assert!(backoff.next_wait(u64::MAX) <= Duration::from_millis(100));
        assert_eq!(Backoff::default().next_wait(0), Duration::ZERO);
    }

    #[test]
    fn the_longest_wait_grows_as_the_settings_say() {
        let longest = |growth: f64| {
            let settings = BackoffSettings { growth, ..BackoffSettings::default() };
            let mut backoff = Backoff::new(settings);
            let mut seen = || {
                backoff.next_wait(0);
                backoff.longest()
            };
            [seen(), seen(), seen()].map(|wait| wait.as_millis())
        };
        assert_eq!(longest(1.0), [100, 100, 100]);
        assert_eq!(longest(3.0), [300, 900, 2700]);
        let settings = BackoffSettings { growth: 10.0, ..BackoffSettings::default() };
        let mut backoff = Backoff::new(settings);
        for _ in 0..1000 {
            backoff.next_wait(u64::MAX);
        }
        assert_eq!(backoff.longest(), settings.cap, "however often it failed");
    }

    #[test]
    fn the_longest_wait_doubles_up_to_the_cap() {
        let mut backoff = Backoff::default();
        let mut longest = Vec::new();
        for _ in 0..10 {
            longest.push(backoff.longest().as_millis());
            backoff.next_wait(1);
        }
        assert_eq!(longest, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.next_wait(u64::MAX);
        }
        assert_eq!(backoff.attempts(), 5);
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert_eq!(backoff.longest(), Duration::from_millis(100));
    }

    #[test]
    fn it_never_gives_up_however_many_attempts_failed() {
        let mut backoff = Backoff { attempts: u32::MAX - 1, ..Backoff::default() };
        backoff.next_wait(1);
        backoff.next_wait(1);
        assert_eq!(backoff.attempts(), u32::MAX);
        assert_eq!(backoff.longest(), Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_bound(randoms in proptest::collection::vec(any::<u64>(), 1..80)) {
            let mut backoff = Backoff::default();
            for random in randoms {
                let most = backoff.longest();
                prop_assert!(most <= Duration::from_secs(10));
                prop_assert!(backoff.next_wait(random) <= most);
            }
        }

        #[test]
        fn a_fraction_grows_with_its_random_number(a in any::<u64>(), b in any::<u64>(), ms in 0u64..1_000_000) {
            let most = Duration::from_millis(ms);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(fraction(most, low) <= fraction(most, high));
        }
    }
}
