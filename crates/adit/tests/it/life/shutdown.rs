//! Ends on purpose, and changes while running.

use std::time::{Duration, Instant};

use testkit::origin::pattern;
use testkit::process::Signal;
use testkit::raw::{self, Client};

use super::Tunnel;
use crate::support::{DEADLINE, Server, eventually};

/// A download under way: the head and the first bytes are there.
async fn download(server: &Server, target: &str) -> Client {
    let mut client = Client::connect(server.public).await.expect("a connection");
    client.send(&raw::head("GET", &server.host("app1"), target, &[], None)).await.expect("the request is sent");
    assert_eq!(client.response_head(false).await.expect("an answer").status, 200);
    client
}

async fn rest_of(client: &mut Client) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(piece) = client.piece().await.expect("the body goes on") {
        body.extend_from_slice(&piece);
    }
    body
}

#[tokio::test]
async fn sigterm_lets_a_running_download_finish_and_then_exits_with_0() {
    let tunnel = Tunnel::start().await;
    let mut client = download(&tunnel.server, "/drip?pieces=30&ms=100").await;
    let mut kept = Client::connect(tunnel.server.public).await.unwrap();
    assert_eq!(kept.get(&tunnel.server.host("app1"), "/").await.unwrap().status, 200);
    tunnel.server.process().terminate().unwrap();
    assert_eq!(rest_of(&mut client).await.len(), 3000, "the download is whole");
    let finished = Instant::now();
    let status = tunnel.server.process().exited(DEADLINE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", tunnel.server.process().stderr());
    println!("drain: the server was gone {:?} after its last stream", finished.elapsed());
    assert!(finished.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn while_it_drains_new_visitors_are_told_503_and_readiness_says_so() {
    let tunnel = Tunnel::start().await;
    let mut client = download(&tunnel.server, "/drip?pieces=30&ms=100").await;
    let mut early = Client::connect(tunnel.server.public).await.unwrap();
    assert_eq!(early.get(&tunnel.server.host("app1"), "/").await.unwrap().status, 200);
    tunnel.server.process().terminate().unwrap();
    // Whoever gets through is told; once the listener is closed nobody does.
    let seen = eventually(DEADLINE, "the drain", || async {
        match raw::get(tunnel.server.public, &tunnel.server.host("app1"), "/").await {
            Ok(answer) if answer.status == 503 => Some(Some(answer)),
            Ok(_) => None,
            Err(_) => Some(None),
        }
    })
    .await;
    if let Some(answer) = seen {
        assert!(answer.header("retry-after").is_some(), "{}", answer.text());
    }
    assert_eq!(tunnel.server.admin("/health/ready").await.status, 503);
    assert_eq!(tunnel.server.admin("/health/live").await.status, 200);
    assert_eq!(rest_of(&mut client).await.len(), 3000);
}

#[tokio::test]
async fn an_idle_server_stops_in_a_moment() {
    let tunnel = Tunnel::start().await;
    let asked = Instant::now();
    tunnel.server.process().terminate().unwrap();
    let status = tunnel.server.process().exited(DEADLINE).await.unwrap();
    println!("idle server: gone after {:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_streams() {
    let tunnel = Tunnel::start().await;
    let _client = download(&tunnel.server, "/sse?events=0&ms=100").await;
    tunnel.server.process().terminate().unwrap();
    tunnel.server.process().line(DEADLINE, |line| line.contains("Draining")).await.unwrap();
    let asked = Instant::now();
    tunnel.server.process().terminate().unwrap();
    let status = tunnel.server.process().exited(DEADLINE).await.unwrap();
    println!("second signal: gone after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_ne!(status.code(), Some(0), "it was not a clean end");
}

#[tokio::test]
async fn an_agent_that_is_stopped_finishes_its_streams_and_exits_with_0() {
    let tunnel = Tunnel::start().await;
    let mut client = download(&tunnel.server, "/drip?pieces=20&ms=100").await;
    tunnel.agent.process().terminate().unwrap();
    tunnel.agent.says("finishing what is in flight").await;
    eventually(DEADLINE, "no new requests go to it", || async {
        (tunnel.server.get("app1", "/").await.status == 502).then_some(())
    })
    .await;
    assert_eq!(rest_of(&mut client).await.len(), 2000);
    assert_eq!(tunnel.agent.exit_code(DEADLINE).await, Some(0));
}

#[tokio::test]
async fn an_idle_agent_stops_in_a_moment() {
    let tunnel = Tunnel::start().await;
    let asked = Instant::now();
    tunnel.agent.process().signal(Signal::INT).unwrap();
    assert_eq!(tunnel.agent.exit_code(DEADLINE).await, Some(130), "interrupted");
    println!("idle agent: gone after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn an_agent_moves_to_the_restarted_server_after_a_drain() {
    let mut tunnel = Tunnel::start().await;
    tunnel.server.process().terminate().unwrap();
    tunnel.server.process().exited(DEADLINE).await.unwrap();
    let seen = tunnel.agent.process().line_count();
    let ended = Instant::now();
    tunnel.server.start_again().await;
    tunnel.agent.says_from(seen, "connected to").await;
    eventually(DEADLINE, "the tunnel", || async { (tunnel.server.get("app1", "/").await.status == 200).then_some(()) })
        .await;
    println!("orderly restart: back after {:?}", ended.elapsed());
}

#[tokio::test]
async fn sighup_applies_a_new_configuration_without_dropping_a_stream() {
    let tunnel = Tunnel::start().await;
    let mut client = download(&tunnel.server, "/drip?pieces=20&ms=100").await;
    let config = tunnel.server.yaml("quotas: { requests_per_second: 1, burst: 1 }\n");
    let seen = tunnel.server.process().line_count();
    std::fs::write(tunnel.server.config_path(), config).unwrap();
    tunnel.server.process().signal(Signal::HUP).unwrap();
    tunnel.server.process().line_from(seen, DEADLINE, |line| line.contains("reloaded")).await.unwrap();
    eventually(DEADLINE, "the new quota", || async {
        (tunnel.server.get("app1", "/").await.status == 429).then_some(())
    })
    .await;
    let body = rest_of(&mut client).await;
    assert_eq!((body.len(), &body[..100]), (2000, pattern(0, 100).as_slice()));
    assert_eq!(tunnel.server.metric("tunnel_connections_total").await, Some(1.0), "the agent is still the same");
}

#[tokio::test]
async fn a_changed_file_is_applied_without_a_signal() {
    let tunnel = Tunnel::start().await;
    assert_eq!(tunnel.server.get("app1", "/").await.status, 200);
    let config = tunnel.server.yaml("quotas: { requests_per_second: 1, burst: 1 }\n");
    std::fs::write(tunnel.server.config_path(), config).unwrap();
    eventually(DEADLINE, "the new quota", || async {
        (tunnel.server.get("app1", "/").await.status == 429).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing_and_is_reported() {
    let tunnel = Tunnel::start_with(Server::setup().errors_expected()).await;
    let config = tunnel.server.yaml("quotas: { requests_per_secnod: 1 }\nlimits: { headers: many }\n");
    std::fs::write(tunnel.server.config_path(), config).unwrap();
    tunnel.server.process().signal(Signal::HUP).unwrap();
    for text in ["not reloaded", "did you mean `requests_per_second`?", "limits.headers"] {
        tunnel.server.process().line(DEADLINE, |line| line.contains(text)).await.unwrap();
    }
    for _ in 0..10 {
        assert_eq!(tunnel.server.get("app1", "/").await.status, 200);
    }
}

#[tokio::test]
async fn what_only_a_restart_can_change_is_said_and_the_rest_stays_as_it_was() {
    let tunnel = Tunnel::start_with(Server::setup().errors_expected()).await;
    let config = tunnel.server.yaml("log: { access: off }\n");
    std::fs::write(tunnel.server.config_path(), config).unwrap();
    tunnel.server.process().signal(Signal::HUP).unwrap();
    let line = tunnel.server.process().line(DEADLINE, |line| line.contains("not reloaded")).await.unwrap();
    assert!(line.contains("log cannot be changed while the server runs"), "{line}");
    assert_eq!(tunnel.server.get("app1", "/").await.status, 200);
}
