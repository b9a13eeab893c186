//! A connection that speaks HTTP/1.1 or HTTP/2: each request is looked up by its host and path, and carried to its
//! route's upstream and back.
//!
//! On a request's way there is one task, the connection's own (HTTP/2: the stream's own): hyper's server polls the
//! answer's body, and that drives the connection to the upstream.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::cidr::Cidr;
use adit_core::head::{HeadGuard, HeadLimits};
use arc_swap::ArcSwap;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::Scope;
use runtime::executor::ScopeExecutor;
use runtime::guard::{Findings, GuardTimes, Guarded};
use runtime::peer::PeerWatch;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

mod body;
mod exchange;
mod forwarding;
mod guesses;
mod interim;
mod lookup;
mod problem;
mod request;
mod switch;
mod visit;

pub(crate) use body::RequestBody;
pub use lookup::{
    DynamicForm, ForwardEntry, Found, Listing, Lookup, PortRow, RouteEntry, ServiceListing, ServiceRow, ServicesAsked,
    State,
};
pub use problem::Word;
pub(crate) use problem::{Problem, seconds};

pub(crate) use visit::is_local_name;

use body::{AnswerBody, Busy};
use forwarding::ForwardingCache;
use guesses::Guesses;

/// Concurrent requests on one HTTP/2 connection.
const H2_STREAMS: u32 = 256;
/// Window of an HTTP/2 client's stream, in bytes; its connection has four times that.
const H2_WINDOW: u32 = 1024 * 1024;
/// What one answer may hold for an HTTP/2 client that does not take it; the library's own bound is 400 KiB.
const H2_SEND: usize = 64 * 1024;
/// Requests an HTTP/2 client may give up before it must have waited for as many.
const ABANDONED: u64 = 200;
/// Headers that hyper takes of its own accord.
const HYPER_HEADERS: usize = 100;
/// A body without a length may be a program's output, which comes when it comes; nobody holds a target for ever by one.
const BODY_PAUSE: Duration = Duration::from_secs(600);
/// How long a client far away that has ended its direction is waited for.
const HALF_CLOSED: Duration = Duration::from_secs(30);
/// A quiet HTTP/2 client is asked whether it is still there.
const H2_PING: Duration = Duration::from_secs(20);

/// How a connection came in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its other end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// What the client speaks.
    pub scheme: Scheme,
    /// The name it asked for in TLS.
    pub sni: Option<String>,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP without TLS.
    Http,
    /// HTTP in TLS that ended here.
    Https,
}

/// What all connections of a gateway share. A clone with another setting goes on with the same memory.
#[derive(Clone)]
pub struct Site {
    /// Which route a request is for.
    pub lookup: Arc<dyn Lookup>,
    /// Proxies whose word about the client counts.
    pub trusted_proxies: TrustedProxies,
    /// What a client's head may have.
    pub limits: HeadLimits,
    /// How long a client is waited for.
    pub times: SiteTimes,
    /// What has passed.
    pub counters: Arc<SiteCounters>,
    pub(crate) guesses: Arc<Guesses>,
    /// A connection ends with its first answer: the next one may be answered otherwise.
    pub(crate) once: bool,
}

impl Site {
    /// A site with the usual limits.
    #[must_use]
    pub fn new(lookup: Arc<dyn Lookup>) -> Self {
        Self {
            lookup,
            trusted_proxies: TrustedProxies::default(),
            limits: HeadLimits::default(),
            times: SiteTimes::default(),
            counters: Arc::default(),
            guesses: Arc::default(),
            once: false,
        }
    }
}

/// Proxies whose word about the client counts. A clone is the same list, so a change holds for connections that are there
/// already, with their next request.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<ArcSwap<Vec<Cidr>>>);

impl TrustedProxies {
    /// Believes these from now on, and no others.
    pub fn set(&self, proxies: Vec<Cidr>) {
        self.0.store(Arc::new(proxies));
    }

    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        self.0.load().iter().any(|proxy| proxy.contains(address))
    }
}

/// How long a client is waited for.
#[derive(Clone, Copy, Debug)]
pub struct SiteTimes {
    /// For a request's head.
    pub head: Duration,
    /// For the next request.
    pub idle: Duration,
    /// For the client to take something of what it is sent.
    pub unread: Duration,
    /// For the client to send the next kibibyte, or the rest, of a body whose length it announced.
    pub body: Duration,
    /// For the client to send the next byte of a body whose length it did not announce, unless it is gRPC.
    pub pause: Duration,
}

impl Default for SiteTimes {
    fn default() -> Self {
        // A program halted in a debugger takes nothing for a while and is none the worse for it.
        let (head, idle, unread) = (Duration::from_secs(10), Duration::from_secs(120), Duration::from_secs(3600));
        Self { head, idle, unread, body: Duration::from_secs(30), pause: BODY_PAUSE }
    }
}

/// What has passed through all connections.
#[derive(Debug, Default)]
pub struct SiteCounters {
    /// Requests.
    pub requests: AtomicU64,
    /// Bytes of bodies from clients.
    pub received: AtomicU64,
    /// Bytes of bodies to clients.
    pub sent: AtomicU64,
    errors: [AtomicU64; Word::ALL.len()],
}

