//! The visitors' HTTP listener: plain or TLS, HTTP/1.1 or HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use adit_core::head::{HeadGuard, HeadLimits};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::executor::ScopeExecutor;
use runtime::guard::{Findings, GuardTimes, Guarded, HalfClosedPlaces};
use runtime::listener::ConnectionLimit;
use runtime::peer::PeerWatch;
use rustls::ServerConfig as TlsConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::state::State;
use super::visit::{AnswerBody, Visitor, visit};
use crate::wire_http::BodyError;

/// Concurrent requests on one HTTP/2 connection.
const H2_STREAMS: u32 = 256;
/// Window of an HTTP/2 visitor's stream and connection, in bytes.
const H2_WINDOW: u32 = 1024 * 1024;
/// What one answer may hold for an HTTP/2 visitor that does not take it; the library's own bound is 400 KiB.
const H2_SEND: usize = 64 * 1024;
/// Requests an HTTP/2 visitor may give up before it must have waited for as many.
const ABANDONED: u64 = 200;
/// How long a visitor far away that has ended its direction keeps a silent request: most such visitors have left, and the
/// request holds a place at the agent (S4).
const HALF_CLOSED: Duration = Duration::from_secs(5);
/// So many visitors of one source may wait like that; more of them have left as far as their requests are concerned.
const HALF_CLOSED_MOST: usize = 64;
/// A quiet HTTP/2 visitor is asked whether it is still there.
const H2_PING: Duration = Duration::from_secs(20);

/// What accepting visitors needs.
pub(super) struct PublicEntrance {
    pub(super) state: Arc<State>,
    pub(super) tls: Option<Arc<TlsConfig>>,
    pub(super) limit: ConnectionLimit,
    pub(super) half_closed: Arc<HalfClosedPlaces>,
}

/// Said to a visitor when every connection is taken; there is no room to parse what it asks.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 41\r\n\r\nthe server has all its connections in use";

impl PublicEntrance {
    /// Places for those of one server that have ended their direction.
    pub(super) fn half_closed() -> Arc<HalfClosedPlaces> {
        HalfClosedPlaces::new(HALF_CLOSED_MOST)
    }

    /// Takes one connection; everything that waits happens in a task of its own (S1).
    pub(super) fn accept(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr) {
        let Some(permit) = self.limit.try_acquire() else {
            self.state.metrics.error("connections_limit", "public");
            let _ = tcp.try_write(FULL);
            return;
        };
        let entrance = Arc::clone(self);
        self.state.scope.spawn("visitor", async move {
            entrance.state.metrics.visitors.inc();
            entrance.serve(tcp, peer).await;
            entrance.state.metrics.visitors.dec();
            drop(permit);
        });
    }

    async fn serve(&self, tcp: TcpStream, peer: SocketAddr) {
        let entrance = tcp.local_addr().ok();
        let visitor = Visitor { peer, entrance, tls: self.tls.is_some(), sni: None };
        let Some(tls) = &self.tls else {
            return self.serve_http(tcp, visitor, false).await;
        };
        let patience = self.state.config.load().limits.tls_timeout;
        let accepted = tokio::select! {
            accepted = runtime::tls::accept(tls, tcp, patience) => accepted,
            () = self.state.scope.drained() => return,
        };
        match accepted {
            Ok(stream) => {
                let connection = stream.get_ref().1;
                let sni = connection.server_name().map(str::to_ascii_lowercase);
                let h2 = connection.alpn_protocol() == Some(b"h2");
                self.serve_http(stream, Visitor { sni, ..visitor }, h2).await;
            }
            Err(_) => self.state.metrics.error("tls", "public"),
        }
    }

    async fn serve_http<S>(&self, io: S, visitor: Visitor, alpn_h2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = self.state.config.load_full();
        let limits =
            HeadLimits { head_size: config.limits.head_size, headers: config.limits.headers, ..HeadLimits::default() };
        let times = GuardTimes {
            head: config.limits.header_timeout,
            idle: config.limits.idle_timeout,
            unread: config.limits.idle_timeout,
            half_closed: HALF_CLOSED,
        };
        let findings = Arc::new(Findings::new());
        let mut io = Guarded::new(io, HeadGuard::new(limits), Arc::clone(&findings), times);
        if let Some(entrance) = visitor.entrance {
            io = io.watching(PeerWatch::between(entrance, visitor.peer));
        }
        // Behind a proxy all visitors have its address.
        if !config.is_trusted_proxy(visitor.peer.ip()) {
            io = io.counting(self.half_closed.of(visitor.peer.ip()));
        }
        let h2 = alpn_h2 || {
            // A connection that has asked for nothing yet must not hold up a shutdown.
            let first = tokio::select! {
                first = first_bytes_are_h2(&mut io) => first,
                () = self.state.scope.drained() => None,
            };
            match first {
                Some(h2) => h2,
                None => return,
            }
        };
        let connection = Connection::new(visitor, findings);
        if h2 { self.serve_h2(io, connection).await } else { self.serve_h1(io, connection).await }
    }

