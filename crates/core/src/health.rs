//! Rise and fall: when probes make a target healthy or unhealthy.

use std::time::{Duration, Instant};

/// How a target is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// From one probe to the next.
    pub interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
    /// Successes in a row to become healthy.
    pub rise: u32,
    /// Failures in a row to become unhealthy.
    pub fall: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), timeout: Duration::from_secs(5), rise: 1, fall: 3 }
    }
}

/// What is known about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// No probe has ended yet. Traffic goes there: an answer beats a guess.
    Unknown,
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl HealthState {
    /// The state as one lower-case word, for JSON, logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What the driver does, or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthAction {
    /// Probe now, and answer with [`Health::handle_result`]. There is never a second one before the answer.
    Probe,
    /// The target has become healthy.
    BecameHealthy,
    /// The target has become unhealthy. Probes go on.
    BecameUnhealthy,
    /// It has been unhealthy for twice as many probes as when this was said last: what was done about it did not help.
    StaysUnhealthy,
}

/// The machine of one target. Its driver probes when [`Health::poll_timeout`] says so.
#[derive(Clone, Debug)]
pub struct Health {
    settings: HealthSettings,
    /// Whether the first result must be confirmed like any other.
    patient: bool,
    state: HealthState,
    /// Results in a row that speak against the present state.
    against: u32,
    last_ok: Option<bool>,
    /// Failures in a row.
    failures: u32,
    /// After how many failures in a row it is said again that it is unhealthy.
    say_again: u32,
    next_probe: Instant,
    /// A probe is wanted.
    due: bool,
    /// A probe is under way.
    probing: bool,
    /// The last change that nobody was told of.
    change: Option<HealthAction>,
}

impl Health {
    /// A target of which nothing is known; its first probe is due at once, and its result decides alone.
    #[must_use]
    pub const fn new(settings: HealthSettings, now: Instant) -> Self {
        Self {
            settings,
            patient: false,
            state: HealthState::Unknown,
            against: 0,
            last_ok: None,
            failures: 0,
            say_again: 0,
            next_probe: now,
            due: false,
            probing: false,
            change: None,
        }
    }

    /// The same, but the first results have to be as many as any others: something is done when it falls.
    #[must_use]
    pub const fn patient(settings: HealthSettings, now: Instant) -> Self {
        Self { patient: true, ..Self::new(settings, now) }
    }

    /// Takes the result of a probe; says the new state when it changed.
    ///
    /// The very first result of one that is not patient decides alone: a service that is down at the start is shown as
    /// down at once. `random` is any 64 random bits, for the wait until the next probe, which is up to a tenth longer
    /// than the interval: so those that began together do not go on together.
    pub fn handle_result(&mut self, now: Instant, ok: bool, random: u64) -> Option<HealthState> {
        self.probing = false;
        self.next_probe = now + self.settings.interval + jitter(self.settings.interval, random);
        self.failures = if ok { 0 } else { self.failures.saturating_add(1) };
        let (found, needed) =
            if ok { (HealthState::Healthy, self.settings.rise) } else { (HealthState::Unhealthy, self.settings.fall) };
        if self.state == found {
            self.against = 0;
            self.remind();
            return None;
        }
        // While nothing is known results of both kinds speak against that: only a row of one kind counts.
        let broken = self.state == HealthState::Unknown && self.last_ok != Some(ok);
        self.last_ok = Some(ok);
        self.against = if broken { 1 } else { self.against + 1 };
        let alone = self.state == HealthState::Unknown && !self.patient;
        if !alone && self.against < needed {
            return None;
        }
        self.state = found;
        self.against = 0;
        self.say_again = self.failures.saturating_mul(2);
        self.change = Some(if ok { HealthAction::BecameHealthy } else { HealthAction::BecameUnhealthy });
        Some(found)
    }

