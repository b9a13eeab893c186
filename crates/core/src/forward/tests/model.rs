//! Random histories against a model of the driver, which knows what may be under way at a time.

use proptest::prelude::*;

use super::*;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Demand,
    LeaseTaken,
    LeaseDropped,
    StreamOpened,
    StreamEnded,
    /// Answers what is under way.
    Answer(Outcome),
    Lost,
    NoTarget,
    Wake,
    Stop,
    DrainDone,
    /// News of an attempt that many before the current one.
    Stale(u64, Outcome),
    /// Time goes by; the timer fires only if it is told to.
    Pass(u64, bool),
    /// To the next deadline.
    ToDeadline,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Success,
    Transient,
    Permanent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Resolve,
    Connect,
}

/// What a driver would have under way.
struct Model {
    story: Story,
    work: Option<(Work, Attempt)>,
    connected: Option<Attempt>,
    last: Option<Attempt>,
    draining: bool,
    leases: u64,
    live: u64,
    starts: u64,
}

impl Model {
    fn new(settings: ForwardSettings) -> Self {
        let mut model = Self {
            story: Story::new(settings),
            work: None,
            connected: None,
            last: None,
            draining: false,
            leases: 0,
            live: 0,
            starts: 0,
        };
        model.act();
        model.check();
        model
    }

    fn step(&mut self, step: &Step, random: u64) {
        match step {
            Step::Demand => self.input(ForwardInput::Demand, random),
            Step::LeaseTaken => {
                self.leases += 1;
                self.input(ForwardInput::LeaseTaken, random);
            }
            Step::LeaseDropped if self.leases > 0 => {
                self.leases -= 1;
                self.input(ForwardInput::LeaseDropped, random);
            }
            // A driver opens streams on a connection only, but may hear of its end too late.
            Step::StreamOpened => {
                self.live += 1;
                self.input(ForwardInput::StreamOpened, random);
            }
            Step::StreamEnded if self.live > 0 => {
                self.live -= 1;
                self.input(ForwardInput::StreamEnded, random);
            }
            Step::Answer(outcome) => self.answer(*outcome, random),
            Step::Lost => {
                if let Some(attempt) = self.connected {
                    self.input(ForwardInput::Lost { attempt, reason: "lost".into() }, random);
                }
            }
            Step::NoTarget => {
                if let Some(attempt) = self.last {
                    self.input(ForwardInput::NoTarget { attempt, reason: "none".into() }, random);
                }
            }
            Step::Wake => self.input(ForwardInput::Wake, random),
            Step::Stop => self.input(ForwardInput::Stop, random),
            Step::DrainDone if self.draining => {
                self.draining = false;
                self.input(ForwardInput::DrainDone, random);
            }
            Step::Stale(back, outcome) => self.stale(*back, *outcome, random),
            Step::Pass(ms, fire) => {
                self.story.now += Duration::from_millis(*ms);
                if *fire {
                    self.timeout();
                }
            }
            Step::ToDeadline => {
                if let Some(at) = self.story.forward.poll_timeout() {
                    self.story.now = self.story.now.max(at);
                    self.timeout();
                }
            }
            Step::LeaseDropped | Step::StreamEnded | Step::DrainDone => {}
        }
    }

    fn answer(&mut self, outcome: Outcome, random: u64) {
        let Some((work, attempt)) = self.work.take() else { return };
        if let (Work::Connect, Outcome::Success) = (work, outcome) {
            self.connected = Some(attempt);
        }
        self.input(answer_to(work, attempt, outcome), random);
    }

    fn stale(&mut self, back: u64, outcome: Outcome, random: u64) {
        let Some(old) = self.last.and_then(|last| last.number().checked_sub(1 + back)) else { return };
        let old = (0..old).fold(Attempt::default(), |attempt, _| attempt.next());
        for input in [
            answer_to(Work::Resolve, old, outcome),
            answer_to(Work::Connect, old, outcome),
            ForwardInput::Lost { attempt: old, reason: "old".into() },
            ForwardInput::NoTarget { attempt: old, reason: "old".into() },
        ] {
            // Deadlines are acted on with any input; what is asked here is what the input itself does.
            self.timeout();
            let before = (self.story.state(), self.story.attempt());
            self.input(input, random);
            assert_eq!((self.story.state(), self.story.attempt()), before);
        }
    }

    fn input(&mut self, input: ForwardInput, random: u64) {
        self.story.forward.handle_input(self.story.now, input, random);
        self.act();
        self.check();
    }

    fn timeout(&mut self) {
        self.story.forward.handle_timeout(self.story.now);
        self.act();
        self.check();
    }

