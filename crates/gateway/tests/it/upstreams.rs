//! Targets of every kind: services that speak TLS, streams that are no sockets, starts that fail or take their time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use gateway::upstream::{UpstreamOptions, UpstreamScheme, UpstreamTls, UpstreamTrust};
use runtime::tls::ServerTrust;
use runtime::{BoxFuture, Connect, ConnectError, Io, Scope};
use testkit::cert::TestCa;
use testkit::origin::{GrpcAnswer, GrpcOrigin, HttpOrigin};
use testkit::raw::{self, Client};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::support::{Gate, PATIENCE, options, until};

/// TLS in front of a plain service.
async fn front(service: SocketAddr, ca: &TestCa, alpn: &[&str], scope: &Scope) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(ca.leaf("front", &["localhost"]).unwrap().server(alpn).unwrap()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let inner = scope.clone();
    scope.spawn("front", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            inner.spawn("front connection", async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let mut plain = TcpStream::connect(service).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
            });
        }
    });
    addr
}

fn https(addr: SocketAddr, scope: &Scope, name: &str, trust: UpstreamTrust) -> UpstreamOptions {
    let tls = UpstreamTls { server_name: name.into(), trust };
    UpstreamOptions { scheme: UpstreamScheme::Https, tls, ..options(addr, scope) }
}

#[tokio::test]
async fn a_certificate_is_checked_unless_the_user_said_no() {
    let (origin, ca, scope) = (HttpOrigin::start().await.unwrap(), TestCa::new().unwrap(), Scope::root());
    let addr = front(origin.addr(), &ca, &["http/1.1"], &scope).await;
    let own = UpstreamTrust::Verified(ServerTrust::CaFile(ca.path()));
    let cases = [
        (own.clone(), "localhost", 200),
        (own, "elsewhere.example", 502),
        (UpstreamTrust::Anything, "elsewhere.example", 200),
    ];
    for (trust, name, status) in cases {
        let gate = Gate::with(|scope| https(addr, scope, name, trust.clone())).await;
        let answer = raw::get(gate.addr, "app.localhost", "/head").await.unwrap();
        assert_eq!(answer.status, status, "{name} {trust:?}: {}", answer.text());
        match status {
            200 => assert!(answer.text().contains("x-forwarded-proto: http\r\n"), "{}", answer.text()),
            _ => assert!(answer.text().contains("certificate"), "{}", answer.text()),
        }
    }
    scope.abort();
}

#[tokio::test]
async fn tls_to_a_service_is_kept_between_requests() {
    let (origin, ca, scope) = (HttpOrigin::start().await.unwrap(), TestCa::new().unwrap(), Scope::root());
    let addr = front(origin.addr(), &ca, &["http/1.1"], &scope).await;
    let gate = Gate::with(|scope| https(addr, scope, "localhost", UpstreamTrust::Anything)).await;
    for _ in 0..3 {
        assert_eq!(raw::get(gate.addr, "app.localhost", "/bytes/100000").await.unwrap().body.len(), 100_000);
    }
    assert_eq!(origin.connections(), 1);
    scope.abort();
}

#[tokio::test]
async fn grpc_to_a_service_behind_tls_is_http2_by_alpn() {
    let (origin, ca, scope) = (GrpcOrigin::start().await.unwrap(), TestCa::new().unwrap(), Scope::root());
    let addr = front(origin.addr(), &ca, &["h2"], &scope).await;
    let gate = Gate::with(|scope| https(addr, scope, "localhost", UpstreamTrust::Anything)).await;
    let io = TcpStream::connect(gate.addr).await.unwrap();
    let answer = testkit::origin::grpc_call(io, "app.localhost", "/x", "hello".into()).await.unwrap();
    assert_eq!(
        (answer.status, &answer.body[..], &answer.trailers["grpc-status"]),
        (200, &b"hello"[..], &"0".parse().unwrap())
    );
    scope.abort();
}

/// Starts as it is told to.
struct Start {
    kind: Kind,
    begun: AtomicU64,
    given_up: AtomicU64,
}

enum Kind {
    /// A stream within something else.
    Piped(SocketAddr, Scope),
    /// A service that can be reached once it may.
    Late(SocketAddr, Semaphore),
    Fails,
    Never,
}

impl Start {
    fn new(kind: Kind) -> Arc<Self> {
        Arc::new(Self { kind, begun: AtomicU64::new(0), given_up: AtomicU64::new(0) })
    }
}

