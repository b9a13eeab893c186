//! What goes to the client on one connection: a queue that all streams fill and one writer empties.
//!
//! There is one queue and no window, as with `spdystream` over a kubelet: whatever lies in front of a stream's bytes
//! must be read first, and the client's reading alone sets the pace.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BufMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, futures::Notified};

use super::faults::{Counts, StreamFaults};
use super::spdy::{self, Control, Replies};
use super::websocket;
use crate::cluster::locked;

/// How much may wait for the writer. With the buffers of the sockets about 17 MB lie in front of the next byte.
const ROOM: usize = 8 << 20;
/// Bytes of one DATA frame to the client at most.
pub(super) const FRAME: usize = 32 << 10;
/// Messages of a tunnel that are written at once.
const BATCH: usize = 32;
/// A buffer that grew beyond this while a client did not read is given back.
const KEEP: usize = 1 << 20;

/// Code of a WebSocket that ends in order.
const NORMAL: u16 = 1000;

/// How bytes get onto the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As they are queued.
    Raw,
    /// Cut into WebSocket messages.
    Tunnel,
    /// As they are queued, which is in WebSocket messages already; a text one when the channel is in base64.
    Channels { base64: bool },
}

/// The queue.
pub(super) struct Link {
    framing: Framing,
    out: Mutex<Out>,
    work: Notify,
    room: Notify,
    cut: Notify,
    budget: AtomicU64,
    counts: Arc<Counts>,
}

struct Out {
    bytes: Vec<u8>,
    /// Complete WebSocket control frames, sent between messages.
    control: Vec<u8>,
    /// What the last WebSocket frame, the close, says.
    farewell: Vec<u8>,
    phase: Phase,
    replies: Replies,
    last_stream: u32,
    gone_away: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The writer closes when all is written.
    Finishing,
    Closed,
}

impl Link {
    pub(super) fn new(framing: Framing, faults: &StreamFaults) -> Arc<Self> {
        let out = Out {
            bytes: Vec::new(),
            control: Vec::new(),
            farewell: NORMAL.to_be_bytes().to_vec(),
            phase: Phase::Open,
            replies: Replies::new(),
            last_stream: 0,
            gone_away: false,
        };
        let link = Arc::new(Self {
            framing,
            out: Mutex::new(out),
            work: Notify::new(),
            room: Notify::new(),
            cut: Notify::new(),
            budget: AtomicU64::new(faults.budget()),
            counts: Arc::clone(&faults.counts),
        });
        faults.watch(&link);
        link
    }

    /// DATA of a stream, cut to frames.
    pub(super) fn data(&self, id: u32, bytes: &[u8], fin: bool) {
        self.push(|out| {
            let mut rest = bytes;
            loop {
                let (frame, after) = rest.split_at(rest.len().min(FRAME));
                rest = after;
                let last = rest.is_empty();
                out.bytes.extend_from_slice(&spdy::data_head(id, frame.len(), fin && last));
                out.bytes.extend_from_slice(frame);
                if last {
                    return;
                }
            }
        });
    }

    /// The empty SYN_REPLY every accepted stream gets.
    pub(super) fn reply(&self, id: u32) {
        self.push(|out| {
            out.last_stream = out.last_stream.max(id);
            // It compresses four zeros into memory.
            let _ = out.replies.write(&mut out.bytes, id);
        });
    }

    pub(super) fn reset(&self, id: u32, code: u32) {
        self.push(|out| spdy::control(&mut out.bytes, Control::Reset, &[id, code]));
    }

    pub(super) fn ping(&self, id: u32) {
        self.push(|out| spdy::control(&mut out.bytes, Control::Ping, &[id]));
    }

    /// Takes no new stream from now on, and says so.
    pub(super) fn go_away(&self) {
        if !matches!(self.framing, Framing::Channels { .. }) {
            self.push(|out| {
                out.gone_away = true;
                spdy::control(&mut out.bytes, Control::GoAway, &[out.last_stream, 0]);
            });
        }
    }

    pub(super) fn gone_away(&self) -> bool {
        locked(&self.out).gone_away
    }

    /// One message of a channel.
    pub(super) fn message(&self, channel: u8, bytes: &[u8]) {
        self.push(|out| match self.framing {
            Framing::Channels { base64: true } => {
                let text = super::base64::encode(bytes);
                websocket::head(&mut out.bytes, 0x81, 1 + text.len());
                out.bytes.push(b'0' + channel);
                out.bytes.extend_from_slice(text.as_bytes());
            }
            _ => {
                websocket::head(&mut out.bytes, 0x82, 1 + bytes.len());
                out.bytes.push(channel);
                out.bytes.extend_from_slice(bytes);
            }
        });
    }

    /// Answers a WebSocket ping.
    pub(super) fn pong(&self, payload: &[u8]) {
        self.push(|out| websocket::control(&mut out.control, 0xA, payload));
    }

    /// What the WebSocket's close will say instead of 1000.
    pub(super) fn farewell(&self, payload: &[u8]) {
        locked(&self.out).farewell = payload.to_vec();
    }

    /// Reads what `socket` has into one DATA frame, without a copy between; 0 is its end.
    pub(super) fn read_from(&self, id: u32, socket: &TcpStream) -> io::Result<usize> {
        let mut out = locked(&self.out);
        if out.phase != Phase::Open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let start = out.bytes.len();
        out.bytes.reserve(spdy::HEAD + FRAME);
        out.bytes.extend_from_slice(&[0; spdy::HEAD]);
        let read = socket.try_read_buf(&mut (&mut out.bytes).limit(FRAME));
        match read {
            Ok(length) if length > 0 => {
                let head = spdy::data_head(id, length, false);
                out.bytes[start..start + spdy::HEAD].copy_from_slice(&head);
                drop(out);
                self.work.notify_one();
            }
            _ => out.bytes.truncate(start),
        }
        read
    }

