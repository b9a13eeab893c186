//! Heads that two parsers could read in two ways, and hosts that are none (rules S8 and S9).

use testkit::origin::HttpOrigin;
use testkit::raw;

use crate::support::{Gate, until};

const FAULTY: &[(&str, &str)] = &[
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: app.localhost\r\nHost: app.localhost\r\n\r\n"),
    ("two different hosts", "GET / HTTP/1.1\r\nHost: app.localhost\r\nHost: b.localhost\r\n\r\n"),
    ("an absolute target of another host", "GET http://b.localhost/ HTTP/1.1\r\nHost: app.localhost\r\n\r\n"),
    ("a host with user information", "GET / HTTP/1.1\r\nHost: a@app.localhost\r\n\r\n"),
    ("an address", "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n"),
    ("an address of IPv6", "GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n"),
    ("an address of IPv6 with a port", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n"),
    ("a host outside ASCII", "GET / HTTP/1.1\r\nHost: \u{e4}pp.localhost\r\n\r\n"),
    ("an impossible port", "GET / HTTP/1.1\r\nHost: app.localhost:99999\r\n\r\n"),
    ("a host that is no name", "GET / HTTP/1.1\r\nHost: app..localhost\r\n\r\n"),
    ("two lengths", "POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    (
        "one length twice",
        "POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        "a length and chunks",
        "POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks and a length",
        "POST / HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    ("a length with a sign", "POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: +5\r\n\r\nhello"),
    ("an unknown coding", "POST / HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ("a coding in disguise", "POST / HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a folded header", "GET / HTTP/1.1\r\nHost: app.localhost\r\nX-A: b\r\n c\r\n\r\n"),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost : app.localhost\r\n\r\n"),
    ("a bare CR", "GET / HTTP/1.1\r\nHost: app.localhost\r\nX-A: b\rc\r\n\r\n"),
    ("a NUL", "GET / HTTP/1.1\r\nHost: app.localhost\r\nX-A: b\0c\r\n\r\n"),
    ("a bare LF", "GET / HTTP/1.1\nHost: app.localhost\n\n"),
    (
        "an upgrade with a body",
        "POST / HTTP/1.1\r\nHost: app.localhost\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhello",
    ),
];

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_never_passed_on() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for (what, bytes) in FAULTY {
        // A second request hides behind each, as an attacker's would.
        let attack = format!("{bytes}GET /hidden HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n");
        let answer = raw::exchange(gate.addr, attack.as_bytes()).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        // What is understood and not known is 501 (RFC 9112 section 6.1).
        let (status, word) = if *what == "an unknown coding" { (501, "not_supported") } else { (400, "bad_request") };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        assert!(answer.contains(&format!("x-adit-error: {word}\r\n")), "{what}: {answer}");
        assert_eq!(origin.heads(), [""; 0], "{what}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: nothing follows: {answer}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_or_has_too_many_fields_is_refused() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let large = format!("GET / HTTP/1.1\r\nHost: app.localhost\r\nX-Large: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nHost: app.localhost\r\n{}\r\n", "X-A: b\r\n".repeat(101));
    for attack in [large, many] {
        let answer = raw::exchange(gate.addr, attack.as_bytes()).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("x-adit-error: head_too_large\r\n"), "{answer}");
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn chunks_that_are_none_end_the_request_on_both_sides() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let attack = b"POST /sink HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\nzz\r\nGET /hidden HTTP/1.1\r\nHost: app.localhost\r\n\r\n";
    let answer = raw::exchange(gate.addr, attack).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("x-adit-error: bad_request\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "nothing follows: {answer}");
    assert!(origin.heads().iter().all(|head| head.starts_with("POST /sink ")), "{:?}", origin.heads());
    until("the end of the service's request", || origin.open() == 0).await;
}

#[tokio::test]
async fn connect_is_not_for_a_gateway() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let bytes = b"CONNECT app.localhost:80 HTTP/1.1\r\nHost: app.localhost:80\r\nConnection: close\r\n\r\n";
    let answer = raw::exchange(gate.addr, bytes).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("x-adit-error: not_supported\r\n"), "{answer}");
    assert_eq!(origin.requests(), 0);
}
