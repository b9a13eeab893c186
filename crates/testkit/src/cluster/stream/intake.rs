//! What comes from the client on one connection: SPDY frames or channel messages, whatever carries them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::link::Link;
use super::spdy::{self, Frame};
use super::websocket::{self, Piece};
use super::{base64, faults::StreamFaults};
use crate::cluster::Shared;
use crate::wire::invalid;

/// Bytes asked for in one read.
const READ: usize = 64 << 10;
/// Largest message of a channel.
const MESSAGE_CAP: usize = 16 << 20;

/// Where bytes come from, with those that came together with the request.
pub(super) struct Wire<R> {
    pub(super) io: R,
    pub(super) early: Bytes,
}

/// Bytes from the client, counted and, when asked for, ignored for a while.
struct Source<R> {
    io: R,
    early: Bytes,
    shared: Arc<Shared>,
}

impl<R: AsyncRead + Unpin> Source<R> {
    /// Reads once; false at the client's end.
    async fn fill(&mut self, into: &mut BytesMut) -> io::Result<bool> {
        if into.capacity() - into.len() < READ / 4 {
            into.reserve(READ);
        }
        if !self.early.is_empty() {
            into.extend_from_slice(&std::mem::take(&mut self.early));
            return Ok(true);
        }
        let read = self.io.read_buf(into).await?;
        self.faults().counts.from_client.fetch_add(read as u64, Ordering::Relaxed);
        self.faults().spoken().await;
        Ok(read > 0)
    }

    fn faults(&self) -> &StreamFaults {
        &self.shared.faults.streams
    }
}

/// SPDY frames, from a raw connection or out of a tunnel.
pub(super) struct Frames<R> {
    source: Source<R>,
    tunnel: Option<(websocket::Decoder, BytesMut)>,
    spdy: spdy::Decoder,
    link: Arc<Link>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(wire: Wire<R>, shared: &Arc<Shared>, link: &Arc<Link>, tunnel: bool) -> Self {
        let tunnel = tunnel.then(|| (websocket::Decoder::default(), BytesMut::new()));
        let source = Source { io: wire.io, early: wire.early, shared: Arc::clone(shared) };
        Self { source, tunnel, spdy: spdy::Decoder::new(), link: Arc::clone(link) }
    }

    /// The next frame; `None` at the client's end. May be dropped and called again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.spdy.next()? {
                return Ok(Some(frame));
            }
            let Some((decoder, raw)) = &mut self.tunnel else {
                if !self.source.fill(self.spdy.buffer()).await? {
                    return Ok(None);
                }
                continue;
            };
            match decoder.next(raw)? {
                Some(Piece::Message { text: false, bytes, .. }) => self.spdy.feed(bytes),
                // A text has no place in a tunnel.
                Some(Piece::Message { text: true, .. }) => {
                    self.link.farewell(&1003u16.to_be_bytes());
                    return Ok(None);
                }
                Some(Piece::Ping(bytes)) => self.link.pong(&bytes),
                Some(Piece::Close(bytes)) => {
                    self.link.farewell(&bytes);
                    return Ok(None);
                }
                None if !self.source.fill(raw).await? => return Ok(None),
                None => {}
            }
        }
    }
}

/// Messages with a channel in front.
pub(super) struct Messages<R> {
    source: Source<R>,
    decoder: websocket::Decoder,
    raw: BytesMut,
    message: BytesMut,
    base64: bool,
    link: Arc<Link>,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    pub(super) fn new(wire: Wire<R>, shared: &Arc<Shared>, link: &Arc<Link>, base64: bool) -> Self {
        Self {
            source: Source { io: wire.io, early: wire.early, shared: Arc::clone(shared) },
            decoder: websocket::Decoder::default(),
            raw: BytesMut::new(),
            message: BytesMut::new(),
            base64,
            link: Arc::clone(link),
        }
    }

    /// The next message's channel and bytes; `None` at the client's end. Empty messages are ignored.
    pub(super) async fn next(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        loop {
            match self.decoder.next(&mut self.raw)? {
                Some(Piece::Message { bytes, last, .. }) => {
                    if self.message.is_empty() {
                        self.message = bytes;
                    } else {
                        self.message.extend_from_slice(&bytes);
                    }
                    if self.message.len() > MESSAGE_CAP {
                        return Err(invalid("a channel message is too large"));
                    }
                    if last && !self.message.is_empty() {
                        return self.open().map(Some);
                    }
                }
                Some(Piece::Ping(bytes)) => self.link.pong(&bytes),
                Some(Piece::Close(bytes)) => {
                    self.link.farewell(&bytes);
                    return Ok(None);
                }
                None if !self.source.fill(&mut self.raw).await? => return Ok(None),
                None => {}
            }
        }
    }

    fn open(&mut self) -> io::Result<(u8, Bytes)> {
        let mut message = std::mem::take(&mut self.message);
        let channel = message.get_u8();
        if !self.base64 {
            return Ok((channel, message.freeze()));
        }
        let bytes = base64::decode(&message).ok_or_else(|| invalid("a channel message is no base64"))?;
        Ok((channel.wrapping_sub(b'0'), bytes.into()))
    }
}
