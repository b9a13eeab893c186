//! Tunnels whose targets only the agent's file can reach: the section `publish`, and `adit expose`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::cert::TestCa;
use testkit::cluster::Host;
use testkit::origin::{HttpOrigin, TcpOrigin};
use testkit::process::Signal;
use testkit::raw;
use testkit::relay::{Link, Relay};
use testkit::ws::{Message, WebSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Bed, Running, TlsOrigin, Up, WEB, beside, gateway};
use crate::support::{DEADLINE, Publish, Server, eventually, within, write_secret};

/// The section `publish` for a server, and the token file it names.
fn publish(bed: &Bed, server: &Server, tunnels: &[&str]) -> String {
    publish_at(server.agents, bed, server, tunnels)
}

/// The same by way of a relay.
fn publish_at(agents: SocketAddr, bed: &Bed, server: &Server, tunnels: &[&str]) -> String {
    let token = bed.home.path().join("token");
    if !token.exists() {
        write_secret(&token, &server.token("acme")).expect("the token file");
    }
    let tunnels: String = tunnels.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "publish:\n  server: \"{agents}\"\n  fingerprint: \"{}\"\n  token_file: token\n  tunnels:\n{tunnels}",
        server.fingerprint
    )
}

async fn published(up: &Up, tunnel: &str) -> String {
    let event = up.event_from(0, "published", |event| event["tunnel"] == tunnel).await;
    event["url"].as_str().expect("a URL").to_owned()
}

#[tokio::test]
async fn tunnels_lead_to_services_jumps_forwards_and_addresses() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let local = HttpOrigin::start().await.unwrap();
    bed.cluster.faults().streams().inside().set_host("default", "web-1", "wiki.internal:80", Host::At(local.addr()));
    let file = format!(
        "forwards:\n  web: {{ to: \"{WEB}\" }}\n{}",
        publish(
            &bed,
            &server,
            &[
                &format!("svc: {{ to: \"{WEB}\" }}"),
                "wiki: { to: \"jump://fake/default/service/web/wiki.internal:80\" }",
                "fwd: { to: \"forward:web\" }",
                &format!("plain: {{ to: \"http://{}\" }}", local.addr()),
            ]
        )
    );
    let up = bed.up(&file).await;
    for (name, at_pod) in [("svc", true), ("wiki", false), ("fwd", true), ("plain", false)] {
        assert!(published(&up, name).await.contains(&server.host(name)), "{name}");
        let before = (bed.origin.requests(), local.requests());
        let answer = server.get(name, "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"), "{name}");
        let seen = (bed.origin.requests() - before.0, local.requests() - before.1);
        assert_eq!(seen, if at_pod { (1, 0) } else { (0, 1) }, "{name}");
    }
    let mut socket = WebSocket::connect(server.public, &server.host("svc"), "/ws").await.unwrap();
    socket.send_text("hello").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("hello".into())));
}

#[tokio::test]
async fn a_tunnel_with_a_port_is_a_byte_pipe_into_the_cluster() {
    let bed = Bed::start().await;
    let server = Server::setup().tcp_ports().start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    let port = server.ports.unwrap().first;
    let tunnel = format!("tcp: {{ to: \"k8s://fake/default/service/tcp:7\", port: {port} }}");
    let up = bed.up(&publish(&bed, &server, &[&tunnel])).await;
    published(&up, "tcp").await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"\x00hello").await.unwrap();
    let mut answer = [0; 6];
    within("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"\x00hello");
}

