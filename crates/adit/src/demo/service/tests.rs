//! The sample service over a real socket, spoken to in plain HTTP/1.1.

use std::future::Future;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Far more than any of these tests needs.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `talk` against a service of its own, then drains it and waits for its end.
async fn with_service<F: Future<Output = ()>>(talk: impl FnOnce(SocketAddr, Scope) -> F) {
    let scope = Scope::root();
    let listener = BoundListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = listener.local_addr();
    let hops: HopSource = Arc::new(|id: &str| vec![Hop { name: format!("hop of {id}"), ms: 1.5 }]);
    let served = scope.clone();
    scope.spawn("demo.service", async move {
        serve(listener, served, hops).await.expect("the listener works");
    });
    let whole = async {
        talk(address, scope.clone()).await;
        scope.drain();
        scope.idle().await;
    };
    timeout(DEADLINE, whole).await.expect("the test ends in time");
    assert_eq!(scope.panics(), 0);
}

/// Sends one request that closes the connection and returns the answer as text.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the service listens");
    let request = request.replacen("\r\n", "\r\nHost: hello.localhost\r\nConnection: close\r\n", 1);
    stream.write_all(request.as_bytes()).await.expect("the service reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the service answers");
    String::from_utf8(answer).expect("a text answer")
}

fn json_of(answer: &str) -> serde_json::Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).expect("a JSON body")
}

#[tokio::test]
async fn a_request_is_shown_as_it_arrived() {
    with_service(|address, _| async move {
        let answer = ask(
            address,
            "PUT /api/inspect/x?y=1 HTTP/1.1\r\nX-Request-Id: r-1\r\nX-Forwarded-For: 203.0.113.5\r\nContent-Length: 3\r\n\r\nabc",
        )
        .await;
        let facts = json_of(&answer);
        assert_eq!(facts["method"], "PUT");
        assert_eq!(facts["path"], "/api/inspect/x?y=1");
        assert_eq!(facts["http_version"], "HTTP/1.1");
        assert_eq!(facts["request_id"], "r-1");
        assert_eq!(facts["visitor"], "203.0.113.5");
        assert_eq!(facts["body_bytes"], 3);
        assert_eq!(facts["hops"][0]["name"], "hop of r-1");
        assert!(!answer.contains("server-timing"), "the tunnel tells the times: {answer}");
    })
    .await;
}

#[tokio::test]
async fn the_front_page_is_what_the_visitor_can_read() {
    with_service(|address, _| async move {
        let page = ask(address, "GET /any/path HTTP/1.1\r\nAccept: text/html\r\n\r\n").await;
        assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
        assert!(page.contains("GET /any/path HTTP/1.1"), "{page}");
        let text = ask(address, "GET / HTTP/1.1\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n").await;
        assert!(text.contains("It works"), "{text}");
        let json = ask(address, "GET / HTTP/1.1\r\nAccept: application/json\r\n\r\n").await;
        assert_eq!(json_of(&json)["path"], "/");
    })
    .await;
}

#[tokio::test]
async fn an_upload_is_counted_and_hashed() {
    with_service(|address, _| async move {
        let answer = ask(address, "POST /api/upload HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").await;
        let received = json_of(&answer);
        assert_eq!(received["bytes"], 3);
        assert_eq!(received["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    })
    .await;
}

#[tokio::test]
async fn a_download_has_the_length_that_was_asked_for() {
    with_service(|address, _| async move {
        let answer = ask(address, "GET /api/download?bytes=200000 HTTP/1.1\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("content-length: 200000"), "{head}");
        assert_eq!(body.len(), 200_000);
        let head = ask(address, "HEAD /api/download?bytes=77 HTTP/1.1\r\n\r\n").await;
        assert!(head.contains("content-length: 77") && head.ends_with("\r\n\r\n"), "{head}");
        let refused = ask(address, "GET /api/download?bytes=lots HTTP/1.1\r\n\r\n").await;
        assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_allowed_is_said() {
    with_service(|address, _| async move {
        for (request, status) in [
            ("GET /api/nothing", "404"),
            ("GET /api/upload", "405"),
            ("POST /api/events", "405"),
            ("POST /assets/app.js", "405"),
            ("GET /api/ws", "426"),
        ] {
            let answer = ask(address, &format!("{request} HTTP/1.1\r\n\r\n")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_event_stream_ticks_and_ends_at_the_drain() {
    with_service(|address, scope| async move {
        ask(address, "GET /api/inspect HTTP/1.1\r\n\r\n").await;
        let mut stream = TcpStream::connect(address).await.expect("the service listens");
        let request = b"GET /api/events HTTP/1.1\r\nHost: h\r\n\r\n";
        stream.write_all(request).await.expect("the service reads");
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).contains("\"path\":\"/api/inspect\"") {
            assert_ne!(stream.read_buf(&mut got).await.expect("events come"), 0);
        }
        scope.drain();
        stream.read_to_end(&mut got).await.expect("an orderly end");
        let text = String::from_utf8_lossy(&got).into_owned();
        assert!(text.contains("text/event-stream"), "{text}");
        assert!(text.contains("event: tick\ndata: {\"requests\":"), "{text}");
        assert!(text.ends_with("0\r\n\r\n"), "the stream must end, not break: {text}");
    })
    .await;
}

#[tokio::test]
async fn a_websocket_echoes_over_the_service() {
    with_service(|address, _| async move {
        let mut stream = TcpStream::connect(address).await.expect("the service listens");
        let request = "GET /api/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("the service reads");
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut got).await.expect("an answer"), 0);
        }
        assert!(got.starts_with(b"HTTP/1.1 101"));
        stream.write_all(b"\x81\x82\0\0\0\0hi").await.expect("the echo reads");
        let mut echoed = [0; 4];
        stream.read_exact(&mut echoed).await.expect("the echo answers");
        assert_eq!(&echoed, b"\x81\x02hi");
        // The drain at the end of this test must end the open conversation too.
    })
    .await;
}
