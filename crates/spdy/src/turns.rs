//! Whose turn it is to send: round robin with a bounded quantum.

use std::collections::VecDeque;

use crate::stream_id::StreamId;

/// What a stream sends before it is the next one's turn.
pub(crate) const QUANTUM: usize = 16 * 1024;

/// The same when there is no other: longer frames are fewer, and each costs the peer an allocation.
pub(crate) const QUANTUM_ALONE: usize = 64 * 1024;

/// The streams that have something to send, in the order of their turns.
///
/// A stream that is gone stays in the ring until its turn comes; `waiting` counts those that are really there.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    ring: VecDeque<StreamId>,
    waiting: usize,
    /// What the one in front may still send; 0 before its turn begins.
    left: usize,
}

impl Turns {
    /// The stream has something to send, and is not in the ring.
    pub(crate) fn add(&mut self, id: StreamId) {
        self.ring.push_back(id);
        self.waiting += 1;
    }

    /// A stream of the ring has nothing to send any more, without its turn.
    pub(crate) fn forget(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.ring.clear();
            self.left = 0;
        }
    }

    /// Drops forgotten streams when they are many.
    pub(crate) fn sweep(&mut self, is_there: impl Fn(StreamId) -> bool) {
        if self.ring.len() > 2 * self.waiting + 64 {
            let front = self.ring.front().copied();
            self.ring.retain(|id| is_there(*id));
            if self.ring.front().copied() != front {
                self.left = 0;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whose turn it is, and how much it may send.
    pub(crate) fn front(&mut self) -> Option<(StreamId, usize)> {
        let id = *self.ring.front()?;
        if self.left == 0 {
            self.left = if self.waiting == 1 { QUANTUM_ALONE } else { QUANTUM };
        }
        Some((id, self.left))
    }

    /// The one in front turned out to be gone.
    pub(crate) fn skip_front(&mut self) {
        self.ring.pop_front();
        self.left = 0;
    }

    /// The one in front has sent so many bytes; `has_more` says whether it stays.
    pub(crate) fn sent(&mut self, bytes: usize, has_more: bool) {
        self.left = self.left.saturating_sub(bytes);
        if !has_more {
            self.skip_front();
            self.waiting = self.waiting.saturating_sub(1);
        } else if self.left == 0 {
            self.ring.rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId::new(1);
    const B: StreamId = StreamId::new(3);

    #[test]
    fn streams_take_turns_of_a_quantum() {
        let mut turns = Turns::default();
        turns.add(A);
        turns.add(B);
        let mut order = Vec::new();
        for _ in 0..4 {
            let (id, most) = turns.front().unwrap();
            order.push((id, most));
            turns.sent(most, true);
        }
        assert_eq!(order, [(A, QUANTUM), (B, QUANTUM), (A, QUANTUM), (B, QUANTUM)]);
    }

    #[test]
    fn a_turn_that_was_cut_goes_on_with_what_is_left_of_it() {
        let mut turns = Turns::default();
        turns.add(A);
        turns.add(B);
        turns.front();
        turns.sent(1000, true);
        assert_eq!(turns.front(), Some((A, QUANTUM - 1000)));
    }

    #[test]
    fn a_stream_alone_has_longer_turns() {
        let mut turns = Turns::default();
        turns.add(A);
        assert_eq!(turns.front(), Some((A, QUANTUM_ALONE)));
        turns.sent(QUANTUM_ALONE, true);
        turns.add(B);
        assert_eq!(turns.front(), Some((A, QUANTUM)));
    }

    #[test]
    fn forgotten_streams_count_as_nothing_and_are_swept() {
        let mut turns = Turns::default();
        turns.add(B);
        for id in 0..1000 {
            turns.add(StreamId::new(id * 2 + 5));
            turns.forget();
            turns.sweep(|id| id == B);
        }
        assert!(turns.ring.len() < 70, "{}", turns.ring.len());
        assert!(!turns.is_empty());
        turns.forget();
        assert!(turns.is_empty());
        assert_eq!(turns.front(), None);
    }
}
