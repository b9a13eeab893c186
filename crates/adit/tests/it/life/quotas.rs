//! Quotas per account, and names that belong to somebody.

use std::time::{Duration, Instant};

use testkit::origin::HttpOrigin;
use testkit::raw::{self, Client};

use super::Tunnel;
use crate::support::{DEADLINE, Publish, Server, eventually};

#[tokio::test]
async fn an_account_gets_as_many_agents_as_its_quota_says() {
    let server = Server::setup().section("quotas: { agents: 1 }").start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let mut first = Publish::to(&server).http("app1", origin.addr()).start().await;
    let second = Publish::to(&server).http("app2", origin.addr()).spawn();
    second.says("1 agents connected").await;
    assert_eq!(server.audited("quota_exceeded").await["quota"], "agents");
    let other = Publish::with_token(&server, &server.token("other")).http("app3", origin.addr()).start().await;
    assert!(other.process().is_running(), "another account has its own quota");
    first.kill().await;
    eventually(DEADLINE, "the second in its place", || async {
        (server.get("app2", "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_same_agent_that_comes_back_does_not_count_twice() {
    let mut tunnel = Tunnel::start_with(Server::setup().section("quotas: { agents: 1, tunnels: 1 }")).await;
    for _ in 0..3 {
        tunnel.agent.kill().await;
        tunnel.agent.start_again().await;
        assert_eq!(tunnel.server.get("app1", "/").await.status, 200);
    }
}

#[tokio::test]
async fn an_account_gets_as_many_tunnels_as_its_quota_says() {
    let server = Server::setup().section("quotas: { tunnels: 2 }").start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let lines = ["a", "b", "c"].map(|name| format!("{name}: {{ to: \"http://{}\" }}", origin.addr()));
    let agent = Publish::to(&server).file(&[&lines[0], &lines[1], &lines[2]]).spawn();
    agent.says("may publish 2 tunnels at once").await;
    let statuses =
        [server.get("a", "/").await.status, server.get("b", "/").await.status, server.get("c", "/").await.status];
    assert_eq!(statuses, [200, 200, 404]);
}

#[tokio::test]
async fn a_token_may_be_held_to_fewer_tunnels_than_its_account() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let token = server.token_with("acme", &["--max-tunnels", "1"]);
    let lines = ["a", "b"].map(|name| format!("{name}: {{ to: \"http://{}\" }}", origin.addr()));
    let agent = Publish::with_token(&server, &token).file(&[&lines[0], &lines[1]]).spawn();
    agent.says("may publish no more tunnels").await;
    assert_eq!(server.get("a", "/").await.status, 200);
}

#[tokio::test]
async fn requests_in_flight_beyond_the_quota_are_told_429_and_room_is_made_when_one_ends() {
    let tunnel = Tunnel::start_with(Server::setup().section("quotas: { streams: 3 }")).await;
    let host = tunnel.server.host("app1");
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(tunnel.server.public).await.unwrap();
        client.send(&raw::head("GET", &host, "/silent", &[], None)).await.unwrap();
        busy.push(client);
    }
    eventually(DEADLINE, "three requests", || async { (tunnel.origin.in_flight() == 3).then_some(()) }).await;
    let answer = tunnel.server.get("app1", "/").await;
    assert_eq!((answer.status, answer.header("x-adit-error")), (429, Some("quota_exceeded")));
    assert!(
        answer.header("retry-after").is_some() && answer.text().contains("3 concurrent requests"),
        "{}",
        answer.text()
    );
    assert_eq!(tunnel.origin.requests(), 3, "it was refused before anything was sent");
    busy.pop();
    eventually(DEADLINE, "room", || async { (tunnel.server.get("app1", "/").await.status == 200).then_some(()) }).await;
    assert_eq!(tunnel.server.audited("quota_exceeded").await["quota"], "streams");
}

#[tokio::test]
async fn the_request_rate_allows_a_burst_and_then_says_when_to_come_back() {
    let tunnel = Tunnel::start_with(Server::setup().section("quotas: { requests_per_second: 2, burst: 5 }")).await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let host = tunnel.server.host("app1");
    let started = Instant::now();
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(client.get(&host, "/").await.unwrap().status);
    }
    let refilled = usize::try_from(started.elapsed().as_millis() / 500 + 1).unwrap();
    let good = statuses.iter().filter(|status| **status == 200).count();
    assert!(good >= 5 && good <= 5 + refilled, "{statuses:?}");
    assert_eq!(&statuses[..5], [200; 5]);
    let answer = eventually(DEADLINE, "a refusal", || async {
        Some(tunnel.server.get("app1", "/").await).filter(|answer| answer.status == 429)
    })
    .await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.text().contains("2 requests a second"), "{}", answer.text());
    eventually(DEADLINE, "the next token", || async {
        (tunnel.server.get("app1", "/").await.status == 200).then_some(())
    })
    .await;
    assert!(tunnel.server.metric("tunnel_quota_exceeded_total").await.is_some_and(|count| count > 0.0));
}

