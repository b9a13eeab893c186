//! Servers that are down, silent, slow, lying, or something else.

use std::time::{Duration, Instant};

use testkit::origin::{Canned, GrpcHealth, HttpOrigin, Manner};

use super::{ask_within, bad, loopback};
use crate::support::DEADLINE;

/// One of each kind, with a login where there may be one.
const ALL: [&str; 8] = [
    "type: http, path: /health",
    "type: postgres",
    "type: postgres, user: app, password: hunter2, sslmode: disable",
    "type: redis, password: hunter2",
    "type: mysql",
    "type: grpc",
    "type: kafka",
    "type: kafka, user: app, password: hunter2, mechanism: scram-sha-512",
];

#[tokio::test]
async fn a_server_that_is_down_is_told_as_such() {
    let port = testkit::process::free_port().unwrap();
    for body in ALL.into_iter().chain(["type: tcp"]) {
        let said = bad(body, loopback(port)).await;
        assert!(said.starts_with("cannot connect") && said.contains("refused"), "{body}: {said}");
    }
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_timeout() {
    let silent = Canned::start("", Manner::First).await.unwrap();
    for body in ALL {
        let begun = Instant::now();
        let error = ask_within(body, silent.addr(), Duration::from_millis(300)).await.unwrap_err();
        assert!(begun.elapsed() < DEADLINE / 2);
        let said = error.to_string();
        assert!(said.starts_with("no answer within 300ms while "), "{body}: {said}");
        assert!(!said.ends_with("connecting"), "{body}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_told_as_such() {
    let closing = Canned::start("", Manner::Closing).await.unwrap();
    for body in ALL {
        let error = ask_within(body, closing.addr(), Duration::from_secs(5)).await.unwrap_err().to_string();
        let silent = body.contains("mysql") && error.starts_with("no answer");
        assert!(silent || error.starts_with("the connection was closed"), "{body}: {error}");
    }
}

#[tokio::test]
async fn another_protocol_is_called_by_its_name() {
    for (words, manner, name) in [
        (&b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"[..], Manner::Closing, "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Manner::First, "SSH"),
        (b"-ERR unknown command\r\n", Manner::Asked, "Redis"),
        (b"\x15\x03\x01\0\x02\x02\x16", Manner::Asked, "TLS"),
        (b"\x4a\0\0\0\x0a5.5.5-10.11.6-MariaDB\0\x01\0\0\0abcdefgh\0\0\0\0\0\0\0\0\0\0", Manner::First, "MySQL"),
        (b"220 mail.example.com ESMTP\r\n", Manner::First, "SMTP or FTP"),
    ] {
        let server = Canned::start(words, manner).await.unwrap();
        for body in ALL {
            // A probe of the right kind, or one that waits for a greeting.
            let own = (name == "HTTP" && body.contains("http"))
                || (name == "Redis" && body.contains("redis"))
                || body.contains("mysql") && (name == "MySQL" || manner != Manner::First);
            if own {
                continue;
            }
            let said = bad(body, server.addr()).await;
            let expected = format!("it answers {name}");
            assert!(said.starts_with(&expected), "{body}: {said}");
        }
    }
}

#[tokio::test]
async fn real_servers_of_another_kind_are_known_too() {
    let http = HttpOrigin::start().await.unwrap();
    let grpc = GrpcHealth::start(&[("", 1)]).await.unwrap();
    let said = bad("type: grpc", http.addr()).await;
    assert!(said.starts_with("it answers HTTP/1, not gRPC") || said.starts_with("the connection was closed"), "{said}");
    let said = bad("type: http", grpc.addr()).await;
    assert_eq!(said, "it answers HTTP/2, not HTTP");
}

#[tokio::test]
async fn lengths_that_are_lies_take_no_memory() {
    for (body, words) in [
        (
            "type: postgres, user: a, sslmode: disable",
            &b"R\xff\xff\xff\xff\0\0\0\0rest of it and more and more and more"[..],
        ),
        ("type: postgres, user: a, sslmode: disable", b"R\0\0\0\x01\0\0\0\0rest of it and more and more and more"),
        ("type: kafka", b"\x7f\xff\xff\xff\0\0\0\x01rest of it and more and more and more and more"),
        ("type: kafka", b"\0\0\0\x10\0\0\0\x63rest of it and more and more and more and more"),
        ("type: kafka", b"\0\0\0\x0e\0\0\0\x01\0\0\x7f\xff\xff\xff\0\0\0\0rest of it and more and more and more"),
        ("type: redis", b"+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
        ("type: redis", b"$2147483647\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("type: mysql", b"\xff\xff\xff\0\x09rest of it and more and more and more and more and more"),
    ] {
        let manner = if body.contains("mysql") { Manner::First } else { Manner::Asked };
        let server = Canned::start(words, manner).await.unwrap();
        let said = bad(body, server.addr()).await;
        assert!(said.starts_with("its answer is not "), "{body}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_repeats_the_password_does_not_get_it_into_the_text() {
    let error = b"E\0\0\0\x2bSFATAL\0C28P01\0Mbad: hunter2 for app\0\0";
    let mut error = error.to_vec();
    error[4] = u8::try_from(error.len() - 1).unwrap();
    let server = Canned::start(error, Manner::Asked).await.unwrap();
    let body = "type: postgres, user: app, password: hunter2, sslmode: disable";
    assert_eq!(bad(body, server.addr()).await, "bad: [redacted] for app (code 28P01)");
    let server = Canned::start("-WRONGPASS hunter2 is not it\r\n", Manner::Asked).await.unwrap();
    assert_eq!(bad("type: redis, password: hunter2", server.addr()).await, "WRONGPASS [redacted] is not it");
}
