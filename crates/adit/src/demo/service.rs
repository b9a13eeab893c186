//! The sample web service: what a user's own application would be.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_DISPOSITION, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::{BoundListener, ConnectionLimit, Scope};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::answer::{self, Body};
use super::facts::{Facts, Hop, HopSource};
use super::recent::{Answered, Recent};
use super::{page, websocket};

/// Connections at a time: the demo has one agent, which pools them.
const MAX_CONNECTIONS: usize = 1024;

/// How long a request's head may take.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// How long the next piece of a request's body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// The time between two events.
const TICK: Duration = Duration::from_secs(1);

/// Events that may wait for a slow reader. Further ones wait for it, and are then up to date.
const EVENTS_AHEAD: usize = 1;

/// The largest download that is made up.
const MAX_DOWNLOAD: u64 = 16 * 1024 * 1024 * 1024;

/// What a download is without a wish.
const DEFAULT_DOWNLOAD: u64 = 1024 * 1024;

/// The longest wait that can be asked for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Serves until `scope` is drained. `hops` tells what the tunnel measured.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(listener: BoundListener, scope: Scope, hops: HopSource) -> io::Result<()> {
    let sample = Arc::new(Sample {
        begun: Instant::now(),
        requests: AtomicU64::new(0),
        recent: Arc::new(Recent::default()),
        hops,
        scope: scope.clone(),
    });
    let limit = ConnectionLimit::new(MAX_CONNECTIONS);
    let tasks = scope.clone();
    let accept = move |stream, peer| {
        if let Some(permit) = limit.try_acquire() {
            let sample = Arc::clone(&sample);
            tasks.spawn("demo.connection", async move {
                sample.serve_connection(stream, peer).await;
                drop(permit);
            });
        }
    };
    listener.accept_loop(scope, accept).await
}

/// The service's state.
struct Sample {
    begun: Instant,
    requests: AtomicU64,
    recent: Arc<Recent>,
    hops: HopSource,
    scope: Scope,
}

/// What an event tells.
#[derive(Serialize)]
struct Tick {
    requests: u64,
    uptime_ms: u64,
    recent: Vec<Answered>,
}

/// What an upload is answered with.
#[derive(Serialize)]
struct Received {
    bytes: u64,
    ms: f64,
    sha256: String,
}

impl Sample {
    async fn serve_connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let scope = self.scope.clone();
        let service = service_fn(move |request| {
            let sample = Arc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(sample.answer(request, peer).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = scope.drained() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection to the sample service broke");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let begin = Instant::now();
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let answer = self.route(request, peer, number).await;
        let ms = milliseconds(begin.elapsed());
        let status = answer.status().as_u16();
        self.recent.add(Answered { method, path, status, ms });
        answer
    }

    async fn route(&self, request: Request<Incoming>, peer: SocketAddr, number: u64) -> Response<Body> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/api/events" if reads => self.events(),
            "/api/hops" if reads => self.hops_of(&query(&request)),
            "/api/download" if reads => download(&query(&request)),
            "/api/slow" if reads => slow(&query(&request)).await,
            "/api/ws" if reads => self.echo(request),
            "/api/events" | "/api/hops" | "/api/download" | "/api/slow" | "/api/ws" => {
                answer::refuse_method(&Method::GET)
            }
            "/api/upload" if request.method() == Method::POST => upload(request).await,
            "/api/upload" => answer::refuse_method(&Method::POST),
            path if path == "/api/inspect" || path.starts_with("/api/inspect/") => {
                self.inspect(request, peer, number).await
            }
            path if path.starts_with("/api/") => answer::refuse(StatusCode::NOT_FOUND, "there is no such endpoint"),
            path => match page::asset(path) {
                Some(file) if reads => file,
                Some(_) => answer::refuse_method(&Method::GET),
                None => self.front_page(request, peer, number).await,
            },
        }
    }

