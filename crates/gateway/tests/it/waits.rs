//! Answers that take their time. The clock is the test's: an hour passes as soon as nothing else is to be done.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Gate;

/// How long the service thinks; more than any time-out of the gateway.
const HOUR: Duration = Duration::from_secs(3600);

/// Reads until `end` was read.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "ended early: {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap()
}

/// A service that thinks for an hour before each answer, and for another one in the middle of it.
async fn slow(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    loop {
        read_to(&mut stream, "\r\n\r\n").await;
        tokio::time::sleep(HOUR).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none").await.unwrap();
        tokio::time::sleep(HOUR).await;
        stream.write_all(b"two").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_is_waited_for_as_long_as_it_takes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = Gate::to(listener.local_addr().unwrap()).await;
    let poll = async {
        let mut client = TcpStream::connect(gate.addr).await.unwrap();
        for _ in 0..2 {
            let begun = tokio::time::Instant::now();
            client.write_all(b"GET /poll HTTP/1.1\r\nhost: app.localhost\r\n\r\n").await.unwrap();
            let answer = read_to(&mut client, "onetwo").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(begun.elapsed() >= 2 * HOUR, "the clock was not halted: {:?}", begun.elapsed());
        }
    };
    tokio::select! {
        () = poll => {}
        () = slow(listener) => unreachable!("it has no end"),
    }
}
