//! What headers are changed on the way, and what must not be.

use testkit::origin::HttpOrigin;
use testkit::raw::{self, Client};

use super::Tunnel;
use crate::support::{Publish, Server};

/// The head the local service saw, in lower case.
async fn seen(server: &Server, headers: &[(&str, &str)]) -> String {
    let answer = server.request("GET", "app1", "/head", headers, b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().to_lowercase()
}

fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}: ");
    head.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect()
}

#[tokio::test]
async fn the_local_service_learns_who_asked_and_how() {
    let tunnel = Tunnel::start().await;
    let head = seen(&tunnel.server, &[]).await;
    let host = tunnel.server.host("app1");
    let port = tunnel.server.public.port().to_string();
    assert_eq!(values(&head, "host"), [host.as_str()]);
    assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values(&head, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(values(&head, "x-forwarded-host"), [host.as_str()]);
    assert_eq!(values(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&head, "x-forwarded-port"), [port.as_str()]);
    let forwarded = values(&head, "forwarded");
    assert_eq!(forwarded.len(), 1);
    for part in ["for=127.0.0.1", "proto=http", &format!("host=\"{host}\"")] {
        assert!(forwarded[0].contains(part), "{forwarded:?}");
    }
}

#[tokio::test]
async fn s10_forged_forwarding_headers_are_dropped() {
    let tunnel = Tunnel::start().await;
    let forged = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "7.7.7.7"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "443"),
        ("X-Real-IP", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6;proto=https"),
        ("X-Request-Id", "forged"),
    ];
    let head = seen(&tunnel.server, &forged).await;
    for trace in ["6.6.6.6", "7.7.7.7", "evil", "https", "forged"] {
        assert!(!head.contains(trace), "{trace} in {head}");
    }
    assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values(&head, "x-forwarded-port"), [tunnel.server.public.port().to_string()]);
    let line = tunnel.server.accessed(|line| line.contains("/head")).await;
    assert!(line.contains("127.0.0.1") && !line.contains("6.6.6.6"), "{line}");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_believed_and_added_to() {
    let setup = Server::setup().public("trusted_proxies: [127.0.0.1/32]");
    let tunnel = Tunnel::start_with(setup, &[]).await;
    let told = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=203.0.113.9;proto=https"),
        ("X-Request-Id", "from-the-proxy"),
    ];
    let head = seen(&tunnel.server, &told).await;
    assert_eq!(values(&head, "x-forwarded-for"), ["203.0.113.9, 127.0.0.1"]);
    assert_eq!(values(&head, "x-real-ip"), ["203.0.113.9"]);
    assert_eq!(values(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&head, "x-request-id"), ["from-the-proxy"]);
    let forwarded = values(&head, "forwarded");
    assert!(
        forwarded.len() == 1 && forwarded[0].starts_with("for=203.0.113.9;proto=https, for=127.0.0.1"),
        "{forwarded:?}"
    );
    let line = tunnel.server.accessed(|line| line.contains("/head")).await;
    assert!(line.contains("203.0.113.9"), "the real visitor's address: {line}");
}

#[tokio::test]
async fn each_answer_has_an_id_that_the_service_and_the_access_log_have_too() {
    let tunnel = Tunnel::start().await;
    let answer = tunnel.server.get("app1", "/head").await;
    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert_eq!(values(&answer.text().to_lowercase(), "x-request-id"), [id.as_str()]);
    let line = tunnel.server.accessed(|line| line.contains(&id)).await;
    assert!(line.contains("app1.localhost") && line.contains("GET") && line.contains("200"), "{line}");
    let other = tunnel.server.get("app1", "/head").await;
    assert_ne!(other.header("x-request-id"), Some(id.as_str()));
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let tunnel = Tunnel::start().await;
    let own = [
        ("Connection", "x-private, keep-alive"),
        ("X-Private", "1"),
        ("Keep-Alive", "5"),
        ("Proxy-Authorization", "x"),
        ("X-Public", "1"),
    ];
    let head = seen(&tunnel.server, &own).await;
    assert!(head.contains("x-public: 1"), "{head}");
    for name in ["x-private", "keep-alive:", "proxy-authorization"] {
        assert!(!head.contains(name), "{name} in {head}");
    }
    let answer = tunnel.server.get("app1", "/hop").await;
    assert_eq!(
        (answer.header("x-public"), answer.header("x-private"), answer.header("keep-alive")),
        (Some("seen"), None, None)
    );
}

#[tokio::test]
async fn ordinary_headers_pass_in_both_directions_repeated_ones_too() {
    let tunnel = Tunnel::start().await;
    let long = "v".repeat(8000);
    let sent = [
        ("Cookie", "a=1"),
        ("Accept-Language", "de"),
        ("X-Twice", "one"),
        ("X-Twice", "two"),
        ("X-Long", &long),
        ("Authorization", "Basic eDp5"),
    ];
    let head = seen(&tunnel.server, &sent).await;
    assert_eq!(values(&head, "x-twice"), ["one", "two"]);
    assert_eq!(values(&head, "x-long")[0].len(), 8000);
    assert_eq!((values(&head, "cookie"), values(&head, "accept-language")), (vec!["a=1"], vec!["de"]));
    assert_eq!(values(&head, "authorization"), ["basic edp5"]);
}

#[tokio::test]
async fn the_host_header_is_rewritten_when_asked_for() {
    let tunnel = Tunnel::start_with(Server::setup(), &["--host-header", "shop.internal"]).await;
    let head = seen(&tunnel.server, &[]).await;
    assert_eq!(values(&head, "host"), ["shop.internal"]);
    assert_eq!(values(&head, "x-forwarded-host"), [tunnel.server.host("app1").as_str()]);
}

#[tokio::test]
async fn header_rules_add_replace_and_remove_on_both_ways() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let tunnel = format!(
        "app1: {{ to: \"http://{}\", headers: {{ add: {{ X-Team: blue, X-Old: new }}, remove: [X-Debug] }}, \
         response_headers: {{ add: {{ X-Served-By: adit }}, remove: [X-Public] }} }}",
        origin.addr()
    );
    let _agent = Publish::to(&server).file(&[&tunnel]).start().await;
    let head = seen(&server, &[("X-Debug", "1"), ("X-Keep", "1")]).await;
    assert_eq!((values(&head, "x-team"), values(&head, "x-keep")), (vec!["blue"], vec!["1"]));
    assert!(!head.contains("x-debug"), "{head}");
    let answer = server.get("app1", "/hop").await;
    assert_eq!((answer.header("x-served-by"), answer.header("x-public")), (Some("adit"), None));
}

#[tokio::test]
async fn a_visitor_without_http_1_1_gets_an_answer_it_can_read() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let request = format!("GET /bytes/100?chunked HTTP/1.0\r\nHost: {}\r\n\r\n", tunnel.server.host("app1"));
    client.send(request.as_bytes()).await.unwrap();
    let answer = client.response_head(false).await.unwrap();
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    assert_eq!(client.rest().await.unwrap().len(), 100);
}

#[tokio::test]
async fn a_host_with_a_trailing_dot_or_other_case_is_the_same_host() {
    let tunnel = Tunnel::start().await;
    let port = tunnel.server.public.port();
    for host in [format!("APP1.LocalHost:{port}"), format!("app1.localhost.:{port}"), "app1.localhost".to_owned()] {
        let answer = raw::get(tunnel.server.public, &host, "/").await.unwrap();
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
}
