//! Bodies: streamed, whole, of any size and framing.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use testkit::noise;
use testkit::origin::{RANGE_LENGTH, pattern};
use testkit::raw::{self, Client};

use super::Tunnel;
use crate::support::{Server, curl};

const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// SHA-256 of the first `length` bytes the local service sends on `/bytes`.
fn hash_of_pattern(length: usize) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut done = 0;
    while done < length {
        let n = (length - done).min(1 << 20);
        hasher.update(pattern(done, n));
        done += n;
    }
    hasher.finalize().into()
}

#[tokio::test]
async fn an_echo_comes_back_while_the_upload_still_runs() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let head = raw::head("POST", &tunnel.server.host("app1"), "/echo", &[CHUNKED], None);
    client.send(&head).await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 200);
    for round in 0..10_u64 {
        let sent = noise::bytes(round, 3000);
        client.send(&chunk(&sent)).await.unwrap();
        let mut got = Vec::new();
        while got.len() < sent.len() {
            got.extend_from_slice(&client.piece().await.unwrap().expect("the answer goes on"));
        }
        assert_eq!(got, sent, "round {round}");
    }
    client.send(b"0\r\n\r\n").await.unwrap();
    assert_eq!(client.piece().await.unwrap(), None);
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one_as_they_are_sent() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    client.send(&raw::head("GET", &tunnel.server.host("app1"), "/sse?events=0&ms=100", &[], None)).await.unwrap();
    let answer = client.response_head(false).await.unwrap();
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    for number in 0..5 {
        let asked = Instant::now();
        let event = client.piece().await.unwrap().unwrap();
        assert_eq!(event, format!("id: {number}\ndata: event {number}\n\n"));
        assert!(asked.elapsed() < Duration::from_millis(1500), "event {number} took {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn long_polls_and_quiet_event_streams_are_not_cut() {
    let setup = Server::setup().section("limits: { idle_timeout: 1s, header_timeout: 1s }");
    let tunnel = Tunnel::start_with(setup, &[]).await;
    let poll = async {
        let answer = tunnel.server.get("app1", "/slow?ms=3000").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"));
    };
    let poll_h2 = async {
        let answer = curl(&["--http2-prior-knowledge", &tunnel.url("/slow?ms=3000")]).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"));
    };
    let events = async {
        let answer = tunnel.server.get("app1", "/sse?events=2&ms=2500").await;
        assert!(answer.text().contains("event 1"), "{}", answer.text());
    };
    tokio::join!(poll, poll_h2, events);
}

#[tokio::test]
async fn chunked_and_length_delimited_bodies_keep_their_framing() {
    let tunnel = Tunnel::start().await;
    let whole = tunnel.server.get("app1", "/bytes/5000").await;
    assert_eq!((whole.header("content-length"), whole.header("transfer-encoding")), (Some("5000"), None));
    let chunked = tunnel.server.get("app1", "/bytes/5000?chunked").await;
    assert_eq!((chunked.header("content-length"), chunked.header("transfer-encoding")), (None, Some("chunked")));
    let to_end = tunnel.server.get("app1", "/no-length").await;
    assert_eq!(to_end.text(), "Hello, world!");
    assert_eq!((whole.body, chunked.body), (pattern(0, 5000), pattern(0, 5000)));
}

#[tokio::test]
async fn a_request_keeps_its_framing_on_the_way_to_the_service() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let host = tunnel.server.host("app1");
    client.send(&raw::head("POST", &host, "/sink", &[CHUNKED], None)).await.unwrap();
    client.send(&[chunk(b"abc"), chunk(b"defg"), b"0\r\n\r\n".to_vec()].concat()).await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "7");
    let head = tunnel.origin.last_head().unwrap().to_lowercase();
    assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
    assert_eq!(client.request("POST", &host, "/sink", &[], b"12345").await.unwrap().text(), "5");
    let head = tunnel.origin.last_head().unwrap().to_lowercase();
    assert!(head.contains("content-length: 5") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(client.get(&host, "/head").await.unwrap().status, 200);
    let head = tunnel.origin.last_head().unwrap().to_lowercase();
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
}

#[tokio::test]
async fn trailers_reach_a_visitor_who_takes_them() {
    let tunnel = Tunnel::start().await;
    let answer = tunnel.server.request("GET", "app1", "/trailers", &[("TE", "trailers")], b"").await;
    assert_eq!((answer.text().as_str(), answer.trailer("x-checksum")), ("Hello, world!", Some("13")));
}

