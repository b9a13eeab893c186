//! Scripted faults.

use std::time::Instant;

use super::*;
use crate::cluster::Transport;

#[tokio::test]
async fn upgrades_are_refused_forced_and_delayed_as_told() {
    let site = Site::start().await;
    let faults = site.cluster.faults().streams();
    let tunnel: Vec<_> =
        WEBSOCKET.into_iter().chain([("Sec-WebSocket-Protocol", "SPDY/3.1+portforward.k8s.io")]).collect();
    faults.refuse_upgrades(1, 503, "not now");
    assert_eq!(site.ask("GET", "portforward", &tunnel).await.0.status, 503);
    assert_eq!(site.ask("GET", "portforward", &tunnel).await.0.status, 101);
    faults.force(Transport::Tunnel, Some(403));
    assert_eq!(site.ask("GET", "portforward", &tunnel).await.0.status, 403);
    site.forward().await;
    faults.force(Transport::Tunnel, None);
    assert_eq!(site.ask("GET", "portforward", &tunnel).await.0.status, 101);
    faults.upgrade_delay(WAIT);
    let begun = Instant::now();
    site.forward().await;
    assert!(begun.elapsed() >= WAIT);
}

#[tokio::test]
async fn a_connection_is_reset_after_its_bytes() {
    let site = Site::start().await;
    site.cluster.faults().streams().cut_after(Some(5000));
    let mut peer = site.forward().await;
    let (_, data) = peer.pair("7000", "0").await;
    peer.data(data, b"source\n", false).await;
    let mut total = 0;
    let error = loop {
        let mut buffer = vec![0; 4096];
        match timeout(SOON, peer.io.read(&mut buffer)).await.unwrap() {
            Ok(0) => panic!("it ended in order after {total}"),
            Ok(length) => total += length,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(total <= 5000, "{total}");
    site.cluster.faults().streams().cut_after(None);
    let mut peer = site.forward().await;
    peer.pair("7000", "0").await;
    site.cluster.faults().streams().cut_all();
    assert_eq!(peer.seen().await, Seen::End);
}

#[tokio::test]
async fn a_silent_server_stays_open_and_goes_on_later() {
    let site = Site::start().await;
    let faults = site.cluster.faults().streams();
    let mut peer = site.tunnel().await;
    peer.pair("7000", "0").await;
    faults.silent(true);
    peer.control(Control::Ping, &[9]).await;
    peer.sees_nothing().await;
    faults.silent(false);
    assert_eq!(peer.seen().await, Seen::Ping(9));
}

#[tokio::test]
async fn streams_fail_wait_or_get_no_answer_as_told() {
    let site = Site::start().await;
    let faults = site.cluster.faults().streams();
    let mut peer = site.forward().await;
    faults.stream_errors(1, "made up");
    let (error, _) = peer.pair("7000", "0").await;
    let text = String::from_utf8(peer.rest(error).await).unwrap();
    assert!(text.ends_with("made up"), "{text}");
    faults.stream_delay(WAIT);
    let begun = Instant::now();
    peer.pair("7000", "1").await;
    assert!(begun.elapsed() >= WAIT);
    faults.never_reply(true);
    peer.syn(false, &[("streamtype", "error"), ("port", "7000")]).await;
    peer.sees_nothing().await;
}

#[tokio::test]
async fn after_go_away_running_streams_go_on_and_new_ones_get_nothing() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (_, data) = peer.pair("7000", "0").await;
    site.cluster.faults().streams().go_away();
    assert_eq!(peer.seen().await, Seen::GoAway);
    peer.data(data, b"echo\nx", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"x");
    peer.syn(false, &[("streamtype", "error"), ("port", "7000")]).await;
    peer.sees_nothing().await;
}