#[tokio::test]
async fn a_target_that_is_not_there_is_a_502_for_the_visitor_without_the_clusters_names() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let up = bed.up(&publish(&bed, &server, &["gone: { to: \"k8s://fake/default/service/gone:80\" }"])).await;
    published(&up, "gone").await;
    let answer = server.get("gone", "/").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(!answer.text().contains("k8s://"), "strangers read it: {}", answer.text());
    assert!(answer.text().contains("cannot be reached") && !answer.text().contains("refused"), "{}", answer.text());
    let error = up.event("error").await;
    assert_eq!(error["name"], "gone", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("\"gone\" not found"), "whoever runs it reads why: {error}");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_with_the_tunnels_name_and_once() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let ca = TestCa::new().unwrap();
    let leaf = ca.leaf("service", &["localhost"]).unwrap();
    let origin = TlsOrigin::start(&leaf, &["http/1.1"], bed.origin.addr()).await;
    bed.add_service("secure", 443, origin.address);
    let file = publish(
        &bed,
        &server,
        &[
            "inside: { to: \"k8s://fake/default/service/secure:443\", scheme: https }",
            &format!("here: {{ to: \"https://localhost:{}\", verify: true }}", origin.address.port()),
        ],
    );
    let up = bed.up(&file).await;
    for tunnel in ["inside", "here"] {
        published(&up, tunnel).await;
        for _ in 0..2 {
            assert_eq!(server.get(tunnel, "/").await.status, 502);
        }
        let error = up.event_from(0, "error", |event| event["name"] == tunnel).await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("certificate"), "whoever runs it reads why: {error}");
    }
    assert_eq!(up.count("error"), 2, "one line each: {:?}", up.events());
}

#[tokio::test]
async fn a_service_of_this_machine_that_is_away_is_told_with_the_tunnels_name_and_so_is_its_return() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let up = bed.up(&publish(&bed, &server, &[&format!("shop: {{ to: \"http://{address}\" }}")])).await;
    published(&up, "shop").await;
    assert_eq!(server.get("shop", "/").await.status, 502);
    let error = up.event("error").await;
    assert_eq!((&error["name"], &error["target"]), (&"shop".into(), &address.to_string().into()), "{error}");
    let service = TcpListener::bind(address).await.expect("the port is free still");
    let _answers = beside(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    assert_eq!(server.get("shop", "/").await.status, 200);
    assert_eq!(up.event("reachable").await["name"], "shop");
}

#[tokio::test]
async fn tunnels_come_and_go_with_the_file() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let one = format!("one: {{ to: \"{WEB}\" }}");
    let two = format!("two: {{ to: \"{WEB}\" }}");
    let up = bed.up(&publish(&bed, &server, &[&one])).await;
    published(&up, "one").await;
    assert_eq!(server.get("one", "/").await.status, 200);
    up.reload(&bed, &publish(&bed, &server, &[&two])).await;
    published(&up, "two").await;
    assert_eq!(server.get("two", "/").await.status, 200);
    let gone = || async { (server.get("one", "/").await.status != 200).then_some(()) };
    eventually(DEADLINE, "the end of the first", gone).await;
    up.reload(&bed, &gateway(&[], &[])).await;
    let gone = || async { (server.get("two", "/").await.status != 200).then_some(()) };
    eventually(DEADLINE, "the end of the second", gone).await;
    assert_eq!(up.count("failed"), 0);
}

#[tokio::test]
async fn a_websocket_through_a_tunnel_survives_a_reload_that_adds_another() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let one = format!("one: {{ to: \"{WEB}\" }}");
    let two = format!("two: {{ to: \"{WEB}\" }}");
    let up = bed.up(&publish(&bed, &server, &[&one])).await;
    published(&up, "one").await;
    let mut socket = WebSocket::connect(server.public, &server.host("one"), "/ws").await.unwrap();
    up.reload(&bed, &publish(&bed, &server, &[&one, &two])).await;
    published(&up, "two").await;
    assert_eq!(server.get("one", "/").await.status, 200);
    socket.send_text("still there").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still there".into())));
}

/// A visitor who asks all the time.
struct Visitor {
    seen: Arc<Mutex<(usize, Vec<String>)>>,
    _asks: Running,
}

impl Visitor {
    fn of(server: &Server, tunnel: &str) -> Self {
        let seen: Arc<Mutex<(usize, Vec<String>)>> = Arc::default();
        let (address, host, told) = (server.public, server.host(tunnel), Arc::clone(&seen));
        let asks = beside(async move {
            loop {
                let trouble = match raw::get(address, &host, "/").await {
                    Ok(answer) if answer.status == 200 => None,
                    Ok(answer) => Some(format!("{} {}", answer.status, answer.text())),
                    Err(error) => Some(error.to_string()),
                };
                let mut told = told.lock().expect("no panic");
                told.0 += 1;
                told.1.extend(trouble);
            }
        });
        Self { seen, _asks: asks }
    }

