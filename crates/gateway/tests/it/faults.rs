//! Services and clients that behave badly, and what the other side is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::http::{Arrival, Scheme, serve};
use gateway::upstream::{Instead, UpstreamOptions};
use testkit::origin::HttpOrigin;
use testkit::process::Closed;
use testkit::raw::{self, Client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Gate, PATIENCE, options, until};

async fn status(gate: &Gate, target: &str) -> (u16, String) {
    let answer = raw::get(gate.addr, "app.localhost", target).await.unwrap();
    (answer.status, answer.header("x-adit-error").unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_answer_that_is_none_is_told_apart_from_no_answer() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    assert_eq!(status(&gate, "/garbage").await, (502, "bad_answer".into()));
    assert_eq!(status(&gate, "/reset").await, (502, "no_answer".into()));
    assert_eq!(status(&gate, "/").await.0, 200, "what came before does no harm");
    let (_, why) = gate.app().counters().last_error().unwrap();
    assert!(why.contains("closed the connection before it answered"), "{why}");
}

#[tokio::test]
async fn what_speaks_something_else_is_told_with_how_it_is_reached() {
    let origin = HttpOrigin::start().await.unwrap();
    let instead = Some(Instead::Port("a forward leads to it".into()));
    let gate = Gate::with(|scope| UpstreamOptions { instead: instead.clone(), ..options(origin.addr(), scope) }).await;
    for (target, word) in [("/garbage", "bad_answer"), ("/reset", "no_answer")] {
        let answer = raw::get(gate.addr, "app.localhost", target).await.unwrap();
        assert_eq!((answer.status, answer.header("x-adit-error")), (502, Some(word)));
        assert!(answer.text().contains("hint: A forward leads to it."), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_with_what_to_do() {
    let closed = Closed::take().unwrap();
    let gone = closed.address;
    let gate = Gate::to(gone).await;
    let answer = raw::get(gate.addr, "app.localhost", "/").await.unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (502, Some("unreachable")));
    let text = answer.text();
    assert!(
        text.contains(&format!("{gone} refused the connection")) && text.contains("hint: Start the service"),
        "{text}"
    );
}

#[tokio::test]
async fn the_time_in_which_a_body_is_on_its_way_does_not_count() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::with(|scope| {
        let mut options = options(origin.addr(), scope);
        options.timeout = Some(Duration::from_millis(400));
        options
    })
    .await;
    let mut client = TcpStream::connect(gate.addr).await.unwrap();
    let head = "POST /sink HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 10\r\nConnection: close\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..10 {
        // Slower in all than the route allows, and never silent for that long.
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_route_with_a_timeout_waits_no_longer_for_a_head_and_as_long_as_it_takes_for_a_body() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::with(|scope| {
        let mut options = options(origin.addr(), scope);
        options.timeout = Some(Duration::from_millis(200));
        options
    })
    .await;
    assert_eq!(status(&gate, "/silent").await, (504, "timeout".into()));
    until("the cancel", || origin.cancelled() == 1).await;
    let answer = raw::get(gate.addr, "app.localhost", "/drip?pieces=4&ms=100").await.unwrap();
    assert_eq!(answer.body.len(), 400);
}

#[tokio::test]
async fn the_time_a_client_takes_for_its_body_is_not_the_services() {
    let origin = HttpOrigin::start().await.unwrap();
    let limit = Duration::from_millis(300);
    let gate = Gate::with(|scope| UpstreamOptions { timeout: Some(limit), ..options(origin.addr(), scope) }).await;
    for (target, status) in [("/sink", 200), ("/silent", 504)] {
        let mut client = Client::connect(gate.addr).await.unwrap();
        client.send(&raw::head("POST", "app.localhost", target, &[], Some(5))).await.unwrap();
        for byte in b"hello" {
            tokio::time::sleep(limit / 2).await;
            client.send(&[*byte]).await.unwrap();
        }
        let whole = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, client.response(false)).await.unwrap().unwrap();
        assert_eq!(answer.status, status, "{target}");
        assert!(status == 200 || whole.elapsed() > limit / 2, "{:?} after the body", whole.elapsed());
    }
}

/// A gateway that waits so long for a kibibyte of a body.
async fn impatient(target: std::net::SocketAddr, body: Duration) -> Gate {
    Gate::whole(|scope| options(target, scope), |site| site.times.body = body).await
}

#[tokio::test]
async fn a_client_that_sends_an_announced_body_too_slowly_gets_408_and_is_closed() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = impatient(origin.addr(), Duration::from_millis(300)).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("POST", "app.localhost", "/sink", &[], Some(1000))).await.unwrap();
    // Now and then a byte is no progress.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(b"x").await.unwrap();
    }
    let answer = tokio::time::timeout(PATIENCE, client.response(false)).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (408, Some("body_too_slow")));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(tokio::time::timeout(PATIENCE, client.rest()).await.unwrap().unwrap(), b"");
    assert_eq!(gate.errors("body_too_slow"), 1);
    assert_eq!(status(&gate, "/").await.0, 200);
}

