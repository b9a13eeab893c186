//! The next version of the file takes the place of the one in force.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};
use testkit::origin::{HttpOrigin, TcpOrigin};
use testkit::process::Signal;
use testkit::raw::{self, Client};
use testkit::ws::{Message, WebSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{Bed, Up, WEB, beside, gateway, streams, web};
use crate::support::{DEADLINE, adit, eventually, pipe, within};

const HOST: &str = "web.localhost";
/// What a debug build on a busy machine may take for a thousand routes; a release build is measured elsewhere.
const THOUSAND: Duration = Duration::from_secs(5);

fn route(host: &str, to: &str) -> String {
    format!("{host}: {{ to: \"{to}\" }}")
}

/// Replaces the file at once and says so by a signal.
fn replace(bed: &Bed, up: &Up, yaml: &str) {
    let beside = bed.home.path().join("next");
    std::fs::write(&beside, format!("version: 1\n{yaml}")).expect("the next file");
    std::fs::rename(beside, bed.file()).expect("it takes its place");
    up.process.signal(Signal::HUP).expect("a signal");
}

async fn echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.expect("it takes bytes");
    let mut got = vec![0; text.len()];
    within("the echo", stream.read_exact(&mut got)).await.expect("an echo");
    assert_eq!(got, text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_reloads_under_load_leave_two_hundred_streams_alone() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.unwrap();
    bed.add_service("tcp", 7, origin.addr());
    let forwards = "forwards:\n  tcp: { to: \"k8s://fake/default/service/tcp:7\", listen: 0 }\n";
    let file = |routes: &[&str], other: &str| format!("{forwards}{other}{}", gateway(&[], routes));
    let up = bed.up(&file(&[&web()], "")).await;
    let mut sockets = Vec::new();
    let mut pipes = Vec::new();
    for _ in 0..100 {
        sockets.push(WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap());
        let mut pipe = TcpStream::connect(up.port("tcp")).await.unwrap();
        pipe.write_all(b"echo\n").await.unwrap();
        pipes.push(pipe);
    }
    streams(&bed, 200).await;
    let (stop, served, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (stop, served, failed) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&failed));
        let (address, host) = (up.gateway(), up.host(HOST));
        async move {
            let mut client = Client::connect(address).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let kept = client.get(&host, "/bytes/10000").await;
                let new = raw::get(address, &host, "/").await;
                for answer in [kept, new] {
                    let count = if answer.is_ok_and(|answer| answer.status == 200) { &served } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    let load = beside(load);
    for number in 0..50_usize {
        let from = up.process.line_count();
        let other = format!("other{number}.localhost");
        let forward = format!("  extra{number}: {{ to: \"{WEB}\", listen: 0 }}\n");
        replace(&bed, &up, &file(&[&route(&other, WEB), &web()], &forward));
        let name = json!(format!("route {other}"));
        let is_it = |event: &serde_json::Value| event["added"].as_array().is_some_and(|added| added.contains(&name));
        up.event_from(from, "reloaded", is_it).await;
        assert_eq!(up.get(&other, "/").await.status, 200);
        let at = number * 2 % 100;
        sockets[at].send_text("still there").await.unwrap();
        assert_eq!(sockets[at].receive().await.unwrap(), Some(Message::Text("still there".into())));
    }
    stop.store(true, Ordering::Relaxed);
    for socket in &mut sockets {
        socket.send_text("at the end").await.unwrap();
        assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("at the end".into())));
    }
    for pipe in &mut pipes {
        echo(pipe, b"at the end").await;
    }
    drop(load);
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", served.load(Ordering::Relaxed));
    assert!(served.load(Ordering::Relaxed) > 50);
    assert_eq!((up.count("lost"), up.count("reload-failed")), (0, 0));
}

