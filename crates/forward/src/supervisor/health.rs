//! Probes of one forward, while it is ready. They go through its own session and are no use of it: nothing is started for
//! them, and its idle time runs on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use adit_core::config::forwards::HealthConfig;
use adit_core::forward::{Attempt, ForwardInput, ForwardState};
use adit_core::health::{Health, HealthAction, HealthState};
use runtime::Scope;
use runtime::connect::{BoxFuture, Connect, ConnectError, Io};
use tokio::sync::watch;

use super::Shared;
use crate::probe::{Blame, ProbeError, ProbeReport, probe, what_to_do};
use crate::report::HealthReport;
use crate::session::Session;

/// Opens streams of the session for probes: they are not counted.
struct Uncounted {
    session: Arc<Session>,
    name: String,
    /// The probe's own time: it ends with that.
    timeout: Duration,
}

impl Connect for Uncounted {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(self.session.open(self.timeout))
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

struct Prober {
    shared: Arc<Shared>,
    config: HealthConfig,
    health: Health,
    /// The pod that was probed; another one is another target.
    pod: Option<String>,
    /// Something is known since the last rest.
    knows: bool,
    sessions: watch::Receiver<Option<Arc<Session>>>,
    blame: Blame,
    /// Probes that failed since one succeeded, and how often it was started anew because of them.
    missed: u32,
    renewals: u32,
}

/// Probes until the forward is gone or the scope drains.
pub(super) async fn run(shared: Arc<Shared>, config: HealthConfig, scope: Scope) {
    let sessions = shared.session.subscribe();
    let health = Health::patient(config.settings, Instant::now());
    let (knows, blame) = (false, Blame::Path);
    let mut prober = Prober { shared, config, health, pod: None, knows, sessions, blame, missed: 0, renewals: 0 };
    tokio::select! {
        biased;
        () = scope.drained() => {}
        () = prober.run() => {}
    }
}

impl Prober {
    async fn run(&mut self) {
        loop {
            let Some(session) = self.ready().await else { return };
            self.note_target(&session);
            let news = async {
                let mut status = session.status();
                status.mark_unchanged();
                // The session is ours: its status cannot be gone.
                let _ = status.changed().await;
            };
            let due = self.health.poll_timeout();
            tokio::select! {
                biased;
                // 1. It is no longer ready, or another session is.
                _ = self.sessions.changed() => continue,
                // 2. Perhaps another pod.
                () = news => continue,
                // 3. Time for a probe.
                () = tokio::time::sleep_until(due.into()) => self.health.handle_timeout(Instant::now()),
            }
            while let Some(action) = self.health.poll_action() {
                match action {
                    HealthAction::Probe => self.probe(&session).await,
                    HealthAction::BecameHealthy => tracing::info!(forward = self.shared.name, "healthy"),
                    HealthAction::BecameUnhealthy | HealthAction::StaysUnhealthy => self.act(&session),
                }
            }
        }
    }

