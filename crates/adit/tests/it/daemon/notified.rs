//! What the service manager of a daemon is told.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::process::Signal;

use super::life::signal;
use super::support::Place;
use crate::support::DEADLINE;

/// The monotonic clock in microseconds, which systemd compares with.
fn monotonic() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// A service manager that listens there.
fn manager(place: &Place) -> (PathBuf, UnixDatagram) {
    let path = place.home.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a time");
    (path, socket)
}

/// What it is told next.
fn heard(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let length = manager.recv(&mut buffer).expect("it is told");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_of_the_start_each_reload_and_the_end() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let (path, manager) = manager(&place);
    let next = || heard(&manager);
    let mut daemon = place.command(&["daemon", "start", "--foreground"]).env("NOTIFY_SOCKET", &path).spawn().unwrap();
    assert_eq!(next(), format!("READY=1\nMAINPID={}\nSTATUS=running", daemon.id()));
    // As a manager with `Type=notify-reload` asks for it.
    let before = monotonic();
    signal(daemon.id(), Signal::HUP);
    let told = next();
    let at = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{told}"));
    let at: i64 = at.parse().unwrap();
    assert!((before..=monotonic()).contains(&at), "systemd takes no answer that is older than its question: {at}");
    assert_eq!(next(), "READY=1");
    // A file that is refused was read, too.
    place.write("forwards: { broken\n");
    assert!(next().starts_with("RELOADING=1\n"));
    assert_eq!(next(), "READY=1");
    signal(daemon.id(), Signal::TERM);
    assert_eq!(next(), "STOPPING=1\nSTATUS=ending");
    assert!(daemon.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_with_a_watchdog_hears_of_a_daemon_as_long_as_that_runs() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let (path, manager) = manager(&place);
    let next = || heard(&manager);
    let mut command = place.command(&["daemon", "start", "--foreground"]);
    let mut daemon = command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").spawn().unwrap();
    assert!(next().starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    signal(daemon.id(), Signal::TERM);
    let last = std::iter::repeat_with(next).find(|told| told != "WATCHDOG=1").unwrap();
    assert_eq!(last, "STOPPING=1\nSTATUS=ending");
    assert!(daemon.wait().unwrap().success());
}
