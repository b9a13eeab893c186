//! Visitors whose requests are meant to be read in two ways (S8, S9, S10), or are too large (S11).

use h2::client;
use http::Request;
use mux::frame::FrameType;
use testkit::cert::TestCa;
use testkit::origin::HttpOrigin;
use testkit::raw;
use tokio::net::TcpStream;

use super::wire::{RawAgent, http as wire_http};
use crate::support::{Agent, DEADLINE, Publish, SOON, Server, eventually, within};

struct Place {
    server: Server,
    origin: HttpOrigin,
    _agent: Agent,
}

impl Place {
    async fn start() -> Self {
        Self::start_with(Server::start().await).await
    }

    async fn start_with(server: Server) -> Self {
        let origin = HttpOrigin::start().await.expect("a service");
        let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
        Self { server, origin, _agent: agent }
    }

    /// All that comes back, until the server closes.
    async fn exchange(&self, request: &str) -> String {
        let bytes = raw::exchange(self.server.public, request.as_bytes()).await.expect("an answer");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The one status that comes back, and that the connection is closed behind it.
    async fn status(&self, request: &str) -> u16 {
        let answer = self.exchange(request).await;
        let statuses: Vec<u16> = statuses(&answer);
        assert_eq!(statuses.len(), 1, "one answer to {request:?}, not {answer:?}");
        statuses[0]
    }
}

fn statuses(answer: &str) -> Vec<u16> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

#[tokio::test]
async fn s8_a_request_has_exactly_one_host_and_it_is_a_name() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let close = "Connection: close\r\n\r\n";
    for (what, status, request) in [
        ("no host", 400, format!("GET / HTTP/1.1\r\n{close}")),
        ("two hosts", 400, format!("GET / HTTP/1.1\r\nHost: {host}\r\nHost: other.localhost\r\n{close}")),
        ("the same host twice", 400, format!("GET / HTTP/1.1\r\nHost: {host}\r\nhost: {host}\r\n{close}")),
        ("two hosts in one line", 400, format!("GET / HTTP/1.1\r\nHost: {host}, other.localhost\r\n{close}")),
        (
            "an absolute target for another host",
            400,
            format!("GET http://other.localhost/ HTTP/1.1\r\nHost: {host}\r\n{close}"),
        ),
        (
            "an absolute target for another port",
            400,
            format!("GET http://app1.localhost:1/ HTTP/1.1\r\nHost: {host}\r\n{close}"),
        ),
        ("an absolute target with userinfo", 400, format!("GET http://a@{host}/ HTTP/1.1\r\nHost: {host}\r\n{close}")),
        ("IPv4", 400, format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{close}")),
        ("IPv4 as one number", 400, format!("GET / HTTP/1.1\r\nHost: 2130706433\r\n{close}")),
        ("IPv6", 400, format!("GET / HTTP/1.1\r\nHost: [::1]:80\r\n{close}")),
        ("userinfo", 400, format!("GET / HTTP/1.1\r\nHost: user@{host}\r\n{close}")),
        ("not ASCII", 400, format!("GET / HTTP/1.1\r\nHost: \u{e4}pp1.localhost\r\n{close}")),
        ("empty", 400, format!("GET / HTTP/1.1\r\nHost:\r\n{close}")),
        ("two trailing dots", 400, format!("GET / HTTP/1.1\r\nHost: app1.localhost..\r\n{close}")),
        ("an empty label", 400, format!("GET / HTTP/1.1\r\nHost: app1..localhost\r\n{close}")),
        ("a port that is none", 400, format!("GET / HTTP/1.1\r\nHost: app1.localhost:99999\r\n{close}")),
        ("a path in it", 400, format!("GET / HTTP/1.1\r\nHost: app1.localhost/x\r\n{close}")),
        ("a name nobody has", 404, format!("GET / HTTP/1.1\r\nHost: nobody.localhost\r\n{close}")),
        ("the base domain", 404, format!("GET / HTTP/1.1\r\nHost: localhost\r\n{close}")),
        ("HTTP/1.0 without a host", 400, "GET / HTTP/1.0\r\n\r\n".to_owned()),
    ] {
        assert_eq!(place.status(&request).await, status, "{what}");
    }
    assert_eq!(place.origin.requests(), 0);
    for (what, request) in [
        ("as it should be", format!("GET / HTTP/1.1\r\nHost: {host}\r\n{close}")),
        ("a trailing dot", format!("GET / HTTP/1.1\r\nHost: app1.localhost.\r\n{close}")),
        ("upper case", format!("GET / HTTP/1.1\r\nHost: APP1.LocalHost\r\n{close}")),
        ("another port", format!("GET / HTTP/1.1\r\nHost: app1.localhost:1\r\n{close}")),
        ("an absolute target", format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{close}")),
    ] {
        assert_eq!(place.status(&request).await, 200, "{what}");
    }
    // The service is told one spelling, whatever was sent.
    let head = place.exchange(&format!("GET /head HTTP/1.1\r\nHost: APP1.LocalHost.:8080\r\n{close}")).await;
    assert!(head.to_ascii_lowercase().contains("\r\nhost: app1.localhost:8080\r\n"), "{head}");
}

#[tokio::test]
async fn s9_two_lengths_and_everything_else_two_readers_disagree_on_is_400() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let chunks = format!("0\r\n\r\n{smuggled}");
    let post = |headers: &str, body: &str| format!("POST /echo HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n{body}");
    for (what, status, request) in [
        ("CL then TE", 400, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &chunks)),
        ("TE then CL", 400, post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &chunks)),
        ("two lengths", 400, post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!")),
        ("the same length twice", 400, post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
        ("two lengths in one line", 400, post("Content-Length: 5, 5\r\n", "hello")),
        ("a signed length", 400, post("Content-Length: +5\r\n", "hello")),
        ("a negative length", 400, post("Content-Length: -1\r\n", &smuggled)),
        ("a length in hex", 400, post("Content-Length: 0x5\r\n", "hello")),
        ("an empty length", 400, post("Content-Length: \r\n", "hello")),
        ("a length of 30 digits", 400, post(&format!("Content-Length: {}\r\n", "9".repeat(30)), "hello")),
        ("a folded header", 400, post("X-A: b\r\n c\r\nContent-Length: 0\r\n", "")),
        ("a folded length", 400, post("Content-Length:\r\n 5\r\n", "hello")),
        ("a space before the colon", 400, post("Content-Length : 5\r\n", "hello")),
        ("a tab before the colon", 400, post("Transfer-Encoding\t: chunked\r\n", &chunks)),
        ("a bare LF in the head", 400, post("X-A: b\nX-B: c\r\n", "")),
        ("a bare LF at its end", 400, format!("GET / HTTP/1.1\nHost: {host}\n\n")),
        ("a bare CR", 400, post("X-A: b\rContent-Length: 5\r\n", "hello")),
        ("a NUL", 400, post("X-A: b\0c\r\n", "")),
        ("an empty header name", 400, post(": b\r\n", "")),
        ("no colon", 400, post("X-A\r\n", "")),
        ("two codings", 400, post("Transfer-Encoding: gzip, chunked\r\n", &chunks)),
        ("chunked twice", 400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &chunks)),
        ("identity", 400, post("Transfer-Encoding: identity\r\n", &smuggled)),
        ("another coding", 400, post("Transfer-Encoding: xchunked\r\n", &chunks)),
        (
            "chunked in HTTP/1.0",
            400,
            format!("POST / HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        ),
        ("white space before the first header", 400, format!("GET / HTTP/1.1\r\n Host: {host}\r\n\r\n")),
        ("HTTP/1.2", 505, format!("GET / HTTP/1.2\r\nHost: {host}\r\n\r\n")),
        ("HTTP/9.9", 505, format!("GET / HTTP/9.9\r\nHost: {host}\r\n\r\n")),
        ("a target with a blank", 400, format!("GET /a b HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        ("CONNECT", 501, format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        ("no request at all", 400, "\x16\x03\x01\x02\r\n\r\n".to_owned()),
    ] {
        let got = place.status(&request).await;
        assert_eq!(got, status, "{what}");
    }
    assert_eq!(place.origin.requests(), 0, "{:?}", place.origin.heads());
}

#[tokio::test]
async fn s9_what_is_smuggled_never_reaches_the_service() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let post = |headers: &str, body: &str| format!("POST /echo HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n{body}");
    let bad = [
        post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("5\nhello\r\n0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("5;a=\nb\r\nhello\r\n0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("+5\r\nhello\r\n0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("0x5\r\nhello\r\n0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("ffffffffffffffff5\r\nhello\r\n0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("5\r\nhelloXX0\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("5\r\nhello\r\n0\r\nBad\r\n\r\n{smuggled}")),
        post("Transfer-Encoding: chunked\r\n", &format!("5\r\nhello\r\n0\r\nA: b\r\n{smuggled}")),
    ];
    for request in bad {
        let before = place.origin.requests();
        // A good one before it is answered, and nothing behind it is.
        let answer = place.exchange(&format!("{}{request}", get("/"))).await;
        let statuses = statuses(&answer);
        assert_eq!(statuses.first(), Some(&200), "{request:?}");
        assert!(statuses[1..].iter().all(|status| (400..600).contains(status)), "{request:?}: {statuses:?}");
        assert!(statuses.len() <= 2, "{request:?}: {statuses:?}");
        assert!(place.origin.requests() <= before + 2);
    }
    let heads = place.origin.heads();
    assert!(heads.iter().all(|head| !head.contains("smuggled")), "{heads:?}");
    // A body that looks like a request is a body.
    let body = raw::request(place.server.public, "POST", &host, "/echo", &[], smuggled.as_bytes()).await.unwrap();
    assert_eq!(body.text(), smuggled);
    assert!(place.origin.heads().iter().all(|head| !head.contains("/smuggled")));
}

#[tokio::test]
async fn s9_a_broken_body_is_told_to_the_visitor_and_cancels_the_request() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let head = format!("POST /sink HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for body in ["5\r\nhello\r\nZZ\r\n", "5\r\nhelloXX\r\n0\r\n\r\n"] {
        assert_eq!(place.status(&format!("{head}{body}")).await, 400, "{body:?}");
    }
    // Trailers that begin well must not be ended by us.
    let mut visitor = raw::Client::connect(place.server.public).await.unwrap();
    visitor.send(format!("{head}0\r\nX-A: b\r\nX-B").as_bytes()).await.unwrap();
    visitor.finish().await.unwrap();
    let answer = visitor.rest().await.unwrap_or_default();
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    eventually(SOON, "nothing is left in flight", || async { (place.origin.in_flight() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn s9_hop_by_hop_headers_end_here_and_an_upgrade_has_no_body() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let head = place
        .exchange(&format!(
            "GET /head HTTP/1.1\r\nHost: {host}\r\nConnection: close, X-Secret, X-Forwarded-For\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Authorization: b\r\nTE: trailers, deflate\r\nTrailer: X-T\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Kept: 1\r\n\r\n"
        ))
        .await
        .to_ascii_lowercase();
    let body = head.split("\r\n\r\n").nth(1).unwrap_or_default();
    for gone in ["x-secret", "keep-alive", "proxy-authorization", "deflate", "upgrade", "h2c"] {
        assert!(!body.contains(gone), "{gone} in {body}");
    }
    assert!(body.contains("x-kept: 1") && body.contains("x-forwarded-for: 127.0.0.1"), "{body}");
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    for (what, headers, body) in [
        ("a length", "Content-Length: 5\r\n", "hello"),
        ("chunks", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let request = format!("POST /ws HTTP/1.1\r\nHost: {host}\r\n{upgrade}{headers}\r\n{body}");
        assert_eq!(place.status(&request).await, 400, "an upgrade with {what}");
    }
    let two = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: websocket, foo\r\n\r\n");
    assert_eq!(place.status(&two).await, 400, "two protocols");
}

#[tokio::test]
async fn s9_behind_an_upgrade_the_service_did_not_take_nothing_is_a_request() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let answer = place
        .exchange(&format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: unheard-of\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ))
        .await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(place.origin.requests(), 1);
}

#[tokio::test]
async fn s10_forged_forwarding_headers_are_replaced_by_the_truth() {
    let place = Place::start().await;
    let forged = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("x-forwarded-for", "203.0.113.10"),
        ("X-Forwarded-Host", "bank.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "443"),
        ("X-Real-IP", "203.0.113.11"),
        ("Forwarded", "for=203.0.113.12;host=bank.example;proto=https"),
        ("X-Request-Id", "forged-id"),
    ];
    let head = place.server.request("GET", "app1", "/head", &forged, b"").await.text().to_ascii_lowercase();
    for lie in ["203.0.113", "bank.example", "proto=https", "forged-id", ": 443", ": https"] {
        assert!(!head.contains(lie), "{lie} in {head}");
    }
    let port = place.server.public.port();
    for truth in ["x-forwarded-for: 127.0.0.1\r\n", "x-real-ip: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n"] {
        assert!(head.contains(truth), "{truth} in {head}");
    }
    assert!(head.contains(&format!("x-forwarded-host: app1.localhost:{port}\r\n")), "{head}");
    assert_eq!(head.matches("x-forwarded-for").count(), 1, "{head}");
}

#[tokio::test]
async fn s10_forged_forwarding_headers_do_not_pass_as_trailers() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    let mut visitor = raw::Client::connect(server.public).await.unwrap();
    let head = raw::head("POST", &server.host("app1"), "/", &[("Transfer-Encoding", "chunked")], None);
    visitor.send(&head).await.unwrap();
    visitor
        .send(
            b"2\r\nhi\r\n0\r\nX-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\nX-Sum: 1\r\nHost: evil\r\n\r\n",
        )
        .await
        .unwrap();
    let (stream, _) = agent.wire.opened().await;
    let trailers = loop {
        let frame = agent.wire.until(FrameType::Data).await.unwrap();
        if frame.stream == stream && frame.flags & mux::frame::flags::HEADERS != 0 {
            break String::from_utf8_lossy(&frame.payload).into_owned();
        }
    };
    assert!(trailers.contains("x-sum"), "{trailers}");
    assert!(!trailers.contains("203.0.113.9") && !trailers.contains("evil"), "{trailers}");
}

#[tokio::test]
async fn s10_a_trusted_proxy_is_believed_and_a_visitor_cannot_pretend_to_be_one() {
    let place =
        Place::start_with(Server::setup().public("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]").start().await).await;
    // The proxy appends what it saw; what stands to the left of that, the visitor wrote.
    let claims = [("X-Forwarded-For", "203.0.113.66, 198.51.100.7"), ("X-Forwarded-Proto", "https")];
    let head = place.server.request("GET", "app1", "/head", &claims, b"").await.text().to_ascii_lowercase();
    assert!(head.contains("x-real-ip: 198.51.100.7\r\n"), "{head}");
    assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
    place.server.accessed(|line| line.contains(" 198.51.100.7 ")).await;
}

#[tokio::test]
async fn s11_a_head_has_its_size_and_its_number_of_headers() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let headers = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let request = |more: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
    assert_eq!(place.status(&request(&headers(98))).await, 200);
    assert_eq!(place.status(&request(&headers(99))).await, 431);
    assert_eq!(place.status(&request(&format!("X-Large: {}\r\n", "a".repeat(60_000)))).await, 200);
    assert_eq!(place.status(&request(&format!("X-Large: {}\r\n", "a".repeat(65_536)))).await, 431);
    let endless = format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "a".repeat(70_000));
    assert_eq!(place.status(&endless).await, 431);
    assert_eq!(place.origin.requests(), 2);
}

/// A request over HTTP/2, prior knowledge or what `io` negotiated; the status, or the stream's error.
async fn h2_status<S>(io: S, request: Request<()>) -> Result<u16, h2::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = client::handshake(io).await?;
    let exchange = async {
        let mut sender = sender.ready().await?;
        let (answer, _) = sender.send_request(request, true)?;
        Ok(answer.await?.status().as_u16())
    };
    tokio::select! {
        status = exchange => status,
        ended = connection => Err(ended.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into())),
    }
}

#[tokio::test]
async fn s8_http2_has_one_authority_and_the_same_bounds() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let visit = async |request: Request<()>| {
        let tcp = TcpStream::connect(place.server.public).await.unwrap();
        within("an h2 exchange", h2_status(tcp, request)).await
    };
    let get = |authority: &str| Request::get(format!("http://{authority}/"));
    assert_eq!(visit(get(&host).body(()).unwrap()).await.unwrap(), 200);
    let conflict = get(&host).header("host", "other.localhost").body(()).unwrap();
    assert_eq!(visit(conflict).await.unwrap(), 400);
    let twice = get(&host).header("host", host.as_str()).header("host", "other.localhost").body(()).unwrap();
    assert_eq!(visit(twice).await.unwrap(), 400);
    for bad in ["127.0.0.1", "[::1]:80", "user@app1.localhost"] {
        let answer = visit(get(bad).body(()).unwrap()).await;
        assert!(answer.as_ref().is_err() || *answer.as_ref().unwrap() == 400, "{bad}: {answer:?}");
    }
    let mut many = get(&host);
    for number in 0..101 {
        many = many.header(format!("x-{number}"), "1");
    }
    assert_eq!(visit(many.body(()).unwrap()).await.unwrap(), 431, "101 headers");
    let connection = visit(get(&host).header("transfer-encoding", "chunked").body(()).unwrap()).await;
    assert!(connection.is_err() || connection.unwrap() == 400);
    assert_eq!(place.origin.requests(), 1);
}

