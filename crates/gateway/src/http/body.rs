//! Bodies on their way through: a client's to the upstream, an upstream's to the client.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HOST, HeaderMap,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use runtime::upstream::{SharedSender, UpstreamConnection};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;
use super::exchange::Flight;
use crate::upstream::Upstream;

/// A client must send so much of a body in the time it has for it.
const PIECE: usize = 1024;

/// A request's body.
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// What the client sends.
    Client(Upload),
}

/// A client's body on its way. Dropped untouched it goes back to where it came from, for another attempt.
pub(crate) struct Upload {
    body: Option<Incoming>,
    source: Arc<Source>,
    /// A body whose length was announced is owed; one without may pause for long, and gRPC's, a conversation, for ever.
    pace: Option<Pace>,
}

/// Where a request's body is while it is not under way.
pub(crate) struct Source {
    body: Mutex<Option<Incoming>>,
    touched: AtomicBool,
    broken: AtomicBool,
    /// The client sent it too slowly.
    slow: AtomicBool,
    /// The upstream would take more, and the client has sent no more so far.
    waiting: AtomicBool,
    /// It is a conversation.
    talks: bool,
    begun: Instant,
    /// When something of it was passed on last, in microseconds after `begun`.
    moved: AtomicU64,
    upstream: Arc<Upstream>,
    connection: Arc<Connection>,
}

impl Source {
    /// `talks`: it is a conversation, in which the client is silent for as long as it likes.
    pub(crate) fn new(body: Incoming, talks: bool, upstream: Arc<Upstream>, connection: Arc<Connection>) -> Arc<Self> {
        Arc::new(Self {
            body: Mutex::new(Some(body)),
            touched: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            talks,
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            upstream,
            connection,
        })
    }

    /// The body, for one attempt; empty when there is nothing left to send.
    pub(crate) fn take(self: &Arc<Self>) -> RequestBody {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        match body {
            Some(body) => {
                let times = &self.connection.site.times;
                let pace = match body.size_hint().exact() {
                    Some(_) => Some(Pace::new(PIECE, times.body)),
                    None => (!self.talks).then(|| Pace::new(1, times.pause)),
                };
                RequestBody::Client(Upload { body: Some(body), source: Arc::clone(self), pace })
            }
            None => RequestBody::Empty,
        }
    }

    /// Whether it is whole and here, so that the request can be sent once more.
    pub(crate) fn is_whole(&self) -> bool {
        !self.touched.load(Ordering::Acquire) && self.body.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Since when nothing of it was passed on though the client is not to blame: all of it has been, or the upstream
    /// takes no more. `None` while the client is waited for.
    pub(crate) fn still_since(&self) -> Option<Instant> {
        let moved = Duration::from_micros(self.moved.load(Ordering::Acquire));
        (!self.waiting.load(Ordering::Acquire)).then(|| self.begun + moved)
    }

    fn wait(&self) {
        self.waiting.store(true, Ordering::Release);
    }

    fn move_on(&self) {
        let after = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved.store(after, Ordering::Release);
        self.waiting.store(false, Ordering::Release);
    }

    /// Whether the client sent it too slowly.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
    }

    /// Whether the client's sending failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            self.source.wait();
            if let Some(pace) = &mut self.pace {
                std::task::ready!(pace.poll_overdue(cx));
                self.source.slow.store(true, Ordering::Release);
                return Poll::Ready(Some(Err(UploadError::Slow)));
            }
            return Poll::Pending;
        };
        self.source.move_on();
        self.source.touched.store(true, Ordering::Release);
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(pace) = &mut self.pace {
                        pace.sent(data.len());
                    }
                    self.source.upstream.counters().received.fetch_add(data.len() as u64, Ordering::Relaxed);
                    self.source.connection.site.counters.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(frame.into_trailers().ok().map(|trailers| Ok(Frame::trailers(harmless(trailers)))))
            }
            Some(Err(error)) => {
                self.source.broken.store(true, Ordering::Release);
                Poll::Ready(Some(Err(UploadError::Client(error))))
            }
            None => Poll::Ready(None),
        }
    }
}

/// Why a body came to no end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The client's connection failed, or what it sent was no body.
    #[error("the client's body was cut short")]
    Client(#[source] hyper::Error),
    /// The client sent it too slowly.
    #[error("the client's body came too slowly")]
    Slow,
}

/// Holds a client to sending a little at least, over the time it was waited for: while the upstream takes nothing,
/// nobody waits for the client (S11).
struct Pace {
    /// So many bytes in the time it has.
    piece: usize,
    limit: Duration,
    /// Sent of the piece that is due.
    sent: usize,
    /// How long that piece was waited for, before `since`.
    waited: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    const fn new(piece: usize, limit: Duration) -> Self {
        Self { piece, limit, sent: 0, waited: Duration::ZERO, since: None, timer: None }
    }

