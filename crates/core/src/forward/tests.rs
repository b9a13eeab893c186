//! Tests of the forward machine: single stories, then random ones against a model of its driver.

use super::*;

mod model;

const SECOND: Duration = Duration::from_secs(1);

/// A machine with its clock; `say` answers the current attempt.
struct Story {
    forward: Forward,
    now: Instant,
}

impl Story {
    fn new(settings: ForwardSettings) -> Self {
        let now = Instant::now();
        Self { forward: Forward::new(settings, now), now }
    }

    fn on_demand() -> Self {
        Self::new(ForwardSettings { idle_timeout: Some(60 * SECOND), ..ForwardSettings::default() })
    }

    fn always() -> Self {
        Self::new(ForwardSettings { start: Start::Always, ..ForwardSettings::default() })
    }

    /// One that is ready, with one lease.
    fn ready() -> Self {
        let mut story = Self::on_demand();
        story.say(ForwardInput::LeaseTaken);
        story.connect();
        story
    }

    fn attempt(&self) -> Attempt {
        self.forward.status().attempt
    }

    fn say(&mut self, input: ForwardInput) -> Vec<ForwardAction> {
        self.forward.handle_input(self.now, input, u64::MAX);
        self.actions()
    }

    fn connect(&mut self) -> Vec<ForwardAction> {
        let attempt = self.attempt();
        self.say(ForwardInput::Resolved { attempt });
        let actions = self.say(ForwardInput::Connected { attempt });
        assert_eq!(self.state(), ForwardState::Ready);
        actions
    }

    fn fail(&mut self, trouble: Trouble) -> Vec<ForwardAction> {
        let attempt = self.attempt();
        self.say(ForwardInput::ResolveFailed { attempt, trouble })
    }

    fn lose(&mut self) -> Vec<ForwardAction> {
        let attempt = self.attempt();
        self.say(ForwardInput::Lost { attempt, reason: "reset".into() })
    }

    fn wait(&mut self, time: Duration) -> Vec<ForwardAction> {
        self.now += time;
        self.forward.handle_timeout(self.now);
        self.actions()
    }

    fn actions(&mut self) -> Vec<ForwardAction> {
        std::iter::from_fn(|| self.forward.poll_action()).collect()
    }

    fn state(&self) -> ForwardState {
        self.forward.state()
    }

    fn reason(&self) -> Option<String> {
        self.forward.status().reason.map(|reason| reason.to_string())
    }

    fn due(&self) -> Option<Duration> {
        self.forward.poll_timeout().map(|at| at - self.now)
    }
}

fn number(attempt: Attempt) -> u64 {
    attempt.number()
}

#[test]
fn what_waits_for_a_person_is_tried_when_that_wait_is_over_and_no_try_is_used_up_by_it() {
    let held = |story: &Story| Some(story.now + 60 * SECOND);
    let settings = ForwardSettings { start: Start::Always, max_attempts: Some(2), ..ForwardSettings::default() };
    let mut story = Story::new(settings);
    let until = held(&story);
    story.fail(Trouble::permanent("refused").held(until));
    assert_eq!((story.state(), story.forward.status().retry_at), (ForwardState::Failed, until));
    story.say(ForwardInput::Wake);
    // What has worked may work again.
    story.connect();
    story.lose();
    story.now += 60 * SECOND;
    story.forward.handle_timeout(story.now);
    story.actions();
    let until = held(&story);
    story.fail(Trouble::transient("refused").held(until));
    assert_eq!((story.state(), story.forward.status().retry_at), (ForwardState::Backoff, until));
    let mut rests = Story::on_demand();
    rests.say(ForwardInput::LeaseTaken);
    let until = held(&rests);
    rests.fail(Trouble::permanent("refused").held(until));
    assert_eq!(rests.forward.status().retry_at, None, "nobody asked for it to go on");
}

#[test]
fn a_thousand_callers_are_one_start() {
    let mut story = Story::on_demand();
    assert_eq!((story.state(), story.actions().len(), story.due()), (ForwardState::Idle, 0, None));
    let actions: Vec<_> = (0..1000).flat_map(|_| story.say(ForwardInput::LeaseTaken)).collect();
    let attempt = story.attempt();
    assert_eq!(actions, [ForwardAction::Resolve { attempt }]);
    assert_eq!(story.say(ForwardInput::Resolved { attempt }), [ForwardAction::Connect { attempt }]);
    assert_eq!(story.state(), ForwardState::Connecting);
    assert_eq!(story.say(ForwardInput::Connected { attempt }), []);
    assert_eq!((story.state(), story.forward.status().leases), (ForwardState::Ready, 1000));
}