#[tokio::test]
async fn a_file_with_errors_changes_nothing_and_all_of_them_are_told() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    let wrong = "gateway:\n  listen: 127.0.0.1:0\n  idle_timeout: soon\n  routes:\n    other.localhost: { too: 1 }\n";
    let event = up.refused(&bed, wrong).await;
    let problems = event["problems"].as_array().unwrap();
    let found: Vec<_> = problems.iter().map(|problem| (problem["line"].as_u64(), problem["key"].as_str())).collect();
    assert!(found.contains(&(Some(4), Some("gateway.idle_timeout"))), "{event}");
    assert!(found.iter().any(|(line, key)| *line == Some(6) && key.is_some_and(|key| key.contains("too"))), "{event}");
    socket.send_text("still there").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still there".into())));
    assert_eq!(up.get(HOST, "/").await.status, 200);
    assert_eq!(up.get("other.localhost", "/").await.status, 404);
    // Whoever misses a route looks at the index.
    let refused = async || up.json("localhost", "/").await.1["refused"].as_str().map(str::to_owned);
    let told = refused().await.expect("why it is not in force");
    assert!(told.contains(":4:") && told.contains("idle_timeout"), "{told}");
    // No YAML at all.
    up.refused(&bed, "gateway: [").await;
    // And a forward that is not there.
    let event = up.refused(&bed, &gateway(&[], &["x.localhost: { to: \"forward:nowhere\" }"])).await;
    assert!(event.to_string().contains("nowhere"), "{event}");
    assert_eq!(up.get(HOST, "/").await.status, 200);
    assert!(refused().await.expect("why it is not in force").contains("nowhere"));
    up.reload(&bed, &gateway(&[], &[&web(), "new.localhost: 1"])).await;
    assert_eq!(refused().await, None);
}

#[tokio::test]
async fn a_context_that_is_not_there_is_a_mistake_of_a_reload_that_brings_it_as_for_the_check() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let wrong = gateway(&[], &[&route(HOST, "k8s://fak/default/service/web:80"), &route("new.localhost", WEB)]);
    let event = up.refused(&bed, &wrong).await;
    let problem = &event["problems"][0];
    assert_eq!((problem["key"].as_str(), problem["line"].as_u64()), (Some("gateway.routes.web.localhost.to"), Some(5)));
    let said = problem["message"].as_str().expect("a message");
    assert!(said.starts_with("the context `fak` is not in "), "{event}");
    assert_eq!((up.status(HOST).await, up.status("new.localhost").await), (Some(200), Some(404)));
    let mut check = adit(bed.home.path());
    check.args(["config", "check"]).env("KUBECONFIG", bed.home.path().join("kubeconfig"));
    let (status, told) = testkit::process::run(&mut check, b"", DEADLINE).unwrap();
    assert_eq!(status.code(), Some(2), "{}", told.output());
    assert!(told.output().contains(said), "{}", told.output());
    // Once the context is there, the file takes effect by itself.
    let kubeconfig = bed.home.path().join("kubeconfig");
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let from = up.process.line_count();
    let context = "- name: fak\n  context: { cluster: fake, user: fake }\n";
    let (before, after) = text.split_once("contexts:\n").expect("contexts");
    std::fs::write(&kubeconfig, format!("{before}contexts:\n{context}{after}")).unwrap();
    up.event_from(from, "reloaded", |_| true).await;
    assert_eq!((up.status(HOST).await, up.status("new.localhost").await), (Some(200), Some(200)));
    // And when it goes away under a file that stays as it is, everything else goes on.
    let from = up.process.line_count();
    std::fs::write(&kubeconfig, &text).unwrap();
    up.event_from(from, "missing", |event| event["message"].as_str() == Some(said)).await;
    assert_eq!((up.status(HOST).await, up.status("new.localhost").await), (Some(502), Some(200)));
}

