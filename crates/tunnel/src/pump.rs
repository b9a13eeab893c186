//! Byte pipes: a socket on one side, a stream on the other, each direction ending on its own.
//!
//! Nothing is buffered while a pipe is idle: a thread's scratch memory is read into, and only what was read
//! is kept until the stream or the socket takes it.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use mux::lane::StreamError;
use mux::{ErrorCode, Incoming};
use runtime::peer::PeerWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::Stream;
use crate::throttle::Throttle;

/// Read from a socket at once.
const SCRATCH: usize = 64 * 1024;
/// Chunks written to a socket at once.
const GATHER: usize = 8;
/// Bytes a turn and direction; then others have theirs. A pipe that took all it could would make an
/// interactive one wait for megabytes.
const BYTES_A_TURN: u64 = 128 * 1024;

/// How soon it is looked again whether all was sent to a peer that is to be told that the visitor has left.
const SENT_LOOK: std::time::Duration = std::time::Duration::from_millis(50);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Counts and bounds what passes.
#[derive(Clone, Default)]
pub(crate) struct Meter {
    /// Bytes from the socket to the stream.
    pub(crate) inward: Option<Arc<Throttle>>,
    /// Bytes from the stream to the socket.
    pub(crate) outward: Option<Arc<Throttle>>,
}

/// How a pipe ended.
#[derive(Debug)]
pub(crate) struct PumpEnd {
    /// Bytes from the socket to the stream.
    pub(crate) inward: u64,
    /// Bytes from the stream to the socket.
    pub(crate) outward: u64,
    /// What cut it short; `None` when both directions came to their end.
    pub(crate) cut: Option<Cut>,
}

/// What cut a pipe short.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The socket failed.
    Socket(io::Error),
    /// The stream was reset.
    Stream(ErrorCode),
}

/// A pipe between `io` and `stream`.
pub(crate) struct Pump<T> {
    io: T,
    stream: Stream,
    meter: Meter,
    inward: Direction,
    outward: Direction,
    pending: Vec<Bytes>,
    stream_ended: bool,
    /// Whether the socket's other end is still there once it has ended its half.
    watch: Option<Box<PeerWatch>>,
    /// Makes the socket's close a reset.
    reset: fn(&T),
}

const TAKEN_ONCE: &str = "it is taken only at its end";

/// A pipe at work; dropped in the middle, it is cut.
struct Running<T>(Option<Pump<T>>);

impl<T> Running<T> {
    const fn pump(&mut self) -> &mut Pump<T> {
        self.0.as_mut().expect(TAKEN_ONCE)
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if let Some(pump) = self.0.as_ref().filter(|pump| !pump.outward.done) {
            (pump.reset)(&pump.io);
        }
    }
}

#[derive(Default)]
struct Direction {
    bytes: u64,
    done: bool,
    delay: Option<Pin<Box<Sleep>>>,
}

impl Direction {
    /// Waits while the bandwidth quota is overdrawn.
    fn poll_delay(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(delay) = &mut self.delay {
            ready!(delay.as_mut().poll(cx));
            self.delay = None;
        }
        Poll::Ready(())
    }

