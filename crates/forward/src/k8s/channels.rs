//! The channel protocols over WebSocket: `v4.channel.k8s.io` and `v5.channel.k8s.io`, pure.
//!
//! A message's first byte names the channel. v5 adds channel 255, which closes the channel named in the next byte;
//! v4 cannot end a channel, so whoever needs an end of stdin must not use it (kubernetes/kubernetes#119157).

use std::collections::VecDeque;

use super::websocket::{self, Decoder, Piece, WebSocketError};

/// Bytes of one channel above which reading stops.
const RECEIVE_LIMIT: usize = 256 * 1024;
/// Queued bytes of one channel.
const SEND_LIMIT: usize = 256 * 1024;
/// One message towards the server; well below what any proxy refuses.
const MESSAGE: usize = 32 * 1024;
/// Channels of a connection: four of exec and resize, or a pair of a port.
const CHANNELS: usize = 5;
/// v5: closes the channel named in the next byte.
const CLOSE_CHANNEL: u8 = 255;

/// The state of one connection's channels.
#[derive(Debug)]
pub(crate) struct Channels {
    decoder: Decoder,
    /// The channel of the message that is being received.
    current: Option<u8>,
    closing: Option<u8>,
    channels: [Channel; CHANNELS],
    can_close: bool,
    /// portforward sends the port's number first on each channel, two bytes.
    skip: [u8; CHANNELS],
    pongs: VecDeque<Vec<u8>>,
    readable: Vec<u8>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Channel {
    received: Vec<u8>,
    queued: Vec<u8>,
    finish: bool,
    finished: bool,
    peer_finished: bool,
}

impl Channels {
    /// `can_close`: version 5. `port_prefix`: two bytes with the port come first, as for portforward.
    pub(crate) fn new(can_close: bool, port_prefix: bool) -> Self {
        Self {
            decoder: Decoder::default(),
            current: None,
            closing: None,
            channels: Default::default(),
            can_close,
            skip: [if port_prefix { 2 } else { 0 }; CHANNELS],
            pongs: VecDeque::new(),
            readable: Vec::new(),
            ended: false,
        }
    }

    /// Takes what the server sent.
    pub(crate) fn handle_input(&mut self, bytes: &[u8]) -> Result<(), WebSocketError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let result = decoder.feed(bytes, |piece| {
            match piece {
                Piece::Data { first, payload } => self.take(first, payload),
                Piece::Ping(payload) => self.pongs.push_back(payload.to_vec()),
                Piece::Close(_) => self.end(),
            }
            Ok(())
        });
        self.decoder = decoder;
        // A peer that only pings is answered once for all.
        self.pongs.truncate(1);
        result
    }

    fn take(&mut self, first: bool, mut payload: &[u8]) {
        if first {
            self.current = None;
            self.closing = None;
        }
        let channel = match self.current {
            Some(channel) => channel,
            None => {
                let Some((channel, rest)) = payload.split_first() else { return };
                self.current = Some(*channel);
                payload = rest;
                *channel
            }
        };
        if channel == CLOSE_CHANNEL && self.can_close {
            if let (None, Some(closed)) = (self.closing, payload.first()) {
                self.closing = Some(*closed);
                if let Some(channel) = self.channels.get_mut(usize::from(*closed)) {
                    channel.peer_finished = true;
                    self.readable.push(*closed);
                }
            }
            return;
        }
        // Unknown channels are ignored, as the server ignores them.
        let Some(skip) = self.skip.get_mut(usize::from(channel)) else { return };
        let prefix = usize::from(*skip).min(payload.len());
        *skip -= u8::try_from(prefix).unwrap_or(*skip);
        let payload = &payload[prefix..];
        if !payload.is_empty() {
            self.channels[usize::from(channel)].received.extend_from_slice(payload);
            self.readable.push(channel);
        }
    }

    /// Nothing more will come.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.readable.extend(0..u8::try_from(CHANNELS).unwrap_or(u8::MAX));
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn wants_input(&self) -> bool {
        self.channels.iter().all(|channel| channel.received.len() <= RECEIVE_LIMIT)
    }

    /// Channels that have something new.
    pub(crate) fn poll_readable(&mut self) -> Option<u8> {
        self.readable.pop()
    }

    /// Swaps what was received into `into`. `None`: nothing yet; `Some(false)`: the end.
    pub(crate) fn read(&mut self, channel: u8, into: &mut Vec<u8>) -> Option<bool> {
        let channel = self.channels.get_mut(usize::from(channel))?;
        if !channel.received.is_empty() {
            std::mem::swap(&mut channel.received, into);
            return Some(true);
        }
        (channel.peer_finished || self.ended).then_some(false)
    }

