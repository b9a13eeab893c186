//! One stream of a lane: its two directions and what waits in them.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::StreamError;
use crate::code::ErrorCode;
use crate::flow::{RecvWindow, SendCredit};

/// Names a stream of a lane. A key of a stream that is gone is never mistaken for its slot's next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub(crate) slot: u32,
    pub(crate) id: u32,
}

impl Key {
    /// The stream's number on the wire.
    #[must_use]
    pub fn id(self) -> u32 {
        self.id
    }
}

/// Something received on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A header block.
    Head(Bytes),
    /// Body bytes.
    Data(Bytes),
    /// The peer's direction has ended; said once and from then on.
    End,
}

/// Something queued for sending.
#[derive(Debug)]
pub(super) enum Outgoing {
    Head(Vec<u8>),
    Data(Bytes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendState {
    Open,
    /// END follows what is queued.
    Ending,
    Ended,
    Reset(ErrorCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecvState {
    Open,
    Ended,
    Reset(ErrorCode),
}

/// A waiting chunk up to this length is extended rather than followed by another, so that a flood of
/// one-byte frames costs no more memory than its bytes.
const COALESCE: usize = 4096;
/// Header blocks that may wait unread on a stream (several 1xx, the answer head, trailers).
pub(super) const MAX_WAITING_HEADS: u8 = 8;
/// Bytes of header blocks that may wait unread on a stream: one of the longest, and half as much again. Heads cost
/// no credit, so this is what bounds their memory.
pub(super) const MAX_WAITING_HEAD_BYTES: usize = 96 * 1024;

enum Waiting {
    Head(Bytes),
    Data(Vec<u8>),
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head(b) => write!(f, "Head({})", b.len()),
            Self::Data(b) => write!(f, "Data({})", b.len()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Stream<D> {
    pub(super) id: u32,
    pub(super) data: D,
    pub(super) credit: SendCredit,
    pub(super) queue: VecDeque<Outgoing>,
    /// Data bytes in `queue`.
    pub(super) queued: usize,
    pub(super) queued_since: Option<Instant>,
    pub(super) send: SendState,
    pub(super) want_write: bool,
    pub(super) window: RecvWindow,
    inbox: VecDeque<Waiting>,
    heads_waiting: u8,
    head_bytes: usize,
    pub(super) recv: RecvState,
    want_read: bool,
    /// Credit granted and not yet sent.
    pub(super) owed_credit: u32,
    /// Nobody holds the stream any more; it goes once its rest is sent.
    pub(super) detached: bool,
}

impl<D> Stream<D> {
    pub(super) fn new(id: u32, data: D, credit: u32, window: RecvWindow, now: Instant) -> Self {
        Self {
            id,
            data,
            credit: SendCredit::new(credit, now),
            queue: VecDeque::new(),
            queued: 0,
            queued_since: None,
            send: SendState::Open,
            want_write: false,
            window,
            inbox: VecDeque::new(),
            heads_waiting: 0,
            head_bytes: 0,
            recv: RecvState::Open,
            want_read: false,
            owed_credit: 0,
            detached: false,
        }
    }

    pub(super) fn may_send(&self) -> Result<(), StreamError> {
        match self.send {
            SendState::Open => Ok(()),
            SendState::Ending | SendState::Ended => Err(StreamError::Closed),
            SendState::Reset(code) => Err(StreamError::Reset(code)),
        }
    }

    pub(super) fn push_data(&mut self, chunk: Bytes, now: Instant) {
        self.queued += chunk.len();
        self.queue.push_back(Outgoing::Data(chunk));
        self.note_queued(now);
    }

    pub(super) fn push_head(&mut self, block: Vec<u8>, end: bool, now: Instant) {
        self.queue.push_back(Outgoing::Head(block));
        if end {
            self.send = SendState::Ending;
        }
        self.note_queued(now);
    }

    pub(super) fn note_queued(&mut self, now: Instant) {
        self.queued_since.get_or_insert(now);
    }

    /// Whether something is to be sent.
    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty() || self.send == SendState::Ending
    }

    /// Both directions have ended, one way or the other.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.send, SendState::Ended | SendState::Reset(_)) && self.received_all()
    }

    pub(super) fn received_all(&self) -> bool {
        self.recv != RecvState::Open
    }

    /// Whether the peer may still send, so that credit is of use to it.
    pub(super) fn wants_grants(&self) -> bool {
        self.recv == RecvState::Open
    }

    /// Takes the next thing for the reader; notes that it waits when there is nothing.
    pub(super) fn take(&mut self) -> Result<Option<Incoming>, StreamError> {
        let item = match self.inbox.pop_front() {
            Some(Waiting::Head(block)) => {
                self.heads_waiting -= 1;
                self.head_bytes -= block.len();
                Some(Incoming::Head(block))
            }
            Some(Waiting::Data(bytes)) => Some(Incoming::Data(bytes.into())),
            None => match self.recv {
                RecvState::Open => None,
                RecvState::Ended => Some(Incoming::End),
                RecvState::Reset(code) => return Err(StreamError::Reset(code)),
            },
        };
        if self.inbox.is_empty() && self.inbox.capacity() > 16 {
            self.inbox = VecDeque::new();
        }
        self.want_read = item.is_none();
        Ok(item)
    }

    /// Whether the reader waits; asked once for each thing that arrives.
    pub(super) fn reader_waits(&mut self) -> bool {
        std::mem::take(&mut self.want_read)
    }

    pub(super) fn store_data(&mut self, payload: &[u8]) {
        if let Some(Waiting::Data(last)) = self.inbox.back_mut()
            && last.len() + payload.len() <= COALESCE
        {
            last.extend_from_slice(payload);
            return;
        }
        self.inbox.push_back(Waiting::Data(payload.to_vec()));
    }

    /// Stores a header block; false when too many wait already.
    pub(super) fn store_head(&mut self, payload: &[u8]) -> bool {
        let bytes = self.head_bytes + payload.len();
        if self.heads_waiting >= MAX_WAITING_HEADS || bytes > MAX_WAITING_HEAD_BYTES {
            return false;
        }
        self.heads_waiting += 1;
        self.head_bytes = bytes;
        self.inbox.push_back(Waiting::Head(Bytes::copy_from_slice(payload)));
        true
    }
}
