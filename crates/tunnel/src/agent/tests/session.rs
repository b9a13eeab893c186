//! Tests of the agent: session.
use std::os::unix::fs::PermissionsExt as _;

use adit_core::backoff::BackoffSettings;
use adit_core::diagnose::{Diagnose as _, Fault, exit_code};
use adit_core::health::HealthSettings;
use mux::message::{self, GoAway};
use mux::{ErrorCode, Incoming};
use runtime::tls::ServerTrust;
use testkit::origin::HttpOrigin;

use super::fake_server::{FakeServer, Policy, answer, closing, request, silent_listener};
use super::*;

fn refused(code: &str) -> message::Fault {
    message::Fault { code: code.into(), message: format!("it is {code}"), ..message::Fault::default() }
}

async fn lost(running: &mut Running) {
    running
        .event(|event| match event {
            AgentEvent::Lost { .. } => Some(()),
            _ => None,
        })
        .await;
}

async fn back(running: &mut Running) -> Duration {
    running
        .event(|event| match event {
            AgentEvent::Back { outage } => Some(outage),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn an_agent_says_who_it_is_and_publishes_its_tunnels() {
    let server = FakeServer::start().await;
    let mut running = start(config(&server, vec![web(closed()), tunnel("db", Wanted::Port(15_432), closed())]));
    let (account, lanes) = running
        .event(|event| match event {
            AgentEvent::Connected { account, lanes, .. } => Some((account, lanes)),
            _ => None,
        })
        .await;
    assert_eq!((account.as_str(), lanes), ("acme", 1));
    assert_eq!(running.published().await, "http://app1.test");
    let auth = server.heard(|heard| heard.auth.first().cloned()).await;
    assert_eq!((auth.agent_id.as_str(), auth.token.expose(), auth.lanes), ("agent-1", "adit_secret", 2));
    assert_eq!(auth.instance.len(), 32);
    let specs = server.heard(|heard| heard.registers.first().map(|register| register.tunnels.clone())).await;
    assert_eq!((specs[0].id, specs[0].name.as_str()), (1, "app1"));
    assert_eq!((specs[1].id, specs[1].port), (2, 15_432));
    assert_eq!(running.metric("agent_connection_status"), 1.0);
}

#[tokio::test]
async fn granted_lanes_are_joined_and_a_lost_one_comes_back() {
    let server = FakeServer::start_with(Policy { lanes: 3, ..Policy::default() }).await;
    let mut running = start(config(&server, vec![web(closed())]));
    running.published().await;
    let lanes = server.lanes(3).await;
    lanes[1].close(ErrorCode::Internal, "test");
    let left = running
        .event(|event| match event {
            AgentEvent::LaneLost { left, .. } => Some(left),
            _ => None,
        })
        .await;
    assert!(left > 0);
    server.heard(|heard| (heard.joins == 3 && heard.lanes.len() == 3).then_some(())).await;
    assert_eq!(server.heard(|heard| Some(heard.auth.len())).await, 1, "it is the same session");
}

#[tokio::test]
async fn a_lost_session_is_made_anew_and_its_tunnels_with_it() {
    let server = FakeServer::start_with(Policy { lanes: 2, ..Policy::default() }).await;
    let mut running = start(config(&server, vec![web(closed())]));
    running.published().await;
    server.lanes(2).await;
    server.drop_lanes(ErrorCode::Internal);
    lost(&mut running).await;
    let outage = back(&mut running).await;
    assert!(outage < Duration::from_millis(1500), "{outage:?}");
    running.published().await;
    assert_eq!(server.heard(|heard| Some(heard.registers.len())).await, 2);
    assert_eq!(running.metric("agent_reconnections_total"), 1.0);
    server.lanes(2).await;
}

#[tokio::test]
async fn an_agent_waits_for_its_server() {
    let (address, listener) = silent_listener().await;
    let server = FakeServer::start().await;
    let mut late = config(&server, vec![]);
    late.server = address;
    let mut running = start(late);
    tokio::select! {
        () = closing(listener) => {}
        () = async {
            for _ in 0..2 {
                running.event(|event| matches!(event, AgentEvent::Retrying { .. }).then_some(())).await;
            }
        } => {}
    }
    running.scope.drain();
    running.end().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_not_to_wait_ends_with_exit_code_4() {
    let server = FakeServer::start().await;
    let mut config = config(&server, vec![]);
    config.server = closed().to_string();
    config.wait_for_server = false;
    let error = start(config).end().await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error:?}");
    assert_eq!(exit_code(error.fault()), 4);
}

#[tokio::test]
async fn a_refused_connection_is_told_in_our_words_and_once() {
    let server = FakeServer::start().await;
    let mut running = start(AgentConfig { server: closed().to_string(), ..config(&server, vec![]) });
    let reason = |event| match event {
        AgentEvent::Retrying { reason, .. } => Some(reason),
        _ => None,
    };
    let reason = running.event(reason).await;
    assert!(reason.ends_with("refused the connection"), "{reason}");
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_refused_with_both_fingerprints() {
    let server = FakeServer::start().await;
    let mut config = config(&server, vec![]);
    config.trust = ServerTrust::Pinned([7; 32]);
    let error = start(config).end().await.unwrap_err();
    let AgentError::Untrusted { reason, .. } = &error else { panic!("{error:?}") };
    assert!(reason.contains("sha256:07:07") && error.hint().unwrap().contains("fingerprint"), "{reason}");
    assert_eq!(server.heard(|heard| Some(heard.auth.len())).await, 0, "no token was sent");
}

#[tokio::test]
async fn a_wrong_token_ends_the_agent_at_the_start_with_exit_code_3() {
    let policy = Policy { auth_error: Some(refused("invalid_token")), ..Policy::default() };
    let server = FakeServer::start_with(policy).await;
    let error = start(config(&server, vec![])).end().await.unwrap_err();
    assert_eq!(exit_code(error.fault()), 3);
    assert_eq!(error.to_string(), "the server refused this agent: it is invalid_token (invalid_token)");
}

#[tokio::test]
async fn a_token_refused_later_is_tried_again_and_a_revoked_one_is_not() {
    let server = FakeServer::start().await;
    let mut running = start(config(&server, vec![web(closed())]));
    running.published().await;
    server.set(|policy| policy.auth_error = Some(refused("invalid_token")));
    server.drop_lanes(ErrorCode::Internal);
    lost(&mut running).await;
    server.heard(|heard| (heard.auth.len() >= 3).then_some(())).await;
    server.set(|policy| policy.auth_error = None);
    back(&mut running).await;
    running.published().await;
    server.set(|policy| policy.auth_error = Some(refused("token_revoked")));
    server.drop_lanes(ErrorCode::Internal);
    let error = running.end().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Auth);
}

#[tokio::test]
async fn a_successor_or_a_revocation_ends_the_agent() {
    for (code, go_away) in [(ErrorCode::Replaced, false), (ErrorCode::Unauthorized, false), (ErrorCode::NoError, true)]
    {
        let server = FakeServer::start().await;
        let mut running = start(config(&server, vec![web(closed())]));
        running.published().await;
        if go_away {
            let message = GoAway { reason: "token_revoked".into(), permanent: true, ..GoAway::default() };
            server.lanes(1).await[0].go_away(message);
        } else {
            server.drop_lanes(code);
        }
        let error = running.end().await.unwrap_err();
        assert!(matches!(error, AgentError::Dismissed { .. }), "{error:?}");
        assert_eq!(exit_code(error.fault()), 3);
    }
}

#[tokio::test]
async fn tunnels_refused_for_good_end_the_agent_unless_others_are_published() {
    let server = FakeServer::start().await;
    server.set(|policy| {
        policy.refuse.insert("app1".into(), refused("name_taken"));
    });
    let error = start(config(&server, vec![web(closed())])).end().await.unwrap_err();
    assert_eq!(error.to_string(), "the server published none of the tunnels: web: it is name_taken");
    let other = tunnel("other", Wanted::Name("app2".into()), closed());
    let mut running = start(config(&server, vec![web(closed()), other]));
    let (tunnel, retry) = running
        .event(|event| match event {
            AgentEvent::Refused { tunnel, retry, .. } => Some((tunnel, retry)),
            _ => None,
        })
        .await;
    assert_eq!((tunnel.as_str(), retry), ("web", None));
}

/// Waits that a test has the time for.
const PATIENCE: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(20),
    base: Duration::from_millis(20),
    growth: 2.0,
    cap: Duration::from_millis(200),
};

/// An attempt was refused.
async fn turned_away(running: &mut Running) -> (String, Duration) {
    running
        .event(|event| match event {
            AgentEvent::Retrying { reason, wait, refused: true, .. } => Some((reason, wait)),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn a_patient_agent_asks_again_whose_token_is_refused_ever_more_seldom() {
    let server = FakeServer::start().await;
    server.set(|policy| policy.auth_error = Some(refused("invalid_token")));
    let mut running = start(AgentConfig { patience: Some(PATIENCE), ..config(&server, vec![web(closed())]) });
    let mut waits = Vec::new();
    for _ in 0..4 {
        let (reason, wait) = turned_away(&mut running).await;
        assert!(reason.contains("invalid_token"), "{reason}");
        waits.push(wait.as_millis());
    }
    for (wait, most) in waits.iter().zip([20, 40, 80, 160]) {
        assert!((most * 3 / 4..=most).contains(wait), "{waits:?}");
    }
    server.set(|policy| policy.auth_error = None);
    assert_eq!(running.published().await, "http://app1.test");
    running.scope.drain();
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_patient_agent_asks_again_when_nothing_was_published_or_its_token_was_revoked() {
    let server = FakeServer::start().await;
    server.set(|policy| {
        policy.refuse.insert("app1".into(), refused("name_taken"));
    });
    let mut running = start(AgentConfig { patience: Some(PATIENCE), ..config(&server, vec![web(closed())]) });
    assert!(turned_away(&mut running).await.0.contains("name_taken"));
    server.set(|policy| policy.refuse.clear());
    running.published().await;
    let message = GoAway { reason: "token_revoked".into(), permanent: true, ..GoAway::default() };
    server.heard(|heard| heard.lanes.last().cloned()).await.go_away(message);
    assert!(turned_away(&mut running).await.0.contains("token_revoked"));
    running.published().await;
    let message = GoAway { reason: "another agent".into(), permanent: true, ..GoAway::default() };
    server.heard(|heard| heard.lanes.last().cloned()).await.go_away(message);
    assert!(matches!(running.end().await, Err(AgentError::Dismissed { .. })), "its successor keeps the names");
}

#[tokio::test]
async fn a_patient_agent_asks_again_for_a_tunnel_that_was_refused_beside_others() {
    let server = FakeServer::start().await;
    server.set(|policy| {
        policy.refuse.insert("app1".into(), refused("name_taken"));
    });
    let other = tunnel("other", Wanted::Name("app2".into()), closed());
    let mut running = start(AgentConfig { patience: Some(PATIENCE), ..config(&server, vec![web(closed()), other]) });
    let refused = |event| match event {
        AgentEvent::Refused { tunnel, retry: Some(_), .. } => Some(tunnel),
        _ => None,
    };
    assert_eq!(running.event(refused).await, "web");
    server.set(|policy| policy.refuse.clear());
    let web = |event| matches!(event, AgentEvent::Published { tunnel, .. } if tunnel == "web").then_some(());
    running.event(web).await;
}

#[tokio::test]
async fn a_tunnel_refused_for_now_is_asked_for_again() {
    let server = FakeServer::start().await;
    let fault = message::Fault { retry_after_ms: 20, ..refused("name_cooling") };
    server.set(|policy| {
        policy.refuse.insert("app1".into(), fault);
    });
    let mut running = start(config(&server, vec![web(closed())]));
    running
        .event(|event| match event {
            AgentEvent::Refused { retry, .. } => retry,
            _ => None,
        })
        .await;
    server.set(|policy| policy.refuse.clear());
    assert_eq!(running.published().await, "http://app1.test");
}

#[tokio::test]
async fn a_draining_server_is_left_only_after_the_next_session_is_there() {
    let origin = HttpOrigin::start().await.unwrap();
    let server = FakeServer::start().await;
    let mut running = start(config(&server, vec![web(origin.addr())]));
    running.published().await;
    let old = server.lanes(1).await.remove(0);
    // A request that runs while the server drains is finished by the old session.
    let stream = server.open(request("POST", "/echo", &[]), false);
    stream.send(bytes::Bytes::from_static(b"before ")).await.unwrap();
    within(stream.recv()).await.unwrap();
    old.go_away(GoAway { reason: "drain".into(), ..GoAway::default() });
    let reason = running
        .event(|event| match event {
            AgentEvent::Moving { reason } => Some(reason),
            AgentEvent::Lost { .. } => panic!("nothing was lost"),
            _ => None,
        })
        .await;
    assert_eq!(reason, "drain");
    running.published().await;
    assert_eq!(server.lanes(2).await.len(), 2, "both sessions are there");
    stream.send(bytes::Bytes::from_static(b"after")).await.unwrap();
    stream.finish().unwrap();
    let got = answer(&stream).await;
    assert!(got.is_ok() || got.unwrap_err() == ErrorCode::NoError);
    server.heard(|heard| (heard.lanes.len() == 1 && heard.ends.len() == 1).then_some(())).await;
    assert_eq!(server.get("/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_session_moves_to_the_server_it_is_sent_to() {
    let (first, second) = (FakeServer::start().await, FakeServer::start().await);
    // One certificate for both would be needed; the second is found only by its own fingerprint.
    let mut running = start(config(&first, vec![web(closed())]));
    running.published().await;
    first.lanes(1).await[0].go_away(GoAway { servers: vec![second.address()], ..GoAway::default() });
    let server = running
        .event(|event| match event {
            AgentEvent::Retrying { server, .. } => Some(server),
            _ => None,
        })
        .await;
    assert_eq!(server, second.address(), "it was tried first, and its certificate is not the pinned one");
    running.published().await;
    assert_eq!(first.heard(|heard| Some(heard.auth.len())).await, 2, "then the configured one");
}

#[tokio::test]
async fn an_agent_that_drains_says_so_and_finishes_what_runs() {
    let origin = HttpOrigin::start().await.unwrap();
    let server = FakeServer::start_with(Policy { lanes: 2, ..Policy::default() }).await;
    let mut running = start(config(&server, vec![web(origin.addr())]));
    running.published().await;
    server.lanes(2).await;
    let stream = server.open(request("GET", "/drip?pieces=5&ms=20", &[]), true);
    within(async { while !matches!(stream.recv().await.unwrap(), Incoming::Data(_)) {} }).await;
    running.scope.drain();
    server.heard(|heard| (heard.go_aways.len() == 2).then_some(())).await;
    let mut bytes = 100;
    within(async {
        while let Incoming::Data(data) = stream.recv().await.unwrap() {
            bytes += data.len();
        }
    })
    .await;
    assert_eq!(bytes, 500);
    drop(stream);
    running.end().await.unwrap();
    server.lanes(0).await;
}

#[tokio::test]
async fn an_idle_agent_ends_at_once() {
    let server = FakeServer::start().await;
    let mut running = start(config(&server, vec![web(closed())]));
    running.published().await;
    let began = Instant::now();
    running.scope.drain();
    let scope = running.scope.clone();
    running.end().await.unwrap();
    within(scope.idle()).await;
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_cancelled_agent_does_not_wait_for_streams() {
    let origin = HttpOrigin::start().await.unwrap();
    let server = FakeServer::start().await;
    let mut running = start(config(&server, vec![web(origin.addr())]));
    running.published().await;
    let _stream = server.open(request("GET", "/silent", &[]), true);
    within(async {
        while origin.in_flight() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    running.scope.cancel();
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_changed_token_file_renews_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "adit_one\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = FakeServer::start().await;
    let (change, changed) = tokio::sync::watch::channel(0);
    let mut config = config(&server, vec![web(closed())]);
    config.token = TokenSource::File(path.clone());
    config.token_changed = Some(changed);
    let mut running = start(config);
    running.published().await;
    std::fs::write(&path, "adit_two\n").unwrap();
    change.send(1).unwrap();
    let problem = running
        .event(|event| match event {
            AgentEvent::Token { problem } => Some(problem),
            _ => None,
        })
        .await;
    assert_eq!(problem, None);
    let refresh = server.heard(|heard| heard.refreshes.first().cloned()).await;
    assert_eq!(refresh.token.expose(), "adit_two");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "adit_one\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let server = FakeServer::start_with(Policy { lanes: 1, expires: Some(now + 3), ..Policy::default() }).await;
    let mut config = config(&server, vec![web(closed())]);
    config.token = TokenSource::File(path.clone());
    let mut running = start(config);
    running.published().await;
    std::fs::write(&path, "adit_two\n").unwrap();
    server.heard(|heard| (!heard.refreshes.is_empty()).then_some(())).await;
    let left = std::time::UNIX_EPOCH + Duration::from_secs(now + 3);
    assert!(left > std::time::SystemTime::now(), "in time");
}

#[tokio::test]
async fn an_unhealthy_service_is_told_to_the_server_and_gets_no_requests() {
    let origin = HttpOrigin::start().await.unwrap();
    let settings = HealthSettings { interval: Duration::from_millis(20), fall: 2, ..HealthSettings::default() };
    for (path, healthy) in [("/status/200", true), ("/status/503", false)] {
        let server = FakeServer::start().await;
        let mut tunnel = web(origin.addr());
        tunnel.health = Some(HealthCheck { probe: Probe::Http { path: path.into() }, settings });
        let mut running = start(config(&server, vec![tunnel]));
        running.published().await;
        if healthy {
            assert_eq!(server.get("/").await.unwrap().status, 200);
            continue;
        }
        let reason = server
            .heard(|heard| {
                heard.states.tunnels.first().filter(|state| !state.healthy).map(|state| state.reason.clone())
            })
            .await;
        assert_eq!(reason, "GET /status/503 answered 503 Service Unavailable");
        assert_eq!(server.get("/").await.unwrap_err(), ErrorCode::Unhealthy);
    }
}

#[tokio::test]
async fn a_service_that_comes_up_is_healthy_again() {
    let closed = testkit::process::Closed::take().unwrap();
    let (addr, mut closed) = (closed.address, Some(closed));
    let settings = HealthSettings { interval: Duration::from_millis(20), ..HealthSettings::default() };
    let server = FakeServer::start().await;
    let mut tunnel = web(addr);
    tunnel.health = Some(HealthCheck { probe: Probe::Tcp, settings });
    let mut running = start(config(&server, vec![tunnel]));
    for expected in [false, true] {
        let (healthy, reason) = running
            .event(|event| match event {
                AgentEvent::Health { healthy, reason, .. } => Some((healthy, reason)),
                _ => None,
            })
            .await;
        assert_eq!((healthy, reason.is_empty()), (expected, expected));
        if !expected {
            drop(closed.take());
            std::mem::forget(HttpOrigin::start_on(addr).await.unwrap());
        }
    }
    server.heard(|heard| heard.states.tunnels.first().filter(|state| state.healthy).map(|_| ())).await;
}

#[tokio::test]
async fn a_session_lost_before_its_tunnels_are_registered_is_made_anew() {
    let server = FakeServer::start_with(Policy { lanes: 1, silent_register: true, ..Policy::default() }).await;
    let mut running = start(config(&server, vec![web(closed())]));
    server.heard(|heard| (heard.registers.len() == 1).then_some(())).await;
    server.set(|policy| policy.silent_register = false);
    server.drop_lanes(ErrorCode::Internal);
    running.published().await;
}

#[tokio::test]
async fn s6_no_event_and_no_error_shows_the_token() {
    let policy = Policy { auth_error: Some(refused("invalid_token")), ..Policy::default() };
    let server = FakeServer::start_with(policy).await;
    let config = config(&server, vec![]);
    assert!(!format!("{config:?}").contains("adit_secret"));
    let mut running = start(config);
    let mut text = String::new();
    while let Ok(event) = within(running.events.recv()).await {
        text.push_str(&format!("{event:?}"));
    }
    text.push_str(&format!("{:?}", running.end().await));
    assert!(!text.contains("adit_secret"), "{text}");
}

/// A running agent of two lanes, and the lane it talks over.
async fn with_two_lanes(tunnel: AgentTunnel, policy: Policy) -> (FakeServer, Running, Arc<crate::lane::LaneShared>) {
    let server = FakeServer::start_with(Policy { lanes: 2, ..policy }).await;
    let running = start(config(&server, vec![tunnel]));
    let lane = server.lanes(2).await.remove(0);
    within(async {
        while running.metric("agent_lanes ") < 2.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    (server, running, lane)
}

/// An agent that has asked for its tunnel again, over the lane that is given, and waits for the answer.
async fn asking_again() -> (FakeServer, Running, Arc<crate::lane::LaneShared>) {
    let fault = message::Fault { retry_after_ms: 20, ..refused("name_cooling") };
    let policy = Policy { refuse: [("app1".to_owned(), fault)].into(), ..Policy::default() };
    let (server, running, lane) = with_two_lanes(web(closed()), policy).await;
    server.set(|policy| policy.silent_register = true);
    server.heard(|heard| (heard.unanswered > 0).then_some(())).await;
    (server, running, lane)
}

#[tokio::test]
async fn the_health_of_all_services_is_told_again_when_a_lane_is_lost() {
    let origin = HttpOrigin::start().await.unwrap();
    let settings = HealthSettings { interval: Duration::from_millis(20), ..HealthSettings::default() };
    let mut tunnel = web(origin.addr());
    tunnel.health = Some(HealthCheck { probe: Probe::Http { path: "/status/200".into() }, settings });
    let (server, mut running, lane) = with_two_lanes(tunnel, Policy::default()).await;
    running.published().await;
    server.heard(|heard| (!heard.states.tunnels.is_empty()).then_some(())).await;
    server.heard(|heard| Some(std::mem::take(&mut heard.states))).await;
    lane.close(ErrorCode::Internal, "test");
    let healthy = server.heard(|heard| heard.states.tunnels.first().map(|state| state.healthy)).await;
    assert!(healthy);
}

#[tokio::test]
async fn a_question_lost_with_its_lane_is_asked_again_over_another() {
    let (server, mut running, lane) = asking_again().await;
    server.set(|policy| {
        policy.silent_register = false;
        policy.refuse.clear();
    });
    let began = Instant::now();
    lane.close(ErrorCode::Internal, "test");
    running.published().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(server.heard(|heard| Some(heard.auth.len())).await, 1, "it is the same session");
}

#[tokio::test]
async fn an_agent_that_waits_for_an_answer_ends_at_once() {
    let (_server, running, _lane) = asking_again().await;
    let began = Instant::now();
    running.scope.drain();
    running.end().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_stream_that_crosses_the_agents_last_word_is_refused_and_not_lost() {
    let server = FakeServer::start().await;
    let mut running = start(config(&server, vec![web(closed())]));
    running.published().await;
    let lane = server.lanes(1).await.remove(0);
    running.scope.drain();
    // Opened before the server knows: the agent is already on its way out.
    running.event(|event| matches!(event, AgentEvent::Draining).then_some(())).await;
    let stream = lane.open(request("GET", "/", &[]), true);
    if let Ok(stream) = stream {
        assert_eq!(answer(&stream).await.unwrap_err(), ErrorCode::Refused);
    }
    running.end().await.unwrap();
}
