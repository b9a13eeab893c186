//! Local services that are down, slow, cut or no HTTP at all; visitors who leave.

use std::time::{Duration, Instant};

use testkit::faulty::{Behaviour, FaultyListener};
use testkit::noise;
use testkit::origin::HttpOrigin;
use testkit::raw::{self, Client, Response};

use super::Tunnel;
use crate::support::{DEADLINE, Publish, Server, eventually, narrow, within};

fn said(answer: &Response) -> (u16, &str) {
    (answer.status, answer.header("x-adit-error").unwrap_or("-"))
}

#[tokio::test]
async fn a_service_that_is_down_is_a_502_with_the_reason_and_works_when_it_is_back() {
    let tunnel = Tunnel::start().await;
    let Tunnel { server, origin, agent: _agent } = tunnel;
    let addr = origin.addr();
    assert_eq!(server.get("app1", "/").await.status, 200);
    drop(origin);
    // A kept connection may be what notices first.
    let answer = eventually(DEADLINE, "the refusal", || async {
        Some(server.get("app1", "/").await).filter(|answer| said(answer) == (502, "local_refused"))
    })
    .await;
    assert!(answer.text().contains("cannot be reached"), "{}", answer.text());
    let _again = HttpOrigin::start_on(addr).await.unwrap();
    assert_eq!(server.get("app1", "/").await.status, 200, "the next request works");
}

#[tokio::test]
async fn a_service_that_is_too_slow_is_a_504_and_the_next_request_works() {
    let tunnel = Tunnel::start_with(Server::setup().section("limits: { response_timeout: 500ms }"), &[]).await;
    let answer = tunnel.server.get("app1", "/silent").await;
    assert_eq!(said(&answer), (504, "timeout"));
    assert!(answer.text().contains("500ms"), "{}", answer.text());
    eventually(DEADLINE, "the cancelled request", || async { (tunnel.origin.cancelled() == 1).then_some(()) }).await;
    assert_eq!(tunnel.server.get("app1", "/").await.status, 200);
}

#[tokio::test]
async fn a_tunnels_own_request_timeout_is_a_504() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let tunnel = format!("app1: {{ to: \"http://{}\", request_timeout: 400ms }}", origin.addr());
    let _agent = Publish::to(&server).file(&[&tunnel]).start().await;
    let answer = server.get("app1", "/silent").await;
    assert_eq!(said(&answer), (504, "timeout"));
    assert!(!answer.text().contains("60s"), "the reason names the time that was waited: {}", answer.text());
    assert_eq!(server.get("app1", "/").await.status, 200);
}

#[tokio::test]
async fn a_service_that_answers_with_garbage_or_closes_is_a_502() {
    let tunnel = Tunnel::start().await;
    for (path, word) in [("/garbage", "bad_answer"), ("/reset", "no_answer")] {
        let answer = tunnel.server.get("app1", path).await;
        assert_eq!(said(&answer), (502, word), "{path}");
        assert!(answer.text().contains("hint: "), "{path}: {}", answer.text());
        assert_eq!(tunnel.server.get("app1", "/").await.status, 200, "after {path}");
    }
}

#[tokio::test]
async fn every_faulty_service_gets_a_clear_answer() {
    let server = Server::setup().section("limits: { response_timeout: 1s }").start().await;
    let cases = [
        (Behaviour::Silent, 504),
        (Behaviour::Deaf, 504),
        (Behaviour::Reset, 502),
        (Behaviour::ResetAfter(10), 502),
        (Behaviour::Close, 502),
        (Behaviour::Garbage(10_000), 502),
        (Behaviour::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), 502),
        (Behaviour::Say(b"HTTP/1.1 999999 What\r\n\r\n".to_vec()), 502),
        (Behaviour::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde".to_vec()), 502),
    ];
    let mut services = Vec::new();
    let mut lines = Vec::new();
    for (number, (behaviour, _)) in cases.iter().enumerate() {
        let service = FaultyListener::start(behaviour.clone()).await.unwrap();
        lines.push(format!("f{number}: {{ to: \"http://{}\" }}", service.addr()));
        services.push(service);
    }
    let good = HttpOrigin::start().await.unwrap();
    lines.push(format!("good: {{ to: \"http://{}\" }}", good.addr()));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let _agent = Publish::to(&server).file(&lines).start().await;
    for (number, (behaviour, status)) in cases.iter().enumerate() {
        let answer = server.get(&format!("f{number}"), "/").await;
        assert_eq!(answer.status, *status, "{behaviour:?}: {}", answer.text());
        assert!(answer.header("x-adit-error").is_some(), "{behaviour:?}");
    }
    assert_eq!(server.get("good", "/").await.status, 200);
}

