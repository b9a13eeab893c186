//! Connections whose way is dead, while their server is well: in a network of their own, since the process must be in it.

use std::net::Ipv4Addr;
use std::process::Command;

use testkit::network::Network;

use super::*;

/// Says that this process is in a network of its own.
const CHILD: &str = "ADIT_TEST_NETWORK_CHILD";
const LIFE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_way_is_dead_is_left_whatever_was_left_before() {
    let Some(machine) = Network::new() else {
        eprintln!("SKIPPED, as no network namespace may be made here");
        return;
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "ssh::tests::cut_off::child_with_a_network_of_its_own", "--nocapture"]);
    let mut child = tokio::process::Command::from(machine.with(&command));
    child.env(CHILD, "yes").kill_on_drop(true);
    let output = tokio::time::timeout(4 * DEADLINE, child.output()).await.expect("the child ends").unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
}

/// Runs in a process of its own; does nothing otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_with_a_network_of_its_own() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let ip = |arguments: &str| {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let server = Arc::new(Network::new().unwrap());
    ip(&format!("link add near type veth peer name far netns {}", server.id()));
    ip("address add 10.91.0.2/24 dev near");
    ip("link set near up");
    server.ip("address add 10.91.0.1/24 dev far");
    server.ip("address add 10.91.0.9/24 dev far");
    server.ip("link set far up");
    let first = Ipv4Addr::new(10, 91, 0, 1);
    let lines = ["ListenAddress 10.91.0.9", "ClientAliveInterval 1", "ClientAliveCountMax 3"];
    let bed = Bed {
        sshd: Sshd::start_in(&server, first, &lines).await,
        origin: TcpOrigin::start().await.unwrap(),
        scope: Scope::root(),
        servers: SshServers::with_limits(None, Limits { life: LIFE, dead: LIFE, ..Limits::default() }),
    };
    let (bastion, port) = (bed.bastion(), bed.sshd.addr().port());
    // The service is sshd itself: it greets whoever comes.
    let greeting = async || {
        let Ok(mut io) = within(bastion.open(&bed.scope, "10.91.0.1", port, DEADLINE)).await else {
            panic!("a stream")
        };
        let mut word = [0; 4];
        within(io.read_exact(&mut word)).await.unwrap();
        assert_eq!(&word, b"SSH-");
        io
    };
    let mut old = greeting().await;
    until(|| bastion.has_been_there_for(2 * LIFE)).await;
    // As after a stream to the same place that made a connection silent.
    bastion.state().blamed.push(("10.91.0.1".into(), port, Instant::now()));
    // What is sent to that address is taken by nobody, and nobody says so; logins go to another one.
    ip("neighbour replace 10.91.0.1 lladdr 02:00:00:00:00:01 dev near nud permanent");
    let config = bed.sshd.path("ssh_config");
    let elsewhere =
        format!("Host *\n  IdentityAgent none\n  HostName 10.91.0.9\n  HostKeyAlias {}\n", bed.sshd.known_name());
    std::fs::write(config, elsewhere).unwrap();
    let begun = Instant::now();
    greeting().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(bed.sshd.logins(), 2);
    // Nobody looks up a name there: its streams need not wait for the keep-alives.
    end_of(&mut old).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}
