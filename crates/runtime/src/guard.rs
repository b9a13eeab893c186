//! A client's socket behind a strict check of HTTP/1 request heads (S9), with time-outs hyper does not have; in front
//! of every hyper server of ours that strangers reach.
//!
//! hyper takes some heads that RFC 9112 section 6.3 calls an attack (Transfer-Encoding before Content-Length, say) and
//! mends them in silence. The guard sees the bytes first. A bad head is replaced by a harmless one, and the
//! fault is left for the service to find, so that the visitor gets a proper answer in the proper order.

mod half_closed;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use adit_core::head::{HeadFault, HeadGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use self::half_closed::HalfClosedPlace;
pub use self::half_closed::{HalfClosedPlaces, HalfClosedSource};
use crate::peer::PeerWatch;

/// What hyper is given in place of a bad head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: invalid\r\nconnection: close\r\n\r\n";
/// How long a visitor may take to notice that it need not send the rest.
const LINGER: Duration = Duration::from_secs(2);
/// Read from the socket at once.
const CHUNK: usize = 16 * 1024;
/// Bytes of interim answers that wait to be sent. They are hints: what does not fit is dropped.
const INTERIM_MAX: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the guard tells the service of its connection.
#[derive(Debug)]
pub struct Findings {
    fault: Mutex<Option<(u64, HeadFault)>>,
    faulty: AtomicBool,
    /// Requests whose answers are not over: the connection is not idle.
    busy: AtomicU32,
    since: Instant,
    /// When the last answer was over, in milliseconds after `since`.
    quiet_at: AtomicU64,
    /// Interim answers that wait to be sent; `None` while none may be.
    interim: Mutex<Option<Vec<u8>>>,
    /// Answers that are over.
    answered: AtomicU64,
    /// To be woken when one more is: the client has ended its direction, and only waits for answers.
    waiting: Mutex<Option<Waker>>,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            fault: Mutex::new(None),
            faulty: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            since: Instant::now(),
            quiet_at: AtomicU64::new(0),
            interim: Mutex::new(None),
            answered: AtomicU64::new(0),
            waiting: Mutex::new(None),
        }
    }
}

