//! A file that is not put in force, and what is said and done meanwhile.

use std::net::TcpListener;

use super::support::Place;
use crate::support::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_reload_dials_nobody() {
    let place = Place::new().await;
    let web = place.forward("web", 0, "");
    place.write(&format!("forwards:\n{web}"));
    place.start();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (ssh, port) = (server.local_addr().unwrap(), taken.local_addr().unwrap().port());
    let there = format!("  there: {{ to: \"ssh://x@{ssh}/db:5432\", listen: 0, start: always }}\n");
    place.write(&format!("forwards:\n{web}{}{there}", place.forward("db", port, "")));
    for _ in 0..5 {
        let (_, text) = place.fails(&["daemon", "reload"]);
        assert!(text.contains("everything stays as it is"), "{text}");
    }
    server.set_nonblocking(true).unwrap();
    let early = server.accept().map_err(|error| error.kind());
    assert_eq!(early.err(), Some(std::io::ErrorKind::WouldBlock), "the file is not in force");
    drop(taken);
    let dialled = || async { server.accept().ok() };
    eventually(DEADLINE, "once it is in force the server is dialled", dialled).await;
}
