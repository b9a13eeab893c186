//! Tokens, names and quotas (S5, S7, S12, S16): an agent takes what its token allows, and nothing else.

use std::time::{Duration, Instant};

use mux::frame::FrameType;
use mux::message::{Register, Registered, TunnelKind, TunnelSpec, TunnelState, TunnelStates, Unregister};
use testkit::origin::HttpOrigin;
use tokio::net::TcpStream;

use super::wire::{RawAgent, http};
use crate::support::{DEADLINE, Publish, SOON, Server, eventually};

#[tokio::test]
async fn s5_tokens_that_are_not_good_are_refused_each_with_its_word() {
    let server = Server::start().await;
    let good = server.token("acme");
    let unknown = format!("adit_{}", "A".repeat(43));
    let mut flipped = good.clone().into_bytes();
    let last = flipped.len() - 2;
    flipped[last] = if flipped[last] == b'a' { b'b' } else { b'a' };
    let flipped = String::from_utf8(flipped).unwrap();
    for (what, token) in [
        ("empty", ""),
        ("no token at all", "hunter2"),
        ("unknown", &unknown),
        ("one letter off", &flipped),
        ("its beginning", &good[..20]),
        ("with something behind it", &format!("{good}x")),
        ("a JWT without a signature", "eyJhbGciOiJub25lIn0.eyJhY2NvdW50IjoiYWNtZSJ9."),
    ] {
        let refused = RawAgent::with_token(&server, token, "a").await.err();
        assert_eq!(refused.as_deref(), Some("invalid_token"), "{what}");
    }
    let short = server.token_with("acme", &["--expires", "1s"]);
    let word =
        eventually(DEADLINE, "the token expires", || async { RawAgent::with_token(&server, &short, "a").await.err() })
            .await;
    assert_eq!(word, "token_expired");
    for bad_id in ["", "a b", "a\u{1b}[2J", &"x".repeat(129)] {
        assert_eq!(RawAgent::with_token(&server, &good, bad_id).await.err().as_deref(), Some("invalid_agent_id"));
    }
    RawAgent::with_token(&server, &good, "a").await.unwrap();
}

