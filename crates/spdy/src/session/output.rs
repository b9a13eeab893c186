//! What a session sends: control frames first, then the streams in turn.

use crate::frame::{self, ControlType, HEAD_LEN};
use crate::session::Session;
use crate::session::event::Event;
use crate::session::stream::Outward;
use crate::stream_id::StreamId;

/// A data frame is not cut shorter than this to fill what is left of a buffer.
const PIECE_MIN: usize = 512;

/// A buffer of this size takes at least one frame.
const LIMIT_MIN: usize = 1024;

impl Session {
    /// Whether there is something to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.control.is_empty() || !self.turns.is_empty()
    }

    /// Appends whole frames to `out`, while they fit into `limit` bytes; returns how many bytes that were.
    ///
    /// The first frame is appended in any case, if `limit` is 1024 or more: only a control frame can be longer.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>, limit: usize) -> usize {
        let begin = out.len();
        if self.transmit_control(out, limit) {
            self.transmit_data(out, begin + limit);
        }
        self.sent_since_input = self.sent_since_input.saturating_add(out.len() - begin);
        out.len() - begin
    }

    /// Whether all control frames are out.
    fn transmit_control(&mut self, out: &mut Vec<u8>, limit: usize) -> bool {
        let begin = out.len();
        while let Some(length) = self.first_control_frame() {
            let used = out.len() - begin;
            let goes_anyway = used == 0 && limit >= LIMIT_MIN;
            if used + length > limit && !goes_anyway {
                return false;
            }
            self.control.move_to(out, length);
        }
        self.control.shrink(4 * LIMIT_MIN);
        true
    }

    /// The length of the first control frame that waits, with its head.
    fn first_control_frame(&self) -> Option<usize> {
        let at = |n| self.control.get(n).map(usize::from);
        Some(HEAD_LEN + (at(5)? << 16 | at(6)? << 8 | at(7)?))
    }

    fn transmit_data(&mut self, out: &mut Vec<u8>, end: usize) {
        let keep = self.keep_of_buffer();
        while let Some((id, most)) = self.turns.front() {
            let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_waiting) else {
                self.turns.skip_front();
                continue;
            };
            let room = end.saturating_sub(out.len());
            if room < HEAD_LEN + stream.queued.len().min(PIECE_MIN).min(most) {
                return;
            }
            let n = stream.queued.len().min(room - HEAD_LEN).min(most);
            let is_last = n == stream.queued.len();
            let fin = is_last && stream.outward == Outward::Finishing;
            out.extend_from_slice(&frame::data_head(id, fin, n));
            stream.queued.move_to(out, n);
            if is_last {
                stream.queued.shrink(keep);
                stream.is_waiting = false;
            }
            if fin {
                stream.outward = Outward::Finished;
            }
            self.turns.sent(n, !is_last);
            if stream.wants_room && stream.queued.len() <= self.settings.send_limit / 2 {
                stream.wants_room = false;
                self.events.push_back(Event::Writable(id));
            }
            if fin && stream.is_released {
                self.remove(id);
            }
        }
    }

    pub(super) fn send_syn_stream(&mut self, id: StreamId, headers: &[(&str, &str)], fin: bool) {
        let [a, b, c, d] = id.get().to_be_bytes();
        // Associated with no stream, the highest priority, no credential slot.
        let front = [a, b, c, d, 0, 0, 0, 0, 0, 0];
        self.send_headers(ControlType::SynStream, fin, &front, headers);
    }

    pub(super) fn send_syn_reply(&mut self, id: StreamId, headers: &[(&str, &str)], fin: bool) {
        self.send_headers(ControlType::SynReply, fin, &id.get().to_be_bytes(), headers);
    }

    fn send_headers(&mut self, kind: ControlType, fin: bool, front: &[u8], headers: &[(&str, &str)]) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&[0; HEAD_LEN]);
        self.scratch.extend_from_slice(front);
        self.header_writer.write(headers, &mut self.scratch);
        let flags = if fin { frame::FIN } else { 0 };
        let head = frame::control_head(kind, flags, self.scratch.len() - HEAD_LEN);
        self.scratch[..HEAD_LEN].copy_from_slice(&head);
        self.control.push(&self.scratch);
    }
}
