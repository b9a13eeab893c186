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

/// The machine of one target. Its driver probes when [`Health::poll_timeout`] says so.
#[derive(Clone, Debug)]
pub struct Health {
    settings: HealthSettings,
    state: HealthState,
    /// Results in a row that speak against the present state.
    against: u32,
    next_probe: Instant,
}

impl Health {
    /// A target of which nothing is known; its first probe is due at once.
    #[must_use]
    pub const fn new(settings: HealthSettings, now: Instant) -> Self {
        Self { settings, state: HealthState::Unknown, against: 0, next_probe: now }
    }

    /// Takes the result of a probe; says the new state when it changed.
    ///
    /// The very first result decides alone: a service that is down at the start is shown as down at once.
    pub fn handle_result(&mut self, now: Instant, ok: bool) -> Option<HealthState> {
        self.next_probe = now + self.settings.interval;
        let (found, needed) =
            if ok { (HealthState::Healthy, self.settings.rise) } else { (HealthState::Unhealthy, self.settings.fall) };
        if self.state == found {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.state != HealthState::Unknown && self.against < needed {
            return None;
        }
        self.state = found;
        self.against = 0;
        Some(found)
    }

    /// Asks for a probe now, as when a connection of a visitor was refused.
    pub fn probe_soon(&mut self, now: Instant) {
        self.next_probe = self.next_probe.min(now);
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

    /// How it is probed.
    #[must_use]
    pub const fn settings(&self) -> &HealthSettings {
        &self.settings
    }
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
        assert_eq!(one.handle_result(now, false), Some(HealthState::Unhealthy));
        let (mut other, now) = health(2, 3);
        assert_eq!(other.handle_result(now, true), Some(HealthState::Healthy));
    }

    #[test]
    fn it_falls_after_that_many_failures_in_a_row() {
        let (mut health, now) = health(1, 3);
        health.handle_result(now, true);
        assert_eq!(health.handle_result(now, false), None);
        assert_eq!(health.handle_result(now, false), None);
        assert_eq!(health.handle_result(now, true), None);
        assert_eq!(health.handle_result(now, false), None);
        assert_eq!(health.handle_result(now, false), None);
        assert!(health.healthy());
        assert_eq!(health.handle_result(now, false), Some(HealthState::Unhealthy));
        assert!(!health.healthy());
    }

    #[test]
    fn it_rises_after_that_many_successes_in_a_row() {
        let (mut health, now) = health(2, 1);
        health.handle_result(now, false);
        assert_eq!(health.handle_result(now, true), None);
        assert_eq!(health.handle_result(now, false), None);
        assert_eq!(health.handle_result(now, true), None);
        assert_eq!(health.handle_result(now, true), Some(HealthState::Healthy));
    }

    #[test]
    fn probes_follow_each_other_by_the_interval_unless_hurried() {
        let (mut health, now) = health(1, 3);
        health.handle_result(now, true);
        let due = now + Duration::from_secs(10);
        assert_eq!(health.poll_timeout(), due);
        let soon = now + Duration::from_secs(1);
        health.probe_soon(soon);
        assert_eq!(health.poll_timeout(), soon);
        health.probe_soon(due);
        assert_eq!(health.poll_timeout(), soon);
    }

    proptest! {
        #[test]
        fn the_state_is_what_the_last_run_of_results_says(
            results in proptest::collection::vec(any::<bool>(), 1..60), rise in 1u32..4, fall in 1u32..4
        ) {
            let (mut health, now) = health(rise, fall);
            let mut model = results[0];
            for (index, ok) in results.iter().copied().enumerate() {
                health.handle_result(now, ok);
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
