//! The protocols of an upgraded connection behind one set of verbs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use spdy::{Health, OpenError, ReadState, ResetStatus, Session, Settings, StreamId, Written};

use crate::k8s::channels::Channels;
use crate::k8s::websocket::{self, Decoder, Piece, WebSocketError};

/// Silence after which the server is asked whether it lives, and how long it may take to answer.
const PING_AFTER: Duration = Duration::from_secs(20);
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// The same while what was sent may still lie on its way, as in `spdy::Settings`.
const BLOCKED_DEAD_AFTER: Duration = Duration::from_secs(600);
/// More than this, sent to a silent peer, may still lie in buffers on the way.
const IN_FLIGHT_MAX: usize = 256 * 1024;
/// Unread bytes of one stream above which its connection is read no more. Large enough for a fast stream to pause
/// for some milliseconds, small enough for hundreds of them.
const RECEIVE_LIMIT: usize = 512 * 1024;
/// Pings of a peer that are kept to be answered.
const PONGS: usize = 4;

/// A stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Of a SPDY session.
    Spdy(StreamId),
    /// Of the channel protocols.
    Channel(u8),
}

/// What the driver does with what arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Readable(Key),
    Writable(Key),
}

/// The peer broke its protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error(transparent)]
    Spdy(#[from] spdy::Violation),
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
}

/// The state of one connection.
pub(crate) struct Machine {
    protocol: Protocol,
    /// WebSocket control frames to be sent.
    control: Vec<u8>,
    pongs: VecDeque<Vec<u8>>,
    /// The peer said good-bye: nothing more will come.
    closed: bool,
    last_input: Instant,
    pinged: Option<Instant>,
    /// Of the channel protocols: bytes sent since the server was last heard.
    sent_since_input: usize,
    writable: bool,
}

enum Protocol {
    /// SPDY as it is, or inside WebSocket messages.
    Spdy {
        session: Box<Session>,
        tunnel: Option<Decoder>,
    },
    Channels(Box<Channels>),
}

impl Machine {
    /// SPDY; inside WebSocket messages if `tunnelled`.
    pub(crate) fn spdy(tunnelled: bool, now: Instant) -> Self {
        let settings = Settings {
            receive_limit: RECEIVE_LIMIT,
            ping_after: PING_AFTER,
            dead_after: DEAD_AFTER,
            ..Settings::client()
        };
        let session = Box::new(Session::new(settings, now));
        Self::new(Protocol::Spdy { session, tunnel: tunnelled.then(Decoder::default) }, now)
    }

    /// A channel protocol over WebSocket.
    pub(crate) fn channels(channels: Channels, now: Instant) -> Self {
        Self::new(Protocol::Channels(Box::new(channels)), now)
    }

    fn new(protocol: Protocol, now: Instant) -> Self {
        Self {
            protocol,
            control: Vec::new(),
            pongs: VecDeque::new(),
            closed: false,
            last_input: now,
            pinged: None,
            sent_since_input: 0,
            writable: false,
        }
    }

    /// Takes what the server sent.
    pub(crate) fn handle_input(&mut self, now: Instant, bytes: &[u8]) -> Result<(), MachineError> {
        self.last_input = now;
        self.pinged = None;
        self.sent_since_input = 0;
        match &mut self.protocol {
            Protocol::Spdy { session, tunnel: None } => session.handle_input(now, bytes)?,
            Protocol::Spdy { session, tunnel: Some(decoder) } => {
                let (pongs, closed, control) = (&mut self.pongs, &mut self.closed, &mut self.control);
                decoder.feed::<MachineError>(bytes, |piece| {
                    match piece {
                        // Messages carry no meaning here: they are cut anywhere.
                        Piece::Data { payload, .. } => session.handle_input(now, payload)?,
                        Piece::Ping(payload) if pongs.len() < PONGS => pongs.push_back(payload.to_vec()),
                        Piece::Ping(_) => {}
                        Piece::Close(_) => {
                            if !std::mem::replace(closed, true) {
                                websocket::encode_close(control, mask());
                            }
                        }
                    }
                    Ok(())
                })?;
            }
            Protocol::Channels(channels) => {
                channels.handle_input(bytes)?;
                if channels.is_ended() && !std::mem::replace(&mut self.closed, true) {
                    websocket::encode_close(&mut self.control, mask());
                }
            }
        }
        Ok(())
    }

