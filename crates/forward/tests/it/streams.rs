//! Single streams that go wrong, and what they must not take with them.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use runtime::Connect as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Bed, DEADLINE, call, eventually, lose, open, rest, say, told, trip, within, within_of};

#[tokio::test]
async fn a_refused_port_ends_its_own_stream_and_no_other() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    let streams = bed.cluster.faults().streams();
    for _ in 0..5 {
        bed.cluster.set_backend("default", "web-1", 8080, None);
        let error = rest(&mut say(&forward, "hello\n").await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(told(&error).contains("nothing listens on"), "{}", told(&error));
        trip(&mut running, b"still here\n").await.unwrap();
        bed.cluster.set_backend("default", "web-1", 8080, Some(bed.origin.addr()));
        call(&forward).await;
    }
    assert_eq!(streams.connections(), streams.open_connections(), "no connection was lost");
    assert!(forward.report().is_ready());
}

#[tokio::test]
async fn a_reset_in_the_pod_is_a_reset_here() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut io = say(&forward, "reset 0\n").await;
    let error = rest(&mut io).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    // What came before it arrives.
    let mut io = say(&forward, "reset 3000\n").await;
    let mut got = vec![0; 3000];
    within("the bytes before the reset", io.read_exact(&mut got)).await.unwrap();
    assert_eq!(rest(&mut io).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    call(&forward).await;
}

#[tokio::test]
async fn texts_of_the_error_stream_become_errors_that_can_be_read() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    for (text, kind, words) in [
        ("something\nnew \u{1b}[31m happened", ErrorKind::ConnectionReset, "something new"),
        ("connect: connection refused", ErrorKind::ConnectionRefused, "nothing listens"),
        ("read: connection reset by peer", ErrorKind::ConnectionReset, "reset in the pod"),
        ("\u{fffd}\u{0}", ErrorKind::ConnectionReset, ""),
    ] {
        bed.cluster.faults().streams().stream_errors(1, text);
        let error = rest(&mut say(&forward, "hello\n").await).await.unwrap_err();
        let told = told(&error);
        assert_eq!(error.kind(), kind, "{told}");
        assert!(told.contains(words), "{told}");
        assert!(!told.chars().any(char::is_control), "{told:?}");
    }
    bed.cluster.faults().streams().stream_errors(1, &"long ".repeat(100_000));
    let error = rest(&mut say(&forward, "hello\n").await).await.unwrap_err();
    assert!(told(&error).len() < 10_000);
    call(&forward).await;
}

#[tokio::test]
async fn an_answer_long_after_the_clients_end_arrives_whole() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut io = say(&forward, "drip 3 2500\n").await;
    io.shutdown().await.unwrap();
    let begun = Instant::now();
    let answer = rest(&mut io).await.unwrap();
    assert_eq!(answer.len(), 300);
    assert!(begun.elapsed() > Duration::from_secs(5), "the server waited {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_sent_after_the_pods_end_arrives() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut io = say(&forward, "first late\n").await;
    let mut hello = [0; 5];
    within("the answer", io.read_exact(&mut hello)).await.unwrap();
    // The pod has ended its half; a container runtime carries ours for another second.
    within("the upload", io.write_all(&[7; 100_000])).await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(rest(&mut io).await.unwrap(), b"");
    eventually(DEADLINE, "all of it arrives", || bed.origin.tally("late") == 100_000).await;
}

#[tokio::test]
async fn a_client_that_ended_and_left_does_not_leave_its_stream_behind() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let streams = bed.cluster.faults().streams();
    let mut io = say(&forward, "sink\n").await;
    io.write_all(&[7; 50_000]).await.unwrap();
    io.shutdown().await.unwrap();
    drop(io);
    eventually(DEADLINE, "the stream ends", || streams.open_streams() == 0 && bed.origin.open() == 0).await;
}

#[tokio::test]
async fn clients_that_reset_end_their_streams_in_the_pod() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let streams = bed.cluster.faults().streams();
    for line in ["source\n", "silent\n", "hold\n", "echo\n", "sink\n"] {
        let mut io = say(&forward, line).await;
        if line == "source\n" {
            within("it flows", io.read_exact(&mut [0; 4096])).await.unwrap();
        }
        drop(io);
        eventually(DEADLINE, line, || streams.open_streams() == 0).await;
        call(&forward).await;
    }
    assert_eq!(streams.connections(), streams.open_connections(), "no connection was lost");
    eventually(DEADLINE, "none is counted any more", || forward.report().streams() == 0).await;
}

