//! Logins that are under way when something else happens.

use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A server that takes connections and says nothing, and the login that waits for it.
async fn mute(bed: &Bed, backend: SshBackend) -> (TcpListener, Arc<Bastion>) {
    let front = testkit::sshd::mute().await.unwrap();
    let mut server = bed.server();
    server.port = std::num::NonZeroU16::new(front.local_addr().unwrap().port());
    server.options.connect_timeout = Some(DEADLINE * 8);
    server.options.backend = backend;
    let bastion = bed.servers.bastion(&server);
    (front, bastion)
}

async fn closed(stream: &mut TcpStream) {
    let end = async { while matches!(stream.read(&mut [0; 256]).await, Ok(1..)) {} };
    within(end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_under_way_ends_with_the_program() {
    for backend in [SshBackend::Native, SshBackend::OpenSsh] {
        let bed = Bed::new(Limits::default()).await;
        let (front, bastion) = mute(&bed, backend).await;
        let ending = async {
            let (mut stream, _) = within(front.accept()).await.unwrap();
            bed.scope.drain();
            closed(&mut stream).await;
        };
        tokio::select! {
            () = ending => {}
            way = bastion.way(&bed.scope) => assert!(way.is_err(), "{backend:?}: nobody is let in"),
        }
        within(async {
            while bed.scope.running().contains_key("ssh login") {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_login_when_the_program_ends_is_told_and_no_other_one_begins() {
    for backend in [SshBackend::Native, SshBackend::OpenSsh] {
        let bed = Bed::new(Limits::default()).await;
        let (front, bastion) = mute(&bed, backend).await;
        let ending = async {
            let (_held, _) = within(front.accept()).await.unwrap();
            bed.scope.drain();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = ending => {}
            way = within(bastion.way(&bed.scope)) => {
                let error = way.err().expect("nobody is let in").to_string();
                assert!(error.contains("adit ends"), "{backend:?}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_under_way_is_made_anew_at_once_when_the_network_changes_also_by_openssh_and_at_a_hop() {
    for (backend, is_hop) in [(SshBackend::OpenSsh, false), (SshBackend::Native, true)] {
        let bed = Bed::new(Limits::default()).await;
        let (front, mut bastion) = mute(&bed, backend).await;
        if is_hop {
            let mut server = bed.server();
            server.options.jump = Some(front.local_addr().unwrap().to_string());
            server.options.connect_timeout = Some(DEADLINE * 8);
            bastion = bed.servers.bastion(&server);
        }
        let network = async {
            let (mut old, _) = within(front.accept()).await.unwrap();
            bed.servers.wake();
            closed(&mut old).await;
            let _new = within(front.accept()).await.unwrap();
        };
        tokio::select! {
            () = network => {}
            _ = bastion.way(&bed.scope) => panic!("{backend:?}: nobody is let in"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_loses_one_connection_at_once_shares_the_next_login() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut io = bed.say(&bastion, "echo\n").await;
        trip(&mut io, b"before").await;
        streams.push(io);
    }
    bed.sshd.drop_connections();
    let again = streams.iter_mut().map(|io| async {
        // The end may be told as an error.
        let _ = end_of(io).await;
        trip(&mut bed.say(&bastion, "echo\n").await, b"after").await;
    });
    futures_util::future::join_all(again).await;
    assert_eq!(bed.sshd.logins(), 2, "{}", bed.sshd.log());
}
