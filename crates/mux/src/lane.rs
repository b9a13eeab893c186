//! The state machine of one lane: streams, credit, write order, liveness.
//!
//! A lane is pure. Bytes come in as frames through [`Lane::handle_frame`], time through its `now`
//! arguments and [`Lane::handle_timeout`]; what is to be done leaves through [`Lane::poll_event`] and
//! [`Lane::poll_transmit`]. Each lane has its own stream numbers, so the lanes of a session share nothing
//! but their memory [`Pool`].
//!
//! `D` is whatever the driver wants to keep with each stream (its wakers).

mod receive;
mod stream;
mod timer;
mod transmit;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::abuse::{Budgets, Exhausted};
use crate::code::ErrorCode;
use crate::flow::{FLOOR, FLOOR_UNDER_PRESSURE, WINDOW_MAX};
use crate::frame::{DATA_DEFAULT, FrameType, flags, put_frame};
use crate::message::GoAway;
use crate::open::Open;
use crate::pool::Pool;
use crate::schedule::Scheduler;

pub use stream::{Incoming, Key};
use stream::{SendState, Stream};
pub use timer::Health;

/// Which end of a lane this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Dialled the lane; its streams are odd.
    Agent,
    /// Accepted the lane; its streams are even.
    Server,
}

/// Bounds and times of a lane.
#[derive(Debug, Clone)]
pub struct LaneConfig {
    /// Longest Data payload the peer takes, in bytes.
    pub peer_data_cap: u32,
    /// Credit this side starts with on streams it opens, in bytes; the peer's floor.
    pub peer_window: u32,
    /// Floor of this side's receive windows, in bytes.
    pub window: u32,
    /// What this side's receive windows may grow to, in bytes.
    pub window_max: u32,
    /// Streams the peer may have open at once.
    pub max_streams: u32,
    /// Unsent bytes a stream may queue here before its writer waits.
    pub send_queue: usize,
    /// Silence after which a heartbeat is sent; `None` leaves that to the peer.
    pub heartbeat: Option<Duration>,
    /// Silence after which the peer is dead.
    pub dead_after: Duration,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            peer_data_cap: DATA_DEFAULT,
            peer_window: FLOOR,
            window: FLOOR,
            window_max: WINDOW_MAX,
            max_streams: 16_384,
            send_queue: 128 * 1024,
            heartbeat: Some(Duration::from_secs(5)),
            dead_after: Duration::from_secs(10),
        }
    }
}

/// What the driver is to know or to do.
#[derive(Debug)]
pub enum Event {
    /// The peer opened a stream.
    Opened(Key, Open),
    /// A stream whose reader waits has something to read, or ended.
    Readable(Key),
    /// A stream whose writer waits can take more.
    Writable(Key),
    /// The peer reset a stream.
    Reset(Key, ErrorCode),
    /// A frame of the session, for the layer above.
    Control(FrameType, u8, Vec<u8>),
    /// The peer takes no new streams.
    GoAway(GoAway),
    /// The peer ended the lane with an Error frame.
    Closed(ErrorCode, String),
}

/// The peer broke a rule; the lane is over once [`Lane::close`] has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// See [`Exhausted`].
    #[error("{0}")]
    Abuse(#[from] Exhausted),
    /// Two streams broke the credit rules.
    #[error("flow control was violated twice")]
    Flow,
    /// Data after the end, twice.
    #[error("data was sent on ended streams twice")]
    Ended,
    /// A stream number of the wrong side, or not above the last one.
    #[error("stream {0} was opened out of order")]
    StreamOrder(u32),
    /// A frame for a stream that was never opened.
    #[error("stream {0} was never opened")]
    NeverOpened(u32),
    /// A payload that cannot be read.
    #[error("a {0:?} payload cannot be read")]
    Payload(FrameType),
    /// The peer does not read, and what must be answered piles up.
    #[error("the peer does not read answers")]
    Stuck,
}

