//! The state machine of one connection.
//!
//! Bytes go in with [`Session::handle_input`] and come out with [`Session::poll_transmit`]; what happened is told
//! by [`Session::poll_event`]; [`Session::poll_timeout`] says when to call [`Session::handle_timeout`].
//!
//! Nothing that arrived is ever dropped while somebody wants it. When a stream holds more unread bytes than it
//! may, [`Session::wants_input`] says no, and the driver leaves the rest to TCP: that stalls the other streams of
//! the connection too, which is all the protocol has to offer, and why there should be more than one connection.

pub mod event;
pub mod settings;

mod input;
mod output;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::abuse::Budgets;
use crate::block::{HeaderReader, HeaderWriter};
use crate::byte_queue::ByteQueue;
use crate::decoder::Decoder;
use crate::frame;
use crate::keepalive::{Circumstances, Keepalive, Verdict};
use crate::session::event::{Event, Health, OpenError, ReadState, Written};
use crate::session::settings::Settings;
use crate::session::stream::{Inward, Outward, Stream};
use crate::status::{GoAwayStatus, ResetStatus};
use crate::stream_id::{IdHash, LAST, StreamId};
use crate::turns::Turns;
use crate::violation::Violation;

/// Control frames that may wait to be sent. Over it no stream is opened, and a peer that provoked them is a flood.
const CONTROL_QUEUE_MAX: usize = 1024 * 1024;

/// With more streams than this, a drained buffer keeps no more than [`KEEP_OF_MANY`].
const FEW_STREAMS: usize = 64;

/// What a drained buffer keeps when there are many streams.
const KEEP_OF_MANY: usize = 64 * 1024;

/// One connection's SPDY.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    streams: HashMap<StreamId, Stream, IdHash>,
    next_id: u32,
    last_peer_id: u32,
    decoder: Decoder,
    header_reader: HeaderReader,
    header_writer: HeaderWriter,
    /// Whole control frames.
    control: ByteQueue,
    /// Where a control frame with headers is put together.
    scratch: Vec<u8>,
    turns: Turns,
    events: VecDeque<Event>,
    budgets: Budgets,
    keepalive: Keepalive,
    /// How many streams hold more than they may.
    blocking: usize,
    discarded: u64,
    /// Bytes sent since the peer was last heard.
    sent_since_input: usize,
    sent_go_away: bool,
    got_go_away: bool,
    broken: Option<Violation>,
}

/// More than this, sent to a silent peer, may still lie in buffers on the way, and a PING behind it: a pod that pauses
/// an upload is not a dead API server.
const IN_FLIGHT_MAX: usize = 256 * 1024;

