//! Pods that are not ready, not there any more, or other ones than before.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forward::Forward;
use runtime::Connect as _;
use testkit::noise;
use testkit::origin::TcpOrigin;
use tokio::io::AsyncWriteExt as _;

use crate::support::{
    Bed, DEADLINE, SOON, call, eventually, moved, open, patience, ready, refusal, rest, say, told, trip, waiting,
    within,
};

const GONE: &str = "failed to find sandbox \"9ff\" in store: not found";

#[tokio::test]
async fn a_pending_pod_is_told_with_the_schedulers_reason() {
    let bed = Bed::web().await;
    bed.cluster.set_unschedulable("default", "web-1", "0/3 nodes are available: 3 Insufficient memory.");
    let forward = bed.forward("service/web:80");
    waiting(&forward, "0/3 nodes are available: 3 Insufficient memory").await;
    bed.cluster.set_running("default", "web-1", true);
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named() {
    let bed = Bed::new().await;
    bed.cluster.add_pod(bed.spec("web-1").image("registry.example/shop:7"));
    bed.service();
    bed.cluster.set_waiting(
        "default",
        "web-1",
        "ImagePullBackOff",
        "Back-off pulling image \"registry.example/shop:7\"",
    );
    let forward = bed.forward("service/web:80");
    waiting(&forward, "registry.example/shop:7").await;
    waiting(&forward, "ImagePullBackOff").await;
    bed.cluster.set_running("default", "web-1", true);
    ready(&forward).await;
}

#[tokio::test]
async fn a_crash_loop_is_told_with_the_last_line_of_the_log() {
    let bed = Bed::web().await;
    bed.cluster.set_previous_log("default", "web-1", "", "starting\npanic: no database\n\n");
    bed.cluster.set_waiting("default", "web-1", "CrashLoopBackOff", "back-off 5m0s restarting failed container");
    for target in ["service/web:80", "pod/web-1:8080"] {
        let forward = bed.forward_with(target, patience(Duration::from_millis(800)));
        waiting(&forward, "panic: no database").await;
        refusal(&forward).await.has(&["exit code 1", "panic: no database"], &["describe pod"]);
    }
}

#[tokio::test]
async fn an_evicted_pod_is_told_and_its_successor_taken() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let pod = bed.forward("pod/web-1:8080");
    ready(&pod).await;
    bed.cluster.set_phase("default", "web-1", "Failed", "Evicted", "The node was low on resource: memory.");
    waiting(&forward, "evicted: The node was low on resource: memory.").await;
    waiting(&pod, "evicted").await;
    let late = bed.forward("pod/web-1:8080");
    refusal(&late).await.has(&["pod is not running", "Failed"], &["evicted", "low on resource"]);
    bed.pod("web-2");
    moved(&forward, "web-2").await;
    call(&forward).await;
}

#[tokio::test]
async fn a_completed_pod_is_no_target() {
    let bed = Bed::web().await;
    bed.cluster.set_phase("default", "web-1", "Succeeded", "", "");
    refusal(&bed.forward("pod/web-1:8080")).await.has(&["Current status=Succeeded"], &["completed"]);
}

#[tokio::test]
async fn an_unready_pod_is_left_for_a_ready_one() {
    let bed = Bed::web().await;
    bed.pod("web-2");
    let forward = bed.ready().await;
    assert_eq!(forward.report().pod.as_deref(), Some("web-1"));
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    bed.cluster.set_ready("default", "web-1", false);
    moved(&forward, "web-2").await;
    call(&forward).await;
    trip(&mut running, b"the old stream goes on\n").await.unwrap();
    bed.cluster.set_ready("default", "web-1", true);
    call(&forward).await;
    assert_eq!(forward.report().pod.as_deref(), Some("web-2"), "it does not go back and forth");
}

#[tokio::test]
async fn without_a_ready_pod_connections_wait_for_one() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    bed.cluster.set_ready("default", "web-1", false);
    waiting(&forward, "readiness probe").await;
    let waiter = forward.clone();
    let waited = async {
        let mut io = within("a stream", waiter.connect()).await.unwrap();
        trip(&mut io, b"at last\n").await.unwrap();
    };
    let mend = async {
        eventually(DEADLINE, "somebody waits", || forward.report().streams() == 1).await;
        bed.cluster.set_ready("default", "web-1", true);
    };
    tokio::join!(waited, mend);
}

#[tokio::test]
async fn waiting_for_a_pod_has_an_end_with_a_reason() {
    let bed = Bed::web().await;
    let options = forward::ForwardOptions { later_timeout: Duration::from_millis(300), ..Default::default() };
    let forward = bed.forward_with("service/web:80", options);
    ready(&forward).await;
    bed.cluster.set_ready("default", "web-1", false);
    waiting(&forward, "readiness probe").await;
    let begun = Instant::now();
    let error = within("the connection fails", forward.connect()).await.unwrap_err();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(told(&error).contains("readiness probe"), "{}", told(&error));
    bed.cluster.set_ready("default", "web-1", true);
    call(&forward).await;
}