struct GivenUp<'a>(&'a AtomicU64);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Connect for Start {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(async {
            self.begun.fetch_add(1, Ordering::Relaxed);
            match &self.kind {
                Kind::Piped(service, scope) => {
                    let (near, mut far) = tokio::io::duplex(1000);
                    let service = *service;
                    scope.spawn("pipe", async move {
                        let mut tcp = TcpStream::connect(service).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut far, &mut tcp).await;
                    });
                    Ok(Io::other(near))
                }
                Kind::Late(service, may) => {
                    let given_up = GivenUp(&self.given_up);
                    let _may = may.acquire().await.unwrap();
                    std::mem::forget(given_up);
                    Ok(Io::Tcp(TcpStream::connect(service).await.unwrap()))
                }
                Kind::Fails => Err(ConnectError::Unavailable {
                    target: self.describe(),
                    reason: "no pod is ready".into(),
                    hint: None,
                }),
                Kind::Never => {
                    let _given_up = GivenUp(&self.given_up);
                    std::future::pending().await
                }
            }
        })
    }

    fn describe(&self) -> String {
        "k8s://dev/shop/service/web:80".into()
    }
}

async fn gate_to(start: &Arc<Start>) -> Gate {
    let connect = Arc::clone(start) as Arc<dyn Connect>;
    Gate::with(|scope| UpstreamOptions { connect, ..options(([127, 0, 0, 1], 9).into(), scope) }).await
}

#[tokio::test]
async fn a_stream_that_is_no_socket_serves_as_well() {
    let (origin, scope) = (HttpOrigin::start().await.unwrap(), Scope::root());
    let start = Start::new(Kind::Piped(origin.addr(), scope.clone()));
    let gate = gate_to(&start).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.get("app.localhost", "/bytes/50000").await.unwrap().body.len(), 50_000);
        let echoed = client.request("POST", "app.localhost", "/echo", &[], &[7; 50_000]).await.unwrap();
        assert_eq!(echoed.body, [7; 50_000]);
    }
    assert_eq!(start.begun.load(Ordering::Relaxed), 1);
    scope.abort();
}

/// HTTP/2 to a service through a stream whose end can be seen.
async fn gate_by_h2(start: &Arc<Start>, scheme: UpstreamScheme, keep: Duration) -> Gate {
    let connect = Arc::clone(start) as Arc<dyn Connect>;
    let nowhere = ([127, 0, 0, 1], 9).into();
    Gate::with(|scope| UpstreamOptions { connect, scheme, keep, ..options(nowhere, scope) }).await
}

async fn grpc(gate: &Gate, path: &str) -> io::Result<GrpcAnswer> {
    let io = TcpStream::connect(gate.addr).await.unwrap();
    testkit::origin::grpc_call(io, "app.localhost", path, "hello".into()).await
}

#[tokio::test]
async fn an_http2_connection_that_nobody_uses_is_let_go_and_one_in_use_is_not() {
    let (origin, scope, keep) = (GrpcOrigin::start().await.unwrap(), Scope::root(), Duration::from_millis(100));
    let start = Start::new(Kind::Piped(origin.addr(), scope.clone()));
    let gate = gate_by_h2(&start, UpstreamScheme::H2c, keep).await;
    for round in 1..=2 {
        // A request whose body takes longer than an idle connection is kept.
        let mut client = Client::connect(gate.addr).await.unwrap();
        client.send(&raw::head("POST", "app.localhost", "/x", &[], Some(5))).await.unwrap();
        client.send(b"hel").await.unwrap();
        until("the call", || origin.calls() == round * 2 - 1).await;
        tokio::time::sleep(keep * 4).await;
        client.send(b"lo").await.unwrap();
        assert_eq!(client.response(false).await.unwrap().text(), "hello");
        assert_eq!(grpc(&gate, "/x").await.unwrap().status, 200);
        assert_eq!(start.begun.load(Ordering::Relaxed), round, "one connection for both");
        until("the end of the connection", || scope.is_idle()).await;
    }
}

#[tokio::test]
async fn an_http2_connection_does_not_hold_up_a_drain() {
    let (origin, scope) = (GrpcOrigin::start().await.unwrap(), Scope::root());
    let start = Start::new(Kind::Piped(origin.addr(), scope.clone()));
    let gate = gate_by_h2(&start, UpstreamScheme::H2c, Duration::from_secs(30)).await;
    assert_eq!(grpc(&gate, "/x").await.unwrap().status, 200);
    gate.scope.drain();
    until("the end of the connection", || scope.is_idle() && gate.scope.is_idle()).await;
}

