//! HTTP tunnels: one stream is one request, passed on to the local service while it arrives, and its answer
//! passed back while that arrives.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit_core::diagnose::chain;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use mux::headers::Timing;
use mux::{ErrorCode, Open, StreamKind};
use runtime::upstream::{H2Fault, UpstreamConnection};

use super::body::{Begin, Progress, RequestBody, discard};
use super::local::{Local, Served, connect_code};
use super::request::{self, is_grpc, is_idempotent};
use super::tcp;
use crate::Stream;
use crate::wire_http::{BodyError, answer_block, trailer_block};

/// How long a visitor may go on sending a body after the answer is complete.
const LINGER: Duration = Duration::from_secs(10);

/// Serves one request of a visitor, and what follows if it is upgraded.
pub(super) async fn serve(local: Arc<Local>, stream: Stream, open: Open, started: Instant) {
    let stream = Arc::new(stream);
    let exchange = Exchange {
        local: &local,
        stream: &stream,
        open: &open,
        started,
        progress: Arc::default(),
        status: AtomicU16::new(0),
        sent: AtomicU64::new(0),
        complete: AtomicBool::new(false),
    };
    let outcome = tokio::select! {
        biased;
        outcome = exchange.run() => outcome,
        // Dropping the exchange closes the connection to the local service, or resets its stream there.
        _ = stream.reset_by_peer() => Err(Failure::VISITOR_LEFT),
    };
    let status = exchange.status.load(Ordering::Relaxed);
    let (mut received, mut sent) = (exchange.progress.bytes(), exchange.sent.load(Ordering::Relaxed));
    let complete = exchange.complete.load(Ordering::Relaxed);
    let error = match outcome {
        Ok(None) => None,
        Ok(Some((connection, first))) => {
            let end = match Arc::try_unwrap(stream) {
                Ok(stream) => tcp::pump(connection, first, stream).await,
                // Nobody shares the stream of a request without a body.
                Err(_) => (0, 0, Some("internal")),
            };
            (received, sent) = (end.0, end.1);
            end.2
        }
        // The answer was whole: what became of the rest of the request is of no concern.
        Err(_) if complete => None,
        Err(failure) => {
            stream.reset(failure.code);
            Some(failure.error)
        }
    };
    local.served(&Served {
        method: &open.method,
        path: &open.target,
        status,
        error,
        took: started.elapsed(),
        received,
        sent,
    });
}

/// A request that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// What the stream is reset with.
    pub(super) code: ErrorCode,
    /// The word for metrics and events.
    pub(super) error: &'static str,
}

impl Failure {
    const VISITOR_LEFT: Self = Self { code: ErrorCode::Cancel, error: "visitor_left" };
    const TIMEOUT: Self = Self { code: ErrorCode::Timeout, error: "timeout" };
    const BAD_ANSWER: Self = Self { code: ErrorCode::BadAnswer, error: "bad_answer" };
    const TRUNCATED: Self = Self { code: ErrorCode::Truncated, error: "truncated" };
    pub(super) const BAD_REQUEST: Self = Self { code: ErrorCode::Protocol, error: "bad_request" };

    fn of(error: &hyper::Error) -> Self {
        if caused_by_visitor(error) {
            Self::VISITOR_LEFT
        } else if error.is_timeout() {
            Self::TIMEOUT
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() || caused_by_io(error) {
            Self::TRUNCATED
        } else {
            Self::BAD_ANSWER
        }
    }
}

/// The bare connection after a 101, and what was read beyond its head.
type Upgraded = Option<(runtime::Io, bytes::Bytes)>;

struct Exchange<'a> {
    local: &'a Local,
    stream: &'a Arc<Stream>,
    open: &'a Open,
    started: Instant,
    progress: Arc<Progress>,
    status: AtomicU16,
    sent: AtomicU64,
    complete: AtomicBool,
}

