//! The pod in use goes while another one is ready, and somebody connects again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Stand, Who};
use super::figures::Figure;
use super::load;
use super::options::Options;
use crate::runtimes;

/// How long new connections are tried after the pod has gone.
const HORIZON: Duration = Duration::from_secs(3);
/// Between a pod's end being announced and its end.
const GRACE: Duration = Duration::from_secs(1);
/// Rest between two tries.
const PAUSE: Duration = Duration::from_millis(2);
/// A try that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(5);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("deleted at once: first good new connection, ms", 1).values(1000.0, 100.0),
    Figure::lower("deleted at once: failed in 3 s", 0).aim(0.0),
    Figure::lower("deleted with grace: first good new connection, ms", 1).values(1000.0, 100.0),
    Figure::lower("deleted with grace: failed in 4 s", 0).aim(0.0),
    Figure::lower("deleted while idle, first try 0.5 s later, ms", 1).values(1000.0, 100.0),
];

/// One round.
pub(super) fn measure(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    let mut values = Vec::new();
    for grace in [Duration::ZERO, GRACE] {
        let (forward, pod) = two_pods(stand, who)?;
        let tries = Tries::start(forward.web);
        runtimes::pass(options.window(800))?;
        if !grace.is_zero() {
            stand.home.ask(&format!("terminate {pod}"))?;
            runtimes::pass(grace)?;
        }
        let begin = Instant::now();
        stand.home.ask(&format!("delete {pod}"))?;
        let gone = Instant::now();
        runtimes::pass(HORIZON)?;
        let tries = tries.finish()?;
        let good = tries.iter().find(|one| one.good && one.begin >= gone);
        values.push(good.map_or(f64::INFINITY, |one| (one.end - begin).as_secs_f64() * 1e3));
        values.push(tries.iter().filter(|one| !one.good).count() as f64);
    }
    let (forward, pod) = two_pods(stand, who)?;
    stand.home.ask(&format!("delete {pod}"))?;
    runtimes::pass(Duration::from_millis(500))?;
    let start = Instant::now();
    let answered = load::request(forward.web, DEADLINE);
    values.push(answered.map_or(f64::INFINITY, |_| start.elapsed().as_secs_f64() * 1e3));
    Ok(values)
}

/// A forward to a service with two new pods, and which of them it uses.
fn two_pods(stand: &Stand, who: Who) -> Result<(super::client::Forward, String), String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    stand.home.ask(&format!("pair pair-{number}-a pair-{number}-b"))?;
    let forward = stand.forward(who, "pair")?;
    let pod = stand.home.ask("which")?;
    if pod.starts_with(&format!("pair-{number}-")) { Ok((forward, pod)) } else { Err(format!("it uses {pod:?}")) }
}

/// One connection with one request.
#[derive(Clone, Copy, Debug)]
struct Try {
    begin: Instant,
    end: Instant,
    good: bool,
}

/// Somebody who connects again and again.
struct Tries {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Try>>,
}

impl Tries {
    fn start(addr: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut tries = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let good = load::request(addr, DEADLINE).is_ok();
                tries.push(Try { begin, end: Instant::now(), good });
                std::thread::park_timeout(PAUSE);
            }
            tries
        });
        Self { stop, thread }
    }

    fn finish(self) -> Result<Vec<Try>, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the thread that connects panicked".to_owned())
    }
}
