//! Connections from which nothing is taken, as a stream has as much as it may have.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_reads_nothing_is_ended_where_it_holds_up_others() {
    let stuck = Duration::from_secs(2);
    let bed = Bed::new(Limits { total: 512 * 1024, stuck, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut beside = bed.say(&bastion, "echo\n").await;
    trip(&mut beside, b"before").await;
    let _unread = crowd(&bed, &bastion, 5).await;
    let begun = Instant::now();
    until(|| bed.origin.connections() == 6).await;
    trip(&mut beside, b"beside it").await;
    until(|| bed.origin.open() == 1).await;
    trip(&mut beside, b"after it").await;
    assert!(begun.elapsed() < 2 * stuck, "all of them within {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_which_nothing_had_come_when_the_first_held_it_up_does_not_take_its_time_one_after_the_other() {
    let (unread, stuck) = (256 * 1024, Duration::from_secs(2));
    let bed = Bed::new(Limits { unread, stuck, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut beside = bed.say(&bastion, "echo\n").await;
    trip(&mut beside, b"before").await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let Ok(io) = bed.open(&bastion, bed.origin.addr().port()).await else { panic!("a stream") };
        streams.push(io);
    }
    within(streams[0].write_all(b"source\n")).await.unwrap();
    until(|| bed.servers.budget().used() >= unread).await;
    let begun = Instant::now();
    for stream in &mut streams[1..] {
        within(stream.write_all(b"source\n")).await.unwrap();
    }
    until(|| bed.origin.open() == 1).await;
    trip(&mut beside, b"after them").await;
    assert!(begun.elapsed() < 2 * stuck, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_held_up_by_a_reader_that_pauses_is_not_taken_for_dead() {
    let unread = 256 * 1024;
    let bed = Bed::new(Limits { unread, life: Duration::from_millis(100), ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut paused = bed.say(&bastion, "source 4000000\n").await;
    let first = link(&bed, &bastion).await;
    until(|| first.is_behind()).await;
    bastion.prove();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by another").await;
    assert!(first.is_usable(), "it is the reader that does not go on");
    assert_eq!(end_of(&mut paused).await.unwrap(), 4_000_000);
    assert_eq!(bed.sshd.logins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_may_pause_for_longer_than_a_dead_server_is_waited_for() {
    let bed = Bed::new(Limits { unread: 256 * 1024, ..Limits::default() }).await;
    // It was a matter of luck, so several.
    let mut paused = Vec::new();
    for number in 0..6 {
        let mut server = bed.server();
        server.options.keepalive = Some(Duration::from_millis(200));
        server.options.passphrase_file = Some(format!("{number}").into());
        let bastion = bed.servers.bastion(&server);
        paused.push((bed.say(&bastion, "source 2000000\n").await, bastion));
    }
    until(|| bed.servers.budget().used() >= 6 * 256 * 1024).await;
    // Longer than three keep-alives and one more.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for (mut io, bastion) in paused {
        assert_eq!(end_of(&mut io).await.unwrap(), 2_000_000);
        trip(&mut bed.say(&bastion, "echo\n").await, b"on").await;
    }
    assert_eq!(bed.sshd.logins(), 6, "no connection was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_are_asked_for_a_sign_of_life_at_once() {
    let life = Duration::from_secs(1);
    let bed = Bed::new(Limits { life, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let (mut unread, mut links) = (Vec::new(), Vec::new());
    for number in 1..5 {
        links.push(link(&bed, &bastion).await);
        // More than a MiB, so that the next goes by another connection, and less than what holds it up.
        unread.push(bed.say(&bastion, "source 1500000\n").await);
        until(|| bed.servers.budget().used() >= number * 1_500_000).await;
    }
    assert_eq!(bed.sshd.logins(), 4);
    bed.sshd.freeze();
    bastion.prove();
    let begun = Instant::now();
    let opening = bastion.open(&bed.scope, "127.0.0.1", bed.origin.addr().port(), DEADLINE);
    let retired = until(|| links.iter().all(|link| !link.is_usable()));
    tokio::select! {
        _ = opening => panic!("the server is frozen"),
        () = retired => {}
    }
    assert!(begun.elapsed() < 2 * life, "{:?}", begun.elapsed());
    bed.sshd.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_life_ends_a_connection_whose_reader_pauses_and_new_streams_go_by_another() {
    let bed = Bed::new(Limits::default()).await;
    let path = bed.sshd.path("sshd_config");
    let lines = std::fs::read_to_string(&path).unwrap();
    bed.sshd.kill().await;
    std::fs::write(&path, format!("ClientAliveInterval 1\nClientAliveCountMax 2\n{lines}")).unwrap();
    bed.sshd.restart().await;
    let bastion = bed.bastion();
    // Without one that pauses its questions are answered.
    let mut beside = bed.say(&bastion, "echo\n").await;
    bed.sshd.says(DEADLINE, |log| log.matches(" for keepalive").count() > 2).await;
    trip(&mut beside, b"before").await;
    drop(beside);
    // Alone: so it may pause, and nobody ends it here.
    let mut paused = bed.say(&bastion, "source\n").await;
    bed.sshd.says(DEADLINE, |log| log.contains("Timeout, client not responding")).await;
    trip(&mut bed.say(&bastion, "echo\n").await, b"by another").await;
    assert_eq!(bed.sshd.logins(), 2);
    // What had come is still there, and then it is cut: that is no end of file.
    within(paused.read_exact(&mut vec![0; 1 << 20])).await.unwrap();
    assert!(end_of(&mut paused).await.is_err());
}
