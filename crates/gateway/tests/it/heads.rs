//! What the upstream gets of a request's head, and the client of an answer's.

use adit_core::cidr::Cidr;
use adit_core::config::publish::HeaderEdits;
use http::{HeaderName, HeaderValue};
use testkit::origin::HttpOrigin;
use testkit::raw::{self, Client};

use crate::support::{Gate, basic, options};

fn edits(add: &[(&'static str, &'static str)], remove: &[&'static str]) -> HeaderEdits {
    HeaderEdits {
        add: add.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect(),
        remove: remove.iter().map(|n| HeaderName::from_static(n)).collect(),
    }
}

fn has(head: &str, line: &str) -> bool {
    head.lines().any(|found| found.eq_ignore_ascii_case(line))
}

#[tokio::test]
async fn the_host_is_kept_and_the_client_is_described() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let answer = raw::get(gate.addr, "APP.localhost.:8989", "/head?a=%20b").await.unwrap();
    assert_eq!(answer.status, 200);
    let head = answer.text();
    let port = gate.addr.port();
    assert!(head.starts_with("GET /head?a=%20b HTTP/1.1\r\n"), "{head}");
    for line in [
        "host: app.localhost:8989".to_owned(),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-host: app.localhost:8989".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        format!("x-forwarded-port: {port}"),
        "forwarded: for=127.0.0.1;host=\"app.localhost:8989\";proto=http".to_owned(),
    ] {
        assert!(has(&head, &line), "{line} in {head}");
    }
}

#[tokio::test]
async fn what_a_client_says_of_its_way_counts_behind_a_trusted_proxy_only() {
    let origin = HttpOrigin::start().await.unwrap();
    let claims = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
        // One variable with the first in CGI, WSGI and PHP.
        ("X_Forwarded_For", "203.0.113.9"),
        ("X_Real_IP", "203.0.113.9"),
    ];
    let gate = Gate::to(origin.addr()).await;
    let head = raw::request(gate.addr, "GET", "app.localhost", "/head", &claims, b"").await.unwrap().text();
    assert!(!head.contains("203.0.113.9"), "{head}");
    assert!(has(&head, "x-forwarded-proto: http"), "{head}");

    let trusting = |site: &mut gateway::http::Site| site.trusted_proxies.set(vec![Cidr::parse("127.0.0.0/8").unwrap()]);
    let gate = Gate::whole(|scope| options(origin.addr(), scope), trusting).await;
    let head = raw::request(gate.addr, "GET", "app.localhost", "/head", &claims, b"").await.unwrap().text();
    assert!(has(&head, "x-forwarded-for: 203.0.113.9, 127.0.0.1"), "{head}");
    assert!(has(&head, "x-forwarded-proto: https"), "{head}");
    assert!(has(&head, "x-real-ip: 203.0.113.9"), "{head}");
    assert!(!head.to_lowercase().contains("x_"), "{head}");
}

#[tokio::test]
async fn a_proxy_that_is_trusted_no_more_is_believed_no_more_on_a_connection_that_is_there() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    let claims = [("X-Forwarded-For", "203.0.113.9")];
    for (proxies, believed) in [(vec![], false), (vec![Cidr::parse("127.0.0.0/8").unwrap()], true), (vec![], false)] {
        gate.site.trusted_proxies.set(proxies);
        let head = client.request("GET", "app.localhost", "/head", &claims, b"").await.unwrap().text();
        assert_eq!(head.contains("203.0.113.9"), believed, "{head}");
    }
}

#[tokio::test]
async fn headers_of_one_hop_stay_on_it() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let sent = [
        ("Connection", "x-private, keep-alive, x-forwarded-for"),
        ("X-Private", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eA=="),
        ("X-Public", "1"),
    ];
    let mut client = Client::connect(gate.addr).await.unwrap();
    let head = client.request("GET", "app.localhost", "/head", &sent, b"").await.unwrap().text();
    for gone in ["x-private", "keep-alive", "proxy-"] {
        assert!(!head.to_ascii_lowercase().contains(gone), "{gone} in {head}");
    }
    assert!(has(&head, "x-public: 1") && has(&head, "x-forwarded-for: 127.0.0.1"), "{head}");
    let answer = client.get("app.localhost", "/hop").await.unwrap();
    assert_eq!((answer.header("x-private"), answer.header("keep-alive")), (None, None));
    assert_eq!(answer.header("x-public"), Some("seen"));
}

#[tokio::test]
async fn a_route_changes_heads_as_it_is_told() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::with(|scope| {
        let mut options = options(origin.addr(), scope);
        options.host_header = Some("inner.example:81".into());
        options.headers = edits(&[("x-added", "yes")], &["cookie"]);
        options.response_headers = edits(&[("x-frame-options", "DENY")], &["content-type"]);
        options
    })
    .await;
    let answer = raw::request(gate.addr, "GET", "app.localhost", "/head", &[("Cookie", "a=1")], b"").await.unwrap();
    let head = answer.text();
    assert!(has(&head, "host: inner.example:81") && has(&head, "x-added: yes"), "{head}");
    assert!(has(&head, "x-forwarded-host: app.localhost"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("cookie"), "{head}");
    assert_eq!((answer.header("x-frame-options"), answer.header("content-type")), (Some("DENY"), None));
}