impl Violation {
    /// The code for the Error frame.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Abuse(_) | Self::Stuck => ErrorCode::EnhanceYourCalm,
            Self::Flow => ErrorCode::FlowControl,
            Self::Ended => ErrorCode::StreamClosed,
            Self::StreamOrder(_) | Self::NeverOpened(_) | Self::Payload(_) => ErrorCode::Protocol,
        }
    }
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenStreamError {
    /// One of the two sides drains.
    #[error("the lane takes no new streams")]
    GoingAway,
    /// As many streams as agreed are open.
    #[error("the lane has as many streams as it may")]
    Full,
    /// The head is too long for a frame.
    #[error("the request head is too long")]
    TooLong,
    /// All stream numbers are used up.
    #[error("the lane has used up its stream numbers")]
    Exhausted,
}

/// A stream is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset it.
    #[error("the stream was reset by the peer: {0}")]
    Reset(ErrorCode),
    /// This side reset it, or it is long over.
    #[error("the stream is closed")]
    Closed,
}

/// Counters of a lane, for metrics. They only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames received.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Data payload bytes received.
    pub bytes_in: u64,
    /// Data payload bytes sent.
    pub bytes_out: u64,
    /// Times a writer had to wait for credit.
    pub credit_stalls: u64,
    /// Times streams, and batches of Opens, waited in the write queue.
    pub queued: u64,
    /// Sum of those waits, in microseconds.
    pub queued_micros: u64,
    /// Heartbeats sent, echoes not counted.
    pub heartbeats: u64,
}

/// Control bytes that may wait to be sent; a peer that does not read is cut off beyond.
const CONTROL_BACKLOG: usize = 1 << 20;

/// Opens that may wait to be sent, in bytes; a request given up leaves its Open behind, so streams alone do not bound them.
const OPENS_BACKLOG: usize = 4 << 20;

/// The state machine of one lane. See the module's documentation.
#[derive(Debug)]
pub struct Lane<D> {
    side: Side,
    config: LaneConfig,
    pool: Arc<Pool>,
    slots: Vec<Option<Stream<D>>>,
    free: Vec<u32>,
    ids: HashMap<u32, u32>,
    next_id: u32,
    last_peer_id: u32,
    peer_streams: u32,
    own_streams: u32,
    scheduler: Scheduler,
    control: VecDeque<Vec<u8>>,
    control_bytes: usize,
    /// Bytes of Opens among them.
    opens_bytes: usize,
    /// When the oldest control frame was queued.
    control_since: Option<Instant>,
    echo: Option<[u8; 8]>,
    windows: VecDeque<Key>,
    events: VecDeque<Event>,
    budgets: Budgets,
    flow_violations: u32,
    ended_violations: u32,
    draining: bool,
    peer_draining: bool,
    closed: bool,
    liveness: timer::Liveness,
    stats: Stats,
}

impl<D: Default> Lane<D> {
    /// A lane right after authentication.
    #[must_use]
    pub fn new(side: Side, config: LaneConfig, pool: Arc<Pool>, now: Instant) -> Self {
        let mut lane = Self {
            side,
            liveness: timer::Liveness::new(now),
            config,
            pool,
            slots: Vec::new(),
            free: Vec::new(),
            ids: HashMap::new(),
            next_id: if side == Side::Agent { 1 } else { 2 },
            last_peer_id: 0,
            peer_streams: 0,
            own_streams: 0,
            scheduler: Scheduler::default(),
            control: VecDeque::new(),
            control_bytes: 0,
            opens_bytes: 0,
            control_since: None,
            echo: None,
            windows: VecDeque::new(),
            events: VecDeque::new(),
            budgets: Budgets::new(now),
            flow_violations: 0,
            ended_violations: 0,
            draining: false,
            peer_draining: false,
            closed: false,
            stats: Stats::default(),
        };
        lane.ping(now);
        lane
    }

