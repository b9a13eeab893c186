//! A visitor's request body on its way to the local service.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mux::headers::AnswerHead;
use mux::lane::StreamError;
use mux::{ErrorCode, Incoming};
use tokio::sync::Notify;

use crate::Stream;
use crate::wire_http::{BodyError, read_headers};

/// What is known of a request's body when the request arrives.
#[derive(Clone)]
pub(super) enum Begin {
    /// There is none.
    Nothing,
    /// There is one; its first part may be here already.
    Body(Option<Incoming>),
}

impl Begin {
    /// Looks at what has arrived on a stream that was just opened.
    pub(super) fn look(stream: &Stream, cx: &Context<'_>) -> Result<Self, StreamError> {
        Ok(match stream.poll_recv(cx) {
            Poll::Pending => Self::Body(None),
            Poll::Ready(Ok(Incoming::End)) => Self::Nothing,
            Poll::Ready(Ok(first)) => Self::Body(Some(first)),
            Poll::Ready(Err(error)) => return Err(error),
        })
    }
}

/// How far a body has come; shared with whoever sends the answer.
#[derive(Debug, Default)]
pub(super) struct Progress {
    touched: AtomicBool,
    /// The number of the attempt to send the request, and in the two lowest bits what became of its body.
    state: AtomicU32,
    bytes: AtomicU64,
    changed: Notify,
}

const RUNNING: u32 = 0;
const WHOLE: u32 = 1;
const DROPPED: u32 = 2;
const STATE: u32 = 3;
const ATTEMPT: u32 = 4;

impl Progress {
    /// Whether any of the body was handed out, so that the request cannot be sent once more.
    pub(super) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Acquire)
    }

    /// Bytes handed out.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the body came to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.state.load(Ordering::Acquire) & STATE == WHOLE
    }

    /// Waits until the body is whole, or nobody wants the rest of it.
    pub(super) async fn over(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state.load(Ordering::Acquire) & STATE != RUNNING {
                return;
            }
            changed.await;
        }
    }

    /// The request is sent, perhaps once more. What becomes of the body of an earlier attempt, whenever that is
    /// dropped, says nothing of this one's.
    fn begin(&self) -> u32 {
        let attempt = (self.state.load(Ordering::Acquire) & !STATE).wrapping_add(ATTEMPT);
        self.state.store(attempt | RUNNING, Ordering::Release);
        attempt
    }

    fn is_running(&self, attempt: u32) -> bool {
        self.state.load(Ordering::Acquire) == attempt | RUNNING
    }

    fn set(&self, attempt: u32, state: u32) {
        let (from, to) = (attempt | RUNNING, attempt | state);
        if self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.changed.notify_waiters();
        }
    }
}

/// A request's body. Dropping it does not touch the stream: the answer may still be under way.
pub(super) enum RequestBody {
    /// No body.
    Empty,
    /// What the stream receives.
    Stream(Upload),
}

/// The receiving side of a stream, as a body.
pub(super) struct Upload {
    stream: Arc<Stream>,
    first: Option<Incoming>,
    announced: Option<u64>,
    progress: Arc<Progress>,
    attempt: u32,
    done: bool,
}

impl RequestBody {
    pub(super) fn new(begin: Begin, stream: &Arc<Stream>, announced: Option<u64>, progress: &Arc<Progress>) -> Self {
        match begin {
            Begin::Nothing => Self::Empty,
            Begin::Body(first) => Self::Stream(Upload {
                stream: Arc::clone(stream),
                first,
                announced,
                progress: Arc::clone(progress),
                attempt: progress.begin(),
                done: false,
            }),
        }
    }
}

impl Upload {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if !self.progress.is_running(self.attempt) {
            // The request was sent once more: what arrives belongs to that.
            return Poll::Ready(Some(Err(BodyError::Reset(ErrorCode::Cancel))));
        }
        let item = match self.first.take() {
            Some(item) => Ok(item),
            None => std::task::ready!(self.stream.poll_recv(cx)),
        };
        let end = match item {
            Ok(Incoming::Data(bytes)) => {
                self.progress.touched.store(true, Ordering::Release);
                self.progress.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if let Some(left) = &mut self.announced {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Ok(Incoming::End) => None,
            Ok(Incoming::Head(block)) => Some(trailers(block)),
            Err(error) => Some(Err(error.into())),
        };
        self.done = true;
        self.progress.touched.store(true, Ordering::Release);
        self.progress.set(self.attempt, if matches!(end, Some(Err(_))) { DROPPED } else { WHOLE });
        Poll::Ready(end)
    }
}

fn trailers(block: Bytes) -> Result<Frame<Bytes>, BodyError> {
    let head = AnswerHead::read(block).map_err(|_| BodyError::Protocol)?;
    if head.status != 0 {
        return Err(BodyError::Protocol);
    }
    read_headers(head.headers).map(Frame::trailers).map_err(|_| BodyError::Protocol)
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.set(self.attempt, DROPPED);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(upload) => upload.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(upload) => upload.done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(upload) => upload.announced.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// Reads what is left of a body that nobody wants, so that the visitor can finish sending it.
pub(super) async fn discard(stream: &Stream) -> Result<(), ErrorCode> {
    loop {
        match stream.recv().await {
            Ok(Incoming::End) => return Ok(()),
            Ok(Incoming::Data(_) | Incoming::Head(_)) => {}
            Err(StreamError::Reset(code)) => return Err(code),
            Err(StreamError::Closed) => return Err(ErrorCode::Cancel),
        }
    }
}
