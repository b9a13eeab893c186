//! `adit top` beside a daemon.

use std::net::TcpStream;

use serde_json::Value;

use super::support::Place;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_shown_beside_the_forward_of_the_daemon_that_it_uses() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    place.start();
    let entrance = place.entrance("web");
    let client = TcpStream::connect(entrance).unwrap();
    let top = |by: &str| place.ok(&["top", "--once", "--interval", "200ms", "--by", by]);
    let own = std::process::id().to_string();
    let table = top("connection");
    let out = |line: &&str| line.contains(&format!("{entrance}  out")) && line.split_whitespace().next() == Some(&own);
    let line = table.lines().find(out).unwrap_or_else(|| panic!("{table}"));
    assert!(line.trim_end().ends_with("  web"), "{line}");
    let table = top("remote");
    let port = entrance.port().to_string();
    let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&port) && line.contains(" out "));
    assert!(line.is_some_and(|line| line.trim_end().ends_with("  web")), "{table}");
    let json = place.json(&["top", "--once", "--interval", "200ms"]);
    let ours = |one: &&Value| one["pid"] == std::process::id();
    let process = json["processes"].as_array().into_iter().flatten().find(ours).unwrap_or_else(|| panic!("{json}"));
    assert_eq!(process["forwards"], serde_json::json!(["web"]));
    drop(client);
}