impl SiteCounters {
    /// How often each error happened.
    pub fn errors(&self) -> impl Iterator<Item = (Word, u64)> {
        Word::ALL.into_iter().zip(self.errors.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    pub(crate) fn error(&self, word: Word) {
        if let Some(count) = self.errors.get(word as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Said to a client whose first head takes too long.
const SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves a connection to its end: HTTP/1.1, or HTTP/2 if it begins with the preface (after ALPN it does).
///
/// When `scope` drains, requests under way are finished and no more are taken; upgraded connections and long answers
/// live until it is cancelled.
pub async fn serve<S>(io: S, arrival: Arrival, site: Arc<Site>, scope: Scope)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let times = GuardTimes {
        head: site.times.head,
        idle: site.times.idle,
        unread: site.times.unread,
        half_closed: HALF_CLOSED,
    };
    let findings = Arc::new(Findings::new());
    let io = Guarded::new(io, HeadGuard::new(site.limits.clone()), Arc::clone(&findings), times);
    let mut io = io.watching(PeerWatch::between(arrival.local, arrival.peer));
    // A connection that has asked for nothing yet must not hold up a shutdown.
    let first = tokio::select! {
        // One that has asked is answered.
        biased;
        first = first_bytes_are_h2(&mut io) => first,
        () = scope.drained() => None,
    };
    let Some(h2) = first else { return };
    let connection = Arc::new(Connection::new(arrival, site, scope, findings));
    if h2 { serve_h2(io, connection).await } else { serve_h1(io, connection).await }
}

async fn serve_h1<S>(io: Guarded<S>, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let visited = Arc::clone(&connection);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let connection = Arc::clone(&visited);
        // A future has room for each of its functions' arguments: for a pointer there, not for the head.
        let request = Box::new(request);
        // hyper keeps room for a future as long as a connection lives; nearly all of them are idle.
        Box::pin(async move {
            let number = connection.requests.fetch_add(1, Ordering::Relaxed) + 1;
            Ok::<_, Infallible>(answer(connection, request, Some(number)).await)
        })
    });
    let limits = &connection.site.limits;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        // An end that hyper sees is a client's leaving, and cancels its request. The guard keeps the ends of those that
        // still wait for their answers.
        .half_close(false)
        // The guard sees to slow heads and idle connections, and tells the two apart.
        .header_read_timeout(None)
        .max_buf_size(limits.head_size.max(16 * 1024));
    // The guard counts them. hyper has room for its usual number on the stack, and for any other on the heap.
    if limits.headers > HYPER_HEADERS {
        builder.max_headers(limits.headers);
    }
    let serving = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        // What is under way first: a connection that has ended needs no more.
        biased;
        // Errors are the client's: it left, or broke HTTP.
        _ = &mut serving => {}
        () = connection.scope.drained() => {
            serving.as_mut().graceful_shutdown();
            let _ = connection.scope.until_cancelled(serving).await;
        }
    }
}

async fn serve_h2<S>(io: Guarded<S>, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let visited = Arc::clone(&connection);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let connection = Arc::clone(&visited);
        let request = Box::new(request);
        async move {
            connection.requests.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(answer(connection, request, None).await)
        }
    });
    let serving =
        hyper::server::conn::http2::Builder::new(ScopeExecutor::new(connection.scope.clone(), "gateway http/2 stream"))
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING)
            .max_concurrent_streams(H2_STREAMS)
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(H2_WINDOW * 4)
            .max_send_buf_size(H2_SEND)
            .max_header_list_size(u32::try_from(connection.site.limits.head_size).unwrap_or(64 * 1024))
            .serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        // What is under way first; a flood is counted as one though the gateway is ending anyway.
        biased;
        _ = &mut serving => return,
        () = connection.resets.notified() => connection.site.counters.error(Word::ResetFlood),
        () = connection.answered.notified() => {}
        () = connection.scope.drained() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = connection.scope.until_cancelled(serving).await;
}

async fn answer(
    connection: Arc<Connection>,
    request: Box<hyper::Request<Incoming>>,
    number: Option<u64>,
) -> hyper::Response<AnswerBody> {
    let mut busy = Busy::new(Arc::clone(&connection));
    let mut response = visit::visit(&connection, request, number).await;
    busy.answered();
    if number.is_some() {
        connection.findings.end_interim();
    }
    if connection.site.once {
        match number {
            Some(_) => drop(response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
            None => connection.answered.notify_one(),
        }
    }
    response.map(|body| body.keeping(busy))
}

/// One client's connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) arrival: Arrival,
    pub(crate) site: Arc<Site>,
    pub(crate) scope: Scope,
    pub(crate) forwarding: Mutex<ForwardingCache>,
    pub(crate) findings: Arc<Findings>,
    requests: AtomicU64,
    /// Requests the client did not wait for.
    abandoned: AtomicU64,
    /// There were too many of them.
    resets: Notify,
    /// It ends now; see [`Site::once`].
    answered: Notify,
}

impl Connection {
    fn new(arrival: Arrival, site: Arc<Site>, scope: Scope, findings: Arc<Findings>) -> Self {
        Self {
            arrival,
            site,
            scope,
            forwarding: Mutex::default(),
            findings,
            requests: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            resets: Notify::new(),
            answered: Notify::new(),
        }
    }

    /// Whether its other end is a proxy whose word about the client counts now.
    pub(crate) fn is_trusted(&self) -> bool {
        self.site.trusted_proxies.contain(self.arrival.peer.ip())
    }

    /// A request was given up before its answer: cheap for the client, dear for the target (S4).
    pub(crate) fn abandon(&self) {
        let abandoned = self.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
        if abandoned > ABANDONED && abandoned * 2 > self.requests.load(Ordering::Relaxed) {
            self.resets.notify_one();
        }
    }
}

/// Whether the client speaks HTTP/2 (RFC 9113 section 3.4); `None` when it left.
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