#[tokio::test]
async fn a_context_that_is_gone_at_the_start_is_told_and_keeps_down_only_what_leads_there() {
    let bed = Bed::start().await;
    let gone = route(HOST, "k8s://fak/default/service/web:80");
    let up = bed.up(&gateway(&[], &[&gone, &route("new.localhost", WEB)])).await;
    let missing = up.event("missing").await;
    assert_eq!((&missing["key"], &missing["line"]), (&json!("gateway.routes.web.localhost.to"), &json!(5)));
    let said = missing["message"].as_str().expect("a message");
    assert!(said.starts_with("the context `fak` is not in "), "{missing}");
    assert_eq!(missing["hint"], "did you mean `fake`?");
    let (status, page) = up.json(HOST, "/").await;
    assert_eq!(status, 502, "{page}");
    assert!(page.to_string().contains("the context `fak` is not in "), "{page}");
    assert_eq!(up.status("new.localhost").await, Some(200));
    // It stands in no later version's way either, but another one does.
    up.reload(&bed, &gateway(&[], &[&gone, &route("other.localhost", WEB)])).await;
    let event =
        up.refused(&bed, &gateway(&[], &[&gone, &route("b.localhost", "k8s://no/default/service/web:80")])).await;
    let problems = event["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{event}");
    assert_eq!(problems[0]["key"], "gateway.routes.b.localhost.to");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_a_mistake_of_a_reload_that_names_it_and_of_no_later_one() {
    let bed = Bed::start().await;
    let far = |key: &str| {
        let server = format!("ssh: {{ server: 127.0.0.1, key: {key}, host: db, port: 5432 }}");
        format!("forwards:\n  far: {{ to: {{ {server} }}, listen: 0, start: on-demand }}\n")
    };
    let routes = gateway(&[], &[&web()]);
    let up = bed.up(&routes).await;
    let event = up.refused(&bed, &format!("{}{routes}", far("none.such"))).await;
    let problem = &event["problems"][0];
    assert_eq!((&problem["key"], &problem["line"]), (&json!("forwards.far.to.ssh.key"), &json!(3)), "{event}");
    let key = bed.home.path().join("none.such");
    std::fs::write(&key, "").unwrap();
    up.reload(&bed, &format!("{}{routes}", far("none.such"))).await;
    std::fs::remove_file(&key).unwrap();
    let more = gateway(&[], &[&web(), &route("new.localhost", WEB)]);
    up.reload(&bed, &format!("{}{more}", far("none.such"))).await;
    assert_eq!(up.status("new.localhost").await, Some(200));
}

#[tokio::test]
async fn what_a_refused_file_lacks_is_watched_for() {
    let bed = Bed::start().await;
    let routes = gateway(&[], &[&web()]);
    let up = bed.up(&routes).await;
    let password = bed.home.path().join("passwords/of-route");
    let secret =
        "new.localhost: { to: \"tcp://127.0.0.1:1\", basic_auth: { user: a, password_file: passwords/of-route } }";
    let key = "forwards:\n  far: { to: { ssh: { server: 127.0.0.1, key: far.key, host: db, port: 1 } }, listen: 0, start: on-demand }\n";
    let event = up.refused(&bed, &format!("{key}{}", gateway(&[], &[&web(), secret]))).await;
    assert_eq!(event["problems"].as_array().map(Vec::len), Some(2), "{event}");
    // One after the other; adit.yaml stays as it is.
    let from = up.process.line_count();
    std::fs::create_dir(password.parent().unwrap()).unwrap();
    crate::support::write_secret(&password, "secret").unwrap();
    let one = |event: &serde_json::Value| event["problems"].as_array().map(Vec::len) == Some(1);
    up.event_from(from, "reload-failed", one).await;
    std::fs::write(bed.home.path().join("far.key"), "").unwrap();
    up.event_from(from, "reloaded", |_| true).await;
    assert_eq!(up.status("new.localhost").await, Some(401));
}

#[tokio::test]
async fn a_pipe_among_the_files_is_a_mistake_and_is_not_waited_for() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    pipe(&bed.home.path().join("pipe"));
    let mistake = "pipe: it is a pipe, which can be read only once";
    let secure = |tls: &str| format!("new.localhost: {{ to: \"tcp://127.0.0.1:1\", {tls} }}");
    for (key, route) in [
        ("gateway.routes.new.localhost.tls.ca", secure("scheme: https, tls: { ca: pipe }")),
        (
            "gateway.routes.new.localhost.basic_auth.password_file",
            secure("basic_auth: { user: a, password_file: pipe }"),
        ),
    ] {
        let event = up.refused(&bed, &gateway(&[], &[&web(), &route])).await;
        let problem = &event["problems"][0];
        assert_eq!(problem["key"], json!(key), "{event}");
        assert!(problem["message"].as_str().unwrap().contains("it is a pipe, which can be read only once"), "{event}");
    }
    // The kubeconfig and the file itself, which were none at the start.
    std::fs::remove_file(bed.home.path().join("kubeconfig")).unwrap();
    pipe(&bed.home.path().join("kubeconfig"));
    let from = up.process.line_count();
    std::fs::rename(bed.home.path().join("pipe"), bed.file()).unwrap();
    let event = up.event_from(from, "reload-failed", |event| event["message"].to_string().contains("adit.yaml")).await;
    assert!(event["message"].as_str().unwrap().ends_with(&mistake["pipe".len()..]), "{event}");
    std::fs::remove_file(bed.file()).unwrap();
    up.reload(&bed, &gateway(&[], &[&route("new.localhost", "tcp://127.0.0.1:1"), &web()])).await;
    assert_eq!(up.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_kubeconfig_is_told_at_the_start() {
    let bed = Bed::start().await;
    let kubeconfig = bed.home.path().join("kubeconfig");
    std::fs::remove_file(&kubeconfig).unwrap();
    pipe(&kubeconfig);
    let up = bed.up(&gateway(&["dynamic_host: k8s.localhost"], &[])).await;
    let problem = up.event("kubeconfig").await["problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("it is a pipe, which can be read only once"), "{problem}");
    let (_, answer) = up.json("web-80.svc.default.ns.fake.cx.k8s.localhost", "/").await;
    assert!(answer.to_string().contains("it is a pipe"), "{answer}");
    assert_eq!(up.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn a_disabled_forward_to_a_context_that_is_gone_stands_in_nobodys_way() {
    let bed = Bed::start().await;
    let old = "forwards:\n  old: { to: 'k8s://gone/default/service/db:5432', listen: 0, enabled: false }\n";
    let up = bed.up(&format!("{old}{}", gateway(&[], &[&web()]))).await;
    assert_eq!(up.status(HOST).await, Some(200));
    let change = up.reload(&bed, &format!("{old}{}", gateway(&[], &[&web(), &route("new.localhost", WEB)]))).await;
    assert_eq!(change["removed"], json!([]));
    assert_eq!((up.status("new.localhost").await, up.count("missing")), (Some(200), 0));
}

#[tokio::test]
async fn without_a_kubeconfig_contexts_are_only_not_known_yet() {
    let bed = Bed::start().await;
    let kubeconfig = bed.home.path().join("kubeconfig");
    std::fs::rename(&kubeconfig, bed.home.path().join("later")).unwrap();
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let missing = up.event("missing").await;
    assert!(missing["message"].as_str().is_some_and(|text| text.contains("no kubeconfig")), "{missing}");
    std::fs::rename(bed.home.path().join("later"), &kubeconfig).unwrap();
    up.event("reloaded").await;
    assert_eq!(up.status(HOST).await, Some(200));
}

#[tokio::test]
async fn a_file_that_asks_for_nothing_is_refused_at_a_reload_as_at_the_start() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    for text in ["", "# nothing yet\n", "kubernetes: { keepalive: 1m }\n", "publish: {}\n"] {
        let refused = up.refused(&bed, text).await;
        assert!(refused["message"].as_str().is_some_and(|text| text.ends_with("asks for nothing")), "{refused}");
        assert!(refused["hint"].as_str().is_some_and(|text| text.contains("gateway: {}")), "{refused}");
        assert_eq!(up.status(HOST).await, Some(200));
    }
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_told_at_a_reload_as_at_the_start() {
    let bed = Bed::start().await;
    let (first, second) = (testkit::process::free_port().unwrap(), testkit::process::free_port().unwrap());
    let file = |ip: &str, forward: &str| {
        let forwards = format!("forwards:\n  db: {{ to: \"{WEB}\", listen: \"{forward}:{second}\" }}\n");
        format!("{forwards}{}", gateway(&[], &[&web()]).replace("127.0.0.1:0", &format!("{ip}:{first}")))
    };
    let up = bed.up(&file("127.0.0.1", "127.0.0.1")).await;
    let from = up.process.line_count();
    up.reload(&bed, &file("0.0.0.0", "127.0.0.1")).await;
    let gateway = up.event_from(from, "exposed", |_| true).await;
    assert_eq!((&gateway["name"], &gateway["address"]), (&json!("gateway"), &json!(format!("0.0.0.0:{first}"))));
    // Once for each.
    let from = up.process.line_count();
    up.reload(&bed, &file("0.0.0.0", "0.0.0.0")).await;
    assert_eq!(up.event_from(from, "exposed", |_| true).await["name"], "db");
    up.reload(&bed, &file("127.0.0.1", "127.0.0.1")).await;
    let from = up.process.line_count();
    up.reload(&bed, &file("127.0.0.1", "0.0.0.0")).await;
    assert_eq!(up.event_from(from, "exposed", |_| true).await["name"], "db", "again");
    assert_eq!(up.count("exposed"), 3);
}

#[tokio::test]
async fn an_empty_file_changes_nothing_as_one_that_is_written_anew_is_empty_first() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    for text in ["", "\n \n"] {
        let from = up.process.line_count();
        std::fs::write(bed.file(), text).expect("adit.yaml can be written");
        let refused = up.event_from(from, "reload-failed", |_| true).await;
        assert!(refused["message"].as_str().is_some_and(|text| text.ends_with("is empty")), "{refused}");
        assert_eq!(up.status(HOST).await, Some(200));
    }
    assert_eq!(up.reload(&bed, &gateway(&[], &[&web(), &route("new.localhost", WEB)])).await["removed"], json!([]));
    assert_eq!(up.status("new.localhost").await, Some(200));
}

#[tokio::test]
async fn a_port_that_is_taken_changes_nothing_and_is_named() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let free = testkit::process::free_port().unwrap();
    let file = format!(
        "forwards:\n  a: {{ to: \"{WEB}\", listen: {free} }}\n  b: {{ to: \"{WEB}\", listen: {} }}\n{}",
        address.port(),
        gateway(&[], &[&route("other.localhost", WEB)])
    );
    let event = up.refused(&bed, &file).await;
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("forwards.b.listen") && message.contains(&format!("port {}", address.port())), "{event}");
    assert_eq!(up.get(HOST, "/").await.status, 200, "the route that was to go");
    assert_eq!(up.get("other.localhost", "/").await.status, 404);
    assert!(TcpStream::connect(("127.0.0.1", free)).await.is_err(), "the other port was let go");
    drop(taken);
    up.process.signal(Signal::HUP).unwrap();
    up.event("reloaded").await;
    assert_eq!(up.get("other.localhost", "/").await.status, 200);
    assert!(TcpStream::connect(address).await.is_ok());
}

#[tokio::test]
async fn a_route_that_is_removed_finishes_what_it_carries_and_takes_nothing_new() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    let mut client = Client::connect(up.gateway()).await.unwrap();
    client.send(&raw::head("GET", &up.host(HOST), "/drip?pieces=30&ms=50", &[], None)).await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 200);
    up.reload(&bed, &gateway(&[], &[])).await;
    assert_eq!(up.get(HOST, "/").await.status, 404);
    let mut length = 0;
    while let Some(piece) = within("more", client.piece()).await.unwrap() {
        length += piece.len();
    }
    assert_eq!(length, 3000);
    socket.send_text("still there").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still there".into())));
    socket.close().await.unwrap();
    let sessions = || bed.cluster.faults().streams().open_connections();
    eventually(DEADLINE, "the end of its session", || async { (sessions() == 0).then_some(()) }).await;
    let answer = client.get(&up.host(HOST), "/").await.unwrap();
    assert_eq!(answer.status, 404, "on a kept connection, too");
}

