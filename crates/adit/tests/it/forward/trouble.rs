//! What happens when the target does not stay as it was.

use testkit::process::{Process, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Bench, address, ready, status};
#[cfg(all(target_os = "linux", target_env = "gnu"))]
use crate::support::silent::SilentNames;
use crate::support::{DEADLINE, SOON, eventually};

#[tokio::test]
async fn a_deleted_pod_is_followed_by_the_next_one() {
    let bench = Bench::start().await;
    bench.add_pod("web-2", true);
    let process = bench.forward(&["svc/web", ":80"], 1).await;
    let first = if process.stderr().contains("(pod web-1)") { "web-1" } else { "web-2" };
    let next = if first == "web-1" { "web-2" } else { "web-1" };
    assert!(bench.cluster.delete("Pod", "default", first));
    let line = format!("svc/web: moved to pod {next}");
    process.line(DEADLINE, |text| text == line).await.expect("the move");
    assert_eq!(status(address(&process)).await, Some(200));
    assert_eq!(process.stderr().lines().count(), 2, "ready and moved, no more: {}", process.stderr());
}

#[tokio::test]
async fn a_loss_is_one_line_and_its_end_another() {
    let bench = Bench::start().await;
    let process = bench.forward(&["svc/web", ":80"], 1).await;
    bench.cluster.delete("Pod", "default", "web-1");
    let lost = process.line(DEADLINE, |line| line.contains("lost")).await.expect("the loss");
    assert!(lost.starts_with("svc/web: lost pod web-1") && lost.ends_with("; waiting for another"), "{lost}");
    bench.add_pod("web-2", true);
    let back = process.line(DEADLINE, |line| line.contains("back")).await.expect("its end");
    assert!(back.starts_with("svc/web: back on pod web-2 after ") && back.ends_with(" s"), "{back}");
    assert_eq!(status(address(&process)).await, Some(200));
}

#[tokio::test]
async fn a_refused_connection_is_a_reset_and_one_line_and_the_session_lives() {
    let bench = Bench::start().await;
    let process = bench.forward(&["svc/web", ":81", ":80"], 2).await;
    let dead = address(&process);
    for _ in 0..5 {
        // The reset may be quicker than the connection.
        let asked = async { TcpStream::connect(dead).await?.read_u8().await };
        let end = asked.await.expect_err("nothing listens there");
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "{}", process.output());
    }
    let prefix = format!("{}: ", dead.port());
    let more = |line: &str| line.starts_with(&prefix) && line.contains("more)");
    let said = process.line(DEADLINE, more).await.expect("the count of the others");
    assert!(said.contains("refused in the pod"), "{said}");
    let about = process.stderr().lines().filter(|line| line.starts_with(&prefix)).count();
    assert!(about <= 3, "{about} lines: {}", process.stderr());
    let alive = super::addresses(&process).into_iter().find(|address| address.port() != dead.port()).expect("another");
    assert_eq!(status(alive).await, Some(200));
}

#[tokio::test]
async fn what_is_waited_for_is_said() {
    let bench = Bench::start().await;
    bench.cluster.set_waiting("default", "web-1", "ImagePullBackOff", "Back-off pulling image \"example/web:9\"");
    let process = bench.spawn(&["svc/web", ":80"]);
    let line = process.line(DEADLINE, |line| line.contains("waiting for")).await.expect("what it waits for");
    assert!(line.starts_with("svc/web: waiting for ") && line.contains("example/"), "{line}");
    bench.cluster.set_running("default", "web-1", true);
    ready(&process).await;
    assert_eq!(status(address(&process)).await, Some(200));
}

#[tokio::test]
async fn labels_without_a_pod_are_doubted_and_the_end_of_the_wait_is_said() {
    let bench = Bench::start().await;
    let process = bench.spawn(&["-l", "app=wbe", ":8080"]);
    let line = process.line(DEADLINE, |line| line.contains("waiting")).await.expect("what it waits for");
    let reason = "app=wbe: waiting: no pod belongs to selector app=wbe; did you mean `app=web`?";
    assert_eq!(line, format!("{reason} (for up to 5 min; --pod-running-timeout)"));
}

#[tokio::test]
async fn a_port_that_no_container_declares_is_noted() {
    let bench = Bench::start().await;
    let process = bench.forward(&["pod/web-1", ":80"], 1).await;
    let noted = process.line(DEADLINE, |line| line.contains("no container declares port 80, only 8080 (http)"));
    noted.await.expect("the note");
}

#[tokio::test]
async fn the_time_out_says_what_was_waited_for() {
    let bench = Bench::start().await;
    bench.cluster.set_unschedulable("default", "web-1", "0/1 nodes are available: 1 Insufficient cpu.");
    let process = bench.spawn(&["svc/web", ":80", "--pod-running-timeout", "500ms"]);
    assert_eq!(process.exited(DEADLINE).await.expect("it ends").code(), Some(4), "{}", process.output());
    let said = process.stderr();
    assert!(said.contains("Insufficient cpu") && said.contains("hint: "), "{said}");
}

#[tokio::test]
async fn an_api_server_that_restarts_is_survived() {
    let bench = Bench::start().await;
    let process = bench.forward(&["svc/web", ":80"], 1).await;
    bench.cluster.faults().stop().await;
    bench.cluster.faults().restart();
    let address = address(&process);
    eventually(DEADLINE, "a request after the restart", || async { status(address).await.filter(|code| *code == 200) })
        .await;
    assert!(process.is_running(), "{}", process.output());
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test]
async fn a_resolver_that_does_not_answer_does_not_hold_up_the_end() {
    let bench = Bench::start().await;
    let mut command = bench.command(&["tcp://silent:80", "0"]);
    let names = SilentNames::new(bench.home.path(), &mut command);
    let process = Process::start(&mut command).expect("adit forward starts");
    ready(&process).await;
    let _client = TcpStream::connect(address(&process)).await.expect("the port");
    let _hangs = names.asked().await;
    process.signal(Signal::INT).expect("a signal");
    process.line(DEADLINE, |line| line.starts_with("finishing 1 connection")).await.expect("what is waited for");
    let begun = std::time::Instant::now();
    process.signal(Signal::INT).expect("another one");
    assert_eq!(process.exited(DEADLINE).await.expect("it ends").code(), Some(130));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
