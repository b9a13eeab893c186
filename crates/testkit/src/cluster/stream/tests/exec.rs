//! Commands in the pod: texts, codes, ends.

use serde_json::Value;

use super::*;
use crate::cluster::Host;

const ALL: &str = "&stdin=true&stdout=true&stderr=true";

/// What a process over SPDY said.
#[derive(Debug, Default)]
struct Said {
    out: Vec<u8>,
    err: Vec<u8>,
    status: Value,
}

fn query(args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(|arg| format!("command={arg}")).collect();
    format!("exec?{}{ALL}", args.join("&"))
}

async fn spdy(site: &Site, args: &[&str]) -> (Peer, [u32; 4]) {
    let mut peer = site.spdy(&query(args), "v4.channel.k8s.io").await;
    let mut ids = [0; 4];
    for (id, kind) in ids.iter_mut().zip(["error", "stdin", "stdout", "stderr"]) {
        *id = peer.syn(false, &[("streamtype", kind)]).await;
        assert_eq!(peer.seen().await, Seen::Reply(*id));
    }
    (peer, ids)
}

/// Runs it over SPDY with this input, which ends when `end` says so.
async fn run(site: &Site, args: &[&str], input: &[u8], end: bool) -> Said {
    let (mut peer, [error, stdin, stdout, stderr]) = spdy(site, args).await;
    peer.data(stdin, input, end).await;
    let mut said = Said::default();
    let mut status = Vec::new();
    loop {
        match peer.seen().await {
            Seen::Data(id, bytes, _) if id == stdout => said.out.extend(bytes),
            Seen::Data(id, bytes, _) if id == stderr => said.err.extend(bytes),
            Seen::Data(id, bytes, _) if id == error => status.extend(bytes),
            Seen::End => break,
            _ => {}
        }
    }
    said.status = serde_json::from_slice(&status).unwrap_or_default();
    said
}

fn code(said: &Said) -> &str {
    if said.status["status"] == "Success" {
        return "0";
    }
    said.status["details"]["causes"][0]["message"].as_str().unwrap_or("none")
}

#[tokio::test]
async fn a_process_has_its_streams_and_a_status() {
    let site = Site::start().await;
    let said = run(&site, &["cat"], b"in and out", true).await;
    assert_eq!((&said.out[..], code(&said)), (&b"in and out"[..], "0"));
    let said = run(&site, &["exit", "42"], b"", true).await;
    assert_eq!((said.status["reason"].as_str(), code(&said)), (Some("NonZeroExitCode"), "42"));
    let said = run(&site, &["nosuch"], b"", true).await;
    let message = said.status["message"].as_str().unwrap();
    assert!(message.starts_with("Internal error occurred: error executing command in container"), "{message}");
    assert_eq!(said.status["code"], 500);
}

#[tokio::test]
async fn a_websocket_carries_the_same_and_version_5_ends_stdin() {
    let site = Site::start().await;
    let mut peer = site.websocket(&query(&["cat"]), "v5.channel.k8s.io").await;
    assert_eq!(peer.channel().await, Some((1, Vec::new())));
    // Neither an empty message nor an unknown channel means anything, and a text is taken as data.
    peer.frame(0x82, b"\x00").await;
    peer.frame(0x82, b"\x09x").await;
    peer.frame(0x81, b"\x00hello").await;
    assert_eq!(peer.channel().await, Some((1, b"hello".to_vec())));
    peer.frame(0x82, &[255, 0]).await;
    let (channel, status) = peer.channel().await.unwrap();
    assert_eq!(channel, 3);
    assert_eq!(serde_json::from_slice::<Value>(&status).unwrap()["status"], "Success");
    assert_eq!(peer.channel().await, Some((0x88, 1000u16.to_be_bytes().to_vec())));
    assert_eq!(peer.channel().await, None);
}

#[tokio::test]
async fn version_4_cannot_end_stdin_and_base64_is_text() {
    let site = Site::start().await;
    let mut peer = site.websocket(&query(&["cat"]), "v4.channel.k8s.io").await;
    assert_eq!(peer.channel().await, Some((1, Vec::new())));
    peer.frame(0x82, &[255, 0]).await;
    assert!(timeout(WHILE, peer.message()).await.is_err());
    let mut peer = site.websocket(&query(&["cat"]), "v4.base64.channel.k8s.io").await;
    assert_eq!(peer.channel().await, Some((b'1', Vec::new())));
    peer.frame(0x81, b"0aGVsbG8=").await;
    assert_eq!(peer.channel().await, Some((b'1', b"aGVsbG8=".to_vec())));
}

