//! Forwarded ports over all transports.

use std::time::Instant;

use super::*;

async fn both(site: &Site) -> [Peer; 2] {
    [site.forward().await, site.tunnel().await]
}

#[tokio::test]
async fn bytes_go_both_ways_on_several_pairs_of_one_connection() {
    let site = Site::start().await;
    for mut peer in both(&site).await {
        let (_, one) = peer.pair("7000", "0").await;
        let (_, two) = peer.pair("7000", "1").await;
        peer.data(one, b"echo\nfirst", false).await;
        assert_eq!(peer.bytes(one, 5).await, b"first");
        peer.data(two, b"echo\nsecond", false).await;
        assert_eq!(peer.bytes(two, 6).await, b"second");
        assert_eq!(site.cluster.faults().streams().open_streams(), 2);
        drop(peer);
        until("the streams are gone", || site.cluster.faults().streams().open_streams() == 0).await;
    }
}

#[tokio::test]
async fn a_megabyte_in_one_frame_is_taken() {
    let site = Site::start().await;
    for mut peer in both(&site).await {
        let (_, data) = peer.pair("7000", "0").await;
        let body: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[0]).collect();
        peer.data(data, b"echo\n", false).await;
        peer.data(data, &body, false).await;
        assert!(peer.bytes(data, body.len()).await == body);
    }
}

#[tokio::test]
async fn the_data_stream_may_come_first_and_the_request_id_may_be_missing() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let data = peer.syn(false, &[("streamtype", "data"), ("port", "7000"), ("requestID", "7")]).await;
    let error = peer.syn(false, &[("streamtype", "error"), ("port", "7000"), ("requestID", "7")]).await;
    assert_eq!((peer.seen().await, peer.seen().await), (Seen::Reply(data), Seen::Reply(error)));
    peer.data(data, b"echo\nx", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"x");
    let error = peer.syn(false, &[("streamtype", "error"), ("port", "7000")]).await;
    let data = peer.syn(false, &[("streamtype", "data"), ("port", "7000")]).await;
    assert_eq!((peer.seen().await, peer.seen().await), (Seen::Reply(error), Seen::Reply(data)));
    peer.data(data, b"echo\ny", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"y");
}

#[tokio::test]
async fn streams_that_make_no_sense_are_reset_with_5() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let wrong: [&[(&str, &str)]; 5] = [
        &[("streamtype", "other"), ("port", "7000")],
        &[("port", "7000")],
        &[("streamtype", "data")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "70000")],
    ];
    for headers in wrong {
        let id = peer.syn(false, headers).await;
        assert_eq!(peer.seen().await, Seen::Reset(id, 5), "{headers:?}");
    }
    let id = peer.syn(true, &[("streamtype", "error"), ("port", "7000")]).await;
    assert_eq!(peer.seen().await, Seen::Reset(id, 5));
    peer.next = 1;
    let id = peer.syn(false, &[("streamtype", "error"), ("port", "7000")]).await;
    assert_eq!(peer.seen().await, Seen::Reset(id, 1));
}

#[tokio::test]
async fn a_half_that_stays_alone_is_told_so() {
    let site = Site::with(|options| options.stream_pair_wait = WAIT).await;
    let mut peer = site.forward().await;
    let error = peer.syn(false, &[("streamtype", "error"), ("port", "7000"), ("requestid", "9")]).await;
    assert_eq!(peer.seen().await, Seen::Reply(error));
    let Seen::Data(id, text, false) = peer.seen().await else { panic!() };
    let text = String::from_utf8(text).unwrap();
    assert_eq!(id, error);
    assert!(text.ends_with("request=9) timed out waiting for streams"), "{text}");
    let (_, data) = peer.pair("7000", "9").await;
    peer.data(data, b"echo\nx", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"x");
}

#[tokio::test]
async fn a_refused_port_harms_only_its_pair() {
    let site = Site::start().await;
    for mut peer in both(&site).await {
        let (_, good) = peer.pair("7000", "0").await;
        let (error, data) = peer.pair("9999", "1").await;
        assert_eq!(peer.seen().await, Seen::Data(data, Vec::new(), true));
        let Seen::Data(id, text, false) = peer.seen().await else { panic!() };
        let text = String::from_utf8(text).unwrap();
        assert_eq!(id, error);
        assert!(text.starts_with("error forwarding port 9999 to pod "), "{text}");
        assert!(text.contains("dial tcp4 127.0.0.1:9999: connect: connection refused IPv6 dial tcp6"), "{text}");
        assert!((400..600).contains(&text.len()), "{} bytes", text.len());
        assert_eq!(peer.seen().await, Seen::Reset(error, 5));
        peer.data(good, b"echo\nx", false).await;
        assert_eq!(peer.bytes(good, 1).await, b"x");
    }
}

