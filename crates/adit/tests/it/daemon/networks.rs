//! A daemon whose machine comes into another network.

use std::process::{Child, Command};

use super::support::Place;
use crate::support::{DEADLINE, eventually};

/// What a namespace of its own needs to have a way out: addresses of two networks, and a route by the first.
const SET_UP: &str = "ip link set lo up && ip address add 10.91.0.1/32 dev lo && ip address add 10.92.0.1/32 dev lo \
                      && ip route add default dev lo src 10.91.0.1 && exec \"$@\"";

/// A process in a network namespace of its own.
struct Namespace(Child);

impl Namespace {
    /// The same as `command`; nothing where namespaces are not permitted.
    #[expect(clippy::print_stderr, reason = "a test that is left out says so")]
    fn start(command: &Command) -> Option<Self> {
        let flags = ["--net", "--map-root-user"];
        let own = |arguments: &[&str]| {
            let mut unshare = Command::new("unshare");
            unshare.args(flags).args(["sh", "-c"]).args(arguments);
            unshare
        };
        let permitted = own(&[SET_UP, "sh", "true"]).output().is_ok_and(|output| output.status.success());
        if !permitted {
            eprintln!("SKIPPED, as no network namespace may be made here");
            return None;
        }
        let mut unshare = own(&[SET_UP, "sh"]);
        unshare.arg(command.get_program()).args(command.get_args());
        unshare.current_dir(command.get_current_dir().expect("a directory"));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => unshare.env(name, value),
                None => unshare.env_remove(name),
            };
        }
        Some(Self(unshare.spawn().expect("it starts")))
    }

    /// Runs `ip` in it.
    fn ip(&self, arguments: &[&str]) {
        let pid = self.0.id().to_string();
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &pid, "--user", "--preserve-credentials", "--net", "ip"]).args(arguments);
        let output = enter.output().expect("nsenter runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_another_network_everything_is_dialled_anew() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, ", start: always")));
    let Some(mut daemon) = Namespace::start(&place.command(&["daemon", "start", "--foreground"])) else { return };
    let running = || async {
        let output = place.run(&["-o", "json", "status"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["services"][0]["status"] == "running").then(|| status["services"][0]["restart_count"].clone())
    };
    assert_eq!(eventually(DEADLINE, "it runs", running).await, 0);
    daemon.ip(&["route", "replace", "default", "dev", "lo", "src", "10.92.0.1"]);
    let again = || async { (running().await? == 1).then_some(()) };
    eventually(DEADLINE, "it is dialled anew", again).await;
    place.ok(&["daemon", "stop"]);
    assert!(daemon.0.wait().unwrap().success());
}
