//! Drives core's shutdown machine: signals and idle scopes in, raised signals out.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use adit_core::shutdown::{Machine, Phase, PhaseTimes, ShutdownAction};
use tokio::time::{Instant, sleep_until};

use crate::scope::Scope;
use crate::signals::{StopSignal, StopSignals};

/// How a shutdown went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Whether everything ended by itself, nothing was cut off.
    pub clean: bool,
    /// The first signal, when it was one that started it.
    pub signal: Option<StopSignal>,
    /// From the start of the shutdown to its end.
    pub took: Duration,
    /// The tasks that were still running at the end, by name.
    pub left: BTreeMap<&'static str, usize>,
}

/// Serves until a signal comes or `stop` returns, then takes `scope` through the phases of the
/// shutdown and returns as soon as nothing is left of it.
///
/// `listeners` is the child of `scope` whose tasks accept; when it is idle the drain begins.
/// `on_phase` is told of each phase before its signal is raised: there readiness ends and peers are told.
pub async fn run(
    scope: &Scope,
    listeners: &Scope,
    times: PhaseTimes,
    signals: &mut StopSignals,
    stop: impl Future<Output = ()>,
    on_phase: impl FnMut(Phase),
) -> Outcome {
    run_for(scope, listeners, || times, signals, stop, on_phase).await
}

/// The same, with the lengths of the phases as they are when the end begins.
pub async fn run_for(
    scope: &Scope,
    listeners: &Scope,
    times: impl Fn() -> PhaseTimes,
    signals: &mut StopSignals,
    stop: impl Future<Output = ()>,
    mut on_phase: impl FnMut(Phase),
) -> Outcome {
    let mut machine = Machine::new(times());
    let mut first_signal = None;
    let mut begun = None;
    tokio::pin!(stop);
    loop {
        while let Some(action) = machine.poll_action() {
            if begun.is_none() {
                begun = Some(Instant::now());
            }
            if let ShutdownAction::Exit { clean } = action {
                return finish(scope, clean, first_signal, begun);
            }
            on_phase(machine.phase());
            take(scope, action);
        }
        let phase = machine.phase();
        let deadline = machine.poll_timeout().map(Instant::from_std);
        tokio::select! {
            biased;
            // 1. A person who presses Ctrl-C again means it.
            signal = signals.next() => {
                tracing::info!(signal = signal.as_str(), phase = phase.as_str(), "stopping");
                if phase == Phase::Running {
                    first_signal = Some(signal);
                    machine.set_times(times());
                }
                machine.handle_signal(now());
            }
            // 2. Nothing left: no need to look at the clock.
            () = scope.idle(), if phase > Phase::Running => machine.handle_idle(),
            () = listeners.idle(), if phase == Phase::StopAccepting => machine.handle_accept_stopped(now()),
            // 3. A phase took too long.
            () = until(deadline) => machine.handle_timeout(now()),
            // 4. Another reason to end.
            () = &mut stop, if phase == Phase::Running => {
                machine.set_times(times());
                machine.handle_stop(now());
            }
        }
    }
}

/// The same, without signals: for a program within a program, as in `adit demo` and in tests.
pub async fn end(scope: &Scope, times: PhaseTimes) -> Outcome {
    let (_never, none) = tokio::sync::mpsc::channel(1);
    let mut signals = StopSignals::scripted(none);
    run(scope, scope, times, &mut signals, async {}, |_| {}).await
}

fn take(scope: &Scope, action: ShutdownAction) {
    match action {
        ShutdownAction::StopAccepting => scope.drain(),
        // The scope's drain signal covers both phases; the second only has a clock of its own.
        ShutdownAction::Drain | ShutdownAction::Exit { .. } => {}
        ShutdownAction::Cancel => {
            tracing::info!(running = ?scope.running(), "not finished in time, cancelling");
            scope.cancel();
        }
        ShutdownAction::Abort => {
            // Whoever runs this says in their own words what is cut; the tasks' names are for us.
            tracing::debug!(running = ?scope.running(), "aborting");
            scope.abort();
        }
    }
}

fn finish(scope: &Scope, clean: bool, signal: Option<StopSignal>, begun: Option<Instant>) -> Outcome {
    Outcome { clean, signal, took: begun.map_or(Duration::ZERO, |begun| begun.elapsed()), left: scope.running() }
}

