//! Tests of the agent: http.
use bytes::Bytes;
use mux::{ErrorCode, Incoming, StreamKind};
use testkit::origin::{GrpcOrigin, HttpOrigin, pattern};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::fake_server::{FakeServer, answer, expect, request};
use super::*;

async fn serving(change: impl FnOnce(&mut AgentTunnel)) -> (FakeServer, HttpOrigin, Running) {
    let origin = HttpOrigin::start().await.unwrap();
    let (server, running) = serving_to(origin.addr(), change).await;
    (server, origin, running)
}

async fn serving_to(to: SocketAddr, change: impl FnOnce(&mut AgentTunnel)) -> (FakeServer, Running) {
    let server = FakeServer::start().await;
    let mut tunnel = web(to);
    change(&mut tunnel);
    let mut running = start(config(&server, vec![tunnel]));
    running.published().await;
    (server, running)
}

/// Waits until `done` holds; for counters of a service that cannot be waited on.
async fn until(done: impl Fn() -> bool) {
    within(async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_reaches_the_local_service_and_its_answer_comes_back() {
    let (server, origin, mut running) = serving(|_| {}).await;
    let got =
        answer(&server.open(request("GET", "/head?a=b", &[("x-forwarded-for", "192.0.2.7")]), true)).await.unwrap();
    assert_eq!(got.status, 200);
    let head = got.text().to_ascii_lowercase();
    assert!(head.starts_with("get /head?a=b http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: app1.example.com\r\n"), "{head}");
    assert!(head.contains("\r\nx-forwarded-for: 192.0.2.7\r\n"), "{head}");
    assert!(!head.contains("connection:") && !head.contains("transfer-encoding:"), "{head}");
    assert!(got.timing.local_micros > 0);
    let event = running
        .event(|event| match event {
            AgentEvent::Request(event) => Some(event),
            _ => None,
        })
        .await;
    assert_eq!((event.method.as_str(), event.path.as_str(), event.status, event.error), ("GET", "/head", 200, None));
    assert_eq!(event.sent, got.body.len() as u64);
    assert_eq!(running.metric("agent_requests_total{tunnel=\"web\",method=\"GET\",status=\"200\"}"), 1.0);
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn requests_share_a_kept_connection() {
    let (server, origin, running) = serving(|_| {}).await;
    for _ in 0..5 {
        assert_eq!(server.get("/").await.unwrap().text(), "Hello, world!");
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(running.metric("agent_local_connections_total{tunnel=\"web\",reused=\"yes\"}"), 4.0);
}

#[tokio::test]
async fn bodies_of_any_framing_arrive_whole() {
    let (server, _origin, _running) = serving(|_| {}).await;
    for target in ["/bytes/1000000", "/bytes/1000000?chunked", "/bytes/0", "/bytes/1"] {
        let got = server.get(target).await.unwrap();
        let length: usize = target[7..].trim_end_matches("?chunked").parse().unwrap();
        assert_eq!((got.status, got.cut), (200, None));
        assert!(got.body == pattern(0, length), "{target}");
    }
    let got = server.get("/no-length").await.unwrap();
    assert_eq!((got.status, got.cut), (200, None));
    assert!(!got.body.is_empty());
}

#[tokio::test]
async fn a_body_streams_both_ways_at_once() {
    let (server, _origin, _running) = serving(|_| {}).await;
    let stream = server.open(request("POST", "/echo", &[]), false);
    for piece in ["first", "second", "third"] {
        stream.send(Bytes::copy_from_slice(piece.as_bytes())).await.unwrap();
        expect(&stream, piece.as_bytes()).await;
    }
    stream.finish().unwrap();
    assert!(answer(&stream).await.unwrap().body.is_empty());
}

#[tokio::test]
async fn a_large_upload_arrives_whole() {
    let (server, origin, _running) = serving(|_| {}).await;
    let length = 3_000_000;
    let headers = [("content-length", "3000000")];
    let stream = server.open(request("POST", "/sink", &headers), false);
    stream.send(pattern(0, length).into()).await.unwrap();
    stream.finish().unwrap();
    assert_eq!(answer(&stream).await.unwrap().text().trim(), "3000000");
    assert_eq!(server.get("/").await.unwrap().status, 200);
    assert_eq!(origin.connections(), 1, "the connection is kept after an upload");
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let (server, _origin, _running) = serving(|_| {}).await;
    for status in [204, 304] {
        let got = server.get(&format!("/status/{status}")).await.unwrap();
        assert_eq!((got.status, got.body.len(), got.cut), (status, 0, None));
    }
    let got = answer(&server.open(request("HEAD", "/bytes/5000", &[]), true)).await.unwrap();
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert_eq!(got.headers["content-length"], "5000");
}

#[tokio::test]
async fn trailers_and_early_hints_and_hop_by_hop_headers_are_treated_right() {
    let (server, _origin, _running) = serving(|_| {}).await;
    let got = answer(&server.open(request("GET", "/trailers", &[("te", "trailers")]), true)).await.unwrap();
    assert_eq!((got.text(), got.trailers["x-checksum"].as_bytes()), ("Hello, world!", &b"13"[..]));
    assert_eq!(server.get("/early").await.unwrap().status, 200);
    let got = server.get("/hop").await.unwrap();
    for name in ["connection", "keep-alive", "transfer-encoding", "proxy-connection", "upgrade"] {
        assert!(!got.headers.contains_key(name), "{name} in {:?}", got.headers);
    }
}

#[tokio::test]
async fn what_a_local_service_does_wrong_is_told_by_its_code_and_the_next_request_works() {
    let (server, _origin, running) = serving(|tunnel| tunnel.request_timeout = Some(Duration::from_millis(200))).await;
    for (target, code) in
        [("/garbage", ErrorCode::BadAnswer), ("/reset", ErrorCode::Truncated), ("/silent", ErrorCode::Timeout)]
    {
        assert_eq!(server.get(target).await.unwrap_err(), code, "{target}");
        assert_eq!(server.get("/").await.unwrap().status, 200);
    }
    for target in ["/reset-mid-body", "/close-mid-body"] {
        // A reset overtakes what was not sent yet, be it the head.
        let cut = match server.get(target).await {
            Ok(got) => got.cut,
            Err(code) => Some(code),
        };
        assert_eq!(cut, Some(ErrorCode::Truncated), "{target}");
        assert_eq!(server.get("/").await.unwrap().status, 200);
    }
    assert_eq!(running.metric("agent_errors_total{type=\"timeout\"}"), 1.0);
}

#[tokio::test]
async fn a_service_that_is_down_is_told_as_such() {
    let (server, _running) = serving_to(closed(), |_| {}).await;
    assert_eq!(server.get("/").await.unwrap_err(), ErrorCode::Connect);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_passed_on() {
    let (server, _origin, _running) = serving(|_| {}).await;
    let stream = server.open(request("POST", "/reject", &[("content-length", "10000000")]), false);
    stream.send(vec![b'x'; 1000].into()).await.unwrap();
    let got = answer(&stream).await.unwrap();
    assert_eq!((got.status, got.cut), (413, None));
    // The visitor may finish what it has begun.
    within(stream.send(vec![b'x'; 500_000].into())).await.unwrap();
}

#[tokio::test]
async fn a_visitor_who_leaves_ends_the_local_request() {
    let (server, origin, _running) = serving(|_| {}).await;
    for target in ["/silent", "/sse?events=0&ms=5"] {
        let before = origin.cancelled();
        let stream = server.open(request("GET", target, &[]), true);
        until(|| origin.in_flight() == 1).await;
        stream.reset(ErrorCode::Cancel);
        until(|| origin.cancelled() == before + 1 && origin.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn events_are_passed_on_as_they_come() {
    let (server, _origin, _running) = serving(|_| {}).await;
    let stream = server.open(request("GET", "/sse?events=0&ms=5", &[]), true);
    let mut events = 0;
    within(async {
        while events < 3 {
            if let Incoming::Data(_) = stream.recv().await.unwrap() {
                events += 1;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_becomes_a_byte_pipe_with_half_close() {
    let (server, _origin, _running) = serving(|_| {}).await;
    let mut open = request("GET", "/upgrade", &[("upgrade", "echo")]);
    open.kind = StreamKind::Upgrade;
    let stream = server.open(open, false);
    let Incoming::Head(block) = within(stream.recv()).await.unwrap() else { panic!("a head comes first") };
    let head = mux::headers::AnswerHead::read(block).unwrap();
    assert_eq!(head.status, 101);
    let headers = crate::wire_http::read_headers(head.headers).unwrap();
    assert_eq!(headers["upgrade"], "echo");
    stream.send(Bytes::from_static(b"ping")).await.unwrap();
    expect(&stream, b"ping").await;
    stream.finish().unwrap();
    assert_eq!(within(stream.recv()).await.unwrap(), Incoming::End);
}

#[tokio::test]
async fn an_upgrade_that_is_not_granted_is_an_ordinary_answer() {
    let (server, _origin, _running) = serving(|_| {}).await;
    let mut open = request("GET", "/status/404", &[("upgrade", "websocket")]);
    open.kind = StreamKind::Upgrade;
    assert_eq!(answer(&server.open(open, false)).await.unwrap().status, 404);
}

#[tokio::test]
async fn header_rules_and_the_host_are_applied() {
    let (server, _origin, _running) = serving(|tunnel| {
        tunnel.host_header = Some("shop.internal".into());
        tunnel.request_headers = HeaderRules::parse([("x-env", "dev")], ["cookie"]).unwrap();
        tunnel.response_headers = HeaderRules::parse([("x-served-by", "adit")], ["content-type"]).unwrap();
    })
    .await;
    let got = answer(&server.open(request("GET", "/head", &[("cookie", "a=b")]), true)).await.unwrap();
    let head = got.text().to_ascii_lowercase();
    assert!(head.contains("\r\nhost: shop.internal\r\n") && !head.contains("app1.example.com"), "{head}");
    assert!(head.contains("\r\nx-env: dev\r\n") && !head.contains("cookie"), "{head}");
    assert_eq!(got.headers["x-served-by"], "adit");
    assert!(!got.headers.contains_key("content-type"));
}

#[tokio::test]
async fn what_a_bad_server_sends_reaches_no_local_service() {
    let (server, origin, _running) = serving(|_| {}).await;
    let mut unknown = request("GET", "/", &[]);
    unknown.tunnel = 2;
    assert_eq!(answer(&server.open(unknown, true)).await.unwrap_err(), ErrorCode::UnknownTunnel);
    let mut none = request("GET", "/", &[]);
    none.tunnel = 0;
    assert_eq!(answer(&server.open(none, true)).await.unwrap_err(), ErrorCode::UnknownTunnel);
    assert_eq!(answer(&server.open(mux::Open::tcp(1, None, None), false)).await.unwrap_err(), ErrorCode::Protocol);
    for (method, target, headers) in [
        ("GET", "http://other.example/", vec![]),
        ("CONNECT", "other.example:443", vec![]),
        ("GET", "/", vec![("content-length", "1"), ("content-length", "2")]),
        ("GET", "/", vec![("content-length", "+1")]),
    ] {
        let stream = server.open(request(method, target, &headers), true);
        assert_eq!(answer(&stream).await.unwrap_err(), ErrorCode::Protocol, "{method} {target}");
    }
    assert_eq!(origin.requests(), 0);
    // Framing of another connection is dropped, not passed on.
    let smuggled = [("transfer-encoding", "chunked"), ("connection", "close"), ("expect", "100-continue")];
    let got = answer(&server.open(request("GET", "/head", &smuggled), true)).await.unwrap();
    let head = got.text().to_ascii_lowercase();
    assert!(!head.contains("transfer-encoding") && !head.contains("expect"), "{head}");
}

#[tokio::test]
async fn a_request_on_a_connection_that_died_meanwhile_is_sent_once_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (server, running) = serving_to(addr, |_| {}).await;
    let serve = async {
        for _ in 0..2 {
            let (mut tcp, _) = listener.accept().await.unwrap();
            read_head(&mut tcp).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            // The next request is read and not answered.
            read_head(&mut tcp).await;
        }
    };
    let ask = async {
        assert_eq!(server.get("/").await.unwrap().text(), "ok");
        assert_eq!(server.get("/").await.unwrap().text(), "ok");
        assert_eq!(
            answer(&server.open(request("POST", "/", &[]), true)).await.unwrap_err(),
            ErrorCode::Truncated,
            "what might have been done is not done twice"
        );
    };
    within(async { tokio::join!(serve, ask) }).await;
    assert_eq!(running.metric("agent_local_requests_total{tunnel=\"web\"}"), 4.0);
}

async fn read_head(tcp: &mut tokio::net::TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
}

async fn grpc_call(server: &FakeServer) -> fake_server::Answer {
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let stream = server.open(request("POST", "/echo.Echo/Talk", &headers), false);
    stream.send(Bytes::from_static(b"\0\0\0\0\x02hi")).await.unwrap();
    stream.finish().unwrap();
    answer(&stream).await.unwrap()
}

#[tokio::test]
async fn grpc_works_over_h2c_with_and_without_being_told_so() {
    for protocol in [LocalProtocol::H2c, LocalProtocol::Http] {
        let origin = GrpcOrigin::start().await.unwrap();
        let (server, _running) = serving_to(origin.addr(), |tunnel| tunnel.protocol = protocol).await;
        for _ in 0..3 {
            let got = grpc_call(&server).await;
            assert_eq!((got.status, got.cut), (200, None));
            assert_eq!(got.body, b"\0\0\0\0\x02hi");
            assert_eq!(got.trailers["grpc-status"], "0");
        }
        assert_eq!(origin.calls(), 3);
    }
}

#[tokio::test]
async fn a_grpc_request_to_a_service_without_http2_goes_by_http1() {
    let (server, origin, _running) = serving(|_| {}).await;
    let headers = [("content-type", "application/grpc")];
    let got = answer(&server.open(request("GET", "/", &headers), true)).await.unwrap();
    assert_eq!(got.status, 200);
    assert!(origin.last_head().unwrap().contains("HTTP/1.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_all_get_their_own_answers() {
    let (server, _origin, running) = serving(|_| {}).await;
    for _ in 0..5 {
        let streams: Vec<_> =
            (1..=100).map(|n| (n, server.open(request("GET", &format!("/bytes/{}", n * 100), &[]), true))).collect();
        for (n, stream) in streams {
            assert_eq!(answer(&stream).await.unwrap().body.len(), n * 100);
        }
    }
    until(|| running.metric("agent_streams_active") == 0.0).await;
}

#[tokio::test]
async fn a_request_sent_once_more_gets_the_rest_of_its_body_after_an_early_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (server, _running) = serving_to(addr, |_| {}).await;
    let serve = async {
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (mut kept, _) = listener.accept().await.unwrap();
        read_head(&mut kept).await;
        kept.write_all(ok).await.unwrap();
        // The next request is read and not answered.
        read_head(&mut kept).await;
        drop(kept);
        let (mut fresh, _) = listener.accept().await.unwrap();
        read_head(&mut fresh).await;
        fresh.write_all(ok).await.unwrap();
        let mut body = Vec::new();
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(fresh.read_u8().await.expect("the body comes to its end"));
        }
        assert!(String::from_utf8_lossy(&body).contains("late"), "{body:?}");
    };
    let ask = async {
        assert_eq!(server.get("/").await.unwrap().text(), "ok");
        let stream = server.open(request("PUT", "/", &[]), false);
        assert_eq!(answer(&stream).await.unwrap().text(), "ok");
        stream.send(Bytes::from_static(b"late")).await.unwrap();
        stream.finish().unwrap();
    };
    within(async { tokio::join!(serve, ask) }).await;
}

#[tokio::test]
async fn a_post_whose_head_was_sent_is_not_sent_once_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (server, _running) = serving_to(addr, |_| {}).await;
    let serve = async {
        let (mut kept, _) = listener.accept().await.unwrap();
        read_head(&mut kept).await;
        kept.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        // It may have acted on the head alone.
        read_head(&mut kept).await;
        drop(kept);
    };
    let ask = async {
        assert_eq!(server.get("/").await.unwrap().text(), "ok");
        let stream = server.open(request("POST", "/", &[]), false);
        assert_eq!(answer(&stream).await.unwrap_err(), ErrorCode::Truncated);
    };
    within(async { tokio::join!(serve, ask) }).await;
}

/// A service that takes its time to be unreachable.
struct SlowFailure(std::sync::atomic::AtomicUsize);

impl runtime::Connect for SlowFailure {
    fn connect(&self) -> runtime::connect::BoxFuture<'_, Result<runtime::Io, runtime::ConnectError>> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(std::future::pending())
    }

    fn describe(&self) -> String {
        "slow".into()
    }
}

#[tokio::test]
async fn requests_that_wait_for_one_http2_connection_share_its_failure() {
    let slow = Arc::new(SlowFailure(0.into()));
    let connect = Arc::clone(&slow);
    let (server, _running) = serving_to(closed(), |tunnel| {
        tunnel.protocol = LocalProtocol::H2c;
        tunnel.connect = connect;
        tunnel.connect_timeout = Duration::from_millis(500);
    })
    .await;
    let began = Instant::now();
    let streams: Vec<_> = (0..8).map(|_| server.open(request("GET", "/", &[]), true)).collect();
    for stream in &streams {
        assert_eq!(answer(stream).await.unwrap_err(), ErrorCode::Timeout);
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(slow.0.load(std::sync::atomic::Ordering::Relaxed) <= 2, "they share one attempt");
}