#[test]
fn one_that_always_runs_starts_at_once_and_is_never_idle() {
    let mut story = Story::always();
    assert!(matches!(story.actions()[..], [ForwardAction::Resolve { .. }]));
    story.connect();
    assert_eq!(story.due(), None);
    assert_eq!(story.wait(1_000_000 * SECOND), []);
    assert_eq!(story.state(), ForwardState::Ready);
}

#[test]
fn the_idle_time_counts_from_the_last_lease_or_live_stream() {
    let mut story = Story::ready();
    story.say(ForwardInput::StreamOpened);
    story.say(ForwardInput::LeaseDropped);
    assert_eq!(story.due(), None, "a live stream is never cut");
    story.wait(1000 * SECOND);
    story.say(ForwardInput::StreamEnded);
    assert_eq!(story.due(), Some(60 * SECOND));
    story.wait(59 * SECOND);
    story.say(ForwardInput::LeaseTaken);
    story.say(ForwardInput::LeaseDropped);
    let attempt = story.attempt();
    assert_eq!(story.wait(59 * SECOND), []);
    assert_eq!(story.wait(SECOND), [ForwardAction::Disconnect { attempt }]);
    assert_eq!((story.state(), story.due()), (ForwardState::Idle, None));
    assert!(matches!(story.say(ForwardInput::LeaseTaken)[..], [ForwardAction::Resolve { .. }]));
}

#[test]
fn a_lease_that_comes_with_the_idle_deadline_is_served() {
    let mut story = Story::ready();
    story.say(ForwardInput::LeaseDropped);
    story.now += 60 * SECOND;
    assert_eq!(story.say(ForwardInput::LeaseTaken), []);
    assert_eq!(story.state(), ForwardState::Ready);
}

#[test]
fn without_an_idle_timeout_it_stays() {
    let mut story = Story::new(ForwardSettings { idle_timeout: None, ..ForwardSettings::default() });
    story.say(ForwardInput::Demand);
    story.connect();
    assert_eq!(story.due(), None);
}

#[test]
fn what_nobody_waits_for_any_more_is_given_up_after_the_idle_time() {
    let mut story = Story::on_demand();
    story.say(ForwardInput::LeaseTaken);
    story.say(ForwardInput::LeaseDropped);
    let attempt = story.attempt();
    assert_eq!(story.wait(60 * SECOND), [ForwardAction::Cancel { attempt }]);
    assert_eq!(story.state(), ForwardState::Idle);
    assert_eq!(story.say(ForwardInput::Resolved { attempt }), [], "its answer comes too late");
    assert_eq!(story.state(), ForwardState::Idle);
}

#[test]
fn transient_trouble_is_tried_again_for_ever_with_growing_waits() {
    let mut story = Story::ready();
    let mut waits = Vec::new();
    story.lose();
    for _ in 0..20 {
        assert_eq!(story.state(), ForwardState::Backoff);
        let due = story.due().unwrap();
        waits.push(due);
        assert!(matches!(story.wait(due)[..], [ForwardAction::Resolve { .. }]));
        story.fail(Trouble::transient("refused"));
        assert_eq!(story.reason().as_deref(), Some("refused"));
    }
    assert!(waits.is_sorted() && waits[0] <= Duration::from_millis(100), "{waits:?}");
    assert_eq!(story.forward.status().failures, 21);
}

#[test]
fn what_is_shared_with_others_stays_beside_its_reason_until_that_is_over() {
    let settings = ForwardSettings { start: Start::Always, max_attempts: Some(2), ..ForwardSettings::default() };
    let mut story = Story::new(settings);
    let shared = |story: &Story| story.forward.status().shared.map(|part| part.to_string());
    let reason = || Reason { text: "no connection to pod a: the server is away".into(), shared: Some("away".into()) };
    story.fail(Trouble::transient(reason()));
    assert_eq!(shared(&story).as_deref(), Some("away"));
    story.wait(10 * SECOND);
    story.fail(Trouble::transient(reason()));
    assert_eq!((story.state(), shared(&story).as_deref()), (ForwardState::Failed, Some("away")), "given up");
    story.say(ForwardInput::Demand);
    let attempt = story.attempt();
    story.say(ForwardInput::NoTarget { attempt, reason: "no pod is ready".into() });
    assert_eq!(shared(&story), None, "another reason");
    story.say(ForwardInput::NoTarget { attempt, reason: reason() });
    story.connect();
    assert_eq!((story.reason(), shared(&story)), (None, None));
}

