//! `-- CMD`: runs while the ports are open.

use std::time::{Duration, Instant};

use testkit::process::{self, Process, Signal};

use super::Bench;
use crate::support::DEADLINE;

fn run(bench: &Bench, script: &str) -> (Option<i32>, Process) {
    let mut command = bench.command(&["svc/web", ":80", "--", "sh", "-c", script]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
    (status.code(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_has_its_ports_and_stdout_for_itself_and_its_exit_code_is_ours() {
    let bench = Bench::start().await;
    let script = "test -n \"$ADIT_PORT\" && test $ADIT_PORT = $ADIT_PORT_80 && echo $ADIT_ADDRESS && exit 7";
    let (code, said) = run(&bench, script);
    assert_eq!(code, Some(7), "{}", said.output());
    assert!(said.stdout().starts_with("127.0.0.1:") && said.stdout().lines().count() == 1, "{}", said.stdout());
    assert!(said.stderr().contains("Forwarding from 127.0.0.1:"), "{}", said.stderr());
    assert_eq!(run(&bench, "true").0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_may_leave_connections_behind() {
    let bench = Bench::start().await;
    let start = Instant::now();
    let script = "exec 3<>/dev/tcp/127.0.0.1/$ADIT_PORT; (sleep 5 </dev/null >/dev/null 2>&1 &) ; exit 0";
    let mut command = bench.command(&["svc/web", ":80", "--", "bash", "-c", script]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", said.output());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn signals_are_passed_on() {
    let bench = Bench::start().await;
    for (signal, code) in [(Signal::TERM, 11), (Signal::INT, 12), (Signal::HUP, 13)] {
        let script =
            "trap 'exit 11' TERM; trap 'exit 12' INT; trap 'exit 13' HUP; echo up; while :; do sleep 0.02; done";
        let process = bench.spawn(&["svc/web", ":80", "--", "sh", "-c", script]);
        process.line(DEADLINE, |line| line == "up").await.expect("the command runs");
        process.signal(signal).expect("a signal");
        assert_eq!(process.exited(DEADLINE).await.expect("it ends").code(), Some(code), "{}", process.output());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_not_there_is_said() {
    let bench = Bench::start().await;
    let mut command = bench.command(&["svc/web", ":80", "--", "/nowhere/x"]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(2));
    assert!(said.stderr().contains("error: cannot run /nowhere/x"), "{}", said.stderr());
}
