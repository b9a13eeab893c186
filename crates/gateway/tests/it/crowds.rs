//! Many at once, and connections used again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use testkit::origin::HttpOrigin;
use testkit::raw::{self, Client};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Gate, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_requests_at_once_are_all_answered() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let (scope, done) = (gate.scope.child(), std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)));
    for _ in 0..500 {
        let (addr, done) = (gate.addr, std::sync::Arc::clone(&done));
        scope.spawn("client", async move {
            let answer = raw::get(addr, "app.localhost", "/").await.unwrap();
            assert_eq!(answer.text(), "Hello, world!");
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    scope.idle().await;
    assert_eq!(done.load(Ordering::Relaxed), 500);
    assert_eq!(gate.site.counters.requests.load(Ordering::Relaxed), 500);
}

#[tokio::test]
async fn one_connection_to_the_service_carries_request_after_request() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for _ in 0..5 {
        let mut client = Client::connect(gate.addr).await.unwrap();
        for target in ["/", "/bytes/100?chunked", "/bytes/100000"] {
            assert_eq!(client.get("app.localhost", target).await.unwrap().status, 200);
        }
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 15));
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    let request = |path: &str| raw::head("GET", "app.localhost", path, &[], None);
    let all = [request("/slow?ms=50"), request("/status/201"), request("/bytes/3")].concat();
    client.send(&all).await.unwrap();
    for status in [200, 201, 200] {
        assert_eq!(client.response(false).await.unwrap().status, status);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn an_http2_client_that_takes_nothing_holds_a_bounded_part_of_each_answer() {
    const ANSWERS: u32 = 200;
    const LENGTH: u64 = 3_000_000;
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let field = |name: &str, value: &str| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
        [&[0][..], &text(name), &text(value)].concat()
    };
    let target = format!("/bytes/{LENGTH}");
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "app.localhost"), (":path", target.as_str())];
    let head: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    let (window, more) = (i32::MAX.to_be_bytes(), (i32::MAX - 65_535).to_be_bytes());
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[&[0, 4][..], &window].concat()));
    sent.extend(frame(8, 0, 0, &more));
    sent.extend((0..ANSWERS).flat_map(|number| frame(1, 5, number * 2 + 1, &head)));
    let mut client = TcpStream::connect(gate.addr).await.unwrap();
    client.write_all(&sent).await.unwrap();
    let taken = || gate.site.counters.sent.load(Ordering::Relaxed);
    until("all answers", || origin.requests() == u64::from(ANSWERS)).await;
    until("a part of each", || taken() >= u64::from(ANSWERS) * 16 * 1024).await;
    // Until nothing more is taken from the service.
    let mut before = u64::MAX;
    while taken() != before {
        before = taken();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The kernel has some MB of them.
    assert!(before < u64::from(ANSWERS) * 256 * 1024, "{before} bytes of {}", u64::from(ANSWERS) * LENGTH);
}