    /// Notes that a probe is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.due |= !self.probing && self.next_probe <= now;
    }

    /// Asks for a probe now, as when a connection of a visitor was refused.
    pub fn probe_soon(&mut self, now: Instant) {
        self.next_probe = self.next_probe.min(now);
    }

    /// Forgets all results: it is another target now. A probe that is under way was one of the old target; its result
    /// must not be told.
    pub fn reset(&mut self, now: Instant) {
        *self = Self { patient: self.patient, ..Self::new(self.settings, now) };
    }

    /// A probe was given up without a result; the next one is due at once.
    pub fn handle_given_up(&mut self, now: Instant) {
        self.probing = false;
        self.next_probe = self.next_probe.min(now);
    }

    /// What to do or to tell next.
    pub fn poll_action(&mut self) -> Option<HealthAction> {
        if let Some(change) = self.change.take() {
            return Some(change);
        }
        let probe = std::mem::take(&mut self.due) && !self.probing;
        self.probing |= probe;
        probe.then_some(HealthAction::Probe)
    }

    /// When the next probe is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Instant {
        self.next_probe
    }

    /// Whether traffic should go to the target.
    #[must_use]
    pub const fn healthy(&self) -> bool {
        !matches!(self.state, HealthState::Unhealthy)
    }

    /// What is known.
    #[must_use]
    pub const fn state(&self) -> HealthState {
        self.state
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// How it is probed.
    #[must_use]
    pub const fn settings(&self) -> &HealthSettings {
        &self.settings
    }

    fn remind(&mut self) {
        if self.state == HealthState::Unhealthy && self.failures >= self.say_again.max(1) {
            self.say_again = self.failures.saturating_mul(2);
            self.change = Some(HealthAction::StaysUnhealthy);
        }
    }
}