impl Findings {
    /// Findings of a connection that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request has begun; each is to be followed by [`Findings::over`].
    pub fn begun(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer of a request is over, body and all: hyper has it, though it need not have sent it yet.
    pub fn over(&self) {
        let at = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.quiet_at.store(at, Ordering::Relaxed);
        self.busy.fetch_sub(1, Ordering::Relaxed);
        self.answered.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// Has the task woken when an answer is over, or has been sent.
    fn wake_later(&self, cx: &Context<'_>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }

    fn wake(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// From now on interim answers (1xx) may be sent to the client of an HTTP/1.1 request. hyper's server cannot send
    /// any, so they go past it: the service calls this when hyper has given it a request, and then all earlier answers
    /// have left the service; before it gives hyper the answer it calls [`Findings::end_interim`].
    pub fn begin_interim(&self) {
        *self.interim() = Some(Vec::new());
    }

    /// Sends an interim answer, head and empty line, at the next moment at which hyper has nothing to send; drops it when
    /// none may be sent now, or when too many wait.
    pub fn add_interim(&self, head: &[u8]) {
        if let Some(waiting) = &mut *self.interim()
            && waiting.len() + head.len() <= INTERIM_MAX
        {
            waiting.extend_from_slice(head);
        }
    }

    /// The answer follows: an interim one that was not sent yet is dropped, as it would come too late.
    pub fn end_interim(&self) {
        *self.interim() = None;
    }

    fn take_interim(&self) -> Vec<u8> {
        self.interim().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn interim(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// When the last answer was over; at first, when the connection began.
    fn quiet_since(&self) -> Instant {
        self.since + Duration::from_millis(self.quiet_at.load(Ordering::Relaxed))
    }

    /// The fault of the connection's `request`th request, counted from 1.
    #[must_use]
    pub fn fault_of(&self, request: u64) -> Option<HeadFault> {
        if !self.faulty.load(Ordering::Acquire) {
            return None;
        }
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().filter(|(at, _)| *at == request).map(|(_, fault)| *fault)
    }

    fn note(&self, request: u64, fault: HeadFault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some((request, fault));
        self.faulty.store(true, Ordering::Release);
    }
}

/// Times a connection is given.
#[derive(Debug, Clone, Copy)]
pub struct GuardTimes {
    /// From a head's first byte to its end; for the first head, from the connection's start.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the client to take something of what it is sent.
    pub unread: Duration,
    /// A client far away that has ended its direction and one that has left look the same. Either is sent what there is
    /// to send; after so long without anything to send it counts as gone.
    pub half_closed: Duration,
}

/// A visitor's connection, guarded.
pub struct Guarded<S> {
    io: S,
    guard: HeadGuard,
    findings: Arc<Findings>,
    /// Checked bytes hyper has not read yet.
    ready: Vec<u8>,
    read: usize,
    closed: bool,
    /// Answers that are over and sent.
    flushed: u64,
    /// The client has ended its direction, while answers were owed to it.
    half_closed: Option<Box<HalfClosed>>,
    watch: Option<PeerWatch>,
    /// How many others of the same source may wait like this, if that is counted.
    source: Option<HalfClosedSource>,
    /// A bad head was found: nothing behind it is read any more.
    refused: bool,
    /// The body that is being read is malformed: its request must not end as a whole one.
    broken: bool,
    times: GuardTimes,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the head that is being read must be whole.
    head_by: Option<Instant>,
    /// When the connection was last used; idle time counts from there.
    used: Instant,
    /// Since when the visitor takes nothing of what it is sent.
    unread: Option<Instant>,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Interim answers that are being sent, from `interim_sent` on. Nothing else is written meanwhile.
    interim: Vec<u8>,
    interim_sent: usize,
    /// Nothing more is sent.
    shut: bool,
    linger_timer: Option<Pin<Box<Sleep>>>,
}

/// A client that has ended its direction.
struct HalfClosed {
    /// When it was last sent something; at first, when it ended its direction.
    sent: Instant,
    timer: Pin<Box<Sleep>>,
    _place: Option<HalfClosedPlace>,
}

impl<S> Guarded<S> {
    /// Guards `io` by the rules of `guard`.
    pub fn new(io: S, guard: HeadGuard, findings: Arc<Findings>, times: GuardTimes) -> Self {
        Self {
            io,
            guard,
            findings,
            ready: Vec::new(),
            read: 0,
            closed: false,
            flushed: 0,
            half_closed: None,
            watch: None,
            source: None,
            refused: false,
            broken: false,
            times,
            timer: None,
            head_by: None,
            used: Instant::now(),
            unread: None,
            write_timer: None,
            interim: Vec::new(),
            interim_sent: 0,
            shut: false,
            linger_timer: None,
        }
    }

    /// The connection underneath.
    pub const fn get_ref(&self) -> &S {
        &self.io
    }

    /// Looks by `watch` whether a client that has ended its direction is still there.
    #[must_use]
    pub fn watching(mut self, watch: PeerWatch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Counts this client among those of its source, once it has ended its direction; too many of them count as gone.
    #[must_use]
    pub fn counting(mut self, source: HalfClosedSource) -> Self {
        self.source = Some(source);
        self
    }

    /// The client has ended its direction. hyper takes an end for the client's leaving and drops the request, so an end
    /// behind a whole request is kept from it until the answer is sent, or the client is known to be gone.
    fn end(&mut self) {
        let whole = !(self.guard.is_upgraded() || self.guard.is_h2() || self.guard.mid_head() || self.guard.mid_body());
        let place = self.source.as_ref().filter(|_| whole).map(HalfClosedSource::take);
        if !whole || matches!(place, Some(None)) {
            self.closed = true;
            return;
        }
        let timer = Box::pin(tokio::time::sleep(self.times.half_closed));
        let sent = Instant::now();
        self.half_closed = Some(Box::new(HalfClosed { sent, timer, _place: place.flatten() }));
    }

    /// Ready when a client that has ended its direction is owed nothing more, or has left.
    fn poll_parted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Sent, not only over: hyper drops what it has not written yet when it sees an end.
        self.findings.wake_later(cx);
        if self.flushed >= self.guard.heads_passed() {
            return Poll::Ready(());
        }
        if let Some(watch) = &mut self.watch
            && watch.knows()
        {
            if watch.poll_gone(cx).is_ready() {
                return Poll::Ready(());
            }
            if watch.knows() {
                return Poll::Pending;
            }
        }
        let Some(half) = &mut self.half_closed else { return Poll::Ready(()) };
        if self.unread.is_some() {
            // There is something to send. How long it may take the client to take it is held to elsewhere.
            half.sent = Instant::now();
        }
        loop {
            ready!(half.timer.as_mut().poll(cx));
            let by = half.sent + self.times.half_closed;
            if half.timer.deadline() >= by {
                return Poll::Ready(());
            }
            half.timer.as_mut().reset(by);
        }
    }

    /// Takes fresh bytes through the guard.
    fn take(&mut self, input: &[u8]) {
        if let Err(fault) = self.guard.accept(input, &mut self.ready) {
            // A fault behind a head that was passed cuts the body short; there is no request to answer in its place.
            if !fault.in_body() {
                self.findings.note(self.guard.heads_passed() + 1, fault);
                self.ready.extend_from_slice(STAND_IN);
                self.refused = true;
            } else {
                self.findings.note(self.guard.heads_passed(), fault);
                self.closed = true;
                self.broken = true;
            }
        }
        let now = Instant::now();
        self.used = now;
        self.head_by = match (self.guard.mid_head(), self.head_by) {
            (true, None) => Some(now + self.times.head),
            (true, by) => by,
            (false, _) => None,
        };
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let left = &self.ready[self.read..];
        let n = left.len().min(buf.remaining());
        buf.put_slice(&left[..n]);
        self.read += n;
        if self.read == self.ready.len() {
            self.ready = Vec::new();
            self.read = 0;
        }
    }

    /// When the visitor's time is over, as things are now.
    fn due(&self) -> Instant {
        let quiet = self.findings.quiet_since();
        match self.head_by {
            Some(by) => by,
            // While a request is answered silence is no fault of the visitor's, and what is upgraded has no requests.
            None if self.guard.is_upgraded() || self.findings.is_busy() => Instant::now() + self.times.idle,
            // Pings and credit are no use of the connection.
            None if self.guard.is_h2() => quiet + self.times.idle,
            None if self.guard.heads_passed() == 0 => self.used + self.times.head.min(self.times.idle),
            None => self.used.max(quiet) + self.times.idle,
        }
    }

    /// Ready when the visitor has had its time: a slow head, or an idle connection.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let by = self.due();
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
            // A head that began may be due before the idle time the timer was set for.
            if timer.deadline() > by {
                timer.as_mut().reset(by);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= by {
                return Poll::Ready(());
            }
            timer.as_mut().reset(by);
        }
    }
}

impl<S> Guarded<S> {
    /// Passes a write's result on; a visitor who takes nothing for too long is given up.
    fn hold_to_reading<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.unread = None;
            if let Some(half) = &mut self.half_closed {
                half.sent = Instant::now();
            }
            return result;
        }
        let by = *self.unread.get_or_insert_with(Instant::now) + self.times.unread;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
        if timer.deadline() != by {
            timer.as_mut().reset(by);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Waits until the first head, or the HTTP/2 preface, is there; false when the visitor left before.
    ///
    /// # Errors
    /// When the connection failed, or the visitor's time was over ([`io::ErrorKind::TimedOut`]).
    pub async fn peek(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| {
            ready!(self.poll_checked(cx))?;
            Poll::Ready(Ok(!self.ready.is_empty()))
        })
        .await
    }

    /// Whether the visitor began with the HTTP/2 preface.
    pub fn is_h2(&self) -> bool {
        self.guard.is_h2()
    }

    /// A visitor who is still sending when all is said gets a moment to notice: closing a socket with unread bytes is a
    /// reset, and a reset takes the answer out of the visitor's hands.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.closed && (self.refused || self.guard.mid_body()) {
            let timer = self.linger_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
            // By the clock: to a visitor who sends without a pause the timer would never come to its turn.
            if timer.deadline() <= Instant::now() {
                self.closed = true;
                break;
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(CHUNK, 0);
                let mut chunk = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk))?;
                Poll::Ready(Ok::<_, io::Error>(chunk.filled().len()))
            });
            match read {
                Poll::Ready(Ok(0) | Err(_)) => self.closed = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    if let Some(timer) = &mut self.linger_timer {
                        ready!(timer.as_mut().poll(cx));
                    }
                    self.closed = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until checked bytes are there, or the visitor has ended its direction.
    fn poll_checked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ready.is_empty() && !self.closed {
            if self.refused {
                // Not an end, which counts as the visitor's leaving: the answer to the stand-in ends the connection.
                return Poll::Pending;
            }
            if self.half_closed.is_some() {
                ready!(self.poll_parted(cx));
                self.closed = true;
                break;
            }
            let got = BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(CHUNK, 0);
                let mut chunk = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk))?;
                match chunk.filled() {
                    [] => self.end(),
                    filled => self.take(filled),
                }
                Poll::Ready(Ok::<_, io::Error>(()))
            });
            match got {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    ready!(self.poll_overdue(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        if self.ready.is_empty() && self.broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_checked(cx))?;
        self.hand_out(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Sends the rest of the interim answers whose sending has begun.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.interim_sent < self.interim.len() {
            let result = Pin::new(&mut self.io).poll_write(cx, &self.interim[self.interim_sent..]);
            match ready!(self.hold_to_reading(cx, result))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.interim_sent += n,
            }
        }
        if self.interim_sent > 0 {
            (self.interim, self.interim_sent) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.hold_to_reading(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.hold_to_reading(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        // hyper flushes a socket only once all it had to send was written, so what went before is whole.
        self.interim = self.findings.take_interim();
        ready!(self.poll_interim(cx))?;
        let answered = self.findings.answered.load(Ordering::Acquire);
        let result = Pin::new(&mut self.io).poll_flush(cx);
        let result = self.hold_to_reading(cx, result);
        if matches!(result, Poll::Ready(Ok(()))) && answered > self.flushed {
            self.flushed = answered;
            self.findings.wake();
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.poll_interim(cx))?;
            // By TLS the end is something to send, too.
            let result = Pin::new(&mut self.io).poll_shutdown(cx);
            ready!(self.hold_to_reading(cx, result))?;
            self.shut = true;
        }
        self.poll_linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use adit_core::head::HeadLimits;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A client that takes nothing, not even the end.
    struct Deaf;

    impl AsyncRead for Deaf {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_take_the_end_of_its_connection_is_given_up() {
        let hour = Duration::from_secs(3600);
        let times = GuardTimes { head: hour, idle: hour, unread: Duration::from_millis(20), half_closed: hour };
        let guard = HeadGuard::new(HeadLimits::default());
        let mut guarded = Guarded::new(Deaf, guard, Arc::new(Findings::new()), times);
        let end = tokio::time::timeout(Duration::from_secs(10), guarded.shutdown()).await;
        assert_eq!(end.expect("it is given up").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// Takes all that is written, and ends after `input`.
    struct HalfOpen(&'static [u8]);

    impl AsyncRead for HalfOpen {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for HalfOpen {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn half_open(input: &'static [u8]) -> (Guarded<HalfOpen>, Arc<Findings>) {
        let hour = Duration::from_secs(3600);
        let times = GuardTimes { head: hour, idle: hour, unread: hour, half_closed: Duration::from_secs(30) };
        let findings = Arc::new(Findings::new());
        let guard = HeadGuard::new(HeadLimits::default());
        (Guarded::new(HalfOpen(input), guard, Arc::clone(&findings), times), findings)
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn of_a_client_far_away_that_ended_its_direction_the_end_is_told_after_thirty_quiet_seconds() {
        let (mut guarded, findings) = half_open(REQUEST);
        let mut head = [0; REQUEST.len()];
        guarded.read_exact(&mut head).await.unwrap();
        findings.begun();
        let begin = Instant::now();
        let early = tokio::time::timeout(Duration::from_secs(20), guarded.read(&mut head)).await;
        assert!(early.is_err(), "its request is under way");
        guarded.write_all(b"a piece").await.unwrap();
        assert_eq!(guarded.read(&mut head).await.unwrap(), 0);
        assert_eq!(begin.elapsed().as_secs(), 50, "after the last that it was sent");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_clients_direction_is_told_when_all_its_answers_are_sent() {
        let (mut guarded, findings) = half_open(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut heads = [0; 2 * REQUEST.len()];
        guarded.read_exact(&mut heads).await.unwrap();
        let begin = Instant::now();
        let answering = async {
            for _ in 0..2 {
                findings.begun();
                tokio::time::sleep(Duration::from_secs(1)).await;
                findings.over();
            }
        };
        answering.await;
        let early = tokio::time::timeout(Duration::from_secs(1), guarded.read(&mut heads)).await;
        assert!(early.is_err(), "what hyper holds of the last answer is not sent yet");
        guarded.flush().await.unwrap();
        assert_eq!((guarded.read(&mut heads).await.unwrap(), begin.elapsed().as_secs()), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_of_one_source_that_ended_their_direction_the_end_is_told_at_once() {
        let places = HalfClosedPlaces::new(1);
        let visit = || half_open(REQUEST).0.counting(places.of([192, 0, 2, 1].into()));
        let (mut first, mut second, mut head) = (visit(), visit(), [0; REQUEST.len()]);
        first.read_exact(&mut head).await.unwrap();
        let kept = tokio::time::timeout(Duration::from_secs(20), first.read(&mut head)).await;
        assert!(kept.is_err(), "its request is under way");
        let begin = Instant::now();
        second.read_exact(&mut head).await.unwrap();
        assert_eq!((second.read(&mut head).await.unwrap(), begin.elapsed()), (0, Duration::ZERO));
        drop(first);
        let mut third = visit();
        third.read_exact(&mut head).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(20), third.read(&mut head)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_in_the_middle_of_a_request_is_told_at_once() {
        for input in [&b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12"[..], b"GET / HTTP/1.1\r\nho"] {
            let (mut guarded, _) = half_open(input);
            let begin = Instant::now();
            let mut all = Vec::new();
            guarded.read_to_end(&mut all).await.unwrap();
            assert_eq!(begin.elapsed(), Duration::ZERO);
        }
    }
}