#[test]
fn traffic_does_not_shorten_a_wait_but_the_users_word_does() {
    let mut story = Story::ready();
    story.lose();
    assert_eq!(story.say(ForwardInput::LeaseTaken), []);
    assert_eq!(story.state(), ForwardState::Backoff);
    assert!(matches!(story.say(ForwardInput::Demand)[..], [ForwardAction::Resolve { .. }]));
}

#[test]
fn a_connection_that_held_is_redialled_at_once_and_one_that_did_not_after_a_wait() {
    let mut story = Story::ready();
    story.wait(10 * SECOND);
    let old = story.attempt();
    let actions = story.lose();
    let new = story.attempt();
    assert_eq!(actions, [ForwardAction::Retire { attempt: old }, ForwardAction::Resolve { attempt: new }]);
    assert_eq!(story.reason().as_deref(), Some("reset"));
    story.connect();
    assert_eq!(story.reason(), None);
    assert_eq!(story.lose(), [ForwardAction::Retire { attempt: new }]);
    assert_eq!(story.state(), ForwardState::Backoff);
}

#[test]
fn one_whose_probes_fail_gets_another_connection_as_if_it_were_lost() {
    let mut story = Story::ready();
    story.wait(10 * SECOND);
    let old = story.attempt();
    let actions = story.say(ForwardInput::Unhealthy { attempt: old, reason: "503".into() });
    let new = story.attempt();
    assert_eq!(actions, [ForwardAction::Retire { attempt: old }, ForwardAction::Resolve { attempt: new }]);
    assert_eq!(story.reason().as_deref(), Some("503"));
    assert_eq!(story.say(ForwardInput::Unhealthy { attempt: old, reason: "503".into() }), [], "late news");
    story.connect();
    story.say(ForwardInput::Unhealthy { attempt: new, reason: "503".into() });
    assert_eq!(story.state(), ForwardState::Backoff, "it did not help, so there is no hurry");
}

#[test]
fn a_connection_that_breaks_at_once_each_time_does_not_reset_the_waits() {
    let mut story = Story::ready();
    for _ in 0..10 {
        story.lose();
        let due = story.due().unwrap();
        story.wait(due);
        story.connect();
        assert_eq!(story.forward.status().failures, 0, "a ready one shows none");
    }
    story.lose();
    assert!(story.due().unwrap() > 5 * SECOND);
}

#[test]
fn a_permanent_failure_is_remembered_until_a_new_demand() {
    let mut story = Story::on_demand();
    story.say(ForwardInput::LeaseTaken);
    assert_eq!(story.fail(Trouble::permanent("no such context")), []);
    assert_eq!((story.state(), story.due()), (ForwardState::Failed, None));
    assert_eq!(story.reason().as_deref(), Some("no such context"));
    assert_eq!(story.forward.status().to_string(), "failed: no such context");
    assert_eq!(story.say(ForwardInput::LeaseTaken), [], "the failure is young");
    story.wait(SECOND);
    assert!(matches!(story.say(ForwardInput::LeaseTaken)[..], [ForwardAction::Resolve { .. }]));
    story.fail(Trouble::permanent("still none"));
    assert!(matches!(story.say(ForwardInput::Demand)[..], [ForwardAction::Resolve { .. }]));
}

#[test]
fn one_that_always_runs_tries_again_after_a_permanent_failure() {
    let mut story = Story::always();
    story.actions();
    story.fail(Trouble::permanent("forbidden"));
    assert_eq!(story.due(), Some(30 * SECOND));
    assert!(matches!(story.wait(30 * SECOND)[..], [ForwardAction::Resolve { .. }]));
}