#[tokio::test]
async fn a_body_without_a_length_may_pause_and_a_steady_one_may_take_its_time() {
    let origin = HttpOrigin::start().await.unwrap();
    let limit = Duration::from_millis(200);
    let gate = impatient(origin.addr(), limit).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    let head = [("Transfer-Encoding", "chunked")];
    client.send(&raw::head("POST", "app.localhost", "/sink", &head, None)).await.unwrap();
    client.send(b"3\r\none\r\n").await.unwrap();
    tokio::time::sleep(limit * 2).await;
    client.send(b"0\r\n\r\n").await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "3");
    client.send(&raw::head("POST", "app.localhost", "/sink", &[], Some(5 * 1024))).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(limit / 2).await;
        client.send(&[b'x'; 1024]).await.unwrap();
    }
    assert_eq!(client.response(false).await.unwrap().text(), "5120");
}

#[tokio::test]
async fn a_client_that_stops_in_a_body_without_a_length_gets_408_unless_it_is_grpc() {
    let origin = HttpOrigin::start().await.unwrap();
    let pause = Duration::from_millis(200);
    let gate = Gate::whole(|scope| options(origin.addr(), scope), |site| site.times.pause = pause).await;
    let begin = async |kind: &str| {
        let mut client = Client::connect(gate.addr).await.unwrap();
        let head = [("Transfer-Encoding", "chunked"), ("Content-Type", kind)];
        client.send(&raw::head("POST", "app.localhost", "/sink", &head, None)).await.unwrap();
        client.send(b"3\r\none\r\n").await.unwrap();
        client
    };
    let mut talk = begin("application/grpc+proto").await;
    let mut client = begin("text/plain").await;
    for _ in 0..5 {
        // A byte is enough.
        tokio::time::sleep(pause / 3).await;
        client.send(b"1\r\nx\r\n").await.unwrap();
    }
    let answer = tokio::time::timeout(PATIENCE, client.response(false)).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (408, Some("body_too_slow")));
    assert_eq!(tokio::time::timeout(PATIENCE, client.rest()).await.unwrap().unwrap(), b"");
    talk.send(b"0\r\n\r\n").await.unwrap();
    assert_eq!(talk.response(false).await.unwrap().text(), "3");
}

#[tokio::test]
async fn time_in_which_the_service_takes_nothing_is_not_the_clients() {
    const MUCH: usize = 32 << 20;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let limit = Duration::from_millis(200);
    let gate = impatient(listener.local_addr().unwrap(), limit).await;
    let (mut from, mut to) = TcpStream::connect(gate.addr).await.unwrap().into_split();
    to.write_all(&raw::head("POST", "app.localhost", "/", &[], Some(MUCH))).await.unwrap();
    gate.scope.spawn("upload", async move {
        let _ = to.write_all(&vec![0; MUCH]).await;
        std::future::pending::<()>().await;
    });
    let (mut service, _) = listener.accept().await.unwrap();
    tokio::time::sleep(limit * 3).await;
    read_head(&mut service).await;
    let mut body = vec![0; MUCH];
    tokio::time::timeout(PATIENCE, service.read_exact(&mut body)).await.unwrap().unwrap();
    service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    tokio::time::timeout(PATIENCE, from.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_service_that_takes_no_more_of_a_body_is_not_waited_for() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    let limit = Duration::from_millis(200);
    let gate = Gate::with(|scope| UpstreamOptions { timeout: Some(limit), ..options(target, scope) }).await;
    let (mut from, mut to) = TcpStream::connect(gate.addr).await.unwrap().into_split();
    to.write_all(&raw::head("POST", "app.localhost", "/", &[], Some(1 << 30))).await.unwrap();
    gate.scope.spawn("upload", async move { while to.write_all(&[0; 65536]).await.is_ok() {} });
    let _service = listener.accept().await.unwrap();
    let mut head = [0; 12];
    tokio::time::timeout(PATIENCE, from.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 504");
}

#[tokio::test]
async fn an_answer_cut_short_does_not_pass_for_a_whole_one() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for target in ["/close-mid-body", "/reset-mid-body"] {
        let mut client = Client::connect(gate.addr).await.unwrap();
        client.send(&raw::head("GET", "app.localhost", target, &[], None)).await.unwrap();
        assert_eq!(client.response_head(false).await.unwrap().status, 200);
        let mut got = 0;
        let end = loop {
            match client.piece().await {
                Ok(Some(piece)) => got += piece.len(),
                end => break end,
            }
        };
        assert!(end.is_err(), "{target}");
        assert_eq!(got, 1000, "{target}");
        let (_, why) = gate.app().counters().last_error().unwrap();
        assert_eq!(why, "the service ended the connection before its answer was whole", "{target}");
    }
    assert_eq!(gate.errors("truncated"), 2);
}

#[tokio::test]
async fn a_chunked_answer_cut_short_does_not_pass_for_a_whole_one() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    service.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
    client.response_head(false).await.unwrap();
    assert_eq!(client.piece().await.unwrap().unwrap(), "hello");
    drop(service);
    assert!(client.piece().await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request_before_and_during_the_answer() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for (round, target) in (1..).zip(["/silent", "/drip?pieces=100000&ms=5"]) {
        let mut client = Client::connect(gate.addr).await.unwrap();
        client.send(&raw::head("GET", "app.localhost", target, &[], None)).await.unwrap();
        until("the request", || origin.requests() == round).await;
        drop(client);
        until("the cancel", || origin.cancelled() == round && origin.open() == 0).await;
    }
}

/// A service that has read its request's head, and a client that has ended its direction after it.
async fn asked_and_ended(gate: &Gate, service: &TcpListener) -> (Client, TcpStream) {
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
    client.finish().await.unwrap();
    let (mut service, _) = service.accept().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        got.push(tokio::time::timeout(PATIENCE, service.read_u8()).await.unwrap().unwrap());
    }
    (client, service)
}

