//! WebSockets and other protocols behind an upgrade.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gateway::http::{Arrival, Scheme, serve};
use gateway::upstream::{UpstreamOptions, UpstreamScheme, UpstreamTls, UpstreamTrust};
use testkit::cert::TestCa;
use testkit::origin::HttpOrigin;
use testkit::raw::{self, Client};
use testkit::ws::{Message, WebSocket};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Gate, PATIENCE, options, until};

const UPGRADE: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "echo/1")];

#[tokio::test]
async fn a_websocket_passes_and_silence_does_not_end_it() {
    let origin = HttpOrigin::start().await.unwrap();
    let quick = |site: &mut gateway::http::Site| {
        site.times.idle = Duration::from_millis(50);
        site.times.head = Duration::from_millis(50);
    };
    let gate = Gate::whole(|scope| options(origin.addr(), scope), quick).await;
    let mut socket = WebSocket::connect(gate.addr, "app.localhost", "/ws").await.unwrap();
    for text in ["one", "two"] {
        socket.send_text(text).await.unwrap();
        assert_eq!(socket.receive().await.unwrap(), Some(Message::Text(text.into())));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let counters = &gate.site.counters;
    // Two frames of a head, for the client's with a mask, and three letters each.
    assert_eq!(counters.received.load(Ordering::Relaxed), 2 * (2 + 4 + 3));
    assert_eq!(counters.sent.load(Ordering::Relaxed), 2 * (2 + 3));
    assert_eq!(gate.app().counters().active.load(Ordering::Relaxed), 1);
    socket.close().await.unwrap();
    until("the end", || origin.open() == 0).await;
}

#[tokio::test]
async fn each_direction_of_an_upgraded_connection_ends_on_its_own() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/upgrade", &UPGRADE, None)).await.unwrap();
    let answer = client.response_head(false).await.unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("echo/1")));
    client.send(b"\x00not http\xff").await.unwrap();
    assert_eq!(client.exactly(10).await.unwrap(), &b"\x00not http\xff"[..]);
    client.send(b"the last").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), b"the last");
}

#[tokio::test]
async fn what_a_service_sends_with_its_101_is_not_lost() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/", &UPGRADE, None)).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    service.write_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\nfirst words").await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 101);
    assert_eq!(client.exactly(11).await.unwrap(), "first words");
}

#[tokio::test]
async fn a_refused_upgrade_is_answered_and_the_connection_ends() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for (host, status) in [("app.localhost", 404), ("nobody.localhost", 404)] {
        let mut client = Client::connect(gate.addr).await.unwrap();
        client.send(&raw::head("GET", host, "/nothing", &UPGRADE, None)).await.unwrap();
        let answer = client.response(false).await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        assert_eq!(client.rest().await.unwrap(), b"");
    }
}

#[tokio::test]
async fn a_drain_leaves_an_upgraded_connection_alone_and_a_cancel_ends_it() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut socket = WebSocket::connect(gate.addr, "app.localhost", "/ws").await.unwrap();
    gate.scope.drain();
    socket.send_text("still here").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still here".into())));
    gate.scope.cancel();
    assert!(matches!(socket.receive().await, Ok(None) | Err(_)));
    until("the end", || origin.open() == 0).await;
}

/// A client and its service, with a connection between them that is no HTTP any more.
async fn upgraded(gate: &Gate, listener: &TcpListener) -> (TcpStream, TcpStream) {
    switched(Client::connect(gate.addr).await.unwrap(), async { listener.accept().await.unwrap().0 }).await
}

async fn switched<C, S>(mut client: Client<C>, service: impl Future<Output = S>) -> (C, S)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    client.send(&raw::head("GET", "app.localhost", "/", &UPGRADE, None)).await.unwrap();
    let mut service = service.await;
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        assert_ne!(service.read_buf(&mut said).await.unwrap(), 0);
    }
    service.write_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n").await.unwrap();
    service.flush().await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 101);
    client.send(b"half of").await.unwrap();
    service.read_exact(&mut [0; 7]).await.unwrap();
    let (client, rest) = client.into_parts();
    assert!(rest.is_empty());
    (client, service)
}

