//! A daemon whose sockets a service manager holds.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use super::support::{Place, get, is_alive};
use crate::support::{DEADLINE, eventually};

/// What systemd does: descriptors 3 and 4 with their names, and the id of the process that they are for.
const HAND_OVER: &str = "exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"";

/// The sockets as a manager holds them.
struct Manager {
    control: UnixListener,
    port: TcpListener,
}

impl Manager {
    fn new(place: &Place) -> Self {
        let path = place.socket();
        let directory = path.parent().expect("a directory");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).expect("it can be made");
        let control = UnixListener::bind(&path).expect("a socket");
        // Wider than it may be: the daemon sees to it (S18).
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("its mode");
        Self { control, port: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    fn port(&self) -> SocketAddr {
        self.port.local_addr().expect("its address")
    }

    /// Starts the daemon as a unit would.
    fn start(&self, place: &Place, names: &str) -> Child {
        self.start_with(place, names, self.port.try_clone().expect("a descriptor").into())
    }

    /// The same with another socket in place of the port.
    fn start_with(&self, place: &Place, names: &str, second: OwnedFd) -> Child {
        let daemon = place.command(&["--config", "adit.yaml", "daemon", "start", "--foreground"]);
        let mut command = Command::new("sh");
        command.args(["-c", HAND_OVER, "sh"]).arg(daemon.get_program()).args(daemon.get_args());
        command.current_dir(place.home.path()).env_clear();
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LISTEN_FDNAMES", names);
        let socket = |socket: OwnedFd| Stdio::from(socket);
        command.stdin(socket(self.control.try_clone().expect("a descriptor").into()));
        command.stdout(socket(second)).stderr(Stdio::null());
        command.spawn().expect("it starts")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_a_service_manager_are_used_by_their_names_and_stay_when_the_daemon_goes() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let manager = Manager::new(&place);
    // Whoever comes before the daemon waits in the queue of the socket.
    let mut early = TcpStream::connect(manager.port()).unwrap();
    early.set_read_timeout(Some(DEADLINE)).unwrap();
    early.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut first = manager.start(&place, "control:web");
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", place.log());
    drop(early);
    assert_eq!(place.entrance("web"), manager.port());
    assert_eq!(place.json(&["status"])["daemon"]["pid"], first.id());
    let mode = std::fs::metadata(place.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "S18");
    // A successor has them, too, and knows that they stay.
    place.ok(&["daemon", "restart"]);
    assert!(first.wait().unwrap().success());
    assert_eq!((place.entrance("web"), get(manager.port()).await), (manager.port(), Some(200)));
    let pid = u32::try_from(place.json(&["status"])["daemon"]["pid"].as_u64().unwrap()).unwrap();
    place.ok(&["daemon", "stop"]);
    assert!(!is_alive(pid), "the stop waits for the process: the socket takes connections all the same");
    assert!(std::os::unix::net::UnixStream::connect(place.socket()).is_ok());
    // And another one is started for whoever asks then.
    let mut second = manager.start(&place, "control:web");
    assert_eq!(place.json(&["status"])["daemon"]["pid"], second.id());
    assert_eq!(get(manager.port()).await, Some(200));
    place.ok(&["daemon", "stop"]);
    assert!(second.wait().unwrap().success());
    drop(manager);
    std::fs::remove_file(place.socket()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_nobodys_is_told_and_let_go() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let manager = Manager::new(&place);
    let mut child = manager.start(&place, "control:wbe");
    place.logged("the socket `wbe` at").await;
    assert!(place.log().contains("no forward has this name"), "{}", place.log());
    let elsewhere = || async { (place.entrance("web") != manager.port()).then_some(()) };
    eventually(DEADLINE, "it has a port of its own", elsewhere).await;
    place.ok(&["daemon", "stop"]);
    assert!(child.wait().unwrap().success());
    std::fs::remove_file(place.socket()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_another_process_is_not_taken() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let mut command = place.command(&["daemon", "start"]);
    // As a shell in a unit has them: neither it nor its children are meant.
    let output = command.env("LISTEN_PID", "1").env("LISTEN_FDS", "2").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(get(place.entrance("web")).await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passed_socket_of_another_kind_is_told_and_closed() {
    let place = Place::new().await;
    place.write(&format!("forwards:\n{}", place.forward("web", 0, "")));
    let manager = Manager::new(&place);
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let passed = OwnedFd::from(datagrams.try_clone().unwrap());
    let mut child = manager.start_with(&place, "control:odd", passed);
    place.logged("the socket `odd` is not used").await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().flatten();
    let mut open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let own = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&datagrams))).unwrap();
    assert!(open.all(|socket| socket != own), "it is closed");
    place.ok(&["daemon", "stop"]);
    assert!(child.wait().unwrap().success());
    std::fs::remove_file(place.socket()).unwrap();
}
