//! What needs a real `sshd` and more than the public interface: short limits, one server's connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_core::backoff::Backoff;
use adit_core::target::{SshBackend, SshOptions, SshServer, Target};
use runtime::Scope;
use runtime::connect::Io;
use testkit::origin::TcpOrigin;
use testkit::sshd::Sshd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::bastion::{Bastion, OpenedVia, REFUSED, Way};
use super::error::SshError;
use super::link::{Limits, Link};
use super::servers::{Refusal, SshServers};
use crate::clusters::Clusters;
use crate::set::{ForwardSet, ForwardSpec};
use crate::supervisor::ForwardOptions;

// By namespaces of Linux.
#[cfg(target_os = "linux")]
mod cut_off;
mod held;
mod hops;
mod leaving;
mod lying;
mod masters;
mod mended;
mod passwords;
mod published;
mod silent;
mod under_way;

const DEADLINE: Duration = Duration::from_secs(15);

struct Bed {
    sshd: Sshd,
    origin: TcpOrigin,
    scope: Scope,
    servers: Arc<SshServers>,
}

impl Bed {
    async fn new(limits: Limits) -> Self {
        Self {
            sshd: Sshd::start(&[]).await,
            origin: TcpOrigin::start().await.unwrap(),
            scope: Scope::root(),
            servers: SshServers::with_limits(None, limits),
        }
    }

    fn server(&self) -> SshServer {
        let config = self.sshd.path("ssh_config");
        std::fs::write(&config, "Host *\n  IdentityAgent none\n").unwrap();
        let options = SshOptions {
            key: Some(self.sshd.key()),
            known_hosts: Some(self.sshd.known_hosts()),
            config: Some(config),
            ..SshOptions::default()
        };
        SshServer::parse(&format!("{}@{}", self.sshd.user(), self.sshd.addr())).unwrap().with(options)
    }

    fn bastion(&self) -> Arc<Bastion> {
        self.servers.bastion(&self.server())
    }

    async fn say(&self, bastion: &Arc<Bastion>, line: &str) -> Io {
        let Ok(mut io) = self.open(bastion, self.origin.addr().port()).await else { panic!("a stream") };
        io.write_all(line.as_bytes()).await.unwrap();
        io
    }

    /// Whether a stream is being closed that the server has not closed yet.
    fn is_closing(&self) -> bool {
        self.scope.running().contains_key("close an ssh stream")
    }

    /// The server stands still, and somebody has given up a stream that it has not opened.
    async fn freeze_while_closing(&self, bastion: &Arc<Bastion>) {
        trip(&mut self.say(bastion, "echo\n").await, b"before").await;
        within(async {
            while !self.is_closing() {
                // On a busy machine it may answer once more before it stands still.
                self.sshd.freeze();
                let patience = Duration::from_millis(100);
                let _ = bastion.open(&self.scope, "127.0.0.1", self.origin.addr().port(), patience).await;
            }
        })
        .await;
    }

    async fn open(&self, bastion: &Arc<Bastion>, port: u16) -> Result<Io, OpenedVia> {
        within(bastion.open(&self.scope, "127.0.0.1", port, DEADLINE)).await
    }
}

/// The connection that a stream would take now.
async fn link(bed: &Bed, bastion: &Arc<Bastion>) -> Arc<Link> {
    match within(bastion.way(&bed.scope)).await {
        Ok(Way::Link(link)) => link,
        _ => panic!("a connection"),
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.scope.abort();
    }
}

async fn within<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, step).await.expect("in time")
}

async fn trip(io: &mut Io, bytes: &[u8]) {
    within(io.write_all(bytes)).await.unwrap();
    let mut back = vec![0; bytes.len()];
    within(io.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, bytes);
}

