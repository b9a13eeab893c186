//! Connections that show no life while the server itself is well.

use super::*;

const LIFE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_opened_as_its_connection_is_silent_is_opened_by_another() {
    let bed = Bed::new(Limits { life: LIFE, dead: LIFE, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut old = bed.say(&bastion, "echo\n").await;
    trip(&mut old, b"before").await;
    until(|| bastion.has_been_there_for(2 * LIFE)).await;
    bed.sshd.freeze_connections();
    let begun = Instant::now();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by another").await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(bed.sshd.logins(), 2);
    // Its server may be looking up a name: the streams it has are left to the keep-alives, and go on when it is done.
    // Whoever asked whether it lives has begun by now.
    until(|| !bed.scope.running().contains_key("ssh sign of life")).await;
    bed.sshd.thaw();
    trip(&mut old, b"after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_that_makes_a_server_silent_is_no_reason_for_a_login_again_and_again() {
    let bed = Bed::new(Limits { life: LIFE, dead: LIFE, ..Limits::default() }).await;
    let bastion = bed.bastion();
    trip(&mut bed.say(&bastion, "echo\n").await, b"before").await;
    until(|| bastion.has_been_there_for(2 * LIFE)).await;
    bed.sshd.freeze_connections();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by another").await;
    until(|| bastion.has_been_there_for(2 * LIFE)).await;
    bed.sshd.freeze_connections();
    let again = bastion.open(&bed.scope, "127.0.0.1", bed.origin.addr().port(), Duration::from_secs(4)).await;
    assert!(again.is_err(), "it waits for its server");
    assert_eq!(bed.sshd.logins(), 2);
    bed.sshd.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_dead_connection_end_as_there_is_another() {
    let bed = Bed::new(Limits { life: LIFE, dead: LIFE, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut old = bed.say(&bastion, "echo\n").await;
    trip(&mut old, b"before").await;
    let port = bed.origin.addr().port();
    within(async {
        // On a busy machine it may answer once more before it stands still.
        bed.sshd.freeze_connections();
        while bastion.open(&bed.scope, "127.0.0.1", port, Duration::from_millis(100)).await.is_ok() {}
    })
    .await;
    bastion.prove();
    let begun = Instant::now();
    trip(&mut bed.say(&bastion, "echo\n").await, b"by another").await;
    // Long before its keep-alives say it.
    let error = end_of(&mut old).await.unwrap_err();
    assert!(error.to_string().contains("does not answer any more"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    bed.sshd.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_answers_is_not_left_for_a_target_that_is_slow() {
    let bed = Bed::new(Limits { life: LIFE, dead: LIFE, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut beside = bed.say(&bastion, "echo\n").await;
    trip(&mut beside, b"before").await;
    until(|| bastion.has_been_there_for(2 * LIFE)).await;
    // An address that nobody answers for; where there is no such network it is refused at once, which is as good.
    let patience = Duration::from_secs(4);
    let opened = bastion.open(&bed.scope, "192.0.2.1", 9, patience).await;
    assert!(opened.is_err());
    trip(&mut beside, b"beside it").await;
    assert_eq!(bed.sshd.logins(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_an_old_connection_that_answers_go_on_though_somebody_waits_for_a_place() {
    let bed = Bed::new(Limits { life: LIFE, dead: LIFE, renew: Duration::ZERO, ..Limits::default() }).await;
    let bastion = bed.bastion();
    let mut old = bed.say(&bastion, "echo\n").await;
    trip(&mut old, b"before").await;
    bastion.renew(&bed.scope);
    until(|| bed.sshd.logins() == 2).await;
    trip(&mut bed.say(&bastion, "echo\n").await, b"by another").await;
    bastion.doubt(&bed.scope);
    until(|| !bed.scope.running().contains_key("ssh sign of life")).await;
    trip(&mut old, b"after").await;
    assert_eq!(bed.sshd.logins(), 2);
}
