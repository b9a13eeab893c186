//! A machine that is carried from one network into another, by real links: clients ask all the time, and nobody tells the
//! daemon that the connection to its SSH server is dead.

use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testkit::network::Network;
use testkit::sshd::Sshd;

use super::support::{Place, ssh_server};
use crate::support::{DEADLINE, eventually};

/// Where the server is, whichever network leads there.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);
/// In a namespace of our own: nobody else has it.
const SERVICE: u16 = 8989;
/// How often somebody asks.
const PACE: Duration = Duration::from_millis(100);
/// How soon whoever asks is to be answered: it is noticed within two seconds, and the rest is a login on a busy machine.
const SOON: Duration = Duration::from_secs(4);

/// A daemon, ended with its namespace.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine with two links to a server, of which the first is up, and a daemon at each end.
struct Bed {
    machine: Arc<Network>,
    place: Place,
    port: u16,
    _daemons: [Running; 2],
    _sshd: Sshd,
    _there: Place,
}

impl Bed {
    #[expect(clippy::print_stderr, reason = "a test that is left out says so")]
    async fn start() -> Option<Self> {
        let (Some(machine), Some(server)) = (Network::new(), Network::new()) else {
            eprintln!("SKIPPED, as no network namespace may be made here");
            return None;
        };
        machine.link("wlan0", "10.91.0.2", &server, "10.91.0.1");
        machine.link("eth0", "10.92.0.2", &server, "10.92.0.1");
        server.ip(&format!("address add {SERVER}/32 dev lo"));
        machine.join("wlan0", "10.91.0.1");
        let (place, there) = (Place::new().await, Place::new().await);
        let server = Arc::new(server);
        // What is left of dead connections ends by itself.
        let sshd = Sshd::start_in(&server, SERVER, &["ClientAliveInterval 1", "ClientAliveCountMax 3"]).await;
        there.write(&format!("gateway: {{ listen: {SERVICE} }}\n"));
        let by = ssh_server(&sshd);
        place.write(&format!(
            "forwards:\n  web: {{ start: always, listen: 0, to: {{ ssh: {{ host: 127.0.0.1, port: {SERVICE}, {by} }} }} }}\n"
        ));
        let start = |network: &Network, place: &Place| {
            Running(network.with(&place.command(&["daemon", "start", "--foreground"])).spawn().expect("it starts"))
        };
        let daemons = [start(&server, &there), start(&machine, &place)];
        let running = |place: &Place| {
            let output = place.run(&["-o", "json", "status"]);
            serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()
        };
        let gateway = || async { running(&there)?["gateway"]["addresses"][0].as_str().map(drop) };
        eventually(DEADLINE, "the service is there", gateway).await;
        let ready = || async { (running(&place)?["services"][0]["status"] == "running").then_some(()) };
        eventually(DEADLINE, "the forward runs", ready).await;
        let port = place.entrance("web").port();
        let machine = Arc::new(machine);
        Some(Self { machine, place, port, _daemons: daemons, _sshd: sshd, _there: there })
    }

    /// Somebody asks all the time, the network changes, and the rest is told: how long the first took to be answered who asked
    /// after it, and the one who waited longest from then on.
    #[expect(clippy::print_stderr, reason = "what was measured is told")]
    async fn carry(&self, what: &str, change: impl FnOnce(&Network)) {
        let goes_on = Arc::new(AtomicBool::new(true));
        let asking = {
            let (goes_on, machine, port) = (Arc::clone(&goes_on), Arc::clone(&self.machine), self.port);
            std::thread::spawn(move || {
                let mut asked = Vec::new();
                while goes_on.load(Ordering::Relaxed) {
                    let machine = Arc::clone(&machine);
                    asked.push(std::thread::spawn(move || ask(&machine, port)));
                    pause(PACE);
                }
                asked.into_iter().map(|one| one.join().expect("it asks")).collect::<Vec<_>>()
            })
        };
        let begun = Instant::now();
        let asked = || async { (begun.elapsed() > 5 * PACE).then_some(()) };
        eventually(DEADLINE, "somebody asks", asked).await;
        let before = Instant::now();
        change(&self.machine);
        let changed = Instant::now();
        let answered = || async { self.get().then_some(()) };
        eventually(DEADLINE, "somebody is answered", answered).await;
        goes_on.store(false, Ordering::Relaxed);
        let asked = asking.join().expect("they ask");
        // A question that was under way in that very moment is lost with its connection; to bring the moment about takes a while.
        let was_under_way = |one: &&Asked| (before - 5 * PACE..=before + 3 * PACE).contains(&one.begun);
        let failed = asked.iter().filter(|one| one.answered.is_none() && !was_under_way(one)).count();
        let took = |from: Instant, one: &Asked| one.answered.map(|at| at.saturating_duration_since(from));
        let after: Vec<&Asked> = asked.iter().filter(|one| one.begun > changed).collect();
        let first = after.iter().filter_map(|one| took(changed, one)).min().expect("somebody asked after it");
        let longest = asked.iter().filter_map(|one| took(one.begun.max(changed), one)).max().unwrap_or_default();
        let all = asked.len();
        eprintln!("{what}: first answer after {first:?}, longest wait {longest:?}, {failed} of {all} not answered");
        let lost: Vec<_> = asked.iter().filter(|one| one.answered.is_none()).map(|one| one.begun - begun).collect();
        assert_eq!(failed, 0, "of {:?} to {:?}: {lost:?}; {}", before - begun, changed - begun, self.place.log());
        assert!(first < SOON && longest < SOON, "{}", self.place.log());
    }

    fn get(&self) -> bool {
        ask(&self.machine, self.port).answered.is_some()
    }
}

/// A connection, and when it was answered.
struct Asked {
    begun: Instant,
    answered: Option<Instant>,
}

/// A pace, or an outage: nothing is waited for.
#[expect(clippy::disallowed_methods, reason = "it is no wait for anything, and not on a worker")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Asks by a connection of its own.
fn ask(machine: &Network, port: u16) -> Asked {
    let begun = Instant::now();
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && read -r -t 15 line <&3 && \
         [[ $line == 'HTTP/1.1 200'* ]]"
    );
    let answered = machine.inside("bash").args(["-c", &script]).stderr(Stdio::null()).status();
    Asked { begun, answered: answered.is_ok_and(|status| status.success()).then(Instant::now) }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_another_network_new_connections_are_answered_soon_and_those_that_wait_are_too() {
    let Some(bed) = Bed::start().await else { return };
    assert!(bed.get(), "{}", bed.place.log());
    bed.carry("from wireless to a cable", |machine| {
        machine.ip("link set wlan0 down");
        machine.join("eth0", "10.92.0.1");
    })
    .await;
    bed.carry("another address in the same network", |machine| {
        machine.ip("address del 10.92.0.2/24 dev eth0");
        machine.ip("address add 10.92.0.77/24 dev eth0");
        machine.join("eth0", "10.92.0.1");
    })
    .await;
    bed.carry("three seconds without a network", |machine| {
        machine.ip("link set eth0 down");
        pause(Duration::from_secs(3));
        machine.join("wlan0", "10.91.0.1");
    })
    .await;
    bed.place.ok(&["daemon", "stop"]);
}
