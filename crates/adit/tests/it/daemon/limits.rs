//! What a forward carries at most.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use testkit::origin::TcpOrigin;
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

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_above_the_limit_sees_a_reset_or_a_page_and_is_counted() {
    let place = Place::new().await;
    place.write(&format!(
        "forwards:\n{}gateway: {{ listen: \"127.0.0.1:0\", routes: {{ web.localhost: {{ to: \"forward:web\" }} }} }}\n",
        place.forward("web", 0, ", limits: { connections: 1 }")
    ));
    place.start();
    let port = place.entrance("web");
    let live = TcpStream::connect(port).unwrap();
    let carried = || async { (place.status("web")["streams"] == 1).then_some(()) };
    eventually(DEADLINE, "the first one", carried).await;
    let mut second = TcpStream::connect(port).unwrap();
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(second.read(&mut [0; 1]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    let status = place.json(&["status"]);
    let gateway: SocketAddr = status["gateway"]["addresses"][0].as_str().unwrap().parse().unwrap();
    let answer = raw::get(gateway, "web.localhost", "/").await.unwrap();
    let page = String::from_utf8_lossy(&answer.body).into_owned();
    let (status, retry, word) = (answer.status, answer.header("retry-after"), answer.header("x-adit-error"));
    assert_eq!((status, retry, word), (503, Some("1"), Some("at_its_limit")), "{page}");
    assert!(page.contains("it carries 1 connection, its limit") && page.contains("limits.connections"), "{page}");
    let text = place.ok(&["status", "-v"]);
    assert!(text.contains("it carries 1 connection, its limit"), "{text}");
    let metrics = place.ok(&["status", "--metrics"]);
    for sample in [
        "adit_forward_connections_failed_total{forward=\"web\"} 1\n",
        "adit_forward_connections_total{forward=\"web\"} 2\n",
        "adit_forward_up{forward=\"web\"} 1\n",
    ] {
        assert!(metrics.contains(sample), "{sample}{metrics}");
    }
    drop(live);
    let free = || async { (get(port).await == Some(200)).then_some(()) };
    eventually(DEADLINE, "there is a place again", free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_changed_holds_for_new_connections_and_those_that_run_go_on() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", limits: { connections: 2 }")));
    place.start();
    let port = place.entrance("web");
    let mut live: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(port).unwrap()).collect();
    let carried = || async { (place.status("web")["streams"] == 2).then_some(()) };
    eventually(DEADLINE, "both of them", carried).await;
    place.write(&format!("forwards:\n{}", place.forward("web", port.port(), ", limits: { connections: 1 }")));
    place.ok(&["daemon", "reload"]);
    for one in &mut live {
        one.set_read_timeout(Some(DEADLINE)).unwrap();
        one.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(one.read(&mut [0; 1]).unwrap() > 0, "what runs goes on");
    }
    let _first = TcpStream::connect(port).unwrap();
    let one_more = || async { (place.status("web")["streams"] == 3).then_some(()) };
    eventually(DEADLINE, "one in the new way", one_more).await;
    assert_eq!(get(port).await, None, "the second one");
}

/// What a client asks of the service, and how many bytes it gets.
fn carry(port: SocketAddr, line: String, upload: usize) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(port).expect("it works");
        stream.set_read_timeout(Some(DEADLINE)).expect("it works");
        stream.write_all(line.as_bytes()).expect("it works");
        stream.write_all(&vec![7; upload]).expect("it works");
        stream.shutdown(Shutdown::Write).expect("it works");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("it works");
        all.len()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_is_that_of_all_streams_together_in_each_direction() {
    /// Three seconds' worth, by two streams each way.
    const EACH: usize = 300_000;
    let place = Place::new().await;
    let tcp = TcpOrigin::start().await.unwrap();
    let to = tcp.addr();
    place.write(&format!(
        "forwards:\n  web: {{ to: \"tcp://{to}\", listen: 0, limits: {{ bytes_per_second: 200KB/s }} }}\n"
    ));
    place.start();
    let port = place.entrance("web");
    let mut found = Vec::new();
    // A busy machine may be late; it must never be early.
    for _ in 0..3 {
        let begun = Instant::now();
        let up: Vec<_> = (0..2).map(|_| carry(port, "sink\n".into(), EACH)).collect();
        let down: Vec<_> = (0..2).map(|_| carry(port, format!("source {EACH}\n"), 0)).collect();
        let ended = move |streams: Vec<std::thread::JoinHandle<usize>>| {
            let bytes: usize = streams.into_iter().map(|stream| stream.join().unwrap()).sum();
            (bytes, begun.elapsed().as_secs_f64())
        };
        let down = std::thread::spawn(move || ended(down));
        let (_, up) = ended(up);
        let (bytes, down) = down.join().unwrap();
        assert_eq!(bytes, 2 * EACH);
        assert!(up > 2.7 && down > 2.7, "faster than its rate: {up} s up, {down} s down");
        if up < 3.3 && down < 3.3 {
            return;
        }
        found.push((up, down));
    }
    panic!("slower than its rate: {found:?}");
}
