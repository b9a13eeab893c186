//! How `adit top` and `adit monitor` end, and with which exit code.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use testkit::process::{self, Process, Signal};
use testkit::terminal::Terminal;

use super::{Monitor, value};
use crate::cli::home;
use crate::support::{DEADLINE, adit, eventually};

/// The program with these arguments, run by a shell as `script` says.
pub(super) fn by_shell(home: &Path, script: &str, arguments: &[&str]) -> Command {
    let program = adit(home).get_program().to_owned();
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(program).args(arguments).env("HOME", home).env_remove("SUDO_UID");
    command
}

#[test]
fn what_cannot_be_written_is_a_failure_that_says_why_and_ends_at_once() {
    if !Path::new("/dev/full").exists() {
        eprintln!("SKIPPED: there is no /dev/full here");
        return;
    }
    let home = home();
    for arguments in [
        &["top", "--once", "--interval", "100ms"][..],
        &["top", "--once", "-o", "json", "--interval", "100ms"],
        &["top", "-o", "json"],
        // Other commands write in the same way.
        &["config", "schema"],
        &["completions", "bash"],
        &["man"],
    ] {
        let mut command = by_shell(home.path(), r#"exec "$0" "$@" >/dev/full"#, arguments);
        let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it does not go on for ever");
        let text = said.stderr();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains("standard output cannot be written to: No space left"), "{arguments:?}: {text}");
    }
}

#[test]
fn a_reader_who_has_enough_is_no_failure() {
    let home = home();
    let script = r#"{ "$0" "$@"; echo "code $?" >&2; } | head -n 1"#;
    for arguments in [&["top", "-o", "json", "--interval", "100ms"][..], &["top", "--once", "--interval", "100ms"]] {
        let mut command = by_shell(home.path(), script, arguments);
        let (_, said) = process::run(&mut command, b"", DEADLINE).expect("it ends when nobody reads any more");
        assert!(said.stderr().ends_with("code 0\n") && !said.stderr().contains("error"), "{}", said.stderr());
        assert_eq!(said.stdout().lines().count(), 1);
    }
}

/// Programs and maps of the kernel that a process has a descriptor of.
fn held_in_the_kernel(pid: u32) -> (HashSet<u32>, HashSet<u32>) {
    let facts = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors").flatten();
    let facts: Vec<String> = facts.filter_map(|one| std::fs::read_to_string(one.path()).ok()).collect();
    let numbers = |key: &str| {
        let lines = facts.iter().flat_map(|facts| facts.lines());
        lines.filter_map(|line| line.strip_prefix(key)?.trim().parse().ok()).collect()
    };
    (numbers("prog_id:"), numbers("map_id:"))
}

/// Those of them that the kernel still has.
fn left_in_the_kernel((programs, maps): &(HashSet<u32>, HashSet<u32>)) -> (usize, usize) {
    let programs = aya::programs::loaded_programs().flatten().filter(|one| programs.contains(&one.id())).count();
    (programs, aya::maps::loaded_maps().flatten().filter(|one| maps.contains(&one.id())).count())
}

#[tokio::test]
async fn a_monitor_that_is_told_to_end_leaves_nothing_in_the_kernel() {
    let home = home();
    // Of a hangup it ends by the signal, as its documentation says.
    for (signal, code) in [(Signal::INT, Some(0)), (Signal::TERM, Some(0)), (Signal::HUP, None), (Signal::KILL, None)] {
        let monitor = Monitor::start(home.path(), &[]);
        if !monitor.sees_all().await {
            eprintln!("SKIPPED: programs in the kernel are not permitted here");
            return;
        }
        let held = held_in_the_kernel(monitor.process.pid());
        let before = left_in_the_kernel(&held);
        assert!(before.0 >= 2 && before.1 >= 3 && before == (held.0.len(), held.1.len()), "{before:?} of {held:?}");
        monitor.process.signal(signal).unwrap();
        assert_eq!(monitor.process.wait(DEADLINE).expect("it ends").code(), code, "{signal:?}");
        // The kernel frees them a moment after their last descriptor is gone.
        let gone = || async { Some(()).filter(|()| left_in_the_kernel(&held) == (0, 0)) };
        eventually(DEADLINE, "nothing left in the kernel", gone).await;
    }
}

