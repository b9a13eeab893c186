//! Bytes that wait to be sent: a ring that grows when used and can give its memory back.

use std::collections::VecDeque;

/// A first-in first-out queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct ByteQueue(VecDeque<u8>);

impl ByteQueue {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Moves the first `n` bytes, or all if there are fewer.
    pub(crate) fn move_to(&mut self, out: &mut Vec<u8>, n: usize) {
        let n = n.min(self.0.len());
        let (front, back) = self.0.as_slices();
        let from_front = n.min(front.len());
        out.extend_from_slice(&front[..from_front]);
        out.extend_from_slice(&back[..n - from_front]);
        self.0.drain(..n);
    }

    /// The byte at a place, if there is one.
    pub(crate) fn get(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    /// Drops all bytes and the memory.
    pub(crate) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    /// Gives back memory above `keep` bytes when nothing is queued.
    pub(crate) fn shrink(&mut self, keep: usize) {
        if self.0.is_empty() && self.0.capacity() > keep {
            self.clear();
        }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_queue_gives_its_memory_back_and_a_used_one_does_not() {
        let mut queue = ByteQueue::default();
        assert_eq!(queue.capacity(), 0);
        queue.push(&[1; 1000]);
        queue.shrink(0);
        assert_eq!(queue.len(), 1000);
        queue.move_to(&mut Vec::new(), 5000);
        queue.shrink(100_000);
        assert!(queue.capacity() >= 1000);
        queue.shrink(999);
        assert_eq!(queue.capacity(), 0);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came(steps in prop::collection::vec((0usize..300, 0usize..300), 0..40)) {
            let mut queue = ByteQueue::default();
            let (mut sent, mut got) = (Vec::new(), Vec::new());
            for (put, take) in steps {
                let chunk: Vec<u8> = (0..put).map(|at| u8::try_from((sent.len() + at) % 251).unwrap()).collect();
                queue.push(&chunk);
                sent.extend(chunk);
                prop_assert_eq!(queue.get(0), sent.get(got.len()).copied());
                queue.move_to(&mut got, take);
                prop_assert_eq!(queue.len(), sent.len() - got.len());
            }
            queue.move_to(&mut got, usize::MAX);
            prop_assert!(queue.is_empty());
            prop_assert_eq!(got, sent);
        }
    }
}