#[tokio::test]
async fn a_reset_in_the_pod_comes_late_and_as_a_text() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (error, data) = peer.pair("7000", "0").await;
    let begun = Instant::now();
    peer.data(data, b"reset 3\n", false).await;
    let text = String::from_utf8(peer.rest(error).await).unwrap();
    assert!(text.ends_with("read: connection reset by peer"), "{text}");
    assert!(begun.elapsed() >= WAIT);
}

#[tokio::test]
async fn the_pods_end_reaches_the_client_after_the_wait() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (_, data) = peer.pair("7000", "0").await;
    peer.data(data, b"source 100000\n", false).await;
    assert_eq!(peer.bytes(data, 100_000).await.len(), 100_000);
    let begun = Instant::now();
    assert_eq!(peer.seen().await, Seen::Data(data, Vec::new(), true));
    assert!(begun.elapsed() >= WAIT * 8 / 10, "{:?}", begun.elapsed());
    assert_eq!(peer.seen().await, Seen::Data(1, Vec::new(), true));
}

#[tokio::test]
async fn an_answer_that_needs_the_clients_end_never_comes() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (_, data) = peer.pair("7000", "0").await;
    // `sink` answers at the end of what it reads.
    peer.data(data, b"sink\nabc", true).await;
    assert_eq!(peer.rest(data).await, b"");
}

#[tokio::test]
async fn an_unread_stream_stands_in_front_of_the_others() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (_, flood) = peer.pair("7000", "0").await;
    let (_, other) = peer.pair("7000", "1").await;
    peer.data(flood, b"source\n", false).await;
    let streams = site.cluster.faults().streams();
    // The flood has stopped when nothing has been written for a while.
    let mut last = (0, Instant::now());
    until("the flood stopped", || {
        let now = streams.bytes_to_clients();
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > 1 << 20 && last.1.elapsed() > WHILE
    })
    .await;
    peer.data(other, b"echo\nx", false).await;
    let mut in_front = 0;
    loop {
        match peer.seen().await {
            Seen::Data(id, bytes, _) if id == flood => in_front += bytes.len(),
            Seen::Data(id, bytes, _) => {
                assert_eq!((id, &bytes[..]), (other, &b"x"[..]));
                break;
            }
            seen => panic!("{seen:?}"),
        }
    }
    assert!(in_front > 4 << 20, "only {in_front} bytes stood in front");
}

#[tokio::test]
async fn an_upload_nobody_reads_blocks_the_connection_and_not_the_server() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (_, data) = peer.pair("7000", "0").await;
    peer.data(data, b"hold\n", false).await;
    let block = vec![0; 1 << 20];
    let mut sent = 0;
    while timeout(Duration::from_millis(300), peer.data(data, &block, false)).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "a hundred megabytes were taken");
    }
    assert!(sent > 8, "only {sent} MB were taken");
    assert_eq!(site.forward().await.pair("7000", "0").await, (1, 3));
}

#[tokio::test]
async fn pings_are_answered_in_spdy_and_in_the_websocket() {
    let site = Site::start().await;
    for mut peer in both(&site).await {
        peer.control(Control::Ping, &[5]).await;
        assert_eq!(peer.seen().await, Seen::Ping(5));
    }
    let mut peer = site.tunnel().await;
    peer.frame(0x89, b"are you there").await;
    assert_eq!(peer.message().await, Some((0xA, b"are you there".to_vec())));
    peer.frame(0x88, &1000u16.to_be_bytes()).await;
    assert_eq!(peer.message().await, Some((0x8, 1000u16.to_be_bytes().to_vec())));
    assert_eq!(peer.message().await, None);
}

#[tokio::test]
async fn a_text_closes_a_tunnel_and_garbage_ends_a_connection() {
    let site = Site::start().await;
    let mut peer = site.tunnel().await;
    peer.frame(0x81, b"text").await;
    assert_eq!(peer.message().await, Some((0x8, 1003u16.to_be_bytes().to_vec())));
    let mut peer = site.forward().await;
    peer.send(b"\xFFgarbage and more of it").await;
    assert_eq!(peer.seen().await, Seen::End);
}

#[tokio::test]
async fn messages_of_a_tunnel_begin_with_an_empty_fragment() {
    let site = Site::start().await;
    let mut peer = site.tunnel().await;
    peer.control(Control::Ping, &[1]).await;
    let mut raw = [0; 4 + 12];
    peer.io.read_exact(&mut raw).await.unwrap();
    assert_eq!(raw[..4], [0x02, 0, 0x80, 12]);
}