#[tokio::test]
async fn who_asks_while_it_ends_hears_that_it_is_not_ready_and_a_scrape_is_whole() {
    let home = home();
    let monitor = Monitor::start(home.path(), &[]);
    let ready = || async { (monitor.get("/readiness").await.0 == 200).then_some(()) };
    eventually(DEADLINE, "ready", ready).await;
    let begun = [(monitor.health, "/readiness"), (monitor.metrics, "/metrics")].map(|(address, path)| {
        let mut asks = TcpStream::connect(address).unwrap();
        asks.set_read_timeout(Some(DEADLINE)).unwrap();
        asks.write_all(format!("GET {path} HTTP/1.1\r\nHost: loc").as_bytes()).unwrap();
        asks
    });
    // They are read by then: who asks after them has his answer.
    monitor.metrics().await;
    monitor.get("/readiness").await;
    monitor.process.terminate().unwrap();
    let is_closed = || async { Some(()).filter(|()| TcpStream::connect(monitor.health).is_err()) };
    eventually(DEADLINE, "nobody new is taken", is_closed).await;
    let [ready, metrics] = begun.map(|mut asks| {
        asks.write_all(b"alhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("Not ready"), "{ready}");
    assert!(metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("adit_monitor_info"), "{metrics}");
    assert_eq!(monitor.process.wait(DEADLINE).expect("it ends").code(), Some(0));
}

#[tokio::test]
async fn two_monitors_on_one_machine_see_the_same_and_each_says_in_its_log_how() {
    let home = home();
    let monitors = [(); 2].map(|()| Monitor::start(home.path(), &[]));
    if !monitors[0].sees_all().await {
        eprintln!("SKIPPED: programs in the kernel are not permitted here");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("IO::Socket::INET->new('127.0.0.1:{port}') for 1..20");
    let client = Process::start(Command::new("perl").args(["-MIO::Socket::INET", "-e", &script])).expect("perl");
    let pid = client.pid();
    let accepted: Vec<_> = (0..20).map(|_| listener.accept().unwrap()).collect();
    assert!(client.wait(DEADLINE).expect("it ends").success());
    drop(accepted);
    for monitor in &monitors {
        let series = format!("tcp_connects_by_pid{{pid=\"{pid}\",comm=\"perl\"}}");
        let counted = || async { value(&monitor.metrics().await, &series).filter(|count| *count >= 20) };
        assert_eq!(eventually(DEADLINE, "both count", counted).await, 20);
        let log = monitor.process.output();
        assert!(log.lines().any(|line| line.contains("attached: ") && line.contains("purpose=\"state\"")), "{log}");
    }
}

#[tokio::test]
async fn an_interrupt_is_told_by_top_and_is_a_plain_stop_for_the_monitor() {
    let home = home();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 0)] {
        let mut command = adit(home.path());
        let process = Process::start(command.args(["top", "-o", "json"])).expect("it starts");
        process.wait_line(DEADLINE, |line| line.contains("\"started\"")).expect("it says how it sees");
        process.signal(signal).unwrap();
        assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(code), "{}", process.stderr());
        let monitor = Monitor::start(home.path(), &[]);
        monitor.process.signal(signal).unwrap();
        assert_eq!(monitor.process.wait(DEADLINE).expect("it ends").code(), Some(0), "as a server");
    }
    for (key, code) in [("q", 0), ("\x03", 130)] {
        let terminal = Terminal::open(80, 24).expect("a terminal");
        let mut program = terminal.run(adit(home.path()).args(["top", "--interval", "100ms"])).expect("it runs");
        let begun = || async { Some(()).filter(|()| terminal.screen().text().contains("COMMAND")) };
        eventually(DEADLINE, "the screen", begun).await;
        terminal.type_text(key).unwrap();
        let program = std::sync::Mutex::new(&mut program);
        let end = || async { program.lock().expect("no panic").ended().expect("the system says") };
        assert_eq!(eventually(DEADLINE, "its end", end).await.code(), Some(code));
        assert!(!terminal.screen().alternate);
    }
}