#[tokio::test]
async fn a_client_that_ends_its_direction_after_its_request_gets_its_answer() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let (mut client, mut service) = asked_and_ended(&gate, &listener).await;
    service.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
    client.response_head(false).await.unwrap();
    assert_eq!(client.piece().await.unwrap().unwrap(), "hello");
    service.write_all(b"5\r\nworld\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(client.piece().await.unwrap().unwrap(), "world");
    assert_eq!(client.piece().await.unwrap(), None);
    let end = tokio::time::timeout(Duration::from_secs(2), client.rest()).await.expect("it is closed at once");
    assert_eq!(end.unwrap(), b"");
}

/// A client far away with a narrow way: when hyper has the last piece of the answer, much is not sent yet.
#[tokio::test]
async fn a_slow_client_that_ends_its_direction_gets_its_answer_to_the_last_byte() {
    const LENGTH: usize = 1 << 20;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let (mut client, wire) = tokio::io::duplex(1000);
    let arrival =
        Arrival { peer: "192.0.2.1:4000".parse().unwrap(), local: gate.addr, scheme: Scheme::Http, sni: None };
    gate.scope.spawn("client", serve(wire, arrival, Arc::clone(&gate.site), gate.scope.clone()));
    client.write_all(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
    client.shutdown().await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    let answer = [format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").into_bytes(), vec![b'x'; LENGTH]];
    let serving = async move {
        service.write_all(&answer.concat()).await.unwrap();
        service
    };
    let mut got = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, client.read_to_end(&mut got));
    let (_service, read) = tokio::join!(serving, reading);
    read.expect("it is closed at once").unwrap();
    let head = got.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(got.len() - head, LENGTH);
}

#[tokio::test]
async fn a_client_that_ends_its_direction_and_then_leaves_cancels_its_request() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let (client, mut service) = asked_and_ended(&gate, &listener).await;
    drop(client);
    let end = tokio::time::timeout(PATIENCE, service.read(&mut [0; 1])).await.expect("the request is cancelled");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_cancels_the_upload() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("POST", "app.localhost", "/sink", &[], Some(1000))).await.unwrap();
    client.send(b"a part").await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"a part") {
        got.push(tokio::time::timeout(PATIENCE, service.read_u8()).await.unwrap().unwrap());
    }
    drop(client);
    let end = tokio::time::timeout(PATIENCE, service.read_to_end(&mut got)).await.unwrap();
    assert!(end.is_err() || got.ends_with(b"a part"), "the service sees an end, not a whole body");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_reaches_the_client() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("POST", "app.localhost", "/reject", &[], Some(50_000_000))).await.unwrap();
    client.send(b"not all of it").await.unwrap();
    assert_eq!(client.response(false).await.unwrap().status, 413);
}

#[tokio::test]
async fn a_service_that_ends_its_direction_after_the_answer_is_not_used_again() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    for _ in 0..3 {
        client.send(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
        let (mut service, _) = listener.accept().await.unwrap();
        read_head(&mut service).await;
        service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        service.shutdown().await.unwrap();
        assert_eq!(client.response(false).await.unwrap().text(), "ok");
    }
}

