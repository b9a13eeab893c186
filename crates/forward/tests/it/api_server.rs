//! An API server that is gone, slow, started again, silent, or says no.

use std::time::Duration;

use adit_core::diagnose::Fault;
use adit_core::forward::ForwardState;
use runtime::Connect as _;
use testkit::cluster::Transport;

use crate::support::{
    Bed, DEADLINE, SOON, call, eventually, lose, moved, open, patience, ready, refusal, rest, state, trip, waiting,
    within, within_of,
};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io";

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for() {
    let bed = Bed::web().await;
    bed.cluster.faults().stop().await;
    let forward = bed.forward("service/web:80");
    waiting(&forward, "cannot be reached").await;
    let said = refusal(&bed.forward_with("service/web:80", patience(Duration::from_millis(300)))).await;
    said.has(&["not ready within 300ms", &bed.cluster.address().to_string(), "refused"], &[]);
    bed.cluster.faults().restart();
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test]
async fn a_slow_server_is_used_as_it_is() {
    let bed = Bed::web().await;
    bed.cluster.faults().api_delay(Duration::from_millis(200));
    bed.cluster.faults().streams().upgrade_delay(Duration::from_millis(200));
    bed.cluster.faults().streams().stream_delay(Duration::from_millis(100));
    let forward = bed.forward("service/web:80");
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test]
async fn a_server_that_was_just_connected_to_and_takes_its_time_is_not_asked_twice() {
    let bed = Bed::web().await;
    bed.cluster.faults().api_delay(Duration::from_secs(3));
    let forward = bed.forward("service/web:80");
    within_of(Duration::from_secs(60), "it is ready", forward.ready()).await.unwrap();
    // Those that were put while the connection was made: later ones find it silent, and may be put again.
    let asked = bed.cluster.count_requests("GET /api/v1/namespaces/default/services?limit");
    assert_eq!(asked, 1, "a question was put twice: {:?}", bed.cluster.requests());
}

#[tokio::test]
async fn a_server_started_again_in_mid_session_is_found_again() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    for _ in 0..3 {
        let mut running = open(&forward).await;
        trip(&mut running, b"before\n").await.unwrap();
        bed.cluster.faults().stop().await;
        let error = rest(&mut running).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "no clean end: {error}");
        drop(running);
        waiting(&forward, "refused").await;
        // Whoever comes meanwhile waits.
        let early = async {
            let mut io = within("a stream", forward.connect()).await.unwrap();
            trip(&mut io, b"early\n").await.unwrap();
        };
        let restart = async {
            eventually(DEADLINE, "somebody waits", || forward.report().streams() == 1).await;
            bed.cluster.faults().restart();
        };
        tokio::join!(early, restart);
        call(&forward).await;
    }
}

#[tokio::test]
async fn waiting_for_a_server_has_an_end_with_a_reason() {
    let bed = Bed::web().await;
    let options = forward::ForwardOptions { later_timeout: Duration::from_millis(300), ..Default::default() };
    let forward = bed.forward_with("service/web:80", options);
    ready(&forward).await;
    bed.cluster.faults().stop().await;
    state(&forward, ForwardState::Backoff).await;
    let error = within("the connection fails", forward.connect()).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn news_that_were_missed_while_the_server_was_gone_are_caught_up_with() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    bed.cluster.faults().stop().await;
    state(&forward, ForwardState::Backoff).await;
    bed.pod("web-2");
    bed.cluster.delete("Pod", "default", "web-1");
    bed.cluster.faults().restart();
    moved(&forward, "web-2").await;
    call(&forward).await;
}

#[tokio::test]
async fn answers_that_may_pass_are_waited_out_and_told_meanwhile() {
    for (status, words) in [(429, "429"), (500, "500"), (502, "502"), (503, "503"), (504, "504")] {
        let bed = Bed::web().await;
        bed.cluster.faults().api_status(Some((status, "")));
        let forward = bed.forward("service/web:80");
        waiting(&forward, words).await;
        assert_eq!(forward.report().status.state, ForwardState::Resolving);
        bed.cluster.faults().api_status(None);
        ready(&forward).await;
        call(&forward).await;
    }
}