async fn is_reset(end: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(PATIENCE, end.read(&mut [0; 8])).await.expect("it is told");
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

fn reset(end: TcpStream) {
    socket2::SockRef::from(&end).set_linger(Some(Duration::ZERO)).unwrap();
    drop(end);
}

#[tokio::test]
async fn what_is_reset_at_one_end_of_an_upgraded_connection_is_reset_at_the_other() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let (client, mut service) = upgraded(&gate, &listener).await;
    reset(client);
    assert!(is_reset(&mut service).await, "the service takes a part for the whole");
    let (mut client, service) = upgraded(&gate, &listener).await;
    reset(service);
    assert!(is_reset(&mut client).await, "the client takes a part for the whole");
}

#[tokio::test]
async fn a_cancel_is_a_reset_at_both_ends_of_an_upgraded_connection_and_so_is_an_abort() {
    for end in [runtime::Scope::cancel, runtime::Scope::abort] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let gate = Gate::to(listener.local_addr().unwrap()).await;
        let (mut client, mut service) = upgraded(&gate, &listener).await;
        end(&gate.scope);
        assert!(is_reset(&mut client).await && is_reset(&mut service).await);
    }
}

#[tokio::test]
async fn an_end_that_was_told_is_not_taken_back_when_an_upgraded_connection_is_cut() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let (mut client, mut service) = upgraded(&gate, &listener).await;
    service.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    gate.scope.cancel();
    assert!(is_reset(&mut service).await);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_ends_tls_by_tcp_alone_has_ended() {
    let (ca, listener) = (TestCa::new().unwrap(), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let acceptor = acceptor(&ca);
    let door = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let local = door.local_addr().unwrap();
    let connect = async || {
        let client = Client::connect_tls(local, "localhost", ca.client(&["http/1.1"]).unwrap());
        let accept = async {
            let (tcp, peer) = door.accept().await.unwrap();
            let arrival = Arrival { peer, local, scheme: Scheme::Https, sni: None };
            let tls = acceptor.accept(tcp).await.unwrap();
            gate.scope.spawn("client", serve(tls, arrival, Arc::clone(&gate.site), gate.scope.clone()));
        };
        let (client, ()) = tokio::join!(client, accept);
        switched(client.unwrap(), async { listener.accept().await.unwrap().0 }).await
    };
    let (mut client, mut service) = connect().await;
    client.get_mut().0.shutdown().await.unwrap();
    assert_eq!(service.read(&mut [0; 8]).await.expect("an end, and no reset"), 0);
    // The other direction goes on, to an end of its own.
    service.write_all(b"late").await.unwrap();
    drop(service);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"late");
    // What is reset stays a reset.
    let (client, mut service) = connect().await;
    reset(client.into_inner().0);
    assert!(is_reset(&mut service).await, "the service takes a part for the whole");
}

#[tokio::test]
async fn a_service_that_ends_tls_by_tcp_alone_has_ended() {
    let (ca, listener) = (TestCa::new().unwrap(), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
    let tls = UpstreamTls { server_name: "localhost".into(), trust: UpstreamTrust::Anything };
    let to = listener.local_addr().unwrap();
    let gate = Gate::with(|scope| UpstreamOptions { scheme: UpstreamScheme::Https, tls, ..options(to, scope) }).await;
    let acceptor = acceptor(&ca);
    let accept = async || acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
    let (mut client, mut service) = switched(Client::connect(gate.addr).await.unwrap(), accept()).await;
    service.get_mut().0.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.expect("an end, and no reset"), 0);
    client.write_all(b"late").await.unwrap();
    service.read_exact(&mut [0; 4]).await.unwrap();
    let (mut client, service) = switched(Client::connect(gate.addr).await.unwrap(), accept()).await;
    reset(service.into_inner().0);
    assert!(is_reset(&mut client).await, "the client takes a part for the whole");
}

fn acceptor(ca: &TestCa) -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(ca.leaf("ends", &["localhost"]).unwrap().server(&["http/1.1"]).unwrap()))
}
