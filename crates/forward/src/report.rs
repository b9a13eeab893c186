//! What others see of a forward.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_core::forward::{ForwardState, ForwardStatus};
use adit_core::health::HealthState;

/// A picture of a forward, for tables, JSON and messages.
#[derive(Clone, Debug)]
pub struct ForwardReport {
    /// Its name.
    pub name: String,
    /// What it leads to, as a user would write it.
    pub target: String,
    /// The machine's state, reason, live streams.
    pub status: ForwardStatus,
    /// The cluster's context, when there is one.
    pub context: Option<String>,
    /// The namespace, when there is one.
    pub namespace: Option<String>,
    /// The pod that new connections go to.
    pub pod: Option<String>,
    /// The port there.
    pub remote_port: Option<u16>,
    /// The service's port that leads to it, when the target is a service.
    pub service_port: Option<u16>,
    /// How many pods take connections.
    pub pods: usize,
    /// The ports that the pods declare, when the one that was asked for is none of them. It may work all the same.
    pub declared: Vec<String>,
    /// How bytes are carried: `tunnel`, `spdy` or `websocket`, `exec-spdy` or `exec-websocket`.
    pub transport: Option<&'static str>,
    /// What is waited for, in words.
    pub waiting_for: Option<String>,
    /// The part of that which is about the cluster.
    pub(crate) shared_trouble: Option<Arc<str>>,
    /// Since when it is ready, while it is.
    pub ready_since: Option<Instant>,
    /// Whether it was ready since it was last asked for.
    pub carried: bool,
    /// How often it was started anew without anybody asking for it.
    pub restarts: u64,
    /// How often it was lost after it had been ready, and for how long in all; the one that lasts is not in that time.
    pub outages: u64,
    /// The time of those that are over.
    pub outage_time: Duration,
    /// Since when it is lost, while it is.
    pub lost_since: Option<Instant>,
    /// How long its last start took, from the demand until it could be used.
    pub took: Option<Duration>,
    /// What probes say, when it is probed.
    pub health: Option<HealthReport>,
    /// Until when nothing is tried, whoever asks for it: a person has to do something.
    pub held_until: Option<Instant>,
    /// What went wrong last: an attempt, a connection of anybody's, a probe.
    pub last_error: Option<LastTrouble>,
}

/// Something that went wrong, though it may be well since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastTrouble {
    /// When.
    pub at: SystemTime,
    /// What, in one line.
    pub text: String,
}

/// What probes of a forward say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// How the target is.
    pub state: HealthState,
    /// When the last probe ended.
    pub last: Option<SystemTime>,
    /// How long the last good one took.
    pub latency: Option<Duration>,
    /// What the last one saw in place of a good answer; nothing when it was good.
    pub error: Option<String>,
    /// What the last good one learnt.
    pub detail: Option<String>,
    /// What to do about the error.
    pub hint: Option<String>,
    /// Failures in a row of this target.
    pub failures: u32,
    /// Failures since a probe succeeded last, of whatever target.
    pub missed: u32,
    /// How often it was started anew since then, because its probes failed.
    pub renewals: u32,
}

impl HealthReport {
    /// Before the first probe.
    pub(crate) const fn unknown() -> Self {
        Self {
            state: HealthState::Unknown,
            last: None,
            latency: None,
            error: None,
            detail: None,
            hint: None,
            failures: 0,
            missed: 0,
            renewals: 0,
        }
    }

    /// Whether it was started anew because its probes failed, and none has succeeded since.
    #[must_use]
    pub const fn is_doubted(&self) -> bool {
        self.renewals > 0
    }

    /// Why it is not taken to be well, though streams can be opened.
    pub(crate) fn doubt(&self) -> Option<String> {
        let error = self.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        self.is_doubted()
            .then(|| format!("started anew because its probes failed, and none has succeeded since{error}"))
    }

    /// The same to a reader who does not count probes.
    fn is_same(&self, other: &Self) -> bool {
        (self.state, &self.error, self.failures, self.missed, self.renewals)
            == (other.state, &other.error, other.failures, other.missed, other.renewals)
    }
}

impl ForwardReport {
    /// Whether streams can be opened now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.state == ForwardState::Ready
    }

    /// Whether it was started anew because its probes failed, and none has succeeded since: streams can be opened, and it
    /// is not known that this helps.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.is_ready() && self.health.as_ref().is_some_and(HealthReport::is_doubted)
    }

    /// What keeps it waiting, if that keeps everything else of its cluster waiting, too: the part of the reason that is
    /// about the API server.
    #[must_use]
    pub fn cluster_trouble(&self) -> Option<&str> {
        let of_machine = self.status.shared.as_deref().filter(|_| self.waiting_for.is_none());
        self.shared_trouble.as_deref().or(of_machine).filter(|_| !self.is_ready())
    }

    /// The same to a reader who does not count streams.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let of = |report: &Self| {
            let status = &report.status;
            (status.state, status.since, status.reason.clone(), status.attempt, status.failures, status.retry_at)
        };
        of(self) == of(other)
            && (&self.context, &self.namespace, &self.pod) == (&other.context, &other.namespace, &other.pod)
            && (self.remote_port, self.service_port, self.transport)
                == (other.remote_port, other.service_port, other.transport)
            && match (&self.health, &other.health) {
                (Some(one), Some(two)) => one.is_same(two),
                (one, two) => one.is_some() == two.is_some(),
            }
            && (self.pods, &self.declared) == (other.pods, &other.declared)
            && (self.carried, self.restarts) == (other.carried, other.restarts)
            && (self.outages, self.lost_since) == (other.outages, other.lost_since)
            && (&self.waiting_for, &self.shared_trouble) == (&other.waiting_for, &other.shared_trouble)
            && (self.ready_since, self.took) == (other.ready_since, other.took)
    }

    /// How often it was lost, and for how long in all, the one that lasts included.
    #[must_use]
    pub fn outages(&self, now: Instant) -> (u64, Duration) {
        let lasting = self.lost_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        (self.outages, self.outage_time + lasting)
    }

    /// Live streams.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.status.live
    }
}