    /// Queues bytes; returns how many were taken, `None` when the channel is over.
    pub(crate) fn write(&mut self, channel: u8, bytes: &[u8]) -> Option<usize> {
        let channel = self.channels.get_mut(usize::from(channel))?;
        if self.ended || channel.finish {
            return None;
        }
        let taken = bytes.len().min(SEND_LIMIT.saturating_sub(channel.queued.len()));
        channel.queued.extend_from_slice(&bytes[..taken]);
        Some(taken)
    }

    /// Ends a channel behind what is queued; on v4 nothing tells the server.
    pub(crate) fn finish(&mut self, channel: u8) {
        if let Some(channel) = self.channels.get_mut(usize::from(channel)) {
            channel.finish = true;
        }
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.pongs.is_empty()
            || self.channels.iter().any(|channel| !channel.queued.is_empty() || self.close_due(channel))
    }

    fn close_due(&self, channel: &Channel) -> bool {
        self.can_close && channel.finish && !channel.finished && channel.queued.is_empty()
    }

    /// Appends frames of at most about `limit` bytes; tells whether room was made for writers.
    pub(crate) fn poll_transmit(&mut self, out: &mut Vec<u8>, limit: usize, mut mask: impl FnMut() -> [u8; 4]) -> bool {
        let from = out.len();
        let mut made_room = false;
        if let Some(payload) = self.pongs.pop_front() {
            websocket::encode_pong(out, &payload, mask());
        }
        for at in 0..CHANNELS {
            let number = u8::try_from(at).unwrap_or(u8::MAX);
            let channel = &mut self.channels[at];
            let mut sent = 0;
            while sent < channel.queued.len() && out.len() - from < limit {
                let piece = &channel.queued[sent..channel.queued.len().min(sent + MESSAGE)];
                websocket::encode(out, &[number], piece, mask());
                sent += piece.len();
            }
            if sent > 0 {
                channel.queued.drain(..sent);
                made_room = true;
            }
            let channel = &self.channels[at];
            if self.close_due(channel) && out.len() - from < limit {
                websocket::encode(out, &[CLOSE_CHANNEL], &[number], mask());
                self.channels[at].finished = true;
            }
        }
        made_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> Vec<u8> {
        let mut wire = vec![0x82, u8::try_from(bytes.len()).unwrap()];
        wire.extend_from_slice(bytes);
        wire
    }

    #[test]
    fn bytes_go_to_their_channel_and_the_ports_prefix_is_taken_off() {
        let mut channels = Channels::new(false, true);
        let wire = [message(&[0, 80, 0]), message(&[1, 80]), message(&[1, 0]), message(&[0, b'h', b'i'])].concat();
        for byte in wire {
            channels.handle_input(&[byte]).unwrap();
        }
        let mut got = Vec::new();
        assert_eq!(channels.read(0, &mut got), Some(true));
        assert_eq!(got, b"hi");
        got.clear();
        assert_eq!(channels.read(1, &mut got), None);
        channels.handle_input(&[0x88, 0]).unwrap();
        assert_eq!(channels.read(1, &mut got), Some(false));
    }

    #[test]
    fn version_5_closes_a_channel_in_both_directions() {
        let mut channels = Channels::new(true, false);
        assert_eq!(channels.write(0, b"x"), Some(1));
        channels.finish(0);
        assert_eq!(channels.write(0, b"y"), None);
        let mut out = Vec::new();
        channels.poll_transmit(&mut out, 1000, || [0; 4]);
        assert_eq!(out, [0x82, 0x82, 0, 0, 0, 0, 0, b'x', 0x82, 0x82, 0, 0, 0, 0, 255, 0]);
        assert!(!channels.has_output());
        channels.handle_input(&message(&[255, 1])).unwrap();
        assert_eq!(channels.read(1, &mut Vec::new()), Some(false));
        assert_eq!(channels.read(2, &mut Vec::new()), None);
    }

    #[test]
    fn a_full_channel_stops_reading_and_a_full_queue_takes_no_more() {
        let mut channels = Channels::new(true, false);
        assert_eq!(channels.write(0, &vec![0; SEND_LIMIT + 1]), Some(SEND_LIMIT));
        assert_eq!(channels.write(0, b"x"), Some(0));
        assert!(channels.wants_input());
        let mut wire = vec![0x82, 127];
        wire.extend_from_slice(&(RECEIVE_LIMIT as u64 + 2).to_be_bytes());
        wire.push(1);
        wire.extend(std::iter::repeat_n(0, RECEIVE_LIMIT + 1));
        channels.handle_input(&wire).unwrap();
        assert!(!channels.wants_input());
        let mut got = Vec::new();
        channels.read(1, &mut got);
        assert!(channels.wants_input() && got.len() == RECEIVE_LIMIT + 1);
    }
}