    /// The page for browsers, JSON for programs, text for people at a terminal.
    async fn front_page(&self, request: Request<Incoming>, peer: SocketAddr, number: u64) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut facts = self.facts(&parts, peer, number);
        match count(body).await {
            Ok(bytes) => facts.body_bytes = bytes,
            Err(fault) => return fault.answer(),
        }
        match wanted(&parts) {
            Wanted::Page => page::index(&facts),
            Wanted::Json => answer::json(StatusCode::OK, &facts),
            Wanted::Text => answer::text(StatusCode::OK, "text/plain; charset=utf-8", facts.to_text()),
        }
    }

    async fn inspect(&self, request: Request<Incoming>, peer: SocketAddr, number: u64) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut facts = self.facts(&parts, peer, number);
        match count(body).await {
            Ok(bytes) => facts.body_bytes = bytes,
            Err(fault) => return fault.answer(),
        }
        answer::json(StatusCode::OK, &facts)
    }

    fn facts(&self, parts: &Parts, peer: SocketAddr, number: u64) -> Facts {
        let mut facts = Facts::of(parts, peer, number);
        facts.hops = (self.hops)(&facts.request_id);
        facts
    }

    /// The hops of a request that was answered earlier: now they are all known.
    fn hops_of(&self, query: &HashMap<String, String>) -> Response<Body> {
        let hops: Vec<Hop> = query.get("id").map(|id| (self.hops)(id)).unwrap_or_default();
        answer::json(StatusCode::OK, &serde_json::json!({ "hops": hops }))
    }

    fn events(&self) -> Response<Body> {
        let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
        let begun = self.begun;
        let (scope, recent) = (self.scope.clone(), Arc::clone(&self.recent));
        self.scope.spawn("demo.events", async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut seen = 0;
            loop {
                tokio::select! {
                    biased;
                    () = scope.drained() => return,
                    () = sender.closed() => return,
                    _ = ticks.tick() => {}
                }
                let (requests, new) = recent.since(seen);
                seen = requests;
                let uptime_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                let event = event_of(&Tick { requests, uptime_ms, recent: new });
                tokio::select! {
                    biased;
                    () = scope.drained() => return,
                    sent = sender.send(event) => if sent.is_err() { return },
                }
            }
        });
        answer::with_type(StatusCode::OK, "text/event-stream", Body::Events(receiver))
    }

    fn echo(&self, mut request: Request<Incoming>) -> Response<Body> {
        let upgrade = hyper::upgrade::on(&mut request);
        let answer = websocket::handshake(request.headers());
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return answer;
        }
        let scope = self.scope.clone();
        self.scope.spawn("demo.echo", async move {
            let ended = match upgrade.await {
                Ok(stream) => websocket::echo(TokioIo::new(stream), &scope).await,
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a WebSocket of the sample service broke");
            }
        });
        answer
    }
}

enum Wanted {
    Page,
    Json,
    Text,
}

/// What the visitor can read. A browser says so; curl takes anything.
fn wanted(parts: &Parts) -> Wanted {
    let header = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let accept = header(ACCEPT).unwrap_or("*/*");
    let terminal = header(USER_AGENT).is_none_or(|agent| agent.starts_with("curl") || agent.starts_with("Wget"));
    if accept.contains("text/html") {
        Wanted::Page
    } else if accept.contains("application/json") {
        Wanted::Json
    } else if terminal || accept.contains("text/plain") {
        Wanted::Text
    } else {
        Wanted::Page
    }
}

fn event_of(tick: &Tick) -> Bytes {
    // A struct of numbers and strings always serialises.
    let data = serde_json::to_string(tick).unwrap_or_default();
    format!("event: tick\ndata: {data}\n\n").into()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The query's parameters. Ours are numbers and ids, so nothing is percent-decoded.
fn query(request: &Request<Incoming>) -> HashMap<String, String> {
    let text = request.uri().query().unwrap_or_default();
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn download(query: &HashMap<String, String>) -> Response<Body> {
    let wanted = query.get("bytes").map_or(Ok(DEFAULT_DOWNLOAD), |text| text.parse());
    let Some(length) = wanted.ok().filter(|length| *length <= MAX_DOWNLOAD) else {
        let reason = format!("bytes must be a number up to {MAX_DOWNLOAD}");
        return answer::refuse(StatusCode::BAD_REQUEST, &reason);
    };
    let mut answer = answer::with_type(StatusCode::OK, "application/octet-stream", Body::letters(length));
    let name = HeaderValue::from_static("attachment; filename=\"adit-demo.bin\"");
    answer.headers_mut().insert(CONTENT_DISPOSITION, name);
    answer
}

async fn slow(query: &HashMap<String, String>) -> Response<Body> {
    let asked = query.get("ms").and_then(|text| text.parse().ok()).unwrap_or(1000);
    let wait = Duration::from_millis(asked).min(MAX_WAIT);
    tokio::time::sleep(wait).await;
    answer::json(StatusCode::OK, &serde_json::json!({ "waited_ms": milliseconds(wait) }))
}

async fn upload(request: Request<Incoming>) -> Response<Body> {
    let begin = Instant::now();
    let mut hash = Sha256::new();
    let read = each_piece(request.into_body(), |piece| hash.update(piece)).await;
    match read {
        Ok(bytes) => {
            let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            let ms = milliseconds(begin.elapsed());
            answer::json(StatusCode::OK, &Received { bytes, ms, sha256 })
        }
        Err(fault) => fault.answer(),
    }
}

/// Why a body could not be read.
#[derive(Clone, Copy)]
enum BodyFault {
    BrokeOff,
    Stalled,
}

impl BodyFault {
    fn answer(self) -> Response<Body> {
        match self {
            Self::BrokeOff => answer::refuse(StatusCode::BAD_REQUEST, "the body broke off"),
            Self::Stalled => answer::refuse(StatusCode::REQUEST_TIMEOUT, "the body stopped coming"),
        }
    }
}

async fn count(body: Incoming) -> Result<u64, BodyFault> {
    each_piece(body, |_| {}).await
}

/// Reads a body to its end and tells its length.
async fn each_piece(mut body: Incoming, mut take: impl FnMut(&[u8])) -> Result<u64, BodyFault> {
    let mut length = 0;
    loop {
        match timeout(BODY_DEADLINE, body.frame()).await {
            Ok(None) => return Ok(length),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    length += data.len() as u64;
                    take(data);
                }
            }
            Ok(Some(Err(_))) => return Err(BodyFault::BrokeOff),
            Err(_) => return Err(BodyFault::Stalled),
        }
    }
}

#[cfg(test)]
mod tests;