#[tokio::test]
async fn bandwidth_is_held_to_its_quota_in_both_directions() {
    let setup = Server::setup().section("accounts: { acme: { quotas: { download: 5MB/s, upload: 5MB/s } } }");
    let tunnel = Tunnel::start_with(setup).await;
    let down = async {
        let started = Instant::now();
        assert_eq!(tunnel.server.get("app1", "/bytes/10000000").await.body.len(), 10_000_000);
        started.elapsed()
    };
    let up = async {
        let started = Instant::now();
        let body = vec![7; 10_000_000];
        let answer = tunnel.server.request("POST", "app1", "/sink", &[], &body).await;
        assert_eq!(answer.text(), "10000000");
        started.elapsed()
    };
    let (down, up) = tokio::join!(down, up);
    println!("10 MB at 5 MB/s: {down:?} down, {up:?} up");
    for took in [down, up] {
        assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn s7_a_name_stays_with_its_account_while_that_is_offline() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let mut owner = Publish::to(&server).http("app1", origin.addr()).start().await;
    owner.kill().await;
    eventually(DEADLINE, "the owner offline", || async { (server.get("app1", "/").await.status == 502).then_some(()) })
        .await;
    let thief = Publish::with_token(&server, &server.token("other")).http("app1", origin.addr()).spawn();
    assert_ne!(thief.exit_code(DEADLINE).await, Some(0));
    let said = thief.process().stderr();
    assert!(said.contains("belongs to another account") && said.contains("publish.tunnels.NAME.as"), "{said}");
    assert!(said.contains("names.cooldown") && said.contains("--allow NAME"), "who can change it, and how: {said}");
    owner.start_again().await;
    assert_eq!(server.get("app1", "/").await.status, 200);
}

#[tokio::test]
async fn s7_a_reservation_outlives_a_killed_server() {
    let mut tunnel = Tunnel::start().await;
    eventually(DEADLINE, "the reservation on disk", || async {
        let text = std::fs::read_to_string(tunnel.server.data_dir().join("names.json")).ok()?;
        text.contains("app1.localhost").then_some(())
    })
    .await;
    tunnel.agent.kill().await;
    tunnel.server.kill().await;
    tunnel.server.start_again().await;
    let thief =
        Publish::with_token(&tunnel.server, &tunnel.server.token("other")).http("app1", tunnel.origin.addr()).spawn();
    assert_ne!(thief.exit_code(DEADLINE).await, Some(0));
    assert!(thief.process().stderr().contains("belongs to another account"), "{}", thief.process().stderr());
}

#[tokio::test]
async fn s7_names_nobody_gets_are_refused_to_everybody() {
    let server = Server::setup().section("names: { reserved: [intern] }").start().await;
    let origin = HttpOrigin::start().await.unwrap();
    for name in ["admin", "www", "intern"] {
        let agent = Publish::to(&server).http(name, origin.addr()).spawn();
        assert_ne!(agent.exit_code(DEADLINE).await, Some(0), "{name}");
        assert!(agent.process().stderr().contains("nobody gets"), "{}", agent.process().stderr());
    }
}
