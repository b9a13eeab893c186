//! Peers that say nothing any more: the one test that takes its time, as the limits are tens of seconds.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::support::{Bed, call, eventually, moved, open, trip, within_of};

/// Asked after 20 s of silence, given up 20 s later.
const LIMIT: Duration = Duration::from_secs(45);
const UPGRADE: &str = "GET /api/v1/namespaces/default/pods/web-1/portforward";

#[tokio::test]
async fn silent_servers_are_given_up_and_found_again() {
    let idle = async {
        let bed = Bed::web().await;
        let forward = bed.ready().await;
        bed.cluster.faults().silent_connections();
        let dialled = bed.cluster.count_requests(UPGRADE);
        let other = || bed.cluster.count_requests(UPGRADE) > dialled;
        eventually(LIMIT, "the silence is noticed, and another connection made", other).await;
        assert!(forward.report().is_ready(), "nobody was held up");
        // Until the new connection has answered, the dead one is only passed over.
        while trip(&mut open(&forward).await, b"hello\n").await.is_err() {}
        // The watch was on a dead connection too.
        bed.pod("web-2");
        bed.cluster.terminate("default", "web-1");
        moved(&forward, "web-2").await;
    };
    let busy = async {
        let bed = Bed::web().await;
        let forward = bed.ready().await;
        let mut running = open(&forward).await;
        trip(&mut running, b"before\n").await.unwrap();
        bed.cluster.faults().streams().silent(true);
        let begun = Instant::now();
        let mut got = [0; 1];
        let read = tokio::io::AsyncReadExt::read(&mut running, &mut got);
        let error = within_of(LIMIT, "the stream ends", read).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        assert!(begun.elapsed() > Duration::from_secs(20), "a busy server was given up after {:?}", begun.elapsed());
        bed.cluster.faults().streams().silent(false);
        call(&forward).await;
    };
    tokio::join!(idle, busy);
}
