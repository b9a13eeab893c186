//! Notifications on the desktop, by whatever `notify-send` there is.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::support::Place;
use crate::support::eventually;

/// Trouble has to last before it is shown.
const LONG: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_that_stays_down_is_shown_when_the_file_wants_it() {
    let place = Place::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let forward = |name: &str| {
        format!(
            "  {name}: {{ to: \"tcp://{closed}\", start: always, health: {{ type: tcp, interval: 100ms, fall: 1 }} }}\n"
        )
    };
    place.write(&format!("daemon: {{ notify: true }}\nforwards:\n{}", forward("web")));
    let programs = place.home.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let (program, shown) = (programs.join("notify-send"), place.home.path().join("shown"));
    std::fs::write(&program, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >> {}\n", shown.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", programs.display());
    assert!(place.command(&["daemon", "start"]).env("PATH", path).output().unwrap().status.success());
    let read = || std::fs::read_to_string(&shown).unwrap_or_default();
    let down = || async { read().contains("adit: web is down\n").then_some(()) };
    eventually(LONG, "it is shown", down).await;
    assert!(read().contains("--app-name=adit\n") && read().contains("its probes fail"), "{}", read());
    // Without the wish nothing is shown of another one.
    place.write(&format!("forwards:\n{}{}", forward("web"), forward("other")));
    place.ok(&["daemon", "reload"]);
    place.logged("other: its probes fail").await;
    assert!(!read().contains("other"), "{}", read());
}
