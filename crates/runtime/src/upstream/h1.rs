//! HTTP/1.1 connections to a service, kept between requests.
//!
//! A connection has no task of its own: the request that uses it drives it, so that nothing is handed from
//! task to task on the way of a request. While it waits in the pool nobody looks at it; whether the service
//! has closed it meanwhile is found out when it is taken.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::listening::Listening;
use super::{BoxError, IDLE, IDLE_MAX};
use crate::Io;

/// Headers an answer may have; hyper's own bound is 100.
const HEADERS_MAX: usize = 200;

/// Idle connections to one service, the one used last on top.
pub struct Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    idle: Mutex<Vec<UpstreamConnection<B>>>,
    keep: Duration,
}

impl<B> Default for Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn default() -> Self {
        Self { idle: Mutex::default(), keep: IDLE }
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A pool that keeps connections for so long, at most [`IDLE`].
    #[must_use]
    pub fn keeping(keep: Duration) -> Self {
        Self { keep: keep.min(IDLE), ..Self::default() }
    }

    /// The connection used last, if it is still open.
    pub fn take(&self, now: Instant) -> Option<UpstreamConnection<B>> {
        loop {
            let mut connection = self.lock().pop()?;
            if connection.is_fresh(now, self.keep) && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub fn put(&self, mut connection: UpstreamConnection<B>, now: Instant) {
        if !connection.is_usable() {
            return;
        }
        connection.parked = now;
        let mut idle = self.lock();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    /// Drops connections that have waited too long or were closed by the service.
    pub fn sweep(&self, now: Instant) {
        let mut idle = std::mem::take(&mut *self.lock());
        idle.retain_mut(|connection| connection.is_fresh(now, self.keep) && connection.is_usable());
        if idle.is_empty() {
            return;
        }
        let mut now_idle = self.lock();
        // Those put meanwhile were used later: they stay on top.
        idle.append(&mut now_idle);
        let surplus = idle.len().saturating_sub(IDLE_MAX);
        idle.drain(..surplus);
        *now_idle = idle;
    }

    /// How many connections wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Vec<UpstreamConnection<B>>> {
        // Nothing in there can fail half-way.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection to a service. Whoever holds it drives it.
pub struct UpstreamConnection<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    sender: SendRequest<B>,
    driver: Driver<B>,
    parked: Instant,
}

impl<B> UpstreamConnection<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Speaks HTTP/1.1 on an open connection.
    ///
    /// # Errors
    /// What hyper says of the connection.
    pub async fn begin(io: Io) -> hyper::Result<Self> {
        let (sender, connection) =
            Builder::new().max_headers(HEADERS_MAX).handshake(TokioIo::new(Listening::new(io))).await?;
        let driver = Driver { connection: Some(Box::new(connection)), over: false, keep: false };
        Ok(Self { sender, driver, parked: Instant::now() })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// What hyper says of the connection.
    // No `async fn`, which would keep the request twice, in each request's future.
    pub fn send(&mut self, request: Request<B>) -> impl Future<Output = hyper::Result<Response<Incoming>>> {
        let Self { sender, driver, .. } = self;
        Driving { driver, work: sender.send_request(request) }
    }

    /// Drives the connection while `work` reads the answer.
    pub fn drive<F: Future>(&mut self, work: F) -> impl Future<Output = F::Output> {
        Driving { driver: &mut self.driver, work }
    }

    /// Moves the connection on, for whoever polls an answer's body by hand: before the body, and after it when the
    /// body had nothing.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) {
        self.driver.poll(cx);
    }

    /// Sends a request that asks for an upgrade; [`UpstreamConnection::into_upgraded`] may follow a 101.
    ///
    /// # Errors
    /// What hyper says of the connection.
    pub async fn send_upgrade(&mut self, request: Request<B>) -> hyper::Result<Response<Incoming>> {
        self.driver.keep = true;
        let response = self.send(request).await;
        if !response.as_ref().is_ok_and(|response| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
            self.driver.ends_as_usual();
        }
        response
    }

    /// After a 101: the bare connection, and what was read beyond the answer's head.
    ///
    /// # Errors
    /// What hyper says of the connection.
    pub async fn into_upgraded(self) -> hyper::Result<Option<(Io, Bytes)>> {
        let Driver { connection: Some(mut connection), over, .. } = self.driver else {
            return Ok(None);
        };
        if !over {
            std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
        }
        let parts = connection.into_parts();
        Ok(Some((parts.io.into_inner().into_inner(), parts.read_buf)))
    }

    fn is_fresh(&self, now: Instant, keep: Duration) -> bool {
        now.saturating_duration_since(self.parked) < keep
    }

    /// Whether another request can be sent. Looks at the socket without waiting.
    fn is_usable(&mut self) -> bool {
        self.driver.poll(&mut Context::from_waker(Waker::noop()));
        !self.driver.over && self.sender.is_ready()
    }
}

struct Driver<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    connection: Option<Box<Connection<TokioIo<Listening>, B>>>,
    over: bool,
    /// The connection is of use after hyper is done with it: it was upgraded.
    keep: bool,
}

impl<B> Driver<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.over) else {
            return;
        };
        // What went wrong is told to the request as well.
        if Pin::new(&mut **connection).poll(cx).is_ready() {
            self.over = true;
            if !self.keep {
                // Whoever waits for the request's body to end is told by its end.
                self.connection = None;
            }
        }
    }

    /// No upgrade came of it: the connection is like any other from now on.
    fn ends_as_usual(&mut self) {
        self.keep = false;
        if self.over {
            self.connection = None;
        }
    }
}