#[tokio::test]
async fn head_and_bodiless_answers_have_no_body_and_leave_the_connection_usable() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let host = tunnel.server.host("app1");
    client.send(&raw::head("HEAD", &host, "/bytes/5000", &[], None)).await.unwrap();
    let answer = client.response(true).await.unwrap();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5000")));
    for status in [204, 304] {
        let answer = client.get(&host, &format!("/status/{status}")).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        let status = status.to_string();
        assert_eq!(answer.header("x-status"), Some(status.as_str()));
        assert_eq!(answer.header("transfer-encoding"), None);
    }
    client.send(&raw::head("HEAD", &host, "/bytes/70?chunked", &[], None)).await.unwrap();
    assert_eq!(client.response(true).await.unwrap().status, 200);
    assert_eq!(client.get(&host, "/").await.unwrap().text(), "Hello, world!");
}

#[tokio::test]
async fn ranges_are_the_services_own() {
    let tunnel = Tunnel::start().await;
    for (range, from, length) in
        [("bytes=0-99", 0, 100), ("bytes=1000-1999", 1000, 1000), ("bytes=-50", RANGE_LENGTH - 50, 50)]
    {
        let answer = tunnel.server.request("GET", "app1", "/range", &[("Range", range)], b"").await;
        assert_eq!((answer.status, answer.body), (206, pattern(from, length)), "{range}");
    }
    let beyond = format!("bytes={RANGE_LENGTH}-");
    assert_eq!(tunnel.server.request("GET", "app1", "/range", &[("Range", &beyond)], b"").await.status, 416);
}

#[tokio::test]
async fn a_download_of_200_megabytes_arrives_whole() {
    const LENGTH: usize = 200 << 20;
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let target = format!("/bytes/{LENGTH}");
    client.send(&raw::head("GET", &tunnel.server.host("app1"), &target, &[], None)).await.unwrap();
    let started = Instant::now();
    assert_eq!(client.response_head(false).await.unwrap().header("content-length"), Some("209715200"));
    let mut hasher = Sha256::new();
    while let Some(piece) = client.piece().await.unwrap() {
        hasher.update(&piece);
    }
    println!("200 MiB down in {:?}", started.elapsed());
    assert_eq!(<[u8; 32]>::from(hasher.finalize()), hash_of_pattern(LENGTH));
}

#[tokio::test]
async fn an_upload_of_50_megabytes_arrives_whole_with_http_1_and_2() {
    let tunnel = Tunnel::start().await;
    let file = tunnel.server.dir().join("upload");
    let sent = noise::bytes(7, 50 << 20);
    std::fs::write(&file, &sent).unwrap();
    let data = format!("@{}", file.display());
    for option in ["--http1.1", "--http2-prior-knowledge"] {
        let started = Instant::now();
        let answer = curl(&[option, "--data-binary", &data, &tunnel.url("/echo")]).await;
        println!("50 MiB up and back with {option} in {:?}", started.elapsed());
        assert_eq!((answer.exit, answer.status, answer.body.len()), (0, 200, sent.len()));
        assert_eq!(Sha256::digest(&answer.body), Sha256::digest(&sent));
    }
}

#[tokio::test]
async fn a_visitor_who_expects_100_continue_gets_it_before_the_body() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let host = tunnel.server.host("app1");
    let expect = [("Expect", "100-continue"), ("Content-Length", "5")];
    client.send(&raw::head("POST", &host, "/echo", &expect, None)).await.unwrap();
    assert_eq!(client.any_head(false).await.unwrap().status, 100);
    client.send(b"hello").await.unwrap();
    assert_eq!(client.response(false).await.unwrap().text(), "hello");
    let answer = curl(&["--http1.1", "-H", "Expect: 100-continue", "--data-binary", "abc", &tunnel.url("/echo")]).await;
    assert!(answer.heads.contains("100 Continue"), "{}", answer.heads);
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
}

#[tokio::test]
async fn interim_answers_do_not_disturb_the_final_one() {
    let tunnel = Tunnel::start().await;
    let mut client = Client::connect(tunnel.server.public).await.unwrap();
    let host = tunnel.server.host("app1");
    for _ in 0..2 {
        let answer = client.get(&host, "/early").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"));
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_is_over_reaches_the_visitor() {
    let tunnel = Tunnel::start().await;
    let file = tunnel.server.dir().join("upload");
    std::fs::write(&file, noise::bytes(3, 20 << 20)).unwrap();
    let data = format!("@{}", file.display());
    let answer = curl(&["--http1.1", "-H", "Expect:", "--data-binary", &data, &tunnel.url("/reject")]).await;
    assert_eq!(answer.status, 413, "curl exit {}", answer.exit);
    assert_eq!(tunnel.server.get("app1", "/").await.status, 200);
}
