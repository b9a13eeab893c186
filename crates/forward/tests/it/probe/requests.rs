//! HTTP and gRPC.

use testkit::origin::{Canned, GrpcHealth, HttpOrigin, Manner};

use super::{bad, good};

#[tokio::test]
async fn a_request_says_what_was_written() {
    let origin = HttpOrigin::start().await.unwrap();
    let said = good("type: http", origin.addr()).await;
    assert_eq!(said, "GET / answered 200 OK");
    let head = origin.last_head().unwrap().to_ascii_lowercase();
    assert!(head.contains("host: localhost") && head.contains("user-agent: adit-health/"), "{head}");
    let body = "method: HEAD, path: '/?x=1', headers: { authorization: 'Bearer t' }, host_header: 'app.internal:81'";
    good(body, origin.addr()).await;
    let head = origin.last_head().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("head /?x=1 http/1.1"), "{head}");
    assert!(head.contains("host: app.internal:81") && head.contains("authorization: bearer t"), "{head}");
}

#[tokio::test]
async fn status_and_content_decide() {
    let answer = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let busy = Canned::start(answer("503 Service Unavailable", "starting"), Manner::Asked).await.unwrap();
    assert_eq!(bad("type: http, path: /ready", busy.addr()).await, "GET /ready answered 503 Service Unavailable");
    good("type: http, status: [200-299, 503]", busy.addr()).await;
    let fine = Canned::start(answer("200 OK", "{\"status\": \"UP\"}"), Manner::Asked).await.unwrap();
    good("type: http, content: UP", fine.addr()).await;
    let said = bad("type: http, content: DOWN", fine.addr()).await;
    assert_eq!(said, "GET / does not say `DOWN`");
    assert_eq!(bad("type: http, status: 204", fine.addr()).await, "GET / answered 200 OK; expected 204");
}

#[tokio::test]
async fn content_is_not_looked_for_without_end() {
    let mut words = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    words.resize(3 << 20, b'x');
    let endless = Canned::start(words, Manner::Asked).await.unwrap();
    assert_eq!(bad("type: http, content: needle", endless.addr()).await, "GET / does not say `needle`");
}

#[tokio::test]
async fn https_looks_at_the_certificate() {
    let ca = testkit::cert::TestCa::new().unwrap();
    let tls = ca.leaf("web", &["localhost"]).unwrap().server(&["http/1.1"]).unwrap();
    // A broker is a server with TLS, too: what it is not is found behind the handshake.
    let options = testkit::kafka::KafkaOptions { tls: Some(std::sync::Arc::new(tls)), ..Default::default() };
    let server = testkit::kafka::KafkaBroker::start(options).await.unwrap();
    let said = bad(&format!("type: https, ca: {}", ca.path().display()), server.addr()).await;
    assert_eq!(said, "the connection was closed while waiting for its answer");
    let said = bad("type: https", server.addr()).await;
    assert!(said.starts_with("tls failed") && said.contains("certificate"), "{said}");
    let plain = Canned::start("HTTP/1.1 400 Bad Request\r\n\r\n", Manner::Closing).await.unwrap();
    assert_eq!(bad("type: https", plain.addr()).await, "it answers HTTP, not TLS");
    let said = bad("type: http", server.addr()).await;
    assert_eq!(said, "it answers TLS, not HTTP");
}

#[tokio::test]
async fn a_grpc_server_is_asked_how_it_is() {
    let server =
        GrpcHealth::start(&[("", 1), ("shop.Cart", 1), ("shop.Pay", 2), ("odd", 0), ("gone", 3)]).await.unwrap();
    assert_eq!(good("type: grpc", server.addr()).await, "it is serving");
    assert_eq!(good("service: shop.Cart, host_header: cart.internal", server.addr()).await, "it is serving");
    assert_eq!(bad("service: shop.Pay", server.addr()).await, "`shop.Pay` is not serving");
    assert_eq!(bad("service: odd", server.addr()).await, "it does not know how `odd` is");
    assert_eq!(bad("service: gone", server.addr()).await, "it knows no service `gone`");
    assert_eq!(bad("service: nothing", server.addr()).await, "it knows no service `nothing`");
    let bare = GrpcHealth::start(&[]).await.unwrap();
    assert_eq!(bad("type: grpc", bare.addr()).await, "it has no health service (grpc.health.v1.Health)");
    let echo = testkit::origin::GrpcOrigin::start().await.unwrap();
    let said = bad("service: shop.Cart", echo.addr()).await;
    assert_eq!(said, "its answer is not gRPC: there is no health in it");
}
