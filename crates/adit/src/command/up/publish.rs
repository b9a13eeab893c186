//! The section `publish` in `adit up`: an agent whose tunnels may lead to whatever this file can reach.

use std::sync::{Arc, Mutex, PoisonError};

use adit_core::config::AgentFile;
use adit_core::target::Target;
use gateway::targets::Targets;
use prometheus_client::registry::Registry;
use runtime::scope::Scope;
use runtime::watch::FileWatch;
use tokio::sync::broadcast;
use tunnel::agent::{Agent, AgentConfig, AgentEvent, AgentMetrics};

use super::view::View;
use crate::command::agent;
use crate::report::{Failure, failure};

/// What a version of the file means for the agent.
pub(super) enum Next {
    /// Nothing.
    Same,
    /// Another agent.
    Other(Box<AgentConfig>),
    /// None at all.
    None,
}

/// The running agent.
pub(super) struct Published {
    state: Arc<Mutex<State>>,
    scope: Scope,
    _token: Option<FileWatch>,
}

#[derive(Default)]
struct State {
    tunnels: Vec<TunnelRow>,
}

/// A published tunnel, for tables and JSON.
#[derive(Clone, Debug, Default)]
pub(super) struct TunnelRow {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) target: String,
    /// What keeps it from being served, if anything does.
    pub(super) note: String,
    pub(super) requests: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Makes ready what `new` publishes. Nothing is connected yet.
pub(super) fn prepare(new: &AgentFile, old: &AgentFile, targets: &Arc<Targets>) -> Result<Next, Failure> {
    let Some(publish) = &new.publish else { return Ok(Next::None) };
    if old.publish.as_ref() == Some(publish) {
        return Ok(Next::Same);
    }
    if publish.tunnels.is_empty() {
        return Ok(Next::None);
    }
    let connect = |target: &Target| targets.connect(target);
    let token = agent::token_source(publish, false)?;
    Ok(Next::Other(Box::new(agent::agent_config(publish, token, &connect)?)))
}

impl Published {
    pub(super) fn start(mut config: AgentConfig, scope: &Scope, view: &Arc<View>) -> Self {
        let scope = scope.child();
        let token = agent::watch_token(&mut config);
        let tunnels = config.tunnels.iter().map(|tunnel| TunnelRow {
            name: tunnel.name.clone(),
            target: tunnel.local.clone(),
            note: "waiting".into(),
            ..TunnelRow::default()
        });
        let state = Arc::new(Mutex::new(State { tunnels: tunnels.collect() }));
        let metrics = Arc::new(AgentMetrics::new(&mut Registry::default()));
        match Agent::new(config, metrics) {
            Ok(agent) => {
                let events = agent.events();
                scope.spawn("published", follow(events, Arc::clone(&state), Arc::clone(view)));
                let (agent_scope, view) = (scope.clone(), Arc::clone(view));
                scope.spawn("agent", async move {
                    if let Err(error) = agent.run(agent_scope).await {
                        view.failed("publish", &failure(&error));
                    }
                });
            }
            Err(error) => view.failed("publish", &failure(&error)),
        }
        Self { state, scope, _token: token }
    }

    pub(super) fn rows(&self) -> Vec<TunnelRow> {
        self.lock().tunnels.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        // What is in flight is finished.
        self.scope.drain();
    }
}

async fn follow(mut events: broadcast::Receiver<AgentEvent>, state: Arc<Mutex<State>>, view: Arc<View>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                state.lock().unwrap_or_else(PoisonError::into_inner).take(&event);
                view.agent(&event);
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

impl State {
    fn take(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::Published { tunnel, url, .. } => self.set(tunnel, |row| {
                row.url.clone_from(url);
                row.note.clear();
            }),
            AgentEvent::Refused { tunnel, fault, .. } => {
                self.set(tunnel, |row| row.note = format!("refused: {}", fault.message));
            }
            AgentEvent::Health { tunnel, healthy, reason } => {
                self.set(tunnel, |row| {
                    row.note = if *healthy { String::new() } else { format!("unhealthy: {reason}") }
                });
            }
            AgentEvent::Lost { reason } => {
                for row in &mut self.tunnels {
                    row.note = format!("offline: {reason}");
                }
            }
            AgentEvent::Retrying { reason, .. } => {
                for row in &mut self.tunnels {
                    row.note = format!("reconnecting: {reason}");
                }
            }
            AgentEvent::Request(request) => self.set(&request.tunnel, |row| {
                row.requests += 1;
                row.bytes_in += request.received;
                row.bytes_out += request.sent;
            }),
            _ => {}
        }
    }

    fn set(&mut self, name: &str, change: impl FnOnce(&mut TunnelRow)) {
        if let Some(row) = self.tunnels.iter_mut().find(|row| row.name == name) {
            change(row);
        }
    }
}
