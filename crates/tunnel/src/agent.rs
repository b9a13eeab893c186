//! The agent: connects to a server, publishes tunnels and serves their streams from local services.
//!
//! | module | what is in it |
//! |---|---|
//! | `settings` | what an agent is told |
//! | `rules`, `token` | header rules and the credential |
//! | `supervise` | connecting, moving and reconnecting, for ever |
//! | `dial`, `session` | one connection; one session and its lanes |
//! | `local` | the table of tunnels |
//! | `http`, `request`, `body`, `h1`, `h2` | requests and the connections they are passed on by |
//! | `tcp`, `proxy_protocol` | TCP tunnels |
//! | `probe` | health checks |
//! | `event`, `metrics`, `error` | what the agent tells |

mod body;
mod dial;
mod error;
mod event;
mod http;
mod local;
mod metrics;
mod probe;
mod proxy_protocol;
mod request;
mod rules;
mod session;
mod settings;
mod supervise;
mod tcp;
mod token;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mux::Pool;
use mux::frame::DATA_DEFAULT;
use mux::message::{AuthRequest, Opaque};
use runtime::Scope;
use tokio::sync::broadcast;

pub use adit_core::config::publish::{HealthCheck, Probe};
pub use error::AgentError;
pub use event::{AgentEvent, RequestEvent};
pub use metrics::AgentMetrics;
pub use mux::message::Fault as ServerFault;
pub use rules::{HeaderRuleError, HeaderRules};
pub use settings::{
    AgentConfig, AgentTunnel, CONNECT_TIMEOUT, LANES, LocalProtocol, MEMORY, PATIENCE, TokenSource, Wanted,
};
pub use token::TokenError;

use crate::handshake::hex;
use local::{Local, Table};
use session::Session;
use supervise::Supervisor;

/// Name, type and meaning of every metric of the agent, for the reference page.
#[must_use]
pub fn metric_names() -> Vec<(String, String, String)> {
    metrics::names()
}

/// Events not yet read. A reader that is slower loses the oldest and is told how many.
const EVENTS: usize = 256;
/// How often idle connections and counters are looked after.
const UPKEEP: Duration = Duration::from_secs(10);
/// Tasks that are left when the agent has ended get this long to notice.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// An agent, ready to run.
pub struct Agent {
    config: AgentConfig,
    metrics: Arc<AgentMetrics>,
    events: broadcast::Sender<AgentEvent>,
}

impl Agent {
    /// An agent of this configuration. Nothing is connected yet.
    ///
    /// # Errors
    /// [`AgentError::Address`] when the server's address is none.
    pub fn new(config: AgentConfig, metrics: Arc<AgentMetrics>) -> Result<Self, AgentError> {
        dial::check(&config.server)?;
        Ok(Self { config, metrics, events: broadcast::Sender::new(EVENTS) })
    }

    /// What the agent tells from here on. Subscribe before [`Agent::run`] to miss nothing.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.events.subscribe()
    }

    /// Runs until `scope` drains and what is in flight has ended, or until there is no use in going on.
    ///
    /// # Errors
    /// [`AgentError`] when the server refuses this agent for good.
    pub async fn run(self, scope: Scope) -> Result<(), AgentError> {
        let work = scope.child();
        let shared = Shared::new(self, &work);
        for local in shared.table.iter().filter(|local| local.tunnel.health.is_some()) {
            work.spawn("health check", probe::run(Arc::clone(local), Arc::clone(&shared), work.clone()));
        }
        work.spawn("agent upkeep", upkeep(Arc::clone(&shared), work.clone()));
        let result = Box::pin(Supervisor::new(Arc::clone(&shared), scope, work.clone()).run()).await;
        shared.metrics.connection_status.set(0);
        work.cancel();
        if tokio::time::timeout(LAST_TASKS, work.idle()).await.is_err() {
            work.abort();
        }
        result
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What all parts of a running agent share.
struct Shared {
    config: AgentConfig,
    table: Table,
    metrics: Arc<AgentMetrics>,
    events: broadcast::Sender<AgentEvent>,
    /// Bounds the growth of receive windows.
    memory: Arc<Pool>,
    /// Random, new each time the program starts.
    instance: String,
    current: Mutex<Option<Arc<Session>>>,
}

impl Shared {
    fn new(agent: Agent, scope: &Scope) -> Arc<Self> {
        let Agent { mut config, metrics, events } = agent;
        let tunnels = std::mem::take(&mut config.tunnels);
        let locals = (1..)
            .zip(tunnels)
            .map(|(id, tunnel)| Local::new(id, tunnel, &metrics, events.clone(), scope.clone()))
            .collect();
        Arc::new(Self {
            memory: Pool::new(config.memory, None),
            table: Table::new(locals),
            instance: hex(&rand::random::<[u8; 16]>()),
            current: Mutex::default(),
            config,
            metrics,
            events,
        })
    }

    fn auth_request(&self, token: &adit_core::secret::Secret<String>) -> AuthRequest {
        AuthRequest {
            token: Opaque::new(token.expose().clone()),
            agent_id: self.config.agent_id.clone(),
            instance: self.instance.clone(),
            software: self.config.software.clone(),
            capabilities: Vec::new(),
            data_cap: DATA_DEFAULT,
            window: mux::flow::FLOOR,
            lanes: self.config.lanes.clamp(1, 8),
        }
    }

    /// The session in force.
    fn session(&self) -> Option<Arc<Session>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_session(&self, session: Option<Arc<Session>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    fn tell(&self, event: AgentEvent) {
        // Nobody listens: nobody wants to know.
        let _ = self.events.send(event);
    }
}

/// Drops idle connections and keeps the counters fresh.
async fn upkeep(shared: Arc<Shared>, scope: Scope) {
    let mut tick = tokio::time::interval(UPKEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = scope.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = Instant::now();
        for local in shared.table.iter() {
            local.pool.sweep(now);
        }
        if let Some(session) = shared.session() {
            session.count();
        }
    }
}
