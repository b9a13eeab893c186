//! gRPC: HTTP/2 end to end, with trailers.
#![expect(clippy::disallowed_methods, reason = "a test has no scope to spawn in")]

use testkit::noise;
use testkit::origin::{GrpcAnswer, GrpcOrigin, grpc_call};
use testkit::relay::{Cut, Link, Relay};
use tokio::net::TcpStream;

use crate::support::{Publish, SOON, Server, eventually, within};

async fn call(server: &Server, path: &str, body: Vec<u8>) -> GrpcAnswer {
    let io = TcpStream::connect(server.public).await.expect("a connection");
    let host = server.host("grpc");
    let call = grpc_call(io, &host, path, body.into());
    within("the call", call).await.expect("an answer")
}

async fn check(target: &str, origin: &GrpcOrigin) {
    let server = Server::start().await;
    let _agent = Publish::to(&server).target(target, &["--as", "grpc"]).start().await;
    let body = noise::bytes(1, 300_000);
    let answer = call(&server, "/echo.Echo/Say", body.clone()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert_eq!(answer.headers["x-path"], "/echo.Echo/Say");
    assert!(answer.body == body, "the echo is equal");
    assert_eq!(
        (&answer.trailers["grpc-status"], &answer.trailers["grpc-message"]),
        (&"0".parse().expect("a value"), &"done".parse().expect("a value"))
    );
    let failed = call(&server, "/fail", Vec::new()).await;
    assert_eq!((failed.status, &failed.trailers["grpc-status"]), (200, &"5".parse().expect("a value")));
    // A real gRPC client that finds the end on an empty data frame instead loses the status.
    let refused = call(&server, "/refuse", Vec::new()).await;
    assert_eq!(refused.headers["grpc-status"], "5");
    assert!(refused.ended_with_head, "the answer without a body ends with its head");
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn a_call_with_trailers_works_end_to_end_over_h2c() {
    let origin = GrpcOrigin::start().await.unwrap();
    check(&format!("h2c://{}", origin.addr()), &origin).await;
}

#[tokio::test]
async fn a_call_to_a_plain_http_target_is_carried_over_h2c_by_its_content_type() {
    let origin = GrpcOrigin::start().await.unwrap();
    check(&format!("http://{}", origin.addr()), &origin).await;
}

#[tokio::test]
async fn a_service_that_restarts_is_called_again() {
    let server = Server::start().await;
    let origin = GrpcOrigin::start().await.unwrap();
    let relay = Relay::start(origin.addr(), Link::default()).await.unwrap();
    let _agent = Publish::to(&server).target(&format!("h2c://{}", relay.addr()), &["--as", "grpc"]).start().await;
    assert_eq!(call(&server, "/a", Vec::new()).await.status, 200);
    relay.cut(Cut::Reset);
    eventually(SOON, "a call after the reset", || async {
        (call(&server, "/b", Vec::new()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_conversation_goes_both_ways_at_once_and_ends_with_trailers() {
    let origin = GrpcOrigin::start().await.unwrap();
    let server = Server::start().await;
    let _agent = Publish::to(&server).target(&format!("h2c://{}", origin.addr()), &["--as", "grpc"]).start().await;
    let io = TcpStream::connect(server.public).await.unwrap();
    let (mut client, connection) = h2::client::handshake(io).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/chat", server.host("grpc")))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut up) = client.send_request(request, false).unwrap();
    let mut down = within("the answer's head", answer).await.unwrap().into_body();
    for round in 0..10_u64 {
        let sent = noise::bytes(round, 2000);
        up.send_data(sent.clone().into(), false).unwrap();
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let piece = within("the echo", down.data()).await.expect("the answer goes on").unwrap();
            down.flow_control().release_capacity(piece.len()).unwrap();
            got.extend_from_slice(&piece);
        }
        assert_eq!(got, sent, "round {round}");
    }
    up.send_data(bytes::Bytes::new(), true).unwrap();
    assert!(within("the end", down.data()).await.is_none());
    let trailers = within("the trailers", down.trailers()).await.unwrap().expect("there are trailers");
    assert_eq!(trailers["grpc-status"], "0");
    driver.abort();
}
