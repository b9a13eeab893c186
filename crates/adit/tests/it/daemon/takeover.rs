//! A new process in the place of the old one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::support::{Place, get, is_alive};
use crate::support::{DEADLINE, eventually};

/// Requests, one after another, until `stop`; how many, and how many failed.
fn hammer(port: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(u32, u32)> {
    let failed = AtomicU32::new(0);
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let request = || -> std::io::Result<bool> {
                let mut stream = TcpStream::connect(port)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer)?;
                Ok(answer.starts_with(b"HTTP/1.1 200"))
            };
            if !request().unwrap_or(false) {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        (count, failed.into_inner())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_and_no_connection_is_refused() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let first = place.start();
    let port = place.entrance("web");
    let mut live = TcpStream::connect(port).unwrap();
    live.set_read_timeout(Some(DEADLINE)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let hammering: Vec<_> = (0..4).map(|_| hammer(port, Arc::clone(&stop))).collect();
    for _ in 0..3 {
        place.ok(&["daemon", "restart"]);
    }
    stop.store(true, Ordering::Relaxed);
    for thread in hammering {
        let (count, failed) = thread.join().unwrap();
        assert!(count > 0);
        assert_eq!(failed, 0, "of {count}");
    }
    let second = place.json(&["daemon", "status"])["daemon"]["pid"].as_u64().unwrap();
    assert_ne!(u64::from(first), second);
    assert_eq!(place.entrance("web"), port, "the same socket, though the file says any free port");
    // The first process stays for what it carries.
    assert!(is_alive(first));
    live.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    live.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let gone = || async { (!is_alive(first)).then_some(()) };
    eventually(DEADLINE, "the first process ends", gone).await;
    let (_, text) = place.fails(&["daemon", "start"]);
    assert!(text.contains(&format!("pid {second}")), "the lock went along: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_start_changes_nothing() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", start: always");
    place.write(&format!("forwards:\n{web}"));
    let first = place.start();
    let port = place.entrance("web");
    place.write("forwards: { broken\n");
    let (_, text) = place.fails(&["daemon", "restart"]);
    assert!(text.contains("did not start"), "{text}");
    assert!(is_alive(first));
    assert_eq!(get(port).await, Some(200));
    place.write(&format!("forwards:\n{web}"));
    place.ok(&["daemon", "restart"]);
    assert_eq!(get(port).await, Some(200));
}