/// Tokio's clock, which tests can pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;

    fn times() -> PhaseTimes {
        let seconds = Duration::from_secs;
        PhaseTimes { accept: seconds(2), drain: seconds(8), cancel: seconds(15), abort: seconds(5) }
    }

    /// Runs a shutdown with the given signals, each at its second; gives the phases with their seconds.
    async fn run_with(scope: &Scope, script: &'static [(u64, StopSignal)]) -> (Outcome, Vec<(u64, Phase)>) {
        let (tx, rx) = mpsc::channel(4);
        let player = Scope::root();
        let start = Instant::now();
        player.spawn("script", async move {
            for (second, signal) in script {
                sleep_until(start + Duration::from_secs(*second)).await;
                tx.send(*signal).await.ok();
            }
            pending::<()>().await;
        });
        let listeners = scope.child();
        let accepting = listeners.clone();
        listeners.spawn("accept", async move { accepting.drained().await });
        let mut phases = Vec::new();
        let outcome = run(scope, &listeners, times(), &mut StopSignals::scripted(rx), pending(), |phase| {
            phases.push((start.elapsed().as_secs(), phase));
        })
        .await;
        player.abort();
        (outcome, phases)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_shutdown_takes_no_time() {
        let scope = Scope::root();
        let (outcome, phases) = run_with(&scope, &[(1, StopSignal::Terminate)]).await;
        assert!(outcome.clean && outcome.left.is_empty());
        assert_eq!(outcome.signal, Some(StopSignal::Terminate));
        assert_eq!(outcome.took, Duration::ZERO);
        assert_eq!(phases[0], (1, Phase::StopAccepting));
    }

    #[tokio::test(start_paused = true)]
    async fn work_in_flight_is_finished_and_the_shutdown_ends_with_it() {
        let scope = Scope::root();
        scope.spawn("answer", sleep(Duration::from_secs(5)));
        let (outcome, phases) = run_with(&scope, &[(1, StopSignal::Terminate)]).await;
        assert!(outcome.clean);
        assert_eq!(outcome.took, Duration::from_secs(4));
        assert_eq!(phases, [(1, Phase::StopAccepting), (1, Phase::Draining)]);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_do_not_end_are_cancelled_and_then_aborted() {
        let scope = Scope::root();
        scope.spawn("deaf", pending());
        let polite = scope.clone();
        scope.spawn("polite", async move { polite.cancelled().await });
        let (outcome, phases) = run_with(&scope, &[(0, StopSignal::Interrupt)]).await;
        assert!(!outcome.clean && outcome.left.is_empty());
        let expected = [(0, Phase::StopAccepting), (0, Phase::Draining), (8, Phase::Cancelling), (23, Phase::Aborting)];
        assert_eq!(phases, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_aborts_at_once() {
        let scope = Scope::root();
        scope.spawn("deaf", pending());
        let script = &[(0, StopSignal::Interrupt), (1, StopSignal::Interrupt)];
        let (outcome, phases) = run_with(&scope, script).await;
        assert!(!outcome.clean);
        assert_eq!(outcome.took, Duration::from_secs(1));
        assert_eq!(phases.last(), Some(&(1, Phase::Aborting)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_does_not_close_does_not_hold_up_the_drain() {
        let scope = Scope::root();
        let listeners = scope.child();
        listeners.spawn("deaf listener", pending());
        let (_tx, rx) = mpsc::channel(1);
        let mut phases = Vec::new();
        let start = Instant::now();
        let stop = sleep(Duration::from_secs(1));
        run(&scope, &listeners, times(), &mut StopSignals::scripted(rx), stop, |phase| {
            phases.push((start.elapsed().as_secs(), phase));
        })
        .await;
        assert_eq!(phases[..2], [(1, Phase::StopAccepting), (3, Phase::Draining)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_inner_program_ends_without_signals() {
        let scope = Scope::root();
        let task = scope.clone();
        scope.spawn("serves", async move { task.drained().await });
        let outcome = end(&scope, times()).await;
        assert_eq!((outcome.clean, outcome.signal), (true, None));
    }
}