#[tokio::test]
async fn output_on_channels_comes_in_pieces_of_4_kib() {
    let site = Site::start().await;
    site.cluster.set_tools("default", "web", &["source"]);
    let mut peer = site.websocket("exec?command=source&command=100000&stdout=true", "v5.channel.k8s.io").await;
    let mut total = 0;
    while let Some((1, bytes)) = peer.channel().await {
        assert!(bytes.len() <= 4 << 10);
        total += bytes.len();
    }
    assert_eq!(total, 100_000);
}

#[tokio::test]
async fn socat_passes_the_half_close_on_and_waits_for_the_answer() {
    let site = Site::start().await;
    site.cluster.set_host("default", "web", "db.internal:5432", site.origin.addr());
    let said = run(&site, &["socat", "-", "TCP:db.internal:5432"], b"sink\nabcde", true).await;
    assert_eq!((String::from_utf8_lossy(&said.out).trim(), code(&said)), ("5", "0"));
    for tool in [["nc", "db.internal", "5432"], ["nc", "127.0.0.1", "7000"]] {
        let said = run(&site, &tool, b"sink\nabcde", true).await;
        assert_eq!((String::from_utf8_lossy(&said.out).trim(), code(&said)), ("5", "0"), "{tool:?}");
    }
    // The host's end ends the process, though stdin is open.
    let said = run(&site, &["socat", "-t", "0.1", "-", "TCP:db.internal:5432"], b"source 9\n", false).await;
    assert_eq!((said.out.len(), code(&said)), (9, "0"));
}

#[tokio::test]
async fn socat_gives_up_when_the_answer_takes_longer_than_t() {
    let site = Site::start().await;
    let said = run(&site, &["socat", "-t", "0.05", "-", "TCP:localhost:7000"], b"silent\n", true).await;
    assert_eq!((said.out.len(), code(&said)), (0, "0"));
}

#[tokio::test]
async fn the_tools_say_why_they_cannot_connect() {
    let site = Site::start().await;
    let inside = site.cluster.faults().streams().inside();
    inside.set_connect_timeout(WHILE);
    inside.set_host("default", "web", "closed:1", Host::Refused);
    inside.set_host("default", "web", "10.1.2.3:80", Host::TimesOut);
    let cases = [
        (&["socat", "-", "TCP:127.0.0.1:1"][..], "E connect(5, AF=2 127.0.0.1:1, 16): Connection refused"),
        (&["socat", "-", "TCP6:[::1]:1"], "AF=10 [0000:0000:0000:0000:0000:0000:0000:0001]:1, 28): Connection refused"),
        (&["socat", "-", "TCP:10.1.2.3:80"], "AF=2 10.1.2.3:80, 16): Connection timed out"),
        (&["socat", "-", "TCP:nosuch:80"], "Name or service not known"),
        (&["nc", "127.0.0.1", "1"], "nc: can't connect to remote host (127.0.0.1): Connection refused"),
        (&["nc", "-w", "1", "10.1.2.3", "80"], "nc: timed out"),
        (&["nc", "nosuch", "80"], "nc: bad address 'nosuch'"),
        (&["nc", "10.9.9.9", "80"], "No route to host"),
    ];
    for (args, words) in cases {
        let said = run(&site, args, b"", true).await;
        let text = String::from_utf8_lossy(&said.err);
        assert!(text.contains(words), "{args:?}: {text}");
        assert_eq!(code(&said), "1", "{args:?}");
    }
}

#[tokio::test]
async fn a_pod_has_the_tools_it_was_given() {
    let site = Site::start().await;
    site.cluster.set_tools("default", "web", &["nc-openbsd", "sh"]);
    assert_eq!(run(&site, &["socat", "-V"], b"", true).await.status["code"], 500);
    let said = run(&site, &["nc", "-N", "localhost", "7000"], b"sink\nabc", true).await;
    assert_eq!(String::from_utf8_lossy(&said.out).trim(), "3");
    let said = run(&site, &["sh", "-c", "exit%204"], b"", true).await;
    assert_eq!(code(&said), "4");
    site.cluster.set_tools("default", "web/main", &[]);
    assert_eq!(run(&site, &["sh", "-c", "exit%204"], b"", true).await.status["code"], 500);
}

#[tokio::test]
async fn a_process_outlives_its_client_and_sees_the_end_of_stdin() {
    let site = Site::start().await;
    let streams = site.cluster.faults().streams();
    let (peer, _) = spdy(&site, &["sleep", "0.3"]).await;
    until("it runs", || streams.running_processes() == 1).await;
    drop(peer);
    until("the connection is gone", || streams.open_connections() == 0).await;
    assert_eq!(streams.running_processes(), 1);
    until("it has slept", || streams.running_processes() == 0).await;
    let (peer, _) = spdy(&site, &["cat"]).await;
    until("it runs", || streams.running_processes() == 1).await;
    drop(peer);
    until("its input has ended", || streams.running_processes() == 0).await;
}
