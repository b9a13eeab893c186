//! WebSockets and other upgrades.

use std::time::Duration;

use testkit::noise;
use testkit::raw::{self, Client};
use testkit::ws::{Message, WebSocket};

use super::Tunnel;
use crate::support::{DEADLINE, Server, eventually};

#[tokio::test]
async fn a_websocket_echoes_texts_bytes_and_a_megabyte() {
    let tunnel = Tunnel::start().await;
    let mut socket = WebSocket::connect(tunnel.server.public, &tunnel.server.host("app1"), "/ws").await.unwrap();
    socket.send_text("hello").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("hello".into())));
    for size in [0, 1, 125, 126, 70_000, 1 << 20] {
        let sent = Message::Binary(noise::bytes(1, size));
        socket.send(sent.clone()).await.unwrap();
        assert!(socket.receive().await.unwrap() == Some(sent), "{size} bytes");
    }
    socket.close().await.unwrap();
    eventually(DEADLINE, "the end of the local connection", || async { (tunnel.origin.open() == 0).then_some(()) })
        .await;
}

#[tokio::test]
async fn pings_are_answered_by_the_service_not_by_us() {
    let tunnel = Tunnel::start().await;
    let mut socket = WebSocket::connect(tunnel.server.public, &tunnel.server.host("app1"), "/ws").await.unwrap();
    socket.send(Message::Ping(b"are you there".to_vec())).await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Pong(b"are you there".to_vec())));
}

#[tokio::test]
async fn a_quiet_websocket_is_not_cut_by_the_idle_timeout() {
    let setup = Server::setup().section("limits: { idle_timeout: 1s, header_timeout: 1s }");
    let tunnel = Tunnel::start_with(setup, &[]).await;
    let mut socket = WebSocket::connect(tunnel.server.public, &tunnel.server.host("app1"), "/ws").await.unwrap();
    // Longer than the time-out: this silence is what is tested.
    assert!(tokio::time::timeout(Duration::from_millis(2500), socket.receive_patiently()).await.is_err());
    socket.send_text("still there").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("still there".into())));
}

#[tokio::test]
async fn any_protocol_may_be_upgraded_to_and_each_direction_ends_by_itself() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let headers = [("Connection", "Upgrade"), ("Upgrade", "my-protocol/2")];
    client.send(&raw::head("GET", &tunnel.server.host("app1"), "/upgrade", &headers, None)).await.unwrap();
    let answer = client.response_head(false).await.unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("my-protocol/2")));
    let sent = noise::bytes(4, 300_000);
    client.send(&sent).await.unwrap();
    client.finish().await.unwrap();
    assert!(client.rest().await.unwrap() == sent, "everything sent before the half-close comes back after it");
}

#[tokio::test]
async fn an_upgrade_the_service_declines_is_answered_as_it_was() {
    let tunnel = Tunnel::start().await;
    let headers = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    client.send(&raw::head("GET", &tunnel.server.host("app1"), "/status/403", &headers, None)).await.unwrap();
    let answer = client.response(false).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (403, "status 403"));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_visitor_who_leaves_a_websocket_ends_it_at_the_service() {
    let tunnel = Tunnel::start().await;
    let mut socket = WebSocket::connect(tunnel.server.public, &tunnel.server.host("app1"), "/ws").await.unwrap();
    socket.send_text("hello").await.unwrap();
    socket.receive().await.unwrap();
    assert_eq!(tunnel.origin.open(), 1);
    drop(socket);
    eventually(Duration::from_secs(2), "the end of the local connection", || async {
        (tunnel.origin.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn twenty_websockets_live_side_by_side() {
    let tunnel = Tunnel::start().await;
    let host = tunnel.server.host("app1");
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(WebSocket::connect(tunnel.server.public, &host, "/ws").await.unwrap());
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send_text(&format!("socket {number}")).await.unwrap();
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.receive().await.unwrap(), Some(Message::Text(format!("socket {number}"))));
    }
}
