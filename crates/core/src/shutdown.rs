//! The phases of a shutdown: stop accepting → drain → cancel → abort.
//!
//! A phase ends as soon as nothing is left, so an idle shutdown takes milliseconds. A second signal aborts, a third exits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long each phase may take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseTimes {
    /// To close the listeners and tell the peers.
    pub accept: Duration,
    /// To let what is in flight finish.
    pub drain: Duration,
    /// To let tasks that were told to stop end by themselves.
    pub cancel: Duration,
    /// To let dropped tasks go.
    pub abort: Duration,
}

impl PhaseTimes {
    /// All phases together, the longest that an end may take.
    #[must_use]
    pub const fn total(&self) -> Duration {
        let (early, late) = (self.accept.saturating_add(self.drain), self.cancel.saturating_add(self.abort));
        early.saturating_add(late)
    }

    /// How long a phase may take; `None` for what is none of the end.
    #[must_use]
    pub const fn of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Running | Phase::Done => None,
            Phase::StopAccepting => Some(self.accept),
            Phase::Draining => Some(self.drain),
            Phase::Cancelling => Some(self.cancel),
            Phase::Aborting => Some(self.abort),
        }
    }
}

impl Default for PhaseTimes {
    fn default() -> Self {
        Self {
            accept: Duration::from_secs(2),
            drain: Duration::from_secs(8),
            cancel: Duration::from_secs(15),
            abort: Duration::from_secs(5),
        }
    }
}

/// Where the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Listeners close; peers learn of it.
    StopAccepting,
    /// What is in flight finishes.
    Draining,
    /// Tasks were told to stop.
    Cancelling,
    /// Tasks are dropped.
    Aborting,
    /// It is over.
    Done,
}

/// What the driver does; every side effect of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownAction {
    /// Take nothing new and tell the peers.
    StopAccepting,
    /// Finish what is in flight.
    Drain,
    /// Tell all tasks to stop.
    Cancel,
    /// Drop all tasks.
    Abort,
    /// Leave. `clean` says that nothing was cut off.
    Exit {
        /// Whether everything had finished by itself.
        clean: bool,
    },
}

/// The shutdown machine.
#[derive(Debug)]
pub struct Machine {
    times: PhaseTimes,
    phase: Phase,
    signals: u32,
    deadline: Option<Instant>,
    actions: VecDeque<ShutdownAction>,
}

impl Machine {
    /// A machine of a running program.
    #[must_use]
    pub const fn new(times: PhaseTimes) -> Self {
        Self { times, phase: Phase::Running, signals: 0, deadline: None, actions: VecDeque::new() }
    }

    /// Other lengths of the phases, for the one that is entered next and those after it.
    pub const fn set_times(&mut self, times: PhaseTimes) {
        self.times = times;
    }

    /// A signal to stop: the first begins the shutdown, the second aborts, the third exits.
    pub fn handle_signal(&mut self, now: Instant) {
        self.signals = self.signals.saturating_add(1);
        match (self.signals, self.phase) {
            (_, Phase::Done) => {}
            (1, Phase::Running) => self.enter(now, Phase::StopAccepting),
            (_, Phase::Aborting) | (3.., _) => self.enter(now, Phase::Done),
            (_, _) => self.enter(now, Phase::Aborting),
        }
    }

    /// A shutdown for another reason, as when a part failed or the work is done. Does nothing when one is under way.
    pub fn handle_stop(&mut self, now: Instant) {
        if self.phase == Phase::Running {
            self.enter(now, Phase::StopAccepting);
        }
    }

    /// All listeners are closed and all peers were told.
    pub fn handle_accept_stopped(&mut self, now: Instant) {
        if self.phase == Phase::StopAccepting {
            self.enter(now, Phase::Draining);
        }
    }

    /// Nothing is left: no task, no connection.
    pub fn handle_idle(&mut self) {
        if self.phase > Phase::Running && self.phase < Phase::Done {
            let clean = self.phase < Phase::Cancelling;
            self.phase = Phase::Done;
            self.deadline = None;
            self.actions.push_back(ShutdownAction::Exit { clean });
        }
    }

    /// Time passed: ends a phase whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        // One call may end several phases, as when the machine slept.
        while self.deadline.is_some_and(|deadline| deadline <= now) {
            self.enter(now, self.phase.next());
        }
    }

    /// When [`Machine::handle_timeout`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<ShutdownAction> {
        self.actions.pop_front()
    }

    /// Where the program is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.deadline = self.times.of(phase).map(|time| now + time);
        let action = match phase {
            Phase::Running => return,
            Phase::StopAccepting => ShutdownAction::StopAccepting,
            Phase::Draining => ShutdownAction::Drain,
            Phase::Cancelling => ShutdownAction::Cancel,
            Phase::Aborting => ShutdownAction::Abort,
            // Only force or time leads here; see `handle_idle` for the other way.
            Phase::Done => ShutdownAction::Exit { clean: false },
        };
        self.actions.push_back(action);
    }
}

impl Phase {
    /// The phase as a word for logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::StopAccepting => "stop_accepting",
            Self::Draining => "draining",
            Self::Cancelling => "cancelling",
            Self::Aborting => "aborting",
            Self::Done => "done",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Running => Self::StopAccepting,
            Self::StopAccepting => Self::Draining,
            Self::Draining => Self::Cancelling,
            Self::Cancelling => Self::Aborting,
            Self::Aborting | Self::Done => Self::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn actions(machine: &mut Machine) -> Vec<ShutdownAction> {
        std::iter::from_fn(|| machine.poll_action()).collect()
    }

