//! Tests of the relay against the kit's own services.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Admit, Cut, Direction, Link, Relay};
use crate::load::{Bulk, BulkDirection};
use crate::origin::TcpOrigin;
use crate::{load, noise};

const DEADLINE: Duration = Duration::from_secs(10);

async fn echo_through(link: Link) -> (TcpOrigin, Relay, TcpStream) {
    let origin = TcpOrigin::start().await.unwrap();
    let relay = Relay::start(origin.addr(), link).await.unwrap();
    let mut stream = TcpStream::connect(relay.addr()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"echo\n").await.unwrap();
    (origin, relay, stream)
}

async fn ping(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    start.elapsed()
}

#[tokio::test]
async fn a_round_trip_takes_the_delay_twice() {
    let (_origin, _relay, mut stream) = echo_through(Link::round_trip(Duration::from_millis(50))).await;
    let took = ping(&mut stream).await;
    assert!(took >= Duration::from_millis(50), "{took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn jitter_keeps_the_order_of_bytes() {
    let link = Link { jitter: Duration::from_millis(5), ..Link::default() };
    let origin = TcpOrigin::start().await.unwrap();
    let relay = Relay::start(origin.addr(), link).await.unwrap();
    let sent = noise::bytes(1, 200_000);
    let got = load::echo_whole(relay.addr(), &sent).await.unwrap();
    assert!(got == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_kept_and_shared_by_all_connections() {
    let origin = TcpOrigin::start().await.unwrap();
    let relay = Relay::start(origin.addr(), Link::default().with_bits_per_second(80_000_000)).await.unwrap();
    let bulk = Bulk::start(relay.addr(), BulkDirection::Down, 3, DEADLINE).await.unwrap();
    let (before, start) = (relay.bytes(Direction::Down), Instant::now());
    tokio::time::sleep(Duration::from_millis(600)).await;
    let rate = (relay.bytes(Direction::Down) - before) as f64 / start.elapsed().as_secs_f64();
    drop(bulk);
    assert!(rate < 10_500_000.0, "{rate}");
    assert!(rate > 7_000_000.0, "{rate}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabit_at_fifty_milliseconds_passes() {
    let origin = TcpOrigin::start().await.unwrap();
    let link = Link::round_trip(Duration::from_millis(50)).with_bits_per_second(1_000_000_000);
    let relay = Relay::start(origin.addr(), link).await.unwrap();
    let bulk = Bulk::start(relay.addr(), BulkDirection::Down, 1, DEADLINE).await.unwrap();
    let (before, start) = (bulk.bytes(), Instant::now());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let rate = (bulk.bytes() - before) as f64 / start.elapsed().as_secs_f64();
    eprintln!("{:.0} Mbit/s of 1000", rate * 8.0 / 1e6);
    // A shared, unoptimised test machine: half is proof that nothing waits per chunk or per round trip.
    assert!(rate > 62_500_000.0, "{rate}");
}

#[tokio::test]
async fn a_stall_holds_bytes_back_and_resume_delivers_them() {
    let (_origin, relay, mut stream) = echo_through(Link::default()).await;
    ping(&mut stream).await;
    relay.stall(Direction::Down);
    stream.write_all(b"held").await.unwrap();
    let mut answer = [0; 4];
    assert!(timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await.is_err());
    relay.resume();
    timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"held");
}

#[tokio::test]
async fn a_reset_cut_is_seen_as_a_reset() {
    let (_origin, relay, mut stream) = echo_through(Link::default()).await;
    ping(&mut stream).await;
    assert_eq!(relay.open(), 1);
    relay.cut(Cut::Reset);
    let error = timeout(DEADLINE, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_silent_cut_ends_nothing_and_spares_later_connections() {
    let (_origin, relay, mut stream) = echo_through(Link::default()).await;
    ping(&mut stream).await;
    relay.cut(Cut::Silent);
    stream.write_all(b"lost").await.unwrap();
    assert!(timeout(Duration::from_millis(100), stream.read(&mut [0; 1])).await.is_err());
    let mut later = TcpStream::connect(relay.addr()).await.unwrap();
    later.write_all(b"echo\n").await.unwrap();
    timeout(DEADLINE, ping(&mut later)).await.unwrap();
}

#[tokio::test]
async fn new_connections_can_be_refused() {
    let (_origin, relay, _stream) = echo_through(Link::default()).await;
    relay.set_admit(Admit::Reset);
    // The reset may overtake the end of the handshake.
    let refused = async { TcpStream::connect(relay.addr()).await?.read_u8().await };
    assert!(timeout(DEADLINE, refused).await.unwrap().is_err());
}

#[tokio::test]
async fn half_close_passes_in_all_six_cases() {
    let origin = TcpOrigin::start().await.unwrap();
    let relay = Relay::start(origin.addr(), Link::round_trip(Duration::from_millis(2))).await.unwrap();
    let results = load::half_close(relay.addr(), DEADLINE).await;
    assert_eq!(results.len(), 6);
    for (case, result) in results {
        assert_eq!(result, Ok(()), "{case}");
    }
}

#[tokio::test]
async fn a_reset_passes_through() {
    let origin = TcpOrigin::start().await.unwrap();
    let relay = Relay::start(origin.addr(), Link::default()).await.unwrap();
    let mut stream = TcpStream::connect(relay.addr()).await.unwrap();
    stream.write_all(b"reset 0\n").await.unwrap();
    let error = timeout(DEADLINE, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