#[tokio::test]
async fn a_forward_that_is_changed_leads_new_connections_to_the_new_target() {
    let bed = Bed::start().await;
    let (one, two) = (TcpOrigin::start().await.unwrap(), TcpOrigin::start().await.unwrap());
    bed.add_service("one", 7, one.addr());
    bed.add_service("two", 7, two.addr());
    let port = testkit::process::free_port().unwrap();
    let file =
        |name: &str| format!("forwards:\n  db: {{ to: \"k8s://fake/default/service/{name}:7\", listen: {port} }}\n");
    let up = bed.up(&file("one")).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut old = TcpStream::connect(address).await.unwrap();
    echo(&mut old, b"\x00old").await;
    let event = up.reload(&bed, &file("two")).await;
    assert_eq!(event["changed"], json!(["forward db"]), "{event}");
    let mut new = TcpStream::connect(address).await.unwrap();
    echo(&mut new, b"\x00new").await;
    assert_eq!((one.connections(), two.connections()), (1, 1));
    echo(&mut old, b"still there").await;
    drop(old);
    eventually(DEADLINE, "the end of the old one", || async { (one.open() == 0).then_some(()) }).await;
    echo(&mut new, b"still there").await;
}

#[tokio::test]
async fn a_route_that_is_changed_leads_kept_connections_to_the_new_target() {
    let bed = Bed::start().await;
    let other = HttpOrigin::start().await.unwrap();
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let mut client = Client::connect(up.gateway()).await.unwrap();
    assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200);
    up.reload(&bed, &gateway(&[], &[&route(HOST, &format!("http://{}", other.addr()))])).await;
    assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200);
    assert_eq!((bed.origin.requests(), other.requests()), (1, 1));
}

