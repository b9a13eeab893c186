//! Bad days of a daemon: much at once, changes at the wrong moment, signals when they are least wanted.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use testkit::cluster::{Cluster, ClusterOptions};

use super::life::signal;
use super::support::{Place, get, is_alive};
use crate::support::{DEADLINE, SOON, eventually, pipe};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_forwards_start_at_once_and_end_at_once() {
    let place = Place::new().await;
    let forwards: String = (0..200).map(|at| place.forward(&format!("f{at:03}"), 0, ", start: always")).collect();
    place.write(&format!("forwards:\n{forwards}"));
    place.start();
    let running = || async { (place.json(&["status"])["summary"]["running"] == 200).then_some(()) };
    eventually(DEADLINE, "all of them run", running).await;
    assert_eq!(get(place.entrance("f000")).await, Some(200));
    assert_eq!(get(place.entrance("f199")).await, Some(200));
    place.ok(&["restart", "--all"]);
    assert_eq!(get(place.entrance("f199")).await, Some(200));
    let ended = place.json(&["daemon", "stop"]);
    assert!(ended["took_ms"].as_u64() < Some(5000), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_during_the_start_is_in_force_in_the_end() {
    let place = Place::new().await;
    for round in 0..5 {
        place.write(&format!("forwards:\n{}", place.forward("before", 0, "")));
        let mut start = place.command(&["daemon", "start"]).stdout(Stdio::null()).spawn().unwrap();
        // Somewhere in the start; where, differs from round to round.
        let until = std::time::Instant::now() + std::time::Duration::from_millis(12 * round);
        while std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        let (next, file) = (place.home.path().join("next.yaml"), place.home.path().join("adit.yaml"));
        std::fs::write(&next, format!("version: 1\nforwards:\n{}", place.forward("after", 0, ""))).unwrap();
        // Whole or not at all: a start that finds an empty file is refused.
        std::fs::rename(&next, &file).unwrap();
        assert!(start.wait().unwrap().success());
        let new = || async {
            let services = place.json(&["status"])["services"].to_string();
            (services.contains("\"after\"") && !services.contains("\"before\"")).then_some(())
        };
        eventually(DEADLINE, "the new file is in force", new).await;
        place.ok(&["daemon", "stop"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_is_removed_while_it_starts() {
    let place = Place::new().await;
    // It accepts and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let web = place.forward("web", 0, ", start: always");
    let slow = format!("  slow: {{ to: \"ssh://x@127.0.0.1:{port}/db:5432\", listen: 0, start: always }}\n");
    place.write(&format!("forwards:\n{web}{slow}"));
    place.start();
    assert_eq!(place.status("slow")["status"], "starting");
    let entrance = place.entrance("slow");
    place.write(&format!("forwards:\n{web}"));
    place.ok(&["daemon", "reload"]);
    assert_eq!(place.json(&["status"])["summary"]["total"], 1);
    let closed = || async { TcpStream::connect(entrance).is_err().then_some(()) };
    eventually(DEADLINE, "its port is closed", closed).await;
    assert_eq!(get(place.entrance("web")).await, Some(200));
    let ended = place.json(&["daemon", "stop"]);
    assert!(ended["took_ms"].as_u64() < Some(5000), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_at_any_moment_of_the_start_ends_it_and_leaves_nothing_in_the_way() {
    let place = Place::new().await;
    // It accepts and never says a word: what leads there is still starting when the signal comes.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let slow = format!("  slow: {{ to: \"ssh://x@127.0.0.1:{port}/db:5432\", listen: 0, start: always }}\n");
    place.write(&format!("forwards:\n{}{slow}", place.forward("web", 0, ", start: always")));
    for round in 0..12 {
        let mut daemon = place
            .command(&["daemon", "start", "--foreground"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_millis(8 * round);
        while std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        signal(daemon.id(), if round % 2 == 0 { Signal::TERM } else { Signal::INT });
        let pid = daemon.id();
        let ended = || async { (!is_alive(pid)).then_some(()) };
        eventually(DEADLINE, "it ends", ended).await;
        daemon.wait().unwrap();
    }
    place.start();
    assert_eq!(get(place.entrance("web")).await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_mean_something_else_do_not_disturb_an_end() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let mut daemon = place.command(&["daemon", "start", "--foreground"]).spawn().unwrap();
    let ready = || async { place.run(&["status"]).status.success().then_some(()) };
    eventually(DEADLINE, "it answers", ready).await;
    let mut live = TcpStream::connect(place.entrance("web")).unwrap();
    let connected = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "one stream", connected).await;
    signal(daemon.id(), Signal::TERM);
    place.logged("\"event\":\"stopping\"").await;
    for other in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::PIPE, Signal::HUP] {
        signal(daemon.id(), other);
    }
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    live.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(live);
    assert_eq!(daemon.wait().unwrap().code(), Some(0), "what was live has finished");
}

/// A daemon in the foreground whose phases take an hour, with a task in it that nothing ends: it reads a log that is a pipe,
/// into which nobody writes.
async fn stuck(place: &Place, drain: &str) -> (Stuck, UnixStream) {
    let shutdown = format!("{{ drain: {drain}, cancel: 1h, abort: 1h }}");
    place.write(&format!("daemon: {{ shutdown: {shutdown} }}\nforwards:\n{}", place.forward("web", 0, "")));
    let logs = place.home.path().join("state/adit/logs/forwards");
    std::fs::create_dir_all(&logs).expect("a directory");
    pipe(&logs.join("web.log"));
    let daemon = Stuck(place.command(&["daemon", "start", "--foreground"]).spawn().expect("it starts"));
    let ready = || async { place.run(&["status"]).status.success().then_some(()) };
    eventually(DEADLINE, "it answers", ready).await;
    let mut reader = UnixStream::connect(place.socket()).expect("the socket");
    reader.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    reader.write_all(b"GET /v1/logs?name=web HTTP/1.1\r\nHost: adit\r\n\r\n").expect("it is sent");
    reader.read_exact(&mut [0; 12]).expect("an answer");
    (daemon, reader)
}

/// A process that nobody waits an hour for, should its test fail.
struct Stuck(Child);

impl Drop for Stuck {
    fn drop(&mut self) {
        // It has ended, most times.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The exit code of a daemon that ends now.
async fn ends_at_once(daemon: &mut Stuck) -> Option<i32> {
    let ended = std::cell::RefCell::new(&mut daemon.0);
    let ended = || async { ended.borrow_mut().try_wait().expect("a child") };
    eventually(SOON, "it ends at once", ended).await.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_signal_ends_it_at_once_whatever_is_left() {
    let place = Place::new().await;
    let (mut daemon, _reader) = stuck(&place, "1h").await;
    signal(daemon.0.id(), Signal::TERM);
    place.logged("\"event\":\"stopping\"").await;
    signal(daemon.0.id(), Signal::TERM);
    place.logged("not finished in time, cancelling: 1 × log read").await;
    assert!(daemon.0.try_wait().unwrap().is_none(), "it waits for what it has dropped");
    signal(daemon.0.id(), Signal::TERM);
    assert_eq!(ends_at_once(&mut daemon).await, Some(6), "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_cancelling_and_another_one_the_rest() {
    let place = Place::new().await;
    let (mut daemon, _reader) = stuck(&place, "100ms").await;
    let mut stop = place.command(&["daemon", "stop"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let phase = |phase: &'static str| {
        let place = &place;
        move || async move { (place.json(&["daemon", "status"])["daemon"]["ending"]["phase"] == phase).then_some(()) }
    };
    eventually(DEADLINE, "the drain has its time", phase("cancelling")).await;
    signal(daemon.0.id(), Signal::TERM);
    eventually(DEADLINE, "a signal ends the cancelling", phase("aborting")).await;
    signal(daemon.0.id(), Signal::TERM);
    assert_eq!(ends_at_once(&mut daemon).await, Some(6), "{}", place.log());
    stop.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_frozen_for_a_while_answers_afterwards() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let pid = place.start();
    let port = place.entrance("web");
    signal(pid, Signal::STOP);
    let status = place.command(&["status"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut waiting = TcpStream::connect(port).expect("the system takes it");
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let (code, text) = place.fails(&["daemon", "start"]);
    assert!(code == 2 && text.contains(&format!("pid {pid}")), "it is there: {text}");
    signal(pid, Signal::CONT);
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(status.wait_with_output().unwrap().status.success());
    assert!(is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_runtime_directory_was_removed_is_found_again() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    let port = place.entrance("web");
    let found = || async {
        let output = place.run(&["-o", "json", "daemon", "status"]);
        output.status.success().then_some(())
    };
    std::fs::remove_dir_all(place.socket().parent().unwrap()).unwrap();
    eventually(DEADLINE, "it makes lock and socket anew", found).await;
    assert_eq!(place.json(&["daemon", "status"])["daemon"]["pid"], pid);
    let (code, text) = place.fails(&["daemon", "start"]);
    assert!(code == 2 && text.contains(&format!("pid {pid}")), "the new lock keeps others away: {text}");
    std::fs::remove_file(place.socket()).unwrap();
    signal(pid, Signal::HUP);
    eventually(DEADLINE, "a signal has it look at once", found).await;
    place.ok(&["daemon", "restart"]);
    assert_eq!(get(port).await, Some(200));
    place.ok(&["daemon", "stop"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_stopped_is_told_and_how_to_end_it() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    signal(pid, Signal::STOP);
    for arguments in [&["status"][..], &["daemon", "stop"]] {
        let (code, text) = place.fails(arguments);
        assert!(
            code == 1 && text.contains(&format!("the daemon (pid {pid}) does not answer")),
            "{arguments:?}: {text}"
        );
        assert!(text.contains(&format!("kill -9 {pid}")), "{text}");
    }
    signal(pid, Signal::KILL);
    let gone = || async { (!is_alive(pid)).then_some(()) };
    eventually(DEADLINE, "it ends", gone).await;
    assert_ne!(place.start(), pid, "it was as good as its word");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_off_removes_nothing_unless_it_stays_so() {
    let place = Place::new().await;
    let all: Vec<String> = ["a", "b", "c", "d"].map(|name| place.forward(name, 0, "")).to_vec();
    place.write(&format!("forwards:\n{}", all.concat()));
    let pid = place.start();
    let (kept, gone) = (place.entrance("a"), place.entrance("d"));
    // Half of it, and a moment later the rest, with something new; a signal that asks for it waits, too.
    place.write(&format!("forwards:\n{}", all[0]));
    place.logged("\"event\":\"reload-waits\"").await;
    signal(pid, Signal::HUP);
    place.write(&format!("forwards:\n{}{}", all.concat(), place.forward("new", 0, "")));
    place.logged("reloaded: added forward new").await;
    assert_eq!((place.entrance("a"), place.entrance("d")), (kept, gone));
    assert!(!place.log().contains("removed forward"), "{}", place.log());
    // This time it stays so.
    let begun = std::time::Instant::now();
    place.write(&format!("forwards:\n{}", all[0]));
    place.logged("most is gone from the file: 4 of 5").await;
    assert!(begun.elapsed() >= std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!((place.json(&["status"])["summary"]["total"].as_u64(), place.entrance("a")), (Some(1), kept));
    assert_eq!(place.log().matches("\"event\":\"reload-waits\"").count(), 2, "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_made_in_a_cluster_is_removed_at_its_end() {
    let place = Place::new().await;
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let host = format!("db.internal:{}", place.origin.addr().port());
    cluster.set_host("default", "adit-jump", &host, place.origin.addr());
    let kubeconfig = place.home.path().join("kubeconfig");
    cluster.write_kubeconfig(&kubeconfig);
    let to = format!(
        "jump: {{ namespace: default, via: {{ pod: adit-jump, create: {{ image: \"alpine/socat\" }} }}, \
         host: db.internal, port: {} }}",
        place.origin.addr().port()
    );
    place.write(&format!(
        "kubernetes: {{ kubeconfig: {} }}\nforwards:\n  db: {{ to: {{ {to} }}, listen: 0 }}\n",
        kubeconfig.display()
    ));
    place.start();
    let port = place.entrance("db");
    let served = || async { (get(port).await == Some(200)).then_some(()) };
    eventually(DEADLINE, "a pod is made and jumped through", served).await;
    let labels = cluster.get("Pod", "default", "adit-jump").expect("it is there")["metadata"]["labels"].clone();
    assert_eq!(labels["app.kubernetes.io/managed-by"], "adit");
    let said = place.ok(&["daemon", "stop"]);
    assert!(!said.contains("cut off"), "{said}");
    let asked = cluster.count_requests("DELETE /api/v1/namespaces/default/pods/adit-jump");
    assert_eq!(asked, 1, "before the daemon has ended: {:?}", cluster.requests());
    let gone = || async { cluster.get("Pod", "default", "adit-jump").is_none().then_some(()) };
    eventually(DEADLINE, "the pod is gone", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_stops_no_other_forward_and_is_had_when_it_is_free() {
    let place = Place::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let both = format!("{}{}", place.forward("a", 0, ""), place.forward("b", address.port(), ""));
    place.write(&format!("forwards:\n{both}"));
    let text = place.ok(&["daemon", "start"]);
    assert!(text.contains("1 failed: see `adit status`"), "{text}");
    assert_eq!(get(place.entrance("a")).await, Some(200));
    let status = place.status("b");
    let reason = status["reason"].as_str().unwrap_or_default();
    assert!(status["status"] == "failed" && reason.contains("is taken by"), "{status}");
    place.write(&format!("forwards:\n{both}{}", place.forward("c", 0, "")));
    place.ok(&["daemon", "reload"]);
    place.ok(&["daemon", "restart"]);
    drop(taken);
    let open = || async { get(address).await };
    assert_eq!(eventually(DEADLINE, "it is tried again", open).await, 200);
    // It listens a moment before that is told.
    let told = || async { (place.json(&["status"])["summary"]["failed"] == 0).then_some(()) };
    eventually(DEADLINE, "it has not failed any more", told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_reload_could_not_have_is_had_when_it_is_free() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    place.write(&format!("forwards:\n{}{}", place.forward("web", 0, ""), place.forward("db", port, "")));
    place.logged("\"event\":\"reload-failed\"").await;
    assert!(place.ok(&["status"]).contains("the file is not in force"));
    drop(taken);
    place.logged("\"event\":\"reloaded\"").await;
    assert_eq!(place.entrance("db").port(), port);
    assert!(!place.ok(&["status"]).contains("the file is not in force"));
    assert_eq!(place.log().matches("\"event\":\"reload-failed\"").count(), 1, "it is told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_that_finds_its_ports_with_another_one_names_it_and_gives_way() {
    let (place, other) = (Place::new().await, Place::new().await);
    let port = testkit::process::free_port().unwrap();
    place.write(&format!("forwards:\n{}", place.forward("a", port, "")));
    let pid = place.start();
    other.write(&format!("forwards:\n{}", other.forward("a", port, "")));
    let (code, text) = other.fails(&["daemon", "start"]);
    assert!(code == 2 && text.contains(&format!("(pid {pid})")) && text.contains(&format!("kill {pid}")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_ends_names_what_it_cut() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    let mut live = TcpStream::connect(place.entrance("web")).unwrap();
    // A request that is never whole keeps its connection.
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    let connected = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "one stream", connected).await;
    signal(pid, Signal::TERM);
    place.logged("\"event\":\"stopping\"").await;
    // A second one cancels what is live.
    signal(pid, Signal::TERM);
    place.logged("web (1 live)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_end_cuts_is_a_reset_and_whoever_asked_for_the_end_is_told() {
    let place = Place::new().await;
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = service.local_addr().unwrap();
    place.write(&format!(
        "daemon: {{ shutdown: {{ drain: 300ms, cancel: 3s }} }}\nforwards: {{ web: {{ to: \"tcp://{to}\", listen: 0 }} }}\n"
    ));
    place.start();
    let mut live = TcpStream::connect(place.entrance("web")).unwrap();
    let (mut served, _) = service.accept().unwrap();
    served.write_all(b"half of it").unwrap();
    live.read_exact(&mut [0; 10]).unwrap();
    let said = place.ok(&["daemon", "stop"]);
    assert_eq!(said, "the daemon has ended; cut off: web (1 live)\n");
    for end in [&mut live, &mut served] {
        end.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(end.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_lines_of_the_log_and_nothing_else() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let logs = place.home.path().join("state/adit/logs");
    std::fs::create_dir_all(&logs).unwrap();
    // Every write to it says that no space is left.
    std::os::unix::fs::symlink("/dev/full", logs.join("daemon.log")).unwrap();
    std::os::unix::fs::symlink("/dev/full", logs.join("audit.log")).unwrap();
    place.start();
    assert_eq!(get(place.entrance("web")).await, Some(200));
    place.ok(&["restart", "web"]);
    place.write(&format!("forwards:\n{}{}", place.forward("web", 0, ""), place.forward("more", 0, "")));
    place.ok(&["daemon", "reload"]);
    assert_eq!(get(place.entrance("more")).await, Some(200));
    let lost = place.json(&["daemon", "status"])["daemon"]["lost_log_entries"].as_u64().unwrap();
    assert!(lost >= 2, "{lost}");
    assert!(place.ok(&["status", "--metrics"]).contains("adit_daemon_log_entries_lost_total "));
    // There is space again.
    std::fs::remove_file(logs.join("daemon.log")).unwrap();
    std::fs::remove_file(logs.join("audit.log")).unwrap();
    place.ok(&["restart", "web"]);
    place.logged("entries of this log were lost").await;
    assert_eq!(get(place.entrance("web")).await, Some(200));
}
