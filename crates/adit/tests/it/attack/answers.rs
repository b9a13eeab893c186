//! Local services and agents whose answers are meant to be read in two ways; control bytes; early ends.

use mux::frame::{FrameType, flags};
use testkit::faulty::{Behaviour, FaultyListener};
use testkit::origin::HttpOrigin;
use testkit::raw;

use super::wire::RawAgent;
use crate::support::{Publish, Server};

#[tokio::test]
async fn s9_a_service_with_two_lengths_or_control_bytes_is_a_bad_answer() {
    let server = Server::start().await;
    let bad: [&[u8]; 9] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX-A: b\x01c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
    ];
    for said in bad {
        let service = FaultyListener::start(Behaviour::Say(said.to_vec())).await.unwrap();
        let agent = Publish::to(&server).http("app1", service.addr()).start().await;
        let answer = server.get("app1", "/").await;
        assert_eq!(answer.status, 502, "{:?}: {answer:?}", String::from_utf8_lossy(said));
        // What cannot be read may look like an end without an answer, never like one.
        let word = answer.header("x-adit-error").unwrap_or_default();
        assert!(matches!(word, "bad_answer" | "no_answer"), "{word}: {:?}", String::from_utf8_lossy(said));
        drop(agent);
    }
    let origin = HttpOrigin::start().await.unwrap();
    let _agent = Publish::to(&server).http("app2", origin.addr()).start().await;
    assert_eq!(server.get("app2", "/").await.status, 200);
}

#[tokio::test]
async fn s9_a_service_with_length_and_chunks_gives_one_reading() {
    let server = Server::start().await;
    let said =
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec();
    let service = FaultyListener::start(Behaviour::Say(said)).await.unwrap();
    let _agent = Publish::to(&server).http("app1", service.addr()).start().await;
    let bytes = raw::exchange(
        server.public,
        format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.host("app1")).as_bytes(),
    )
    .await
    .unwrap();
    let answer = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let framed = [answer.contains("content-length:"), answer.contains("transfer-encoding:")];
    assert!(framed != [true, true], "{answer}");
    assert!(answer.starts_with("http/1.1 502") || answer.contains("hello"), "{answer}");
}

/// An agent's answer of these headers and this body, as the visitor's connection shows it.
async fn lie(
    server: &Server,
    agent: &mut RawAgent,
    method: &str,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let request = format!("{method} / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.host("app1"));
    let visitor = raw::exchange(server.public, request.as_bytes());
    let serve = async {
        let (stream, _) = agent.wire.opened().await;
        agent.wire.answer(stream, status, headers, false).await.expect("the lane lives");
        agent.wire.send(FrameType::Data, flags::END, stream, body).await.expect("the lane lives");
    };
    let (answer, ()) = tokio::join!(visitor, serve);
    String::from_utf8_lossy(&answer.expect("an answer")).into_owned()
}

#[tokio::test]
async fn s9_a_lying_agent_cannot_split_an_answer() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    let second = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    type Lie = (&'static str, u16, Vec<(&'static str, &'static str)>);
    let lies: Vec<Lie> = vec![
        ("GET", 200, vec![("content-length", "0"), ("transfer-encoding", "chunked")]),
        ("GET", 200, vec![("transfer-encoding", "chunked"), ("content-length", "3")]),
        ("GET", 200, vec![("transfer-encoding", "identity")]),
        ("GET", 200, vec![("content-length", "3"), ("content-length", "5")]),
        ("GET", 200, vec![("content-length", "3, 5")]),
        ("GET", 200, vec![("content-length", "+3")]),
        ("GET", 200, vec![("content-length", "0")]),
        ("GET", 204, vec![("content-length", "44")]),
        ("GET", 304, vec![]),
        ("HEAD", 200, vec![("content-length", "44")]),
        ("GET", 200, vec![("connection", "keep-alive"), ("keep-alive", "timeout=99"), ("upgrade", "websocket")]),
    ];
    for (method, status, headers) in lies {
        let answer = lie(&server, &mut agent, method, status, &headers, second).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let head = head.to_ascii_lowercase();
        let count = |name: &str| head.lines().filter(|line| line.starts_with(name)).count();
        assert!(count("content-length:") + count("transfer-encoding:") <= 1, "{headers:?}: {answer}");
        assert_eq!(count("keep-alive:") + count("upgrade:"), 0, "{headers:?}: {answer}");
        if head.starts_with("http/1.1 502") {
            continue;
        }
        let forged_outside = match head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            _ if method == "HEAD" || matches!(status, 204 | 304) => !body.is_empty(),
            Some(length) => body.len() > length.trim().parse::<usize>().expect("a length"),
            None if count("transfer-encoding:") == 1 => !body.ends_with("\r\n0\r\n\r\n"),
            None => false,
        };
        assert!(!forged_outside, "{headers:?}: {answer}");
    }
}

#[tokio::test]
async fn s9_a_switch_carries_no_length_and_only_what_was_asked_for() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    let mut visitor = raw::Client::connect(server.public).await.unwrap();
    let asked = [("Connection", "upgrade"), ("Upgrade", "websocket")];
    visitor.send(&raw::head("GET", &server.host("app1"), "/", &asked, None)).await.unwrap();
    let (stream, open) = agent.wire.opened().await;
    assert_eq!(open.kind, mux::StreamKind::Upgrade);
    let headers =
        [("upgrade", "websocket"), ("content-length", "7"), ("transfer-encoding", "chunked"), ("x-kept", "1")];
    agent.wire.answer(stream, 101, &headers, false).await.unwrap();
    agent.wire.send(FrameType::Data, 0, stream, b"through").await.unwrap();
    let head = visitor.any_head(false).await.unwrap();
    assert_eq!((head.status, head.header("upgrade"), head.header("x-kept")), (101, Some("websocket"), Some("1")));
    assert_eq!((head.header("content-length"), head.header("transfer-encoding")), (None, None), "{head:?}");
    assert_eq!(&visitor.exactly(7).await.unwrap()[..], b"through");
}

#[tokio::test]
async fn s9_an_answer_that_ends_early_is_not_taken_for_a_whole_one() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    for headers in [vec![("content-length", "10")], vec![]] {
        let mut visitor = raw::Client::connect(server.public).await.unwrap();
        visitor.send(&raw::head("GET", &server.host("app1"), "/", &[], None)).await.unwrap();
        let (stream, _) = agent.wire.opened().await;
        agent.wire.answer(stream, 200, &headers, false).await.unwrap();
        agent.wire.send(FrameType::Data, 0, stream, b"half").await.unwrap();
        agent.wire.send(FrameType::Close, flags::RST, stream, &[0, 0x12]).await.unwrap();
        assert!(visitor.response(false).await.is_err(), "{headers:?}");
    }
}