#[tokio::test]
async fn connections_given_up_while_they_are_opened_leave_nothing_behind() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let streams = bed.cluster.faults().streams();
    streams.upgrade_delay(Duration::from_millis(50));
    for _ in 0..50 {
        drop(tokio::time::timeout(Duration::from_micros(200), forward.connect()).await);
    }
    call(&forward).await;
    eventually(DEADLINE, "no stream is left", || streams.open_streams() == 0 && forward.report().streams() == 0).await;
}

#[tokio::test]
async fn streams_that_get_no_answer_hold_up_nobody() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let streams = bed.cluster.faults().streams();
    streams.never_reply(true);
    let mut mute: Vec<_> = Vec::new();
    for _ in 0..20 {
        let mut io = open(&forward).await;
        io.write_all(b"is anybody there?\n").await.unwrap();
        mute.push(io);
    }
    streams.never_reply(false);
    call(&forward).await;
    drop(mute);
    call(&forward).await;
}

#[tokio::test]
async fn a_server_that_says_goodbye_keeps_running_streams_and_gets_no_new_ones() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let streams = bed.cluster.faults().streams();
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    for _ in 0..3 {
        streams.go_away();
        for _ in 0..3 {
            call(&forward).await;
        }
        trip(&mut running, b"after\n").await.unwrap();
    }
    drop(running);
    eventually(DEADLINE, "left connections are closed", || streams.open_connections() <= 3).await;
}

#[tokio::test]
async fn a_download_that_is_cut_is_an_error_and_never_a_short_answer() {
    let bed = Bed::web().await;
    let streams = bed.cluster.faults().streams();
    for bytes in [300_000, 1_000_000] {
        streams.cut_after(Some(bytes));
        let forward = bed.forward("pod/web-1:8080");
        crate::support::ready(&forward).await;
        lose(&forward, || streams.cut_all()).await;
        let mut io = say(&forward, "source 5000000\n").await;
        let mut got = Vec::new();
        let error = within("the end", io.read_to_end(&mut got)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset), "{error}");
        assert!(got.len() < 5_000_000);
        streams.cut_after(None);
        lose(&forward, || streams.cut_all()).await;
        assert_eq!(rest(&mut say(&forward, "source 5000000\n").await).await.unwrap().len(), 5_000_000);
    }
}

#[tokio::test]
async fn lost_connections_end_all_their_streams_with_an_error_and_the_next_ones_work() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut running = Vec::new();
    for _ in 0..50 {
        let mut io = open(&forward).await;
        trip(&mut io, b"before\n").await.unwrap();
        running.push(io);
    }
    bed.cluster.faults().streams().cut_all();
    for io in &mut running {
        let error = rest(io).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    }
    call(&forward).await;
}

#[tokio::test]
async fn a_stream_that_sent_nothing_yet_survives_the_loss_of_its_connection() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut io = open(&forward).await;
    let reading = async {
        let mut got = [0; 6];
        within("the answer", io.read_exact(&mut got)).await.map(|_| got)
    };
    // It waits for the service to speak first, which has not said anything: another one may.
    let harm = async {
        eventually(DEADLINE, "it is there", || bed.cluster.faults().streams().open_streams() == 1).await;
        lose(&forward, || bed.cluster.faults().streams().cut_all()).await;
        eventually(DEADLINE, "it is there again", || bed.cluster.faults().streams().open_streams() == 1).await;
    };
    tokio::select! {
        got = reading => panic!("it ended: {got:?}"),
        () = harm => {}
    }
    trip(&mut io, b"still of use\n").await.unwrap();
}

#[tokio::test]
async fn every_byte_value_and_every_size_arrives_as_it_was() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut io = say(&forward, "echo\n").await;
    let mut noise = testkit::noise::Noise::new(11);
    for round in 0..200_u32 {
        let size = usize::try_from(noise.below(if round % 20 == 0 { 200_000 } else { 3_000 })).unwrap() + 1;
        let bytes = testkit::noise::bytes(u64::from(round), size);
        let mut got = vec![0; size];
        let (mut reader, mut writer) = tokio::io::split(&mut io);
        let both = async { tokio::try_join!(writer.write_all(&bytes), reader.read_exact(&mut got)) };
        within_of(DEADLINE, "the bytes come back", both).await.unwrap();
        assert!(got == bytes, "round {round} of {size} bytes");
    }
}
