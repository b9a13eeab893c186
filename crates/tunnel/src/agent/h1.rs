//! HTTP/1.1 connections to a local service, kept between requests.
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
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use runtime::Io;

use super::body::RequestBody;

/// Servers close idle connections after 60 seconds as a rule, some after 5; half of the former leaves a
/// margin, and the latter is noticed when the connection is taken.
const IDLE: Duration = Duration::from_secs(30);
/// Connections that wait per tunnel. More than that at once is a burst, whose connections are dropped.
const IDLE_MAX: usize = 128;
/// Headers an answer may have; hyper's own bound is 100.
const HEADERS_MAX: usize = 200;

/// Idle connections of one tunnel, the one used last on top.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<LocalConnection>>,
}

impl Pool {
    /// The connection used last, if it is still open.
    pub(super) fn take(&self, now: Instant) -> Option<LocalConnection> {
        loop {
            let mut connection = self.lock().pop()?;
            if connection.is_fresh(now) && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, mut connection: LocalConnection, now: Instant) {
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
    pub(super) fn sweep(&self, now: Instant) {
        let mut idle = std::mem::take(&mut *self.lock());
        idle.retain_mut(|connection| connection.is_fresh(now) && connection.is_usable());
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

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LocalConnection>> {
        // Nothing in there can fail half-way.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection to the local service.
pub(super) struct LocalConnection {
    sender: SendRequest<RequestBody>,
    driver: Driver,
    parked: Instant,
}

impl LocalConnection {
    /// Speaks HTTP/1.1 on an open connection.
    pub(super) async fn begin(io: Io) -> hyper::Result<Self> {
        let (sender, connection) = Builder::new().max_headers(HEADERS_MAX).handshake(TokioIo::new(io)).await?;
        let driver = Driver { connection: Some(Box::new(connection)), over: false, keep: false };
        Ok(Self { sender, driver, parked: Instant::now() })
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(&mut self, request: Request<RequestBody>) -> hyper::Result<Response<Incoming>> {
        let Self { sender, driver, .. } = self;
        driver.drive(sender.send_request(request)).await
    }

    /// Drives the connection while `work` reads the answer.
    pub(super) async fn drive<F: Future>(&mut self, work: F) -> F::Output {
        self.driver.drive(work).await
    }

    /// Sends a request that asks for an upgrade; [`LocalConnection::into_upgraded`] may follow a 101.
    pub(super) async fn send_upgrade(&mut self, request: Request<RequestBody>) -> hyper::Result<Response<Incoming>> {
        self.driver.keep = true;
        self.send(request).await
    }

    /// After a 101: the bare connection, and what was read beyond the answer's head.
    pub(super) async fn into_upgraded(self) -> hyper::Result<Option<(Io, Bytes)>> {
        let Driver { connection: Some(mut connection), over, .. } = self.driver else {
            return Ok(None);
        };
        if !over {
            std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
        }
        let parts = connection.into_parts();
        Ok(Some((parts.io.into_inner(), parts.read_buf)))
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.parked) < IDLE
    }

    /// Whether another request can be sent. Looks at the socket without waiting.
    fn is_usable(&mut self) -> bool {
        self.driver.poll(&mut Context::from_waker(Waker::noop()));
        !self.driver.over && self.sender.is_ready()
    }
}

struct Driver {
    connection: Option<Box<Connection<TokioIo<Io>, RequestBody>>>,
    over: bool,
    /// The connection is of use after hyper is done with it: it was upgraded.
    keep: bool,
}

impl Driver {
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

    async fn drive<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            // The connection first: it may have what the work waits for. Then the work; and the connection
            // again, for what the work has just handed it. Each wakes this task if there is more to do.
            self.poll(cx);
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            self.poll(cx);
            work.as_mut().poll(cx)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    async fn pair() -> (LocalConnection, DuplexStream) {
        let (near, far) = duplex(4096);
        (LocalConnection::begin(Io::other(near)).await.unwrap(), far)
    }

    fn get() -> Request<RequestBody> {
        Request::get("/").header("host", "a").body(RequestBody::Empty).unwrap()
    }

    async fn read_head(far: &mut DuplexStream) -> String {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            got.push(far.read_u8().await.unwrap());
        }
        String::from_utf8(got).unwrap()
    }

    async fn exchange(connection: &mut LocalConnection, far: &mut DuplexStream) -> Bytes {
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
        let pool = Pool::default();
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
        let pool = Pool::default();
        pool.put(connection, Instant::now());
        drop(far);
        assert!(pool.take(Instant::now()).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_waited_too_long_is_dropped() {
        let (mut connection, mut far) = pair().await;
        exchange(&mut connection, &mut far).await;
        let pool = Pool::default();
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
        let pool = Pool::default();
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
        let pool = Pool::default();
        pool.put(connection, Instant::now());
        assert_eq!(pool.len(), 0);
    }

    #[tokio::test]
    async fn after_an_upgrade_the_bare_connection_and_its_first_bytes_are_handed_out() {
        let (mut connection, mut far) = pair().await;
        let request = Request::get("/")
            .header("host", "a")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(RequestBody::Empty)
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