#[tokio::test]
async fn a_thousand_routes_are_reloaded_quickly_and_each_is_found() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    for round in 0..3 {
        let mut routes: Vec<String> = (0..1000).map(|at| route(&format!("r{at}-{round}.localhost"), WEB)).collect();
        routes.push(web());
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        let from = up.process.line_count();
        let start = Instant::now();
        replace(&bed, &up, &gateway(&[], &routes));
        let event =
            up.event_from(from, "reloaded", |event| event["added"].as_array().is_some_and(|it| it.len() == 1000));
        event.await;
        assert!(start.elapsed() < THOUSAND, "{:?}", start.elapsed());
        for at in [0, 499, 999] {
            assert_eq!(up.get(&format!("r{at}-{round}.localhost"), "/").await.status, 200);
        }
    }
    socket.send_text("still there").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still there".into())));
}

#[tokio::test]
async fn a_hangup_reads_the_file_again_and_an_unchanged_one_changes_nothing() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let mut client = Client::connect(up.gateway()).await.unwrap();
    assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200);
    up.process.signal(Signal::HUP).unwrap();
    let event = up.event("reloaded").await;
    assert_eq!(event, json!({ "event": "reloaded", "added": [], "changed": [], "removed": [] }));
    assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200);
    assert_eq!(bed.origin.connections(), 1, "even the connection to the service was kept");
}