impl Session {
    /// The session of a fresh connection.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            streams: HashMap::default(),
            next_id: settings.role.first_id(),
            last_peer_id: 0,
            decoder: Decoder::default(),
            header_reader: HeaderReader::new(),
            header_writer: HeaderWriter::new(),
            control: ByteQueue::default(),
            scratch: Vec::new(),
            turns: Turns::default(),
            events: VecDeque::new(),
            budgets: Budgets::new(now),
            keepalive: Keepalive::new(settings.role, &settings, now),
            blocking: 0,
            discarded: 0,
            sent_since_input: 0,
            sent_go_away: false,
            got_go_away: false,
            broken: None,
            settings,
        }
    }

    /// Whether the driver should read on: no stream holds more unread bytes than it may.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.blocking == 0
    }

    /// How many streams hold more than they may, and so keep the connection from being read.
    #[must_use]
    pub fn blocking_streams(&self) -> usize {
        self.blocking
    }

    /// Does what is due: asks a silent peer for a sign of life, says when it is dead, gives memory back.
    pub fn handle_timeout(&mut self, now: Instant) -> Health {
        if now < self.keepalive.poll_timeout() {
            return Health::Alive;
        }
        for stream in self.streams.values_mut() {
            stream.sweep();
        }
        let state = Circumstances {
            reads: self.wants_input(),
            is_blocked: self.has_output() || self.sent_since_input > IN_FLIGHT_MAX,
        };
        match self.keepalive.handle_timeout(now, state) {
            Verdict::Wait => Health::Alive,
            Verdict::Ping(id) => {
                self.control.push(&frame::ping(id));
                Health::Alive
            }
            Verdict::Dead => Health::Dead,
        }
    }

    /// Asks the peer for a sign of life now, unless it is being asked.
    pub fn ask(&mut self, now: Instant) {
        if let Some(id) = self.keepalive.ask(now) {
            self.control.push(&frame::ping(id));
        }
    }

    /// When [`Session::handle_timeout`] wants to be called. It changes only there, or to a later time.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.keepalive.poll_timeout()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Opens a stream; with `fin` this end sends nothing on it (which a kubelet refuses).
    ///
    /// # Errors
    /// There can be no new stream now.
    pub fn open(&mut self, headers: &[(&str, &str)], fin: bool) -> Result<StreamId, OpenError> {
        if self.is_going_away() {
            return Err(OpenError::GoingAway);
        }
        if self.streams.len() >= self.settings.max_streams || self.control.len() > CONTROL_QUEUE_MAX {
            return Err(OpenError::TooMany);
        }
        if self.next_id > LAST {
            return Err(OpenError::Exhausted);
        }
        let id = StreamId::new(self.next_id);
        self.next_id += 2;
        self.send_syn_stream(id, headers, fin);
        let outward = if fin { Outward::Finished } else { Outward::Open };
        self.streams.insert(id, Stream { outward, ..Stream::default() });
        Ok(id)
    }

    /// Answers a stream that the peer opened; with `fin` this end sends nothing on it.
    pub fn reply(&mut self, id: StreamId, headers: &[(&str, &str)], fin: bool) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_reset()) else { return };
        if self.settings.role.owns(id.get()) || std::mem::replace(&mut stream.is_replied, true) {
            return;
        }
        let ends = fin && stream.outward == Outward::Open && stream.queued.is_empty();
        if ends {
            stream.outward = Outward::Finished;
        }
        self.send_syn_reply(id, headers, ends);
        if fin && !ends {
            self.finish(id);
        }
    }

    /// Queues bytes to be sent on a stream, as many as there is room for.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Written {
        let Some(stream) = self.streams.get_mut(&id) else { return Written::Closed };
        if stream.is_reset() || stream.outward != Outward::Open {
            return Written::Closed;
        }
        let room = self.settings.send_limit.saturating_sub(stream.queued.len());
        let taken = room.min(bytes.len());
        if taken < bytes.len() {
            stream.wants_room = true;
        }
        stream.queued.push(&bytes[..taken]);
        stream.is_touched = true;
        self.schedule(id);
        Written::Taken(taken)
    }

    /// Ends this end's half of a stream, behind what is queued.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.outward == Outward::Open && !stream.is_reset() {
            stream.outward = Outward::Finishing;
            self.schedule(id);
        }
    }

    /// Ends a stream at once: what is queued is dropped, the peer is told, the stream is forgotten.
    pub fn reset(&mut self, id: StreamId, status: ResetStatus) {
        let Some(stream) = self.remove(id) else { return };
        if !stream.is_over() {
            self.control.push(&frame::rst_stream(id.get(), status));
        }
    }

    /// Takes what a stream has received by swapping it with `into`, which is to be empty: no byte is copied, and
    /// the memory goes around.
    ///
    /// The end or a reset is told once all data has been taken.
    pub fn read(&mut self, id: StreamId, into: &mut Vec<u8>) -> ReadState {
        debug_assert!(into.is_empty(), "what is in the buffer would be taken for received");
        into.clear();
        let keep = self.keep_of_buffer();
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_released) else {
            return ReadState::Gone;
        };
        stream.is_told = false;
        if stream.received.is_empty() {
            return match stream.inward {
                Inward::Open => ReadState::Pending,
                Inward::Finished => ReadState::Finished,
                Inward::Reset(status) => ReadState::Reset(status),
            };
        }
        std::mem::swap(&mut stream.received, into);
        if stream.received.capacity() > keep {
            stream.received = Vec::new();
        }
        stream.is_touched = true;
        if into.len() > self.settings.receive_limit {
            self.blocking -= 1;
        }
        if stream.inward != Inward::Open {
            stream.is_told = true;
            self.events.push_back(Event::Readable(id));
        }
        ReadState::Data
    }

    /// The user is done with a stream. It is forgotten, once its end is sent where that is all that is left, and
    /// cancelled when it is still running.
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_ending() {
            stream.is_released = true;
            stream.wants_room = false;
            let held = std::mem::take(&mut stream.received).len();
            if held > self.settings.receive_limit {
                self.blocking -= 1;
            }
        } else {
            self.reset(id, ResetStatus::Cancel);
        }
    }

    /// Tells the peer that no new stream is taken. Those that run go on.
    pub fn go_away(&mut self, status: GoAwayStatus) {
        if !std::mem::replace(&mut self.sent_go_away, true) {
            self.control.push(&frame::go_away(self.last_peer_id, status));
        }
    }

    /// Whether one of both ends takes no new streams.
    #[must_use]
    pub fn is_going_away(&self) -> bool {
        self.sent_go_away || self.got_go_away || self.broken.is_some()
    }

    /// Streams that are not forgotten yet.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that arrived for streams that were forgotten before.
    #[must_use]
    pub fn discarded_bytes(&self) -> u64 {
        self.discarded
    }

    /// Lets a stream take its turns, if it has something to send.
    fn schedule(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.has_output()
            && !std::mem::replace(&mut stream.is_waiting, true)
        {
            self.turns.add(id);
        }
    }

    /// Forgets a stream with all that counts it.
    fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        if stream.received.len() > self.settings.receive_limit {
            self.blocking -= 1;
        }
        if stream.is_waiting {
            self.forget_turn();
        }
        Some(stream)
    }

    /// A stream that had something to send has no longer.
    fn forget_turn(&mut self) {
        self.turns.forget();
        self.turns.sweep(|id| self.streams.get(&id).is_some_and(|stream| stream.is_waiting));
    }

    /// What the buffers of a stream keep when they are drained. All of it, for a few: growing anew costs copies.
    fn keep_of_buffer(&self) -> usize {
        let most = 2 * self.settings.receive_limit.max(self.settings.send_limit);
        if self.streams.len() > FEW_STREAMS { KEEP_OF_MANY.min(most) } else { most }
    }
}