#[tokio::test]
async fn many_first_calls_ask_once_whether_http2_is_spoken() {
    let (origin, scope) = (GrpcOrigin::start().await.unwrap(), Scope::root());
    let start = Start::new(Kind::Piped(origin.addr(), scope.clone()));
    let gate = gate_by_h2(&start, UpstreamScheme::Http, Duration::from_secs(30)).await;
    let (a, b, c, d) = tokio::join!(grpc(&gate, "/a"), grpc(&gate, "/b"), grpc(&gate, "/c"), grpc(&gate, "/d"));
    for answer in [a, b, c, d] {
        assert_eq!(answer.unwrap().trailers["grpc-status"], "0");
    }
    assert_eq!(start.begun.load(Ordering::Relaxed), 2, "one to ask, one for all");
    scope.abort();
}

#[tokio::test]
async fn a_service_that_is_replaced_by_one_without_http2_is_asked_again() {
    let (origin, keep) = (GrpcOrigin::start().await.unwrap(), Duration::from_millis(50));
    let addr = origin.addr();
    let gate = Gate::with(|scope| UpstreamOptions { keep, ..options(addr, scope) }).await;
    assert_eq!(grpc(&gate, "/x").await.unwrap().trailers["grpc-status"], "0");
    // Nothing is left of it but what was found out.
    tokio::time::sleep(keep * 4).await;
    drop(origin);
    let mut replaced = HttpOrigin::start_on(addr).await;
    while replaced.is_err() {
        tokio::task::yield_now().await;
        replaced = HttpOrigin::start_on(addr).await;
    }
    let calling = async {
        loop {
            let answer = grpc(&gate, "/sink").await.unwrap();
            match answer.status {
                502 => {}
                status => return (status, answer.body),
            }
        }
    };
    let (status, body) = tokio::time::timeout(PATIENCE, calling).await.expect("it is found out");
    assert_eq!((status, &body[..]), (200, &b"5"[..]));
}

#[tokio::test]
async fn a_start_that_fails_is_told_with_the_targets_reason() {
    let gate = gate_to(&Start::new(Kind::Fails)).await;
    let answer = raw::get(gate.addr, "app.localhost", "/").await.unwrap();
    assert_eq!(answer.status, 502);
    assert!(
        answer.text().contains("k8s://dev/shop/service/web:80 is not available: no pod is ready."),
        "{}",
        answer.text()
    );
    assert!(gate.app().counters().last_error().unwrap().1.contains("no pod is ready"));
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_start_up() {
    let start = Start::new(Kind::Never);
    let gate = gate_to(&start).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
    until("the start", || start.begun.load(Ordering::Relaxed) == 1).await;
    drop(client);
    until("the end of the start", || start.given_up.load(Ordering::Relaxed) == 1).await;
}

/// A gateway whose route waits so long for the head of an answer.
async fn gate_within(limit: Duration, start: &Arc<Start>, scheme: UpstreamScheme) -> Gate {
    let connect = Arc::clone(start) as Arc<dyn Connect>;
    let nowhere = ([127, 0, 0, 1], 9).into();
    Gate::with(|scope| UpstreamOptions { connect, scheme, timeout: Some(limit), ..options(nowhere, scope) }).await
}

#[tokio::test]
async fn a_routes_timeout_covers_starting_and_connecting_whatever_is_spoken() {
    let limit = Duration::from_millis(200);
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "websocket")];
    for (scheme, headers) in
        [(UpstreamScheme::Http, &[][..]), (UpstreamScheme::Http, &upgrade[..]), (UpstreamScheme::H2c, &[][..])]
    {
        let start = Start::new(Kind::Never);
        let gate = gate_within(limit, &start, scheme).await;
        let asking = raw::request(gate.addr, "GET", "app.localhost", "/", headers, b"");
        let answer = tokio::time::timeout(PATIENCE, asking).await.expect("in time").unwrap();
        assert_eq!((answer.status, answer.header("x-adit-error")), (504, Some("timeout")), "{scheme:?} {headers:?}");
        let text = answer.text();
        assert!(
            text.contains("could not be reached within 200ms") && text.contains("raise the route's timeout"),
            "{text}"
        );
        until("the end of the start", || start.given_up.load(Ordering::Relaxed) == 1).await;
    }
    // Whether HTTP/2 is spoken is a question that connects, too.
    let gate = gate_within(limit, &Start::new(Kind::Never), UpstreamScheme::Http).await;
    let answer = tokio::time::timeout(PATIENCE, grpc(&gate, "/x")).await.expect("in time").unwrap();
    assert_eq!(answer.status, 504);
}