#[tokio::test]
async fn the_gateway_may_move_to_another_port_and_connections_stay() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    let port = testkit::process::free_port().unwrap();
    let moved = gateway(&[], &[&web()]).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    assert_eq!(up.reload(&bed, &moved).await["changed"], json!(["gateway.listen"]));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(raw::get(address, HOST, "/").await.unwrap().status, 200);
    for ip in ["0.0.0.0", "127.0.0.1"] {
        let moved = gateway(&[], &[&web()]).replace("127.0.0.1:0", &format!("{ip}:{port}"));
        assert_eq!(up.reload(&bed, &moved).await["changed"], json!(["gateway.listen"]), "{ip}");
        assert_eq!(raw::get(address, HOST, "/").await.unwrap().status, 200, "{ip}");
    }
    let old = || async { TcpStream::connect(up.gateway()).await.is_err().then_some(()) };
    eventually(DEADLINE, "the end of the old port", old).await;
    socket.send_text("still there").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still there".into())));
}

#[tokio::test]
async fn a_port_that_changes_its_owner_is_never_closed() {
    let bed = Bed::start().await;
    let (one, two) = (TcpOrigin::start().await.unwrap(), TcpOrigin::start().await.unwrap());
    let port = testkit::process::free_port().unwrap();
    let file = |name: &str, origin: &TcpOrigin| {
        format!("forwards:\n  {name}: {{ to: \"tcp://{}\", listen: {port} }}\n", origin.addr())
    };
    let up = bed.up(&file("one", &one)).await;
    let mut old = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    echo(&mut old, b"\x00old").await;
    up.reload(&bed, &file("two", &two)).await;
    let mut new = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    echo(&mut new, b"\x00new").await;
    assert_eq!((one.connections(), two.connections()), (1, 1));
    echo(&mut old, b"still there").await;
}

#[tokio::test]
async fn another_kubeconfig_leads_to_another_cluster() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
    let (cluster, origin) = (Cluster::start(ClusterOptions::default()).await, HttpOrigin::start().await.unwrap());
    cluster.add_service("default", "web", &[("app", "web")], &[ServicePort::new(80).to(8080)]);
    let pod = PodSpec::new("default", "web-1").label("app", "web").port("", 8080);
    cluster.add_pod(pod.backend(8080, origin.addr()));
    cluster.write_kubeconfig(&bed.home.path().join("kubeconfig"));
    up.event("reloaded").await;
    for host in [HOST, "web-80.svc.default.ns.fake.cx.k8s.localhost"] {
        assert_eq!(up.get(host, "/").await.status, 200);
    }
    assert_eq!((bed.origin.requests(), origin.requests()), (1, 2));
}

#[tokio::test]
async fn only_what_is_named_runs_and_still_does_after_a_reload() {
    let bed = Bed::start().await;
    let file = format!(
        "forwards:\n  one: {{ to: \"{WEB}\", listen: 0, tags: [a] }}\n  two: {{ to: \"{WEB}\", listen: 0 }}\n{}",
        gateway(&[], &[&web()])
    );
    bed.write(&file);
    let up = Up::start(bed.command().arg("one")).await;
    let open: Vec<_> =
        up.events().into_iter().filter(|event| event["event"] == "open").map(|event| event["name"].clone()).collect();
    assert_eq!(open, ["one"]);
    assert_eq!(up.count("gateway"), 0);
    let event = up.reload(&bed, &file.replace("  two:", "  three:")).await;
    assert_eq!((&event["added"], &event["removed"]), (&json!([]), &json!([])), "{event}");
}