#[tokio::test]
async fn a_deleted_pod_ends_open_streams_and_leaves_the_connection() {
    let site = Site::start().await;
    let mut idle = site.forward().await;
    let mut peer = site.forward().await;
    let (error, data) = peer.pair("7000", "0").await;
    peer.data(data, b"echo\nx", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"x");
    let begun = Instant::now();
    site.cluster.delete("Pod", "default", "web");
    assert_eq!(peer.seen().await, Seen::Data(data, Vec::new(), true));
    assert!(begun.elapsed() >= Duration::from_millis(140), "{:?}", begun.elapsed());
    assert_eq!(peer.seen().await, Seen::Data(error, Vec::new(), true));
    peer.sees_nothing().await;
    idle.sees_nothing().await;
    // A new pod of the same name is another sandbox.
    site.cluster.add_pod(PodSpec::new("default", "web").port("tcp", 7000).backend(7000, site.origin.addr()));
    for peer in [&mut peer, &mut idle] {
        let (error, _) = peer.pair("7000", "5").await;
        let text = String::from_utf8(peer.rest(error).await).unwrap();
        assert!(text.contains("failed to find sandbox"), "{text}");
    }
    let (_, data) = {
        peer = site.forward().await;
        peer.pair("7000", "0").await
    };
    peer.data(data, b"echo\nx", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"x");
}

#[tokio::test]
async fn a_container_restart_ends_open_streams_and_takes_new_ones() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (_, data) = peer.pair("7000", "0").await;
    peer.data(data, b"echo\nx", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"x");
    let begun = Instant::now();
    site.cluster.restart_containers("default", "web");
    assert_eq!(peer.seen().await, Seen::Data(data, Vec::new(), true));
    assert!(begun.elapsed() >= WAIT * 19 / 10, "{:?}", begun.elapsed());
    assert!(matches!(peer.seen().await, Seen::Data(_, _, true)));
    let (_, data) = peer.pair("7000", "1").await;
    peer.data(data, b"echo\ny", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"y");
}

#[tokio::test]
async fn channels_carry_ports_by_their_index() {
    let site = Site::start().await;
    let mut peer = site.websocket("portforward?ports=7000&ports=9999", "v4.channel.k8s.io").await;
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(peer.channel().await.unwrap());
    }
    let (one, two) = (7000u16.to_le_bytes().to_vec(), 9999u16.to_le_bytes().to_vec());
    assert_eq!(first, [(0, one.clone()), (1, one), (2, two.clone()), (3, two)]);
    let (channel, text) = peer.channel().await.unwrap();
    assert_eq!(channel, 3);
    assert!(String::from_utf8(text).unwrap().contains("connection refused"));
    peer.frame(0x82, b"\x00source 5\n").await;
    let mut got = Vec::new();
    while got.len() < 5 {
        let (channel, bytes) = peer.channel().await.unwrap();
        assert_eq!(channel, 0);
        got.extend(bytes);
    }
    assert_eq!(peer.channel().await.unwrap(), (0x88, 1000u16.to_be_bytes().to_vec()));
    assert_eq!(peer.channel().await, None);
}

#[tokio::test]
async fn a_thousand_pairs_fit_on_one_connection() {
    let site = Site::start().await;
    let mut peer = site.tunnel().await;
    let mut streams = Vec::new();
    for request in 0..1000 {
        let (_, data) = peer.pair("7000", &request.to_string()).await;
        streams.push(data);
    }
    for data in &streams {
        peer.data(*data, b"echo\nz", false).await;
        assert_eq!(peer.bytes(*data, 1).await, b"z");
    }
    assert_eq!(site.cluster.faults().streams().open_streams(), 1000);
}

#[tokio::test]
async fn nothing_is_sent_on_a_stream_the_client_has_reset() {
    let site = Site::start().await;
    let mut peer = site.forward().await;
    let (error, data) = peer.pair("7000", "0").await;
    peer.data(data, b"source\n", false).await;
    peer.bytes(data, 1000).await;
    peer.control(Control::Reset, &[data, 5]).await;
    peer.control(Control::Ping, &[1]).await;
    loop {
        match peer.seen().await {
            Seen::Data(id, _, false) if id == data => {}
            // What was queued before the reset may come, its end may not.
            Seen::Data(id, bytes, true) => {
                assert_eq!((id, bytes.len()), (error, 0));
                break;
            }
            seen => assert_eq!(seen, Seen::Ping(1)),
        }
    }
    peer.sees_nothing().await;
    let (_, data) = peer.pair("7000", "1").await;
    peer.data(data, b"echo\nx", false).await;
    assert_eq!(peer.bytes(data, 1).await, b"x");
}

#[tokio::test]
async fn two_hundred_connections_at_once_leave_nothing_behind() {
    let site = Site::start().await;
    let mut peers = Vec::new();
    for _ in 0..100 {
        for mut peer in both(&site).await {
            let (_, data) = peer.pair("7000", "0").await;
            peer.data(data, b"echo\nx", false).await;
            peers.push((peer, data));
        }
    }
    for (peer, data) in &mut peers {
        assert_eq!(peer.bytes(*data, 1).await, b"x");
    }
    let streams = site.cluster.faults().streams();
    assert_eq!((streams.open_connections(), streams.open_streams()), (200, 200));
    drop(peers);
    until("all are gone", || streams.open_connections() == 0 && streams.open_streams() == 0).await;
    until("the pod's side too", || site.origin.open() == 0).await;
}