#[tokio::test]
async fn an_answer_cut_in_its_middle_is_seen_as_cut_and_the_next_request_works() {
    let tunnel = Tunnel::start().await;
    for path in ["/reset-mid-body", "/close-mid-body"] {
        let mut client = Client::connect(tunnel.server.public).await.unwrap();
        client.send(&raw::head("GET", &tunnel.server.host("app1"), path, &[], None)).await.unwrap();
        let answer = client.response_head(false).await.unwrap();
        if path == "/close-mid-body" && answer.status == 502 {
            // It ended so soon that nothing of it had left the agent.
            continue;
        }
        assert_eq!(answer.status, 200, "{path}");
        let mut got = 0;
        let end = loop {
            match client.piece().await {
                Ok(Some(piece)) => got += piece.len(),
                end => break end,
            }
        };
        assert!(end.is_err() && got <= 1000, "{path}: {got} bytes, {end:?}");
        assert_eq!(tunnel.server.get("app1", "/").await.status, 200, "after {path}");
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_cancels_the_local_request_within_a_second() {
    let tunnel = Tunnel::start().await;
    let host = tunnel.server.host("app1");
    for (number, path) in ["/silent", "/sse?events=0&ms=50", "/bytes/10000000000"].iter().enumerate() {
        let mut client = Client::connect(tunnel.server.public).await.unwrap();
        client.send(&raw::head("GET", &host, path, &[], None)).await.unwrap();
        eventually(DEADLINE, "the local request", || async { (tunnel.origin.in_flight() == 1).then_some(()) }).await;
        drop(client);
        let left = Instant::now();
        eventually(Duration::from_secs(2), "the cancelled request", || async {
            (tunnel.origin.in_flight() == 0 && tunnel.origin.cancelled() == number as u64 + 1).then_some(())
        })
        .await;
        println!("{path}: cancelled after {:?}", left.elapsed());
        assert!(left.elapsed() < Duration::from_secs(1), "{path}");
    }
}

#[tokio::test]
async fn a_visitor_who_ends_its_direction_after_its_request_gets_the_answer() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let path = "/drip?pieces=5&ms=50";
    client.send(&raw::head("GET", &tunnel.server.host("app1"), path, &[], None)).await.unwrap();
    client.finish().await.unwrap();
    let answer = client.response(false).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.body.is_empty());
}

