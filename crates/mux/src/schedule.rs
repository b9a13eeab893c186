//! The fair writer's order: sparse streams first, then deficit round robin.
//!
//! After fair queueing as in RFC 8290 section 4.2: a stream that becomes active is *sparse* until it has sent
//! a quantum, so a small answer overtakes downloads; then it takes its turns among the others. A sparse
//! stream that runs empty waits one round among the others before it counts as new again, so that no
//! stream can stay in front by sending in small pieces.

use std::collections::VecDeque;

/// Bytes a stream may send before it must wait for its next turn.
pub const QUANTUM: i32 = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Idle,
    Sparse,
    Round,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    place: Place,
    deficit: i32,
}

/// Decides which slot (stream) sends next. It knows nothing of what they send.
#[derive(Debug, Default)]
pub struct Scheduler {
    slots: Vec<Slot>,
    sparse: VecDeque<u32>,
    round: VecDeque<u32>,
}

impl Scheduler {
    /// The slot has something to send.
    pub fn activate(&mut self, slot: u32) {
        let at = slot as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, Slot { place: Place::Idle, deficit: 0 });
        }
        if self.slots[at].place == Place::Idle {
            self.slots[at] = Slot { place: Place::Sparse, deficit: QUANTUM };
            self.sparse.push_back(slot);
        }
    }

    /// The slot is gone, or has nothing to send any more.
    pub fn remove(&mut self, slot: u32) {
        let Some(state) = self.slots.get_mut(slot as usize) else { return };
        let list = match state.place {
            Place::Idle => return,
            Place::Sparse => &mut self.sparse,
            Place::Round => &mut self.round,
        };
        state.place = Place::Idle;
        list.retain(|s| *s != slot);
    }

    /// Whether nothing wants to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sparse.is_empty() && self.round.is_empty()
    }

    /// Whose turn it is, and how many bytes it may send at the most.
    #[expect(clippy::should_implement_trait, reason = "asking again before `sent` gives the same slot: no iterator")]
    pub fn next(&mut self) -> Option<(u32, usize)> {
        if let Some(slot) = self.sparse.front() {
            let deficit = self.slots[*slot as usize].deficit;
            return Some((*slot, usize::try_from(deficit).unwrap_or(0).max(1)));
        }
        let slot = *self.round.front()?;
        let state = &mut self.slots[slot as usize];
        if state.deficit <= 0 {
            state.deficit += QUANTUM;
        }
        Some((slot, usize::try_from(state.deficit).unwrap_or(0).max(1)))
    }

    /// The slot that [`Scheduler::next`] named has sent `bytes`; `more` says whether it has something left.
    pub fn sent(&mut self, slot: u32, bytes: usize, more: bool) {
        let Some(state) = self.slots.get_mut(slot as usize) else { return };
        state.deficit = state.deficit.saturating_sub(i32::try_from(bytes).unwrap_or(i32::MAX));
        let spent = state.deficit <= 0;
        match state.place {
            Place::Idle => {}
            Place::Sparse if !more || spent => {
                state.place = Place::Round;
                self.sparse.pop_front();
                if more || !self.round.is_empty() {
                    self.round.push_back(slot);
                } else {
                    state.place = Place::Idle;
                }
            }
            Place::Sparse => {}
            Place::Round if !more => {
                state.place = Place::Idle;
                self.round.pop_front();
            }
            Place::Round if spent => self.round.rotate_left(1),
            Place::Round => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Serves `turns` turns and returns the bytes each slot sent; every slot always has more.
    fn serve(s: &mut Scheduler, turns: usize, slots: usize) -> Vec<usize> {
        let mut sent = vec![0; slots];
        for _ in 0..turns {
            let (slot, most) = s.next().unwrap();
            sent[slot as usize] += most;
            s.sent(slot, most, true);
        }
        sent
    }

    #[test]
    fn bulk_streams_share_alike() {
        let mut s = Scheduler::default();
        (0..4).for_each(|slot| s.activate(slot));
        let sent = serve(&mut s, 400, 4);
        assert_eq!(sent, vec![100 * QUANTUM as usize; 4]);
    }

    #[test]
    fn a_small_answer_overtakes_downloads() {
        let mut s = Scheduler::default();
        s.activate(0);
        s.activate(1);
        serve(&mut s, 10, 2);
        s.activate(2);
        assert_eq!(s.next().unwrap().0, 2);
    }

    #[test]
    fn a_stream_that_sends_in_small_pieces_cannot_stay_in_front() {
        let mut s = Scheduler::default();
        s.activate(0);
        serve(&mut s, 3, 1);
        let mut bulk = 0;
        for _ in 0..100 {
            s.activate(1);
            let (slot, most) = s.next().unwrap();
            if slot == 1 {
                s.sent(1, 10, false);
            } else {
                bulk += most;
                s.sent(0, most, true);
            }
        }
        // One turn in front, one among the others, then the download: a third of the turns, nearly all of the bytes.
        assert!(bulk >= 33 * QUANTUM as usize, "{bulk}");
    }

    #[test]
    fn a_removed_slot_gets_no_turn() {
        let mut s = Scheduler::default();
        s.activate(0);
        s.activate(1);
        s.remove(0);
        assert_eq!(s.next().unwrap().0, 1);
        s.sent(1, 1, false);
        s.remove(7);
        assert!(s.next().is_none());
    }

    proptest! {
        /// A trivial model: what is active is served within one round of everything before it.
        #[test]
        fn whoever_has_something_to_send_is_served(ops in prop::collection::vec((0u32..6, 0u8..3), 1..300)) {
            let mut s = Scheduler::default();
            let mut queued = [0usize; 6];
            for (slot, op) in ops {
                match op {
                    0 => { queued[slot as usize] += 10_000; s.activate(slot); }
                    1 => { queued[slot as usize] = 0; s.remove(slot); }
                    _ => {}
                }
                if op == 2 {
                    // Drain everything: it must end, and leave nothing behind.
                    let mut turns = 0;
                    while let Some((slot, most)) = s.next() {
                        let q = &mut queued[slot as usize];
                        let n = most.min(*q);
                        *q -= n;
                        s.sent(slot, n, *q > 0);
                        turns += 1;
                        prop_assert!(turns < 10_000);
                    }
                    prop_assert!(queued.iter().all(|q| *q == 0));
                }
            }
        }
    }
}