#[test]
fn without_a_pod_it_waits_and_says_for_what() {
    let mut story = Story::ready();
    let old = story.attempt();
    let actions = story.say(ForwardInput::NoTarget { attempt: old, reason: "no pod is ready".into() });
    let new = story.attempt();
    assert_eq!(actions, [ForwardAction::Retire { attempt: old }, ForwardAction::Resolve { attempt: new }]);
    assert_eq!((story.state(), story.reason().as_deref()), (ForwardState::Resolving, Some("no pod is ready")));
    assert_eq!(story.say(ForwardInput::NoTarget { attempt: new, reason: "pulling an image".into() }), []);
    assert_eq!(story.reason().as_deref(), Some("pulling an image"));
    story.connect();
    assert_eq!(story.reason(), None);
}

#[test]
fn a_pod_that_goes_while_it_is_connected_to_cancels_that() {
    let mut story = Story::on_demand();
    story.say(ForwardInput::LeaseTaken);
    let old = story.attempt();
    story.say(ForwardInput::Resolved { attempt: old });
    let actions = story.say(ForwardInput::NoTarget { attempt: old, reason: "deleted".into() });
    let new = story.attempt();
    assert_eq!(actions, [ForwardAction::Cancel { attempt: old }, ForwardAction::Resolve { attempt: new }]);
}

#[test]
fn late_news_of_an_old_attempt_changes_nothing() {
    let mut story = Story::ready();
    let old = story.attempt();
    story.wait(10 * SECOND);
    story.lose();
    story.connect();
    for input in [
        ForwardInput::Lost { attempt: old, reason: "late".into() },
        ForwardInput::NoTarget { attempt: old, reason: "late".into() },
        ForwardInput::Resolved { attempt: old },
        ForwardInput::Connected { attempt: old },
        ForwardInput::ResolveFailed { attempt: old, trouble: Trouble::permanent("late") },
        ForwardInput::ConnectFailed { attempt: old, trouble: Trouble::transient("late") },
    ] {
        assert_eq!(story.say(input), []);
        assert_eq!((story.state(), story.reason()), (ForwardState::Ready, None));
    }
}

#[test]
fn at_wake_everything_is_dialled_again() {
    let mut story = Story::ready();
    let old = story.attempt();
    let actions = story.say(ForwardInput::Wake);
    let new = story.attempt();
    assert_eq!(actions, [ForwardAction::Retire { attempt: old }, ForwardAction::Resolve { attempt: new }]);
    let actions = story.say(ForwardInput::Wake);
    let newer = story.attempt();
    assert_eq!(actions, [ForwardAction::Cancel { attempt: new }, ForwardAction::Resolve { attempt: newer }]);
    story.fail(Trouble::transient("no route"));
    assert!(matches!(story.say(ForwardInput::Wake)[..], [ForwardAction::Resolve { .. }]), "no wait is waited out");
    story.fail(Trouble::permanent("no credentials"));
    assert!(matches!(story.say(ForwardInput::Wake)[..], [ForwardAction::Resolve { .. }]));
    assert_eq!(Story::on_demand().say(ForwardInput::Wake), [], "what rests goes on resting");
}

#[test]
fn stop_lets_what_is_live_finish() {
    let mut story = Story::ready();
    story.say(ForwardInput::StreamOpened);
    assert_eq!(story.say(ForwardInput::Stop), [ForwardAction::Drain]);
    assert_eq!((story.state(), story.due()), (ForwardState::Draining, None));
    assert_eq!(story.say(ForwardInput::Stop), []);
    story.say(ForwardInput::DrainDone);
    assert_eq!(story.state(), ForwardState::Draining, "one is live");
    story.say(ForwardInput::StreamEnded);
    assert_eq!(story.state(), ForwardState::Idle);
    assert_eq!(story.say(ForwardInput::LeaseDropped), [], "the lease of before brings nothing back");
}

#[test]
fn stop_waits_for_the_connections_to_be_closed() {
    let mut story = Story::ready();
    story.say(ForwardInput::Stop);
    assert_eq!(story.state(), ForwardState::Draining);
    assert_eq!(story.say(ForwardInput::DrainDone), []);
    assert_eq!(story.state(), ForwardState::Idle);
}

#[test]
fn a_demand_while_it_drains_starts_it_again_afterwards() {
    let mut story = Story::ready();
    story.say(ForwardInput::Stop);
    assert_eq!(story.say(ForwardInput::Demand), []);
    assert!(matches!(story.say(ForwardInput::DrainDone)[..], [ForwardAction::Resolve { .. }]));
    story.connect();
    story.say(ForwardInput::Stop);
    story.say(ForwardInput::LeaseTaken);
    story.say(ForwardInput::Stop);
    assert_eq!(story.say(ForwardInput::DrainDone), [], "the last word counts");
    assert_eq!(story.state(), ForwardState::Idle);
}