    #[test]
    fn an_idle_shutdown_exits_at_once() {
        let now = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.handle_signal(now);
        machine.handle_idle();
        assert_eq!(actions(&mut machine), [ShutdownAction::StopAccepting, ShutdownAction::Exit { clean: true }]);
        assert_eq!(machine.phase(), Phase::Done);
        assert_eq!(machine.poll_timeout(), None);
    }

    #[test]
    fn the_phases_follow_each_other_by_their_times() {
        let start = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.handle_signal(start);
        let mut seen = Vec::new();
        while let Some(due) = machine.poll_timeout() {
            seen.push((due - start).as_secs());
            machine.handle_timeout(due);
        }
        assert_eq!(seen, [2, 10, 25, 30]);
        assert_eq!(
            actions(&mut machine),
            [
                ShutdownAction::StopAccepting,
                ShutdownAction::Drain,
                ShutdownAction::Cancel,
                ShutdownAction::Abort,
                ShutdownAction::Exit { clean: false }
            ]
        );
    }

    #[test]
    fn a_phase_ends_as_soon_as_nothing_is_left() {
        let now = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.handle_signal(now);
        machine.handle_accept_stopped(now);
        assert_eq!(machine.phase(), Phase::Draining);
        assert_eq!(machine.poll_timeout(), Some(now + Duration::from_secs(8)));
        machine.handle_idle();
        assert_eq!(actions(&mut machine).last(), Some(&ShutdownAction::Exit { clean: true }));
    }

    #[test]
    fn what_had_to_be_cancelled_is_no_clean_exit() {
        let now = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.handle_signal(now);
        machine.handle_timeout(now + Duration::from_secs(2));
        machine.handle_timeout(now + Duration::from_secs(10));
        assert_eq!(machine.phase(), Phase::Cancelling);
        machine.handle_idle();
        assert_eq!(actions(&mut machine).last(), Some(&ShutdownAction::Exit { clean: false }));
    }

    #[test]
    fn the_second_signal_aborts_and_the_third_exits() {
        let now = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.handle_signal(now);
        machine.handle_signal(now);
        assert_eq!(machine.phase(), Phase::Aborting);
        machine.handle_signal(now);
        assert_eq!(
            actions(&mut machine),
            [ShutdownAction::StopAccepting, ShutdownAction::Abort, ShutdownAction::Exit { clean: false }]
        );
        machine.handle_signal(now);
        assert_eq!(machine.poll_action(), None);
    }

    #[test]
    fn a_signal_after_a_stop_without_one_aborts() {
        let now = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.handle_stop(now);
        machine.handle_stop(now);
        assert_eq!(actions(&mut machine), [ShutdownAction::StopAccepting]);
        machine.handle_signal(now);
        assert_eq!(machine.phase(), Phase::Aborting);
    }

    #[test]
    fn a_running_program_ignores_idleness_and_time() {
        let now = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.handle_idle();
        machine.handle_timeout(now + Duration::from_secs(1000));
        machine.handle_accept_stopped(now);
        assert_eq!(machine.phase(), Phase::Running);
        assert_eq!(machine.poll_action(), None);
    }

    #[test]
    fn phases_of_no_length_are_passed_in_one_call() {
        let now = Instant::now();
        let zero = Duration::ZERO;
        let mut machine = Machine::new(PhaseTimes { accept: zero, drain: zero, cancel: zero, abort: zero });
        machine.handle_signal(now);
        machine.handle_timeout(now);
        assert_eq!(machine.phase(), Phase::Done);
    }

    #[test]
    fn lengths_that_are_set_while_it_runs_hold_for_the_end() {
        let now = Instant::now();
        let mut machine = Machine::new(PhaseTimes::default());
        machine.set_times(PhaseTimes { accept: Duration::from_secs(60), ..PhaseTimes::default() });
        machine.handle_signal(now);
        assert_eq!(machine.poll_timeout(), Some(now + Duration::from_secs(60)));
        assert_eq!(PhaseTimes::default().total(), Duration::from_secs(30));
        assert_eq!(PhaseTimes::default().of(Phase::Running), None);
    }

    proptest! {
        #[test]
        fn phases_only_go_forward_and_exit_comes_once(events in proptest::collection::vec(0u8..5, 0..40)) {
            let mut now = Instant::now();
            let mut machine = Machine::new(PhaseTimes::default());
            let mut exits = 0;
            for event in events {
                let before = machine.phase();
                match event {
                    0 => machine.handle_signal(now),
                    1 => machine.handle_idle(),
                    2 => machine.handle_accept_stopped(now),
                    3 => machine.handle_stop(now),
                    _ => {
                        now += Duration::from_secs(3);
                        machine.handle_timeout(now);
                    }
                }
                prop_assert!(machine.phase() >= before);
                exits += actions(&mut machine)
                    .iter()
                    .filter(|action| matches!(action, ShutdownAction::Exit { .. }))
                    .count();
                prop_assert_eq!(exits, usize::from(machine.phase() == Phase::Done));
                prop_assert_eq!(machine.poll_timeout().is_some(), machine.phase() > Phase::Running && machine.phase() < Phase::Done);
            }
        }
    }

    #[test]
    fn each_phase_has_its_word() {
        let phases = [
            (Phase::Running, "running"),
            (Phase::StopAccepting, "stop_accepting"),
            (Phase::Draining, "draining"),
            (Phase::Cancelling, "cancelling"),
            (Phase::Aborting, "aborting"),
            (Phase::Done, "done"),
        ];
        for (phase, word) in phases {
            assert_eq!(phase.as_str(), word);
        }
    }
}
