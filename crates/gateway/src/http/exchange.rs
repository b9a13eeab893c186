//! A request and its answer on a connection to the upstream: which connection, and when it is tried once more.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use runtime::upstream::{H2Fault, UpstreamConnection, h2};
use tokio::time::Instant;

use super::body::{By, RequestBody, Source};
use super::{Connection, Problem, Word};
use crate::upstream::Upstream;

/// A head of an answer, and what its body comes by.
pub(crate) type Answered = (Response<Incoming>, By);

/// Of the first line of a head: the version, two blanks, a status of three digits or as much, and the end.
const LINE: usize = 12;

/// The size of headers as HTTP/1.1 writes them, with the empty line.
fn size(headers: &http::HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + 2
}

/// A request under way to an upstream, counted.
pub(crate) struct Flight {
    upstream: Arc<Upstream>,
    connection: Arc<Connection>,
}

impl Flight {
    pub(crate) fn new(upstream: &Arc<Upstream>, connection: &Arc<Connection>) -> Self {
        let counters = upstream.counters();
        counters.requests.fetch_add(1, Ordering::Relaxed);
        counters.active.fetch_add(1, Ordering::Relaxed);
        Self { upstream: Arc::clone(upstream), connection: Arc::clone(connection) }
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The head of the request goes to the upstream. A route's bytes are those that cross, so heads are among them: as
    /// HTTP/1.1 writes them, whatever the version.
    pub(crate) fn asked(&self, head: &Parts) {
        let line = head.method.as_str().len() + head.uri.path_and_query().map_or(1, |path| path.as_str().len()) + LINE;
        self.upstream.counters().received.fetch_add((line + size(&head.headers)) as u64, Ordering::Relaxed);
    }

    /// The head of the answer has come from it.
    pub(crate) fn answered(&self, head: &http::response::Parts) {
        let line = head.status.canonical_reason().map_or(0, str::len) + LINE;
        self.upstream.counters().sent.fetch_add((line + size(&head.headers)) as u64, Ordering::Relaxed);
    }

    /// Bytes of an answer have passed.
    pub(crate) fn sent(&self, bytes: usize) {
        self.upstream.counters().sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.connection.site.counters.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes from the client have passed.
    pub(crate) fn received(&self, bytes: u64) {
        self.upstream.counters().received.fetch_add(bytes, Ordering::Relaxed);
        self.connection.site.counters.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An answer ended before its end.
    pub(crate) fn cut_short(&self, error: &hyper::Error) {
        self.connection.site.counters.error(Word::Truncated);
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let is_end = io_cause(error).map_or(error.is_incomplete_message() || error.is_closed(), |io| {
            matches!(io.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
        });
        self.upstream.note_error(if is_end {
            "the service ended the connection before its answer was whole".to_owned()
        } else {
            format!("an answer was cut short: {}", adit_core::diagnose::chain(error))
        });
        tracing::debug!(route = %self.upstream.name(), error = %adit_core::diagnose::chain(error), "an answer was cut short");
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.upstream.counters().active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long one attempt at the head of an answer may take. Connecting, and starting what is connected to, are a part of it.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    limit: Option<Duration>,
    begun: Instant,
}

impl Patience {
    /// The route's, from now on.
    pub(crate) fn of(upstream: &Upstream) -> Self {
        Self { limit: upstream.timeout, begun: Instant::now() }
    }

    /// Waits for what comes before a request can be sent. What it waits for with others goes on without it.
    pub(crate) async fn reach<T>(self, upstream: &Upstream, way: impl Future<Output = T>) -> Result<T, Problem> {
        let Some(limit) = self.limit else { return Ok(way.await) };
        let reached = tokio::time::timeout_at(self.begun + limit, way).await;
        reached.map_err(|_| Problem::Unreached { target: upstream.target(), after: limit })
    }
}

/// Sends a request by HTTP/1.1: by a kept connection if there is one; if that turns out to be dead, once more by a
/// new one.
pub(crate) async fn over_h1(
    upstream: &Arc<Upstream>,
    head: Box<Parts>,
    source: Option<&Arc<Source>>,
    patience: Patience,
) -> Result<Answered, Problem> {
    let (mut head, mut patience) = (head, patience);
    let mut repeated = false;
    let method = head.method.clone();
    if let Some(mut connection) = upstream.kept() {
        // Whatever the method: of a dead connection it may be known that nothing was sent.
        let again = head.clone();
        let answer = {
            let sending = pin!(connection.send(request(head, source)));
            answer_head(patience, source, sending).await
        };
        match answer {
            Ok(response) => return Ok((response, By::Own(connection))),
            Err(Fault::Hyper(error)) if may_repeat(&method, source, &error) => {
                drop(connection);
                (head, patience, repeated) = (again, Patience::of(upstream), true);
            }
            Err(fault) => return Err(fault.problem(source, upstream)),
        }
    }
    // Once more is all: each time may take as long as the route allows.
    let mut spare = (!repeated).then(|| head.clone());
    loop {
        // A statement of its own: what is moved into the box would else stay part of this future.
        let connecting = Box::pin(patience.reach(upstream, connect(upstream)));
        let mut connection = connecting.await??;
        let answer = {
            let sending = pin!(connection.send(request(head, source)));
            answer_head(patience, source, sending).await
        };
        match answer {
            Ok(response) => return Ok((response, By::Own(connection))),
            // The way to the service was found to be dead, which says nothing of the service; there is another by now.
            Err(Fault::Hyper(error)) if is_way_lost(&error) && may_repeat(&method, source, &error) => {
                match spare.take() {
                    Some(copy) => (head, patience) = (copy, Patience::of(upstream)),
                    None => return Err(Fault::Hyper(error).problem(source, upstream)),
                }
            }
            Err(fault) => return Err(fault.problem(source, upstream)),
        }
    }
}

/// Sends a request by the shared HTTP/2 connection; once more by a new one if that turns out to be dead.
pub(crate) async fn over_h2(
    upstream: &Arc<Upstream>,
    head: Box<Parts>,
    source: Option<&Arc<Source>>,
    patience: Patience,
) -> Result<Answered, Problem> {
    let (mut again, mut patience) = (true, patience);
    loop {
        let connecting = Box::pin(patience.reach(upstream, upstream.h2.sender(&**upstream)));
        let (mut sender, reused) = connecting.await?.map_err(|fault| h2_problem(&fault, upstream))?;
        let head = head.clone();
        let method = head.method.clone();
        let answer = {
            let sending = pin!(async {
                sender.ready().await?;
                sender.send_request(request(head, source)).await
            });
            answer_head(patience, source, sending).await
        };
        match answer {
            Ok(response) => return Ok((response, By::Shared { _sender: sender })),
            Err(Fault::Hyper(error)) if again && may_repeat_h2(&method, source, &error, reused) => {
                (again, patience) = (false, Patience::of(upstream));
                upstream.h2.forget(&sender, &error);
            }
            Err(fault) => {
                if let Fault::Hyper(error) = &fault
                    && !reused
                {
                    upstream.h2.doubt(&sender, error);
                }
                return Err(fault.problem(source, upstream));
            }
        }
    }
}

/// Sends a request for an upgrade, which has a connection of its own.
pub(crate) async fn upgrade(
    upstream: &Arc<Upstream>,
    head: Box<Parts>,
) -> Result<(Response<Incoming>, UpstreamConnection<RequestBody>), Problem> {
    let patience = Patience::of(upstream);
    let mut connection = patience.reach(upstream, connect(upstream)).await??;
    let answer = {
        let sending = pin!(connection.send_upgrade(request(head, None)));
        answer_head(patience, None, sending).await
    };
    match answer {
        Ok(response) => Ok((response, connection)),
        Err(fault) => Err(fault.problem(None, upstream)),
    }
}

async fn connect(upstream: &Arc<Upstream>) -> Result<UpstreamConnection<RequestBody>, Problem> {
    let io = upstream.connect().await.map_err(|error| Problem::of_connect(&error, upstream.terminates))?;
    UpstreamConnection::begin(io).await.map_err(|error| Fault::Hyper(error).problem(None, upstream))
}

fn request(head: Box<Parts>, source: Option<&Arc<Source>>) -> Request<RequestBody> {
    Request::from_parts(*head, source.map_or(RequestBody::Empty, Source::take))
}

/// Waits for the head of the answer, as long as the route allows. The time in which the client is waited for, with the
/// rest of the request's body, does not count: the upstream can do nothing about it.
async fn answer_head(
    patience: Patience,
    source: Option<&Arc<Source>>,
    answer: Pin<&mut impl Future<Output = hyper::Result<Response<Incoming>>>>,
) -> Result<Response<Incoming>, Fault> {
    let Some(limit) = patience.limit else { return answer.await.map_err(Fault::Hyper) };
    tokio::select! {
        // An answer in time is one, however late it is looked at.
        biased;
        result = answer => result.map_err(Fault::Hyper),
        () = silence(patience.begun + limit, limit, source) => Err(Fault::Timeout(limit)),
    }
}

/// Returns at this moment, or once so much time has passed since something of the body was passed on.
async fn silence(mut until: Instant, limit: Duration, source: Option<&Arc<Source>>) {
    loop {
        tokio::time::sleep_until(until).await;
        let Some(source) = source else { return };
        let now = Instant::now();
        // While the client is waited for, time begins anew at every moment.
        until = source.still_since().map_or(now, |since| since.min(now)) + limit;
        if until <= now {
            return;
        }
    }
}

/// Why there is no head of an answer.
enum Fault {
    Timeout(Duration),
    Hyper(hyper::Error),
}

impl Fault {
    fn problem(self, source: Option<&Arc<Source>>, upstream: &Upstream) -> Problem {
        match self {
            Self::Timeout(after) => Problem::Timeout { target: upstream.target(), after },
            Self::Hyper(_) if source.is_some_and(|source| source.is_slow()) => Problem::SlowBody,
            Self::Hyper(_) if source.is_some_and(|source| source.is_broken()) => Problem::bad("its body was cut short"),
            Self::Hyper(error) => {
                tracing::debug!(route = %upstream.name(), error = %adit_core::diagnose::chain(&error), "no answer from the upstream");
                if let Some(reason) = said_by_connector(&error) {
                    Problem::Unreachable { reason: format!("{}: {reason}", upstream.target()), hint: None }
                } else if is_end(&error) {
                    Problem::NoAnswer { target: upstream.target() }
                } else {
                    Problem::BadAnswer { target: upstream.target() }
                }
            }
        }
    }
}

fn h2_problem(fault: &Arc<H2Fault>, upstream: &Upstream) -> Problem {
    match &**fault {
        H2Fault::Connect(error) => Problem::of_connect(error, upstream.terminates),
        H2Fault::NotSpoken => Problem::BadAnswer { target: upstream.target() },
        H2Fault::Hyper(error) if is_end(error) => Problem::NoAnswer { target: upstream.target() },
        H2Fault::Hyper(_) => Problem::BadAnswer { target: upstream.target() },
    }
}

/// Whether the upstream went away, as opposed to answering nonsense.
fn is_end(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || caused_by_io(error)
}

fn caused_by_io(error: &hyper::Error) -> bool {
    io_cause(error).is_some()
}

fn io_cause(error: &hyper::Error) -> Option<&std::io::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref() {
            return Some(io);
        }
        source = cause.source();
    }
    None
}

/// Why a stream that was opened leads nowhere: for a port of a pod that comes with the first read, in words.
fn said_by_connector(error: &hyper::Error) -> Option<String> {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound, TimedOut};
    let io = io_cause(error)?;
    let is_about_the_way = is_way_lost(error)
        || matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | NotFound | TimedOut);
    (is_about_the_way && io.get_ref().is_some()).then(|| io.to_string())
}

/// Whether what carries the stream, and others, has failed: a connection to a cluster's API server.
fn is_way_lost(error: &hyper::Error) -> bool {
    io_cause(error).is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionAborted && io.get_ref().is_some())
}

/// Whether a request can be sent once more, after a kept connection failed before it answered: the upstream cannot
/// have acted on it, or acting twice is as acting once.
fn may_repeat(method: &Method, source: Option<&Arc<Source>>, error: &hyper::Error) -> bool {
    if error.is_parse() || error.is_timeout() || source.is_some_and(|source| source.is_slow()) {
        return false;
    }
    // hyper calls a request canceled when nothing of it was written. A head alone may be enough to act on.
    (error.is_canceled() || is_idempotent(method)) && source.is_none_or(|source| source.is_whole())
}

/// The same for HTTP/2, where a service may say that it has not acted on a request, and ends one without its connection.
fn may_repeat_h2(method: &Method, source: Option<&Arc<Source>>, error: &hyper::Error, reused: bool) -> bool {
    if h2::is_unprocessed(error) {
        return source.is_none_or(|source| source.is_whole());
    }
    reused && !h2::is_of_stream(error) && may_repeat(method, source, error)
}

/// Whether doing something twice does what doing it once does (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}
