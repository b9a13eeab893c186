//! Ports of an SSH server that lead to us.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::target::{SshOptions, SshServer};
use forward::{RemoteEvent, RemotePort, RemotePorts, SshServers};
use runtime::Scope;
use runtime::connect::{Connect, TcpConnect};
use testkit::noise;
use testkit::process::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::bed::SshBed;
use crate::support::{DEADLINE, SOON, eventually, within};

/// The pause after a key that is not believed.
const SOON_FOR_KEYS: Duration = Duration::from_secs(30);

/// Ports that are published, and what was told of them.
struct Published {
    scope: Scope,
    ports: Arc<RemotePorts>,
    events: Arc<Mutex<Vec<RemoteEvent>>>,
}

impl Published {
    fn start(bed: &SshBed, options: SshOptions, ports: Vec<RemotePort>) -> Self {
        let server = SshServer::parse(&format!("{}@{}", bed.sshd.user(), bed.sshd.addr())).unwrap().with(options);
        let events: Arc<Mutex<Vec<RemoteEvent>>> = Arc::default();
        let kept = Arc::clone(&events);
        let told = Arc::new(move |event| kept.lock().unwrap().push(event));
        let ports = RemotePorts::new(SshServers::new(None), server, ports, told);
        let scope = bed.scope.child();
        scope.spawn("remote ports", Arc::clone(&ports).run(scope.clone()));
        Self { scope, ports, events }
    }

    fn said(&self, wanted: impl Fn(&RemoteEvent) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }

    /// The port that the server has opened for `name` for the `nth` time.
    async fn listening(&self, name: &str, nth: usize) -> u16 {
        let found = || {
            let events = self.events.lock().unwrap();
            let mut ports = events.iter().filter_map(|event| match event {
                RemoteEvent::Listening { name: known, port, .. } if known == name => Some(*port),
                _ => None,
            });
            ports.nth(nth - 1)
        };
        eventually(DEADLINE, "the server listens", || found().is_some()).await;
        found().unwrap()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&RemoteEvent) -> bool) {
        eventually(DEADLINE, what, || self.said(&wanted) > 0).await;
    }
}

fn port(name: &str, number: u16, connect: Arc<dyn Connect>) -> RemotePort {
    let (name, bind) = (name.to_owned(), "localhost".to_owned());
    RemotePort { name, bind, port: number, before: None, connect, connect_timeout: Duration::from_secs(5) }
}

fn to(address: std::net::SocketAddr) -> Arc<dyn Connect> {
    Arc::new(TcpConnect::new("127.0.0.1", address.port(), DEADLINE))
}