#[tokio::test]
async fn answers_that_do_not_pass_fail_at_once_with_what_to_do() {
    for (status, fault, words, hint) in [
        (401, Fault::Auth, "refused the credentials", "log in"),
        (403, Fault::Auth, "could not be looked up", "ask for the right"),
    ] {
        let bed = Bed::web().await;
        bed.cluster.faults().api_status(Some((status, "")));
        let said = refusal(&bed.forward("service/web:80")).await;
        said.has(&[words], &[hint]);
        assert_eq!(said.fault, fault);
    }
}

#[tokio::test]
async fn pages_instead_of_answers_are_no_reason_to_fall_over() {
    for body in ["<html><body>captive portal</body></html>", "{\"kind\":\"PodList\"", "[]", "\u{1b}[31mred"] {
        let bed = Bed::web().await;
        bed.cluster.faults().api_status(Some((200, body)));
        let forward = bed.forward("service/web:80");
        waiting(&forward, "cannot read").await;
        assert!(!forward.report().waiting_for.unwrap().contains('\u{1b}'));
        bed.cluster.faults().api_status(None);
        ready(&forward).await;
        call(&forward).await;
    }
}

#[tokio::test]
async fn a_server_without_the_api_asked_for_says_so() {
    let bed = Bed::web().await;
    bed.cluster.faults().api_status(Some((404, "404 page not found")));
    let forward = bed.forward("service/web:80");
    waiting(&forward, "could not be looked up").await;
    waiting(&forward, "404").await;
}

#[tokio::test]
async fn watches_that_fail_in_mid_session_leave_what_is_known_in_use() {
    for status in [429, 500, 503] {
        let bed = Bed::web().await;
        let forward = bed.ready().await;
        let mut running = open(&forward).await;
        trip(&mut running, b"before\n").await.unwrap();
        for path in [SERVICES, SLICES] {
            bed.cluster.faults().api_status_for(path, Some((status, "")));
        }
        bed.cluster.faults().drop_watches();
        let before = bed.cluster.count_requests("GET /apis/discovery");
        eventually(DEADLINE, "the watch is asked for again", || {
            bed.cluster.count_requests("GET /apis/discovery") > before
        })
        .await;
        call(&forward).await;
        trip(&mut running, b"after\n").await.unwrap();
        assert!(forward.report().is_ready());
        bed.pod("web-2");
        bed.cluster.terminate("default", "web-1");
        bed.cluster.faults().clear();
        moved(&forward, "web-2").await;
    }
}

#[tokio::test]
async fn forgotten_versions_are_listed_anew() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    for round in 2..5 {
        bed.cluster.faults().watch_gone();
        bed.pod(&format!("web-{round}"));
        bed.cluster.terminate("default", &format!("web-{}", round - 1));
        moved(&forward, &format!("web-{round}")).await;
        call(&forward).await;
        bed.cluster.delete("Pod", "default", &format!("web-{}", round - 1));
    }
}

#[tokio::test]
async fn watches_that_end_again_and_again_lose_no_news() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    for round in 2..6 {
        bed.cluster.faults().drop_watches();
        bed.pod(&format!("web-{round}"));
        bed.cluster.faults().drop_watches();
        bed.cluster.delete("Pod", "default", &format!("web-{}", round - 1));
        bed.cluster.faults().drop_watches();
        moved(&forward, &format!("web-{round}")).await;
        call(&forward).await;
    }
}

#[tokio::test]
async fn who_may_not_watch_looks_again_and_again() {
    let bed = Bed::web().await;
    bed.cluster.faults().deny("watch", "*");
    let forward = bed.ready().await;
    call(&forward).await;
    bed.pod("web-2");
    bed.cluster.terminate("default", "web-1");
    moved(&forward, "web-2").await;
    call(&forward).await;
}

#[tokio::test]
async fn who_may_only_get_a_pod_can_forward_to_it() {
    let bed = Bed::web().await;
    bed.cluster.faults().deny("watch", "*");
    bed.cluster.faults().deny("list", "*");
    let forward = bed.forward("pod/web-1:8080");
    ready(&forward).await;
    call(&forward).await;
    refusal(&bed.forward("service/web:80")).await.has(&["forbidden"], &["list"]);
}

#[tokio::test]
async fn who_may_not_see_pods_can_use_a_service() {
    let bed = Bed::web().await;
    for verb in ["get", "list", "watch"] {
        bed.cluster.faults().deny(verb, "pods");
    }
    call(&bed.ready().await).await;
}

