//! When a forward starts, how long it stays, and who shares it.

use std::time::{Duration, Instant};

use adit_core::forward::{ForwardSettings, ForwardState, Start};
use adit_core::target::Target;
use forward::{Forward, ForwardOptions};
use futures_util::future::join_all;
use runtime::{Connect as _, Scope};
use testkit::origin::TcpOrigin;

use crate::support::{
    Bed, DEADLINE, SOON, call, eventually, open, ready, refusal, rest, say, state, told, trip, within,
};

fn on_demand(idle: Duration) -> ForwardOptions {
    let settings = ForwardSettings { start: Start::OnDemand, idle_timeout: Some(idle), ..ForwardSettings::default() };
    ForwardOptions { settings, ..ForwardOptions::default() }
}

/// A forward in a scope of its own.
fn in_scope(bed: &Bed, scope: &Scope, target: &str) -> Forward {
    let target = Target::parse(&format!("k8s:///default/{target}")).unwrap();
    Forward::new(scope, &bed.clusters, "web", target, ForwardOptions::default())
}

#[tokio::test]
async fn it_starts_with_the_first_demand_once_for_all_who_wait() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", on_demand(Duration::from_secs(60)));
    // Time passes in which nobody asks for it.
    let elsewhere = Bed::web().await;
    call(&elsewhere.ready().await).await;
    assert_eq!(forward.report().status.state, ForwardState::Idle);
    assert!(bed.cluster.requests().is_empty(), "{:?}", bed.cluster.requests());
    join_all((0..100).map(|_| call(&forward))).await;
    let lists = bed.cluster.count_requests("GET /api/v1/namespaces/default/services?limit");
    assert_eq!(lists, 1, "{:?}", bed.cluster.requests());
}

#[tokio::test]
async fn it_rests_when_nobody_used_it_for_long_enough_and_closes_what_it_held() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", on_demand(Duration::from_millis(300)));
    for _ in 0..3 {
        call(&forward).await;
        let begun = Instant::now();
        state(&forward, ForwardState::Idle).await;
        assert!(begun.elapsed() >= Duration::from_millis(250), "after {:?}", begun.elapsed());
        let streams = bed.cluster.faults().streams();
        eventually(DEADLINE, "its connections are closed", || streams.open_connections() == 0).await;
    }
}

#[tokio::test]
async fn a_live_stream_is_never_cut_and_the_clock_begins_with_its_end() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", on_demand(Duration::from_millis(200)));
    let mut io = open(&forward).await;
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        trip(&mut io, b"still in use\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(forward.report().status.state, ForwardState::Ready);
    drop(io);
    let begun = Instant::now();
    state(&forward, ForwardState::Idle).await;
    assert!(begun.elapsed() >= Duration::from_millis(150), "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_lease_keeps_it_and_the_last_one_lets_it_go() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", on_demand(Duration::from_millis(100)));
    let leases = (forward.lease(), forward.lease());
    state(&forward, ForwardState::Ready).await;
    drop(leases.0);
    let idle = tokio::time::timeout(Duration::from_millis(400), async {
        drop(forward.status().wait_for(|report| report.status.state == ForwardState::Idle).await);
    });
    assert!(idle.await.is_err(), "it went with the first");
    drop(leases.1);
    state(&forward, ForwardState::Idle).await;
}

#[tokio::test]
async fn a_stopped_forward_lets_its_streams_finish_and_starts_again_on_demand() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", on_demand(Duration::from_secs(60)));
    let mut io = open(&forward).await;
    trip(&mut io, b"before\n").await.unwrap();
    forward.stop();
    state(&forward, ForwardState::Draining).await;
    trip(&mut io, b"after\n").await.unwrap();
    drop(io);
    state(&forward, ForwardState::Idle).await;
    call(&forward).await;
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_while_and_told_to_all() {
    let bed = Bed::new().await;
    let mut options = on_demand(Duration::from_secs(60));
    options.settings.failure_memory = Duration::from_millis(700);
    let forward = bed.forward_with("service/web:80", options);
    let errors = join_all((0..20).map(|_| forward.connect())).await;
    for error in errors {
        let error = error.unwrap_err();
        assert!(told(&error).contains("services \"web\" not found"), "{}", told(&error));
    }
    bed.cluster.clear_requests();
    let again = forward.connect().await.unwrap_err();
    assert!(told(&again).contains("not found"));
    assert!(bed.cluster.requests().is_empty(), "{:?}", bed.cluster.requests());
    // Once that is over, the next one tries anew, and is not given the old answer.
    bed.pod("web-1");
    bed.service();
    let failed = forward.report().status.since;
    eventually(DEADLINE, "it is forgotten", || failed.elapsed() > Duration::from_millis(750)).await;
    call(&forward).await;
}

#[tokio::test]
async fn a_forward_that_always_runs_tries_again_after_a_failure() {
    let bed = Bed::new().await;
    let mut options = ForwardOptions::default();
    options.settings.retry_failed = Duration::from_millis(200);
    let forward = bed.forward_with("service/web:80", options);
    refusal(&forward).await.has(&["not found"], &[]);
    bed.pod("web-1");
    bed.service();
    state(&forward, ForwardState::Ready).await;
    call(&forward).await;
}

