//! What one entrance has carried, for tables, pages and JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use runtime::splice::Meter;

use crate::failures::{Failures, LastError};

/// Counters of one entrance, changed while it works.
#[derive(Debug, Default)]
pub struct Traffic {
    opened: AtomicU64,
    live: AtomicU64,
    failed: AtomicU64,
    meter: Arc<Meter>,
    failures: Failures,
}

impl Traffic {
    /// One more stream or request, until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Live {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.live.fetch_add(1, Ordering::Relaxed);
        Live { traffic: Arc::clone(self) }
    }

    /// Notes a failure.
    pub fn fail(&self, text: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failures.note(text);
    }

    /// A stream was answered, or came to its end.
    pub(crate) fn worked(&self) {
        self.failures.worked();
    }

    /// Streams and requests since the start.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Streams and requests now.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Those that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Where bytes are counted.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// What went wrong last.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.failures.last()
    }
}

/// One stream or request that lives.
#[derive(Debug)]
pub struct Live {
    traffic: Arc<Traffic>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.traffic.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_counted_until_it_ends() {
        let traffic = Arc::new(Traffic::default());
        let one = traffic.begin();
        let two = traffic.begin();
        drop(one);
        assert_eq!((traffic.opened(), traffic.live()), (2, 1));
        drop(two);
        traffic.fail("no pod".into());
        assert_eq!((traffic.opened(), traffic.live(), traffic.failed()), (2, 0, 1));
        assert_eq!(traffic.last_error().unwrap().text, "no pod");
    }
}
