//! `-o json`: one event a line.

use std::process::Stdio;

use serde_json::Value;
use testkit::process::{Process, Signal};

use super::{Bench, status};
use crate::support::DEADLINE;

async fn event(process: &Process, name: &str) -> Value {
    let wanted = format!("\"event\":\"{name}\"");
    let line =
        process.line(DEADLINE, |line| line.contains(&wanted)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&line).expect("JSON")
}

#[tokio::test]
async fn a_start_that_fails_ends_with_an_event() {
    let bench = Bench::start().await;
    let process = bench.spawn(&["svc/wbe", ":80", "-o", "json"]);
    event(&process, "listening").await;
    let failed = event(&process, "failed").await;
    assert_eq!((&failed["fault"], &failed["message"]), (&"upstream".into(), &"services \"wbe\" not found".into()));
    assert!(failed["hint"].as_str().is_some_and(|hint| hint.starts_with("did you mean `web`?")), "{failed}");
    assert_eq!(process.exited(DEADLINE).await.expect("it ends").code(), Some(4));
    let stdout = process.stdout();
    assert!(stdout.lines().all(|line| line.starts_with("{\"event\":\"")), "{stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_reads_hold_up_neither_connections_nor_the_end() {
    let bench = Bench::start().await;
    let port = testkit::process::free_port().expect("a port");
    let mut command = bench.command(&["svc/web", &format!("{port}:80"), "-o", "json", "-v"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let address = ([127, 0, 0, 1], port).into();
    crate::support::eventually(DEADLINE, "an answer", || async { status(address).await }).await;
    // Two events each, of some 150 bytes: the pipe is full after a few hundred, and the queue after a thousand more.
    for at in 0..1_200 {
        assert_eq!(status(address).await, Some(200), "connection {at}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).expect("a signal");
    let ended = crate::support::eventually(DEADLINE, "its end", || {
        let ended = child.try_wait().expect("its status");
        async move { ended }
    });
    assert_eq!(ended.await.code(), Some(130));
}

#[tokio::test]
async fn a_life_in_events() {
    let bench = Bench::start().await;
    let process = bench.spawn(&["svc/web", ":80", "-o", "json", "-v"]);
    let listening = event(&process, "listening").await;
    assert_eq!((&listening["address"], &listening["target"]), (&"127.0.0.1".into(), &"svc/web".into()));
    let port = listening["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    let ready = event(&process, "ready").await;
    assert_eq!(ready["port"], port);
    for (key, value) in
        [("to", "fake/default/service/web:80"), ("context", "fake"), ("namespace", "default"), ("pod", "web-1")]
    {
        assert_eq!(ready[key], value, "{key}");
    }
    assert_eq!(
        (&ready["remote_port"], &ready["pods"], &ready["transport"]),
        (&8080.into(), &1.into(), &"tunnel".into())
    );
    assert_eq!(status(([127, 0, 0, 1], port).into()).await, Some(200));
    let connection = event(&process, "connection").await;
    assert_eq!(connection["state"], "opened");
    let closed = process.line(DEADLINE, |line| line.contains("\"closed\"")).await.expect("its end");
    let closed: Value = serde_json::from_str(&closed).expect("JSON");
    assert!(closed["bytes_up"].as_u64() > Some(0) && closed["bytes_down"].as_u64() > Some(13), "{closed}");
    bench.cluster.set_ready("default", "web-1", false);
    let lost = event(&process, "lost").await;
    assert_eq!(lost["pod"], "web-1");
    bench.cluster.set_ready("default", "web-1", true);
    let back = event(&process, "back").await;
    assert!(back["outage_ms"].as_u64().is_some() && back["pod"] == "web-1", "{back}");
    process.signal(Signal::INT).expect("a signal");
    assert_eq!(event(&process, "stopped").await["signal"], "SIGINT");
    let stdout = process.stdout();
    assert!(stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "nothing else: {stdout}");
}
