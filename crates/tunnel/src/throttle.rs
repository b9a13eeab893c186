//! Bandwidth quotas: a bucket that may be overdrawn by one chunk, and the wait that follows.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit_core::bucket::TokenBucket;

/// Counts the bytes of an account in one direction, and slows them to its quota.
pub(crate) struct Throttle {
    total: AtomicU64,
    bucket: Mutex<Option<TokenBucket>>,
    limited: std::sync::atomic::AtomicBool,
}

impl Throttle {
    /// Counts only, or holds to `bytes_per_second`.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let throttle = Self {
            total: AtomicU64::new(0),
            bucket: Mutex::new(None),
            limited: std::sync::atomic::AtomicBool::new(false),
        };
        throttle.set_limit(bytes_per_second);
        throttle
    }

    /// Changes the limit; what was overdrawn is forgiven.
    pub(crate) fn set_limit(&self, bytes_per_second: Option<u64>) {
        let bucket = bytes_per_second.map(|rate| TokenBucket::new(rate, rate));
        self.limited.store(bucket.is_some(), Ordering::Relaxed);
        *self.bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bucket;
    }

    /// Bytes counted since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Counts bytes that have passed; how long to wait before the next.
    pub(crate) fn charge(&self, bytes: usize) -> Option<Duration> {
        self.total.fetch_add(bytes as u64, Ordering::Relaxed);
        if !self.limited.load(Ordering::Relaxed) {
            return None;
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let wait = bucket.as_mut()?.take_debt(Instant::now(), bytes as u64);
        (wait > Duration::ZERO).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_it_only_counts() {
        let throttle = Throttle::new(None);
        assert_eq!(throttle.charge(1 << 30), None);
        assert_eq!(throttle.total(), 1 << 30);
    }

    #[test]
    fn what_passes_beyond_the_rate_is_waited_for() {
        let throttle = Throttle::new(Some(1000));
        assert_eq!(throttle.charge(1000), None);
        let wait = throttle.charge(500).unwrap();
        assert!(wait > Duration::from_millis(400) && wait <= Duration::from_millis(500), "{wait:?}");
        throttle.set_limit(None);
        assert_eq!(throttle.charge(5000), None);
    }
}