    /// Opens a stream. `end` says that nothing will be sent on it.
    ///
    /// [`Open::credit`] is filled in here.
    ///
    /// # Errors
    /// See [`OpenStreamError`]; nothing was sent then.
    pub fn open(&mut self, now: Instant, mut open: Open, end: bool, data: D) -> Result<Key, OpenStreamError> {
        if self.draining || self.peer_draining || self.closed {
            return Err(OpenStreamError::GoingAway);
        }
        if self.own_streams >= self.config.max_streams {
            return Err(OpenStreamError::Full);
        }
        let id = self.next_id;
        let next = id.checked_add(2).ok_or(OpenStreamError::Exhausted)?;
        let least = if self.pool.under_pressure() { FLOOR_UNDER_PRESSURE } else { u32::MAX };
        let floor = self.config.window.min(least);
        open.credit = floor;
        if self.opens_bytes > OPENS_BACKLOG {
            return Err(OpenStreamError::Full);
        }
        let payload = open
            .encode()
            .filter(|payload| payload.len() <= crate::frame::CONTROL_CAP as usize)
            .ok_or(OpenStreamError::TooLong)?;
        self.next_id = next;
        self.own_streams += 1;
        let key = self.insert(Stream::new(id, data, self.config.peer_window, self.window(floor, now), now));
        if end && let Some(stream) = self.get_mut(key) {
            stream.send = SendState::Ended;
        }
        let mut frame = Vec::with_capacity(payload.len() + crate::frame::HEADER_LEN);
        put_frame(&mut frame, FrameType::Open, if end { flags::END } else { 0 }, id, &payload);
        self.push_control(frame);
        self.control_since.get_or_insert(now);
        Ok(key)
    }

    /// Takes as much of `chunk` as credit and queue allow, off its front; 0 bytes: wait for [`Event::Writable`].
    ///
    /// # Errors
    /// The stream was reset, or its sending direction is over.
    pub fn send(&mut self, now: Instant, key: Key, chunk: &mut Bytes) -> Result<usize, StreamError> {
        let queue_cap = self.config.send_queue;
        let stream = live(&mut self.slots, key)?;
        stream.may_send()?;
        let room = queue_cap.saturating_sub(stream.queued);
        let credit = usize::try_from(stream.credit.left()).unwrap_or(usize::MAX);
        let n = chunk.len().min(room).min(credit);
        if n == 0 {
            if credit == 0 && !chunk.is_empty() && !stream.want_write {
                self.stats.credit_stalls += 1;
            }
            stream.want_write = !chunk.is_empty();
            return Ok(0);
        }
        stream.credit.spend(now, n);
        stream.push_data(chunk.split_to(n), now);
        self.scheduler.activate(key.slot);
        Ok(n)
    }

    /// Bytes [`Lane::send`] would take now; 0 asks for [`Event::Writable`].
    ///
    /// # Errors
    /// As [`Lane::send`].
    pub fn capacity(&mut self, key: Key) -> Result<usize, StreamError> {
        let queue_cap = self.config.send_queue;
        let stream = live(&mut self.slots, key)?;
        stream.may_send()?;
        let credit = usize::try_from(stream.credit.left()).unwrap_or(usize::MAX);
        let n = queue_cap.saturating_sub(stream.queued).min(credit);
        if n == 0 {
            if credit == 0 && !stream.want_write {
                self.stats.credit_stalls += 1;
            }
            stream.want_write = true;
        }
        Ok(n)
    }

    /// Sends a header block (answer head, 1xx, trailers); `end` ends the direction with it.
    ///
    /// # Errors
    /// As [`Lane::send`].
    pub fn send_head(&mut self, now: Instant, key: Key, block: Vec<u8>, end: bool) -> Result<(), StreamError> {
        let stream = live(&mut self.slots, key)?;
        stream.may_send()?;
        stream.push_head(block, end, now);
        self.scheduler.activate(key.slot);
        Ok(())
    }

    /// Ends this side's direction behind what is queued.
    ///
    /// # Errors
    /// As [`Lane::send`]; ending twice is not an error.
    pub fn finish(&mut self, now: Instant, key: Key) -> Result<(), StreamError> {
        let stream = live(&mut self.slots, key)?;
        match stream.send {
            SendState::Open => {
                stream.send = SendState::Ending;
                stream.note_queued(now);
                self.scheduler.activate(key.slot);
                Ok(())
            }
            SendState::Ending | SendState::Ended => Ok(()),
            SendState::Reset(code) => Err(StreamError::Reset(code)),
        }
    }