#[tokio::test]
async fn s4_http2_requests_reset_at_once_end_the_connection_that_sends_them() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    let tcp = TcpStream::connect(place.server.public).await.unwrap();
    let (mut sender, connection) = client::handshake(tcp).await.unwrap();
    // Each batch is let through to the service first: faster ones the HTTP/2 library stops by itself.
    let flood = async {
        for batch in 0..20 {
            let mut answers = Vec::new();
            for _ in 0..50 {
                let Ok(ready) = sender.ready().await else { return batch };
                sender = ready;
                let request = Request::get(format!("http://{host}/slow?ms=60000")).body(()).unwrap();
                match sender.send_request(request, true) {
                    Ok((answer, _)) => answers.push(answer),
                    Err(_) => return batch,
                }
            }
            eventually(DEADLINE, "the service has them", || async { (place.origin.in_flight() >= 50).then_some(()) })
                .await;
            drop(answers);
            eventually(DEADLINE, "they are cancelled", || async { (place.origin.in_flight() == 0).then_some(()) })
                .await;
        }
        20
    };
    let batches = within("the end of the flood", async {
        tokio::select! {
            biased;
            batches = flood => batches,
            _ = connection => 0,
        }
    })
    .await;
    assert!(batches < 20, "nobody stops it");
    assert_eq!(place.server.get("app1", "/").await.status, 200);
    let flood = || async { place.server.metric("tunnel_errors_total{type=\"reset_flood\"").await };
    eventually(DEADLINE, "it is counted", flood).await;
}

