//! Which way a server takes streams: what is tried, in which order, and what is remembered.

use std::time::Duration;

use runtime::Connect as _;
use testkit::cluster::{ClusterOptions, ServerVersion, Transport};

use crate::support::{
    Bed, DEADLINE, call, eventually, lose, open, patience, ready, refusal, rest, say, told, trip, within,
};

const UPGRADE: &str = "GET /api/v1/namespaces/default/pods/web-1/portforward";
const POST: &str = "POST /api/v1/namespaces/default/pods/web-1/portforward";

#[tokio::test]
async fn each_server_is_spoken_to_as_it_can() {
    for (version, transport) in
        [(ServerVersion::V1_28, "spdy"), (ServerVersion::V1_31, "tunnel"), (ServerVersion::V1_36, "tunnel")]
    {
        let bed = Bed::web_with(ClusterOptions { version, ..ClusterOptions::default() }).await;
        let forward = bed.ready().await;
        assert_eq!(forward.report().transport, Some(transport), "{version:?}");
        call(&forward).await;
    }
}

#[tokio::test]
async fn what_a_server_took_is_remembered_for_the_cluster() {
    let bed = Bed::web_with(ClusterOptions { version: ServerVersion::V1_28, ..ClusterOptions::default() }).await;
    let forward = bed.ready().await;
    assert_eq!(bed.cluster.count_requests(UPGRADE), 1, "the tunnel is tried once");
    // Another pod, another forward, lost connections: none of them asks again.
    bed.pod("web-2");
    ready(&bed.forward("pod/web-2:8080")).await;
    lose(&forward, || bed.cluster.faults().cut_connections()).await;
    call(&forward).await;
    assert_eq!(bed.cluster.count_requests("GET /api/v1/namespaces/default/pods/web-2/portforward"), 0);
    assert_eq!(bed.cluster.count_requests(UPGRADE), 1);
}

#[tokio::test]
async fn a_tunnel_refused_by_whatever_status_is_followed_by_spdy() {
    for status in [400, 403, 404, 405, 426, 500, 501, 502] {
        let bed = Bed::web().await;
        bed.cluster.faults().streams().force(Transport::Tunnel, Some(status));
        let forward = bed.ready().await;
        assert_eq!(forward.report().transport, Some("spdy"), "{status}");
        call(&forward).await;
    }
}

#[tokio::test]
async fn where_neither_is_taken_each_stream_has_a_connection_of_the_channel_protocol() {
    let bed = Bed::web().await;
    let faults = bed.cluster.faults().streams();
    faults.force(Transport::Tunnel, Some(403));
    faults.force(Transport::Spdy, Some(403));
    let forward = bed.ready().await;
    assert_eq!(forward.report().transport, Some("websocket"));
    for _ in 0..3 {
        call(&forward).await;
    }
    let mut first = open(&forward).await;
    let mut second = open(&forward).await;
    trip(&mut first, b"one\n").await.unwrap();
    trip(&mut second, b"two\n").await.unwrap();
    assert_eq!(rest(&mut say(&forward, "source 300000\n").await).await.unwrap().len(), 300_000);
    drop((first, second));
    eventually(DEADLINE, "no connection is left behind", || faults.open_connections() == 0).await;
    assert!(bed.cluster.count_requests(POST) <= 3, "what is refused is not asked for each stream");
}

#[tokio::test]
async fn a_refused_port_over_the_channel_protocol_is_a_refusal_and_no_more() {
    let bed = Bed::web().await;
    let faults = bed.cluster.faults().streams();
    faults.force(Transport::Tunnel, Some(403));
    faults.force(Transport::Spdy, Some(403));
    let forward = bed.ready().await;
    bed.cluster.set_backend("default", "web-1", 8080, None);
    let error = rest(&mut say(&forward, "anything\n").await).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    bed.cluster.set_backend("default", "web-1", 8080, Some(bed.origin.addr()));
    call(&forward).await;
}

#[tokio::test]
async fn a_server_that_learns_a_better_way_or_forgets_one_is_followed() {
    let bed = Bed::web().await;
    let faults = bed.cluster.faults().streams();
    let forward = bed.ready().await;
    for (tunnel, spdy) in [(Some(403), None), (None, Some(403)), (Some(403), Some(403))] {
        faults.force(Transport::Tunnel, tunnel);
        faults.force(Transport::Spdy, spdy);
        lose(&forward, || bed.cluster.faults().cut_connections()).await;
        call(&forward).await;
    }
    // From here on each stream has a connection of its own, and a server that refuses that is asked for all again.
    faults.force(Transport::Tunnel, None);
    faults.force(Transport::Channels, Some(403));
    for _ in 0..3 {
        call(&forward).await;
    }
    eventually(DEADLINE, "no stream is left", || faults.open_streams() == 0).await;
}

#[tokio::test]
async fn a_missing_right_is_told_in_the_servers_words() {
    let bed = Bed::web().await;
    bed.cluster.faults().deny("*", "pods/portforward");
    let said = refusal(&bed.forward("service/web:80")).await;
    said.has(&["web-1", "forbidden", "pods/portforward"], &["create", "pods/portforward"]);
    assert_eq!(said.fault, adit_core::diagnose::Fault::Auth);
}

#[tokio::test]
async fn a_right_that_is_taken_away_in_mid_session_is_told_to_the_next_connection() {
    let bed = Bed::web().await;
    let forward = bed.forward_with("service/web:80", patience(Duration::from_secs(2)));
    ready(&forward).await;
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    bed.cluster.faults().deny("*", "pods/portforward");
    bed.pod("web-2");
    bed.cluster.terminate("default", "web-1");
    crate::support::moved(&forward, "web-2").await;
    let error = within("the connection fails", forward.connect()).await.unwrap_err();
    assert!(told(&error).contains("forbidden"), "{}", told(&error));
    trip(&mut running, b"after\n").await.unwrap();
    bed.cluster.faults().allow_all();
    call(&forward).await;
}

#[tokio::test]
async fn a_server_that_chooses_another_protocol_than_it_was_asked_for_is_not_trusted() {
    // Not 101, and not a Status either: pages of a proxy in between.
    let bed = Bed::web().await;
    let faults = bed.cluster.faults().streams();
    faults.refuse_upgrades(3, 502, "<html><body>bad gateway</body></html>");
    let forward = bed.forward_with("service/web:80", patience(Duration::from_secs(5)));
    // Three times refused is one round through all transports; the next round works.
    ready(&forward).await;
    call(&forward).await;
}