    fn answers(&self) -> usize {
        self.seen.lock().expect("no panic").0
    }

    /// Waits for two more answers, the second of which was asked for after this call.
    async fn goes_on(&self) {
        let enough = self.answers() + 2;
        eventually(DEADLINE, "more answers", || async { (self.answers() >= enough).then_some(()) }).await;
    }

    fn trouble(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").1.clone()
    }
}

#[tokio::test]
async fn a_tunnel_that_is_not_touched_is_served_all_the_time_while_the_section_changes() {
    let bed = Bed::start().await;
    // With no room for the tunnels of two agents at once.
    let server = Server::setup().section("quotas: { agents: 1, tunnels: 2 }").start().await;
    let relay = Relay::start(server.agents, Link::round_trip(Duration::from_millis(100))).await.unwrap();
    let local = HttpOrigin::start().await.unwrap();
    let one = format!("one: {{ to: \"http://{}\" }}", local.addr());
    let two = format!("two: {{ to: \"{WEB}\" }}");
    let three = format!("three: {{ to: \"{WEB}\" }}");
    let file = |tunnels: &[&str]| publish_at(relay.addr(), &bed, &server, tunnels);
    let up = bed.up(&file(&[&one])).await;
    published(&up, "one").await;
    let visitor = Visitor::of(&server, "one");
    visitor.goes_on().await;
    for (tunnels, last) in [(&[&*one, &two][..], "two"), (&[&*one, &three], "three"), (&[&*one], "one")] {
        let from = up.process.line_count();
        up.reload(&bed, &file(tunnels)).await;
        up.event_from(from, "published", |event| event["tunnel"] == last).await;
        visitor.goes_on().await;
    }
    // A version that is superseded before it has connected.
    up.reload(&bed, &file(&[&one, &two])).await;
    let from = up.process.line_count();
    up.reload(&bed, &file(&[&one, &three])).await;
    up.event_from(from, "published", |event| event["tunnel"] == "three").await;
    visitor.goes_on().await;
    assert_eq!(visitor.trouble(), [""; 0], "of {} answers", visitor.answers());
    assert_eq!(server.get("three", "/").await.status, 200);
    assert_eq!(up.count("failed"), 0);
    let gone = || async { (server.metric("tunnel_connections_total").await == Some(1.0)).then_some(()) };
    eventually(DEADLINE, "the end of the older agents", gone).await;
}

#[tokio::test]
async fn the_older_agent_serves_as_long_as_its_successor_cannot_connect() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let relay = Relay::start(server.agents, Link::default()).await.unwrap();
    let one = format!("one: {{ to: \"{WEB}\" }}");
    let two = format!("two: {{ to: \"{WEB}\" }}");
    let up = bed.up(&publish(&bed, &server, &[&one])).await;
    published(&up, "one").await;
    let visitor = Visitor::of(&server, "one");
    relay.stall_both();
    up.reload(&bed, &publish_at(relay.addr(), &bed, &server, &[&one, &two])).await;
    visitor.goes_on().await;
    relay.resume();
    published(&up, "two").await;
    visitor.goes_on().await;
    assert_eq!(visitor.trouble(), [""; 0]);
}

#[tokio::test]
async fn a_token_file_that_is_not_there_changes_nothing() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let one = format!("one: {{ to: \"{WEB}\" }}");
    let file = publish(&bed, &server, &[&one]);
    let up = bed.up(&file).await;
    published(&up, "one").await;
    let bad = file.replace("token_file: token", "token_file: nowhere");
    let refused = up.refused(&bed, &format!("forwards:\n  web: {{ to: \"{WEB}\" }}\n{bad}")).await;
    let problem = &refused["problems"][0];
    assert_eq!(problem["key"], "publish.token_file", "{refused}");
    assert!(problem["message"].as_str().is_some_and(|text| text.contains("nowhere")), "{refused}");
    assert_eq!(server.get("one", "/").await.status, 200);
    assert_eq!((up.count("failed"), up.count("draining")), (0, 0));
}