#[test]
fn stop_before_it_is_ready_only_cancels() {
    let mut story = Story::always();
    story.actions();
    let attempt = story.attempt();
    assert_eq!(story.say(ForwardInput::Stop), [ForwardAction::Cancel { attempt }]);
    assert_eq!(story.state(), ForwardState::Idle);
    assert_eq!(story.say(ForwardInput::Stop), []);
    story.say(ForwardInput::Demand);
    story.fail(Trouble::transient("x"));
    assert_eq!(story.say(ForwardInput::Stop), []);
    assert_eq!((story.state(), story.reason()), (ForwardState::Idle, None));
}

#[test]
fn a_status_shows_everything_in_words() {
    let mut story = Story::ready();
    story.say(ForwardInput::StreamOpened);
    story.lose();
    let status = story.forward.status();
    assert_eq!(status.to_string(), "backoff: reset");
    assert_eq!((status.leases, status.live, status.failures, number(status.attempt)), (1, 1, 1, 1));
    assert_eq!(status.retry_at, story.forward.poll_timeout());
    let words = ForwardState::ALL.map(ForwardState::as_str);
    assert_eq!(words, ["idle", "resolving", "connecting", "ready", "backoff", "failed", "draining"]);
}

#[test]
fn it_gives_up_after_as_many_tries_as_are_wanted_until_somebody_asks_for_it() {
    let settings = ForwardSettings { start: Start::Always, max_attempts: Some(3), ..ForwardSettings::default() };
    let mut story = Story::new(settings);
    for _ in 0..2 {
        story.fail(Trouble::transient("refused"));
        assert_eq!(story.state(), ForwardState::Backoff);
        story.wait(10 * SECOND);
    }
    story.fail(Trouble::transient("refused"));
    assert_eq!((story.state(), story.due()), (ForwardState::Failed, None), "for good");
    assert_eq!(story.reason().as_deref(), Some("given up after 3 tries: refused"));
    story.say(ForwardInput::Demand);
    story.fail(Trouble::transient("refused"));
    assert_eq!(story.state(), ForwardState::Backoff, "its tries are counted anew");
}

#[test]
fn while_what_it_shares_with_others_is_away_no_try_is_used_up() {
    let settings = ForwardSettings { start: Start::Always, max_attempts: Some(2), ..ForwardSettings::default() };
    let mut story = Story::new(settings);
    for _ in 0..100 {
        story.fail(Trouble::away("the server cannot be reached"));
        assert_eq!(story.state(), ForwardState::Backoff);
        assert_eq!(story.reason().as_deref(), Some("the server cannot be reached"));
        story.wait(SECOND);
    }
    story.fail(Trouble::transient("its own"));
    assert_eq!(story.state(), ForwardState::Backoff, "the first one of its own");
    story.wait(10 * SECOND);
    story.fail(Trouble::transient("its own"));
    assert_eq!(story.state(), ForwardState::Failed);
}

#[test]
fn tries_are_counted_from_the_last_connection_that_held() {
    let settings = ForwardSettings { start: Start::Always, max_attempts: Some(2), ..ForwardSettings::default() };
    let mut story = Story::new(settings);
    story.fail(Trouble::transient("refused"));
    story.wait(10 * SECOND);
    story.connect();
    story.wait(60 * SECOND);
    story.lose();
    story.fail(Trouble::transient("refused"));
    assert_eq!(story.state(), ForwardState::Backoff);
    story.wait(10 * SECOND);
    story.connect();
    story.lose();
    assert_eq!(story.state(), ForwardState::Failed, "one that did not hold is no success");
}

#[test]
fn one_that_is_lost_again_and_again_within_its_window_is_given_up() {
    let tries = |window: u32| {
        let settings =
            ForwardSettings { max_attempts: Some(3), stable_after: window * SECOND, ..ForwardSettings::default() };
        let mut story = Story::new(ForwardSettings { start: Start::Always, ..settings });
        for lost in 0..20 {
            if story.state() == ForwardState::Failed {
                return lost;
            }
            story.wait(15 * SECOND);
            story.connect();
            story.wait(60 * SECOND);
            story.lose();
        }
        20
    };
    assert_eq!((tries(300), tries(10)), (3, 20));
}
