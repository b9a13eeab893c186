//! Targets of every kind: services that speak TLS, streams that are no sockets, starts that fail or take their time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gateway::upstream::{UpstreamOptions, UpstreamScheme, UpstreamTls, UpstreamTrust};
use runtime::tls::ServerTrust;
use runtime::{BoxFuture, Connect, ConnectError, Io, Scope};
use testkit::cert::TestCa;
use testkit::origin::{GrpcOrigin, HttpOrigin};
use testkit::raw::{self, Client};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Gate, options, until};

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