#[tokio::test]
async fn s8_a_tls_name_of_one_tenant_is_no_way_to_another() {
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("public", &["*.localhost", "localhost"]).unwrap();
    let tls = format!("tls: {{ cert: {}, key: {} }}", leaf.cert.display(), leaf.key.display());
    let server = Server::setup().public(&tls).start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    let mut rival = RawAgent::with_token(&server, &server.token("rival"), "rival").await.unwrap();
    rival.publish("rival").await.unwrap();
    let mut friend = RawAgent::with_token(&server, &server.token("acme"), "friend").await.unwrap();
    friend.register(wire_http(1, "app2")).await.unwrap();
    let connect = async |sni: &str| {
        let config = testkit::cert::trust_anything(&["http/1.1"]);
        raw::Client::connect_tls(server.public, sni, config).await.unwrap()
    };
    let host = server.host("app1");
    assert_eq!(connect("app1.localhost").await.get(&host, "/").await.unwrap().status, 200);
    assert_eq!(connect("app2.localhost").await.get(&host, "/").await.unwrap().status, 200, "one account's names");
    for sni in ["rival.localhost", "nobody.localhost"] {
        assert_eq!(connect(sni).await.get(&host, "/").await.unwrap().status, 421, "{sni}");
    }
    // On one connection too, and over HTTP/2.
    let mut visitor = connect("rival.localhost").await;
    assert_eq!(visitor.get(&host, "/").await.unwrap().status, 421);
    let io = raw::tls(server.public, "rival.localhost", testkit::cert::trust_anything(&["h2"])).await.unwrap();
    let request = Request::get(format!("https://{host}/")).body(()).unwrap();
    assert_eq!(within("an h2 exchange", h2_status(io, request)).await.unwrap(), 421);
    assert_eq!(origin.requests(), 2);
    drop(agent);
}

#[tokio::test]
async fn a_visitor_who_resets_in_the_middle_hurts_nobody() {
    let place = Place::start().await;
    let host = place.server.host("app1");
    for target in ["/bytes/50000000", "/slow?ms=5000", "/sse?events=0&ms=20"] {
        let mut visitor = raw::Client::connect(place.server.public).await.unwrap();
        visitor.send(&raw::head("GET", &host, target, &[], None)).await.unwrap();
        if !target.starts_with("/slow") {
            visitor.response_head(false).await.unwrap();
        }
        visitor.reset();
    }
    let mut uploader = raw::Client::connect(place.server.public).await.unwrap();
    uploader.send(&raw::head("POST", &host, "/sink", &[], Some(1 << 20))).await.unwrap();
    uploader.send(&[0; 1000]).await.unwrap();
    uploader.reset();
    eventually(DEADLINE, "nothing is left of them", || async {
        (place.server.metric("tunnel_streams_active").await == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(place.server.get("app1", "/").await.status, 200);
}
