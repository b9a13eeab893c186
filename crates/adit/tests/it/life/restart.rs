//! Sudden ends: processes killed, lanes cut, networks gone silent; and who takes over.

#![expect(clippy::disallowed_methods, reason = "a test has no scope to spawn in")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::load::{Bulk, BulkDirection};
use testkit::origin::{HttpOrigin, TcpOrigin};
use testkit::raw::{self, Client};
use testkit::relay::{Cut, Link, Relay};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::Tunnel;
use crate::support::{DEADLINE, Publish, Server, eventually};

/// Every tunnel must be back this soon after its agent or server was started again.
const BACK_WITHIN: Duration = Duration::from_millis(1500);

/// Waits until every name answers 200; returns how long that took.
async fn all_back(server: &Server, names: &[&str]) -> Duration {
    let started = Instant::now();
    for name in names {
        let host = server.host(name);
        eventually(DEADLINE, &format!("{name} is back"), || async {
            let answer = raw::get(server.public, &host, "/").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    started.elapsed()
}

#[tokio::test]
async fn an_agent_killed_and_started_again_is_back_at_once() {
    let mut tunnel = Tunnel::start().await;
    for _ in 0..3 {
        tunnel.agent.kill().await;
        let killed = Instant::now();
        tunnel.agent.start_again().await;
        all_back(&tunnel.server, &["app1"]).await;
        println!("agent killed: back {:?} after it was started again", killed.elapsed());
        assert!(killed.elapsed() < BACK_WITHIN, "{:?}", killed.elapsed());
    }
}

#[tokio::test]
async fn a_server_killed_and_started_again_has_every_tunnel_back_within_a_second_and_a_half() {
    let origin = HttpOrigin::start().await.unwrap();
    let line = |name: &str| format!("{name}: {{ to: \"http://{}\" }}", origin.addr());
    let lines = [line("one"), line("two"), line("three")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    // Anew each time: agents are more patient with a server that dies again and again.
    for _ in 0..3 {
        let mut server = Server::start().await;
        let agent = Publish::to(&server).file(&lines).start().await;
        let other = Publish::with_token(&server, &server.token("other")).http("four", origin.addr()).start().await;
        server.kill().await;
        let killed = Instant::now();
        let start = server.start_again().await;
        let took = all_back(&server, &["one", "two", "three", "four"]).await;
        let outage = killed.elapsed();
        println!("server killed: back after {outage:?}, {took:?} after it was ready (start {start:?})");
        assert!(outage < BACK_WITHIN, "{outage:?}");
        for agent in [&agent, &other] {
            agent.says("connection lost").await;
            agent.says("connection back after").await;
        }
    }
}

#[tokio::test]
async fn a_newer_session_of_the_same_agent_takes_over_at_once() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    // The first session dies without a word: the server cannot know.
    let relay = Relay::start(server.agents, Link::default()).await.unwrap();
    let mut agent = Publish::to(&server).through(relay.addr()).http("app1", origin.addr()).start().await;
    assert_eq!(server.get("app1", "/").await.status, 200);
    relay.cut(Cut::Silent);
    agent.kill().await;
    let started = Instant::now();
    agent.start_again().await;
    assert_eq!(server.get("app1", "/").await.status, 200, "the very first request goes to the new session");
    println!("takeover: published and answering {:?} after the new agent was started", started.elapsed());
    let line = server.audited("takeover").await;
    assert_eq!(line["account"], "acme");
    assert_eq!(server.metric("tunnel_takeovers_total").await, Some(1.0));
    for _ in 0..20 {
        assert_eq!(server.get("app1", "/").await.status, 200);
    }
}

#[tokio::test]
async fn of_two_programs_with_one_agent_id_the_older_stops_with_a_clear_message() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let older = Publish::to(&server).http("app1", origin.addr()).arguments(&["--agent-id", "laptop"]).start().await;
    let newer = older.twin().await;
    let code = older.exit_code(DEADLINE).await;
    assert_ne!(code, Some(0));
    assert!(older.process().stderr().contains("another agent with this agent id"), "{}", older.process().stderr());
    assert!(newer.is_running());
    for _ in 0..10 {
        assert_eq!(server.get("app1", "/").await.status, 200);
    }
}

#[tokio::test]
async fn a_lane_that_is_lost_is_made_anew_and_the_session_goes_on() {
    let server = Server::setup().arguments(&["-v"]).start().await;
    let joined = || server.process().stderr().lines().filter(|line| line.contains("lane joined")).count();
    let origin = HttpOrigin::start().await.unwrap();
    let lanes = Lanes::start(server.agents).await;
    let agent = Publish::to(&server).through(lanes.addr).http("app1", origin.addr()).start().await;
    eventually(DEADLINE, "both lanes", || async { (joined() == 1).then_some(()) }).await;
    for (round, lane) in [(1, 1), (2, 0)] {
        lanes.cut(lane);
        eventually(DEADLINE, "the lane made anew", || async { (joined() > round).then_some(()) }).await;
        for _ in 0..20 {
            assert_eq!(server.get("app1", "/").await.status, 200);
        }
    }
    let authenticated = server.audit().iter().filter(|line| line["event"] == "authenticated").count();
    assert_eq!(authenticated, 1, "the session is still the first");
    assert!(!agent.process().output().contains("connection lost"), "{}", agent.process().output());
}

/// A relay whose connections can be cut one by one.
struct Lanes {
    addr: SocketAddr,
    made: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: AbortHandle,
}

impl Lanes {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let made: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let list = Arc::clone(&made);
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let relay = tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
                list.lock().expect("nobody panics with it").push(relay.abort_handle());
            }
        });
        Self { addr, made, accepting: accepting.abort_handle() }
    }

    fn cut(&self, number: usize) {
        self.made.lock().expect("nobody panics with it")[number].abort();
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test]
async fn a_silent_network_is_noticed_and_the_agent_comes_back_by_itself() {
    let server = Server::setup().section("tunnel: { heartbeat: 500ms, dead_after: 2s }").start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let relay = Relay::start(server.agents, Link::default()).await.unwrap();
    let agent = Publish::to(&server).through(relay.addr()).http("app1", origin.addr()).start().await;
    eventually(DEADLINE, "both lanes", || async { (relay.open() == 2).then_some(()) }).await;
    relay.cut(Cut::Silent);
    let gone = Instant::now();
    // Visitors wait meanwhile, as nobody knows yet; the first to be answered shows that it is over. Whether the
    // session is made anew, or keeps a lane that was made in time, is the agent's business.
    let host = server.host("app1");
    eventually(DEADLINE, "the tunnel", || async {
        let answer =
            tokio::time::timeout(Duration::from_millis(200), raw::get(server.public, &host, "/")).await.ok()?.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    println!("silence: answered again after {:?} (heartbeat 500 ms, dead after 2 s)", gone.elapsed());
    assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
    assert!(relay.accepted() >= 3, "a lane was made anew");
    assert!(agent.process().is_running());
}

#[tokio::test]
async fn a_stalled_network_that_recovers_in_time_costs_nothing() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let relay = Relay::start(server.agents, Link::default()).await.unwrap();
    let agent = Publish::to(&server).through(relay.addr()).http("app1", origin.addr()).start().await;
    relay.stall_both();
    let host = server.host("app1");
    let mut client = Client::connect(server.public).await.unwrap();
    client.send(&raw::head("GET", &host, "/", &[], None)).await.unwrap();
    // Nothing can come while the relay stalls: this wait is the stall.
    assert!(tokio::time::timeout(Duration::from_secs(2), client.response_head(false)).await.is_err());
    relay.resume();
    assert_eq!(client.response(false).await.unwrap().status, 200);
    assert!(!agent.process().output().contains("connection lost"), "{}", agent.process().output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_saturated_on_all_lanes_never_stop() {
    let server = Server::setup().tcp_ports().section("tunnel: { heartbeat: 500ms, dead_after: 3s }").start().await;
    let origin = TcpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).tcp(origin.addr(), 0).start().await;
    let down = Bulk::start(agent.port(), BulkDirection::Down, 4, DEADLINE).await.unwrap();
    let up = Bulk::start(agent.port(), BulkDirection::Up, 4, DEADLINE).await.unwrap();
    let (mut down_before, mut up_before) = (0, 0);
    for second in 1..=10 {
        let until = Instant::now() + Duration::from_secs(1);
        eventually(DEADLINE, "both directions go on", || async {
            (Instant::now() > until && down.bytes() > down_before && up.bytes() > up_before).then_some(())
        })
        .await;
        assert_eq!((down.failed(), up.failed()), (0, 0), "second {second}");
        (down_before, up_before) = (down.bytes(), up.bytes());
    }
    println!("10 s of full duplex: {} MB down, {} MB up", down.bytes() >> 20, up.bytes() >> 20);
    assert!(!agent.process().output().contains("connection lost"), "{}", agent.process().output());
}
