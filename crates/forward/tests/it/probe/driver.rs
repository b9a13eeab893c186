//! Probes of a forward while it runs: through its own session, and without being a use of it.

use std::time::{Duration, Instant};

use adit_core::forward::{ForwardSettings, ForwardState, Start};
use adit_core::health::HealthState;
use forward::{Forward, ForwardOptions, HealthReport};
use testkit::origin::{Canned, Manner};

use super::health;
use crate::support::{Bed, DEADLINE, call, eventually, moved, open, ready, state, trip, within};

fn probed(body: &str) -> ForwardOptions {
    ForwardOptions { health: Some(health(body)), ..ForwardOptions::default() }
}

fn report(forward: &Forward) -> HealthReport {
    forward.report().health.expect("it is probed")
}

async fn found(forward: &Forward, wanted: HealthState) -> HealthReport {
    let mut reports = forward.status();
    let reached = reports.wait_for(|report| report.health.as_ref().is_some_and(|health| health.state == wanted));
    drop(within(wanted.as_str(), reached).await.expect("it lives"));
    report(forward)
}

#[tokio::test]
async fn a_ready_forward_is_probed_through_its_own_session() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", probed("type: tcp, interval: 50ms"));
    assert_eq!(report(&forward).state, HealthState::Unknown);
    ready(&forward).await;
    let health = found(&forward, HealthState::Healthy).await;
    assert!(health.last.is_some() && health.latency.is_some() && health.error.is_none(), "{health:?}");
    assert_eq!(forward.report().status.live, 0, "a probe is no stream");
    assert!(bed.forward("service/web:80").report().health.is_none());
}

#[tokio::test]
async fn probes_start_nothing_and_do_not_keep_it_from_resting() {
    let bed = Bed::web().await;
    let idle = Duration::from_millis(1500);
    let settings = ForwardSettings { start: Start::OnDemand, idle_timeout: Some(idle), ..ForwardSettings::default() };
    let options = ForwardOptions { settings, ..probed("type: tcp, interval: 20ms") };
    let forward = bed.forward_with("service/web:80", options);
    call(&bed.ready().await).await;
    assert_eq!(forward.report().status.state, ForwardState::Idle);
    assert_eq!(report(&forward).last, None);
    call(&forward).await;
    let begun = Instant::now();
    found(&forward, HealthState::Healthy).await;
    state(&forward, ForwardState::Idle).await;
    assert!(begun.elapsed() < DEADLINE / 2, "after {:?}", begun.elapsed());
    found(&forward, HealthState::Unknown).await;
}

#[tokio::test]
async fn an_unhealthy_pod_is_left_for_another_and_streams_stay() {
    let bed = Bed::with(testkit::cluster::ClusterOptions::default()).await;
    let busy = Canned::start("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", Manner::Asked).await.unwrap();
    let fine = Canned::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Manner::Asked).await.unwrap();
    bed.cluster.add_pod(bed.spec("web-1").backend(8080, busy.addr()));
    bed.service();
    let forward = bed.forward_with("service/web:80", probed("type: http, interval: 50ms, fall: 2"));
    ready(&forward).await;
    let health = found(&forward, HealthState::Unhealthy).await;
    assert!(health.failures >= 2 && health.error.unwrap() == "GET / answered 503 Service Unavailable");
    assert_eq!(forward.report().status.state, ForwardState::Ready, "there is no other pod: it is left alone");
    let mut stream = open(&forward).await;
    bed.cluster.add_pod(bed.spec("web-2").backend(8080, fine.addr()));
    moved(&forward, "web-2").await;
    found(&forward, HealthState::Healthy).await;
    // The old stream still leads to the first pod.
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    within("its answer", tokio::io::AsyncReadExt::read_exact(&mut stream, &mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 503");
}

#[tokio::test]
async fn a_silent_target_gets_new_connections_ever_less_often() {
    let bed = Bed::with(testkit::cluster::ClusterOptions::default()).await;
    let silent = Canned::start("", Manner::First).await.unwrap();
    bed.cluster.add_pod(bed.spec("web-1").backend(8080, silent.addr()));
    bed.service();
    let options = probed("type: http, interval: 20ms, timeout: 30ms, fall: 2");
    let forward = bed.forward_with("service/web:80", options);
    ready(&forward).await;
    let before = forward.report().status.attempt.number();
    let mut old = open(&forward).await;
    let reached = || report(&forward).failures >= 16;
    eventually(DEADLINE, "many probes fail", reached).await;
    let attempts = forward.report().status.attempt.number() - before;
    assert!((1..=5).contains(&attempts), "{attempts} new connections for 16 failures");
    assert!(report(&forward).error.unwrap().starts_with("no answer within 30ms"));
    // What ran before runs on.
    tokio::io::AsyncWriteExt::write_all(&mut old, b"still here").await.unwrap();
}

#[tokio::test]
async fn a_restart_for_failed_probes_is_not_taken_to_help_before_one_succeeds() {
    let bed = Bed::with(testkit::cluster::ClusterOptions::default()).await;
    let silent = Canned::start("", Manner::First).await.unwrap();
    let fine = Canned::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Manner::Asked).await.unwrap();
    bed.cluster.add_pod(bed.spec("web-1").backend(8080, silent.addr()));
    bed.service();
    let forward = bed.forward_with("service/web:80", probed("type: http, interval: 20ms, timeout: 500ms, fall: 1"));
    ready(&forward).await;
    let mut reports = forward.status();
    let doubted = reports.wait_for(|report| report.is_doubted());
    let report = within("it is ready again", doubted).await.unwrap().clone();
    assert!(report.waiting_for.as_ref().unwrap().contains("its probes failed"), "{:?}", report.waiting_for);
    assert!(report.lost_since.is_some(), "that is one outage still");
    bed.cluster.add_pod(bed.spec("web-2").backend(8080, fine.addr()));
    bed.cluster.terminate("default", "web-1");
    let well = reports.wait_for(|report| report.is_ready() && !report.is_doubted());
    let report = within("a probe succeeds", well).await.unwrap().clone();
    assert_eq!((report.outages, report.lost_since, report.waiting_for.as_deref()), (1, None, None));
}