async fn visit(number: u16, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", number)).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    within("its end", stream.read_to_end(&mut all)).await.unwrap();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_reach_a_service_and_each_direction_ends_on_its_own() {
    let bed = SshBed::new().await;
    // The second one leads through a stream that is no socket.
    let through: Arc<dyn Connect> = Arc::new(bed.forward());
    let ports = vec![port("plain", 0, to(bed.origin.addr())), port("forward", 0, through)];
    let published = Published::start(&bed, bed.options(), ports);
    for name in ["plain", "forward"] {
        let number = published.listening(name, 1).await;
        let mut stream = visit(number, b"echo\n").await;
        let bytes = noise::bytes(7, 8 << 20);
        let (mut from, mut into) = stream.split();
        let sending = async {
            into.write_all(&bytes).await.unwrap();
            into.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, read) = within("an echo", async { tokio::join!(sending, from.read_to_end(&mut back)) }).await;
        read.unwrap();
        assert!(back == bytes, "{name}: {} of {} bytes, or others", back.len(), bytes.len());
        let mut stream = visit(number, b"first 1\n").await;
        assert_eq!(rest(&mut stream).await, b"hello", "{name}");
        stream.write_all(&[0; 1000]).await.unwrap();
        stream.shutdown().await.unwrap();
        eventually(SOON, "what came after it is counted", || bed.origin.tally("1") >= 1000).await;
        let closed = |event: &RemoteEvent| matches!(event, RemoteEvent::Closed { name: known, sent, .. } if known == name && *sent == bytes.len() as u64);
        published.until("its bytes are told", closed).await;
        let opened = |event: &RemoteEvent| matches!(event, RemoteEvent::Opened { name: known } if known == name);
        assert_eq!(published.said(opened), 2, "each visitor's stream is told while it is open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_down_ends_the_visitors_connection_and_the_next_one_works() {
    let bed = SshBed::new().await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let published = Published::start(&bed, bed.options(), vec![port("web", 0, to(address))]);
    let number = published.listening("web", 1).await;
    let mut refused = TcpStream::connect(("127.0.0.1", number)).await.unwrap();
    let mut byte = [0; 1];
    assert!(!matches!(within("its end", refused.read(&mut byte)).await, Ok(1..)));
    let service = TcpListener::bind(address).await.unwrap();
    let mut visitor = visit(number, b"ping").await;
    let (mut served, _) = within("the visitor", service.accept()).await.unwrap();
    let mut said = [0; 4];
    within("its word", served.read_exact(&mut said)).await.unwrap();
    served.write_all(b"pong").await.unwrap();
    drop(served);
    assert_eq!((&said, rest(&mut visitor).await.as_slice()), (b"ping", &b"pong"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_asked_for_until_it_is_free() {
    let bed = SshBed::new().await;
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let number = holder.local_addr().unwrap().port();
    let mut taken = port("taken", number, to(bed.origin.addr()));
    // For `localhost` one of two addresses is enough for sshd.
    taken.bind = "127.0.0.1".to_owned();
    let ports = vec![taken, port("free", 0, to(bed.origin.addr()))];
    let published = Published::start(&bed, bed.options(), ports);
    published
        .until("it is refused", |event| matches!(event, RemoteEvent::Refused { name, .. } if name == "taken"))
        .await;
    // The other one does not wait for it.
    published.listening("free", 1).await;
    drop(holder);
    assert_eq!(published.listening("taken", 1).await, number);
    let mut stream = visit(number, b"head\n").await;
    let mut hello = [0; 6];
    within("a greeting", stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_has_its_ports_again_when_it_is_back() {
    let bed = SshBed::new().await;
    let number = free_port().unwrap();
    let published = Published::start(&bed, bed.options(), vec![port("web", number, to(bed.origin.addr()))]);
    published.listening("web", 1).await;
    bed.sshd.kill().await;
    published.until("it is told", |event| matches!(event, RemoteEvent::Lost { .. })).await;
    bed.sshd.restart().await;
    published.listening("web", 2).await;
    let mut stream = visit(number, b"echo\n").await;
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_up_connects_anew_and_has_the_same_port() {
    let bed = SshBed::new().await;
    let number = free_port().unwrap();
    let published = Published::start(&bed, bed.options(), vec![port("web", number, to(bed.origin.addr()))]);
    published.listening("web", 1).await;
    let mut held = visit(number, b"echo\n").await;
    held.write_all(b"one").await.unwrap();
    let mut three = [0; 3];
    within("an echo", held.read_exact(&mut three)).await.unwrap();
    published.ports.wake();
    published.listening("web", 2).await;
    // Who visits finishes.
    held.write_all(b"two").await.unwrap();
    within("an echo", held.read_exact(&mut three)).await.unwrap();
    assert_eq!((&three, bed.sshd.logins()), (b"two", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_the_server_chose_is_asked_for_again() {
    let bed = SshBed::new().await;
    let published = Published::start(&bed, bed.options(), vec![port("web", 0, to(bed.origin.addr()))]);
    let number = published.listening("web", 1).await;
    for nth in 2..4 {
        published.ports.wake();
        assert_eq!(published.listening("web", nth).await, number, "visitors know it");
    }
    assert_eq!(published.said(|event| matches!(event, RemoteEvent::Listening { before: Some(_), .. })), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_is_another_ones_now_is_told_with_the_new_one() {
    let bed = SshBed::new().await;
    let published = Published::start(&bed, bed.options(), vec![port("web", 0, to(bed.origin.addr()))]);
    let number = published.listening("web", 1).await;
    bed.sshd.kill().await;
    published.until("it is told", |event| matches!(event, RemoteEvent::Lost { .. })).await;
    // `localhost` is the other one as well, where there is IPv6; one of both would be enough for the server. What it was
    // killed with may hold them for a moment.
    let has_ipv6 = std::net::TcpListener::bind(("::1", 0)).is_ok();
    let mut taken = Vec::new();
    let wanted = ["127.0.0.1", "::1"].into_iter().take(1 + usize::from(has_ipv6));
    for host in wanted {
        eventually(DEADLINE, "its port is free", || {
            taken.extend(std::net::TcpListener::bind((host, number)));
            taken.iter().any(|listener| listener.local_addr().is_ok_and(|at| at.ip().to_string() == host))
        })
        .await;
    }
    bed.sshd.restart().await;
    let another = published.listening("web", 2).await;
    assert_ne!(another, number);
    let told = |event: &RemoteEvent| matches!(event, RemoteEvent::Listening { before, .. } if *before == Some(number));
    assert_eq!(published.said(told), 1);
    let mut stream = visit(another, b"echo\n").await;
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_come_and_go_and_lead_elsewhere_while_the_others_keep_their_visitors() {
    let bed = SshBed::new().await;
    let (stays, goes, comes) = (free_port().unwrap(), free_port().unwrap(), free_port().unwrap());
    let there = to(bed.origin.addr());
    let ports = vec![port("stays", stays, Arc::clone(&there)), port("goes", goes, Arc::clone(&there))];
    let published = Published::start(&bed, bed.options(), ports);
    published.listening("stays", 1).await;
    published.listening("goes", 1).await;
    let mut held = [visit(stays, b"echo\none").await, visit(goes, b"echo\none").await];
    let mut three = [0; 3];
    for stream in &mut held {
        within("an echo", stream.read_exact(&mut three)).await.unwrap();
    }
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = to(other.local_addr().unwrap());
    published.ports.set(vec![port("stays", stays, elsewhere), port("comes", comes, there)]);
    published.listening("comes", 1).await;
    let closed = async { while TcpStream::connect(("127.0.0.1", goes)).await.is_ok() {} };
    within("the port is closed", closed).await;
    for stream in &mut held {
        stream.write_all(b"two").await.unwrap();
        within("an echo", stream.read_exact(&mut three)).await.unwrap();
        assert_eq!(&three, b"two");
    }
    let (_new, served) = tokio::join!(visit(stays, b"x"), other.accept());
    served.unwrap();
    assert_eq!((published.said(|event| matches!(event, RemoteEvent::Listening { .. })), bed.sshd.logins()), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_the_port_closes_at_once_and_visitors_finish() {
    let bed = SshBed::new().await;
    let published = Published::start(&bed, bed.options(), vec![port("web", 0, to(bed.origin.addr()))]);
    let number = published.listening("web", 1).await;
    let mut held = visit(number, b"echo\n").await;
    held.write_all(b"one").await.unwrap();
    let mut three = [0; 3];
    within("an echo", held.read_exact(&mut three)).await.unwrap();
    published.scope.drain();
    let closed = async { while TcpStream::connect(("127.0.0.1", number)).await.is_ok() {} };
    within("the port is closed", closed).await;
    held.write_all(b"two").await.unwrap();
    within("an echo", held.read_exact(&mut three)).await.unwrap();
    assert_eq!(&three, b"two");
    drop(held);
    within("it ends", published.scope.idle()).await;
    bed.sshd.says(SOON, |log| log.contains("Connection closed by") || log.contains("Disconnected from")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forbids_it_is_asked_again_and_again_and_hammered_never() {
    let bed = SshBed::with(&["AllowTcpForwarding local"]).await;
    let published = Published::start(&bed, bed.options(), vec![port("web", 0, to(bed.origin.addr()))]);
    let refused = |event: &RemoteEvent| matches!(event, RemoteEvent::Refused { .. });
    eventually(DEADLINE, "it is refused twice", || published.said(refused) > 1).await;
    assert_eq!((published.said(refused), bed.sshd.logins()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_is_told_and_not_tried_again_at_once() {
    let bed = SshBed::new().await;
    let stranger = bed.sshd.make_key("stranger", "ed25519", "");
    let options = SshOptions { key: Some(stranger), ..bed.options() };
    let published = Published::start(&bed, options, vec![port("web", 0, to(bed.origin.addr()))]);
    let lost = |event: &RemoteEvent| matches!(event, RemoteEvent::Lost { reason, wait, .. } if reason.contains("refused the login") && wait.as_secs() >= 60);
    published.until("it is told", lost).await;
    assert_eq!(bed.sshd.refusals(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_up_no_other_visitor() {
    let bed = SshBed::new().await;
    let published = Published::start(&bed, bed.options(), vec![port("web", 0, to(bed.origin.addr()))]);
    let number = published.listening("web", 1).await;
    let _deaf = visit(number, b"source\n").await;
    // And a service that does not read, of which much waits.
    let mut loud = visit(number, b"hold\n").await;
    within("it is taken", loud.write_all(&vec![0; 16 << 20])).await.unwrap();
    for _ in 0..20 {
        let mut stream = visit(number, b"echo\nsomething").await;
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"something");
    }
}

/// A port of a server whose key is trusted only when it was refused.
async fn trusted_later(bed: &SshBed) -> Published {
    let known = bed.sshd.path("others");
    std::fs::write(&known, "").unwrap();
    let options = SshOptions { known_hosts: Some(known.clone()), ..bed.options() };
    let published = Published::start(bed, options, vec![port("web", 0, to(bed.origin.addr()))]);
    // A key waits for a person, who does not need a quarter of an hour.
    let waits = |event: &RemoteEvent| matches!(event, RemoteEvent::Lost { wait, .. } if *wait == SOON_FOR_KEYS);
    published.until("the key is not known", waits).await;
    std::fs::copy(bed.sshd.known_hosts(), &known).unwrap();
    published
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_trusted_meanwhile_is_seen_when_somebody_looks_again() {
    let bed = SshBed::new().await;
    let published = trusted_later(&bed).await;
    // It may not have begun to wait.
    eventually(DEADLINE, "the port is open", || {
        published.ports.look_again();
        published.said(|event| matches!(event, RemoteEvent::Listening { .. })) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_trusted_is_seen_though_nobody_says_so() {
    let bed = SshBed::new().await;
    let published = trusted_later(&bed).await;
    published.until("the port is open", |event| matches!(event, RemoteEvent::Listening { .. })).await;
}
