//! API servers that say nothing for a while, as a machine does that hangs, or a network that drops everything.

use std::time::{Duration, Instant};

use forward::{Clusters, Forward};
use testkit::relay::{Admit, Link, Relay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Bed, call, open, ready, settings, trip, within_of};

/// How long the server says nothing.
const SILENCE: Duration = Duration::from_secs(5);
/// How soon after its return everything works again.
const BACK: Duration = Duration::from_secs(2);
/// How long a connection that is dead for good keeps its streams, and some more.
const GIVEN_UP: Duration = Duration::from_secs(40);
/// What a busy machine takes beside it; less than the 15 s that a dial into the silence would take.
const GRACE: Duration = Duration::from_secs(5);

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
    let error = within_of(GIVEN_UP, "it is given up", running.read(&mut [0; 1])).await.unwrap_err();
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

/// A network between a bed's forwards and its cluster, in which new connections get through before old ones.
struct Network {
    front: Relay,
    old: Relay,
    new: Relay,
}

impl Network {
    /// Forwards that are made from here on go through it.
    async fn between(bed: &mut Bed) -> Self {
        let server = bed.cluster.address();
        let old = Relay::start(server, Link::default()).await.unwrap();
        let new = Relay::start(server, Link::default()).await.unwrap();
        let front = Relay::start(old.addr(), Link::default()).await.unwrap();
        let path = bed.dir.path().join("relayed");
        let kubeconfig = bed.cluster.kubeconfig();
        let relayed = kubeconfig.replace(&format!(":{}", server.port()), &format!(":{}", front.addr().port()));
        assert_ne!(kubeconfig, relayed);
        std::fs::write(&path, relayed).unwrap();
        bed.settings = settings(&path);
        bed.clusters = Clusters::new(bed.settings.clone());
        Self { front, old, new }
    }

    fn drop_everything(&self) {
        self.old.stall_both();
    }

    fn let_new_ones_through(&self) {
        self.front.set_target(self.new.addr());
    }

    fn let_old_ones_through(&self) {
        self.old.resume();
    }
}

#[tokio::test]
async fn a_stream_that_was_answered_outlives_a_gap_after_which_new_connections_work_before_old_ones() {
    let mut bed = Bed::web().await;
    let network = Network::between(&mut bed).await;
    let forward = bed.ready().await;
    let mut live = open(&forward).await;
    trip(&mut live, b"before\n").await.unwrap();
    network.drop_everything();
    let gap = async {
        // The gap is what is tested.
        tokio::time::sleep(Duration::from_secs(3)).await;
        network.let_new_ones_through();
        // New streams have a connection that works long before the old one is back.
        served(&forward).await;
        call(&forward).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(network.new.accepted() > 0);
        network.let_old_ones_through();
    };
    // It is asked within the gap, and answered after it.
    let (asked, ()) = tokio::join!(trip(&mut live, b"within\n"), gap);
    asked.unwrap();
    trip(&mut live, b"after\n").await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_dial_goes_on_when_the_old_connection_is_back() {
    let mut bed = Bed::web().await;
    let network = Network::between(&mut bed).await;
    let forward = bed.ready().await;
    let mut live = open(&forward).await;
    trip(&mut live, b"before\n").await.unwrap();
    network.front.set_admit(Admit::Silent);
    network.drop_everything();
    live.write_all(b"within\n").await.unwrap();
    // It takes 2 s to count as silent. What is opened then waits for another connection, which never comes.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let back = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        network.let_old_ones_through();
        Instant::now()
    };
    let (mut waited, back) = tokio::join!(open(&forward), back);
    trip(&mut waited, b"hello\n").await.unwrap();
    soon(back, "who waited for a dial");
}

#[tokio::test]
async fn a_silent_connection_is_dialled_for_ever_more_seldom() {
    let mut bed = Bed::web().await;
    let network = Network::between(&mut bed).await;
    let forward = bed.ready().await;
    let mut live = open(&forward).await;
    trip(&mut live, b"before\n").await.unwrap();
    network.front.set_admit(Admit::Reset);
    network.drop_everything();
    live.write_all(b"within\n").await.unwrap();
    let before = network.front.accepted();
    // The silence is what is tested.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let dials = network.front.accepted() - before;
    assert!((1..=8).contains(&dials), "{dials} dials in 6 s");
}
