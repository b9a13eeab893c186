//! Tests of the agent: tcp.
use bytes::Bytes;
use mux::{ErrorCode, Incoming, Open};
use testkit::origin::TcpOrigin;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::fake_server::{FakeServer, answer, expect};
use super::*;

async fn serving(to: SocketAddr, change: impl FnOnce(&mut AgentTunnel)) -> (FakeServer, Running) {
    let server = FakeServer::start().await;
    let mut tunnel = tunnel("db", Wanted::Port(15_432), to);
    change(&mut tunnel);
    let mut running = start(config(&server, vec![tunnel]));
    running.published().await;
    (server, running)
}

fn visit(server: &FakeServer) -> crate::Stream {
    let visitor = "192.0.2.7:4711".parse().unwrap();
    server.open(Open::tcp(1, Some(visitor), Some("198.51.100.1:15432".parse().unwrap())), false)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
    let origin = TcpOrigin::start().await.unwrap();
    let (server, mut running) = serving(origin.addr(), |_| {}).await;
    let stream = visit(&server);
    stream.send(Bytes::from_static(b"echo\nhello")).await.unwrap();
    expect(&stream, b"hello").await;
    stream.finish().unwrap();
    assert_eq!(within(stream.recv()).await.unwrap(), Incoming::End);
    let event = running
        .event(|event| match event {
            AgentEvent::Request(event) => Some(event),
            _ => None,
        })
        .await;
    assert_eq!((event.method.as_str(), event.path.as_str()), ("TCP", "192.0.2.7:4711"));
    assert_eq!((event.received, event.sent, event.error), (10, 5, None));
}

#[tokio::test]
async fn a_visitor_who_leaves_after_its_end_ends_the_local_side_though_the_service_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, mut running) = serving(listener.local_addr().unwrap(), |_| {}).await;
    let stream = visit(&server);
    let (mut service, _) = within(listener.accept()).await.unwrap();
    stream.send(Bytes::from_static(b"query")).await.unwrap();
    stream.finish().unwrap();
    let mut query = String::new();
    within(service.read_to_string(&mut query)).await.unwrap();
    // It is still there for an answer.
    service.write_all(b"first").await.unwrap();
    expect(&stream, b"first").await;
    stream.reset(ErrorCode::Cancel);
    let event = running
        .event(|event| match event {
            AgentEvent::Request(event) => Some(event),
            _ => None,
        })
        .await;
    assert_eq!((event.received, event.sent, event.error), (5, 5, None));
    within(async { while service.write_all(b"x").await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_service_that_ends_first_still_gets_what_the_visitor_sends() {
    let origin = TcpOrigin::start().await.unwrap();
    let (server, _running) = serving(origin.addr(), |_| {}).await;
    let stream = visit(&server);
    stream.send(Bytes::from_static(b"first key1\n")).await.unwrap();
    expect(&stream, b"hello").await;
    assert_eq!(within(stream.recv()).await.unwrap(), Incoming::End);
    within(stream.send(vec![b'x'; 300_000].into())).await.unwrap();
    stream.finish().unwrap();
    within(async {
        while origin.tally("key1") != 300_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_service_is_told_the_visitors_address_if_it_wants() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, _running) = serving(listener.local_addr().unwrap(), |tunnel| {
        tunnel.proxy_protocol = true;
    })
    .await;
    let stream = visit(&server);
    stream.send(Bytes::from_static(b"query")).await.unwrap();
    let (mut tcp, _) = within(listener.accept()).await.unwrap();
    let mut got = vec![0; 28 + 5];
    within(tcp.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(got[16..28], [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x3c, 0x48]);
    assert_eq!(&got[28..], b"query");
}

#[tokio::test]
async fn a_service_that_is_down_or_resets_is_told_as_such() {
    let (server, _running) = serving(closed(), |_| {}).await;
    assert_eq!(answer(&visit(&server)).await.unwrap_err(), ErrorCode::Connect);
    let origin = TcpOrigin::start().await.unwrap();
    let (server, _running) = serving(origin.addr(), |_| {}).await;
    let stream = visit(&server);
    stream.send(Bytes::from_static(b"reset 10\n")).await.unwrap();
    assert!(answer(&stream).await.is_err());
}

#[tokio::test]
async fn a_visitor_who_resets_resets_the_local_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, _running) = serving(listener.local_addr().unwrap(), |_| {}).await;
    let stream = visit(&server);
    let (mut tcp, _) = within(listener.accept()).await.unwrap();
    stream.send(Bytes::from_static(b"x")).await.unwrap();
    within(tcp.read_u8()).await.unwrap();
    stream.reset(ErrorCode::Cancel);
    let error = within(tcp.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
