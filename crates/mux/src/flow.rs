//! Credit arithmetic of one stream, in one place.
//!
//! The reader owns the memory: it promises credit, and `outstanding + unread` never passes the window.
//! A window doubles when half of it was used in under two round trips, out of bounded [`Pool`]s, and
//! shrinks when it is not needed; a sender hands credit back that it has not used for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pool::Pool;

/// Window each stream is sure of, in bytes.
pub const FLOOR: u32 = 64 * 1024;
/// Window of new streams while the pools are nearly used up.
pub const FLOOR_UNDER_PRESSURE: u32 = 16 * 1024;
/// No window grows beyond this.
pub const WINDOW_MAX: u32 = 16 * 1024 * 1024;
/// How long a window may be larger than needed before it shrinks.
pub const SHRINK_AFTER: Duration = Duration::from_secs(10);
/// Below this a window that is used up at once grows fourfold, so that a long path is filled within ten round trips.
const SMALL: u32 = 1024 * 1024;
/// A sender's credit sum never passes this; more is a violation (compare RFC 9113 section 6.9.1).
pub const CREDIT_CAP: u64 = 1 << 31;

/// The peer broke the credit rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more bytes than credit allows")]
pub struct Overflow;

/// What this side may still send on a stream.
#[derive(Debug)]
pub struct SendCredit {
    left: u64,
    last_spent: Instant,
}

impl SendCredit {
    /// Starts with `initial` bytes.
    #[must_use]
    pub fn new(initial: u32, now: Instant) -> Self {
        Self { left: u64::from(initial), last_spent: now }
    }

    /// Bytes that may be sent.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Spends `bytes`, which must not be more than [`SendCredit::left`].
    pub fn spend(&mut self, now: Instant, bytes: usize) {
        debug_assert!(bytes as u64 <= self.left, "spent more than there is");
        self.left = self.left.saturating_sub(bytes as u64);
        self.last_spent = now;
    }

    /// Adds a grant.
    ///
    /// # Errors
    /// [`Overflow`] when the sum passes [`CREDIT_CAP`].
    pub fn grant(&mut self, bytes: u32) -> Result<(), Overflow> {
        let sum = self.left + u64::from(bytes);
        if sum > CREDIT_CAP {
            return Err(Overflow);
        }
        self.left = sum;
        Ok(())
    }

    /// Credit above the floor that has not been used for [`SHRINK_AFTER`]; it is gone from here and is to be handed back.
    pub fn hand_back(&mut self, now: Instant) -> Option<u32> {
        if now.saturating_duration_since(self.last_spent) < SHRINK_AFTER {
            return None;
        }
        let surplus = u32::try_from(self.left.saturating_sub(u64::from(FLOOR))).unwrap_or(u32::MAX);
        if surplus == 0 {
            return None;
        }
        self.left -= u64::from(surplus);
        Some(surplus)
    }
}

/// What the peer may still send on a stream, and how much of it waits here.
#[derive(Debug)]
pub struct RecvWindow {
    window: u32,
    max: u32,
    /// Credit the peer holds.
    outstanding: u64,
    /// Received and not yet taken by the reader.
    unread: u64,
    /// Taken from the pool: what the stream may occupy above its floor.
    reserved: u64,
    floor: u32,
    pool: Arc<Pool>,
    last_grant: Instant,
    received_since_check: u64,
    last_check: Instant,
}

impl RecvWindow {
    /// A window of `floor` bytes that may grow to `max` while `pool` has room.
    #[must_use]
    pub fn new(floor: u32, max: u32, pool: Arc<Pool>, now: Instant) -> Self {
        Self {
            window: floor,
            max: max.max(floor),
            outstanding: u64::from(floor),
            unread: 0,
            reserved: 0,
            floor,
            pool,
            last_grant: now,
            received_since_check: 0,
            last_check: now,
        }
    }

