//! What comes in: one frame at a time.

use std::time::Instant;

use bytes::Bytes;

use super::stream::{RecvState, SendState};
use super::{CONTROL_BACKLOG, Event, Key, Lane, Violation};
use crate::abuse::{Cheap, TINY_GRANT};
use crate::code::ErrorCode;
use crate::frame::{FrameType, Header, flags};
use crate::lane::Stream;
use crate::open::Open;

/// What the rules say of a frame for a stream.
enum Verdict {
    Fine,
    /// Only the stream is at fault.
    ResetStream(ErrorCode),
}

impl<D: Default> Lane<D> {
    /// Takes one frame.
    ///
    /// # Errors
    /// [`Violation`]: call [`Lane::close`] with its code, send what is left, and end the lane.
    pub fn handle_frame(&mut self, now: Instant, header: Header, payload: &[u8]) -> Result<(), Violation> {
        self.liveness.heard(now);
        self.stats.frames_in += 1;
        if self.control_bytes > CONTROL_BACKLOG {
            return Err(Violation::Stuck);
        }
        match header.kind {
            FrameType::Data => self.on_data(now, header, payload),
            FrameType::Window => self.on_window(now, header, payload),
            FrameType::Open => self.on_open(now, header, payload),
            FrameType::Close => self.on_close(now, header, payload),
            FrameType::Heartbeat => self.on_heartbeat(now, header, payload),
            FrameType::GoAway => self.on_go_away(now, payload),
            FrameType::Error => {
                self.on_error(payload);
                Ok(())
            }
            FrameType::Optional(_) | FrameType::Datagram => {
                self.budgets.charge(now, Cheap::Control)?;
                Ok(())
            }
            kind => {
                self.budgets.charge(now, Cheap::Control)?;
                self.events.push_back(Event::Control(kind, header.flags, payload.to_vec()));
                Ok(())
            }
        }
    }

    fn on_data(&mut self, now: Instant, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let Some(key) = self.find(now, header.stream)? else { return Ok(()) };
        let is_head = header.has(flags::HEADERS);
        if payload.is_empty() && !is_head && !header.has(flags::END) {
            self.budgets.charge(now, Cheap::EmptyData)?;
        }
        self.stats.bytes_in += payload.len() as u64;
        let Some(stream) = self.get_mut(key) else { return Ok(()) };
        let verdict = match stream.recv {
            RecvState::Ended => Verdict::ResetStream(ErrorCode::StreamClosed),
            RecvState::Reset(_) => return Ok(()),
            RecvState::Open => store(stream, is_head, payload),
        };
        match verdict {
            Verdict::Fine => {
                if header.has(flags::END) {
                    stream.recv = RecvState::Ended;
                    stream.owed_credit = 0;
                }
                self.notify_reader(key);
                Ok(())
            }
            Verdict::ResetStream(ErrorCode::EnhanceYourCalm) => {
                self.budgets.charge(now, Cheap::Heads)?;
                self.push_reset(key.id, ErrorCode::EnhanceYourCalm);
                self.abort(key, ErrorCode::EnhanceYourCalm);
                Ok(())
            }
            Verdict::ResetStream(code) => self.fault(key, code),
        }
    }

    fn on_window(&mut self, now: Instant, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let Ok(amount) = <[u8; 4]>::try_from(payload) else {
            return Err(Violation::Payload(FrameType::Window));
        };
        let amount = u32::from_be_bytes(amount);
        let Some(key) = self.find(now, header.stream)? else { return Ok(()) };
        if amount < TINY_GRANT {
            self.budgets.charge(now, Cheap::TinyWindow)?;
        }
        let Some(stream) = self.get_mut(key) else { return Ok(()) };
        let handed_back = header.has(flags::ACK);
        let result = if handed_back { stream.window.take_back(amount) } else { stream.credit.grant(amount) };
        if result.is_err() {
            return self.fault(key, ErrorCode::FlowControl);
        }
        if !handed_back {
            self.notify_writer(key);
        }
        Ok(())
    }

    fn on_open(&mut self, now: Instant, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let id = header.stream;
        if self.is_own(id) || id <= self.last_peer_id {
            return Err(Violation::StreamOrder(id));
        }
        self.last_peer_id = id;
        if self.draining || self.closed || self.peer_streams >= self.config.max_streams {
            self.push_reset(id, ErrorCode::Refused);
            return Ok(());
        }
        let open = Open::decode(Bytes::copy_from_slice(payload)).map_err(|_| Violation::Payload(FrameType::Open))?;
        self.peer_streams += 1;
        let window = self.window(self.config.window, now);
        let mut stream = Stream::new(id, D::default(), open.credit, window, now);
        if header.has(flags::END) {
            stream.recv = RecvState::Ended;
        }
        let key = self.insert(stream);
        self.events.push_back(Event::Opened(key, open));
        Ok(())
    }