#[tokio::test]
async fn the_time_a_connection_took_is_a_part_of_the_routes_timeout() {
    let origin = HttpOrigin::start().await.unwrap();
    let limit = Duration::from_secs(1);
    let start = Start::new(Kind::Late(origin.addr(), Semaphore::new(0)));
    let gate = gate_within(limit, &start, UpstreamScheme::Http).await;
    let begun = std::time::Instant::now();
    let asking = raw::get(gate.addr, "app.localhost", "/silent");
    let opening = async {
        tokio::time::sleep(limit * 3 / 4).await;
        let Kind::Late(_, may) = &start.kind else { unreachable!() };
        may.add_permits(1);
    };
    let (answer, ()) = tokio::join!(asking, opening);
    assert_eq!(answer.unwrap().status, 504);
    assert!(begun.elapsed() < limit * 7 / 4, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_waits_for_a_connection_with_one_that_gives_up_gets_it_all_the_same() {
    let origin = GrpcOrigin::start().await.unwrap();
    let limit = Duration::from_secs(2);
    let start = Start::new(Kind::Late(origin.addr(), Semaphore::new(0)));
    let gate = gate_within(limit, &start, UpstreamScheme::H2c).await;
    let first = async {
        let answer = grpc(&gate, "/x").await.unwrap();
        let Kind::Late(_, may) = &start.kind else { unreachable!() };
        may.add_permits(1);
        answer.status
    };
    let second = async {
        until("the start", || start.begun.load(Ordering::Relaxed) == 1).await;
        tokio::time::sleep(limit / 2).await;
        grpc(&gate, "/x").await.unwrap().status
    };
    assert_eq!(tokio::join!(first, second), (504, 200));
}

/// Connections of which the first dies between being looked at in the pool and being used.
struct Fickle {
    service: SocketAddr,
    connections: AtomicU64,
    phase: Arc<AtomicU64>,
}

const HEALTHY: u64 = 0;
/// The next time there is nothing to read it is looked at for the last time.
const DOOMED: u64 = 1;
const DEAD: u64 = 2;

struct FickleStream {
    tcp: TcpStream,
    /// Of the first connection only.
    phase: Option<Arc<AtomicU64>>,
}

impl Connect for Fickle {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(async {
            let first = self.connections.fetch_add(1, Ordering::Relaxed) == 0;
            let tcp = TcpStream::connect(self.service).await.unwrap();
            Ok(Io::other(FickleStream { tcp, phase: first.then(|| Arc::clone(&self.phase)) }))
        })
    }

    fn describe(&self) -> String {
        "a service".into()
    }
}

impl AsyncRead for FickleStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.phase.as_ref().map_or(HEALTHY, |phase| phase.load(Ordering::Relaxed)) {
            DEAD => return Poll::Ready(Ok(())),
            DOOMED => this.phase.as_ref().unwrap().store(DEAD, Ordering::Relaxed),
            _ => {}
        }
        Pin::new(&mut this.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for FickleStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_request_of_which_a_dead_connection_took_nothing_is_sent_by_another_whatever_its_method() {
    let origin = HttpOrigin::start().await.unwrap();
    for method in ["GET", "POST", "PATCH", "PROPFIND", "REPORT"] {
        let phase = Arc::new(AtomicU64::new(HEALTHY));
        let connect =
            Arc::new(Fickle { service: origin.addr(), connections: AtomicU64::new(0), phase: Arc::clone(&phase) });
        let dialled = Arc::clone(&connect) as Arc<dyn Connect>;
        let gate = Gate::with(|scope| UpstreamOptions { connect: dialled, ..options(origin.addr(), scope) }).await;
        let mut client = Client::connect(gate.addr).await.unwrap();
        assert_eq!(client.get("app.localhost", "/").await.unwrap().status, 200);
        until("the end of the first exchange", || gate.app().counters().active.load(Ordering::Relaxed) == 0).await;
        phase.store(DOOMED, Ordering::Relaxed);
        let answer = client.request(method, "app.localhost", "/", &[], b"").await.unwrap();
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        assert_eq!(phase.load(Ordering::Relaxed), DEAD, "{method}: it was looked at");
        assert_eq!(connect.connections.load(Ordering::Relaxed), 2, "{method}");
    }
}
