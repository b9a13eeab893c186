//! API servers that say nothing for a while, as a machine does that hangs, or a network that drops everything.

use std::time::{Duration, Instant};

use forward::Forward;

use crate::support::{Bed, call, open, ready, rest, trip};

/// How long the server says nothing.
const SILENCE: Duration = Duration::from_secs(5);
/// How soon after its return everything works again.
const BACK: Duration = Duration::from_secs(2);
/// What a busy machine takes beside it.
const GRACE: Duration = Duration::from_secs(1);

/// Silent for a while, then it takes new connections; those there were stay dead.
async fn vanish(bed: &Bed) -> Instant {
    bed.cluster.faults().stop_silently().await;
    // The silence is what is tested.
    tokio::time::sleep(SILENCE).await;
    bed.cluster.faults().restart();
    Instant::now()
}

/// A connection that works. What is sent into a silence ends with the connection it was sent by; the next one is served.
async fn served(forward: &Forward) {
    loop {
        let mut io = open(forward).await;
        if trip(&mut io, b"hello\n").await.is_ok() {
            return;
        }
    }
}

fn soon(back: Instant, what: &str) {
    assert!(back.elapsed() < BACK + GRACE, "{what}: {:?} after the server's return", back.elapsed());
}

#[tokio::test]
async fn who_came_while_the_server_was_silent_is_served_soon_after_its_return() {
    let bed = Bed::web().await;
    let warm = bed.ready().await;
    call(&warm).await;
    let mut running = open(&warm).await;
    trip(&mut running, b"before\n").await.unwrap();
    let cold = bed.forward("service/web:http");
    let early = async {
        // Both come in the middle of the silence.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let cold = async {
            ready(&cold).await;
            served(&cold).await;
        };
        tokio::join!(cold, served(&warm));
    };
    let (back, ()) = tokio::join!(vanish(&bed), early);
    soon(back, "those who came early");
    let error = rest(&mut running).await.unwrap_err();
    assert!(error.to_string().contains(&bed.cluster.address().to_string()), "{error}");
    call(&warm).await;
}

#[tokio::test]
async fn who_comes_after_the_servers_return_is_served_soon() {
    let bed = Bed::web().await;
    let warm = bed.ready().await;
    call(&warm).await;
    let back = vanish(&bed).await;
    let cold = bed.forward("service/web:http");
    let cold = async {
        ready(&cold).await;
        served(&cold).await;
        soon(back, "a cold forward");
    };
    let waiting = async {
        served(&warm).await;
        soon(back, "a warm forward");
    };
    tokio::join!(cold, waiting);
}
