//! Services that speak TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use gateway::upstream::{UpstreamOptions, UpstreamScheme, UpstreamTls, UpstreamTrust};
use runtime::Scope;
use runtime::tls::ServerTrust;
use testkit::cert::TestCa;
use testkit::origin::{GrpcOrigin, HttpOrigin};
use testkit::raw;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Gate, options};

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
