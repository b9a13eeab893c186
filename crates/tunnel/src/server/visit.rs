//! One request: checked, routed, counted, sent to an agent, answered.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use adit_core::authority::{HostPort, request_host};
use adit_core::forwarded::{Arrival, Claimed, Forwarding, drop_hop_by_hop};
use adit_core::head::{HeadFault, upgrade_protocol};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mux::headers::AnswerHead;
use mux::lane::OpenStreamError;
use mux::open::Scheme;
use mux::{ErrorCode, Open, StreamKind};

use super::account::{Account, Quota, Use};
use super::answer::Problem;
use super::metrics::FirstByte;
use super::record::{Record, address_of};
use super::registry::RouteKey;
use super::session::InFlight;
use super::state::{Choice, State};
use super::upload;
use crate::Stream;
use crate::pump::{Meter, Pump};
use crate::wire_http::{BodyError, StreamBody, put_headers, read_headers};

/// Where a request comes from.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) peer: SocketAddr,
    pub(super) entrance: Option<SocketAddr>,
    pub(super) tls: bool,
    /// The host name asked for in TLS.
    pub(super) sni: Option<String>,
}

/// The body of an answer: our own, or an agent's.
pub(super) enum AnswerBody {
    Own(Option<Bytes>),
    Stream(StreamBody),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// Answers one request; never fails. `fault` is what the guard found of it by now, in its head or its body.
pub(super) async fn visit(
    state: &Arc<State>,
    visitor: &Visitor,
    request: Request<Incoming>,
    fault: &(dyn Fn() -> Option<HeadFault> + Send + Sync),
) -> Response<AnswerBody> {
    let trusted = state.config.load().is_trusted_proxy(visitor.peer.ip());
    let mut record = Record::new(state, visitor, &request, trusted);
    let accept = request.headers().get(http::header::ACCEPT).cloned();
    let upgrade = request.version() == Version::HTTP_11 && upgrade_protocol(request.headers()).is_some();
    let bad = |fault: HeadFault| Problem::BadRequest(fault.status(), fault.to_string());
    let problem = match fault() {
        Some(fault) => bad(fault),
        None => match carry(state, visitor, request, (trusted, upgrade), &mut record).await {
            Ok(response) => return response,
            Err(problem) => fault().map_or(problem, bad),
        },
    };
    let mut headers = HeaderMap::new();
    if let Some(accept) = accept {
        headers.insert(http::header::ACCEPT, accept);
    }
    let mut response = problem.render(&headers, record.request_id());
    if upgrade {
        close_behind_upgrade(response.headers_mut());
    }
    record.fail(&problem, response.body().len());
    response.map(|bytes| AnswerBody::Own((!bytes.is_empty()).then_some(bytes)))
}

/// The route of a request and what was taken for it.
struct Admitted {
    host: HostPort,
    account: Arc<Account>,
    members: Vec<(Arc<super::session::Session>, u32)>,
    /// Moves on to the request's flight.
    stream_use: Option<Use>,
}

/// Checks host and quotas before anything is sent (S8, S12).
fn admit(
    state: &Arc<State>,
    visitor: &Visitor,
    request: &Request<Incoming>,
    record: &mut Record,
) -> Result<Admitted, Problem> {
    // HTTP/2 heads do not come through the guard.
    if request.headers().len() > state.config.load().limits.headers {
        return Err(Problem::TooLarge);
    }
    let host = host_of(request).map_err(|what| Problem::BadRequest(400, what))?;
    record.set_host(host.host.as_str());
    if state.is_draining() {
        return Err(Problem::Draining);
    }
    let key = RouteKey::Host(host.host.as_str().to_owned());
    let Some(route) = state.registry.lookup(&key) else {
        return Err(match state.reservations.is_held(host.host.as_str()) {
            true => Problem::NoAgent(host.host.as_str().to_owned()),
            false => Problem::UnknownTunnel(host.host.as_str().to_owned()),
        });
    };
    record.set_account(&route.account);
    if let Some(sni) = visitor.sni.as_deref().filter(|sni| *sni != host.host.as_str()) {
        let other = state.registry.lookup(&RouteKey::Host(sni.to_owned()));
        if other.is_none_or(|other| other.account != route.account) {
            return Err(Problem::Misdirected);
        }
    }
    let members = match state.choose(&route) {
        Choice::Open(members) => members,
        Choice::Unhealthy(reason) => return Err(Problem::Unhealthy(reason)),
        Choice::Offline => return Err(Problem::NoAgent(host.host.as_str().to_owned())),
    };
    let account = members
        .first()
        .map(|(session, _)| Arc::clone(&session.account))
        .ok_or_else(|| Problem::NoAgent(host.host.as_str().to_owned()))?;
    let refused = |exceeded: super::account::Exceeded| {
        state.metrics.quota(exceeded.quota);
        state.audit.quota(account.name(), &exceeded);
        Problem::Quota(exceeded)
    };
    account.take_request(Instant::now()).map_err(refused)?;
    let stream_use = account.take(Quota::Streams).map_err(refused)?;
    Ok(Admitted { host, account: Arc::clone(&account), members, stream_use: Some(stream_use) })
}

async fn carry(
    state: &Arc<State>,
    visitor: &Visitor,
    mut request: Request<Incoming>,
    (trusted, upgrade): (bool, bool),
    record: &mut Record,
) -> Result<Response<AnswerBody>, Problem> {
    let mut admitted = admit(state, visitor, &request, record)?;
    check_upgrade(&request, upgrade)?;
    let on_upgrade = upgrade.then(|| hyper::upgrade::on(&mut request));
    let has_body = !request.body().is_end_stream();
    let open = open_of(state, visitor, &request, &admitted.host, trusted, upgrade, record)?;
    let (method, body) = (request.method().clone(), request.into_body());
    let sent_at = Instant::now();
    let end = !has_body && !upgrade;
    let (stream, in_flight) = open_somewhere(state, &admitted, &open, end)?;
    let mut stream = Arc::new(stream);
    let mut abandoned = Abandoned(Some(Arc::clone(&stream)));
    state.metrics.streams.inc();
    let flight = Flight { _stream_use: admitted.stream_use.take(), _in_flight: in_flight, state: Arc::clone(state) };
    state.metrics.streams_active.inc();
    let given_up = has_body.then(|| upload::start(state, &stream, body, &admitted.account, record));
    let head = match await_head(state, &stream, given_up).await {
        // Not processed at all: it may be sent elsewhere, once.
        Err(Problem::Unprocessed) if end => {
            let (again, _in_flight) = open_somewhere(state, &admitted, &open, end)?;
            stream = Arc::new(again);
            abandoned = Abandoned(Some(Arc::clone(&stream)));
            await_head(state, &stream, None).await?
        }
        head => head?,
    };
    let status = StatusCode::from_u16(head.status).map_err(|_| Problem::BadAnswer)?;
    let timing = head.timing;
    let mut headers = read_headers(head.headers).map_err(|_| Problem::BadAnswer)?;
    check_answer(&mut headers, status)?;
    let times = FirstByte {
        total: sent_at.elapsed().as_secs_f64(),
        agent: f64::from(timing.agent_micros) / 1e6,
        local: f64::from(timing.local_micros) / 1e6,
    };
    if status == StatusCode::SWITCHING_PROTOCOLS && on_upgrade.is_none() {
        return Err(Problem::BadAnswer);
    }
    state.metrics.first_byte(&times);
    record.answered(status.as_u16(), flight);
    abandoned.keep();
    if let Some(on_upgrade) = on_upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS) {
        return Ok(switch(state, &admitted.account, stream, headers, on_upgrade, record));
    }
    if upgrade {
        // Refused: nothing will be sent on the byte pipe that does not come to be.
        let _ = stream.finish();
    }
    Ok(answer(state, &admitted.account, stream, (status, headers), (&method, upgrade), &times, record))
}