    fn on_close(&mut self, now: Instant, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let Some(key) = self.find(now, header.stream)? else { return Ok(()) };
        if !header.has(flags::RST) {
            if let Some(stream) = self.get_mut(key)
                && stream.recv == RecvState::Open
            {
                stream.recv = RecvState::Ended;
            }
            self.notify_reader(key);
            return Ok(());
        }
        // Resets of own streams are bounded by what this side opens: a local service that is down answers each so.
        if !self.is_own(header.stream) {
            self.budgets.charge(now, Cheap::Reset)?;
        } else if self.get_mut(key).is_some_and(|stream| stream.recv != RecvState::Open && stream.may_send().is_err()) {
            // There is nothing left to reset, until its holder lets go of it.
            self.budgets.charge(now, Cheap::Late)?;
        }
        let code =
            <[u8; 2]>::try_from(payload).map_or(ErrorCode::Internal, |b| ErrorCode::from_wire(u16::from_be_bytes(b)));
        self.abort(key, code);
        Ok(())
    }

    fn on_heartbeat(&mut self, now: Instant, header: Header, payload: &[u8]) -> Result<(), Violation> {
        let Ok(bytes) = <[u8; 8]>::try_from(payload) else {
            return Err(Violation::Payload(FrameType::Heartbeat));
        };
        if header.has(flags::ACK) {
            self.liveness.echoed(now, u64::from_be_bytes(bytes));
        } else {
            self.budgets.charge(now, Cheap::Ping)?;
            // One echo is owed at the most: the newest stands for those before it.
            self.echo = Some(bytes);
        }
        Ok(())
    }

    fn on_go_away(&mut self, now: Instant, payload: &[u8]) -> Result<(), Violation> {
        self.budgets.charge(now, Cheap::Control)?;
        let message: crate::message::GoAway =
            crate::message::decode(payload).map_err(|_| Violation::Payload(FrameType::GoAway))?;
        self.peer_draining = true;
        let refused: Vec<Key> = self
            .ids
            .iter()
            .filter(|(id, _)| self.is_own(**id) && **id > message.last_stream)
            .map(|(id, slot)| Key { slot: *slot, id: *id })
            .collect();
        for key in refused {
            self.abort(key, ErrorCode::Refused);
        }
        self.events.push_back(Event::GoAway(message));
        Ok(())
    }

    fn on_error(&mut self, payload: &[u8]) {
        let code =
            payload.first_chunk::<2>().map_or(ErrorCode::Internal, |b| ErrorCode::from_wire(u16::from_be_bytes(*b)));
        let text = payload.get(3..).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[..text.len().min(256)]);
        let text = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.closed = true;
        self.events.push_back(Event::Closed(code, text));
    }

    /// Finds a stream; `None` for one that is gone, whose late frames are only counted.
    fn find(&mut self, now: Instant, id: u32) -> Result<Option<Key>, Violation> {
        if let Some(slot) = self.ids.get(&id) {
            return Ok(Some(Key { slot: *slot, id }));
        }
        let known = if self.is_own(id) { id < self.next_id } else { id <= self.last_peer_id };
        if !known {
            return Err(Violation::NeverOpened(id));
        }
        self.budgets.charge(now, Cheap::Late)?;
        Ok(None)
    }

    /// A stream broke a rule: it is reset; the second time on this lane the lane is over.
    fn fault(&mut self, key: Key, code: ErrorCode) -> Result<(), Violation> {
        let (count, violation) = match code {
            ErrorCode::FlowControl => (&mut self.flow_violations, Violation::Flow),
            _ => (&mut self.ended_violations, Violation::Ended),
        };
        *count += 1;
        if *count > 1 {
            return Err(violation);
        }
        self.push_reset(key.id, code);
        self.abort(key, code);
        Ok(())
    }

    /// Both directions of a stream are over; its holder is told.
    fn abort(&mut self, key: Key, code: ErrorCode) {
        self.scheduler.remove(key.slot);
        let Some(stream) = self.get_mut(key) else { return };
        stream.queue.clear();
        stream.queued = 0;
        if stream.send != SendState::Ended {
            stream.send = SendState::Reset(code);
        }
        if stream.recv == RecvState::Open {
            stream.recv = RecvState::Reset(code);
        }
        if stream.detached {
            self.remove(key);
            return;
        }
        self.notify_reader(key);
        self.notify_writer(key);
        self.events.push_back(Event::Reset(key, code));
    }

    fn notify_reader(&mut self, key: Key) {
        if self.get_mut(key).is_some_and(Stream::reader_waits) {
            self.events.push_back(Event::Readable(key));
        }
    }

    pub(super) fn notify_writer(&mut self, key: Key) {
        if self.get_mut(key).is_some_and(|stream| std::mem::take(&mut stream.want_write)) {
            self.events.push_back(Event::Writable(key));
        }
    }
}

/// Puts a payload into the stream's inbox, if the rules allow it.
fn store<D>(stream: &mut Stream<D>, is_head: bool, payload: &[u8]) -> Verdict {
    if is_head {
        if !stream.store_head(payload) {
            return Verdict::ResetStream(ErrorCode::EnhanceYourCalm);
        }
    } else if stream.window.receive(payload.len()).is_err() {
        return Verdict::ResetStream(ErrorCode::FlowControl);
    } else if !payload.is_empty() {
        stream.store_data(payload);
    }
    Verdict::Fine
}
