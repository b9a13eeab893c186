//! S1: running out of descriptors pauses an accept loop; it neither exits nor spins.
//!
//! In a test binary of its own, because the limit is the process's.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runtime::{BoundListener, Scope};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

const DEADLINE: Duration = Duration::from_secs(20);
const LIMIT: u64 = 64;

fn set_soft_limit(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("a soft limit may be lowered");
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As many connections as there are descriptors: the clients' ends are of this process too.
fn flood(address: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect(address) {
        held.push(stream);
    }
    held
}

#[tokio::test]
async fn s1_an_accept_loop_survives_running_out_of_descriptors() {
    let listener = BoundListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr();
    let scope = Scope::root();
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let total = Arc::new(AtomicUsize::new(0));
    let (keep, count) = (Arc::clone(&accepted), Arc::clone(&total));
    let serving = scope.clone();
    scope.spawn("accept", async move {
        listener
            .accept_loop(serving, move |stream, _| {
                count.fetch_add(1, Ordering::SeqCst);
                keep.lock().unwrap().push(stream);
            })
            .await
            .unwrap();
    });
    until("the loop has started", || scope.running().contains_key("accept")).await;

    set_soft_limit(LIMIT);
    let flooding = flood(address);
    assert!(flooding.len() > 20, "{}", flooding.len());
    // All descriptors are taken by the flood's own ends: nothing can be accepted, and the loop waits.
    let before = cpu_time();
    let start = Instant::now();
    assert!(tokio::time::timeout(Duration::from_millis(500), scope.idle()).await.is_err(), "the loop has exited");
    let used = cpu_time() - before;
    assert!(used < start.elapsed() / 4, "the loop spins: {used:?}");
    assert_eq!(total.load(Ordering::SeqCst), 0);

    // The flood ends: what it had queued is accepted and can be let go, and a newcomer is served at once.
    drop(flooding);
    until("the queue is accepted", || {
        accepted.lock().unwrap().clear();
        total.load(Ordering::SeqCst) > 20
    })
    .await;
    let before = total.load(Ordering::SeqCst);
    let newcomer = TcpStream::connect(address).unwrap();
    until("a newcomer is accepted", || {
        accepted.lock().unwrap().clear();
        total.load(Ordering::SeqCst) > before
    })
    .await;
    drop(newcomer);
    scope.drain();
    tokio::time::timeout(DEADLINE, scope.idle()).await.expect("the loop ends at the drain");
}