/// Reads until it ends or fails.
async fn end_of(io: &mut Io) -> std::io::Result<usize> {
    let (mut piece, mut sum) = (vec![0; 64 * 1024], 0);
    loop {
        match within(io.read(&mut piece)).await? {
            0 => return Ok(sum),
            got => sum += got,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_is_ended_with_what_waits_of_it_and_the_others_go_on() {
    let unread = 512 * 1024;
    let bed = Bed::new(Limits { unread, stuck: Duration::from_millis(200), ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut beside = bed.say(&bastion, "echo\n").await;
    trip(&mut beside, b"before").await;
    let mut stuck = bed.say(&bastion, "source\n").await;
    bed.sshd.says(DEADLINE, |_| bed.origin.connections() > 1).await;
    // Its end is told to the server, though its owner does nothing.
    within(async {
        while bed.origin.open() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    for _ in 0..50 {
        trip(&mut beside, b"beside it").await;
    }
    let error = within(stuck.write(b"more")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let mut rest = 0;
    let error = loop {
        match within(stuck.read(&mut vec![0; 64 * 1024])).await {
            Ok(0) => panic!("a cut is no end"),
            Ok(got) => rest += got,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("nobody read the stream"), "{error}");
    assert!(rest <= 64 * 1024, "what waited is thrown away: {rest}");
    trip(&mut beside, b"after it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_tiny_pieces_is_ended_too() {
    let bed = Bed::new(Limits { pieces: 20, stuck: Duration::from_millis(200), ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut beside = bed.say(&bastion, "echo\n").await;
    trip(&mut beside, b"before").await;
    let mut stuck = bed.say(&bastion, "drip 400 5\n").await;
    let _first = within(stuck.read_u8()).await.unwrap();
    bed.sshd.says(DEADLINE, |_| bed.origin.open() < 2).await;
    trip(&mut beside, b"beside it").await;
    assert!(end_of(&mut stuck).await.is_err());
}

/// Streams of one connection that nobody reads.
async fn crowd(bed: &Bed, bastion: &Arc<Bastion>, size: usize) -> Vec<Io> {
    let mut crowd = Vec::new();
    for _ in 0..size {
        let Ok(io) = bed.open(bastion, bed.origin.addr().port()).await else { panic!("a stream") };
        crowd.push(io);
    }
    for io in &mut crowd {
        within(io.write_all(b"source\n")).await.unwrap();
    }
    crowd
}

async fn until(is_so: impl Fn() -> bool) {
    within(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_that_nobody_reads_have_a_bounded_sum_and_other_connections_go_on() {
    let total = 4 * 1024 * 1024;
    let bed = Bed::new(Limits { total, ..Limits::default() }).await;
    // A connection of its own each.
    let bastion = |number: usize| {
        let mut server = bed.server();
        server.options.passphrase_file = Some(format!("{number}").into());
        bed.servers.bastion(&server)
    };
    let bastions: Vec<_> = (0..8).map(bastion).collect();
    let mut unread = Vec::new();
    for bastion in &bastions {
        unread.extend(crowd(&bed, bastion, 3).await);
    }
    let budget = bed.servers.budget();
    until(|| budget.used() > total / 2).await;
    let mut beside = bed.say(&bastion(8), "echo\n").await;
    let long = vec![7; 100_000];
    for _ in 0..50 {
        trip(&mut beside, &long).await;
    }
    let used = budget.used();
    assert!(used < total + 24 * 100 * 1024, "{used}");
    drop(unread);
    until(|| budget.used() <= 0).await;
    let mut again = bed.say(&bastions[0], "echo\n").await;
    trip(&mut again, b"after them").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_left_only_for_a_successor_and_its_streams_stay() {
    let bed = Bed::new(Limits { renew: Duration::ZERO, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut old = bed.say(&bastion, "echo\n").await;
    trip(&mut old, b"before").await;
    bastion.renew(&bed.scope);
    bastion.renew(&bed.scope);
    // Streams that are opened meanwhile do not wait for it.
    bed.say(&bastion, "echo\n").await;
    bed.sshd.says(DEADLINE, |_| bed.sshd.logins() == 2).await;
    trip(&mut old, b"after").await;

    // No successor: nothing changes.
    std::fs::write(bed.sshd.path("authorized"), "").unwrap();
    let tried = async {
        // The login before may not have ended here yet.
        while bed.sshd.connections() < 3 {
            bastion.renew(&bed.scope);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(tried).await;
    trip(&mut bed.say(&bastion, "echo\n").await, b"still").await;
    assert_eq!(bed.sshd.logins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_shows_no_life_when_it_is_asked_for_is_left() {
    let bed = Bed::new(Limits { life: Duration::from_millis(100), ..Limits::default() }).await;
    let bastion = bed.bastion();
    trip(&mut bed.say(&bastion, "echo\n").await, b"before").await;
    bastion.prove();
    trip(&mut bed.say(&bastion, "echo\n").await, b"it lives").await;
    assert_eq!(bed.sshd.logins(), 1, "the same connection");
    bed.sshd.freeze();
    bastion.prove();
    let opening = bastion.open(&bed.scope, "127.0.0.1", bed.origin.addr().port(), DEADLINE);
    assert!(tokio::time::timeout(Duration::from_millis(500), opening).await.is_err(), "the server is frozen");
    bed.sshd.thaw();
    trip(&mut bed.say(&bastion, "echo\n").await, b"after").await;
    assert_eq!(bed.sshd.logins(), 2, "by another connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_stream_when_the_network_changes_has_it_by_another_connection() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    trip(&mut bed.say(&bastion, "echo\n").await, b"before").await;
    // The way to the server is gone, and nobody says so; the connection is too young to be doubted for that.
    bed.sshd.freeze_connections();
    let link = link(&bed, &bastion).await;
    let opening = bed.say(&bastion, "echo\n");
    let begun = Instant::now();
    let changing = async {
        until(|| link.is_opening()).await;
        bastion.wake();
    };
    let (mut stream, ()) = Box::pin(within(async { tokio::join!(opening, changing) })).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    trip(&mut stream, b"after").await;
    assert_eq!(bed.sshd.logins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_is_waited_for_by_whoever_comes_after_the_last_user() {
    let bed = Bed::new(Limits::default()).await;
    std::fs::write(bed.sshd.path("authorized"), "").unwrap();
    for _ in 0..3 {
        let bastion = bed.bastion();
        let refused = bed.open(&bastion, bed.origin.addr().port()).await;
        assert!(matches!(refused, Err(OpenedVia::Ssh(error)) if error.is_login()));
        let gone = Arc::downgrade(&bastion);
        drop(bastion);
        until(|| gone.strong_count() == 0).await;
    }
    assert_eq!(bed.sshd.connections(), 1, "{}", bed.sshd.log());
    // The machine wakes, and a person has seen to it meanwhile.
    bed.sshd.authorize(&bed.sshd.key());
    bed.servers.wake();
    trip(&mut bed.say(&bed.bastion(), "echo\n").await, b"let in").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_server_that_is_frozen_hold_up_no_end() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let closing = || bed.is_closing();
    bed.freeze_while_closing(&bastion).await;
    drop(bastion);
    bed.scope.drain();
    let begun = Instant::now();
    until(|| !closing()).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    bed.sshd.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_waits_for_the_end_a_stream_is_closed_however_long_the_server_takes() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let closing = || bed.is_closing();
    bed.freeze_while_closing(&bastion).await;
    // As a daemon that was replaced.
    bed.scope.linger();
    bed.scope.drain();
    let given_up = tokio::time::timeout(Duration::from_millis(1500), until(|| !closing())).await;
    assert!(given_up.is_err(), "the server may be slow");
    bed.sshd.thaw();
    until(|| !closing()).await;
    drop(bastion);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_ends_a_daemon_that_was_replaced_does_not_wait_for_a_frozen_server() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let closing = || bed.is_closing();
    bed.freeze_while_closing(&bastion).await;
    bed.scope.linger();
    bed.scope.drain();
    assert!(closing(), "it has its time");
    // A signal has come.
    bed.scope.hasten();
    let begun = Instant::now();
    until(|| !closing()).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(bastion);
    bed.sshd.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_young_connection_is_not_made_anew() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let mut io = bed.say(&bastion, "echo\n").await;
    bastion.renew(&bed.scope);
    trip(&mut io, b"on").await;
    trip(&mut bed.say(&bastion, "echo\n").await, b"the same").await;
    assert_eq!(bed.sshd.logins(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_gives_up_a_login_under_way() {
    let bed = Bed::new(Limits::default()).await;
    let front = testkit::sshd::mute().await.unwrap();
    let mut server = bed.server();
    server.port = std::num::NonZeroU16::new(front.local_addr().unwrap().port());
    let config = bed.sshd.path("ssh_config");
    std::fs::write(&config, format!("Host *\n  IdentityAgent none\n  HostKeyAlias {}\n", bed.sshd.known_name()))
        .unwrap();
    server.options.connect_timeout = Some(DEADLINE * 8);
    let bastion = bed.servers.bastion(&server);
    let opening = bastion.open(&bed.scope, "127.0.0.1", bed.origin.addr().port(), DEADLINE * 8);
    let network = async {
        // The first one leads nowhere, as a connection of a network that is gone.
        let (_hangs, _) = front.accept().await.unwrap();
        bastion.wake();
        let (mut client, _) = front.accept().await.unwrap();
        let mut sshd = tokio::net::TcpStream::connect(bed.sshd.addr()).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut sshd).await;
    };
    let opened = tokio::select! {
        opened = within(opening) => opened,
        () = network => panic!("the stream is opened first"),
    };
    assert!(opened.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_key_that_is_trusted_meanwhile_is_seen_when_the_file_is_read_anew() {
    let bed = Bed::new(Limits::default()).await;
    let known = bed.sshd.path("known_later");
    std::fs::write(&known, "").unwrap();
    let mut server = bed.server();
    server.options.known_hosts = Some(known.clone());
    let Ok(Target::Ssh(mut target)) = Target::parse("ssh://any/127.0.0.1:1") else { panic!("a target") };
    target.server = server;
    let spec = ForwardSpec { name: "db".into(), target: Target::Ssh(target), options: ForwardOptions::default() };
    let clusters = Clusters::with_ssh(crate::KubeSettings::default(), Arc::clone(&bed.servers));
    let first = ForwardSet::default().next(&bed.scope, &clusters, vec![spec.clone()]);
    first.start();
    let forward = first.get("db").unwrap().clone();
    until(|| forward.report().waiting_for.is_some_and(|what| what.contains("is not known"))).await;
    std::fs::copy(bed.sshd.known_hosts(), &known).unwrap();
    // The forward stays as it is.
    let next = first.next(&bed.scope, &clusters, vec![spec]);
    next.start();
    until(|| bed.sshd.logins() == 1).await;
    assert!(next.get("db").unwrap().is(&forward));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_key_that_is_not_believed_are_looked_at_once_for_all_and_for_nobody_no_more() {
    let bed = Bed::new(Limits::default()).await;
    std::fs::write(bed.sshd.known_hosts(), "").unwrap();
    let watches = || bed.scope.running().get("watch keys").copied().unwrap_or(0);
    let users: Vec<_> = (0..3).map(|_| bed.bastion()).collect();
    for bastion in &users {
        let refused = bed.open(bastion, bed.origin.addr().port()).await;
        assert!(matches!(refused, Err(OpenedVia::Ssh(error)) if error.is_host_key()));
    }
    until(|| watches() == 1).await;
    drop(users);
    until(|| watches() == 0).await;
    assert_eq!(bed.sshd.connections(), 1, "{}", bed.sshd.log());
}

#[tokio::test]
async fn who_comes_after_a_refusal_whose_time_is_over_waits_longer_after_the_next() {
    let servers = SshServers::new(None);
    let server = SshServer::parse("me@bastion").unwrap();
    let waits = |ago: Duration| {
        let mut backoff = Backoff::new(REFUSED);
        backoff.next_wait(0);
        let error = SshError::BadKey { server: "bastion".to_owned(), reason: "any".to_owned() };
        servers.refuses(&server, Refusal { error, until: Instant::now() - ago, backoff });
        servers.bastion(&server).next_refusal()
    };
    assert_eq!(waits(Duration::from_secs(1)), 2 * REFUSED.first);
    assert_eq!(waits(REFUSED.cap), REFUSED.first, "long ago");
}

#[tokio::test]
async fn times_make_no_other_login() {
    let servers = SshServers::new(None);
    let server = |options: SshOptions| SshServer::parse("me@bastion").unwrap().with(options);
    let plain = servers.bastion(&server(SshOptions::default()));
    let timed = SshOptions {
        keepalive: Some(Duration::from_secs(5)),
        connect_timeout: Some(Duration::from_secs(7)),
        ..SshOptions::default()
    };
    assert!(Arc::ptr_eq(&plain, &servers.bastion(&server(timed))));
    let keyed = SshOptions { key: Some("/k".into()), ..SshOptions::default() };
    assert!(!Arc::ptr_eq(&plain, &servers.bastion(&server(keyed))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_of_openssh_ends_with_its_last_stream_when_it_is_given_up() {
    let bed = Bed::new(Limits::default()).await;
    let mut server = bed.server();
    server.options.backend = SshBackend::OpenSsh;
    let bastion = bed.servers.bastion(&server);
    let mut io = bed.say(&bastion, "echo\n").await;
    trip(&mut io, b"before").await;
    bastion.wake();
    trip(&mut io, b"after").await;
    let ends = |log: &str| log.contains("disconnected by user");
    assert!(!ends(&bed.sshd.log()));
    let mut next = bed.say(&bastion, "echo\n").await;
    trip(&mut next, b"by another login").await;
    assert_eq!(bed.sshd.logins(), 2);
    drop(io);
    // Not after the time for which a master is kept.
    tokio::time::timeout(Duration::from_secs(5), bed.sshd.says(DEADLINE, ends)).await.expect("it ends at once");
    trip(&mut next, b"the other goes on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_opened_is_kept_open() {
    use std::os::unix::fs::PermissionsExt as _;
    let bed = Bed::new(Limits::default()).await;
    let mut server = bed.server();
    let (key, file) = (bed.sshd.make_key("locked", "ed25519", "open sesame"), bed.sshd.path("passphrase"));
    bed.sshd.authorize(&key);
    std::fs::write(&file, "open sesame\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    (server.options.key, server.options.passphrase_file) = (Some(key), Some(file.clone()));
    let bastion = bed.servers.bastion(&server);
    trip(&mut bed.say(&bastion, "echo\n").await, b"opened").await;
    std::fs::remove_file(file).unwrap();
    bastion.wake();
    trip(&mut bed.say(&bastion, "echo\n").await, b"still open").await;
    assert_eq!(bed.sshd.logins(), 2);
}
