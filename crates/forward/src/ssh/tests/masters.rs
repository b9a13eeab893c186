//! Masters of OpenSSH that are replaced.

use super::*;
use crate::ssh::openssh::Master;

fn by_openssh(bed: &Bed) -> Arc<Bastion> {
    let mut server = bed.server();
    server.options.backend = SshBackend::OpenSsh;
    bed.servers.bastion(&server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_end_of_an_old_master_leaves_its_successor_alone() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = by_openssh(&bed);
    let mut io = bed.say(&bastion, "echo\n").await;
    trip(&mut io, b"before").await;
    let Ok(Way::OpenSsh(old)) = bastion.way(&bed.scope).await else { panic!("a master") };
    bastion.wake();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by its successor").await;
    let late = || SshError::BadKey { server: "bastion".to_owned(), reason: "late".to_owned() };
    bastion.openssh_failed(&Arc::downgrade(&old), late());
    trip(&mut bed.say(&bastion, "echo\n").await, b"by its successor still").await;
    assert_eq!(bed.sshd.logins(), 2);
    // The end of the one in use counts.
    let Ok(Way::OpenSsh(new)) = bastion.way(&bed.scope).await else { panic!("a master") };
    bastion.openssh_failed(&Arc::downgrade(&new), late());
    assert!(within(bastion.way(&bed.scope)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_to_be_proven_is_left_for_a_successor_and_not_before() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = by_openssh(&bed);
    let mut old = bed.say(&bastion, "echo\n").await;
    trip(&mut old, b"before").await;
    bastion.prove();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by its successor").await;
    assert_eq!(bed.sshd.logins(), 2);
    trip(&mut old, b"its streams stay").await;
    // No successor: the one that is there stays.
    std::fs::write(bed.sshd.path("authorized"), "").unwrap();
    bastion.prove();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by the same").await;
    let refusals = bed.sshd.refusals();
    assert!(refusals > 0);
    for _ in 0..3 {
        trip(&mut bed.say(&bastion, "echo\n").await, b"by the same, and the server is not asked again").await;
    }
    assert_eq!(bed.sshd.refusals(), refusals);
    // But by who wants it anew once more.
    bastion.prove();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by the same still").await;
    assert_eq!((bed.sshd.logins(), bed.sshd.refusals()), (2, 2 * refusals));
}

/// A stream, and the master that carries it, whose socket somebody removes.
async fn without_socket(bed: &Bed, line: &str) -> (Io, Arc<Master>) {
    let bastion = by_openssh(bed);
    let mut io = bed.say(&bastion, line).await;
    within(io.read_exact(&mut [0; 5])).await.unwrap();
    let Ok(Way::OpenSsh(master)) = bastion.way(&bed.scope).await else { panic!("a master") };
    std::fs::remove_file(master.socket()).unwrap();
    (io, master)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_stream_is_no_cut_when_the_socket_of_its_master_was_removed() {
    let bed = Bed::new(Limits::default()).await;
    let (mut io, _master) = without_socket(&bed, "echo\nhello").await;
    within(io.write_all(b" again")).await.unwrap();
    within(io.shutdown()).await.unwrap();
    let mut rest = String::new();
    within(io.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, " again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_is_no_end_when_the_socket_of_its_master_was_removed() {
    let bed = Bed::new(Limits::default()).await;
    let (mut io, _master) = without_socket(&bed, "source\n").await;
    bed.sshd.kill().await;
    assert_eq!(end_of(&mut io).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_asked_whether_it_lives_as_often_as_anybody_likes() {
    let bed = Bed::new(Limits::default()).await;
    let (mut io, master) = without_socket(&bed, "echo\nhello").await;
    for _ in 0..3 {
        assert!(within(master.lives()).await && within(master.lives()).await);
    }
    trip(&mut io, b"more").await;
    bed.sshd.kill().await;
    within(master.ended()).await;
    assert!(!within(master.lives()).await);
}