    /// Takes the next thing received; `None`: wait for [`Event::Readable`].
    ///
    /// # Errors
    /// The stream was reset; what had arrived before is handed out first.
    pub fn recv(&mut self, now: Instant, key: Key) -> Result<Option<Incoming>, StreamError> {
        let round_trip = self.liveness.path_round_trip();
        let stream = live(&mut self.slots, key)?;
        let item = stream.take()?;
        if let Some(Incoming::Data(bytes)) = &item {
            stream.window.consume(bytes.len());
            if stream.wants_grants()
                && let Some(grant) = stream.window.grant(now, round_trip)
            {
                let first = stream.owed_credit == 0;
                stream.owed_credit = stream.owed_credit.saturating_add(grant);
                if first {
                    self.queue_window(key);
                }
                self.liveness.refresh_round_trip(now);
            }
        }
        Ok(item)
    }

    /// Aborts a stream and forgets it. What was queued is not sent.
    pub fn reset(&mut self, key: Key, code: ErrorCode) {
        let Ok(stream) = live(&mut self.slots, key) else { return };
        let id = stream.id;
        if !stream.is_over() {
            self.push_reset(id, code);
        }
        self.remove(key);
    }

    /// The driver's handle is gone: a stream that is not over is cancelled, one that only has to send its rest does so.
    pub fn release(&mut self, key: Key) {
        let Ok(stream) = live(&mut self.slots, key) else { return };
        if stream.is_over() {
            self.remove(key);
        } else if stream.send == SendState::Ending && stream.received_all() {
            stream.detached = true;
        } else {
            self.reset(key, ErrorCode::Cancel);
        }
    }

    /// The driver's part of a stream.
    pub fn data_mut(&mut self, key: Key) -> Option<&mut D> {
        live(&mut self.slots, key).ok().map(|stream| &mut stream.data)
    }

    /// Whether the peer has reset the stream.
    #[must_use]
    pub fn reset_by_peer(&self, key: Key) -> Option<ErrorCode> {
        let stream = self.get(key)?;
        match (stream.recv, stream.send) {
            // A peer that had ended its direction, as after a request without body, can still reset the stream.
            (stream::RecvState::Reset(code), _) | (_, SendState::Reset(code)) => Some(code),
            _ => None,
        }
    }

    /// Whether the peer has ended its direction in an orderly way, however much of it waits to be read.
    #[must_use]
    pub fn has_ended(&self, key: Key) -> bool {
        self.get(key).is_some_and(|stream| stream.recv == stream::RecvState::Ended)
    }

    /// Whether all of our direction was sent, and its end.
    #[must_use]
    pub fn has_sent_all(&self, key: Key) -> bool {
        self.get(key).is_some_and(|stream| stream.send == SendState::Ended)
    }

    /// Sends a frame of the session.
    pub fn send_control(&mut self, kind: FrameType, flags: u8, payload: &[u8]) {
        let mut frame = Vec::with_capacity(payload.len() + crate::frame::HEADER_LEN);
        put_frame(&mut frame, kind, flags, 0, payload);
        self.push_control(frame);
    }

    /// Takes no new streams from here on, and tells the peer.
    pub fn go_away(&mut self, mut message: GoAway) {
        self.draining = true;
        message.last_stream = self.last_peer_id;
        self.send_control(FrameType::GoAway, 0, &crate::message::encode(&message));
    }

    /// Ends the lane with an Error frame; nothing else is sent behind it.
    pub fn close(&mut self, code: ErrorCode, text: &str) {
        if self.closed {
            return;
        }
        let mut payload = code.to_wire().to_be_bytes().to_vec();
        payload.push(0);
        let mut cut = text.len().min(256);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        payload.extend_from_slice(&text.as_bytes()[..cut]);
        self.send_control(FrameType::Error, 0, &payload);
        self.closed = true;
    }

