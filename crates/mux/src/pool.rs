//! Shared memory bounds: a receive window grows only while its pools have room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bounded amount of bytes, shared by many streams, nested session → account → process.
#[derive(Debug)]
pub struct Pool {
    limit: u64,
    used: AtomicU64,
    parent: Option<Arc<Pool>>,
}

impl Pool {
    /// A pool of `limit` bytes, whose takings count against `parent` too.
    #[must_use]
    pub fn new(limit: u64, parent: Option<Arc<Pool>>) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0), parent })
    }

    /// Takes `bytes`, from every pool of the chain or from none.
    #[must_use]
    pub fn try_take(&self, bytes: u64) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.limit)
            })
            .is_ok();
        if !taken {
            return false;
        }
        if self.parent.as_ref().is_none_or(|parent| parent.try_take(bytes)) {
            return true;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more given back than taken");
        if let Some(parent) = &self.parent {
            parent.give(bytes);
        }
    }

    /// Bytes taken now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more than three quarters of this pool or one above it are taken: new streams start smaller then.
    #[must_use]
    pub fn under_pressure(&self) -> bool {
        self.used().saturating_mul(4) > self.limit.saturating_mul(3)
            || self.parent.as_ref().is_some_and(|parent| parent.under_pressure())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taking_counts_in_the_whole_chain_or_nowhere() {
        let process = Pool::new(100, None);
        let a = Pool::new(80, Some(Arc::clone(&process)));
        let b = Pool::new(80, Some(Arc::clone(&process)));
        assert!(a.try_take(70));
        assert!(!b.try_take(40));
        assert_eq!((a.used(), b.used(), process.used()), (70, 0, 70));
        assert!(!a.try_take(20));
        a.give(70);
        assert!(b.try_take(80));
        assert!(process.under_pressure() && b.under_pressure());
        assert!(a.under_pressure(), "the parent's pressure is felt by all its children");
    }

    #[test]
    fn a_sum_that_overflows_is_refused() {
        let pool = Pool::new(u64::MAX, None);
        assert!(pool.try_take(5));
        assert!(!pool.try_take(u64::MAX));
    }
}
