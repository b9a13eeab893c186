//! A new process in the place of the old one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::Signal;
use testkit::sshd::Sshd;

use super::life::signal;
use super::support::{Place, get, is_alive};
use crate::support::{DEADLINE, SOON, eventually, pipe};

/// Requests, one after another, until `stop`; how many, and how many failed.
fn hammer(port: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(u32, u32)> {
    let failed = AtomicU32::new(0);
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let request = || -> std::io::Result<bool> {
                let mut stream = TcpStream::connect(port)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer)?;
                Ok(answer.starts_with(b"HTTP/1.1 200"))
            };
            if !request().unwrap_or(false) {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        (count, failed.into_inner())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_and_no_connection_is_refused() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let first = place.start();
    let port = place.entrance("web");
    let mut live = TcpStream::connect(port).unwrap();
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let hammering: Vec<_> = (0..4).map(|_| hammer(port, Arc::clone(&stop))).collect();
    for _ in 0..3 {
        place.ok(&["daemon", "restart"]);
    }
    stop.store(true, Ordering::Relaxed);
    for thread in hammering {
        let (count, failed) = thread.join().unwrap();
        assert!(count > 0);
        assert_eq!(failed, 0, "of {count}");
    }
    let second = place.json(&["daemon", "status"])["daemon"]["pid"].as_u64().unwrap();
    assert_ne!(u64::from(first), second);
    assert_eq!(place.entrance("web"), port, "the same socket, though the file says any free port");
    // The first process stays for what it carries.
    assert!(is_alive(first));
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    live.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(live);
    let gone = || async { (!is_alive(first)).then_some(()) };
    eventually(DEADLINE, "the first process ends", gone).await;
    let (_, text) = place.fails(&["daemon", "start"]);
    assert!(text.contains(&format!("pid {second}")), "the lock went along: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_start_changes_nothing() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", start: always");
    place.write(&format!("forwards:\n{web}"));
    let first = place.start();
    let port = place.entrance("web");
    place.write("forwards: { broken\n");
    let (_, text) = place.fails(&["daemon", "restart"]);
    assert!(text.contains("did not start") && !text.contains("\"error\""), "in words: {text}");
    assert!(text.contains("adit.yaml:2:"), "where the mistake is: {text}");
    assert!(is_alive(first));
    let (_, text) = place.fails(&["daemon", "start"]);
    assert!(text.contains(&format!("pid {first}")), "the lock names who lives: {text}");
    assert_eq!(get(port).await, Some(200));
    place.write(&format!("forwards:\n{web}"));
    place.ok(&["daemon", "restart"]);
    assert_eq!(get(port).await, Some(200));
}

/// Runs commands at the same time; what each of them said and whether it succeeded.
fn at_once(place: &Place, commands: &[&[&str]]) -> Vec<(bool, String)> {
    let begun: Vec<_> = commands
        .iter()
        .map(|arguments| {
            let mut command = place.command(arguments);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
        })
        .collect();
    let said = |output: std::process::Output| {
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    begun.into_iter().map(|child| said(child.wait_with_output().expect("it ends"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_restarts_at_the_same_time_one_daemon_comes_and_nobody_is_left_over() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    place.start();
    let port = place.entrance("web");
    let said = at_once(&place, &[&["daemon", "restart"][..]; 4]);
    assert!(said.iter().any(|(well, _)| *well), "{said:?}");
    for (_, text) in said.iter().filter(|(well, _)| !well) {
        assert!(text.contains("another process is taking over already"), "{text}");
    }
    let one = || async { (place.daemons().len() == 1).then_some(()) };
    eventually(DEADLINE, "one daemon is left", one).await;
    let pid = place.json(&["daemon", "status"])["daemon"]["pid"].as_u64().unwrap();
    assert_eq!(place.daemons(), [u32::try_from(pid).unwrap()]);
    assert_eq!(get(port).await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_told_to_end_while_it_is_replaced_leaves_no_successor() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    for _ in 0..5 {
        // The socket's last daemon may hold the lock a moment longer.
        let started = || async { place.run(&["daemon", "start"]).status.success().then_some(()) };
        eventually(DEADLINE, "a daemon starts", started).await;
        let said = at_once(&place, &[&["daemon", "restart"][..], &["daemon", "stop"]]);
        assert!(said[1].0, "{said:?}");
        let none = || async { place.daemons().is_empty().then_some(()) };
        eventually(DEADLINE, &format!("nobody is left: {said:?}"), none).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_outlasts_a_restart_for_longer_than_an_end_would_wait() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let first = place.start();
    let mut live = TcpStream::connect(place.entrance("web")).unwrap();
    place.ok(&["daemon", "restart"]);
    // Longer than the phases of an end leave to what is live.
    live.set_read_timeout(Some(std::time::Duration::from_secs(11))).unwrap();
    let nothing = live.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(nothing, Err(std::io::ErrorKind::WouldBlock), "it is not cut off: {}", place.log());
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    live.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(live);
    let gone = || async { (!is_alive(first)).then_some(()) };
    eventually(DEADLINE, "the first process ends", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_slow_target_reaches_it_though_another_process_takes_over() {
    let place = Place::new().await;
    let cluster = testkit::cluster::Cluster::start(testkit::cluster::ClusterOptions::default()).await;
    cluster.add_service("default", "web", &[("app", "web")], &[testkit::cluster::ServicePort::new(80).to(8080)]);
    let pod = testkit::cluster::PodSpec::new("default", "web-1").label("app", "web").port("http", 8080);
    cluster.add_pod(pod.backend(8080, place.origin.addr()));
    let kubeconfig = place.home.path().join("kubeconfig");
    cluster.write_kubeconfig(&kubeconfig);
    place.write(&format!(
        "kubernetes: {{ kubeconfig: {} }}\nforwards:\n  web: {{ to: \"k8s:///default/service/web:80\", listen: 0 }}\n",
        kubeconfig.display()
    ));
    place.start();
    // Longer than the moment for those who only have to be passed on.
    cluster.faults().api_delay(std::time::Duration::from_millis(1200));
    let mut waits = TcpStream::connect(place.entrance("web")).unwrap();
    waits.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let accepted = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "it is waited for", accepted).await;
    place.ok(&["daemon", "restart"]);
    waits.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    waits.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{error}: {}", place.log()));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_before_still_carries_is_told_by_its_successor() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let before = place.start();
    let mut live = TcpStream::connect(place.entrance("web")).unwrap();
    std::io::Write::write_all(&mut live, b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    let connected = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "one stream", connected).await;
    place.ok(&["stop", "web"]);
    place.ok(&["daemon", "restart"]);
    let told = format!("the process before (pid {before}) still carries: web (1 live)");
    let says = || async { place.ok(&["daemon", "status"]).contains(&told).then_some(()) };
    eventually(DEADLINE, "what goes on is told", says).await;
    assert!(place.ok(&["status"]).contains(&told));
    drop(live);
    let silent = || async { (!place.ok(&["status"]).contains("the process before")).then_some(()) };
    eventually(DEADLINE, "its end", silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_while_another_process_takes_over_is_not_lost() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let first = place.start();
    // The successor reads the wishes from here, and waits until somebody writes them.
    let (wishes, held) = (place.home.path().join("state/adit/desired.json"), place.home.path().join("held"));
    pipe(&held);
    std::fs::hard_link(&held, &wishes).unwrap();
    let restart = place.command(&["daemon", "restart"]).stdout(Stdio::piped()).spawn().unwrap();
    let written = || async {
        // It is opened only when there is a reader.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        std::fs::OpenOptions::new().write(true).custom_flags(flags).open(&held).ok()
    };
    let mut written = eventually(DEADLINE, "the successor reads the wishes", written).await;
    let mut stop = place.command(&["stop", "web"]).stdout(Stdio::null()).spawn().unwrap();
    let mut asked = std::os::unix::net::UnixStream::connect(place.socket()).unwrap();
    asked.set_read_timeout(Some(DEADLINE)).unwrap();
    asked.write_all(b"POST /v1/forwards/web/stop HTTP/1.1\r\nHost: adit\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    asked.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert!(stop.try_wait().unwrap().is_none(), "it goes on to ask");
    assert_eq!(place.json(&["status"])["daemon"]["pid"], first, "questions are answered");
    written.write_all(b"{ \"version\": 1, \"configs\": {} }").unwrap();
    drop(written);
    assert!(stop.wait().unwrap().success());
    assert!(restart.wait_with_output().unwrap().status.success());
    assert_ne!(place.json(&["status"])["daemon"]["pid"], first);
    assert_eq!(place.status("web")["status"], "stopped");
    assert!(std::fs::read_to_string(wishes).unwrap().contains("\"stopped\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_another_file_is_refused() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let pid = place.start();
    let (code, text) = place.fails(&["daemon", "restart", "--config", "other.yaml"]);
    assert!(code == 2 && text.contains("adit daemon start --config other.yaml"), "{text}");
    assert_eq!(place.json(&["daemon", "status"])["daemon"]["pid"], pid);
    assert!(place.ok(&["daemon", "restart", "--config", "adit.yaml"]).contains("the environment of the one before"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_process_that_was_replaced_as_it_ends_any_other() {
    let (place, sshd) = (Place::new().await, Sshd::start(&[]).await);
    let probe = ", start: always, health: { type: tcp, interval: 1s, timeout: 300ms, fall: 100 }";
    place.write(&format!("forwards:\n{}", place.ssh_forward("web", &sshd, probe)));
    let first = place.start();
    let healthy = || async { (place.status("web")["is_healthy"] == true).then_some(()) };
    eventually(DEADLINE, "it is well", healthy).await;
    // What probes have asked for is to be closed, which such a server does not do; it may have been slow as well.
    sshd.freeze();
    let fails = || async { (place.status("web")["health"]["failures"].as_u64()? > 0).then_some(()) };
    eventually(DEADLINE, "a probe has failed", fails).await;
    place.ok(&["daemon", "restart"]);
    place.logged("another process has taken over").await;
    assert!(is_alive(first), "it has its time: {}", place.log());
    signal(first, Signal::TERM);
    let gone = || async { (!is_alive(first)).then_some(()) };
    eventually(SOON, "it ends as nobody waits for longer", gone).await;
    place.logged("what a process that was replaced still carries ends").await;
    sshd.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_predecessor_lingers_the_daemon_is_stopped_and_another_one_started() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let first = place.start();
    let mut live = TcpStream::connect(place.entrance("web")).unwrap();
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    place.ok(&["daemon", "restart"]);
    let begun = std::time::Instant::now();
    let second = place.json(&["daemon", "stop"])["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(second != first && !is_alive(second));
    assert!(is_alive(first), "it stays for what it carries");
    let (_, text) = place.fails(&["status"]);
    assert!(text.contains("no daemon runs"), "{text}");
    let third = place.start();
    assert_eq!(get(place.entrance("web")).await, Some(200));
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    live.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(live);
    let gone = || async { (!is_alive(first)).then_some(()) };
    eventually(DEADLINE, "the first process ends", gone).await;
    assert_eq!(place.json(&["daemon", "status"])["daemon"]["pid"], third);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_daemon_that_is_taken_out_of_the_file_is_closed_though_a_predecessor_lingers() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", start: always");
    place.write(&format!("forwards:\n{web}daemon: {{ listen: 0 }}\n"));
    let first = place.start();
    let live = TcpStream::connect(place.entrance("web")).unwrap();
    place.ok(&["daemon", "restart"]);
    let api = place.json(&["daemon", "status"])["daemon"]["ports"]["api"]["address"].clone();
    let api: SocketAddr = api.as_str().unwrap().parse().unwrap();
    assert!(TcpStream::connect(api).is_ok());
    // It has connected whom it accepted last, and only carries from here on.
    place.logged("another process has taken over").await;
    place.write(&format!("forwards:\n{web}"));
    place.ok(&["daemon", "reload"]);
    let closed = || async { TcpStream::connect(api).is_err().then_some(()) };
    eventually(DEADLINE, "nobody listens there", closed).await;
    assert!(is_alive(first), "it stays for what it carries");
    drop(live);
}
