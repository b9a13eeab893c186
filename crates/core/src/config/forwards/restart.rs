//! `restart`: how a forward answers trouble.

use std::time::Duration;

use crate::backoff::BackoffSettings;
use crate::config::reader::{Complaint, Section, number, positive_duration};

/// The first try after a loss comes within this time, because most outages are a restart.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How trouble is answered, as it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartConfig {
    /// After how many tries without success it gives up; `None` is never.
    pub max_attempts: Option<u32>,
    /// The longest wait before the second try; the first comes at once.
    pub initial_delay: Duration,
    /// By what the wait grows with each try.
    pub multiplier: f64,
    /// The longest wait of all.
    pub max_delay: Duration,
    /// What must have held for so long that its tries, and the waits between them, begin anew.
    pub window: Duration,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            max_attempts: None,
            initial_delay: Duration::from_millis(200),
            multiplier: 2.0,
            max_delay: Duration::from_secs(10),
            window: Duration::from_secs(10),
        }
    }
}

impl RestartConfig {
    /// For the machine. The second wait is the initial delay at most.
    #[must_use]
    pub fn backoff(&self) -> BackoffSettings {
        BackoffSettings {
            first: AT_ONCE.min(self.initial_delay),
            base: self.initial_delay.div_f64(self.multiplier),
            growth: self.multiplier,
            cap: self.max_delay.max(self.initial_delay),
        }
    }
}

pub(super) fn read(section: Section<'_>, base: &RestartConfig) -> RestartConfig {
    let found = RestartConfig {
        max_attempts: section.get("max_attempts", attempts).unwrap_or(base.max_attempts),
        initial_delay: section.get("initial_delay", positive_duration).unwrap_or(base.initial_delay),
        multiplier: section.get("multiplier", multiplier).unwrap_or(base.multiplier),
        max_delay: section.get("max_delay", positive_duration).unwrap_or(base.max_delay),
        window: section.get("window", positive_duration).unwrap_or(base.window),
    };
    if found.max_delay < found.initial_delay && (section.holds("max_delay") || section.holds("initial_delay")) {
        let key = if section.holds("max_delay") { "max_delay" } else { "initial_delay" };
        let complaint = Complaint::new("max_delay is shorter than initial_delay", "make max_delay the longer one");
        section.complain(key, complaint);
    }
    section.finish();
    found
}

fn attempts(text: &str) -> Result<Option<u32>, Complaint> {
    match text {
        "unlimited" => Ok(None),
        _ => number(text, &(1..=1_000_000)).map(Some),
    }
}

fn multiplier(text: &str) -> Result<f64, Complaint> {
    number(text, &(1.0..=10.0))
}
