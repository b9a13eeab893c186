//! The handle of one stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use mux::lane::StreamError;
use mux::{ErrorCode, Incoming, Key};

use super::LaneShared;
use super::shared::Wakers;

/// Bytes after which a stream counts as bulk, so that new streams avoid its lane.
const BULK_AFTER: u64 = 1 << 20;

/// A stream of a lane. Its two directions may be used by two tasks. Dropping it cancels what is not over.
pub struct Stream {
    lane: Arc<LaneShared>,
    key: Key,
    carried: AtomicU64,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({}/{})", self.lane.number(), self.key.id())
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

impl Stream {
    pub(super) fn new(lane: Arc<LaneShared>, key: Key) -> Self {
        lane.count_stream(true);
        Self { lane, key, carried: AtomicU64::new(0) }
    }

    /// Receives the next thing.
    ///
    /// # Errors
    /// The stream was reset, or its lane is over; what had arrived before is handed out first.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<Result<Incoming, StreamError>> {
        let mut core = self.lane.lock();
        let item = core.machine.recv(std::time::Instant::now(), self.key)?;
        let Some(item) = item else {
            if core.over {
                return Poll::Ready(Err(StreamError::Reset(ErrorCode::Internal)));
            }
            if let Some(wakers) = core.machine.data_mut(self.key) {
                register(&mut wakers.read, cx);
            }
            return Poll::Pending;
        };
        // Reading may have made a Window due.
        let waker = core.nudge();
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Incoming::Data(bytes) = &item {
            self.count(bytes.len());
        }
        Poll::Ready(Ok(item))
    }

    /// Receives the next thing.
    ///
    /// # Errors
    /// As [`Stream::poll_recv`].
    pub async fn recv(&self) -> Result<Incoming, StreamError> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Waits until at least one byte may be sent; returns how many.
    ///
    /// # Errors
    /// The stream was reset or ended, or its lane is over.
    pub fn poll_capacity(&self, cx: &Context<'_>) -> Poll<Result<usize, StreamError>> {
        let mut core = self.lane.lock();
        if core.over {
            return Poll::Ready(Err(StreamError::Reset(ErrorCode::Internal)));
        }
        match core.machine.capacity(self.key)? {
            0 => {
                if let Some(wakers) = core.machine.data_mut(self.key) {
                    register(&mut wakers.write, cx);
                }
                Poll::Pending
            }
            n => Poll::Ready(Ok(n)),
        }
    }

    /// Sends as much of `chunk` as may be sent, at least one byte, off its front.
    ///
    /// # Errors
    /// As [`Stream::poll_capacity`].
    pub fn poll_send(&self, cx: &Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), StreamError>> {
        let mut core = self.lane.lock();
        if core.over {
            return Poll::Ready(Err(StreamError::Reset(ErrorCode::Internal)));
        }
        let sent = core.machine.send(std::time::Instant::now(), self.key, chunk)?;
        if sent == 0 && !chunk.is_empty() {
            if let Some(wakers) = core.machine.data_mut(self.key) {
                register(&mut wakers.write, cx);
            }
            return Poll::Pending;
        }
        let waker = core.nudge();
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.count(sent);
        Poll::Ready(Ok(()))
    }

    /// Sends all of `chunk`.
    ///
    /// # Errors
    /// As [`Stream::poll_capacity`].
    pub async fn send(&self, mut chunk: Bytes) -> Result<(), StreamError> {
        while !chunk.is_empty() {
            std::future::poll_fn(|cx| self.poll_send(cx, &mut chunk)).await?;
        }
        Ok(())
    }

    /// Sends a header block; `end` ends this side's direction with it.
    ///
    /// # Errors
    /// The stream was reset or ended.
    pub fn send_head(&self, block: Vec<u8>, end: bool) -> Result<(), StreamError> {
        self.lane.with(|lane, now| lane.send_head(now, self.key, block, end))
    }

    /// Ends this side's direction behind what is queued.
    ///
    /// # Errors
    /// The stream was reset.
    pub fn finish(&self) -> Result<(), StreamError> {
        self.lane.with(|lane, now| lane.finish(now, self.key))
    }

    /// Aborts the stream. Whoever waits on it through another handle is woken, and sees that it is closed.
    pub fn reset(&self, code: ErrorCode) {
        let mut core = self.lane.lock();
        let waiting = core.machine.data_mut(self.key).map(Wakers::take_all).unwrap_or_default();
        core.machine.reset(self.key, code);
        let task = core.nudge();
        drop(core);
        waiting.into_iter().flatten().chain(task).for_each(Waker::wake);
    }

    /// Whether the peer has ended its direction in an orderly way, however much of it waits to be read.
    pub fn has_ended(&self) -> bool {
        self.lane.lock().machine.has_ended(self.key)
    }

    /// Whether all of our direction was sent, and its end.
    pub fn has_sent_all(&self) -> bool {
        self.lane.lock().machine.has_sent_all(self.key)
    }

    /// Waits until the peer resets the stream or the lane is over.
    pub fn poll_reset(&self, cx: &Context<'_>) -> Poll<ErrorCode> {
        let mut core = self.lane.lock();
        if let Some(code) = core.machine.reset_by_peer(self.key) {
            return Poll::Ready(code);
        }
        if core.over {
            return Poll::Ready(ErrorCode::Internal);
        }
        if let Some(wakers) = core.machine.data_mut(self.key) {
            register(&mut wakers.reset, cx);
        }
        Poll::Pending
    }

    /// Waits until the peer resets the stream or the lane is over.
    pub async fn reset_by_peer(&self) -> ErrorCode {
        std::future::poll_fn(|cx| self.poll_reset(cx)).await
    }

    fn count(&self, bytes: usize) {
        let before = self.carried.fetch_add(bytes as u64, Ordering::Relaxed);
        if before < BULK_AFTER && before + bytes as u64 >= BULK_AFTER {
            self.lane.count_bulk(true);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.lane.with(|lane, _| lane.release(self.key));
        self.lane.count_stream(false);
        if self.carried.load(Ordering::Relaxed) >= BULK_AFTER {
            self.lane.count_bulk(false);
        }
    }
}