impl Exchange<'_> {
    async fn run(&self) -> Result<Upgraded, Failure> {
        let begin = std::future::poll_fn(|cx| std::task::Poll::Ready(Begin::look(self.stream, cx)))
            .await
            .map_err(|_| Failure::VISITOR_LEFT)?;
        if self.open.kind == StreamKind::Upgrade {
            return Box::pin(self.upgrade(begin)).await;
        }
        if self.wants_h2().await {
            Box::pin(self.over_h2(begin)).await?;
        } else {
            self.over_h1(begin).await?;
        }
        Ok(None)
    }

    async fn wants_h2(&self) -> bool {
        use super::settings::LocalProtocol;
        match self.local.tunnel.protocol {
            LocalProtocol::H2c => true,
            LocalProtocol::Http | LocalProtocol::Https => {
                is_grpc(self.open) && Box::pin(self.local.h2.is_spoken(self.local)).await
            }
        }
    }

    /// By a kept connection if there is one. If that turns out to be dead, once more by a new one.
    async fn over_h1(&self, begin: Begin) -> Result<(), Failure> {
        let mut kept = self.local.pool.take(self.started);
        loop {
            let reused = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => {
                    self.local.metrics.reused.inc();
                    connection
                }
                None => self.connect().await?,
            };
            let request = self.request(begin.clone(), false)?;
            let departed = Instant::now();
            let response = match self.head(connection.send(request)).await {
                Ok(response) => response,
                Err(HeadFault::Hyper(error)) if reused && self.may_repeat(&error) => {
                    continue;
                }
                Err(fault) => return Err(self.failed(&fault)),
            };
            let timing = self.timing(departed);
            connection.drive(self.answer(response, timing)).await?;
            if !self.is_body_whole(&begin) {
                connection.drive(self.finish_body()).await;
            }
            self.local.pool.put(connection, Instant::now());
            return Ok(());
        }
    }

    async fn over_h2(&self, begin: Begin) -> Result<(), Failure> {
        let mut again = true;
        loop {
            let (mut sender, reused) = match self.local.h2.sender(self.local).await {
                Ok((sender, reused)) => {
                    if reused {
                        self.local.metrics.reused.inc();
                    }
                    (sender, reused)
                }
                Err(fault) => return Err(h2_failure(&fault)),
            };
            let request = self.request(begin.clone(), true)?;
            let departed = Instant::now();
            let exchange = async {
                sender.ready().await?;
                sender.send_request(request).await
            };
            let response = match self.head(exchange).await {
                Ok(response) => response,
                Err(HeadFault::Hyper(error)) if reused && again && self.may_repeat(&error) => {
                    again = false;
                    self.local.h2.forget(&sender, &error);
                    continue;
                }
                Err(fault) => return Err(self.failed(&fault)),
            };
            self.answer(response, self.timing(departed)).await?;
            if !self.is_body_whole(&begin) {
                self.finish_body().await;
            }
            return Ok(());
        }
    }

    /// An upgrade has a connection of its own.
    async fn upgrade(&self, begin: Begin) -> Result<Upgraded, Failure> {
        if !matches!(begin, Begin::Nothing | Begin::Body(None)) {
            return Err(Failure::BAD_REQUEST);
        }
        let mut connection = self.connect().await?;
        let request = self.request(Begin::Nothing, false)?;
        let departed = Instant::now();
        let response = self.head(connection.send_upgrade(request)).await.map_err(|fault| self.failed(&fault))?;
        let timing = self.timing(departed);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            connection.drive(self.answer(response, timing)).await?;
            // The server's direction is still open, for bytes that are not wanted now.
            let _ = tokio::time::timeout(LINGER, discard(self.stream)).await;
            return Ok(None);
        }
        let (mut head, _) = response.into_parts();
        let switched = connection.into_upgraded().await.map_err(|error| Failure::of(&error))?;
        self.local.tunnel.response_headers.apply(&mut head.headers);
        let block = answer_block(101, &head.headers, timing, true).ok_or(Failure::BAD_ANSWER)?;
        if switched.is_none() {
            return Err(Failure::TRUNCATED);
        }
        self.status.store(101, Ordering::Relaxed);
        self.stream.send_head(block, false).map_err(|_| Failure::VISITOR_LEFT)?;
        Ok(switched)
    }

    async fn connect(&self) -> Result<UpstreamConnection<RequestBody>, Failure> {
        let io = Box::pin(self.local.connect(&*self.local.tunnel.connect))
            .await
            .map_err(|error| Failure { code: connect_code(&error), error: "connect" })?;
        UpstreamConnection::begin(io).await.map_err(|error| Failure::of(&error))
    }

    fn request(&self, begin: Begin, h2: bool) -> Result<http::Request<RequestBody>, Failure> {
        self.local.metrics.local_requests.inc();
        let parts = request::build(self.local, self.open, matches!(begin, Begin::Body(_)), h2)?;
        let announced = request::announced(&parts.headers);
        let body = RequestBody::new(begin, self.stream, announced, &self.progress);
        Ok(http::Request::from_parts(parts, body))
    }

    /// Waits for the head of the answer, as long as the tunnel allows.
    async fn head(
        &self,
        answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Result<Response<Incoming>, HeadFault> {
        match self.local.tunnel.request_timeout {
            None => answer.await.map_err(HeadFault::Hyper),
            Some(limit) => match tokio::time::timeout(limit, answer).await {
                Ok(result) => result.map_err(HeadFault::Hyper),
                Err(_) => Err(HeadFault::Timeout),
            },
        }
    }

    /// Passes the answer back: head, body, trailers.
    async fn answer(&self, response: Response<Incoming>, timing: Timing) -> Result<(), Failure> {
        let (mut head, mut body) = response.into_parts();
        if head.status.is_informational() {
            return Err(Failure::BAD_ANSWER);
        }
        // RFC 9112 section 6.3: chunked wins, and a length beside it must not travel on.
        if head.headers.contains_key(http::header::TRANSFER_ENCODING) {
            head.headers.remove(http::header::CONTENT_LENGTH);
        }
        self.local.tunnel.response_headers.apply(&mut head.headers);
        let status = head.status.as_u16();
        let block = answer_block(status, &head.headers, timing, false).ok_or(Failure::BAD_ANSWER)?;
        let end = body.is_end_stream();
        self.status.store(status, Ordering::Relaxed);
        self.stream.send_head(block, end).map_err(|_| Failure::VISITOR_LEFT)?;
        if !end {
            self.answer_body(&mut body).await?;
        }
        self.complete.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn answer_body(&self, body: &mut Incoming) -> Result<(), Failure> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                tracing::debug!(tunnel = %self.local.name, error = %chain(&error), "an answer was cut short");
                if caused_by_visitor(&error) { Failure::VISITOR_LEFT } else { Failure::TRUNCATED }
            })?;
            match frame.into_data() {
                Ok(data) => {
                    let bytes = data.len() as u64;
                    self.stream.send(data).await.map_err(|_| Failure::VISITOR_LEFT)?;
                    self.sent.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(frame) => {
                    // Trailers too large for a frame are left out, as trailers may be.
                    if let Some(block) = frame.into_trailers().ok().and_then(|trailers| trailer_block(&trailers)) {
                        return self.stream.send_head(block, true).map_err(|_| Failure::VISITOR_LEFT);
                    }
                }
            }
            if body.is_end_stream() {
                break;
            }
        }
        self.stream.finish().map_err(|_| Failure::VISITOR_LEFT)
    }

    fn is_body_whole(&self, begin: &Begin) -> bool {
        matches!(begin, Begin::Nothing) || self.progress.is_whole()
    }

    /// The answer is complete and the request is not: the rest goes where the service still takes it, and
    /// nowhere when it does not. The stream must outlive this, or the answer would be cut short.
    async fn finish_body(&self) {
        let rest = async {
            self.progress.over().await;
            if !self.progress.is_whole() {
                let _ = discard(self.stream).await;
            }
        };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }

    /// Whether the request can be sent once more, after a kept connection failed before it answered.
    fn may_repeat(&self, error: &hyper::Error) -> bool {
        if self.progress.is_touched() || error.is_parse() || error.is_timeout() {
            return false;
        }
        // hyper calls a request canceled when nothing of it was written. A head alone may be enough to act on.
        error.is_canceled() || is_idempotent(&self.open.method)
    }

    fn failed(&self, fault: &HeadFault) -> Failure {
        match fault {
            HeadFault::Timeout => Failure::TIMEOUT,
            HeadFault::Hyper(error) => {
                tracing::debug!(tunnel = %self.local.name, error = %chain(error), "no answer from the local service");
                Failure::of(error)
            }
        }
    }

    fn timing(&self, departed: Instant) -> Timing {
        Timing {
            agent_micros: micros(departed.saturating_duration_since(self.started)),
            local_micros: micros(departed.elapsed()),
        }
    }
}

/// Why there is no head of an answer.
enum HeadFault {
    Timeout,
    Hyper(hyper::Error),
}

fn h2_failure(fault: &H2Fault) -> Failure {
    match fault {
        H2Fault::Connect(error) => Failure { code: connect_code(error), error: "connect" },
        H2Fault::NotSpoken => Failure::BAD_ANSWER,
        H2Fault::Hyper(error) => Failure::of(error),
    }
}

fn caused_by<E: std::error::Error + 'static>(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<E>() {
            return true;
        }
        source = cause.source();
    }
    false
}

fn caused_by_visitor(error: &hyper::Error) -> bool {
    caused_by::<BodyError>(error)
}

fn caused_by_io(error: &hyper::Error) -> bool {
    caused_by::<std::io::Error>(error)
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
