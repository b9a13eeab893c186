//! HTTP/2 from clients and to services, gRPC through both.

use std::sync::Arc;

use bytes::Bytes;
use gateway::upstream::UpstreamScheme;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use runtime::executor::ScopeExecutor;
use testkit::noise;
use testkit::origin::{GrpcOrigin, HttpOrigin, grpc_call};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Gate, options};

async fn client(gate: &Gate) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let io = TokioIo::new(TcpStream::connect(gate.addr).await.unwrap());
    let executor = ScopeExecutor::new(gate.scope.clone(), "test");
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    gate.scope.spawn("client", async move {
        let _ = connection.await;
    });
    sender
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_to_a_service_that_is_known_or_found_to_speak_http2() {
    let origin = GrpcOrigin::start().await.unwrap();
    for scheme in [UpstreamScheme::H2c, UpstreamScheme::Http] {
        let gate = Gate::with(|scope| {
            let mut options = options(origin.addr(), scope);
            options.scheme = scheme;
            options
        })
        .await;
        let sent = noise::bytes(1, 500_000);
        let io = TcpStream::connect(gate.addr).await.unwrap();
        let answer = grpc_call(io, "app.localhost", "/echo.Echo/Stream", Bytes::from(sent.clone())).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body == sent);
        assert_eq!(answer.trailers["grpc-status"], "0");
        let io = TcpStream::connect(gate.addr).await.unwrap();
        let answer = grpc_call(io, "app.localhost", "/refuse", Bytes::new()).await.unwrap();
        assert!(answer.ended_with_head);
        assert_eq!(answer.headers["grpc-status"], "5");
    }
}

#[tokio::test]
async fn a_service_that_stops_speaking_http2_is_found_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let (with, without) = (GrpcOrigin::start().await.unwrap(), HttpOrigin::start().await.unwrap());
    let gate = Gate::to(place).await;
    let call = async || {
        let io = TcpStream::connect(gate.addr).await.unwrap();
        // One may be cut short in the middle of its answer, when the first connection ends.
        let answer = grpc_call(io, "app.localhost", "/", Bytes::from_static(b"x")).await;
        answer.map_or(0, |answer| answer.status)
    };
    // The place leads to one service for the probe and the first connection, then to another.
    let lead = async {
        for number in 0.. {
            let (mut from, _) = listener.accept().await.unwrap();
            let to = if number < 2 { with.addr() } else { without.addr() };
            let mut to = TcpStream::connect(to).await.unwrap();
            gate.scope.spawn("lead", async move {
                let copy = tokio::io::copy_bidirectional(&mut from, &mut to);
                // The first service is replaced: its connections end.
                let life = std::time::Duration::from_millis(if number < 2 { 500 } else { 10_000 });
                let _ = tokio::time::timeout(life, copy).await;
            });
        }
    };
    let calls = async {
        assert_eq!(call().await, 200);
        let answered = async {
            // Until the first connection has ended the first service answers; then one request may find out.
            let mut failed = 0;
            loop {
                match call().await {
                    200 if without.requests() > 0 => return failed,
                    200 => {}
                    _ => failed += 1,
                }
            }
        };
        let failed =
            tokio::time::timeout(std::time::Duration::from_secs(10), answered).await.expect("it is asked again");
        assert!(failed <= 2, "{failed} requests failed");
    };
    tokio::select! {
        () = lead => {}
        () = calls => {}
    }
}

#[tokio::test]
async fn an_http2_connection_to_a_service_is_let_go_when_nobody_uses_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = GrpcOrigin::start().await.unwrap();
    let gate = Gate::with(|scope| {
        let mut options = options(listener.local_addr().unwrap(), scope);
        options.scheme = UpstreamScheme::H2c;
        options.keep = std::time::Duration::from_millis(100);
        options
    })
    .await;
    let call = async {
        let io = TcpStream::connect(gate.addr).await.unwrap();
        grpc_call(io, "app.localhost", "/echo.Echo/Stream", Bytes::from_static(b"x")).await.unwrap();
    };
    // Between the two, so that the end of the gateway's connection is seen.
    let between = async {
        let (mut from, _) = listener.accept().await.unwrap();
        let mut to = TcpStream::connect(origin.addr()).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
    };
    let ended = async { tokio::join!(call, between) };
    tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.expect("the connection ends by itself");
}

