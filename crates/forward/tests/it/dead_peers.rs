//! Peers that say nothing any more: the one test that takes its time, as the limits are tens of seconds.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use adit_core::forward::ForwardState;

use crate::support::{Bed, call, moved, open, trip, within_of};

/// Asked after 20 s of silence, given up 20 s later.
const LIMIT: Duration = Duration::from_secs(45);

#[tokio::test]
async fn silent_servers_are_given_up_and_found_again() {
    let idle = async {
        let bed = Bed::web().await;
        let forward = bed.ready().await;
        let mut reports = forward.status();
        bed.cluster.faults().silent_connections();
        let lost = reports.wait_for(|report| report.status.state != ForwardState::Ready);
        drop(within_of(LIMIT, "the silence is noticed", lost).await.unwrap());
        call(&forward).await;
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
