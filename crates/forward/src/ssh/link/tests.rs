//! What holds up a connection, without one.

use std::sync::atomic::AtomicUsize;

use russh::keys::ssh_key::encoding::Decode as _;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(number: u32) -> ChannelId {
    ChannelId::decode(&mut &number.to_be_bytes()[..]).unwrap()
}

fn shared(limits: Limits) -> Arc<LinkShared> {
    LinkShared::new(&Scope::root(), limits, &Budget::new(limits.total))
}

/// Counts how often a future is polled.
async fn counted<T>(future: impl Future<Output = T>, polls: &AtomicUsize) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        future.as_mut().poll(cx)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_lone_reader_that_pauses_is_waited_for_without_a_timer_until_another_stream_is_to_be() {
    let shared = shared(Limits { unread: 100, stuck: Duration::ZERO, ..Limits::default() });
    let flow = shared.flow(id(1));
    flow.arrived(100);
    let polls = AtomicUsize::new(0);
    let mut waiting = pin!(counted(shared.wait_for_room(&flow, 100), &polls));
    assert!(tokio::time::timeout(60 * SECOND, waiting.as_mut()).await.is_err(), "alone there is no hurry");
    assert!(polls.load(Ordering::Relaxed) <= 2, "{polls:?}");
    assert!(shared.is_held());
    let _opening = BeingOpened::begin(&shared);
    assert!(waiting.await == Room::Never, "nothing was read of it");
    assert!(!shared.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lone_reader_is_not_ended_for_streams_whose_owners_are_gone() {
    let shared = shared(Limits { unread: 100, stuck: SECOND, ..Limits::default() });
    let flow = shared.flow(id(1));
    // It is kept until the server has ended it, which it cannot say.
    shared.flow(id(2)).close();
    flow.arrived(100);
    assert!(tokio::time::timeout(60 * SECOND, shared.wait_for_room(&flow, 100)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_on_is_not_ended_though_others_wait() {
    let shared = shared(Limits { unread: 100, stuck: SECOND, ..Limits::default() });
    let flow = shared.flow(id(1));
    let _other = shared.flow(id(2));
    flow.arrived(100);
    let reading = async {
        tokio::time::sleep(SECOND / 2).await;
        flow.taken(1);
    };
    let (room, ()) = tokio::join!(shared.wait_for_room(&flow, 100), reading);
    assert!(room == Room::There);
}

#[test]
fn the_patience_with_a_crowd_wears_off() {
    let (mut crowd, now) = (Crowd::default(), Instant::now());
    let stuck = 30 * SECOND;
    assert_eq!(crowd.patience(now, stuck, Duration::ZERO, false), stuck);
    assert_eq!(crowd.patience(now, stuck, 10 * SECOND, true), 20 * SECOND);
    let (mut at, mut sum) = (now, Duration::ZERO);
    for _ in 0..100 {
        let patience = crowd.patience(at, stuck, Duration::ZERO, true);
        at += patience;
        sum += patience;
        crowd.one_more(at, stuck);
        assert_eq!(crowd.patience(at, stuck, Duration::ZERO, false), SECOND, "it has never read");
        assert_eq!(crowd.patience(at, stuck, 40 * SECOND, true), GRACE, "it has had its time");
    }
    assert!(sum < 2 * stuck + 100 * SECOND, "{sum:?}");
    // After a while each has its time again.
    assert_eq!(crowd.patience(at + stuck, stuck, Duration::ZERO, false), stuck);
    crowd.one_more(at + 2 * stuck, stuck);
    assert_eq!(crowd.patience(at + 2 * stuck, stuck, Duration::ZERO, true), stuck / 2);
}

#[test]
fn a_crowd_elsewhere_does_not_make_a_connection_look_behind() {
    let limits = Limits { total: 1024 * 1024, ..Limits::default() };
    let budget = Budget::new(limits.total);
    let crowded = LinkShared::new(&Scope::root(), limits, &budget);
    let mine = LinkShared::new(&Scope::root(), limits, &budget);
    crowded.flow(id(1)).arrived(1024 * 1024);
    let flow = mine.flow(id(1));
    flow.arrived(100 * 1024);
    assert!(flow.is_full(&limits), "there is nothing left for it");
    assert!(!mine.is_behind());
    flow.arrived(1024 * 1024);
    assert!(mine.is_behind(), "it has more than a MiB itself");
}

#[test]
fn a_connection_from_which_nothing_is_taken_for_long_is_behind() {
    let shared = shared(Limits::default());
    let held = Held::begin(&shared);
    assert!(!shared.is_behind(), "readers hold it up for a moment now and then");
    *shared.held.lock().unwrap() = Some(Instant::now() - 2 * GRACE);
    assert!(shared.is_behind());
    drop(held);
    assert!(!shared.is_behind());
}