pin_project_lite::pin_project! {
    /// Something that waits for a connection, and drives it meanwhile.
    struct Driving<'a, B, F>
    where
        B: Body<Data = Bytes>,
        B: Send,
        B: Unpin,
        B: 'static,
        B::Error: Into<BoxError>,
    {
        driver: &'a mut Driver<B>,
        #[pin]
        work: F,
    }
}

impl<B, F> Future for Driving<'_, B, F>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    F: Future,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        // The connection first: it may have what the work waits for. Then the work; and the connection
        // again, for what the work has just handed it. Each wakes this task if there is more to do.
        this.driver.poll(cx);
        if let Poll::Ready(output) = this.work.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        this.driver.poll(cx);
        this.work.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    async fn pair() -> (UpstreamConnection<Empty<Bytes>>, DuplexStream) {
        let (near, far) = duplex(4096);
        (UpstreamConnection::begin(Io::other(near)).await.unwrap(), far)
    }

    fn get() -> Request<Empty<Bytes>> {
        Request::get("/").header("host", "a").body(Empty::new()).unwrap()
    }

    async fn read_head(far: &mut DuplexStream) -> String {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            got.push(far.read_u8().await.unwrap());
        }
        String::from_utf8(got).unwrap()
    }

    async fn exchange(connection: &mut UpstreamConnection<Empty<Bytes>>, far: &mut DuplexStream) -> Bytes {
        let serve = async {
            read_head(far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
        };
        let (response, ()) = tokio::join!(connection.send(get()), serve);
        let body = response.unwrap().into_body();
        connection.drive(body.collect()).await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_connection_is_used_again() {
        let (mut connection, mut far) = pair().await;
        let pool = Pool::<Empty<Bytes>>::default();
        for _ in 0..3 {
            assert_eq!(exchange(&mut connection, &mut far).await, "hello");
            pool.put(connection, Instant::now());
            connection = pool.take(Instant::now()).expect("it is ready at once");
        }
    }

    #[tokio::test]
    async fn a_connection_closed_while_it_waited_is_not_handed_out() {
        let (mut connection, mut far) = pair().await;
        exchange(&mut connection, &mut far).await;
        let pool = Pool::<Empty<Bytes>>::default();
        pool.put(connection, Instant::now());
        drop(far);
        assert!(pool.take(Instant::now()).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_waited_too_long_is_dropped() {
        let (mut connection, mut far) = pair().await;
        exchange(&mut connection, &mut far).await;
        let pool = Pool::<Empty<Bytes>>::default();
        let now = Instant::now();
        pool.put(connection, now);
        pool.sweep(now + IDLE / 2);
        assert_eq!(pool.len(), 1);
        pool.sweep(now + IDLE);
        assert_eq!(pool.len(), 0);
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "the service sees the end");
    }

    #[tokio::test]
    async fn the_connection_used_last_is_taken_first() {
        let pool = Pool::<Empty<Bytes>>::default();
        let mut fars = Vec::new();
        for _ in 0..2 {
            let (mut connection, mut far) = pair().await;
            exchange(&mut connection, &mut far).await;
            pool.put(connection, Instant::now());
            fars.push(far);
        }
        let mut taken = pool.take(Instant::now()).unwrap();
        assert_eq!(exchange(&mut taken, &mut fars[1]).await, "hello");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_to_its_end_leaves_nothing_to_use_again() {
        let (mut connection, mut far) = pair().await;
        let serve = async {
            read_head(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello").await.unwrap();
        };
        let (response, ()) = tokio::join!(connection.send(get()), serve);
        drop(response.unwrap());
        let pool = Pool::<Empty<Bytes>>::default();
        pool.put(connection, Instant::now());
        assert_eq!(pool.len(), 0);
    }

    #[tokio::test]
    async fn after_a_refused_upgrade_a_connection_is_like_any_other() {
        let (mut connection, mut far) = pair().await;
        let serve = async {
            read_head(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
        };
        let (response, ()) = tokio::join!(connection.send_upgrade(get()), serve);
        let body = response.unwrap().into_body();
        assert_eq!(connection.drive(body.collect()).await.unwrap().to_bytes(), "hello");
        assert_eq!(exchange(&mut connection, &mut far).await, "hello");
        drop(far);
        assert!(!connection.is_usable());
        assert!(connection.driver.connection.is_none(), "it is closed as soon as the service has closed it");
    }

    #[tokio::test]
    async fn after_an_upgrade_the_bare_connection_and_its_first_bytes_are_handed_out() {
        let (mut connection, mut far) = pair().await;
        let request = Request::get("/")
            .header("host", "a")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(Empty::new())
            .unwrap();
        let serve = async {
            read_head(&mut far).await;
            far.write_all(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst").await.unwrap();
        };
        let (response, ()) = tokio::join!(connection.send_upgrade(request), serve);
        assert_eq!(response.unwrap().status(), 101);
        let (mut io, first) = connection.into_upgraded().await.unwrap().unwrap();
        assert_eq!(first, "first");
        io.write_all(b"then").await.unwrap();
        let mut got = [0; 4];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"then");
    }
}