#[tokio::test]
async fn a_visitor_who_ends_its_direction_at_once_and_reads_slowly_gets_all_of_a_large_answer() {
    const LENGTH: usize = 16 << 20;
    let tunnel = Tunnel::start().await;
    let mut client = Client::new(narrow(tunnel.server.public).await);
    let path = format!("/bytes/{LENGTH}");
    client.send(&raw::head("GET", &tunnel.server.host("app1"), &path, &[], None)).await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 200);
    let (mut got, mut rested) = (0, 0);
    while let Some(piece) = within("more of it", client.piece()).await.unwrap() {
        got += piece.len();
        // The pace is what is tested: about 5 MB a second, with nothing taken in between.
        if got - rested > 1 << 18 {
            rested = got;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(got, LENGTH);
}

#[tokio::test]
async fn an_upload_that_nobody_reads_ends_with_the_response_timeout_and_leaves_nothing_behind() {
    let server = Server::setup().section("limits: { response_timeout: 1s }").start().await;
    let deaf = FaultyListener::start(Behaviour::Deaf).await.unwrap();
    let _agent = Publish::to(&server).http("app1", deaf.addr()).start().await;
    let mut client = Client::connect(server.public).await.unwrap();
    let length = [("Content-Length", "100000000")];
    client.send(&raw::head("POST", &server.host("app1"), "/", &length, None)).await.unwrap();
    // Far more than any window: the last piece is not taken.
    let piece = noise::bytes(1, 1 << 20);
    while tokio::time::timeout(Duration::from_millis(300), client.send(&piece)).await.is_ok_and(|sent| sent.is_ok()) {}
    client.reset();
    for gauge in ["tunnel_streams_active", "tunnel_visitor_connections", "tunnel_window_memory_bytes"] {
        eventually(DEADLINE, gauge, || async { (server.metric(gauge).await == Some(0.0)).then_some(()) }).await;
    }
    // A task that was left behind would be waited for.
    let asked = Instant::now();
    server.process().terminate().unwrap();
    assert_eq!(server.process().exited(DEADLINE).await.unwrap().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn an_unhealthy_service_is_taken_out_and_comes_back_by_itself() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let addr = origin.addr();
    let tunnel = format!(
        "app1: {{ to: \"http://{addr}\", health: {{ type: tcp, interval: 100ms, timeout: 1s, rise: 1, fall: 2 }} }}"
    );
    let agent = Publish::to(&server).file(&[&tunnel]).start().await;
    assert_eq!(server.get("app1", "/").await.status, 200);
    drop(origin);
    agent.says("unhealthy").await;
    let answer = eventually(DEADLINE, "the service out of rotation", || async {
        Some(server.get("app1", "/").await).filter(|answer| said(answer) == (502, "local_unhealthy"))
    })
    .await;
    assert!(answer.text().contains("health check") && answer.header("retry-after").is_some(), "{}", answer.text());
    let _again = HttpOrigin::start_on(addr).await.unwrap();
    eventually(DEADLINE, "the service back", || async { (server.get("app1", "/").await.status == 200).then_some(()) })
        .await;
}

#[tokio::test]
async fn an_http_health_check_looks_at_the_status() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let check = |path: &str| format!("{{ type: http, path: {path}, interval: 100ms, timeout: 1s, rise: 1, fall: 1 }}");
    let tunnels = [
        format!("sick: {{ to: \"http://{}\", health: {} }}", origin.addr(), check("/status/503")),
        format!("well: {{ to: \"http://{}\", health: {} }}", origin.addr(), check("/")),
    ];
    let agent = Publish::to(&server).file(&[&tunnels[0], &tunnels[1]]).start().await;
    agent.says("sick: the local service is unhealthy").await;
    eventually(DEADLINE, "what the check saw, as the reason", || async {
        let answer = server.get("sick", "/").await;
        (answer.status == 502 && answer.text().contains("503")).then_some(())
    })
    .await;
    assert_eq!(server.get("well", "/").await.status, 200);
}

#[tokio::test]
async fn an_unhealthy_agent_of_two_is_left_out() {
    let server = Server::start().await;
    let (one, two) = (HttpOrigin::start().await.unwrap(), HttpOrigin::start().await.unwrap());
    let line = |addr| {
        format!(
            "app1: {{ to: \"http://{addr}\", health: {{ type: tcp, interval: 100ms, timeout: 1s, rise: 1, fall: 1 }} }}"
        )
    };
    let first = Publish::to(&server).file(&[&line(one.addr())]).start().await;
    let _second = Publish::to(&server).file(&[&line(two.addr())]).start().await;
    drop(one);
    first.says("unhealthy").await;
    eventually(DEADLINE, "only the healthy one answers", || async {
        let mut right = 0;
        while right < 20 && server.get("app1", "/").await.status == 200 {
            right += 1;
        }
        (right == 20).then_some(())
    })
    .await;
}