    fn sent(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.sent += bytes;
        if self.sent >= self.piece {
            (self.sent, self.waited) = (0, Duration::ZERO);
        }
    }

    /// Ready when the piece was waited for too long; called while the client has sent nothing more.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.limit.saturating_sub(self.waited);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            // A timer that is early is set anew; setting it at each piece would cost more.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            std::task::ready!(timer.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

/// Trailers without what is for heads alone (RFC 9110 section 6.5.1), above all what we say of the client (S10).
fn harmless(mut trailers: HeaderMap) -> HeaderMap {
    for name in adit_core::forwarded::NAMES {
        trailers.remove(name);
    }
    adit_core::forwarded::drop_lookalikes(&mut trailers);
    for name in [HOST, CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_RANGE, AUTHORIZATION, COOKIE] {
        trailers.remove(name);
    }
    trailers
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The client is not waited for any more.
        if self.source.still_since().is_none() {
            self.source.move_on();
        }
        if !self.source.touched.load(Ordering::Acquire) {
            *self.source.body.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(upload) => upload.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(upload) => upload.body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(upload) => upload.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint),
        }
    }
}

/// The body of an answer, which keeps its connection busy to its end.
pub(crate) struct AnswerBody {
    kind: Kind,
    _busy: Option<Busy>,
}

enum Kind {
    Own(Option<Bytes>),
    Upstream(Download),
}

/// What an answer comes by.
pub(crate) enum By {
    /// A connection of its own.
    Own(UpstreamConnection<RequestBody>),
    /// One that is shared, which drives itself.
    Shared {
        /// Held so that the connection does not pass for idle.
        _sender: SharedSender<RequestBody>,
    },
}

/// An upstream's body on its way. It drives the connection it comes by, and gives it back at its end; dropped before
/// that it closes it, which tells the upstream.
pub(crate) struct Download {
    body: Incoming,
    by: Option<By>,
    flight: Flight,
    /// What ended it early; told once what came before has had its chance to be sent on.
    failed: Option<hyper::Error>,
    over: bool,
}

impl AnswerBody {
    /// An answer of our own.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self { kind: Kind::Own((!bytes.is_empty()).then_some(bytes)), _busy: None }
    }

    /// An upstream's answer, and what it comes by.
    pub(crate) fn upstream(body: Incoming, by: By, flight: Flight) -> Self {
        let download = Download { body, by: Some(by), flight, failed: None, over: false };
        Self { kind: Kind::Upstream(download), _busy: None }
    }

    /// The same, keeping the client's connection busy.
    pub(crate) fn keeping(self, busy: Busy) -> Self {
        Self { _busy: Some(busy), ..self }
    }
}

impl Download {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.over {
            return Poll::Ready(self.failed.take().map(Err));
        }
        match std::task::ready!(self.poll_upstream(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.flight.sent(data.len());
                    return Poll::Ready(Some(Ok(frame)));
                }
                self.over = true;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.over = true;
                self.release();
                Poll::Ready(None)
            }
            // hyper drops what it has not flushed when a body fails, and flushes when one has nothing for it.
            Some(Err(error)) => {
                self.flight.cut_short(&error);
                (self.over, self.failed, self.by) = (true, Some(error), None);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// The connection first: it may have what the body waits for. Then the body; and once more, for what the body's
    /// taking has made room for.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(By::Own(connection)) = &mut self.by {
            connection.poll_drive(cx);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match &mut self.by {
            Some(By::Own(connection)) => {
                connection.poll_drive(cx);
                Pin::new(&mut self.body).poll_frame(cx)
            }
            Some(By::Shared { .. }) | None => Poll::Pending,
        }
    }

    fn is_end(&self) -> bool {
        self.failed.is_none() && (self.over || self.body.is_end_stream())
    }

    fn release(&mut self) {
        if let Some(By::Own(connection)) = self.by.take() {
            self.flight.upstream().park(connection);
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // hyper does not ask for the end of a body whose length it knows.
        if self.is_end() {
            self.release();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.kind {
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_none(),
            Kind::Upstream(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Upstream(body) => body.body.size_hint(),
        }
    }
}

/// A request under way: while there is one, its connection is not idle.
pub(crate) struct Busy {
    connection: Arc<Connection>,
    answered: bool,
}

impl Busy {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        connection.findings.begun();
        Self { connection, answered: false }
    }

    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.connection.findings.over();
        if !self.answered {
            self.connection.abandon();
        }
    }
}
