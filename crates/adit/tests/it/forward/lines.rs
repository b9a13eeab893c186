//! What is printed, and that bytes pass.

use std::time::{Duration, Instant};

use testkit::process::Signal;
use testkit::raw;
use tokio::net::TcpStream;

use super::{Bench, address, addresses, status};
use crate::support::{DEADLINE, eventually};

#[tokio::test]
async fn kubectls_lines_come_on_stdout_and_a_ready_line_on_stderr() {
    let bench = Bench::start().await;
    let process = bench.forward(&["svc/web", ":80"], 1).await;
    let found = addresses(&process);
    let port = found[0].port();
    let stdout = process.stdout();
    assert!(stdout.starts_with(&format!("Forwarding from 127.0.0.1:{port} -> 8080\n")), "{stdout}");
    for address in &found[1..] {
        assert!(stdout.contains(&format!("Forwarding from [::1]:{port} -> 8080\n")), "{address}: {stdout}");
    }
    let ready = format!("svc/web  127.0.0.1:{port} → fake/default/service/web:80 (pod web-1)  ready in ");
    assert!(process.stderr().contains(&ready), "{}", process.stderr());
}

#[tokio::test]
async fn requests_pass_on_every_address() {
    let bench = Bench::start().await;
    let process = bench.forward(&["svc/web", ":80"], 1).await;
    for address in addresses(&process) {
        let answer = raw::get(address, "localhost", "/bytes/100000").await.expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, 100_000), "{address}");
    }
}

#[tokio::test]
async fn every_form_of_target_leads_to_the_pod() {
    let bench = Bench::start().await;
    bench.cluster.add_deployment("default", "web", &[("app", "web")]);
    let origin = bench.origin.url().replace("http://", "tcp://");
    for arguments in [
        &["web-1", ":8080"][..],
        &["pod/web-1", ":http"],
        &["deploy/web", ":8080"],
        &["-l", "app=web", ":8080"],
        &["k8s://fake/default/service/web:80", ":"],
        &["k8s:////service/web:http", ":"],
        &[&origin, ":"],
    ] {
        let process = bench.forward(arguments, 1).await;
        assert_eq!(status(address(&process)).await, Some(200), "{arguments:?}: {}", process.output());
    }
}

#[tokio::test]
async fn each_connection_is_told_only_when_asked_for() {
    let bench = Bench::start().await;
    let quiet = bench.forward(&["svc/web", ":80"], 1).await;
    let loud = bench.forward(&["svc/web", ":80", "-v"], 1).await;
    for process in [&quiet, &loud] {
        assert_eq!(status(address(process)).await, Some(200));
    }
    let line = format!("Handling connection for {}", address(&loud).port());
    loud.line(DEADLINE, |text| text == line).await.expect("the connection");
    assert!(!quiet.stdout().contains("Handling"), "{}", quiet.stdout());
}

#[tokio::test]
async fn an_idle_forward_ends_at_once_with_the_signals_exit_code() {
    let bench = Bench::start().await;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 0)] {
        let process = bench.forward(&["svc/web", ":80"], 1).await;
        assert_eq!(status(address(&process)).await, Some(200));
        let start = Instant::now();
        process.signal(signal).expect("a signal");
        assert_eq!(process.exited(DEADLINE).await.expect("it ends").code(), Some(code), "{}", process.output());
        // Far less than the 8 s of a drain that waits for something.
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}: {}", start.elapsed(), process.output());
    }
}

#[tokio::test]
async fn a_second_interrupt_ends_it_under_an_open_connection() {
    let bench = Bench::start().await;
    let process = bench.forward(&["svc/web", ":80"], 1).await;
    let _open = TcpStream::connect(address(&process)).await.expect("a connection");
    eventually(DEADLINE, "the connection in the pod", || async { (bench.origin.open() > 0).then_some(()) }).await;
    process.signal(Signal::INT).expect("a signal");
    process.line(DEADLINE, |line| line.contains("Ctrl-C again ends at once")).await.expect("what it waits for");
    let start = Instant::now();
    process.signal(Signal::INT).expect("a signal");
    assert_eq!(process.exited(DEADLINE).await.expect("it ends").code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let last = process.stderr().lines().last().map(str::to_owned);
    assert_eq!(last.as_deref(), Some("cutting 1 connection"), "no log line of ours: {}", process.stderr());
}

#[tokio::test]
async fn a_ready_line_says_a_url_once_and_how_many_pods_share_the_connections() {
    let bench = Bench::start().await;
    bench.add_pod("web-2", true);
    let ready = |process: &testkit::process::Process| {
        process.stderr().lines().find(|line| line.contains("ready in")).map(str::to_owned).expect("the line")
    };
    let url = bench.forward(&["k8s:///default/service/web:80", ":"], 1).await;
    let line = ready(&url);
    assert!(line.starts_with("127.0.0.1:") && line.matches("service/web").count() == 1, "{line}");
    let spread = ready(&bench.forward(&["svc/web", ":80", "--balance"], 1).await);
    assert!(spread.contains("service/web:80 (2 pods)  ready in"), "{spread}");
}