    /// Whether new streams can be opened now.
    #[must_use]
    pub fn accepts(&self) -> bool {
        !(self.draining || self.peer_draining || self.closed) && self.own_streams < self.config.max_streams
    }

    /// Streams open now.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.ids.len()
    }

    /// Counters since the lane began.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The smoothed round trip of heartbeats.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.liveness.round_trip()
    }

    /// The next thing the driver is to know or do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Every stream's driver part, once the lane is over and they are all to be told.
    pub fn drain_data(&mut self) -> impl Iterator<Item = D> + '_ {
        self.slots.iter_mut().flatten().map(|stream| std::mem::take(&mut stream.data))
    }

    fn window(&self, floor: u32, now: Instant) -> crate::flow::RecvWindow {
        crate::flow::RecvWindow::new(floor, self.config.window_max, Arc::clone(&self.pool), now)
    }

    fn insert(&mut self, stream: Stream<D>) -> Key {
        let id = stream.id;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("streams are capped far below 2^32")
        });
        self.slots[slot as usize] = Some(stream);
        self.ids.insert(id, slot);
        Key { slot, id }
    }

    fn get(&self, key: Key) -> Option<&Stream<D>> {
        self.slots.get(key.slot as usize)?.as_ref().filter(|stream| stream.id == key.id)
    }

    fn get_mut(&mut self, key: Key) -> Option<&mut Stream<D>> {
        live(&mut self.slots, key).ok()
    }

    /// Forgets a stream. Memory of a burst is given back once all its streams are gone.
    fn remove(&mut self, key: Key) {
        let Some(stream) = self.get(key) else { return };
        if self.is_own(stream.id) {
            self.own_streams -= 1;
        } else {
            self.peer_streams -= 1;
        }
        self.slots[key.slot as usize] = None;
        self.ids.remove(&key.id);
        self.scheduler.remove(key.slot);
        self.free.push(key.slot);
        if self.ids.is_empty() && self.slots.len() > 256 {
            self.slots = Vec::new();
            self.free = Vec::new();
            self.ids = HashMap::new();
            self.scheduler = Scheduler::default();
        }
    }

    fn is_own(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.side == Side::Agent)
    }

    fn push_reset(&mut self, id: u32, code: ErrorCode) {
        let mut frame = Vec::with_capacity(crate::frame::HEADER_LEN + 2);
        put_frame(&mut frame, FrameType::Close, flags::RST, id, &code.to_wire().to_be_bytes());
        self.push_control(frame);
    }

    /// Notes that a stream has credit to send. Streams that are gone meanwhile are swept out, so that the queue is
    /// bounded by the streams even if the peer never reads.
    fn queue_window(&mut self, key: Key) {
        if self.windows.len() > 2 * self.ids.len() + 64 {
            let mut windows = std::mem::take(&mut self.windows);
            windows.retain(|key| self.get(*key).is_some());
            self.windows = windows;
        }
        self.windows.push_back(key);
    }

    fn push_control(&mut self, frame: Vec<u8>) {
        // Nothing follows an Error frame.
        if self.closed {
            return;
        }
        self.control_bytes += backlog_share(&frame);
        self.opens_bytes += frame.len() - backlog_share(&frame);
        self.control.push_back(frame);
    }
}

/// What a frame adds to the backlog a peer is held to: Opens are this side's own wish, not an answer the
/// peer makes it owe, and a burst of them on a slow path must not look like a peer that does not read.
fn backlog_share(frame: &[u8]) -> usize {
    let is_open = frame.get(1) == Some(&FrameType::Open.to_wire());
    if is_open { 0 } else { frame.len() }
}

fn live<D>(slots: &mut [Option<Stream<D>>], key: Key) -> Result<&mut Stream<D>, StreamError> {
    slots
        .get_mut(key.slot as usize)
        .and_then(Option::as_mut)
        .filter(|stream| stream.id == key.id)
        .ok_or(StreamError::Closed)
}