#[tokio::test]
async fn s5_revocation_and_expiry_reach_a_live_session_within_a_second() {
    let server = Server::start().await;
    let token = server.token("acme");
    let mut agent = RawAgent::with_token(&server, &token, "a").await.unwrap();
    agent.publish("app1").await.unwrap();
    let list = server.token_command(&["list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let id = list["tokens"][0]["id"].as_str().unwrap().to_owned();
    server.token_command(&["revoke", &id]);
    let started = Instant::now();
    agent.wire.ends_with(mux::ErrorCode::Unauthorized).await;
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(RawAgent::with_token(&server, &token, "a").await.err().as_deref(), Some("token_revoked"));

    let short = server.token_with("acme", &["--expires", "2s"]);
    let mut agent = eventually(DEADLINE, "the new token is known", || async {
        RawAgent::with_token(&server, &short, "b").await.ok()
    })
    .await;
    let started = Instant::now();
    agent.wire.ends_with(mux::ErrorCode::Unauthorized).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    eventually(DEADLINE, "both on record", || async {
        let expelled = server.audit().into_iter().filter(|line| line["event"] == "expelled").count();
        (expelled == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn s7_a_name_belongs_to_its_account_while_it_is_served_and_while_its_owner_is_away() {
    let server = Server::start().await;
    let (acme, rival) = (server.token("acme"), server.token("rival"));
    let mut owner = RawAgent::with_token(&server, &acme, "owner").await.unwrap();
    owner.publish("shop").await.unwrap();
    let mut thief = RawAgent::with_token(&server, &rival, "thief").await.unwrap();
    for spelling in ["shop", "SHOP"] {
        assert_eq!(thief.publish(spelling).await.err().as_deref(), Some("name_taken"), "{spelling}");
    }
    drop(owner);
    server.audited("session_ended").await;
    assert_eq!(thief.publish("shop").await.err().as_deref(), Some("name_taken"), "its owner is away");
    let mut owner = RawAgent::with_token(&server, &acme, "owner").await.unwrap();
    owner.publish("shop").await.expect("its owner is back");
}

#[tokio::test]
async fn s7_a_name_outlives_the_server_and_cools_down() {
    let mut server = Server::start().await;
    let (acme, rival) = (server.token("acme"), server.token("rival"));
    let mut owner = RawAgent::with_token(&server, &acme, "owner").await.unwrap();
    owner.publish("shop").await.unwrap();
    let names = server.data_dir().join("names.json");
    eventually(DEADLINE, "the name is on disk", || async {
        std::fs::read_to_string(&names).is_ok_and(|text| text.contains("shop")).then_some(())
    })
    .await;
    server.kill().await;
    server.start_again().await;
    let mut thief = RawAgent::with_token(&server, &rival, "thief").await.unwrap();
    assert_eq!(thief.publish("shop").await.err().as_deref(), Some("name_taken"));
}

#[tokio::test]
async fn s7_a_released_name_is_free_after_its_cooldown() {
    let server = Server::setup().section("names: { cooldown: 1s }").start().await;
    let mut owner = RawAgent::with_token(&server, &server.token("acme"), "owner").await.unwrap();
    owner.publish("shop").await.unwrap();
    drop(owner);
    server.audited("session_ended").await;
    let mut thief = RawAgent::with_token(&server, &server.token("rival"), "thief").await.unwrap();
    let end = Instant::now() + DEADLINE;
    while let Err(word) = thief.publish("shop").await {
        assert_eq!(word, "name_taken");
        assert!(Instant::now() < end, "the name never becomes free");
        // The pace of asking: a flood would end the lane.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn s7_some_names_nobody_gets() {
    let server = Server::setup().section("names: { reserved: [intern] }").start().await;
    let mut agent = RawAgent::start(&server).await;
    for name in ["www", "WWW", "api", "admin", "dashboard", "mail", "_acme-challenge", "localhost", "intern"] {
        let word = agent.publish(name).await.expect_err(name);
        assert!(matches!(word.as_str(), "name_reserved" | "invalid_name"), "{name}: {word}");
    }
    for name in ["a.b", "-a", "a-", "a b", "a/b", "a:1", "b\u{e9}", "*", "a*", "x\r\ny", &"a".repeat(64), "."] {
        assert_eq!(agent.publish(name).await.err().as_deref(), Some("invalid_name"), "{name:?}");
    }
    for host in ["admin.localhost", "localhost", "x.localhost.", "LOCALHOST", "127.0.0.1", "[::1]", "a b"] {
        let spec = TunnelSpec { host: host.into(), ..http(1, "") };
        let word = agent.register(spec).await.expect_err(host);
        assert!(matches!(word.as_str(), "invalid_name" | "not_allowed"), "{host}: {word}");
    }
}

#[tokio::test]
async fn s16_what_is_authorised_is_the_route_that_results() {
    let server = Server::setup().tcp_ports().start().await;
    let ports = server.ports.unwrap();
    let range = format!("{}-{}", ports.first, ports.first + 1);
    let token = server.token_with("acme", &["--allow", "app*", "--host", "shop.example.org", "--ports", &range]);
    let mut agent = RawAgent::with_token(&server, &token, "a").await.unwrap();
    let spec = |name: &str, host: &str| TunnelSpec { host: host.into(), ..http(7, name) };
    for (what, spec) in [
        ("another name", spec("shop", "")),
        ("a name that only ends like it", spec("my-app", "")),
        ("another host", spec("", "evil.example.org")),
        ("another host behind a good name", spec("app1", "evil.example.org")),
        ("a host above the granted one", spec("", "example.org")),
        ("a host below the granted one", spec("", "a.shop.example.org")),
    ] {
        assert_eq!(agent.register(spec).await.err().as_deref(), Some("not_allowed"), "{what}");
    }
    let tcp = |port: u16| TunnelSpec { kind: TunnelKind::Tcp, port, ..http(8, "app1") };
    for port in [ports.first + 2, ports.last() + 1, 22, 1] {
        assert_eq!(agent.register(tcp(port)).await.err().as_deref(), Some("not_allowed"), "{port}");
    }
    assert!(agent.register(tcp(ports.first)).await.is_ok());
    assert!(agent.register(spec("app1", "")).await.is_ok());
    assert!(agent.register(spec("", "Shop.Example.ORG.")).await.is_ok());
    // The name it gave up for the host is served no more, and still its account's.
    assert_eq!(server.get("app1", "/").await.status, 502);
}

#[tokio::test]
async fn s16_a_number_used_again_leaves_nothing_of_its_old_route() {
    let server = Server::setup().tcp_ports().start().await;
    let ports = server.ports.unwrap();
    let mut agent = RawAgent::start(&server).await;
    let tcp = |port: u16| TunnelSpec { kind: TunnelKind::Tcp, port, ..http(1, "") };
    for _ in 0..5 {
        agent.register(tcp(ports.first)).await.expect("the same port again");
        agent.register(http(1, "app1")).await.unwrap();
        agent.register(http(1, "app2")).await.unwrap();
    }
    let tunnels = server.admin("/tunnels").await.text();
    assert!(tunnels.contains("app2") && !tunnels.contains("app1"), "{tunnels}");
    assert_eq!(server.metric("tunnel_registry_size").await, Some(1.0));
}

#[tokio::test]
async fn s16_two_registers_at_once_for_one_number_leave_one_route() {
    let server = Server::start().await;
    let mut agent = RawAgent::start(&server).await;
    let mut bytes = Vec::new();
    for number in 0..200 {
        let register = Register { tunnels: vec![http(1, &format!("n{number}"))] };
        mux::frame::put_frame(&mut bytes, FrameType::Register, 0, 0, &mux::message::encode(&register));
    }
    agent.wire.raw(&bytes).await.unwrap();
    for _ in 0..200 {
        agent.wire.hear::<Registered>(FrameType::Register).await.unwrap();
    }
    assert_eq!(server.metric("tunnel_registry_size").await, Some(1.0));
    drop(agent);
    eventually(DEADLINE, "no route is left", || async {
        (server.metric("tunnel_registry_size").await == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn s12_tunnels_and_agents_are_counted_and_no_take_over_slips_past() {
    let server = Server::setup().section("quotas: { agents: 2, tunnels: 3 }").start().await;
    let token = server.token("acme");
    let mut agent = RawAgent::with_token(&server, &token, "a").await.unwrap();
    for number in 1..=3 {
        agent.register(http(number, &format!("n{number}"))).await.unwrap();
    }
    assert_eq!(agent.register(http(4, "n4")).await.err().as_deref(), Some("quota_exceeded"));
    let second = RawAgent::with_token(&server, &token, "b").await.unwrap();
    assert_eq!(RawAgent::with_token(&server, &token, "c").await.err().as_deref(), Some("quota_exceeded"));
    // The same agent again is let in as its own successor; that must not be a way to have any number of sessions.
    let mut successors = Vec::new();
    for _ in 0..8 {
        successors.push(RawAgent::with_token(&server, &token, "b").await.unwrap());
    }
    // Long before any of them would be missed for its silence.
    eventually(SOON, "sessions nobody needs have ended", || async {
        // a, and two of b: the one that is there and the one that is to follow.
        (server.metric("tunnel_connections_total").await? <= 3.0).then_some(())
    })
    .await;
    drop((second, successors));
    // Another account has its own quota.
    RawAgent::with_token(&server, &server.token("other"), "a").await.unwrap();
}

#[tokio::test]
async fn s12_a_token_may_have_fewer_tunnels_than_its_account() {
    let server = Server::start().await;
    let token = server.token_with("acme", &["--max-tunnels", "1"]);
    let mut agent = RawAgent::with_token(&server, &token, "a").await.unwrap();
    agent.register(http(1, "n1")).await.unwrap();
    assert_eq!(agent.register(http(2, "n2")).await.err().as_deref(), Some("quota_exceeded"));
    // One message with many does not get more.
    let many = Register { tunnels: (10..400).map(|id| http(id, &format!("m{id}"))).collect() };
    agent.wire.tell(FrameType::Register, 0, &many).await.unwrap();
    let answer: Registered = agent.wire.hear(FrameType::Register).await.unwrap();
    assert!(answer.tunnels.iter().all(|result| result.error.is_some()));
}

#[tokio::test]
async fn s12_a_quota_is_decided_before_the_agent_hears_of_the_request() {
    let server = Server::setup().section("quotas: { requests_per_second: 1, burst: 2 }").start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let _agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    let mut refused = 0;
    for _ in 0..6 {
        let answer = server.get("app1", "/").await;
        if answer.status == 429 {
            refused += 1;
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert!(answer.text().contains("requests a second"), "{}", answer.text());
        }
    }
    assert!(refused >= 3, "{refused}");
    assert_eq!(origin.requests(), 6 - refused);
}

/// A TCP tunnel wanted.
fn tcp(id: u32, port: u16) -> TunnelSpec {
    TunnelSpec { id, kind: TunnelKind::Tcp, port, healthy: true, ..TunnelSpec::default() }
}

#[tokio::test]
async fn a_port_registered_again_keeps_its_listener_and_its_one_place_in_the_quota() {
    let server = Server::setup().tcp_ports().section("quotas: { tunnels: 1 }").start().await;
    let ports = server.ports.unwrap();
    let mut agent = RawAgent::start(&server).await;
    let url = agent.register(tcp(1, ports.first)).await.unwrap();
    for port in [ports.first, 0, ports.first] {
        assert_eq!(agent.register(tcp(1, port)).await.unwrap(), url);
    }
    assert!(TcpStream::connect(("127.0.0.1", ports.first)).await.is_ok());
    let other = agent.register(tcp(1, ports.last())).await.unwrap();
    assert_ne!(other, url);
    assert!(TcpStream::connect(("127.0.0.1", ports.first)).await.is_err(), "the older port is closed");
    assert!(TcpStream::connect(("127.0.0.1", ports.last())).await.is_ok());
    assert_eq!(agent.register(tcp(2, ports.first)).await.unwrap_err(), "quota_exceeded");
}

#[tokio::test]
async fn messages_of_a_session_take_effect_in_the_order_they_were_sent() {
    let server = Server::setup().tcp_ports().start().await;
    let port = server.ports.unwrap().first;
    let mut agent = RawAgent::start(&server).await;
    for _ in 0..50 {
        let register = Register { tunnels: vec![tcp(1, port)] };
        let sick = TunnelState { id: 1, healthy: false, reason: "sick".into() };
        agent.wire.tell(FrameType::Register, 0, &register).await.unwrap();
        agent.wire.tell(FrameType::TunnelState, 0, &TunnelStates { tunnels: vec![sick] }).await.unwrap();
        agent.wire.tell(FrameType::Unregister, 0, &Unregister { ids: vec![1] }).await.unwrap();
        agent.wire.tell(FrameType::Register, 0, &register).await.unwrap();
        for _ in 0..2 {
            let answer: Registered = agent.wire.hear(FrameType::Register).await.unwrap();
            assert_eq!(answer.tunnels[0].error, None);
        }
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok(), "the last message was a Register");
    }
}
