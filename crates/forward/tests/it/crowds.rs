//! Very many connections: at once, and one after another.

use std::time::Duration;

use futures_util::future::join_all;
use runtime::Connect as _;

use crate::support::{Bed, DEADLINE, call, eventually, told, trip, within_of};

/// Connections in all, those that bring memory to where it stays, and how many are open at a time.
const ONE_AFTER_ANOTHER: usize = 100_000;
const FIRST: usize = 10_000;
const AT_A_TIME: usize = 8;

/// What this process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    tasks: usize,
    resident: u64,
}

impl Held {
    fn now() -> Self {
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            resident: testkit::process::usage(std::process::id()).resident,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_at_once() {
    let bed = Bed::web().await;
    testkit::process::raise_descriptor_limit().unwrap();
    let forward = bed.ready().await;
    let before = Held::now();
    let all = (0..1000).map(|_| async {
        let mut io = forward.connect().await.map_err(|error| told(&error))?;
        trip(&mut io, b"one of a thousand\n").await.map_err(|error| told(&error))?;
        Ok::<_, String>(io)
    });
    let all = within_of(Duration::from_secs(30), "all are served", join_all(all)).await;
    let failed: Vec<_> = all.iter().filter_map(|one| one.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
    assert_eq!(forward.report().streams(), 1000);
    drop(all);
    let streams = bed.cluster.faults().streams();
    eventually(DEADLINE, "all are closed", || streams.open_streams() == 0 && forward.report().streams() == 0).await;
    call(&forward).await;
    eventually(DEADLINE, "their sockets are closed", || Held::now().descriptors <= before.descriptors + 32).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_one_after_another_leave_nothing_behind() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let many = |count: usize| {
        let forward = &forward;
        let lanes = (0..AT_A_TIME).map(move |_| async move {
            for _ in 0..count / AT_A_TIME {
                call(forward).await;
            }
        });
        within_of(Duration::from_secs(150), "all are served", join_all(lanes))
    };
    let streams = bed.cluster.faults().streams();
    let settled = || streams.open_streams() == 0 && bed.origin.open() == 0;
    many(FIRST).await;
    eventually(DEADLINE, "all are closed", settled).await;
    let before = Held::now();
    many(ONE_AFTER_ANOTHER - FIRST).await;
    eventually(DEADLINE, "all are closed", settled).await;
    let after = Held::now();
    println!("{before:?} {after:?}");
    assert!(after.descriptors <= before.descriptors + 4, "{before:?} {after:?}");
    assert!(after.tasks <= before.tasks + 4, "{before:?} {after:?}");
    // The fake cluster and what the allocator keeps are in it, which on a busy machine is more; a few hundred bytes kept
    // of each would show.
    assert!(after.resident <= before.resident + (24 << 20), "{before:?} {after:?}");
    assert_eq!(streams.connections(), streams.open_connections(), "no connection was lost");
}