    /// The window's size now, in bytes.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.window
    }

    /// Bytes received that the reader has not taken.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Counts received bytes.
    ///
    /// # Errors
    /// [`Overflow`] when the peer had no credit for them.
    pub fn receive(&mut self, bytes: usize) -> Result<(), Overflow> {
        let bytes = bytes as u64;
        self.outstanding = self.outstanding.checked_sub(bytes).ok_or(Overflow)?;
        self.unread += bytes;
        self.received_since_check += bytes;
        Ok(())
    }

    /// Counts bytes the reader has taken.
    pub fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes as u64 <= self.unread, "consumed more than was received");
        self.unread = self.unread.saturating_sub(bytes as u64);
    }

    /// Credit to grant now, if enough has been read; grows the window when the path asks for it.
    ///
    /// `round_trip` must be the path's own, without our queues: a window that grows with the queue it
    /// makes would grow without end.
    pub fn grant(&mut self, now: Instant, round_trip: Duration) -> Option<u32> {
        let mut room = self.room();
        if room * 2 < u64::from(self.window) {
            return None;
        }
        let elapsed = now.saturating_duration_since(self.last_grant);
        if elapsed < round_trip * 2 {
            self.grow(elapsed < round_trip + round_trip / 2);
            room = self.room();
        } else {
            self.release();
        }
        self.last_grant = now;
        let grant = u32::try_from(room).unwrap_or(u32::MAX);
        self.outstanding += u64::from(grant);
        (grant > 0).then_some(grant)
    }

    /// The peer hands `bytes` of credit back.
    ///
    /// # Errors
    /// [`Overflow`] when it does not hold as much.
    pub fn take_back(&mut self, bytes: u32) -> Result<(), Overflow> {
        self.outstanding = self.outstanding.checked_sub(u64::from(bytes)).ok_or(Overflow)?;
        self.window = self.floor;
        self.release();
        Ok(())
    }

    /// Shrinks a window that has been larger than needed for [`SHRINK_AFTER`].
    pub fn shrink(&mut self, now: Instant, round_trip: Duration) {
        let elapsed = now.saturating_duration_since(self.last_check);
        if elapsed < SHRINK_AFTER {
            return;
        }
        // Four round trips' worth of the average rate: twice what the path needs, as growth aims for two.
        let micros = elapsed.as_micros().max(1);
        let need = u128::from(self.received_since_check) * round_trip.as_micros() * 4 / micros;
        let need = u32::try_from(need).unwrap_or(u32::MAX).clamp(self.floor, self.max);
        if need < self.window / 2 {
            self.window = need.next_power_of_two().clamp(self.floor, self.max);
        }
        self.received_since_check = 0;
        self.last_check = now;
        self.release();
    }

    fn room(&self) -> u64 {
        u64::from(self.window).saturating_sub(self.outstanding + self.unread)
    }

    fn grow(&mut self, fast: bool) {
        let factor = if fast && self.window < SMALL { 4 } else { 2 };
        let next = self.window.saturating_mul(factor).min(self.max);
        let wanted = u64::from(next.saturating_sub(self.floor));
        let more = wanted.saturating_sub(self.reserved);
        if next > self.window && self.pool.try_take(more) {
            self.reserved += more;
            self.window = next;
        }
    }

    /// Gives the pool back what neither the window nor a promise made earlier needs.
    fn release(&mut self) {
        let occupied = u64::from(self.window).max(self.outstanding + self.unread);
        let needed = occupied.saturating_sub(u64::from(self.floor));
        let surplus = self.reserved.saturating_sub(needed);
        if surplus > 0 {
            self.reserved -= surplus;
            self.pool.give(surplus);
        }
    }
}