#[tokio::test]
async fn a_kept_connection_that_dies_as_it_is_used_costs_the_client_nothing_when_that_is_safe() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    // All take the head of the second request and leave instead of answering; a repetition finds a third connection.
    // Of a body nothing has been sent by then.
    let cases = [("GET", None, true), ("POST", None, false), ("PUT", Some(5), true), ("POST", Some(5), false)];
    for (method, length, answered) in cases {
        let mut client = Client::connect(gate.addr).await.unwrap();
        client.send(&raw::head(method, "app.localhost", "/", &[], None)).await.unwrap();
        let (mut service, _) = listener.accept().await.unwrap();
        read_head(&mut service).await;
        service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(client.response(false).await.unwrap().text(), "ok");
        client.send(&raw::head(method, "app.localhost", "/", &[], length)).await.unwrap();
        read_head(&mut service).await;
        drop(service);
        if answered {
            let (mut service, _) = listener.accept().await.unwrap();
            read_head(&mut service).await;
            service.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nagain").await.unwrap();
        }
        let answer = client.response(false).await.unwrap();
        assert_eq!(answer.status, if answered { 200 } else { 502 }, "{method} {length:?}");
    }
}

async fn read_head(service: &mut TcpStream) {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        got.push(tokio::time::timeout(PATIENCE, service.read_u8()).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn a_client_that_never_sends_a_byte_or_half_a_head_is_let_go() {
    let origin = HttpOrigin::start().await.unwrap();
    let quick = |site: &mut gateway::http::Site| {
        site.times.head = Duration::from_millis(100);
        site.times.idle = Duration::from_millis(200);
    };
    let gate = Gate::whole(|scope| options(origin.addr(), scope), quick).await;
    for begun in [&b""[..], b"GET / HTTP/1.1\r\nHo"] {
        let answer = raw::exchange(gate.addr, begun).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    }
    // A long answer outlives all of these.
    let answer = raw::get(gate.addr, "app.localhost", "/slow?ms=500").await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_takes_no_more() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut busy = Client::connect(gate.addr).await.unwrap();
    let mut idle = Client::connect(gate.addr).await.unwrap();
    let fresh = TcpStream::connect(gate.addr).await.unwrap();
    idle.get("app.localhost", "/").await.unwrap();
    busy.send(&raw::head("GET", "app.localhost", "/drip?pieces=5&ms=50", &[], None)).await.unwrap();
    busy.response_head(false).await.unwrap();
    gate.scope.drain();
    assert_eq!(idle.rest().await.unwrap(), b"");
    let mut length = 0;
    while let Some(piece) = busy.piece().await.unwrap() {
        length += piece.len();
    }
    assert_eq!(length, 500);
    assert_eq!(busy.rest().await.unwrap(), b"");
    tokio::time::timeout(PATIENCE, gate.scope.idle()).await.unwrap();
    drop(fresh);
    until("the service's connections", || origin.open() == 0).await;
}

#[tokio::test]
async fn a_connection_that_waits_too_long_is_let_go_so_that_its_target_can_sleep() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::with(|scope| {
        let mut options = options(origin.addr(), scope);
        options.keep = Duration::from_millis(100);
        options
    })
    .await;
    for _ in 0..2 {
        raw::get(gate.addr, "app.localhost", "/").await.unwrap();
        assert_eq!(origin.open(), 1);
        until("the end of the connection", || origin.open() == 0).await;
    }
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_still_gets_the_answer_that_came_early() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for (host, target, status) in [("nobody.localhost", "/", 404), ("app.localhost", "/reject", 413)] {
        let mut client = Client::connect(gate.addr).await.unwrap();
        client.send(&raw::head("POST", host, target, &[], Some(8 << 20))).await.unwrap();
        client.send(&vec![b'x'; 8 << 20]).await.unwrap();
        assert_eq!(client.response(false).await.unwrap().status, status, "{target}");
    }
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    read_head(&mut service).await;
    service.write_all(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await.unwrap();
    let answer = client.response(false).await.unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (502, Some("bad_answer")));
}

#[tokio::test]
async fn an_answer_with_two_lengths_is_no_answer() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    read_head(&mut service).await;
    service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk").await.unwrap();
    assert_eq!(client.response(false).await.unwrap().status, 502);
}

#[tokio::test]
async fn a_service_that_ends_its_direction_instead_of_answering_has_not_answered() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(&raw::head("GET", "app.localhost", "/", &[], None)).await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    read_head(&mut service).await;
    service.shutdown().await.unwrap();
    let answer = client.response(false).await.unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (502, Some("no_answer")));
}

#[tokio::test]
async fn a_client_that_never_stops_sending_is_let_go_after_its_answer() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = TcpStream::connect(gate.addr).await.unwrap();
    client.write_all(&raw::head("POST", "nobody.localhost", "/", &[], Some(1 << 40))).await.unwrap();
    let chunk = vec![b'x'; 1 << 16];
    let sending = async { while client.write_all(&chunk).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, sending).await.unwrap();
}
