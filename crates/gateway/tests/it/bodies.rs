//! Bodies both ways: lengths, chunks, trailers, streams, and nothing buffered on the way.

use std::time::Duration;

use testkit::origin::{HttpOrigin, pattern};
use testkit::raw::{self, Client};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Gate, PATIENCE, until};

#[tokio::test]
async fn large_bodies_pass_both_ways_whatever_their_framing() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    for target in ["/bytes/3000000", "/bytes/3000000?chunked"] {
        let answer = client.get("app.localhost", target).await.unwrap();
        assert!(answer.body == pattern(0, 3_000_000), "{target}");
    }
    let answer = client.request("PUT", "app.localhost", "/echo", &[], &pattern(0, 2_000_000)).await.unwrap();
    assert!(answer.body == pattern(0, 2_000_000));
    assert_eq!(origin.connections(), 1);
    until("the count", || gate.site.counters.sent.load(std::sync::atomic::Ordering::Relaxed) == 8_000_000).await;
}

#[tokio::test]
async fn the_bytes_of_a_route_are_those_that_cross_heads_too() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let counters = || {
        let load = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
        let app = gate.app();
        (load(&app.counters().received), load(&app.counters().sent))
    };
    let answer = raw::get(gate.addr, "app.localhost", "/head").await.unwrap();
    // The service tells the head that it got.
    until("the count", || counters().1 > answer.body.len() as u64).await;
    assert_eq!(counters().0, answer.body.len() as u64, "{}", answer.text());
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_passed_on() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let answer = raw::get(gate.addr, "app.localhost", "/no-length").await.unwrap();
    assert_eq!(answer.text(), "Hello, world!");
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(b"GET /trailers HTTP/1.1\r\nHost: app.localhost\r\nTE: trailers\r\n\r\n").await.unwrap();
    let answer = client.response(false).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.trailer("x-checksum")), ("Hello, world!", Some("13")));
    let sent = b"POST /echo HTTP/1.1\r\nHost: app.localhost\r\nTE: trailers\r\nTrailer: x-end\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-end: yes\r\nx-forwarded-for: 1.1.1.1\r\n\r\n";
    client.send(sent).await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "hello");
}

#[tokio::test]
async fn a_get_may_have_a_body_of_unknown_length() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    let sent = b"GET /echo HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.send(sent).await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "abc");
}

#[tokio::test]
async fn head_and_answers_without_a_body_leave_the_connection_usable() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    for _ in 0..2 {
        let answer = client.request("HEAD", "app.localhost", "/", &[], b"").await.unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("13")));
        for status in [204, 304] {
            let answer = client.get("app.localhost", &format!("/status/{status}")).await.unwrap();
            assert_eq!((answer.status, answer.body.len()), (status, 0));
        }
        assert_eq!(client.get("app.localhost", "/").await.unwrap().text(), "Hello, world!");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn expect_is_answered_before_the_body_is_sent() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    let head = [("Expect", "100-continue")];
    client.send(&raw::head("POST", "app.localhost", "/sink", &head, Some(5))).await.unwrap();
    assert_eq!(client.any_head(false).await.unwrap().status, 100);
    client.send(b"hello").await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "5");
    // Nobody waits for the body of a request that is not carried.
    let head = raw::head("POST", "nobody.localhost", "/sink", &head, Some(5));
    client.send(&head).await.unwrap();
    assert_eq!(client.any_head(false).await.unwrap().status, 404);
}

#[tokio::test]
async fn early_hints_do_not_disturb_the_answer() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    assert_eq!(raw::get(gate.addr, "app.localhost", "/early").await.unwrap().text(), "Hello, world!");
}

#[tokio::test]
async fn events_arrive_one_by_one_and_their_end_is_the_clients_to_choose() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/sse?events=0&ms=5", &[], None)).await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 200);
    let first = client.piece().await.unwrap().unwrap();
    assert!(first.starts_with(b"id: 0\n"), "{first:?}");
    assert!(client.piece().await.unwrap().unwrap().starts_with(b"id: "));
    drop(client);
    until("the cancel", || origin.cancelled() == 1).await;
    until("the end of the stream", || gate.app().counters().active.load(std::sync::atomic::Ordering::Relaxed) == 0)
        .await;
}

#[tokio::test]
async fn a_body_is_echoed_while_it_is_still_being_sent() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    let head = [("Transfer-Encoding", "chunked")];
    client.send(&raw::head("POST", "app.localhost", "/echo", &head, None)).await.unwrap();
    client.send(b"3\r\none\r\n").await.unwrap();
    client.response_head(false).await.unwrap();
    assert_eq!(client.piece().await.unwrap().unwrap(), "one");
    client.send(b"3\r\ntwo\r\n").await.unwrap();
    assert_eq!(client.piece().await.unwrap().unwrap(), "two");
    client.send(b"0\r\n\r\n").await.unwrap();
    assert_eq!(client.piece().await.unwrap(), None);
    assert_eq!(client.get("app.localhost", "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_service_that_does_not_read_holds_the_client_back() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let client = TcpStream::connect(gate.addr).await.unwrap();
    let head = raw::head("POST", "app.localhost", "/", &[("Transfer-Encoding", "chunked")], None);
    let mut sent = 0_usize;
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 65536], b"\r\n".to_vec()].concat();
    let mut rest = [head, chunk.clone()].concat();
    // Until nothing moves for a while: a bounded amount, whatever the kernel's buffers hold.
    while tokio::time::timeout(Duration::from_millis(300), client.writable()).await.is_ok() {
        if let Ok(n) = client.try_write(&rest) {
            sent += n;
            rest.drain(..n);
        }
        if rest.is_empty() {
            rest.clone_from(&chunk);
        }
        assert!(sent < 64 << 20, "the gateway took {sent} bytes for a service that takes none");
    }
    let (mut service, _) = listener.accept().await.unwrap();
    let mut got = vec![0; 1 << 20];
    tokio::time::timeout(PATIENCE, service.read_exact(&mut got)).await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, client.writable()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_service_back() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/bytes/300000000", &[], None)).await.unwrap();
    client.response_head(false).await.unwrap();
    let sent = || gate.site.counters.sent.load(std::sync::atomic::Ordering::Relaxed);
    let mut before = u64::MAX;
    while before != sent() {
        before = sent();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < 64 << 20, "the gateway took {before} bytes for a client that takes none");
    drop(client);
    until("the cancel", || origin.cancelled() == 1).await;
}
