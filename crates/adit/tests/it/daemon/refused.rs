//! A file that is not put in force, and what is said and done meanwhile.

use std::net::{SocketAddr, TcpListener};

use testkit::raw;
use testkit::sshd::Sshd;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_tried_again_at_once_when_a_person_restarts_the_forward() {
    let (place, sshd) = (Place::new().await, Sshd::start(&[]).await);
    let key = sshd.make_key("other", "ed25519", "");
    let (addr, key_file, known) = (sshd.addr(), key.display(), sshd.known_hosts());
    place.write(&format!(
        "forwards:\n  there:\n    listen: 0\n    start: always\n    to: {{ ssh: {{ server: \"{}@{addr}\", host: 127.0.0.1, port: {}, key: \"{key_file}\", known_hosts: \"{}\" }} }}\n",
        sshd.user(),
        addr.port(),
        known.display(),
    ));
    place.start();
    let refused = || async { (sshd.refusals() > 0).then_some(()) };
    eventually(DEADLINE, "the login is refused", refused).await;
    sshd.authorize(&key);
    place.ok(&["stop", "there"]);
    place.fails(&["start", "there"]);
    assert_eq!(sshd.logins(), 0, "a start does not shorten the wait of a minute");
    place.ok(&["restart", "there"]);
    let let_in = || async { (sshd.logins() > 0).then_some(()) };
    eventually(DEADLINE, "the login is tried at once", let_in).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_does_not_go_on_to_say_that_a_file_is_refused_when_it_has_come_in_force() {
    let place = Place::new().await;
    let gateway = testkit::process::free_port().unwrap();
    let before = format!("gateway: {{ listen: {gateway} }}\nforwards:\n{}", place.forward("web", 0, ""));
    place.write(&before);
    place.start();
    let index = || async {
        let answer = raw::get(SocketAddr::from(([127, 0, 0, 1], gateway)), "localhost", "/").await.expect("an index");
        String::from_utf8_lossy(&answer.body).contains("A later version of the configuration is not in force")
    };
    assert!(!index().await);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    place.write(&format!("{before}{}", place.forward("db", port, "")));
    place.logged("\"event\":\"reload-failed\"").await;
    assert!(index().await);
    drop(taken);
    // What is asked for of forwards reads no file.
    place.ok(&["stop", "web"]);
    let has_come = || async { place.ok(&["status"]).contains(&format!("127.0.0.1:{port}")).then_some(()) };
    eventually(DEADLINE, "the address is tried again", has_come).await;
    assert!(!index().await, "{}", place.log());
}