    /// Does what the machine says, and objects to what a driver could not do.
    fn act(&mut self) {
        while let Some(action) = self.story.forward.poll_action() {
            match action {
                ForwardAction::Resolve { attempt } => {
                    assert_eq!(self.work, None, "one thing at a time");
                    assert_eq!(self.connected, None, "the old connection was retired");
                    assert!(!self.draining, "nothing starts while it drains");
                    assert!(self.last.is_none_or(|last| last < attempt), "numbers rise");
                    (self.work, self.last) = (Some((Work::Resolve, attempt)), Some(attempt));
                    self.starts += 1;
                }
                ForwardAction::Connect { attempt } => {
                    assert_eq!((self.work, self.last), (None, Some(attempt)));
                    self.work = Some((Work::Connect, attempt));
                }
                ForwardAction::Cancel { attempt } => {
                    assert_eq!(self.work.take().map(|(_, attempt)| attempt), Some(attempt));
                }
                ForwardAction::Retire { attempt } => assert_eq!(self.connected.take(), Some(attempt)),
                ForwardAction::Disconnect { attempt } => {
                    assert_eq!(self.connected.take(), Some(attempt));
                    assert_eq!((self.live, self.leases), (0, 0), "nobody uses it");
                }
                ForwardAction::Drain => {
                    assert!(!self.draining);
                    self.draining = true;
                    self.connected = None;
                }
            }
        }
    }

    fn check(&self) {
        let status = self.story.forward.status();
        let work = self.work.map(|(work, _)| work);
        assert_eq!((status.leases, status.live), (self.leases, self.live));
        assert_eq!(work == Some(Work::Resolve), status.state == ForwardState::Resolving, "{status:?}");
        assert_eq!(work == Some(Work::Connect), status.state == ForwardState::Connecting, "{status:?}");
        assert_eq!(self.connected.is_some(), status.state == ForwardState::Ready, "{status:?}");
        assert!(!self.draining || status.state == ForwardState::Draining, "{status:?}");
        assert!(status.state != ForwardState::Idle || self.live == 0, "{status:?}");
        assert!(self.story.forward.poll_timeout().is_none_or(|at| at > self.story.now), "{status:?}");
        let explained = matches!(status.state, ForwardState::Backoff | ForwardState::Failed);
        assert!(!explained || status.reason.is_some(), "{status:?}");
        assert!(status.state != ForwardState::Ready || status.reason.is_none(), "{status:?}");
        let waits = matches!(status.state, ForwardState::Backoff);
        assert!(!waits || status.retry_at.is_some(), "{status:?}");
    }
}

fn answer_to(work: Work, attempt: Attempt, outcome: Outcome) -> ForwardInput {
    let trouble = match outcome {
        Outcome::Success => None,
        Outcome::Transient => Some(Trouble::transient("t")),
        Outcome::Permanent => Some(Trouble::permanent("p")),
    };
    match (work, trouble) {
        (Work::Resolve, None) => ForwardInput::Resolved { attempt },
        (Work::Resolve, Some(trouble)) => ForwardInput::ResolveFailed { attempt, trouble },
        (Work::Connect, None) => ForwardInput::Connected { attempt },
        (Work::Connect, Some(trouble)) => ForwardInput::ConnectFailed { attempt, trouble },
    }
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![6 => Just(Outcome::Success), 2 => Just(Outcome::Transient), 1 => Just(Outcome::Permanent)]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Demand),
        3 => Just(Step::LeaseTaken),
        3 => Just(Step::LeaseDropped),
        2 => Just(Step::StreamOpened),
        3 => Just(Step::StreamEnded),
        10 => outcomes().prop_map(Step::Answer),
        1 => Just(Step::Lost),
        1 => Just(Step::NoTarget),
        1 => Just(Step::Wake),
        1 => Just(Step::Stop),
        3 => Just(Step::DrainDone),
        1 => (0u64..4, outcomes()).prop_map(|(back, outcome)| Step::Stale(back, outcome)),
        3 => (0u64..20_000, any::<bool>()).prop_map(|(ms, fire)| Step::Pass(ms, fire)),
        3 => Just(Step::ToDeadline),
    ]
}

fn settings() -> impl Strategy<Value = ForwardSettings> {
    let start = prop_oneof![Just(Start::OnDemand), Just(Start::Always)];
    (start, proptest::option::of(0u64..5000)).prop_map(|(start, idle)| ForwardSettings {
        start,
        idle_timeout: idle.map(Duration::from_millis),
        ..ForwardSettings::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_driver_is_never_asked_for_what_it_cannot_do(
        settings in settings(), history in proptest::collection::vec((steps(), any::<u64>()), 0..120)
    ) {
        let mut model = Model::new(settings);
        for (step, random) in &history {
            model.step(step, *random);
        }
    }

    #[test]
    fn any_number_of_demands_is_one_start(leases in 1usize..50, demands in 0usize..50) {
        let mut model = Model::new(ForwardSettings::default());
        for _ in 0..leases {
            model.step(&Step::LeaseTaken, 0);
        }
        for _ in 0..demands {
            model.step(&Step::Demand, 0);
        }
        prop_assert_eq!(model.starts, 1);
    }

    #[test]
    fn whatever_happened_one_that_is_wanted_gets_ready_when_everything_works(
        settings in settings(), history in proptest::collection::vec((steps(), any::<u64>()), 0..60)
    ) {
        let mut model = Model::new(settings);
        for (step, random) in &history {
            model.step(step, *random);
        }
        while model.live > 0 {
            model.step(&Step::StreamEnded, 0);
        }
        model.step(&Step::LeaseTaken, 0);
        model.step(&Step::Demand, 0);
        model.step(&Step::DrainDone, 0);
        model.step(&Step::Answer(Outcome::Success), 0);
        model.step(&Step::Answer(Outcome::Success), 0);
        prop_assert_eq!(model.story.state(), ForwardState::Ready);
    }
}
