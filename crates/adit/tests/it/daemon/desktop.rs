//! Notifications on the desktop, by whatever `notify-send` there is.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::support::Place;
use crate::support::eventually;

/// Trouble has to last before it is shown.
const LONG: Duration = Duration::from_secs(30);

/// A daemon whose notifications are written down by a `notify-send` of ours.
struct Desktop {
    place: Place,
    closed: testkit::process::Closed,
}

impl Desktop {
    async fn new() -> Self {
        let closed = testkit::process::Closed::take().expect("a port");
        Self { place: Place::new().await, closed }
    }

    /// The file with these forwards, which are down.
    fn write(&self, daemon: &str, forwards: &[&str]) {
        let forward = |name: &&str| {
            format!(
                "  {name}: {{ to: \"tcp://{}\", start: always, health: {{ type: tcp, interval: 100ms, fall: 1 }} }}\n",
                self.closed.address
            )
        };
        self.place.write(&format!("{daemon}forwards:\n{}", forwards.iter().map(forward).collect::<String>()));
    }

    fn start(&self) {
        let programs = self.place.home.path().join("programs");
        std::fs::create_dir(&programs).expect("a directory");
        let (program, shown) = (programs.join("notify-send"), self.place.home.path().join("shown"));
        let script =
            format!("#!/bin/sh\nprintf '%s\\n' \"$@\" \"secret: $ADIT_SSH_PASSWORD\" >> {}\n", shown.display());
        std::fs::write(&program, script).expect("it can be written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let mut start = self.place.command(&["daemon", "start"]);
        start.env("PATH", format!("{}:/usr/bin:/bin", programs.display())).env("ADIT_SSH_PASSWORD", "sesame");
        assert!(start.output().expect("adit runs").status.success());
    }

    fn shown(&self) -> String {
        std::fs::read_to_string(self.place.home.path().join("shown")).unwrap_or_default()
    }

    async fn shows_down(&self, name: &str) {
        let title = format!("adit: {name} is down\n");
        eventually(LONG, "it is shown", || async { self.shown().contains(&title).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_that_stays_down_is_shown_when_the_file_wants_it_and_only_then() {
    let (quiet, loud) = (Desktop::new().await, Desktop::new().await);
    // Nobody has asked for it here.
    quiet.write("", &["web"]);
    quiet.start();
    quiet.place.logged("web: its probes fail").await;
    loud.write("daemon: { notify: true }\n", &["web"]);
    loud.start();
    loud.shows_down("web").await;
    let shown = loud.shown();
    assert!(shown.contains("--app-name=adit\n") && shown.contains("its probes fail"), "{shown}");
    assert!(shown.contains("secret: \n"), "it has no secret of ours: {shown}");
    // And here it is not wanted any more.
    loud.write("", &["web", "other"]);
    loud.place.ok(&["daemon", "reload"]);
    loud.place.logged("other: its probes fail").await;
    // What has lasted longer than what is shown would have been shown before.
    quiet.write("daemon: { notify: true }\n", &["web", "late"]);
    assert_eq!(quiet.shown(), "");
    quiet.place.ok(&["daemon", "reload"]);
    quiet.shows_down("late").await;
    assert!(!loud.shown().contains("other"), "{}", loud.shown());
}