    fn passed(&mut self, bytes: usize, throttle: Option<&Arc<Throttle>>) {
        self.bytes += bytes as u64;
        if let Some(throttle) = throttle {
            self.delay = throttle.charge(bytes).map(|wait| Box::pin(tokio::time::sleep(wait)));
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Pump<T> {
    /// A pipe that counts into `meter`.
    pub(crate) fn new(io: T, stream: Stream, meter: Meter) -> Self {
        Self {
            io,
            stream,
            meter,
            inward: Direction::default(),
            outward: Direction::default(),
            pending: Vec::new(),
            stream_ended: false,
            watch: None,
            reset: |_| (),
        }
    }

    /// The same; when it is cut, whether by the stream or by whoever drops it, the socket's other end is to see a reset by
    /// `reset`: it must not take what it has for the whole.
    pub(crate) const fn resetting(mut self, reset: fn(&T)) -> Self {
        self.reset = reset;
        self
    }

    /// The same; when the socket's other end has left altogether, and that can be known, so has the stream's.
    pub(crate) fn watching(mut self, watch: PeerWatch) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Carries bytes until both directions have ended, or one failed; gives the socket back.
    pub(crate) async fn run(self) -> (T, PumpEnd) {
        let mut running = Running(Some(self));
        let end = std::future::poll_fn(|cx| running.pump().poll(cx)).await;
        let pump = running.0.take().expect(TAKEN_ONCE);
        if matches!(end.cut, Some(Cut::Stream(_))) {
            (pump.reset)(&pump.io);
        }
        (pump.io, end)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PumpEnd> {
        let inward = if self.inward.done { Poll::Ready(Ok(())) } else { self.poll_inward(cx) };
        match inward {
            // Nobody wants what the socket has; what was sent to it before is still to arrive.
            Poll::Ready(Err(Cut::Stream(ErrorCode::Cancel))) if self.has_left() => self.inward.done = true,
            Poll::Ready(Err(cut)) => return Poll::Ready(self.cut_short(cut)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let outward = if self.outward.done { Poll::Ready(Ok(())) } else { self.poll_outward(cx) };
        match outward {
            Poll::Ready(Err(cut)) => Poll::Ready(self.cut_short(cut)),
            Poll::Ready(Ok(())) if self.inward.done => Poll::Ready(self.end(None)),
            _ => self.poll_left(cx),
        }
    }

    /// One direction is over, and nothing comes by the other: whoever ended it may have left altogether since.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<PumpEnd> {
        if self.outward.done
            && let Poll::Ready(code) = self.stream.poll_reset(cx)
        {
            let left = code == ErrorCode::Cancel && self.has_left();
            return Poll::Ready(if left { self.end(None) } else { self.cut_short(Cut::Stream(code)) });
        }
        if self.inward.done && self.watch.is_some() {
            ready!(self.inward.poll_delay(cx));
            ready!(self.watch.as_mut().map_or(Poll::Pending, |watch| watch.poll_gone(cx)));
            if self.stream.has_sent_all() {
                self.stream.reset(ErrorCode::Cancel);
                return Poll::Ready(self.end(None));
            }
            // A reset would take the place of what is not sent yet.
            let delay = self.inward.delay.insert(Box::pin(tokio::time::sleep(SENT_LOOK)));
            let _ = delay.as_mut().poll(cx);
        }
        Poll::Pending
    }

    /// Whether the stream's peer ended its direction in an orderly way, and then, having been reset, wants no answer.
    fn has_left(&self) -> bool {
        self.stream.has_ended()
    }

    /// One failure ends both directions; a failure of the socket is passed on to the stream.
    fn cut_short(&mut self, cut: Cut) -> PumpEnd {
        if matches!(cut, Cut::Socket(_)) {
            self.stream.reset(ErrorCode::Cancel);
        }
        self.end(Some(cut))
    }

    /// The socket → the stream.
    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let until = self.inward.bytes + BYTES_A_TURN;
        while self.inward.bytes < until {
            ready!(self.inward.poll_delay(cx));
            let room = ready!(self.stream.poll_capacity(cx)).map_err(cut)?;
            let chunk = ready!(poll_chunk(&mut self.io, cx, room)).map_err(Cut::Socket)?;
            let Some(mut chunk) = chunk else {
                let _ = self.stream.finish();
                self.inward.done = true;
                return Poll::Ready(Ok(()));
            };
            self.inward.passed(chunk.len(), self.meter.inward.as_ref());
            // The capacity asked for is still there: only this task sends on the stream.
            while !chunk.is_empty() {
                match self.stream.poll_send(cx, &mut chunk) {
                    Poll::Ready(result) => result.map_err(cut)?,
                    Poll::Pending => return Poll::Ready(Err(Cut::Stream(ErrorCode::Internal))),
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The stream → the socket.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let until = self.outward.bytes + BYTES_A_TURN;
        while self.outward.bytes < until {
            ready!(self.outward.poll_delay(cx));
            self.receive(cx)?;
            if self.pending.is_empty() {
                if !self.stream_ended {
                    return Poll::Pending;
                }
                ready!(Pin::new(&mut self.io).poll_shutdown(cx)).map_err(Cut::Socket)?;
                self.outward.done = true;
                return Poll::Ready(Ok(()));
            }
            let written = match self.poll_write(cx) {
                Poll::Ready(written) => written.map_err(Cut::Socket)?,
                // A socket that takes nothing must not hide that the stream is gone.
                Poll::Pending => {
                    let code = ready!(self.stream.poll_reset(cx));
                    // Whoever has left after all was said is no reason to lose that.
                    let left = code == ErrorCode::Cancel && self.has_left();
                    return if left { Poll::Pending } else { Poll::Ready(Err(Cut::Stream(code))) };
                }
            };
            self.outward.passed(written, self.meter.outward.as_ref());
            self.advance(written);
            if self.pending.is_empty() {
                // An idle pipe keeps no list.
                self.pending = Vec::new();
                ready!(Pin::new(&mut self.io).poll_flush(cx)).map_err(Cut::Socket)?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Collects what the stream has, up to one gathered write.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Cut> {
        while self.pending.len() < GATHER && !self.stream_ended {
            match self.stream.poll_recv(cx) {
                Poll::Ready(Ok(Incoming::Data(bytes))) => self.pending.push(bytes),
                Poll::Ready(Ok(Incoming::End)) => self.stream_ended = true,
                Poll::Ready(Ok(Incoming::Head(_))) => return Err(Cut::Stream(ErrorCode::Protocol)),
                // What arrived before a reset still goes out first.
                Poll::Ready(Err(error)) if self.pending.is_empty() => return Err(cut(error)),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let written = if let [one] = self.pending.as_slice() {
            ready!(Pin::new(&mut self.io).poll_write(cx, one))?
        } else {
            let mut slices = [IoSlice::new(&[]); GATHER];
            for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
                *slice = IoSlice::new(bytes);
            }
            let count = self.pending.len().min(GATHER);
            ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut written: usize) {
        let mut whole = 0;
        for bytes in &mut self.pending {
            let n = bytes.len().min(written);
            bytes.advance(n);
            written -= n;
            if !bytes.is_empty() {
                break;
            }
            whole += 1;
        }
        self.pending.drain(..whole);
    }

    fn end(&self, cut: Option<Cut>) -> PumpEnd {
        PumpEnd { inward: self.inward.bytes, outward: self.outward.bytes, cut }
    }
}

fn cut(error: StreamError) -> Cut {
    match error {
        StreamError::Reset(code) => Cut::Stream(code),
        StreamError::Closed => Cut::Stream(ErrorCode::Cancel),
    }
}

/// Reads what is there, at most `room`; `None` at the end.
fn poll_chunk<T: AsyncRead + Unpin>(io: &mut T, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Option<Bytes>>> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(SCRATCH, 0);
        let mut buf = ReadBuf::new(&mut buffer[..room.min(SCRATCH)]);
        ready!(Pin::new(io).poll_read(cx, &mut buf))?;
        let got = buf.filled();
        Poll::Ready(Ok((!got.is_empty()).then(|| Bytes::copy_from_slice(got))))
    })
}