#[tokio::test]
async fn a_client_by_http2_reaches_a_service_that_speaks_http1() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut sender = client(&gate).await;
    let request = Request::get("http://app.localhost:8989/head")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::default())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let head = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(head.contains("host: app.localhost:8989\r\n") && head.contains("cookie: a=1; b=2\r\n"), "{head}");
    assert!(head.contains("x-forwarded-host: app.localhost:8989\r\n"), "{head}");
    let body = Bytes::from(noise::bytes(2, 300_000));
    let request = Request::post("http://app.localhost/echo").body(Full::new(body.clone())).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body);
    let request = Request::head("http://app.localhost/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().headers()["content-length"], "13");
    let request = Request::get("http://nobody.localhost/").body(Full::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-adit-error"]), (404, &"unknown_host".parse().unwrap()));
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("near: app.localhost"));
    let mut request = Request::new(Full::default());
    (*request.method_mut(), *request.uri_mut()) = (http::Method::CONNECT, "app.localhost:80".parse().unwrap());
    assert_eq!(sender.send_request(request).await.unwrap().status(), 501);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_of_one_http2_client_are_carried_side_by_side() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let (sender, scope) = (client(&gate).await, gate.scope.child());
    let done = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for _ in 0..100 {
        let (mut sender, done) = (sender.clone(), Arc::clone(&done));
        scope.spawn("request", async move {
            let request = Request::get("http://app.localhost/bytes/10000").body(Full::default()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 10_000);
            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
    }
    scope.idle().await;
    assert_eq!(done.load(std::sync::atomic::Ordering::Relaxed), 100);
}

#[tokio::test]
async fn host_and_authority_must_agree() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut sender = client(&gate).await;
    let request =
        Request::get("http://app.localhost/").header("host", "other.localhost").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 400);
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn a_client_by_http1_reaches_a_service_that_speaks_http2_only() {
    let origin = GrpcOrigin::start().await.unwrap();
    let gate = Gate::with(|scope| {
        let mut options = options(origin.addr(), scope);
        options.scheme = UpstreamScheme::H2c;
        options
    })
    .await;
    let answer = testkit::raw::request(gate.addr, "POST", "app.localhost", "/x", &[], b"hello").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-path")), (200, "hello", Some("/x")));
}

#[tokio::test]
async fn trailers_pass_by_http2_both_ways() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut sender = client(&gate).await;
    let request = Request::get("http://app.localhost/trailers").header("te", "trailers").body(Full::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-checksum"], "13");
}

#[tokio::test]
async fn grpc_to_a_service_that_speaks_http1_only_is_tried_by_that() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let io = TcpStream::connect(gate.addr).await.unwrap();
    let answer = grpc_call(io, "app.localhost", "/sink", "hello".into()).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"5"[..]));
}

async fn by_h2c(target: std::net::SocketAddr) -> Gate {
    Gate::with(|scope| gateway::upstream::UpstreamOptions { scheme: UpstreamScheme::H2c, ..options(target, scope) })
        .await
}

#[tokio::test]
async fn a_stream_that_is_refused_is_sent_once_more_by_the_same_connection_whatever_it_does() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = by_h2c(listener.local_addr().unwrap()).await;
    let serve = async {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(io).await.unwrap();
        let mut number = 0;
        while let Some(Ok((_, mut answer))) = connection.accept().await {
            number += 1;
            match number {
                1 => answer.send_reset(h2::Reason::REFUSED_STREAM),
                3 => answer.send_reset(h2::Reason::INTERNAL_ERROR),
                _ => drop(answer.send_response(http::Response::new(()), true).unwrap()),
            }
        }
    };
    let calls = async {
        let mut got = Vec::new();
        for method in ["POST", "GET", "POST"] {
            let answer = testkit::raw::request(gate.addr, method, "app.localhost", "/", &[], b"").await.unwrap();
            got.push(answer.status);
        }
        assert_eq!(got, [200, 502, 200], "what is not refused may have been acted on");
        let app = gate.app();
        assert_eq!(app.counters().connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    };
    tokio::select! {
        () = serve => panic!("the connection was given up"),
        () = calls => {}
    }
}

#[tokio::test]
async fn a_request_behind_the_last_one_that_a_leaving_service_takes_is_sent_to_its_successor() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = by_h2c(listener.local_addr().unwrap()).await;
    let serve = async {
        let (mut leaving, _) = listener.accept().await.unwrap();
        leaving.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        leaving.read_exact(&mut [0; 24]).await.unwrap();
        loop {
            let mut head = [0; 9];
            leaving.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            leaving.read_exact(&mut vec![0; length as usize]).await.unwrap();
            if kind == 1 {
                break;
            }
        }
        // GOAWAY: stream 0 was the last, NO_ERROR.
        leaving.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0").await.unwrap();
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, mut answer))) = connection.accept().await {
            answer.send_response(http::Response::new(()), true).unwrap();
        }
    };
    let call = async {
        let answer = testkit::raw::request(gate.addr, "POST", "app.localhost", "/", &[], b"").await.unwrap();
        assert_eq!(answer.status, 200);
    };
    tokio::select! {
        () = serve => panic!("the connection was given up"),
        () = call => {}
    }
}
