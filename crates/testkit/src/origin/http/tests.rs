//! Every path of the HTTP service behaves as its table says.

use std::time::{Duration, Instant};

use super::{HttpOrigin, RANGE_LENGTH, pattern};
use crate::raw::{self, Client};
use crate::ws::{Message, WebSocket};

async fn get(target: &str) -> raw::Response {
    let origin = HttpOrigin::start().await.unwrap();
    raw::get(origin.addr(), "origin", target).await.unwrap()
}

/// Waits for a condition that another task will make true.
async fn until(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "the condition never held");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let origin = HttpOrigin::start().await.unwrap();
    let mut client = Client::connect(origin.addr()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.get("origin", "/").await.unwrap().text(), "Hello, world!");
    }
    assert_eq!((origin.connections(), origin.requests(), origin.heads().len()), (1, 3, 3));
    assert!(origin.last_head().unwrap().starts_with("GET / HTTP/1.1\r\nHost: origin\r\n"));
}

#[tokio::test]
async fn the_quiet_service_answers_alike() {
    let origin = HttpOrigin::start_quiet().await.unwrap();
    let mut client = Client::connect(origin.addr()).await.unwrap();
    assert_eq!(client.get("origin", "/").await.unwrap().text(), "Hello, world!");
    let posted = client.request("POST", "origin", "/echo", &[], b"abc").await.unwrap();
    assert_eq!(posted.text(), "abc");
    assert!(origin.heads().is_empty());
}

#[tokio::test]
async fn bodies_come_by_length_and_in_chunks() {
    for target in ["/bytes/200001", "/bytes/200001?chunked"] {
        assert!(get(target).await.body == pattern(0, 200_001), "{target}");
    }
    assert_eq!(get("/bytes/0?chunked").await.body, b"");
}

#[tokio::test]
async fn a_body_is_echoed_while_it_arrives() {
    let origin = HttpOrigin::start().await.unwrap();
    let mut client = Client::connect(origin.addr()).await.unwrap();
    let head = raw::head("POST", "origin", "/echo", &[("Transfer-Encoding", "chunked")], None);
    client.send(&head).await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 200);
    for piece in ["one", "three"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        assert_eq!(client.piece().await.unwrap().unwrap(), piece);
    }
    client.send(b"0\r\nx-sum: 8\r\n\r\n").await.unwrap();
    assert_eq!(client.piece().await.unwrap(), None);
    assert_eq!(client.trailers(), [("x-sum".to_owned(), "8".to_owned())]);
}

#[tokio::test]
async fn an_expected_continue_is_sent_before_the_body() {
    let origin = HttpOrigin::start().await.unwrap();
    let mut client = Client::connect(origin.addr()).await.unwrap();
    client.send(&raw::head("POST", "origin", "/sink", &[("Expect", "100-continue")], Some(4))).await.unwrap();
    assert_eq!(client.any_head(false).await.unwrap().status, 100);
    client.send(b"body").await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "4");
}

#[tokio::test]
async fn statuses_ranges_and_trailers_are_right() {
    assert_eq!(get("/status/204").await.status, 204);
    assert_eq!(get("/status/503").await.status, 503);
    assert_eq!(get("/nowhere").await.status, 404);
    assert_eq!(get("/trailers").await.trailer("X-Checksum"), Some("13"));
    assert_eq!(get("/early").await.interim, [103]);
    assert_eq!(get("/no-length").await.text(), "Hello, world!");
    let origin = HttpOrigin::start().await.unwrap();
    let mut client = Client::connect(origin.addr()).await.unwrap();
    for (range, status, body) in [
        ("bytes=10-19", 206, pattern(10, 10)),
        ("bytes=-5", 206, pattern(RANGE_LENGTH - 5, 5)),
        ("bytes=999990-", 206, pattern(999_990, 10)),
        ("bytes=2000000-", 416, Vec::new()),
    ] {
        let answer = client.request("GET", "origin", "/range", &[("Range", range)], b"").await.unwrap();
        assert_eq!((answer.status, answer.body), (status, body), "{range}");
    }
    let answer = client.request("HEAD", "origin", "/range", &[], b"").await.unwrap();
    assert_eq!((answer.header("content-length"), answer.body.len()), (Some("1000000"), 0));
}

#[tokio::test]
async fn broken_answers_are_broken() {
    let origin = HttpOrigin::start().await.unwrap();
    for target in ["/reset", "/garbage", "/reset-mid-body", "/close-mid-body"] {
        assert!(raw::get(origin.addr(), "origin", target).await.is_err(), "{target}");
    }
    let answer = raw::request(origin.addr(), "POST", "origin", "/reject", &[], b"").await.unwrap();
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn events_come_one_by_one() {
    let text = get("/sse?events=3&ms=1").await.text();
    assert_eq!(text, "id: 0\ndata: event 0\n\nid: 1\ndata: event 1\n\nid: 2\ndata: event 2\n\n");
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_cancelled() {
    let origin = HttpOrigin::start().await.unwrap();
    for (number, target) in ["/silent", "/sse?events=0", "/slow?ms=60000"].into_iter().enumerate() {
        let mut client = Client::connect(origin.addr()).await.unwrap();
        client.send(&raw::head("GET", "origin", target, &[], None)).await.unwrap();
        until(|| origin.in_flight() == 1).await;
        drop(client);
        until(|| origin.cancelled() == number as u64 + 1 && origin.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn websocket_messages_come_back() {
    let origin = HttpOrigin::start().await.unwrap();
    let mut socket = WebSocket::connect(origin.addr(), "origin", "/ws").await.unwrap();
    socket.send_text("hello").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("hello".to_owned())));
    for length in [0, 125, 126, 65_535, 65_536, 300_000] {
        socket.send(Message::Binary(pattern(0, length))).await.unwrap();
        assert!(socket.receive().await.unwrap() == Some(Message::Binary(pattern(0, length))), "{length}");
    }
    socket.send(Message::Ping(vec![1, 2])).await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Pong(vec![1, 2])));
    socket.close().await.unwrap();
}

#[tokio::test]
async fn any_upgrade_becomes_an_echo_of_bytes() {
    let origin = HttpOrigin::start().await.unwrap();
    let mut client = Client::connect(origin.addr()).await.unwrap();
    let headers = [("Connection", "Upgrade"), ("Upgrade", "custom")];
    client.send(&raw::head("GET", "origin", "/upgrade", &headers, None)).await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().header("upgrade"), Some("custom"));
    client.send(b"\x00raw").await.unwrap();
    assert_eq!(client.exactly(4).await.unwrap(), "\x00raw");
    client.finish().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), b"");
}
