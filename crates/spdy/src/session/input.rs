//! What a session makes of the frames that arrive.

use std::time::Instant;

use crate::abuse::Cheap;
use crate::decoder::{DataPiece, Decoder, Piece};
use crate::frame::{self, ControlType, FIN, UNIDIRECTIONAL, number_at};
use crate::headers::Headers;
use crate::session::event::Event;
use crate::session::stream::{Inward, Outward, Stream};
use crate::session::{CONTROL_QUEUE_MAX, Session};
use crate::status::{GoAwayStatus, ResetStatus};
use crate::stream_id::{LAST, StreamId};
use crate::violation::Violation;

impl Session {
    /// Takes bytes off the wire, in any chunking, and all of them.
    ///
    /// # Errors
    /// The peer broke the protocol. The session is over; a GOAWAY that says so waits to be sent.
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Violation> {
        if let Some(violation) = &self.broken {
            return Err(violation.clone());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.keepalive.note_input(now);
        self.sent_since_input = 0;
        let mut decoder = std::mem::take(&mut self.decoder);
        let outcome = self.decode(now, &mut decoder, bytes);
        self.decoder = decoder;
        if let Err(violation) = &outcome {
            self.go_away(GoAwayStatus::ProtocolError);
            self.broken = Some(violation.clone());
        }
        outcome
    }

    fn decode(&mut self, now: Instant, decoder: &mut Decoder, mut input: &[u8]) -> Result<(), Violation> {
        while let Some(piece) = decoder.next(&mut input)? {
            match piece {
                Piece::Data(piece) => self.on_data(now, piece)?,
                Piece::Control { kind, flags, payload } => {
                    self.on_control(now, kind, flags, payload)?;
                    if self.control.len() > 2 * CONTROL_QUEUE_MAX {
                        return Err(Violation::Flood { frames: "frames that want an answer" });
                    }
                }
            }
        }
        Ok(())
    }

    fn on_data(&mut self, now: Instant, piece: DataPiece<'_>) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&piece.stream).filter(|stream| !stream.is_reset()) else {
            return self.on_data_for_nobody(now, piece);
        };
        if stream.inward == Inward::Finished {
            if stream.is_released {
                return self.on_data_for_nobody(now, piece);
            }
            self.discarded += piece.bytes.len() as u64;
            return self.break_stream(now, piece.stream, ResetStatus::StreamAlreadyClosed);
        }
        if piece.is_first && piece.bytes.is_empty() && !piece.fin {
            return self.budgets.spend(now, Cheap::EmptyData);
        }
        let limit = self.settings.receive_limit;
        let was_blocking = stream.received.len() > limit;
        stream.received.extend_from_slice(piece.bytes);
        stream.is_touched = true;
        if stream.received.len() > limit && !was_blocking {
            self.blocking += 1;
        }
        if piece.fin {
            stream.inward = Inward::Finished;
        }
        self.tell_readable(piece.stream);
        Ok(())
    }

    fn on_data_for_nobody(&mut self, now: Instant, piece: DataPiece<'_>) -> Result<(), Violation> {
        self.discarded += piece.bytes.len() as u64;
        if !piece.is_first {
            return Ok(());
        }
        if self.was_opened(piece.stream) {
            return self.budgets.spend(now, Cheap::Late);
        }
        self.control.push(&frame::rst_stream(piece.stream.get(), ResetStatus::InvalidStream));
        self.budgets.spend(now, Cheap::Stray)
    }

    fn on_control(&mut self, now: Instant, kind: ControlType, flags: u8, payload: &[u8]) -> Result<(), Violation> {
        let malformed = || Violation::Malformed { frame: kind.name() };
        let first = number_at(payload, 0);
        let second = number_at(payload, 4);
        let has_length = |length| payload.len() == length;
        match (kind, first, second) {
            (ControlType::SynStream, Some(id), Some(_)) => {
                let block = payload.get(10..).ok_or_else(malformed)?;
                let headers = self.header_reader.read(block)?;
                self.on_syn_stream(now, id & LAST, flags, headers)
            }
            (ControlType::SynReply, Some(id), _) => {
                let headers = self.header_reader.read(payload.get(4..).unwrap_or_default())?;
                self.on_syn_reply(now, id & LAST, flags & FIN != 0, headers)
            }
            (ControlType::Headers, Some(id), _) => {
                self.budgets.spend(now, Cheap::Control)?;
                self.header_reader.read(payload.get(4..).unwrap_or_default())?;
                if flags & FIN != 0 {
                    self.on_fin(StreamId::new(id));
                }
                Ok(())
            }
            (ControlType::RstStream, Some(id), Some(status)) if has_length(8) && status != 0 => {
                self.on_reset(now, id & LAST, ResetStatus::from_wire(status))
            }
            (ControlType::Ping, Some(id), None) if has_length(4) => self.on_ping(now, id),
            (ControlType::GoAway, Some(last), Some(status)) if has_length(8) => {
                self.budgets.spend(now, Cheap::Control)?;
                self.on_go_away(StreamId::new(last), GoAwayStatus::from_wire(status));
                Ok(())
            }
            (ControlType::Settings, Some(count), _) if is_settings(count, payload.len()) => {
                self.budgets.spend(now, Cheap::Control)
            }
            (ControlType::WindowUpdate, Some(_), Some(_)) if has_length(8) => {
                self.budgets.spend(now, Cheap::WindowUpdate)
            }
            (ControlType::Unknown(_), _, _) => self.budgets.spend(now, Cheap::Control),
            _ => Err(malformed()),
        }
    }

