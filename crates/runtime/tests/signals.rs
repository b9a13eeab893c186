//! Real signals, sent to this very process: in a test binary of its own.

use std::path::PathBuf;
use std::time::Duration;

use runtime::Scope;
use runtime::signals::{Hangups, StopSignal, StopSignals};
use runtime::watch::FileWatch;
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(5);

fn send(signal: Signal) {
    kill_process(getpid(), signal).expect("a process may signal itself");
}

// One test: signals go to the whole process.
#[tokio::test]
async fn stop_signals_and_hang_ups_arrive() {
    let mut stop = StopSignals::install().unwrap();
    let mut hangups = Hangups::install().unwrap();
    let scope = Scope::root();
    let watch = FileWatch::start(Vec::<PathBuf>::new()).unwrap();
    watch.trigger_on_hangup(&scope).unwrap();
    let mut changes = watch.changes();

    send(Signal::TERM);
    assert_eq!(timeout(DEADLINE, stop.next()).await.unwrap(), StopSignal::Terminate);
    send(Signal::INT);
    assert_eq!(timeout(DEADLINE, stop.next()).await.unwrap(), StopSignal::Interrupt);

    send(Signal::HUP);
    timeout(DEADLINE, hangups.next()).await.unwrap();
    timeout(DEADLINE, changes.changed()).await.unwrap().unwrap();

    scope.drain();
    timeout(DEADLINE, scope.idle()).await.unwrap();
}