impl Drop for RecvWindow {
    fn drop(&mut self) {
        if self.reserved > 0 {
            self.pool.give(self.reserved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(50);

    fn window(pool: &Arc<Pool>, now: Instant) -> RecvWindow {
        RecvWindow::new(FLOOR, WINDOW_MAX, Arc::clone(pool), now)
    }

    #[test]
    fn a_fast_reader_doubles_its_window_each_two_round_trips_and_no_more_than_its_pool() {
        let pool = Pool::new(1 << 20, None);
        let mut now = Instant::now();
        let mut w = window(&pool, now);
        for _ in 0..40 {
            now += RTT;
            let bytes = usize::try_from(w.outstanding).unwrap();
            w.receive(bytes).unwrap();
            w.consume(bytes);
            w.grant(now, RTT).unwrap();
        }
        assert_eq!(w.size(), 1 << 20);
        assert!(pool.used() <= 1 << 20);
        drop(w);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_slow_reader_keeps_the_floor() {
        let pool = Pool::new(1 << 30, None);
        let mut now = Instant::now();
        let mut w = window(&pool, now);
        for _ in 0..20 {
            now += RTT * 3;
            w.receive(FLOOR as usize / 2).unwrap();
            w.consume(FLOOR as usize / 2);
            w.grant(now, RTT);
        }
        assert_eq!(w.size(), FLOOR);
    }

    #[test]
    fn a_window_shrinks_once_it_is_not_needed_and_handed_back_credit_frees_the_pool() {
        let pool = Pool::new(1 << 30, None);
        let mut now = Instant::now();
        let mut w = window(&pool, now);
        let mut credit = SendCredit::new(FLOOR, now);
        while w.size() < WINDOW_MAX {
            let bytes = usize::try_from(credit.left()).unwrap();
            credit.spend(now, bytes);
            w.receive(bytes).unwrap();
            w.consume(bytes);
            credit.grant(w.grant(now, RTT).unwrap()).unwrap();
        }
        assert_eq!(pool.used(), u64::from(WINDOW_MAX - FLOOR));
        now += SHRINK_AFTER;
        w.shrink(now, RTT);
        now += SHRINK_AFTER;
        w.shrink(now, RTT);
        assert_eq!(w.size(), FLOOR);
        assert!(pool.used() > 0, "the peer may still send what it was promised");
        w.take_back(credit.hand_back(now).unwrap()).unwrap();
        assert_eq!(pool.used(), 0);
        assert_eq!(credit.left(), u64::from(FLOOR));
    }

    #[test]
    fn what_was_not_granted_may_not_be_sent_or_handed_back() {
        let pool = Pool::new(0, None);
        let mut w = window(&pool, Instant::now());
        assert_eq!(w.receive(FLOOR as usize + 1), Err(Overflow));
        assert_eq!(w.take_back(FLOOR + 1), Err(Overflow));
    }

    #[test]
    fn a_credit_sum_beyond_its_cap_is_an_overflow() {
        let mut credit = SendCredit::new(0, Instant::now());
        assert!(credit.grant(1 << 31).is_ok());
        assert_eq!(credit.grant(1), Err(Overflow));
    }

    proptest! {
        /// The bound that the receiver's memory rests on, under any schedule.
        #[test]
        fn outstanding_and_unread_never_pass_the_largest_window_granted(steps in prop::collection::vec((0u8..4, 0usize..100_000, 0u64..400), 1..200)) {
            let pool = Pool::new(4 << 20, None);
            let mut now = Instant::now();
            let mut w = window(&pool, now);
            let mut credit = SendCredit::new(FLOOR, now);
            for (what, n, millis) in steps {
                now += Duration::from_millis(millis);
                match what {
                    0 => {
                        let n = n.min(usize::try_from(credit.left()).unwrap());
                        credit.spend(now, n);
                        w.receive(n).unwrap();
                    }
                    1 => w.consume(n.min(usize::try_from(w.unread()).unwrap())),
                    2 => if let Some(g) = w.grant(now, RTT) { credit.grant(g).unwrap(); },
                    _ => {
                        w.shrink(now, RTT);
                        if let Some(n) = credit.hand_back(now) { w.take_back(n).unwrap(); }
                    }
                }
                prop_assert_eq!(w.outstanding, credit.left());
                prop_assert!(w.outstanding + w.unread <= u64::from(w.floor) + w.reserved);
                prop_assert!(pool.used() == w.reserved);
            }
            drop(w);
            prop_assert_eq!(pool.used(), 0);
        }

        /// No schedule of reads leaves a sender without credit once everything was read.
        #[test]
        fn a_reader_that_reads_everything_always_lets_the_sender_go_on(chunks in prop::collection::vec(1usize..70_000, 1..100)) {
            let pool = Pool::new(0, None);
            let now = Instant::now();
            let mut w = window(&pool, now);
            let mut credit = SendCredit::new(FLOOR, now);
            for chunk in chunks {
                let mut left = chunk;
                while left > 0 {
                    prop_assert!(credit.left() > 0);
                    let n = left.min(usize::try_from(credit.left()).unwrap());
                    credit.spend(now, n);
                    w.receive(n).unwrap();
                    w.consume(n);
                    if let Some(g) = w.grant(now, RTT) { credit.grant(g).unwrap(); }
                    left -= n;
                }
            }
        }
    }
}