#[tokio::test]
async fn an_agent_that_is_refused_asks_at_once_when_the_file_is_read_again() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let token = bed.home.path().join("token");
    write_secret(&token, "adit_nobody").expect("the token file");
    let up = bed.up(&publish(&bed, &server, &[&format!("one: {{ to: \"{WEB}\" }}")])).await;
    let failed = up.event("failed").await;
    assert_eq!(failed["name"], "publish");
    // It is tried again by itself, though not soon.
    assert!(failed["retry_in_ms"].as_u64().is_some_and(|wait| (40_000..=60_000).contains(&wait)), "{failed}");
    write_secret(&token, &server.token("acme")).expect("the token file");
    up.process.signal(Signal::HUP).expect("a signal");
    published(&up, "one").await;
    assert_eq!(server.get("one", "/").await.status, 200);
    assert_eq!(up.event("reloaded").await["changed"], serde_json::json!(["publish"]));
}

#[tokio::test]
async fn a_new_token_file_alone_makes_an_agent_that_is_refused_ask_at_once() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let token = bed.home.path().join("token");
    write_secret(&token, "adit_nobody").expect("the token file");
    let up = bed.up(&publish(&bed, &server, &[&format!("one: {{ to: \"{WEB}\" }}")])).await;
    assert_eq!(up.event("failed").await["name"], "publish");
    // No signal, and adit.yaml is as it was: the file that is named by it is watched.
    write_secret(&token, &server.token("acme")).expect("the token file");
    published(&up, "one").await;
    assert_eq!(server.get("one", "/").await.status, 200);
}

#[tokio::test]
async fn expose_publishes_what_is_in_a_protected_context_only_after_yes() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let file = format!("kubernetes: {{ protect: [^fake$] }}\nforwards:\n  web: {{ to: \"{WEB}\" }}\n");
    bed.write(&file);
    let (kubeconfig, file) = (bed.home.path().join("kubeconfig"), bed.file().display().to_string());
    let expose = |target: &str| Publish::to(&server).kubeconfig(&kubeconfig).target(target, &["--config", &file]);
    let jump = "jump://fake/default/service/web/wiki.internal:80";
    for target in [WEB, "k8s:///default/service/web:80", jump, "forward:web"] {
        let agent = expose(target).errors_expected().spawn();
        assert_eq!(agent.exit_code(DEADLINE).await, Some(5), "{target}");
        let said = agent.process().stderr();
        assert!(said.contains("context `fake` is protected") && said.contains("--yes"), "{target}: {said}");
    }
    assert_eq!(bed.cluster.requests().len(), 0, "it was not touched");
    let agent = expose(WEB).arguments(&["--as", "shop", "--yes"]).start().await;
    assert_eq!(agent.url(), format!("http://{}", server.host("shop")));
    assert_eq!(server.get("shop", "/").await.status, 200);
}

#[tokio::test]
async fn expose_publishes_a_service_of_a_cluster() {
    let bed = Bed::start().await;
    let server = Server::start().await;
    let kubeconfig = bed.home.path().join("kubeconfig");
    let agent = Publish::to(&server).kubeconfig(&kubeconfig).target(WEB, &["--as", "shop"]).start().await;
    assert_eq!(agent.url(), format!("http://{}", server.host("shop")));
    assert_eq!(server.get("shop", "/").await.status, 200);
    assert_eq!(bed.origin.requests(), 1);
    bed.add_pod("web-2");
    assert!(bed.cluster.delete("Pod", "default", "web-1"));
    assert_eq!(server.get("shop", "/").await.status, 200, "by the other pod");
}

#[tokio::test]
async fn expose_publishes_a_tcp_port_of_a_cluster() {
    let bed = Bed::start().await;
    let server = Server::setup().tcp_ports().start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    let kubeconfig = bed.home.path().join("kubeconfig");
    let target = "k8s://fake/default/service/tcp:7";
    let agent = Publish::to(&server).kubeconfig(&kubeconfig).target(target, &["--port", "0"]).start().await;
    let mut stream = TcpStream::connect(agent.port()).await.unwrap();
    stream.write_all(b"\x00hello").await.unwrap();
    let mut answer = [0; 6];
    within("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"\x00hello");
}