    fn on_syn_stream(&mut self, now: Instant, id: u32, flags: u8, headers: Headers) -> Result<(), Violation> {
        if id == 0 || self.settings.role.owns(id) || id <= self.last_peer_id {
            return Err(Violation::StreamId { id });
        }
        if !self.settings.accepts_streams || self.sent_go_away || self.streams.len() >= self.settings.max_streams {
            self.last_peer_id = id;
            self.control.push(&frame::rst_stream(id, ResetStatus::RefusedStream));
            return self.budgets.spend(now, Cheap::Reset);
        }
        self.last_peer_id = id;
        let fin = flags & FIN != 0;
        let mut stream = Stream::default();
        if fin {
            stream.inward = Inward::Finished;
        }
        if flags & UNIDIRECTIONAL != 0 {
            stream.outward = Outward::Finished;
        }
        let id = StreamId::new(id);
        self.streams.insert(id, stream);
        self.events.push_back(Event::Opened { id, headers, fin });
        if fin {
            self.tell_readable(id);
        }
        Ok(())
    }

    fn on_syn_reply(&mut self, now: Instant, id: u32, fin: bool, headers: Headers) -> Result<(), Violation> {
        if id == 0 {
            return Err(Violation::StreamId { id });
        }
        let id = StreamId::new(id);
        if !self.was_opened(id) {
            self.control.push(&frame::rst_stream(id.get(), ResetStatus::InvalidStream));
            return self.budgets.spend(now, Cheap::Stray);
        }
        let ours = self.settings.role.owns(id.get());
        let stream = self.streams.get_mut(&id).filter(|stream| !stream.is_reset() && !stream.is_released);
        let Some(stream) = stream.filter(|stream| ours && !stream.is_replied) else {
            return self.budgets.spend(now, Cheap::Late);
        };
        stream.is_replied = true;
        self.events.push_back(Event::Replied { id, headers });
        if fin {
            self.on_fin(id);
        }
        Ok(())
    }

    fn on_reset(&mut self, now: Instant, id: u32, status: ResetStatus) -> Result<(), Violation> {
        if id == 0 {
            return Err(Violation::StreamId { id });
        }
        let stream_id = StreamId::new(id);
        let Some(stream) = self.streams.get_mut(&stream_id).filter(|stream| !stream.is_reset()) else {
            return self.budgets.spend(now, Cheap::Late);
        };
        if stream.is_released {
            self.remove(stream_id);
            return Ok(());
        }
        self.mark_reset(stream_id, status);
        if self.settings.role.owns(id) { Ok(()) } else { self.budgets.spend(now, Cheap::Reset) }
    }

    fn on_ping(&mut self, now: Instant, id: u32) -> Result<(), Violation> {
        if !self.settings.role.owns(id) {
            self.control.push(&frame::ping(id));
            return self.budgets.spend(now, Cheap::Ping);
        }
        match self.keepalive.note_answer(now, id) {
            Some(after) => {
                self.events.push_back(Event::Pong { after });
                Ok(())
            }
            None => self.budgets.spend(now, Cheap::Control),
        }
    }

    fn on_go_away(&mut self, last: StreamId, status: GoAwayStatus) {
        if !std::mem::replace(&mut self.got_go_away, true) {
            self.events.push_back(Event::GoAway { last, status });
        }
        // Those were on their way: the peer has not seen them and never will.
        let unseen = |(id, stream): (&StreamId, &Stream)| {
            let ours = self.settings.role.owns(id.get());
            (ours && id.get() > last.get() && !stream.is_replied && !stream.is_reset()).then_some(*id)
        };
        let unseen: Vec<StreamId> = self.streams.iter().filter_map(unseen).collect();
        for id in unseen {
            if self.streams.get(&id).is_some_and(|stream| stream.is_released) {
                self.remove(id);
            } else {
                self.mark_reset(id, ResetStatus::RefusedStream);
            }
        }
    }

    /// The peer's half of a stream ends by another frame than DATA.
    fn on_fin(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.inward == Inward::Open
        {
            stream.inward = Inward::Finished;
            self.tell_readable(id);
        }
    }

    /// The peer broke the rules of one stream, and only that stream ends.
    fn break_stream(&mut self, now: Instant, id: StreamId, status: ResetStatus) -> Result<(), Violation> {
        self.control.push(&frame::rst_stream(id.get(), status));
        self.mark_reset(id, status);
        self.budgets.spend(now, Cheap::Stray)
    }

    /// A stream is reset: what it received can still be read, and nothing more is sent.
    fn mark_reset(&mut self, id: StreamId, status: ResetStatus) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.inward = Inward::Reset(status);
        stream.queued.clear();
        let was_waiting = std::mem::take(&mut stream.is_waiting);
        let wanted_room = std::mem::take(&mut stream.wants_room);
        if was_waiting {
            self.forget_turn();
        }
        if wanted_room {
            self.events.push_back(Event::Writable(id));
        }
        self.tell_readable(id);
    }

    fn tell_readable(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.is_told, true)
        {
            self.events.push_back(Event::Readable(id));
        }
    }

    /// Whether either end ever opened a stream of this number.
    fn was_opened(&self, id: StreamId) -> bool {
        let id = id.get();
        if self.settings.role.owns(id) { id < self.next_id } else { id <= self.last_peer_id }
    }
}

fn is_settings(count: u32, length: usize) -> bool {
    usize::try_from(count).is_ok_and(|count| count.checked_mul(8).is_some_and(|entries| entries == length - 4))
}
