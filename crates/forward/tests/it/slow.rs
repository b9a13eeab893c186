//! Readers and writers that stop, beside others that do not; and much at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forward::Forward;
use runtime::connect::Io;
use testkit::noise::Noise;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Bed, DEADLINE, call, eventually, open, say, trip, within, within_of};

/// Streams that are busy beside a stalled one.
const ACTIVE: usize = 50;

/// Kept streams that send and wait for the answer, again and again.
struct Busy {
    stop: Arc<AtomicBool>,
    turns: Arc<Vec<AtomicUsize>>,
}

impl Busy {
    async fn start(bed: &Bed, forward: &Forward) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let turns: Arc<Vec<AtomicUsize>> = Arc::new((0..ACTIVE).map(|_| AtomicUsize::new(0)).collect());
        for number in 0..ACTIVE {
            let (stop, turns) = (Arc::clone(&stop), Arc::clone(&turns));
            let mut io = open(forward).await;
            trip(&mut io, b"hello\n").await.unwrap();
            bed.scope.spawn("busy", async move {
                while !stop.load(Ordering::SeqCst) && trip(&mut io, &[7; 100]).await.is_ok() {
                    turns[number].fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { stop, turns }
    }

    /// Turns a second over the next while, and how many of the streams had any.
    async fn pace(&self) -> (f64, usize) {
        let before: Vec<usize> = self.turns.iter().map(|turns| turns.load(Ordering::SeqCst)).collect();
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let more: Vec<usize> =
            self.turns.iter().zip(before).map(|(turns, before)| turns.load(Ordering::SeqCst) - before).collect();
        let all: usize = more.iter().sum();
        (all as f64 / begun.elapsed().as_secs_f64(), more.iter().filter(|more| **more > 0).count())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A download that nobody reads, once nothing flows any more.
async fn stalled_download(bed: &Bed, forward: &Forward, key: &str) -> Io {
    let mut io = say(forward, &format!("source 1000000000 {key}\n")).await;
    within("it flows", io.read_exact(&mut [0; 100])).await.unwrap();
    let (mut last, mut since) = (0, Instant::now());
    eventually(DEADLINE, "it stalls", || {
        let now = bed.origin.tally(key);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(200)
    })
    .await;
    io
}

/// An upload that nobody reads, once nothing is taken any more.
async fn stalled_upload(forward: &Forward) -> Io {
    let mut io = say(forward, "hold\n").await;
    let piece = vec![7; 256 << 10];
    let fill = async {
        loop {
            let write = tokio::time::timeout(Duration::from_millis(200), io.write_all(&piece)).await;
            match write {
                Ok(written) => written.unwrap(),
                Err(_) => return,
            }
        }
    };
    within_of(Duration::from_secs(30), "it stalls", fill).await;
    io
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_download_holds_up_none_that_come_later() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let stalled = stalled_download(&bed, &forward, "stalled").await;
    let beside = Busy::start(&bed, &forward).await;
    let (with, moving) = beside.pace().await;
    assert_eq!(moving, ACTIVE);
    drop(stalled);
    let (without, _) = beside.pace().await;
    assert!(with > without * 0.5, "{with:.0} turns a second beside a stalled stream, {without:.0} without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_upload_holds_up_none_that_come_later() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let stalled = stalled_upload(&forward).await;
    let beside = Busy::start(&bed, &forward).await;
    let (with, moving) = beside.pace().await;
    assert_eq!(moving, ACTIVE);
    drop(stalled);
    let (without, _) = beside.pace().await;
    assert!(with > without * 0.5, "{with:.0} turns a second beside a stalled stream, {without:.0} without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_stalls_beside_running_streams_holds_up_few_of_them_and_they_recover() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let beside = Busy::start(&bed, &forward).await;
    let (without, _) = beside.pace().await;
    let stalled = stalled_download(&bed, &forward, "stalled").await;
    let (with, moving) = beside.pace().await;
    // Streams of one connection have one fate, and there is not one for each.
    assert!(moving >= ACTIVE * 4 / 5, "{moving} of {ACTIVE} move");
    assert!(with > without * 0.5, "{with:.0} turns a second beside a stalled stream, {without:.0} without");
    call(&forward).await;
    drop(stalled);
    assert_eq!(beside.pace().await.1, ACTIVE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_stalled_streams_leave_a_way_for_the_next() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut stalled = Vec::new();
    for number in 0..12 {
        stalled.push(stalled_download(&bed, &forward, &format!("s{number}")).await);
        call(&forward).await;
    }
    // They go on where they were.
    for io in &mut stalled {
        within("it flows again", io.read_exact(&mut vec![0; 2_000_000])).await.unwrap();
    }
    call(&forward).await;
    drop(stalled);
    let streams = bed.cluster.faults().streams();
    eventually(DEADLINE, "all streams end", || streams.open_streams() == 0).await;
    call(&forward).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_goes_up_and_down_at_once_with_a_reader_that_pauses() {
    const MUCH: usize = 1 << 30;
    const PIECE: usize = 256 << 10;
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let io = say(&forward, "echo\n").await;
    let (mut reader, mut writer) = tokio::io::split(io);
    let (told_sent, sent) = tokio::sync::oneshot::channel();
    bed.scope.spawn("upload", async move {
        let (mut noise, mut piece) = (Noise::new(5), vec![0; PIECE]);
        for _ in 0..MUCH / PIECE {
            noise.fill(&mut piece);
            writer.write_all(&piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
        told_sent.send(writer).unwrap();
    });
    let download = async {
        let (mut noise, mut piece, mut wanted) = (Noise::new(5), vec![0; PIECE], vec![0; PIECE]);
        for number in 0..MUCH / PIECE {
            reader.read_exact(&mut piece).await.unwrap();
            noise.fill(&mut wanted);
            assert!(piece == wanted, "piece {number} differs");
            if number % 512 == 0 {
                // The reader's pause is what is tested.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    within_of(Duration::from_secs(150), "all comes back", download).await;
    drop(within("all is sent", sent).await.unwrap());
    call(&forward).await;
}