    async fn serve_h1<S>(&self, io: Guarded<S>, connection: Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (state, connection) = (Arc::clone(&state), Arc::clone(&connection));
            async move {
                let number = connection.requests.fetch_add(1, Ordering::Relaxed) + 1;
                let mut busy = Busy::new(&connection);
                let fault = || connection.findings.fault_of(number);
                let response = visit(&state, &connection.visitor, request, &fault).await;
                busy.answered = true;
                Ok::<_, Infallible>(response.map(|body| Counted { body, _busy: busy }))
            }
        });
        let config = self.state.config.load();
        let serving = hyper::server::conn::http1::Builder::new()
            // An end that hyper sees is a visitor's leaving, and cancels its request. The guard keeps the ends of those
            // who still wait for their answers. No `pipeline_flush` either: with it hyper buffers a whole answer for a visitor who does not read.
            .half_close(false)
            // The guard sees to slow heads and idle connections, and tells the two apart.
            .header_read_timeout(None)
            .max_buf_size(config.limits.head_size.max(16 * 1024))
            .max_headers(config.limits.headers + 1)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        drop(config);
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            // Errors are the visitor's: it left, or broke HTTP.
            _ = &mut serving => {}
            () = self.state.scope.drained() => {
                serving.as_mut().graceful_shutdown();
                let _ = self.state.scope.until_cancelled(serving).await;
            }
        }
    }

    async fn serve_h2<S>(&self, io: Guarded<S>, connection: Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let visitor = Arc::clone(&connection);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (state, connection) = (Arc::clone(&state), Arc::clone(&connection));
            async move {
                connection.requests.fetch_add(1, Ordering::Relaxed);
                let mut busy = Busy::new(&connection);
                let response = visit(&state, &connection.visitor, request, &|| None).await;
                busy.answered = true;
                Ok::<_, Infallible>(response.map(|body| Counted { body, _busy: busy }))
            }
        });
        let config = self.state.config.load();
        let serving =
            hyper::server::conn::http2::Builder::new(ScopeExecutor::new(self.state.scope.clone(), "visitor-h2"))
                .timer(TokioTimer::new())
                .keep_alive_interval(H2_PING)
                .keep_alive_timeout(H2_PING)
                .max_concurrent_streams(H2_STREAMS)
                .initial_stream_window_size(H2_WINDOW)
                .initial_connection_window_size(H2_WINDOW * 4)
                .max_send_buf_size(H2_SEND)
                .max_header_list_size(u32::try_from(config.limits.head_size).unwrap_or(64 * 1024))
                .serve_connection(TokioIo::new(io), service);
        drop(config);
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            _ = &mut serving => {}
            () = visitor.resets.notified() => {
                self.state.metrics.error("reset_flood", "public");
                serving.as_mut().graceful_shutdown();
                let _ = self.state.scope.until_cancelled(serving).await;
            }
            () = self.state.scope.drained() => {
                serving.as_mut().graceful_shutdown();
                let _ = self.state.scope.until_cancelled(serving).await;
            }
        }
    }
}

/// One visitor's connection, as its requests see it.
struct Connection {
    visitor: Visitor,
    findings: Arc<Findings>,
    requests: AtomicU64,
    /// Requests the visitor did not wait for.
    abandoned: AtomicU64,
    /// There were too many of them.
    resets: Notify,
}

impl Connection {
    fn new(visitor: Visitor, findings: Arc<Findings>) -> Arc<Self> {
        let (requests, abandoned) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { visitor, findings, requests, abandoned, resets: Notify::new() })
    }

    /// A request was given up before its answer: cheap for the visitor, dear for the agent and the service (S4).
    fn abandon(&self) {
        let abandoned = self.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
        if abandoned > ABANDONED && abandoned * 2 > self.requests.load(Ordering::Relaxed) {
            self.resets.notify_one();
        }
    }
}

/// A request under way: while there is one, its connection is not idle.
struct Busy {
    connection: Arc<Connection>,
    answered: bool,
}

impl Busy {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.findings.begun();
        Self { connection: Arc::clone(connection), answered: false }
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

/// An answer's body that keeps its connection busy to its end.
struct Counted {
    body: AnswerBody,
    _busy: Busy,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the visitor speaks HTTP/2 by prior knowledge (RFC 9113 section 3.4); `None` when it left.
async fn first_bytes_are_h2<S: AsyncRead + AsyncWrite + Unpin>(io: &mut Guarded<S>) -> Option<bool> {
    match io.peek().await {
        Ok(true) => Some(io.is_h2()),
        Ok(false) => None,
        Err(error) => {
            if error.kind() == std::io::ErrorKind::TimedOut {
                let _ = io.write_all(SLOW).await;
            }
            None
        }
    }
}

/// Said to a visitor whose first head takes too long.
const SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