/// Cancels a stream whose visitor leaves before there is an answer; its upload may hold it too.
struct Abandoned(Option<Arc<Stream>>);

impl Abandoned {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            stream.reset(ErrorCode::Cancel);
        }
    }
}

/// Holds an answer's head to one reading: an agent is another party, and a proxy in front of us may keep our connections.
fn check_answer(headers: &mut HeaderMap, status: StatusCode) -> Result<(), Problem> {
    let upgrade = headers.remove(UPGRADE).filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
    drop_hop_by_hop(headers);
    headers.extend(upgrade.map(|token| (UPGRADE, token)));
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let legal = !length.is_empty() && length.len() < 20 && length.as_bytes().iter().all(u8::is_ascii_digit);
    if legal && lengths.next().is_none() { Ok(()) } else { Err(Problem::BadAnswer) }
}

/// Builds the answer around the stream that carries its body.
fn answer(
    state: &Arc<State>,
    account: &Arc<Account>,
    stream: Arc<Stream>,
    (status, mut headers): (StatusCode, HeaderMap),
    (method, upgrade_refused): (&Method, bool),
    times: &FirstByte,
    record: &mut Record,
) -> Response<AnswerBody> {
    if let Ok(id) = HeaderValue::from_str(record.request_id()) {
        headers.entry("x-request-id").or_insert(id);
    }
    if state.server_timing {
        let open = (times.total - times.agent - times.local).max(0.0);
        let text = format!(
            "open;dur={:.3}, agent;dur={:.3}, local;dur={:.3}",
            open * 1e3,
            times.agent * 1e3,
            times.local * 1e3
        );
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append("server-timing", value);
        }
    }
    if upgrade_refused {
        close_behind_upgrade(&mut headers);
    }
    let bodyless = *method == Method::HEAD || matches!(status.as_u16(), 204 | 205 | 304);
    let announced = headers
        .get(CONTENT_LENGTH)
        .filter(|_| !bodyless)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let watch = record.watch(Arc::clone(&account.download));
    let body = StreamBody::new(stream, announced, Some(Box::new(watch)));
    let mut response = Response::new(AnswerBody::Stream(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Turns both directions into byte pipes once the visitor's connection has switched.
fn switch(
    state: &Arc<State>,
    account: &Arc<Account>,
    stream: Arc<Stream>,
    headers: HeaderMap,
    on_upgrade: hyper::upgrade::OnUpgrade,
    record: &mut Record,
) -> Response<AnswerBody> {
    let meter = Meter { inward: Some(Arc::clone(&account.upload)), outward: Some(Arc::clone(&account.download)) };
    let mut watch = record.watch(Arc::clone(&account.download));
    let scope = state.scope.clone();
    state.scope.spawn("upgraded", async move {
        let Ok(upgraded) = on_upgrade.await else { return };
        let Some(stream) = Arc::into_inner(stream) else { return };
        let io = hyper_util::rt::TokioIo::new(upgraded);
        let pump = Pump::new(io, stream, meter);
        if let Some((_, end)) = scope.until_cancelled(pump.run()).await {
            watch.finish(end.inward, end.outward, end.cut.is_none());
        }
    });
    let mut response = Response::new(AnswerBody::Own(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// The one host a request is for (S8).
fn host_of(request: &Request<Incoming>) -> Result<HostPort, String> {
    let hosts: Vec<&[u8]> = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes).collect();
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    request_host(&hosts, authority, request.version() == Version::HTTP_2).map_err(|fault| fault.to_string())
}

/// Refuses what cannot be switched: CONNECT, and an upgrade with a body (S9).
fn check_upgrade(request: &Request<Incoming>, upgrade: bool) -> Result<(), Problem> {
    let refused = |what: &str| Err(Problem::BadRequest(400, what.to_owned()));
    if request.method() == Method::CONNECT {
        return refused("CONNECT is not supported");
    }
    if upgrade && !request.body().is_end_stream() {
        return refused("an upgrade cannot have a body");
    }
    Ok(())
}

/// The guard checks nothing behind an upgrade, so nothing but its answer may follow on the connection.
fn close_behind_upgrade(headers: &mut HeaderMap) {
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
}

fn open_of(
    state: &State,
    visitor: &Visitor,
    request: &Request<Incoming>,
    host: &HostPort,
    trusted: bool,
    upgrade: bool,
    record: &Record,
) -> Result<Open, Problem> {
    let mut headers = request.headers().clone();
    headers.remove(EXPECT);
    let written = match host.port {
        Some(port) => format!("{}:{port}", host.host.as_str()),
        None => host.host.as_str().to_owned(),
    };
    let arrival = Arrival {
        peer: visitor.peer.ip(),
        trusted,
        host: &written,
        https: visitor.tls,
        port: visitor.entrance.map_or(state.public_port, |entrance| entrance.port()),
    };
    let claimed = Claimed::of(request.headers());
    let proxies = trusted.then(|| address_of(state, visitor.peer.ip(), request.headers()));
    let by_list = proxies.filter(|_| claimed.for_.is_some());
    Forwarding::new(&arrival, &claimed).apply(&mut headers);
    // In the proxies' list only what trusted ones wrote counts, as in our own logs (S10).
    if let Some(value) = by_list.and_then(|ip| HeaderValue::from_str(&ip.to_string()).ok()) {
        headers.insert("x-real-ip", value);
    }
    headers.insert(HOST, HeaderValue::from_str(&written).map_err(|_| Problem::TooLarge)?);
    // The id in our logs and answers; what a visitor claims counts only behind a trusted proxy.
    if !(trusted && headers.contains_key("x-request-id"))
        && let Ok(id) = HeaderValue::from_str(record.request_id())
    {
        headers.insert("x-request-id", id);
    }
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut block = Open::header_writer();
    if !put_headers(&mut block, &headers, upgrade) {
        return Err(Problem::TooLarge);
    }
    let address = proxies.map_or(visitor.peer, |ip| SocketAddr::new(ip, visitor.peer.port()));
    Ok(Open {
        kind: if upgrade { StreamKind::Upgrade } else { StreamKind::Http },
        scheme: if visitor.tls { Scheme::Tls } else { Scheme::Plain },
        hops: 0,
        tunnel: 0,
        credit: 0,
        trace: record.trace(),
        visitor: Some(address),
        entrance: visitor.entrance,
        method: Bytes::copy_from_slice(request.method().as_str().as_bytes()),
        target: Bytes::copy_from_slice(if target.is_empty() { b"/" } else { target.as_bytes() }),
        headers: block.finish().into(),
    })
}

/// Opens the stream at the first agent that takes it; if all of them have just left, at whoever serves the route now.
fn open_somewhere(
    state: &Arc<State>,
    admitted: &Admitted,
    open: &Open,
    end: bool,
) -> Result<(Stream, InFlight), Problem> {
    match open_stream(&admitted.members, open.clone(), end) {
        Err(Problem::Lost) => {
            let host = admitted.host.host.as_str();
            let route = state.registry.lookup(&RouteKey::Host(host.to_owned()));
            match route.map(|route| state.choose(&route)) {
                Some(Choice::Open(members)) => open_stream(&members, open.clone(), end),
                Some(Choice::Unhealthy(reason)) => Err(Problem::Unhealthy(reason)),
                Some(Choice::Offline) | None => Err(Problem::NoAgent(host.to_owned())),
            }
        }
        opened => opened,
    }
}

fn open_stream(
    members: &[(Arc<super::session::Session>, u32)],
    mut open: Open,
    end: bool,
) -> Result<(Stream, InFlight), Problem> {
    for (session, tunnel) in members {
        open.tunnel = *tunnel;
        match session.open(&open, end) {
            Ok(opened) => return Ok(opened),
            Err(OpenStreamError::TooLong) => return Err(Problem::TooLarge),
            Err(_) => {}
        }
    }
    Err(Problem::Lost)
}

/// Waits for the answer's head.
async fn await_head(
    state: &State,
    stream: &Arc<Stream>,
    given_up: Option<upload::GivenUp>,
) -> Result<AnswerHead, Problem> {
    let patience = state.config.load().limits.response_timeout;
    let head = async {
        loop {
            match stream.recv().await {
                Ok(mux::Incoming::Head(block)) => {
                    let head = AnswerHead::read(block).map_err(|_| Problem::BadAnswer)?;
                    // Interim answers (RFC 9110 section 15.2) end here, but for the switch of protocols.
                    if head.status == 101 || !(100..200).contains(&head.status) {
                        return Ok(head);
                    }
                }
                Ok(_) => return Err(Problem::BadAnswer),
                Err(error) => return Err(problem_of(&error.into())),
            }
        }
    };
    let waited = tokio::time::timeout(patience, async {
        match given_up {
            None => head.await,
            Some(given_up) => tokio::select! {
                // Why the upload was given up is said before the stream it was for ends.
                biased;
                problem = given_up.wait() => Err(problem),
                head = head => head,
            },
        }
    });
    let result = waited.await.unwrap_or(Err(Problem::Timeout(Some(patience))));
    if let Err(problem) = &result {
        stream.reset(if matches!(problem, Problem::Timeout(_)) { ErrorCode::Timeout } else { ErrorCode::Cancel });
    }
    result
}

fn problem_of(error: &BodyError) -> Problem {
    let BodyError::Reset(code) = *error else { return Problem::BadAnswer };
    match code {
        ErrorCode::Connect => Problem::Refused,
        // The agent's own limit, which we do not know.
        ErrorCode::Timeout => Problem::Timeout(None),
        ErrorCode::Truncated => Problem::NoAnswer,
        ErrorCode::BadAnswer | ErrorCode::Protocol => Problem::BadAnswer,
        ErrorCode::Unhealthy => Problem::Unhealthy(String::new()),
        ErrorCode::Refused => Problem::Unprocessed,
        _ => Problem::Lost,
    }
}

/// What a request holds while it is carried; given back when its answer is over.
pub(super) struct Flight {
    _stream_use: Option<Use>,
    _in_flight: InFlight,
    state: Arc<State>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.state.metrics.streams_active.dec();
    }
}