#[tokio::test]
async fn a_probe_that_cannot_be_made_restarts_nothing() {
    let bed = Bed::web().await;
    let options = probed("type: redis, password_file: /nowhere/pw, interval: 20ms, fall: 1");
    let forward = bed.forward_with("service/web:80", options);
    ready(&forward).await;
    found(&forward, HealthState::Unhealthy).await;
    let attempt = forward.report().status.attempt;
    eventually(DEADLINE, "more probes", || report(&forward).failures > 5).await;
    assert_eq!(forward.report().status.attempt, attempt);
    let mut io = open(&forward).await;
    trip(&mut io, b"it works all the same\n").await.unwrap();
}

#[tokio::test]
async fn another_pod_is_another_target() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", probed("type: tcp, interval: 10m"));
    ready(&forward).await;
    let first = found(&forward, HealthState::Healthy).await.last;
    bed.pod("web-2");
    bed.cluster.terminate("default", "web-1");
    moved(&forward, "web-2").await;
    // Long before the interval has passed.
    eventually(DEADLINE, "it is probed", || report(&forward).last > first).await;
}

#[tokio::test]
async fn a_port_in_the_pod_that_nobody_listens_on_is_not_well() {
    let bed = Bed::with(testkit::cluster::ClusterOptions::default()).await;
    let closed = testkit::process::free_port().unwrap();
    bed.cluster.add_pod(bed.spec("web-1").backend(8080, super::loopback(closed)));
    bed.service();
    let forward = bed.forward_with("service/web:80", probed("type: tcp, interval: 50ms, fall: 2"));
    ready(&forward).await;
    let health = found(&forward, HealthState::Unhealthy).await;
    let said = health.error.unwrap();
    assert!(said.starts_with("the connection was closed while") || said.contains("refused"), "{said}");
}

#[tokio::test]
async fn at_rest_nothing_is_known_of_a_target_without_pods_either() {
    let origin = testkit::origin::TcpOrigin::start().await.unwrap();
    let scope = runtime::Scope::root();
    let clusters = forward::Clusters::new(forward::KubeSettings::default());
    let settings = ForwardSettings {
        start: Start::OnDemand,
        idle_timeout: Some(Duration::from_millis(1500)),
        ..ForwardSettings::default()
    };
    let options = ForwardOptions { settings, ..probed("type: tcp, interval: 20ms") };
    let target = adit_core::target::Target::parse(&format!("tcp://{}", origin.addr())).unwrap();
    let forward = Forward::new(&scope, &clusters, "plain", target, options);
    call(&forward).await;
    found(&forward, HealthState::Healthy).await;
    state(&forward, ForwardState::Idle).await;
    let health = found(&forward, HealthState::Unknown).await;
    assert!(health.last.is_none() && health.latency.is_none(), "{health:?}");
    scope.abort();
}
