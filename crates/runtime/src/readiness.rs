//! What is ready and what is not, by component: the answer of the health endpoints.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::admin::AdminAnswer;

/// The readiness of a program, made of its components; cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: watch::Sender<State>,
}

impl Readiness {
    /// Live, and not ready until a first component is.
    #[must_use]
    pub fn new() -> Self {
        Self { state: watch::Sender::new(State::default()) }
    }

    /// Adds a component, not ready at first. All components must be ready for the whole to be.
    #[must_use]
    pub fn component(&self, name: impl Into<String>) -> Component {
        let component = Component { readiness: self.clone(), name: name.into() };
        component.not_ready("starting");
        component
    }

    /// Never ready again: the program is about to end.
    pub fn drain(&self) {
        self.state.send_modify(|state| state.draining = true);
    }

    /// Not live any more: only a restart helps.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, "not live any more");
        self.state.send_modify(|state| state.failure = Some(reason));
    }

    /// Whether every component is ready and no drain has begun.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Whether the program works at all.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state.borrow().failure.is_none()
    }

    /// Returns once everything is ready.
    pub async fn until_ready(&self) {
        let mut changes = self.state.subscribe();
        // It cannot fail: `self` keeps the sender.
        let _ = changes.wait_for(State::is_ready).await.map(drop);
    }

    /// All of it as JSON, with the reasons.
    #[must_use]
    pub fn report(&self) -> Value {
        self.state.borrow().report()
    }

    /// The answer to `/health`, `/health/live` and `/health/ready`; `None` for other paths.
    #[must_use]
    pub fn answer(&self, path: &str) -> Option<AdminAnswer> {
        let good = match path {
            "/health" | "/health/ready" => self.is_ready(),
            "/health/live" => self.is_live(),
            _ => return None,
        };
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Some(AdminAnswer::json(&self.report()).with_status(status))
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// One part of a [`Readiness`]. Dropping it means that the part has ended: not ready.
#[derive(Debug)]
pub struct Component {
    readiness: Readiness,
    name: String,
}

impl Component {
    /// The component works.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// The component does not work, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Takes the component out of the reckoning: it is not wanted any more.
    pub fn remove(self) {
        self.readiness.state.send_modify(|state| {
            state.components.remove(&self.name);
        });
        // The drop below finds nothing to mark.
    }

    fn set(&self, condition: Condition) {
        self.readiness.state.send_if_modified(|state| {
            let before = state.components.insert(self.name.clone(), condition.clone());
            before != Some(condition)
        });
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        self.readiness.state.send_if_modified(|state| {
            let Some(condition) = state.components.get_mut(&self.name) else {
                return false;
            };
            *condition = Err("ended".into());
            true
        });
    }
}

/// Ready, or the reason why not.
type Condition = Result<(), String>;

#[derive(Debug, Default)]
struct State {
    components: BTreeMap<String, Condition>,
    draining: bool,
    failure: Option<String>,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.draining
            && self.failure.is_none()
            && !self.components.is_empty()
            && self.components.values().all(Result::is_ok)
    }

    fn status(&self) -> &'static str {
        if self.failure.is_some() {
            "failed"
        } else if self.draining {
            "draining"
        } else if self.is_ready() {
            "ready"
        } else {
            "not ready"
        }
    }

    fn report(&self) -> Value {
        let component = |(name, condition): (&String, &Condition)| {
            let value = match condition {
                Ok(()) => json!({ "ready": true }),
                Err(reason) => json!({ "ready": false, "reason": reason }),
            };
            (name.clone(), value)
        };
        let components: Map<String, Value> = self.components.iter().map(component).collect();
        let mut report = json!({
            "status": self.status(),
            "live": self.failure.is_none(),
            "ready": self.is_ready(),
            "components": components,
        });
        if let (Some(failure), Some(fields)) = (&self.failure, report.as_object_mut()) {
            fields.insert("reason".into(), failure.clone().into());
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_is_ready_without_a_component() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready() && readiness.is_live());
    }

    #[test]
    fn every_component_must_be_ready() {
        let readiness = Readiness::new();
        let (public, agents) = (readiness.component("public"), readiness.component("agents"));
        public.ready();
        assert!(!readiness.is_ready());
        agents.ready();
        assert!(readiness.is_ready());
        agents.not_ready("no descriptors");
        assert_eq!(
            readiness.report(),
            json!({
                "status": "not ready", "live": true, "ready": false,
                "components": {
                    "public": { "ready": true },
                    "agents": { "ready": false, "reason": "no descriptors" },
                },
            })
        );
    }

    #[test]
    fn a_component_that_ends_is_not_ready_and_a_removed_one_does_not_count() {
        let readiness = Readiness::new();
        let (public, agents) = (readiness.component("public"), readiness.component("agents"));
        public.ready();
        agents.ready();
        agents.remove();
        assert!(readiness.is_ready());
        drop(public);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report()["components"], json!({ "public": { "ready": false, "reason": "ended" } }));
    }

    #[test]
    fn a_drain_takes_readiness_and_not_life() {
        let readiness = Readiness::new();
        let public = readiness.component("public");
        public.ready();
        readiness.drain();
        assert_eq!(readiness.report()["status"], "draining");
        assert_eq!(readiness.answer("/health/ready").unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(readiness.answer("/health/live").unwrap().status(), StatusCode::OK);
        assert!(readiness.answer("/health/other").is_none());
    }

    #[test]
    fn a_failure_takes_both() {
        let readiness = Readiness::new();
        let public = readiness.component("public");
        public.ready();
        readiness.fail("the registry is gone");
        assert!(!readiness.is_ready() && !readiness.is_live());
        assert_eq!(readiness.report()["reason"], "the registry is gone");
    }

    #[tokio::test]
    async fn waiting_ends_when_the_last_component_is_ready() {
        let readiness = Readiness::new();
        let component = readiness.component("public");
        let waiting = readiness.until_ready();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(10), &mut waiting).await.is_err());
        component.ready();
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
    }
}
