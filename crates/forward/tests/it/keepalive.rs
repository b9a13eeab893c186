//! Clusters in use are asked for a sign of life now and then: once for all forwards that lead there.

use std::time::{Duration, Instant};

use forward::{Clusters, KubeSettings};

use crate::support::{Bed, DEADLINE, eventually, ready};

const EVERY: Duration = Duration::from_millis(100);

async fn bed(keepalive: Option<Duration>) -> Bed {
    let mut bed = Bed::web().await;
    bed.clusters = Clusters::new(KubeSettings { keepalive, ..bed.settings.clone() });
    bed
}

fn calls(bed: &Bed) -> usize {
    bed.cluster.count_requests("GET /version")
}

#[tokio::test]
async fn a_cluster_in_use_is_asked_once_for_all_its_forwards() {
    let bed = bed(Some(EVERY)).await;
    let forwards: Vec<_> = (0..5).map(|_| bed.forward("service/web:80")).collect();
    for forward in &forwards {
        ready(forward).await;
    }
    bed.cluster.clear_requests();
    let begun = Instant::now();
    eventually(DEADLINE, "it is asked", || calls(&bed) >= 3).await;
    let most = begun.elapsed().as_millis() / EVERY.as_millis() + 1;
    assert!(calls(&bed) as u128 <= most, "{} calls, and there was time for {most}", calls(&bed));
}

#[tokio::test]
async fn nobody_asks_a_cluster_that_no_forward_leads_to() {
    let bed = bed(Some(EVERY)).await;
    let forward = bed.forward("service/web:80");
    ready(&forward).await;
    eventually(DEADLINE, "it is asked", || calls(&bed) >= 1).await;
    drop(forward);
    eventually(DEADLINE, "its session has ended", || bed.scope.is_idle()).await;
    bed.cluster.clear_requests();
    // Time passes, as the calls to another cluster show.
    let elsewhere = self::bed(Some(EVERY)).await;
    let other = elsewhere.forward("service/web:80");
    ready(&other).await;
    eventually(DEADLINE, "the other one is asked", || calls(&elsewhere) >= 3).await;
    assert_eq!(calls(&bed), 0, "{:?}", bed.cluster.requests());
}

#[tokio::test]
async fn without_it_nothing_is_asked() {
    let (quiet, asked) = (bed(None).await, bed(Some(EVERY)).await);
    let (one, two) = (quiet.forward("service/web:80"), asked.forward("service/web:80"));
    ready(&one).await;
    ready(&two).await;
    eventually(DEADLINE, "the other one is asked", || calls(&asked) >= 3).await;
    assert_eq!(calls(&quiet), 0);
}
