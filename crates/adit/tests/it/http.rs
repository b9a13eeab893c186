//! HTTP tunnels, from the visitor to the local service and back.

mod bodies;
mod faults;
mod grpc;
mod headers;
mod isolation;
mod routing;
mod tls;
mod upgrade;

use testkit::origin::HttpOrigin;

use crate::support::{Agent, Publish, Server, Setup, curl};

/// A server, a local service, and an agent that publishes it as `app1`.
struct Tunnel {
    server: Server,
    origin: HttpOrigin,
    agent: Agent,
}

impl Tunnel {
    async fn start() -> Self {
        Self::start_with(Server::setup(), &[]).await
    }

    async fn start_with(setup: Setup, arguments: &[&str]) -> Self {
        let server = setup.start().await;
        let origin = HttpOrigin::start().await.expect("a local service");
        let agent = Publish::to(&server).http("app1", origin.addr()).arguments(arguments).start().await;
        Self { server, origin, agent }
    }

    fn url(&self, target: &str) -> String {
        format!("{}{target}", self.agent.url())
    }
}

#[tokio::test]
async fn a_request_travels_to_the_local_service_and_back() {
    let tunnel = Tunnel::start().await;
    assert_eq!(tunnel.agent.url(), format!("http://{}", tunnel.server.host("app1")));
    let answer = tunnel.server.get("app1", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"));
}

#[tokio::test]
async fn curl_gets_the_page_with_http_1_and_with_http_2() {
    let tunnel = Tunnel::start().await;
    for (option, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2"), ("--http1.0", "1.1")] {
        let answer = curl(&[option, &tunnel.url("/")]).await;
        assert_eq!((answer.exit, answer.status, answer.text().as_str()), (0, 200, "Hello, world!"), "{option}");
        if option != "--http1.0" {
            assert_eq!(answer.version, version);
        }
    }
}

#[tokio::test]
async fn the_path_and_the_query_arrive_as_they_were_written() {
    let tunnel = Tunnel::start().await;
    let target = "/head/../head?a=1&b=%20%2F&c=+x?y&empty=&%zz";
    for option in ["--http1.1", "--http2-prior-knowledge"] {
        curl(&[option, "--path-as-is", &tunnel.url(target)]).await;
        let head = tunnel.origin.last_head().unwrap();
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{head}");
    }
}

#[tokio::test]
async fn every_method_passes() {
    let tunnel = Tunnel::start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let answer = tunnel.server.request(method, "app1", "/head", &[], b"").await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(answer.text().starts_with(&format!("{method} /head HTTP/1.1\r\n")), "{}", answer.text());
    }
}

#[tokio::test]
async fn connections_to_the_local_service_are_kept_and_used_again() {
    let tunnel = Tunnel::start().await;
    let mut client = testkit::raw::Client::connect(tunnel.server.public).await.unwrap();
    for _ in 0..20 {
        assert_eq!(client.get(&tunnel.server.host("app1"), "/").await.unwrap().status, 200);
    }
    for _ in 0..20 {
        assert_eq!(tunnel.server.get("app1", "/").await.status, 200);
    }
    assert_eq!((tunnel.origin.requests(), tunnel.origin.connections()), (40, 1));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let tunnel = Tunnel::start().await;
    let mut client = testkit::raw::Client::connect(tunnel.server.public).await.unwrap();
    let host = tunnel.server.host("app1");
    let requests: Vec<u8> = ["/slow?ms=100", "/status/201", "/bytes/7"]
        .iter()
        .flat_map(|target| testkit::raw::head("GET", &host, target, &[], None))
        .collect();
    client.send(&requests).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = client.response(false).await.unwrap();
        seen.push((answer.status, answer.body.len()));
    }
    assert_eq!(seen, [(200, 13), (201, 10), (200, 7)]);
}