#[tokio::test]
async fn whoever_asks_again_after_a_failure_hears_of_the_new_attempt() {
    let bed = Bed::new().await;
    let mut options = ForwardOptions::default();
    options.settings.failure_memory = Duration::ZERO;
    for round in 0..5 {
        let forward = bed.forward_with("service/web:80", options.clone());
        refusal(&forward).await.has(&["not found"], &[]);
        if round % 2 == 0 {
            bed.pod("web-1");
            bed.service();
            ready(&forward).await;
        } else {
            bed.pod("web-1");
            bed.service();
            call(&forward).await;
        }
        bed.cluster.delete("Service", "default", "web");
    }
}

#[tokio::test]
async fn balancing_spreads_and_its_absence_does_not() {
    let bed = Bed::new().await;
    bed.service();
    let mut origins = Vec::new();
    for number in 1..=3 {
        let origin = TcpOrigin::start().await.unwrap();
        bed.cluster.add_pod(bed.spec(&format!("web-{number}")).backend(8080, origin.addr()));
        origins.push(origin);
    }
    let pinned = bed.ready().await;
    let balanced = bed.forward_with("service/web:80", ForwardOptions { balance: true, ..ForwardOptions::default() });
    ready(&balanced).await;
    let counts = || origins.iter().map(TcpOrigin::connections).collect::<Vec<_>>();
    for _ in 0..9 {
        call(&balanced).await;
    }
    assert_eq!(counts(), [3, 3, 3]);
    for _ in 0..9 {
        call(&pinned).await;
    }
    assert_eq!(counts(), [12, 3, 3]);
    bed.cluster.terminate("default", "web-2");
    // Once that is known, the others share.
    for _ in 0..50 {
        call(&balanced).await;
    }
    let before = counts();
    for _ in 0..6 {
        call(&balanced).await;
    }
    let more: Vec<_> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(more, [3, 0, 3]);
}

#[tokio::test]
async fn forwards_to_one_pod_share_connections_and_survive_each_other() {
    let bed = Bed::web().await;
    let (one, two) = (Scope::root(), Scope::root());
    let first = in_scope(&bed, &one, "service/web:80");
    ready(&first).await;
    let second = in_scope(&bed, &two, "pod/web-1:8080");
    ready(&second).await;
    call(&first).await;
    call(&second).await;
    one.drain();
    within("the first ends though the second goes on", one.idle()).await;
    call(&second).await;
    one.abort();
    for _ in 0..3 {
        call(&second).await;
    }
    two.abort();
}

#[tokio::test]
async fn a_forward_whose_neighbour_is_aborted_goes_on() {
    let bed = Bed::web().await;
    let (one, two) = (Scope::root(), Scope::root());
    let first = in_scope(&bed, &one, "service/web:80");
    ready(&first).await;
    let second = in_scope(&bed, &two, "service/web:80");
    ready(&second).await;
    one.abort();
    within("the first has ended", one.idle()).await;
    call(&second).await;
    two.abort();
}

#[tokio::test]
async fn an_idle_forward_drains_at_once() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    call(&forward).await;
    let begun = Instant::now();
    bed.scope.drain();
    within("no task is left", bed.scope.idle()).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}: {:?}", begun.elapsed(), bed.scope.running());
    let streams = bed.cluster.faults().streams();
    eventually(DEADLINE, "its connections are closed", || streams.open_connections() == 0).await;
    let begun = Instant::now();
    within("a new one is refused", forward.connect()).await.unwrap_err();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn draining_lets_streams_finish_and_takes_no_new_ones() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut io = open(&forward).await;
    trip(&mut io, b"before\n").await.unwrap();
    bed.scope.drain();
    let begun = Instant::now();
    // Until the forward has noticed.
    while within("a new one is refused", forward.connect()).await.is_ok() {
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    trip(&mut io, b"after\n").await.unwrap();
    drop(io);
    within("no task is left", bed.scope.idle()).await;
}

#[tokio::test]
async fn aborting_ends_streams_with_an_error_and_leaves_no_task() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut io = say(&forward, "silent\n").await;
    bed.scope.abort();
    within("no task is left", bed.scope.idle()).await;
    assert!(rest(&mut io).await.is_err());
    within("a new one is refused", forward.connect()).await.unwrap_err();
}

#[tokio::test]
async fn targets_that_are_no_kubernetes_objects_are_forwarded_or_refused() {
    let bed = Bed::web().await;
    let plain = Target::parse(&format!("tcp://{}", bed.origin.addr())).unwrap();
    let forward = Forward::new(&bed.scope, &bed.clusters, "plain", plain, ForwardOptions::default());
    ready(&forward).await;
    call(&forward).await;
    let named = Forward::new(&bed.scope, &bed.clusters, "x", Target::Forward("x".into()), ForwardOptions::default());
    refusal(&named).await.has(&["forward:x"], &["k8s://"]);
}
