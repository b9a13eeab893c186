//! The state of one stream.

use crate::byte_queue::ByteQueue;
use crate::status::ResetStatus;

/// A stream. Its buffers hold no memory until they are used.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// What arrived and was not read.
    pub(crate) received: Vec<u8>,
    /// What is to be sent.
    pub(crate) queued: ByteQueue,
    pub(crate) inward: Inward,
    pub(crate) outward: Outward,
    /// The peer has answered it.
    pub(crate) is_replied: bool,
    /// It stands in the ring of those that have something to send.
    pub(crate) is_waiting: bool,
    /// Its user has been told that there is something to read.
    pub(crate) is_told: bool,
    /// Its user waits for room.
    pub(crate) wants_room: bool,
    /// Its user is done with it; it is there only until its end is sent.
    pub(crate) is_released: bool,
    /// Its buffers were used since the last sweep.
    pub(crate) is_touched: bool,
}

/// The half that the peer sends on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inward {
    #[default]
    Open,
    Finished,
    Reset(ResetStatus),
}

/// The half that this end sends on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outward {
    #[default]
    Open,
    /// The end follows what is queued.
    Finishing,
    Finished,
}

impl Stream {
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self.inward, Inward::Reset(_))
    }

    /// Whether there is something to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.queued.is_empty() || self.outward == Outward::Finishing
    }

    /// Whether neither end can say anything more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_reset() || (self.inward == Inward::Finished && self.outward == Outward::Finished)
    }

    /// Whether its end is only a matter of sending what is queued.
    pub(crate) fn is_ending(&self) -> bool {
        self.inward == Inward::Finished && self.outward == Outward::Finishing
    }

    /// Gives back buffers that have been empty and unused for a while.
    pub(crate) fn sweep(&mut self) {
        if std::mem::take(&mut self.is_touched) {
            return;
        }
        self.queued.shrink(0);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_is_small() {
        assert!(size_of::<Stream>() < 120, "{}", size_of::<Stream>());
    }

    #[test]
    fn a_sweep_gives_back_the_memory_of_empty_buffers_that_were_not_used_since_the_last() {
        let mut stream = Stream { received: Vec::with_capacity(9000), is_touched: true, ..Stream::default() };
        stream.queued.push(&[1; 5000]);
        stream.sweep();
        assert_eq!(stream.received.capacity(), 9000);
        stream.sweep();
        assert_eq!(stream.received.capacity(), 0);
        assert_eq!(stream.queued.len(), 5000);
        stream.queued.move_to(&mut Vec::new(), 5000);
        stream.sweep();
        assert_eq!(stream.queued.capacity(), 0);
    }
}
