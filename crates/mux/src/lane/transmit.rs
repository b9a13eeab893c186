//! What goes out: control first, then streams in the scheduler's order.

use std::time::Instant;

use super::stream::{Outgoing, SendState};
use super::{Key, Lane, backlog_share};
use crate::frame::{CONTROL_CAP, FrameType, HEADER_LEN, Header, flags, put_frame};

/// A Data frame is not started with less room than this, so that no crumbs are sent.
const CRUMB: usize = 512;

impl<D: Default> Lane<D> {
    /// Appends whole frames to `out` until it holds about `limit` bytes; returns what was appended.
    ///
    /// Only a control frame that alone is longer than `limit` goes beyond it. Called with one TLS record's
    /// room, frames and records align and the receiver never has to collect a frame.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>, limit: usize) -> usize {
        let start = out.len();
        self.put_control(out, limit);
        if self.control.is_empty()
            && let Some(since) = self.control_since.take()
        {
            self.count_wait(now, since);
        }
        // Not before all control is out: Data must not overtake the Open of its stream.
        if !self.closed && self.control.is_empty() {
            self.put_windows(out, limit);
            while out.len() + HEADER_LEN + CRUMB <= limit {
                let Some((slot, most)) = self.scheduler.next() else { break };
                if !self.put_stream(now, slot, most, out, limit) {
                    break;
                }
            }
        }
        let appended = out.len() - start;
        if appended > 0 {
            self.liveness.spoke(now);
        }
        appended
    }

    /// Whether [`Lane::poll_transmit`] would append something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let quiet = self.windows.is_empty() && self.scheduler.is_empty();
        !self.control.is_empty() || !self.closed && (self.echo.is_some() || !quiet)
    }

    fn put_control(&mut self, out: &mut Vec<u8>, limit: usize) {
        if let Some(echo) = self.echo.take().filter(|_| !self.closed) {
            put_frame(out, FrameType::Heartbeat, flags::ACK, 0, &echo);
            self.stats.frames_out += 1;
        }
        while let Some(frame) = self.control.front() {
            if !out.is_empty() && out.len() + frame.len() > limit {
                return;
            }
            out.extend_from_slice(frame);
            self.control_bytes -= backlog_share(frame);
            self.opens_bytes -= frame.len() - backlog_share(frame);
            self.control.pop_front();
            self.stats.frames_out += 1;
        }
        if self.control.capacity() > 64 {
            self.control.shrink_to(8);
        }
    }

    fn put_windows(&mut self, out: &mut Vec<u8>, limit: usize) {
        while out.len() + HEADER_LEN + 4 <= limit {
            let Some(key) = self.windows.pop_front() else { break };
            // A stream may have gone or ended since; its debt is then void.
            let owed = self.get_mut(key).map_or(0, |stream| std::mem::take(&mut stream.owed_credit));
            if owed > 0 {
                put_frame(out, FrameType::Window, 0, key.id, &owed.to_be_bytes());
                self.stats.frames_out += 1;
            }
        }
    }

    fn count_wait(&mut self, now: Instant, since: Instant) {
        self.stats.queued += 1;
        let waited = now.saturating_duration_since(since).as_micros();
        self.stats.queued_micros += u64::try_from(waited).unwrap_or(u64::MAX);
    }

    /// Sends one frame of a stream; false when it does not fit any more.
    fn put_stream(&mut self, now: Instant, slot: u32, most: usize, out: &mut Vec<u8>, limit: usize) -> bool {
        let data_cap = self.config.peer_data_cap as usize;
        let room = (limit - out.len() - HEADER_LEN).min(data_cap).min(most.max(CRUMB));
        let Some(stream) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            self.scheduler.remove(slot);
            return true;
        };
        let key = Key { slot, id: stream.id };
        // A sparse stream that ran empty still waits its round; its turn must not become an empty frame.
        if !stream.has_output() {
            self.scheduler.sent(slot, 0, false);
            return true;
        }
        let at = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let mut frame_flags = 0;
        if let Some(Outgoing::Head(block)) = stream.queue.front() {
            // A long block goes alone, over several records: it is no body and must not be cut.
            if at > 0 && block.len() + HEADER_LEN > limit - at {
                out.truncate(at);
                return false;
            }
            debug_assert!(block.len() <= CONTROL_CAP as usize, "blocks are capped where they are made");
            out.extend_from_slice(block);
            stream.queue.pop_front();
            frame_flags |= flags::HEADERS;
        } else {
            fill(stream, room, out);
        }
        let sent = out.len() - at - HEADER_LEN;
        if frame_flags & flags::HEADERS == 0 {
            stream.queued -= sent;
            self.stats.bytes_out += sent as u64;
        }
        if stream.queue.is_empty() && stream.send == SendState::Ending {
            stream.send = SendState::Ended;
            frame_flags |= flags::END;
        }
        let length = u32::try_from(sent).expect("capped by the room");
        let header = Header { kind: FrameType::Data, flags: frame_flags, stream: key.id, length };
        out[at..at + HEADER_LEN].copy_from_slice(&header.encode());
        self.stats.frames_out += 1;
        let more = stream.has_output();
        let mut waited = None;
        if let Some(since) = stream.queued_since.take() {
            if more {
                stream.queued_since = Some(now);
            }
            waited = Some(since);
        }
        let gone = stream.detached && stream.is_over();
        // A waiting writer is called back once half its queue is free, not for every frame.
        let roomy = stream.queued * 2 <= self.config.send_queue && stream.credit.left() > 0;
        self.scheduler.sent(slot, sent + HEADER_LEN, more);
        if let Some(since) = waited {
            self.count_wait(now, since);
        }
        if gone {
            self.remove(key);
        } else if roomy {
            self.notify_writer(key);
        }
        true
    }
}

/// Moves queued bytes, of as many chunks as fit, behind `out`.
fn fill<D>(stream: &mut super::Stream<D>, mut room: usize, out: &mut Vec<u8>) {
    while room > 0 {
        let Some(Outgoing::Data(chunk)) = stream.queue.front_mut() else { return };
        let n = chunk.len().min(room);
        out.extend_from_slice(&chunk.split_to(n));
        room -= n;
        if chunk.is_empty() {
            stream.queue.pop_front();
        }
    }
}