    /// The server sends nothing more.
    pub(crate) fn end(&mut self) {
        if let Protocol::Channels(channels) = &mut self.protocol {
            channels.end();
        }
        self.closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether to read on; false while a stream holds more than it may.
    pub(crate) fn wants_input(&self) -> bool {
        match &self.protocol {
            Protocol::Spdy { session, .. } => session.wants_input(),
            Protocol::Channels(channels) => channels.wants_input(),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Health {
        match &mut self.protocol {
            Protocol::Spdy { session, .. } => session.handle_timeout(now),
            Protocol::Channels(channels) => {
                if !channels.wants_input() {
                    self.last_input = now;
                }
                match self.pinged {
                    // A host that pauses an upload holds up the ping behind it: that is no dead server.
                    Some(at) if now >= at + DEAD_AFTER => {
                        let blocked = channels.has_output() || self.sent_since_input > IN_FLIGHT_MAX;
                        if !blocked || now >= self.last_input + BLOCKED_DEAD_AFTER {
                            return Health::Dead;
                        }
                        self.pinged = Some(now);
                    }
                    None if now >= self.last_input + PING_AFTER => {
                        self.pinged = Some(now);
                        websocket::encode_ping(&mut self.control, mask());
                    }
                    _ => {}
                }
                Health::Alive
            }
        }
    }

    /// Asks the server for a sign of life now, where streams share the connection.
    pub(super) fn ask(&mut self, now: Instant) {
        if let Protocol::Spdy { session, .. } = &mut self.protocol {
            session.ask(now);
        }
    }

    /// Whether silence says something of the server: streams share the connection, and it is being read.
    pub(super) fn can_ask(&self) -> bool {
        matches!(self.protocol, Protocol::Spdy { .. }) && self.wants_input()
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        match &self.protocol {
            Protocol::Spdy { session, .. } => session.poll_timeout(),
            Protocol::Channels(_) => self.pinged.map_or(self.last_input + PING_AFTER, |at| at + DEAD_AFTER),
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<Told> {
        match &mut self.protocol {
            Protocol::Spdy { session, .. } => loop {
                match session.poll_event()? {
                    spdy::Event::Readable(id) => return Some(Told::Readable(Key::Spdy(id))),
                    spdy::Event::Writable(id) => return Some(Told::Writable(Key::Spdy(id))),
                    // The server opens no streams; GOAWAY is asked for by state; nobody waits for the others.
                    spdy::Event::Opened { .. }
                    | spdy::Event::Replied { .. }
                    | spdy::Event::GoAway { .. }
                    | spdy::Event::Pong { .. } => {}
                }
            },
            Protocol::Channels(channels) => {
                if std::mem::take(&mut self.writable) {
                    return Some(Told::Writable(Key::Channel(0)));
                }
                channels.poll_readable().map(|channel| Told::Readable(Key::Channel(channel)))
            }
        }
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.control.is_empty()
            || !self.pongs.is_empty()
            || match &self.protocol {
                Protocol::Spdy { session, .. } => session.has_output(),
                Protocol::Channels(channels) => channels.has_output(),
            }
    }

    /// Appends what is to be sent, about `limit` bytes at most.
    pub(crate) fn poll_transmit(&mut self, out: &mut Vec<u8>, limit: usize) -> usize {
        let from = out.len();
        out.append(&mut self.control);
        while let Some(payload) = self.pongs.pop_front() {
            websocket::encode_pong(out, &payload, mask());
        }
        match &mut self.protocol {
            Protocol::Spdy { session, tunnel: None } => {
                session.poll_transmit(out, limit);
            }
            Protocol::Spdy { session, tunnel: Some(_) } => {
                let limit = limit.min(websocket::FILL_MAX);
                websocket::encode_filled(out, mask(), |out| {
                    session.poll_transmit(out, limit);
                });
            }
            Protocol::Channels(channels) => {
                self.writable |= channels.poll_transmit(out, limit, mask);
                self.sent_since_input = self.sent_since_input.saturating_add(out.len() - from);
            }
        }
        out.len() - from
    }

    /// Says good-bye where the protocol has a word for it.
    pub(crate) fn close(&mut self) {
        match &mut self.protocol {
            Protocol::Spdy { session, tunnel } => {
                if tunnel.is_some() {
                    websocket::encode_close(&mut self.control, mask());
                } else {
                    session.go_away(spdy::GoAwayStatus::Ok);
                }
            }
            Protocol::Channels(_) => websocket::encode_close(&mut self.control, mask()),
        }
    }

    /// Opens a SPDY stream.
    pub(crate) fn open(&mut self, headers: &[(&str, &str)]) -> Result<Key, OpenError> {
        match &mut self.protocol {
            Protocol::Spdy { session, .. } => session.open(headers, false).map(Key::Spdy),
            Protocol::Channels(_) => Err(OpenError::Exhausted),
        }
    }

    /// Whether new streams can be opened here.
    pub(crate) fn takes_streams(&self) -> bool {
        match &self.protocol {
            Protocol::Spdy { session, .. } => !self.closed && !session.is_going_away(),
            Protocol::Channels(_) => false,
        }
    }

    pub(crate) fn write(&mut self, key: Key, bytes: &[u8]) -> Option<usize> {
        match (&mut self.protocol, key) {
            (Protocol::Spdy { session, .. }, Key::Spdy(id)) => match session.write(id, bytes) {
                Written::Taken(taken) => Some(taken),
                Written::Closed => None,
            },
            (Protocol::Channels(channels), Key::Channel(channel)) => channels.write(channel, bytes),
            _ => None,
        }
    }

    pub(crate) fn read(&mut self, key: Key, into: &mut Vec<u8>) -> ReadState {
        match (&mut self.protocol, key) {
            (Protocol::Spdy { session, .. }, Key::Spdy(id)) => session.read(id, into),
            (Protocol::Channels(channels), Key::Channel(channel)) => match channels.read(channel, into) {
                None => ReadState::Pending,
                Some(true) => ReadState::Data,
                Some(false) => ReadState::Finished,
            },
            _ => ReadState::Gone,
        }
    }

    pub(crate) fn finish(&mut self, key: Key) {
        match (&mut self.protocol, key) {
            (Protocol::Spdy { session, .. }, Key::Spdy(id)) => session.finish(id),
            (Protocol::Channels(channels), Key::Channel(channel)) => channels.finish(channel),
            _ => {}
        }
    }

    pub(crate) fn reset(&mut self, key: Key) {
        if let (Protocol::Spdy { session, .. }, Key::Spdy(id)) = (&mut self.protocol, key) {
            session.reset(id, ResetStatus::Cancel);
        }
    }

    pub(crate) fn release(&mut self, key: Key) {
        if let (Protocol::Spdy { session, .. }, Key::Spdy(id)) = (&mut self.protocol, key) {
            session.release(id);
        }
    }
}

/// Fresh and unpredictable for each frame (RFC 6455 section 5.3).
fn mask() -> [u8; 4] {
    rand::random()
}
