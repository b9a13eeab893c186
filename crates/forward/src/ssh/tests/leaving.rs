//! How streams end, and what is left of them.

use std::sync::atomic::Ordering;

use super::*;

/// How many streams of it we ended before the server did.
fn left(link: &Link) -> usize {
    link.shared().left.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_streams_that_end_in_the_usual_ways() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let first = link(&bed, &bastion).await;
    for _ in 0..20 {
        // The client ends it first and is gone at once.
        let mut io = bed.say(&bastion, "echo\n").await;
        trip(&mut io, b"a question").await;
        within(io.shutdown()).await.unwrap();
        drop(io);
        // The service ends it first.
        let mut io = bed.say(&bastion, "source 1000\n").await;
        assert_eq!(end_of(&mut io).await.unwrap(), 1000);
        within(io.shutdown()).await.unwrap();
    }
    until(|| first.streams() == 0 && bed.origin.open() == 0).await;
    assert_eq!(left(&first), 0, "the server ended all of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_wants_any_more_is_ended_at_once_where_it_would_go_on() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let first = link(&bed, &bastion).await;
    // The client has ended its direction and is gone, and the service sends on and on.
    let mut io = bed.say(&bastion, "source\n").await;
    within(io.read_u8()).await.unwrap();
    within(io.shutdown()).await.unwrap();
    let begun = Instant::now();
    drop(io);
    until(|| bed.origin.open() == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // The client is cut off.
    let mut io = bed.say(&bastion, "echo\n").await;
    trip(&mut io, b"a question").await;
    drop(io);
    until(|| bed.origin.open() == 0).await;
    // The service does not mind the end of the client's direction.
    let mut io = bed.say(&bastion, "hold\n").await;
    within(io.shutdown()).await.unwrap();
    drop(io);
    until(|| first.streams() == 0).await;
    assert!((2..=3).contains(&left(&first)), "{}", left(&first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_much_left_of_its_streams_is_replaced() {
    let bed = Bed::new(Limits { left: 10, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut kept = bed.say(&bastion, "echo\n").await;
    trip(&mut kept, b"before").await;
    for _ in 0..12 {
        let mut io = bed.say(&bastion, "echo\n").await;
        trip(&mut io, b"cut off").await;
    }
    bed.sshd.says(DEADLINE, |_| bed.sshd.logins() == 2).await;
    trip(&mut kept, b"its streams stay").await;
    trip(&mut bed.say(&bastion, "echo\n").await, b"by another").await;
    assert_eq!(bed.sshd.logins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_does_not_wait_for_a_frozen_server_to_take_the_ends_of_streams() {
    let bed = Bed::new(Limits::default()).await;
    let bastion = bed.bastion();
    let mut told = bed.say(&bastion, "hold\n").await;
    within(told.shutdown()).await.unwrap();
    let mut full = Vec::new();
    for _ in 0..8 {
        full.push(bed.say(&bastion, "hold\n").await);
    }
    bed.sshd.freeze();
    // More than is on its way to the server and what the connection takes: there is no room for an end.
    let much = vec![0; 4 << 20];
    for io in &mut full {
        let _ = tokio::time::timeout(Duration::from_millis(100), io.write_all(&much)).await;
    }
    drop(told);
    let leaving = || bed.scope.running().contains_key("leave ssh streams");
    until(leaving).await;
    bed.scope.drain();
    let begun = Instant::now();
    until(|| !leaving()).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    bed.sshd.thaw();
}