#[tokio::test]
async fn upgrades_that_are_refused_for_a_while_are_tried_again() {
    for (status, body) in
        [(429, "too many"), (500, "etcd: leader changed"), (503, "apiserver is shutting down"), (504, "")]
    {
        let bed = Bed::web().await;
        bed.cluster.faults().streams().refuse_upgrades(4, status, body);
        let forward = bed.forward("service/web:80");
        ready(&forward).await;
        call(&forward).await;
    }
}

#[tokio::test]
async fn upgrades_that_are_refused_for_good_are_told() {
    for (status, words) in
        [(401, "refused the credentials"), (403, "not today"), (418, "not today"), (503, "not today")]
    {
        let bed = Bed::web().await;
        bed.cluster.faults().streams().refuse_upgrades(10_000, status, "not today");
        let forward = bed.forward_with("service/web:80", patience(Duration::from_millis(700)));
        refusal(&forward).await.has(&[words], &[]);
    }
}

#[tokio::test]
async fn upgrades_that_are_refused_in_mid_session_hold_up_new_connections_only() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let faults = bed.cluster.faults();
    for transport in [Transport::Tunnel, Transport::Spdy, Transport::Channels] {
        faults.streams().force(transport, Some(503));
    }
    let mut running = open(&forward).await;
    trip(&mut running, b"on what is there\n").await.unwrap();
    faults.streams().cut_all();
    rest(&mut running).await.unwrap_err();
    let early = async {
        let mut io = within("a stream", forward.connect()).await.unwrap();
        trip(&mut io, b"early\n").await.unwrap();
    };
    let mend = async {
        waiting(&forward, "503").await;
        for transport in [Transport::Tunnel, Transport::Spdy, Transport::Channels] {
            faults.streams().force(transport, None);
        }
    };
    tokio::join!(early, mend);
}

#[tokio::test]
async fn a_server_that_vanished_silently_is_dialled_anew_at_wake() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    call(&forward).await;
    // As with a laptop that slept: connections look open and are dead; the server itself is well.
    bed.cluster.faults().silent_connections();
    bed.pod("web-2");
    bed.cluster.delete("Pod", "default", "web-1");
    lose(&forward, || forward.wake()).await;
    moved(&forward, "web-2").await;
    call(&forward).await;
}

#[tokio::test]
async fn a_machine_that_vanished_and_came_back_is_found_at_wake() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    bed.cluster.faults().stop_silently().await;
    forward.wake();
    waiting(&forward, "refused").await;
    bed.cluster.faults().restart();
    call(&forward).await;
}

#[tokio::test]
async fn reset_connections_are_replaced_at_once() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let begun = std::time::Instant::now();
    for _ in 0..3 {
        lose(&forward, || bed.cluster.faults().cut_connections()).await;
        call(&forward).await;
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_uses_up_no_tries_of_its_forwards_and_all_come_back_at_once() {
    use adit_core::forward::{ForwardSettings, ForwardState, Start};

    let bed = Bed::web().await;
    let settings = ForwardSettings {
        max_attempts: Some(2),
        start: Start::Always,
        stable_after: Duration::ZERO,
        ..ForwardSettings::default()
    };
    let options = || forward::ForwardOptions { settings, ..Default::default() };
    let forwards: Vec<_> = (0..10).map(|_| bed.forward_with("service/web:80", options())).collect();
    for forward in &forwards {
        call(forward).await;
    }
    bed.cluster.faults().stop().await;
    for forward in &forwards {
        waiting(forward, "refused").await;
    }
    let begun = std::time::Instant::now();
    let mut reports = forwards[0].status();
    // Far longer than two tries of each take.
    while begun.elapsed() < Duration::from_secs(2) {
        let _ = tokio::time::timeout(Duration::from_millis(200), reports.changed()).await;
    }
    for forward in &forwards {
        let status = forward.report().status;
        assert_ne!(status.state, ForwardState::Failed, "{:?}", status.reason);
    }
    bed.cluster.faults().restart();
    let back = std::time::Instant::now();
    for forward in &forwards {
        call(forward).await;
        let (outages, lost) = forward.report().outages(std::time::Instant::now());
        assert!(outages >= 1 && lost > Duration::from_secs(2), "{outages} {lost:?}");
    }
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
}
