//! What a daemon publishes by an SSH server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use rustix::process::Signal;
use testkit::sshd::Sshd;

use super::life::signal;
use super::support::{Place, get, is_alive, ssh_server};
use crate::support::{DEADLINE, eventually};

/// A daemon that publishes its service at whatever port the server has.
async fn publishing() -> (Place, Sshd) {
    let (place, sshd) = (Place::new().await, Sshd::start(&[]).await);
    let (server, to) = (ssh_server(&sshd), place.origin.addr());
    place
        .write(&format!("publish: {{ via: {{ {server} }}, tunnels: {{ web: {{ to: \"tcp://{to}\", port: 0 }} }} }}\n"));
    (place, sshd)
}

/// The number of the port, once it is open and written down: that comes a moment later.
async fn number(place: &Place) -> u16 {
    let open = || async {
        let published = place.json(&["status"])["published"][0].clone();
        let url = published["url"].as_str().filter(|_| published["state"] == "online")?;
        let number = url.strip_prefix("localhost:")?.split(' ').next()?;
        let kept = std::fs::read_to_string(place.home.path().join("state/adit/published.json")).ok()?;
        kept.contains(number).then(|| number.parse().ok())?
    };
    eventually(DEADLINE, "it is published", open).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_that_an_ssh_server_chose_is_had_again_by_the_next_process() {
    let (place, _sshd) = publishing().await;
    let first = place.start();
    let known = number(&place).await;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, known));
    assert_eq!(get(at).await, Some(200));
    place.ok(&["daemon", "restart"]);
    let gone = || async { (!is_alive(first)).then_some(()) };
    eventually(DEADLINE, "the first process ends", gone).await;
    assert_eq!(number(&place).await, known, "visitors know it: {}", place.log());
    assert_eq!(get(at).await, Some(200));
    place.ok(&["daemon", "stop"]);
    place.start();
    assert_eq!(number(&place).await, known, "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_another_ones_when_a_daemon_comes_back_is_told_with_the_new_one() {
    let (place, _sshd) = publishing().await;
    let killed = place.start();
    let known = number(&place).await;
    signal(killed, Signal::KILL);
    // `localhost` is the other one as well, where there is IPv6; one of both would be enough for the server.
    let both: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, known).into(), (Ipv6Addr::LOCALHOST, known).into()];
    let count = 1 + usize::from(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok());
    let mut taken = Vec::new();
    for address in &both[..count] {
        taken.push(eventually(DEADLINE, "the port is free", || async { TcpListener::bind(address).ok() }).await);
    }
    place.start();
    let now = number(&place).await;
    assert_ne!(now, known);
    place.logged(&format!("is {now} now, not {known}")).await;
    assert_eq!(get((Ipv4Addr::LOCALHOST, now).into()).await, Some(200));
}