#[tokio::test]
async fn a_terminating_pod_is_left_before_it_is_gone() {
    let bed = Bed::web().await;
    bed.pod("web-2");
    let forward = bed.ready().await;
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    bed.cluster.terminate("default", "web-1");
    let took = moved(&forward, "web-2").await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    call(&forward).await;
    trip(&mut running, b"after\n").await.unwrap();
    assert!(bed.cluster.get("Pod", "default", "web-1").is_some());
}

#[tokio::test]
async fn the_last_pod_serves_while_it_terminates() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    bed.cluster.terminate("default", "web-1");
    for _ in 0..5 {
        call(&forward).await;
    }
    bed.cluster.delete("Pod", "default", "web-1");
    waiting(&forward, "no pod").await;
}

/// Connections, one after another on each of these tasks, until told to stop; counts those that failed.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    /// When those that failed began, and why they failed.
    failed: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Load {
    fn start(bed: &Bed, forward: &Forward, tasks: usize) -> Self {
        let load = Self { stop: Arc::default(), done: Arc::default(), failed: Arc::default() };
        for _ in 0..tasks {
            let (stop, done, failed) = (Arc::clone(&load.stop), Arc::clone(&load.done), Arc::clone(&load.failed));
            let forward = forward.clone();
            bed.scope.spawn("load", async move {
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let ok = match forward.connect().await {
                        Ok(mut io) => trip(&mut io, b"some work\n").await.map_err(|error| told(&error)),
                        Err(error) => Err(told(&error)),
                    };
                    if let Err(error) = ok {
                        failed.lock().unwrap().push((begun, error));
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        load
    }

    /// Waits until this many more connections are done.
    async fn more(&self, more: usize) {
        let enough = self.done.load(Ordering::SeqCst) + more;
        eventually(DEADLINE, "the load goes on", || self.done.load(Ordering::SeqCst) >= enough).await;
    }

    /// Ends it; what failed.
    fn end(&self) -> Vec<(Instant, String)> {
        self.stop.store(true, Ordering::SeqCst);
        std::mem::take(&mut *self.failed.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_deleted_in_an_orderly_way_under_load_fail_nothing() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let load = Load::start(&bed, &forward, 8);
    load.more(50).await;
    for pod in 1..5 {
        let (old, new) = (format!("web-{pod}"), format!("web-{}", pod + 1));
        let mut running = open(&forward).await;
        trip(&mut running, b"in flight\n").await.unwrap();
        bed.pod(&new);
        bed.cluster.terminate("default", &old);
        moved(&forward, &new).await;
        load.more(50).await;
        trip(&mut running, b"still in flight\n").await.unwrap();
        drop(running);
        bed.cluster.delete("Pod", "default", &old);
        load.more(50).await;
    }
    let failed = load.end();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_deleted_by_force_under_load_fail_no_new_connection() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let load = Load::start(&bed, &forward, 8);
    let mut deleted = Vec::new();
    for round in 1..5 {
        bed.pod(&format!("web-{}", round + 1));
        load.more(50).await;
        let begun = Instant::now();
        bed.cluster.delete("Pod", "default", &format!("web-{round}"));
        call(&forward).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "the first good connection came after {:?}", begun.elapsed());
        deleted.push((begun, begun.elapsed()));
        load.more(50).await;
    }
    let failed = load.end();
    // What was under way in a pod ends with it. What begins after its end goes to the next one.
    let under_way =
        |at: &Instant| deleted.iter().any(|(begun, _)| at <= begun && at.elapsed() < begun.elapsed() + SOON);
    assert!(failed.iter().all(|(at, _)| under_way(at)), "{failed:?} {deleted:?}");
}

#[tokio::test]
async fn a_pod_that_is_replaced_under_its_name_is_another_pod() {
    let bed = Bed::web().await;
    let successor = TcpOrigin::start().await.unwrap();
    for target in ["pod/web-1:8080", "service/web:80"] {
        bed.pod("web-1");
        let forward = bed.forward(target);
        ready(&forward).await;
        let mut running = open(&forward).await;
        trip(&mut running, b"before\n").await.unwrap();
        let before = successor.connections();
        bed.cluster.add_pod(bed.spec("web-1").backend(8080, successor.addr()));
        assert_eq!(rest(&mut running).await.unwrap(), b"", "the old pod's stream ends");
        for _ in 0..3 {
            call(&forward).await;
        }
        assert_eq!(successor.connections() - before, 3, "{target}");
    }
}

#[tokio::test]
async fn a_pod_deleted_under_an_idle_forward_is_noticed_though_the_wire_says_nothing() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    call(&forward).await;
    bed.cluster.delete("Pod", "default", "web-1");
    waiting(&forward, "no pod").await;
    bed.pod("web-2");
    let begun = Instant::now();
    call(&forward).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let streams = bed.cluster.faults().streams();
    eventually(DEADLINE, "the old pod's connections are closed", || streams.open_connections() <= 2).await;
}

#[tokio::test]
async fn a_stream_that_finds_its_pod_gone_goes_to_another_with_all_that_was_sent() {
    let bed = Bed::web().await;
    bed.pod("web-2");
    let forward = bed.ready().await;
    let mut request = b"POST / HTTP/1.1\n".to_vec();
    request.extend(noise::bytes(7, 20_000));
    for gone in [GONE, "network namespace for sandbox \"9ff\" is closed"] {
        bed.cluster.faults().streams().stream_errors(1, gone);
        let before = bed.origin.connections();
        let mut io = open(&forward).await;
        trip(&mut io, &request).await.unwrap();
        assert_eq!(bed.origin.connections() - before, 1, "the request was seen once");
    }
}

#[tokio::test]
async fn the_end_of_what_was_sent_goes_along_to_the_other_pod() {
    let bed = Bed::web().await;
    bed.pod("web-2");
    let forward = bed.ready().await;
    bed.cluster.faults().streams().stream_errors(1, GONE);
    let mut io = say(&forward, "source 1000\n").await;
    io.shutdown().await.unwrap();
    assert_eq!(rest(&mut io).await.unwrap().len(), 1000);
}

#[tokio::test]
async fn a_lone_pod_is_tried_again_and_not_for_ever() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let streams = bed.cluster.faults().streams();
    streams.stream_errors(5, GONE);
    call(&forward).await;
    let forward = bed.forward_with("service/web:80", patience(Duration::from_millis(500)));
    ready(&forward).await;
    streams.stream_errors(1000, GONE);
    let error = rest(&mut say(&forward, "hello\n").await).await.unwrap_err();
    assert!(told(&error).contains("the pod is gone"), "{}", told(&error));
}

#[tokio::test]
async fn halves_of_a_stream_in_two_tasks_survive_the_move_to_another_pod() {
    let bed = Bed::web().await;
    bed.pod("web-2");
    let forward = bed.ready().await;
    let streams = bed.cluster.faults().streams();
    streams.stream_errors(1, GONE);
    streams.upgrade_delay(Duration::from_millis(100));
    let (mut reader, mut writer) = tokio::io::split(open(&forward).await);
    let (told_written, written) = tokio::sync::oneshot::channel();
    bed.scope.spawn("writer", async move {
        // More than is kept for a second pod would not fit; this does, in pieces that find the stream moving.
        for _ in 0..50 {
            writer.write_all(&[7; 1000]).await.unwrap();
            tokio::task::yield_now().await;
        }
        told_written.send(writer).unwrap();
    });
    let mut got = vec![0; 50_000];
    within("all comes back", tokio::io::AsyncReadExt::read_exact(&mut reader, &mut got)).await.unwrap();
    drop(within("all is written", written).await.unwrap());
    assert!(got.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn what_was_answered_already_is_not_sent_to_a_second_pod() {
    let bed = Bed::web().await;
    bed.pod("web-2");
    let forward = bed.ready().await;
    let mut running = open(&forward).await;
    trip(&mut running, b"one\n").await.unwrap();
    let before = bed.origin.connections();
    bed.cluster.delete("Pod", "default", "web-1");
    // The pod's end is that of its streams: an end of file, as on a real one, or an error, but no second life.
    let _ = rest(&mut running).await;
    assert_eq!(bed.origin.connections(), before);
    call(&forward).await;
}

#[tokio::test]
async fn a_containers_restart_ends_its_streams_and_the_next_ones_work_at_once() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let mut running = open(&forward).await;
    trip(&mut running, b"before\n").await.unwrap();
    bed.cluster.restart_containers("default", "web-1");
    call(&forward).await;
    assert_eq!(rest(&mut running).await.unwrap(), b"");
    call(&forward).await;
    assert_eq!(bed.cluster.faults().streams().connections(), bed.cluster.faults().streams().open_connections());
}

#[tokio::test]
async fn many_ready_pods_come_and_go_and_their_connections_with_them() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    for round in 2..30 {
        bed.pod(&format!("web-{round}"));
        bed.cluster.delete("Pod", "default", &format!("web-{}", round - 1));
        call(&forward).await;
    }
    let streams = bed.cluster.faults().streams();
    eventually(DEADLINE, "connections of pods that are gone are closed", || streams.open_connections() <= 2).await;
    assert!(bed.scope.running().values().sum::<usize>() < 20, "{:?}", bed.scope.running());
}
