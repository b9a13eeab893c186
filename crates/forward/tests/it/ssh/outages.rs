//! Servers that die, freeze and come back.

use std::time::{Duration, Instant};

use adit_core::backoff::BackoffSettings;
use adit_core::forward::{ForwardSettings, Start};
use adit_core::target::SshOptions;
use forward::ForwardOptions;
use tokio::io::AsyncReadExt as _;

use super::bed::SshBed;
use crate::support::{call, open, ready, say, trip, within, within_of};

/// A long wait.
const A_MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_mid_transfer_is_found_again() {
    let bed = SshBed::new().await;
    let forward = bed.forward();
    let mut io = say(&forward, "source\n").await;
    let mut piece = vec![0; 1 << 20];
    within("it flows", io.read_exact(&mut piece)).await.unwrap();
    bed.sshd.kill().await;
    let cut = async { while io.read(&mut piece).await.is_ok_and(|got| got > 0) {} };
    within("the stream is cut", cut).await;
    assert!(io.read(&mut piece).await.is_err(), "a cut is no end");
    bed.sshd.restart().await;
    let begun = Instant::now();
    call(&forward).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_noticed_within_its_keep_alives() {
    let bed = SshBed::new().await;
    let config = bed.config("ServerAliveInterval 1\nServerAliveCountMax 2");
    let options = SshOptions { config: Some(config), connect_timeout: Some(Duration::from_secs(2)), ..bed.options() };
    let forward = bed.forward_with(options);
    let mut io = open(&forward).await;
    trip(&mut io, b"alive\n").await.unwrap();
    bed.sshd.freeze();
    let begun = Instant::now();
    let mut reports = forward.status();
    within("it is noticed", reports.wait_for(|report| !report.is_ready())).await.map(drop).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(within("its streams are cut", io.read_u8()).await.is_err());
    bed.sshd.thaw();
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_noticed_while_much_is_sent_to_it() {
    use tokio::io::AsyncWriteExt as _;
    let bed = SshBed::new().await;
    let config = bed.config("ServerAliveInterval 1\nServerAliveCountMax 2");
    let forward = bed.forward_with(SshOptions { config: Some(config), ..bed.options() });
    let mut io = say(&forward, "sink\n").await;
    bed.sshd.freeze();
    let piece = vec![0; 1 << 20];
    let sending = async { while io.write_all(&piece).await.is_ok() {} };
    within_of(Duration::from_secs(8), "the stream is cut", sending).await;
    bed.sshd.thaw();
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_up_dials_at_once() {
    let bed = SshBed::new().await;
    let forward = bed.forward();
    call(&forward).await;
    bed.sshd.freeze();
    forward.wake();
    bed.sshd.thaw();
    call(&forward).await;
    assert_eq!(bed.sshd.logins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_at_the_start_is_waited_for_by_all_its_forwards_at_one_pace() {
    let bed = SshBed::new().await;
    bed.sshd.kill().await;
    let forwards: Vec<_> = (0..20).map(|_| bed.forward()).collect();
    let leases: Vec<_> = forwards.iter().map(forward::Forward::lease).collect();
    crate::support::waiting(&forwards[0], "connection refused").await;
    bed.sshd.restart().await;
    for forward in &forwards {
        ready(forward).await;
    }
    drop(leases);
    assert_eq!(bed.sshd.logins(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_frozen_for_long_is_tried_at_a_measured_pace_and_found_when_it_goes_on() {
    let bed = SshBed::new().await;
    let config = bed.config("ServerAliveInterval 1\nServerAliveCountMax 1");
    let connect_timeout = Some(Duration::from_millis(500));
    let forwards: Vec<_> = (0..5)
        .map(|_| bed.forward_with(SshOptions { config: Some(config.clone()), connect_timeout, ..bed.options() }))
        .collect();
    for forward in &forwards {
        call(forward).await;
    }
    bed.sshd.freeze();
    let begun = Instant::now();
    for forward in &forwards {
        crate::support::waiting(forward, "did not answer within 500ms").await;
    }
    // Several tries that all fail.
    let mut reports = forwards[0].status();
    while begun.elapsed() < Duration::from_secs(6) {
        let _ = tokio::time::timeout(Duration::from_secs(1), reports.changed()).await;
    }
    bed.sshd.thaw();
    for forward in &forwards {
        call(forward).await;
    }
    // One login for all; those that were under way meanwhile are not counted against it.
    assert!(bed.sshd.connections() < 20, "{}", bed.sshd.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_went_away_is_found_again_at_its_own_pace_by_all_its_forwards() {
    let bed = SshBed::new().await;
    // A forward of its own pace would wait for half a minute.
    let slow = BackoffSettings { first: A_MINUTE, base: A_MINUTE, growth: 2.0, cap: A_MINUTE };
    let settings = ForwardSettings {
        backoff: slow,
        stable_after: Duration::ZERO,
        start: Start::Always,
        ..ForwardSettings::default()
    };
    let options = || ForwardOptions { settings, ..ForwardOptions::default() };
    let forwards: Vec<_> = (0..20).map(|_| bed.forward_of(bed.target(bed.options()), options())).collect();
    let leases: Vec<_> = forwards.iter().map(forward::Forward::lease).collect();
    for forward in &forwards {
        ready(forward).await;
    }
    bed.sshd.kill().await;
    for forward in &forwards {
        crate::support::waiting(forward, "refused").await;
    }
    bed.sshd.restart().await;
    let begun = Instant::now();
    for forward in &forwards {
        ready(forward).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert_eq!(bed.sshd.logins(), 1, "one for all");
    drop(leases);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_uses_up_no_tries_of_its_forwards() {
    let bed = SshBed::new().await;
    let settings = ForwardSettings { max_attempts: Some(2), start: Start::Always, ..ForwardSettings::default() };
    let options = || ForwardOptions { settings, ..ForwardOptions::default() };
    bed.sshd.kill().await;
    let forwards: Vec<_> = (0..20).map(|_| bed.forward_of(bed.target(bed.options()), options())).collect();
    let begun = Instant::now();
    let mut reports = forwards[0].status();
    // Far longer than two tries of each take.
    while begun.elapsed() < Duration::from_secs(3) {
        let _ = tokio::time::timeout(Duration::from_millis(200), reports.changed()).await;
    }
    for forward in &forwards {
        let status = forward.report().status;
        assert_ne!(status.state, adit_core::forward::ForwardState::Failed, "{:?}", status.reason);
    }
    bed.sshd.restart().await;
    let back = Instant::now();
    for forward in &forwards {
        ready(forward).await;
    }
    assert!(back.elapsed() < Duration::from_millis(1500), "{:?}", back.elapsed());
    assert_eq!(bed.sshd.logins(), 1, "one for all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_frozen_connection_do_not_keep_their_places_of_a_limit() {
    let bed = SshBed::new().await;
    let limits = adit_core::config::forwards::LimitsConfig { connections: Some(2), bytes_per_second: None };
    let options = ForwardOptions { limits, ..crate::support::patience(Duration::from_secs(10)) };
    let forward = bed.forward_of(bed.target(bed.options()), options);
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut io = open(&forward).await;
        trip(&mut io, b"before\n").await.unwrap();
        stuck.push(io);
    }
    bed.sshd.freeze_connections();
    let begun = Instant::now();
    let again = async {
        loop {
            match runtime::Connect::connect(&forward).await {
                Ok(io) => return io,
                Err(error) => assert!(error.to_string().contains("its limit"), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let cut = stuck.into_iter().map(async |mut io| io.read_u8().await.is_err());
    let both = futures_util::future::join(again, futures_util::future::join_all(cut));
    let (mut io, cut) = within("there is a place", both).await;
    assert!(cut.into_iter().all(|cut| cut), "those that hang are told");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    tokio::io::AsyncWriteExt::write_all(&mut io, b"echo\n").await.unwrap();
    trip(&mut io, b"after\n").await.unwrap();
    bed.sshd.thaw();
}
