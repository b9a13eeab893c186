//! Slow visitors lose their place, patient ones keep it (S11).

use std::time::{Duration, Instant};

use testkit::origin::HttpOrigin;
use testkit::raw;
use testkit::ws::{Message, WebSocket};
use tokio::net::TcpSocket;

use crate::support::{Agent, Publish, SOON, Server, eventually, within};

async fn place(limits: &str) -> (Server, HttpOrigin, Agent) {
    let server = Server::setup().section(&format!("limits: {{ {limits} }}")).start().await;
    let origin = HttpOrigin::start().await.expect("a service");
    let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    (server, origin, agent)
}

/// What is said until the end, and when that was.
async fn until_closed(mut visitor: raw::Client) -> (String, Duration) {
    let started = Instant::now();
    let said = visitor.rest().await.unwrap_or_default();
    (String::from_utf8_lossy(&said).into_owned(), started.elapsed())
}

#[tokio::test]
async fn s11_a_slow_head_is_ended_however_steadily_it_drips() {
    let (server, origin, _agent) = place("header_timeout: 1s, idle_timeout: 60s").await;
    let mut half = raw::Client::connect(server.public).await.unwrap();
    half.send(b"GET / HTTP/1.1\r\nHost: ap").await.unwrap();
    let (said, took) = until_closed(half).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    let mut drip = raw::Client::connect(server.public).await.unwrap();
    let started = Instant::now();
    let mut open = true;
    while open && started.elapsed() < Duration::from_secs(6) {
        open = drip.send(b"G").await.is_ok();
        // The pace of the drip, which is the attack itself.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!open, "a drip keeps the place");

    // Behind a first request the same holds.
    let mut second = raw::Client::connect(server.public).await.unwrap();
    assert_eq!(second.get(&server.host("app1"), "/").await.unwrap().status, 200);
    second.send(b"GET / HT").await.unwrap();
    assert!(until_closed(second).await.1 < Duration::from_secs(5));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn s11_who_says_nothing_at_all_has_the_time_of_a_head() {
    let (server, _origin, _agent) = place("header_timeout: 1s, idle_timeout: 60s").await;
    let mute = raw::Client::connect(server.public).await.unwrap();
    let (_, took) = until_closed(mute).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn s11_an_idle_connection_is_ended_and_a_busy_one_is_not() {
    let (server, _origin, _agent) = place("header_timeout: 5s, idle_timeout: 1s").await;
    let host = server.host("app1");
    let mut idle = raw::Client::connect(server.public).await.unwrap();
    idle.get(&host, "/").await.unwrap();
    assert!(until_closed(idle).await.1 < Duration::from_secs(5));
    let mut patient = raw::Client::connect(server.public).await.unwrap();
    let answer = patient.get(&host, "/slow?ms=2500").await.unwrap();
    assert_eq!(answer.status, 200, "the service is slow, not the visitor");
}

#[tokio::test]
async fn s11_the_idle_time_out_cuts_no_event_stream() {
    let (server, _origin, _agent) = place("idle_timeout: 1s").await;
    let mut visitor = raw::Client::connect(server.public).await.unwrap();
    visitor.send(&raw::head("GET", &server.host("app1"), "/sse?events=3&ms=1400", &[], None)).await.unwrap();
    let answer = visitor.response(false).await.expect("events with long pauses arrive");
    assert_eq!(answer.text().matches("data:").count(), 3, "{}", answer.text());
    let mut visitor = raw::Client::connect(server.public).await.unwrap();
    visitor.send(&raw::head("GET", &server.host("app1"), "/drip?pieces=12&ms=250", &[], None)).await.unwrap();
    assert_eq!(visitor.response(false).await.expect("a steady answer arrives").status, 200);
}

#[tokio::test]
async fn s11_the_idle_time_out_cuts_no_websocket() {
    let (server, _origin, _agent) = place("idle_timeout: 1s").await;
    let mut socket = WebSocket::connect(server.public, &server.host("app1"), "/ws").await.unwrap();
    // The silence under test.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    socket.send_text("still there").await.unwrap();
    let echo = within("an echo", socket.receive()).await.unwrap();
    assert_eq!(echo, Some(Message::Text("still there".into())));
}

#[tokio::test]
async fn s11_a_body_slower_than_the_least_rate_is_given_up() {
    let (server, origin, _agent) = place("body_min_rate: 100KB/s").await;
    let mut visitor = raw::Client::connect(server.public).await.unwrap();
    visitor.send(&raw::head("POST", &server.host("app1"), "/sink", &[], Some(1_000_000))).await.unwrap();
    visitor.send(b"a few bytes").await.unwrap();
    let started = Instant::now();
    // Beyond the kit's own patience: the server's grace is 10 s.
    let answer = loop {
        match visitor.response(false).await {
            Err(error)
                if error.kind() == std::io::ErrorKind::TimedOut && started.elapsed() < Duration::from_secs(18) => {}
            answer => break answer.unwrap(),
        }
    };
    assert_eq!(answer.status, 408, "{}", answer.text());
    assert!(started.elapsed() > Duration::from_secs(8));
    eventually(SOON, "the service's request is given up too", || async { (origin.in_flight() == 0).then_some(()) })
        .await;
}

#[tokio::test]
async fn s11_an_http2_connection_without_streams_is_ended() {
    let (server, _origin, _agent) = place("idle_timeout: 1s").await;
    let tcp = tokio::net::TcpStream::connect(server.public).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let exchange = async {
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::get(format!("http://{}/slow?ms=2000", server.host("app1"))).body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let status = answer.await.expect("a slow answer is no idle connection").status();
        assert_eq!(status, 200);
        // Held, and nothing is asked for.
        std::future::pending::<()>().await;
        drop(sender);
    };
    within("the end of an idle connection", async {
        tokio::select! {
            () = exchange => {}
            _ = connection => {}
        }
    })
    .await;
}

#[tokio::test]
async fn s4_of_many_visitors_of_one_source_that_only_wait_with_their_direction_ended_the_surplus_is_let_go() {
    let (server, origin, _agent) = place("idle_timeout: 60s").await;
    let wait = async |from: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut visitor = raw::Client::new(socket.connect(server.public).await.unwrap());
        visitor.send(&raw::head("GET", &server.host("app1"), "/silent", &[], None)).await.unwrap();
        visitor
    };
    let mut visitors = Vec::new();
    for number in 1..=65 {
        let mut visitor = wait("127.0.0.1").await;
        eventually(SOON, "the request", || async { (origin.requests() == number).then_some(()) }).await;
        visitor.finish().await.unwrap();
        visitors.push(visitor);
    }
    eventually(SOON, "the end of one too many", || async { (origin.cancelled() == 1).then_some(()) }).await;
    assert_eq!(origin.in_flight(), 64, "the others wait on");
    // Another source has places of its own.
    let mut other = wait("127.0.0.2").await;
    other.finish().await.unwrap();
    eventually(SOON, "its request", || async { (origin.in_flight() == 65).then_some(()) }).await;
    visitors.clear();
    eventually(SOON, "the end of those who left", || async { (origin.in_flight() == 1).then_some(()) }).await;
}