    /// Waits until more may be queued; an error when nothing will be sent any more.
    pub(super) async fn room(&self) -> io::Result<()> {
        loop {
            let mut notified = std::pin::pin!(self.room.notified());
            if self.roomy(None)? {
                return Ok(());
            }
            if self.roomy(Some(notified.as_mut()))? {
                return Ok(());
            }
            notified.await;
        }
    }

    fn roomy(&self, wait: Option<std::pin::Pin<&mut Notified<'_>>>) -> io::Result<bool> {
        if let Some(notified) = wait {
            notified.enable();
        }
        let out = locked(&self.out);
        match out.phase {
            Phase::Open => Ok(out.bytes.len() < ROOM),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Lets the writer close once all is written.
    pub(super) fn finish(&self) {
        let mut out = locked(&self.out);
        if out.phase == Phase::Open {
            out.phase = Phase::Finishing;
        }
        drop(out);
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Nothing is sent any more.
    pub(super) fn close(&self) {
        let mut out = locked(&self.out);
        out.phase = Phase::Closed;
        out.bytes = Vec::new();
        drop(out);
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Whether anything can still be sent.
    pub(super) fn is_open(&self) -> bool {
        locked(&self.out).phase == Phase::Open
    }

    /// Breaks the connection off.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }

    /// Waits for [`Link::cut`].
    pub(super) async fn broken(&self) {
        self.cut.notified().await;
    }

    fn push(&self, write: impl FnOnce(&mut Out)) {
        let mut out = locked(&self.out);
        if out.phase != Phase::Open {
            return;
        }
        write(&mut out);
        drop(out);
        self.work.notify_one();
    }

    /// Writes until the connection is finished. [`Link::close`] is for the caller.
    pub(super) async fn write<W: AsyncWrite + Unpin>(&self, io: &mut W, faults: &StreamFaults) -> io::Result<()> {
        let (mut bytes, mut control) = (Vec::new(), Vec::new());
        loop {
            let phase = self.take(&mut bytes, &mut control);
            if bytes.is_empty() && control.is_empty() {
                if phase == Phase::Open {
                    self.work.notified().await;
                    continue;
                }
                if self.framing != Framing::Raw {
                    let farewell = std::mem::take(&mut locked(&self.out).farewell);
                    websocket::control(&mut control, 0x8, &farewell);
                    io.write_all(&control).await?;
                }
                return io.shutdown().await;
            }
            faults.spoken().await;
            let whole = bytes.len() + control.len();
            let allowed = self.spend(whole);
            io.write_all(&control).await?;
            if allowed < whole {
                io.write_all(&bytes[..allowed.min(bytes.len())]).await?;
                io.flush().await?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            match self.framing {
                Framing::Tunnel => write_messages(io, &bytes).await?,
                Framing::Raw | Framing::Channels { .. } => io.write_all(&bytes).await?,
            }
            io.flush().await?;
        }
    }

    /// Swaps the queue for an empty one.
    fn take(&self, bytes: &mut Vec<u8>, control: &mut Vec<u8>) -> Phase {
        bytes.clear();
        control.clear();
        if bytes.capacity() > KEEP {
            *bytes = Vec::new();
        }
        let mut out = locked(&self.out);
        let full = out.bytes.len() >= ROOM;
        std::mem::swap(bytes, &mut out.bytes);
        std::mem::swap(control, &mut out.control);
        let phase = out.phase;
        drop(out);
        if full {
            self.room.notify_waiters();
        }
        phase
    }

    /// How much of so many bytes may be written before the connection is to break.
    fn spend(&self, length: usize) -> usize {
        self.counts.to_client.fetch_add(length as u64, Ordering::Relaxed);
        let before = self.budget.load(Ordering::Relaxed);
        if before == u64::MAX {
            return length;
        }
        // Only the writer counts it down.
        self.budget.store(before.saturating_sub(length as u64), Ordering::Relaxed);
        length.min(usize::try_from(before).unwrap_or(usize::MAX))
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("framing", &self.framing).finish_non_exhaustive()
    }
}

/// Cuts bytes into messages as the API server does: an empty first fragment, then the rest in one.
async fn write_messages<W: AsyncWrite + Unpin>(io: &mut W, bytes: &[u8]) -> io::Result<()> {
    let mut heads = Vec::with_capacity(BATCH * 8);
    for batch in bytes.chunks(BATCH * websocket::PIECE) {
        heads.clear();
        let mut ends = [0; BATCH];
        for (end, piece) in ends.iter_mut().zip(batch.chunks(websocket::PIECE)) {
            websocket::head(&mut heads, 0x02, 0);
            websocket::head(&mut heads, 0x80, piece.len());
            *end = heads.len();
        }
        let mut slices = Vec::with_capacity(BATCH * 2);
        let mut start = 0;
        for (end, piece) in ends.iter().zip(batch.chunks(websocket::PIECE)) {
            slices.push(IoSlice::new(&heads[start..*end]));
            slices.push(IoSlice::new(piece));
            start = *end;
        }
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let written = io.write_vectored(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
        }
    }
    Ok(())
}
