//! Tunnels whose targets only the agent's file can reach: the section `publish`, and `adit expose`.

use testkit::cluster::Host;
use testkit::origin::{HttpOrigin, TcpOrigin};
use testkit::ws::{Message, WebSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{Bed, Up, WEB};
use crate::support::{DEADLINE, Publish, Server, eventually, within, write_secret};

/// The section `publish` for a server, and the token file it names.
fn publish(bed: &Bed, server: &Server, tunnels: &[&str]) -> String {
    let token = bed.home.path().join("token");
    if !token.exists() {
        write_secret(&token, &server.token("acme")).expect("the token file");
    }
    let tunnels: String = tunnels.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "publish:\n  server: \"{}\"\n  fingerprint: \"{}\"\n  token_file: token\n  tunnels:\n{tunnels}",
        server.agents, server.fingerprint
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
    up.reload(&bed, "forwards: {}\n").await;
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