#[tokio::test]
async fn a_route_with_a_password_lets_nobody_else_in_and_keeps_it_from_the_service() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::with(|scope| {
        let mut options = options(origin.addr(), scope);
        options.basic_auth = Some(basic("anna", "s:ecret"));
        options
    })
    .await;
    let ask = async |authorization: Option<&str>| {
        let headers: Vec<_> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
        raw::request(gate.addr, "GET", "app.localhost", "/head", &headers, b"").await.unwrap()
    };
    let right = "Basic YW5uYTpzOmVjcmV0";
    for wrong in [None, Some("Basic YW5uYTp3cm9uZw=="), None, None] {
        let answer = ask(wrong).await;
        assert_eq!(answer.status, 401, "{wrong:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"app\", charset=\"UTF-8\""));
    }
    let answer = ask(Some(right)).await;
    assert_eq!(answer.status, 200, "whoever mistyped does not wait");
    assert!(!answer.text().to_ascii_lowercase().contains("authorization"));
    assert_eq!(ask(Some("Bearer YW5uYTpzOmVjcmV0")).await.status, 401);
    // From now on no password is looked at for a while: a guess cannot be told from the right one.
    for guess in ["Basic !", right, "Basic "] {
        let answer = ask(Some(guess)).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{guess}");
        assert_eq!(answer.header("x-adit-error"), Some("too_many_guesses"));
    }
    assert_eq!(ask(None).await.status, 401, "no guess");
    assert_eq!(origin.requests(), 1);
    let waiting = async { while ask(Some(right)).await.status != 200 {} };
    tokio::time::timeout(crate::support::PATIENCE, waiting).await.expect("it is over some day");
    assert_eq!(gate.errors("unauthorized"), 6);
}

#[tokio::test]
async fn whoever_guesses_behind_a_trusted_proxy_does_not_lock_out_the_others_behind_it() {
    let origin = HttpOrigin::start().await.unwrap();
    let trusting = |site: &mut gateway::http::Site| site.trusted_proxies.set(vec![Cidr::parse("127.0.0.0/8").unwrap()]);
    let locked = |scope: &runtime::Scope| {
        let mut options = options(origin.addr(), scope);
        options.basic_auth = Some(basic("anna", "s:ecret"));
        options
    };
    let gate = Gate::whole(locked, trusting).await;
    let ask = async |client: &str, authorization: &str| {
        let headers = [("Authorization", authorization), ("X-Forwarded-For", client)];
        raw::request(gate.addr, "GET", "app.localhost", "/", &headers, b"").await.unwrap().status
    };
    for status in [401, 401, 429] {
        assert_eq!(ask("192.0.2.1", "Basic YW5uYTp3cm9uZw==").await, status);
    }
    assert_eq!(ask("192.0.2.2", "Basic YW5uYTpzOmVjcmV0").await, 200);
}

#[tokio::test]
async fn authorization_of_a_route_without_a_password_is_the_services() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let sent = [("Authorization", "Bearer x")];
    let head = raw::request(gate.addr, "GET", "app.localhost", "/head", &sent, b"").await.unwrap().text();
    assert!(has(&head, "authorization: Bearer x"), "{head}");
}

#[tokio::test]
async fn an_absolute_target_is_passed_on_in_origin_form() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    client.send(b"GET http://app.localhost/head?x HTTP/1.1\r\nHost: app.localhost\r\n\r\n").await.unwrap();
    assert!(client.response(false).await.unwrap().text().starts_with("GET /head?x HTTP/1.1\r\n"));
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: app.localhost\r\n\r\n").await.unwrap();
    client.response(false).await.unwrap();
    assert!(origin.last_head().unwrap().starts_with("OPTIONS * HTTP/1.1\r\n"), "{:?}", origin.last_head());
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_what_it_understands() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let sent = b"GET /bytes/1000?chunked HTTP/1.0\r\nHost: app.localhost\r\n\r\n";
    let answer = String::from_utf8_lossy(&raw::exchange(gate.addr, sent).await.unwrap()).into_owned();
    assert!(answer.starts_with("HTTP/1.0 200 ") && !answer.to_ascii_lowercase().contains("chunked"), "{answer}");
    assert!(origin.last_head().unwrap().starts_with("GET /bytes/1000?chunked HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_client_that_wants_the_end_of_its_connection_gets_it_and_the_services_is_kept() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for _ in 0..2 {
        let sent = b"GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
        let answer = String::from_utf8_lossy(&raw::exchange(gate.addr, sent).await.unwrap()).into_owned();
        assert!(answer.ends_with("\r\n\r\nHello, world!"), "{answer}");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_route_is_looked_up_by_the_bare_host_and_the_path_without_its_query() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    for (host, target, path) in
        [("App.LocalHost.:1234", "/a/b?c=/d", "/a/b"), ("app.localhost", "http://app.localhost/x%2fy", "/x%2fy")]
    {
        assert_eq!(client.get(host, target).await.unwrap().status, 404);
        assert_eq!(*gate.routes.asked.lock().unwrap(), ("app.localhost".to_owned(), path.to_owned()));
    }
}
