//! How much of all SSH streams of the process may wait for their readers.
//!
//! A bound for each stream alone is none for the process: a crowd of clients that read nothing would have it many times. So
//! there is one sum, and a stream may have a part of what is left of it: one alone much, each of many little, and whoever
//! comes next finds some.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A stream may have so much whatever the others have, or no pace would be left to it.
const SHARE_MIN: isize = 64 * 1024;
/// A stream may have what is left divided by this.
const PART: isize = 4;
/// What a piece costs beside its bytes: its place in a queue and the allocation.
const PIECE: isize = 128;

/// What waits in all streams together. It stays below its bound, but for the least share of each stream.
pub(crate) struct Budget {
    total: isize,
    used: AtomicIsize,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(total: isize) -> Arc<Self> {
        Arc::new(Self { total, used: AtomicIsize::new(0), freed: Notify::new() })
    }

    /// For one more stream.
    pub(crate) fn account(self: &Arc<Self>) -> Account {
        Account { budget: Arc::clone(self), held: AtomicIsize::new(0), closed: AtomicBool::new(false) }
    }

    /// Bytes that wait, with what their pieces cost.
    #[cfg(test)]
    pub(crate) fn used(&self) -> isize {
        self.used.load(Ordering::SeqCst)
    }

    fn share(&self) -> isize {
        ((self.total - self.used.load(Ordering::SeqCst)) / PART).max(SHARE_MIN)
    }

    fn add(&self, cost: isize) {
        let before = self.used.fetch_add(cost, Ordering::SeqCst);
        // With less than that in the sum no stream can have its share, and nobody waits.
        if cost < 0 && before >= (self.total / (PART + 1)).min(SHARE_MIN) {
            self.freed.notify_waiters();
        }
    }
}

/// What one stream has of the sum. It is given back when this is dropped.
pub(crate) struct Account {
    budget: Arc<Budget>,
    /// Below zero for a moment, as a fast reader takes bytes before they are counted.
    held: AtomicIsize,
    closed: AtomicBool,
}

impl Account {
    /// A piece has come.
    pub(crate) fn arrived(&self, bytes: isize) {
        self.add(bytes + PIECE);
    }

    /// A piece was taken from its queue.
    pub(crate) fn took_piece(&self) {
        self.add(-PIECE);
    }

    /// Bytes were read.
    pub(crate) fn taken(&self, bytes: isize) {
        self.add(-bytes);
    }

    /// Whether the stream has its share of the sum.
    pub(crate) fn is_spent(&self) -> bool {
        self.held.load(Ordering::SeqCst) >= self.budget.share()
    }

    /// Told when there may be room again by what others gave back.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.budget.freed.notified()
    }

    /// Nothing of it waits any more, and what still comes is thrown away.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.settle();
    }

    fn add(&self, cost: isize) {
        self.held.fetch_add(cost, Ordering::SeqCst);
        self.budget.add(cost);
        // It may have been closed in between.
        if self.closed.load(Ordering::SeqCst) {
            self.settle();
        }
    }

    fn settle(&self) {
        self.budget.add(-self.held.swap(0, Ordering::SeqCst));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: isize = 1024 * 1024;

    #[test]
    fn what_a_stream_has_is_given_back_whatever_comes_after_its_end() {
        let budget = Budget::new(MIB);
        let (one, other) = (budget.account(), budget.account());
        one.arrived(MIB);
        other.arrived(10);
        assert!(one.is_spent() && !other.is_spent(), "the other has not had its share");
        one.close();
        one.arrived(500);
        one.taken(500);
        assert_eq!(budget.used(), 10 + PIECE);
        other.took_piece();
        drop(one);
        assert_eq!(budget.used(), 10);
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_stream_may_have_much_and_each_of_many_little() {
        let budget = Budget::new(64 * MIB);
        let fill = |account: &Account| {
            while !account.is_spent() {
                account.arrived(32 * 1024);
            }
        };
        let one = budget.account();
        fill(&one);
        assert!((12 * MIB..14 * MIB).contains(&budget.used()), "{}", budget.used());
        let many: Vec<_> = (0..400).map(|_| budget.account()).collect();
        many.iter().for_each(fill);
        let least = 401 * (SHARE_MIN + 33 * 1024);
        assert!(budget.used() < 64 * MIB + least, "{}", budget.used());
        one.taken(12 * MIB);
        drop(many);
        assert!(!one.is_spent());
    }
}
