//! What a forward carries at most.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::raw;

use super::support::{Place, get};
use crate::support::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn above_its_limit_a_connection_is_refused_with_the_reason_until_there_is_a_place() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", limits: { connections: 1 }")));
    place.start();
    let port = place.entrance("web");
    let mut live = TcpStream::connect(port).unwrap();
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(live.read(&mut [0; 1]).unwrap() > 0);
    assert_eq!(get(port).await, None, "the second one");
    let error = place.status("web")["last_error"]["text"].clone();
    assert!(error.as_str().unwrap_or_default().contains("it carries 1 connection, its limit"), "{error}");
    drop(live);
    let free = || async { (get(port).await == Some(200)).then_some(()) };
    eventually(DEADLINE, "there is a place again", free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_rate_holds_for_what_it_carries() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", limits: { bytes_per_second: 100KB/s }")));
    place.start();
    let port = place.entrance("web");
    let begun = Instant::now();
    let answer = raw::get(port, "localhost", "/bytes/200000").await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 200_000));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(10), "{took:?}");
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    place.ok(&["daemon", "reload"]);
    let begun = Instant::now();
    assert_eq!(raw::get(port, "localhost", "/bytes/200000").await.unwrap().status, 200);
    assert!(begun.elapsed() < Duration::from_millis(1500), "without it: {:?}", begun.elapsed());
}