/// Up to a tenth of the interval.
fn jitter(interval: Duration, random: u64) -> Duration {
    let share = u32::try_from(random >> 40).unwrap_or_default();
    (interval / 10).mul_f64(f64::from(share) / f64::from(1_u32 << 24))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn health(rise: u32, fall: u32) -> (Health, Instant) {
        let now = Instant::now();
        let settings = HealthSettings { rise, fall, ..HealthSettings::default() };
        (Health::new(settings, now), now)
    }

    #[test]
    fn an_unknown_target_gets_traffic_and_a_probe_at_once() {
        let (health, now) = health(1, 3);
        assert!(health.healthy());
        assert_eq!(health.state(), HealthState::Unknown);
        assert_eq!(health.poll_timeout(), now);
    }

    #[test]
    fn the_first_result_decides_alone() {
        let (mut one, now) = health(2, 3);
        assert_eq!(one.handle_result(now, false, 0), Some(HealthState::Unhealthy));
        let (mut other, now) = health(2, 3);
        assert_eq!(other.handle_result(now, true, 0), Some(HealthState::Healthy));
    }

    #[test]
    fn it_falls_after_that_many_failures_in_a_row() {
        let (mut health, now) = health(1, 3);
        health.handle_result(now, true, 0);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert_eq!(health.handle_result(now, true, 0), None);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert!(health.healthy());
        assert_eq!(health.handle_result(now, false, 0), Some(HealthState::Unhealthy));
        assert!(!health.healthy());
    }

    #[test]
    fn it_rises_after_that_many_successes_in_a_row() {
        let (mut health, now) = health(2, 1);
        health.handle_result(now, false, 0);
        assert_eq!(health.handle_result(now, true, 0), None);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert_eq!(health.handle_result(now, true, 0), None);
        assert_eq!(health.handle_result(now, true, 0), Some(HealthState::Healthy));
    }

    #[test]
    fn probes_follow_each_other_by_the_interval_unless_hurried() {
        let (mut health, now) = health(1, 3);
        health.handle_result(now, true, 0);
        let due = now + Duration::from_secs(10);
        assert_eq!(health.poll_timeout(), due);
        let soon = now + Duration::from_secs(1);
        health.probe_soon(soon);
        assert_eq!(health.poll_timeout(), soon);
        health.probe_soon(due);
        assert_eq!(health.poll_timeout(), soon);
    }

    fn patient(rise: u32, fall: u32) -> (Health, Instant) {
        let (health, now) = health(rise, fall);
        (Health::patient(*health.settings(), now), now)
    }

    #[test]
    fn a_patient_one_falls_only_after_as_many_failures_at_its_start_too() {
        let (mut health, now) = patient(2, 3);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert_eq!(health.handle_result(now, true, 0), None);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert_eq!(health.handle_result(now, false, 0), None);
        assert_eq!((health.state(), health.failures()), (HealthState::Unknown, 2));
        assert_eq!(health.handle_result(now, false, 0), Some(HealthState::Unhealthy));
        assert_eq!(health.poll_action(), Some(HealthAction::BecameUnhealthy));
        assert_eq!(health.poll_action(), None);
    }

    #[test]
    fn there_are_never_two_probes_at_once() {
        let (mut health, now) = patient(1, 3);
        assert_eq!(health.poll_action(), None, "nobody said that it is due");
        health.handle_timeout(now);
        assert_eq!(health.poll_action(), Some(HealthAction::Probe));
        health.handle_timeout(now + Duration::from_secs(60));
        health.probe_soon(now);
        health.handle_timeout(now + Duration::from_secs(60));
        assert_eq!(health.poll_action(), None);
        health.handle_result(now, true, 0);
        assert_eq!(health.poll_action(), Some(HealthAction::BecameHealthy));
        health.handle_timeout(now);
        assert_eq!(health.poll_action(), None, "the interval has not passed");
        health.handle_timeout(health.poll_timeout());
        assert_eq!(health.poll_action(), Some(HealthAction::Probe));
        health.handle_given_up(now);
        health.handle_timeout(now);
        assert_eq!(health.poll_action(), Some(HealthAction::Probe), "one without a result is made again");
    }

    #[test]
    fn what_stays_unhealthy_is_told_less_and_less_often() {
        let (mut health, now) = patient(1, 3);
        let mut told = Vec::new();
        for n in 1..=50 {
            health.handle_result(now, false, 0);
            if health.poll_action().is_some() {
                told.push(n);
            }
        }
        assert_eq!(told, [3, 6, 12, 24, 48]);
    }

    #[test]
    fn another_target_begins_anew() {
        let (mut health, now) = patient(1, 1);
        health.handle_result(now, false, 0);
        let later = now + Duration::from_secs(3);
        health.reset(later);
        assert_eq!((health.state(), health.failures(), health.poll_timeout()), (HealthState::Unknown, 0, later));
        assert_eq!(health.poll_action(), None);
        assert_eq!(health.handle_result(later, false, 0), Some(HealthState::Unhealthy), "and it is as patient");
    }

    #[test]
    fn the_wait_is_up_to_a_tenth_longer() {
        let (mut health, now) = health(1, 3);
        let wait = |random| {
            health.handle_result(now, true, random);
            health.poll_timeout() - now
        };
        let waits: Vec<Duration> = [0, u64::MAX / 2, u64::MAX].into_iter().map(wait).collect();
        assert_eq!(waits[0], Duration::from_secs(10));
        assert!(waits.is_sorted() && waits[1] > waits[0] && waits[2] <= Duration::from_secs(11), "{waits:?}");
    }

    proptest! {
        #[test]
        fn a_patient_state_follows_rows_of_results(
            results in proptest::collection::vec(any::<bool>(), 1..60), rise in 1u32..4, fall in 1u32..4
        ) {
            let (mut health, now) = patient(rise, fall);
            let mut model = HealthState::Unknown;
            for (index, ok) in results.iter().copied().enumerate() {
                health.handle_result(now, ok, 0);
                let run = results[..=index].iter().rev().take_while(|r| **r == ok).count();
                if run >= if ok { rise } else { fall } as usize {
                    model = if ok { HealthState::Healthy } else { HealthState::Unhealthy };
                }
                prop_assert_eq!(health.state(), model);
            }
        }

        #[test]
        fn each_probe_is_answered_before_the_next(
            steps in proptest::collection::vec((0u8..5, 0u64..20, any::<u64>()), 1..80)
        ) {
            let (mut health, mut now) = patient(2, 2);
            let mut probing = false;
            for (step, wait, random) in steps {
                now += Duration::from_secs(wait);
                match step {
                    0 | 1 if probing => {
                        health.handle_result(now, step == 0, random);
                        probing = false;
                    }
                    2 => health.probe_soon(now),
                    3 => {
                        health.reset(now);
                        probing = false;
                    }
                    _ => health.handle_timeout(now),
                }
                while let Some(action) = health.poll_action() {
                    if action == HealthAction::Probe {
                        prop_assert!(!probing);
                        probing = true;
                    }
                }
                prop_assert!(health.poll_timeout() <= now + Duration::from_secs(11));
            }
        }

        #[test]
        fn the_state_is_what_the_last_run_of_results_says(
            results in proptest::collection::vec(any::<bool>(), 1..60), rise in 1u32..4, fall in 1u32..4
        ) {
            let (mut health, now) = health(rise, fall);
            let mut model = results[0];
            for (index, ok) in results.iter().copied().enumerate() {
                health.handle_result(now, ok, 0);
                let needed = if ok { rise } else { fall } as usize;
                let run = results[..=index].iter().rev().take_while(|r| **r == ok).count();
                if run >= needed {
                    model = ok;
                }
                prop_assert_eq!(health.healthy(), model);
            }
        }
    }
}
