//! Credentials that end, and programs that should give new ones.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use adit_core::diagnose::Fault;
use forward::{Clusters, Forward, ForwardOptions, KubeSettings};
use testkit::cluster::{AuthMode, ClusterOptions};

use crate::support::{Bed, DEADLINE, call, eventually, open, patience, ready, refusal, settings, trip, waiting};

/// A cluster whose kubeconfig names a plugin.
async fn plugged(lifetime: Duration) -> Bed {
    Bed::web_with(ClusterOptions { auth: AuthMode::ExecPlugin { lifetime }, ..ClusterOptions::default() }).await
}

/// A forward whose plugin is this script.
fn scripted(bed: &Bed, script: &str, options: ForwardOptions) -> Forward {
    let path = bed.dir.path().join("test-login");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    named(bed, "test-login", vec![bed.dir.path().to_owned()], options)
}

/// A forward whose plugin has this name.
fn named(bed: &Bed, command: &str, exec_path: Vec<PathBuf>, options: ForwardOptions) -> Forward {
    let good = bed.cluster.kubeconfig();
    let old = good.lines().find(|line| line.trim_start().starts_with("command:")).unwrap();
    let config = bed.dir.path().join("plugged");
    std::fs::write(&config, good.replace(old, &format!("      command: {command}"))).unwrap();
    let settings = KubeSettings { exec_path, ..settings(&config) };
    let target = adit_core::target::Target::parse("k8s:///default/service/web:80").unwrap();
    Forward::new(&bed.scope, &Clusters::new(settings), "web", target, options)
}

#[tokio::test]
async fn a_plugin_gives_the_token_and_runs_once_while_it_is_good() {
    let bed = plugged(Duration::from_secs(3600)).await;
    let forward = bed.ready().await;
    for _ in 0..5 {
        call(&forward).await;
    }
    assert_eq!(bed.cluster.plugin_runs(), 1);
}

#[tokio::test]
async fn a_plugin_that_is_not_on_the_path_is_named() {
    let bed = plugged(Duration::from_secs(3600)).await;
    let said = refusal(&named(&bed, "no-such-login", Vec::new(), ForwardOptions::default())).await;
    said.has(&["`no-such-login` is not on PATH", "fake"], &["exec_path"]);
    assert_eq!(said.fault, Fault::Config);
}

#[tokio::test]
async fn a_plugin_that_fails_is_quoted() {
    let bed = plugged(Duration::from_secs(3600)).await;
    let said = refusal(&scripted(&bed, "echo 'session expired: log in' >&2; exit 7", ForwardOptions::default())).await;
    said.has(&["`test-login` failed", "7", "session expired: log in"], &["by hand"]);
    assert_eq!(said.fault, Fault::Auth);
}

#[tokio::test]
async fn a_plugin_that_prints_rubbish_is_told_without_its_output() {
    let bed = plugged(Duration::from_secs(3600)).await;
    for script in [
        "echo hunter2",
        "true",
        "echo '{}'",
        "head -c 3000000 /dev/zero",
        "head -c 3000000 /dev/zero >&2; echo hunter2",
    ] {
        let said = refusal(&scripted(&bed, script, ForwardOptions::default())).await;
        said.has(&["`test-login` printed no credential"], &["by hand"]);
        assert!(!said.text.contains("hunter2"), "{}", said.text);
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_is_named_while_it_is_waited_for_and_ended_with_the_forward() {
    let bed = plugged(Duration::from_secs(3600)).await;
    let pid = bed.dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 600", pid.display());
    let forward = scripted(&bed, &script, patience(Duration::from_millis(1500)));
    waiting(&forward, "test-login").await;
    refusal(&forward).await.has(&["not ready within 1.5s", "test-login"], &[]);
    let running = || std::fs::read_to_string(&pid).is_ok_and(|pid| alive(pid.trim()));
    eventually(DEADLINE, "the plugin runs", running).await;
    bed.scope.abort();
    eventually(DEADLINE, "the plugin is ended", || !running()).await;
}

/// Whether a process runs; one that has ended and was not waited for does not.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_token_that_ends_in_mid_session_is_renewed_by_the_plugin() {
    let bed = plugged(Duration::from_secs(3600)).await;
    let forward = bed.ready().await;
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    bed.cluster.rotate_token();
    bed.cluster.faults().drop_watches();
    bed.pod("web-2");
    bed.cluster.delete("Pod", "default", "web-1");
    call(&forward).await;
    // All watches and upgrades were refused at once; the program may ask a person, so it runs once for all of them.
    assert_eq!(bed.cluster.plugin_runs(), 2);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    // Of less than a minute, so each request finds that it is about to end.
    let bed = plugged(Duration::from_secs(30)).await;
    let forward = bed.ready().await;
    call(&forward).await;
    assert!(bed.cluster.plugin_runs() > 1);
}

#[tokio::test]
async fn a_token_that_ends_in_mid_session_is_read_anew_from_a_kubeconfig_that_was_rewritten() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    bed.cluster.rotate_token();
    bed.cluster.write_kubeconfig(&bed.dir.path().join("config"));
    bed.cluster.faults().drop_watches();
    bed.pod("web-2");
    bed.cluster.delete("Pod", "default", "web-1");
    call(&forward).await;
    assert_eq!(forward.report().pod.as_deref(), Some("web-2"));
}

#[tokio::test]
async fn a_token_that_is_not_renewed_is_said_so_and_running_streams_go_on() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", patience(Duration::from_secs(2)));
    ready(&forward).await;
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    bed.cluster.faults().token_expired(true);
    bed.cluster.faults().drop_watches();
    call(&forward).await;
    trip(&mut running, b"after\n").await.unwrap();
    let late = bed.forward_with("service/web:80", patience(Duration::from_secs(2)));
    let begun = Instant::now();
    refusal(&late).await.has(&["refused the credentials"], &["log in"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "it was waited for");
}