    /// Waits until streams can be opened; `None` when that will not be any more.
    async fn ready(&mut self) -> Option<Arc<Session>> {
        loop {
            if let Some(session) = self.sessions.borrow_and_update().clone() {
                return Some(session);
            }
            if self.shared.machine_status().state == ForwardState::Idle && std::mem::take(&mut self.knows) {
                self.pod = None;
                self.health.reset(Instant::now());
                (self.missed, self.renewals) = (0, 0);
                self.publish(self.unknown());
            }
            if self.shared.ended.load(Ordering::Acquire) || self.sessions.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Another pod than the last time is another target, of which nothing is known; with balance all are one.
    fn note_target(&mut self, session: &Session) {
        let pod = session.status().borrow().pod.clone();
        if pod.is_none() || pod == self.pod || self.shared.options.balance {
            return;
        }
        if self.pod.is_some() {
            self.health.reset(Instant::now());
            self.publish(self.unknown());
        }
        self.pod = pod;
    }

    /// Of a target that was not probed yet.
    fn unknown(&self) -> HealthReport {
        // What the one before said is why it was started anew.
        let (error, hint) =
            self.shared.health().filter(|_| self.renewals > 0).map(|known| (known.error, known.hint)).unzip();
        let (error, hint) = (error.flatten(), hint.flatten());
        HealthReport { error, hint, missed: self.missed, renewals: self.renewals, ..HealthReport::unknown() }
    }

    async fn probe(&mut self, session: &Arc<Session>) {
        let (name, timeout) = (self.shared.target.to_string(), self.config.settings.timeout);
        let connect = Uncounted { session: Arc::clone(session), name, timeout };
        let host = self.shared.target.host();
        let result = tokio::select! {
            biased;
            // What is lost meanwhile says nothing of the target.
            _ = self.sessions.changed() => return self.health.handle_given_up(Instant::now()),
            result = probe(&self.config.probe, &connect, &host, self.config.settings.timeout) => result,
        };
        // Another pod may have been chosen meanwhile: then it was the old one's answer.
        let pod = session.status().borrow().pod.clone();
        if pod.is_some() && pod != self.pod && !self.shared.options.balance {
            return self.health.handle_given_up(Instant::now());
        }
        self.note_result(result, session.ssh_server().as_deref());
    }

    fn note_result(&mut self, result: Result<ProbeReport, ProbeError>, ssh_server: Option<&str>) {
        self.knows = true;
        match &result {
            Ok(_) => (self.missed, self.renewals) = (0, 0),
            Err(_) => self.missed = self.missed.saturating_add(1),
        }
        self.health.handle_result(Instant::now(), result.is_ok(), rand::random());
        let known = self.shared.health().unwrap_or_else(HealthReport::unknown);
        let (state, failures, last) = (self.health.state(), self.health.failures(), Some(SystemTime::now()));
        let (missed, renewals) = (self.missed, self.renewals);
        let report = match result {
            Ok(ProbeReport { latency, detail }) => {
                let (latency, detail) = (Some(latency), Some(detail));
                HealthReport { state, last, latency, error: None, detail, hint: None, failures, missed, renewals }
            }
            Err(error) => {
                self.blame = error.blame();
                let hint = Some(what_to_do(&error, self.config.probe.as_str(), ssh_server));
                let error = crate::error::chain(&error);
                self.shared.note_error(format!("probe: {error}"));
                HealthReport { state, last, error: Some(error), hint, failures, missed, renewals, ..known }
            }
        };
        if let Some(error) = &report.error {
            tracing::debug!(forward = self.shared.name, error, failures, "a probe failed");
        }
        self.publish(report);
    }

    /// It is unhealthy: the one thing that may help is done, if there is one.
    fn act(&mut self, session: &Session) {
        let report = self.shared.health().unwrap_or_else(HealthReport::unknown);
        let error = report.error.clone().unwrap_or_default();
        let helps = match self.blame {
            Blame::Path => true,
            Blame::Target => session.has_another(),
            Blame::Probe => false,
        };
        tracing::warn!(forward = self.shared.name, error, failures = report.failures, restart = helps, "unhealthy");
        let status = self.shared.machine_status();
        if !helps || status.state != ForwardState::Ready {
            return;
        }
        // Before it is ready again: that alone says nothing, as what was there before was ready, too.
        self.renewals = self.renewals.saturating_add(1);
        self.publish(HealthReport { renewals: self.renewals, ..report });
        session.renew();
        let attempt: Attempt = status.attempt;
        self.shared.tell(ForwardInput::Unhealthy { attempt, reason: format!("its probes fail: {error}").into() });
        // Whether it helped is seen at once.
        self.health.probe_soon(Instant::now());
    }

    fn publish(&self, report: HealthReport) {
        *self.shared.health.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        self.shared.work.notify_one();
    }
}

impl Drop for Prober {
    /// What was known is no longer looked after.
    fn drop(&mut self) {
        let known = self.shared.health().unwrap_or_else(HealthReport::unknown);
        let state = HealthState::Unknown;
        *self.shared.health.lock().unwrap_or_else(PoisonError::into_inner) = Some(HealthReport { state, ..known });
    }
}
