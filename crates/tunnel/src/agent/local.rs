//! A tunnel at work: its settings, its connections to the local service, its health.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_core::diagnose::chain;
use mux::ErrorCode;
use mux::message::TunnelKind;
use runtime::upstream::{Dial, Pool, SharedConnection};
use runtime::{BoxFuture, Connect, ConnectError, Io, Scope};
use tokio::sync::{Notify, broadcast};

use super::body::RequestBody;
use super::event::{AgentEvent, RequestEvent};
use super::metrics::{AgentMetrics, TunnelMetrics};
use super::settings::AgentTunnel;

/// One tunnel of the agent's table.
pub(super) struct Local {
    pub(super) id: u32,
    pub(super) name: Arc<str>,
    pub(super) tunnel: AgentTunnel,
    pub(super) kind: TunnelKind,
    pub(super) pool: Pool<RequestBody>,
    pub(super) h2: SharedConnection<RequestBody>,
    pub(super) metrics: TunnelMetrics,
    pub(super) scope: Scope,
    /// A connection was refused: the health check should look at once.
    pub(super) probe_soon: Notify,
    host_value: Option<http::HeaderValue>,
    events: broadcast::Sender<AgentEvent>,
    unhealthy: AtomicBool,
    reason: Mutex<String>,
}

impl Local {
    pub(super) fn new(
        id: u32,
        tunnel: AgentTunnel,
        metrics: &AgentMetrics,
        events: broadcast::Sender<AgentEvent>,
        scope: Scope,
    ) -> Arc<Self> {
        let name: Arc<str> = tunnel.name.as_str().into();
        Arc::new(Self {
            id,
            kind: tunnel.wanted.kind(),
            pool: Pool::default(),
            h2: SharedConnection::default(),
            metrics: metrics.tunnel(&name),
            scope,
            probe_soon: Notify::new(),
            host_value: tunnel.host_header.as_deref().and_then(|host| host.parse().ok()),
            events,
            unhealthy: AtomicBool::new(false),
            reason: Mutex::default(),
            name,
            tunnel,
        })
    }

    /// Opens a connection to the local service.
    pub(super) async fn connect(&self, by: &dyn Connect) -> Result<Io, ConnectError> {
        let after = self.tunnel.connect_timeout;
        let result = match tokio::time::timeout(after, by.connect()).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { target: by.describe(), after }),
        };
        match &result {
            Ok(_) => {
                self.metrics.fresh.inc();
            }
            Err(error) => {
                tracing::debug!(tunnel = %self.name, error = %chain(error), "the local service cannot be reached");
                self.probe_soon.notify_one();
            }
        }
        result
    }

    /// The Host the local service is to see, when it is not the public one.
    pub(super) fn host_value(&self) -> Option<&http::HeaderValue> {
        self.host_value.as_ref()
    }

    /// Whether the local service is not known to be unhealthy.
    pub(super) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// What the last failed probe saw.
    pub(super) fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_health(&self, healthy: bool, reason: &str) {
        reason.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
        self.unhealthy.store(!healthy, Ordering::Relaxed);
        self.metrics.healthy.set(i64::from(healthy));
        let (tunnel, reason) = (self.name.to_string(), reason.to_owned());
        let _ = self.events.send(AgentEvent::Health { tunnel, healthy, reason });
    }

    /// Counts and tells of something served.
    pub(super) fn served(&self, served: &Served<'_>) {
        self.metrics.served(served.method, served.status, served.took);
        self.metrics.bytes_in.inc_by(served.received);
        self.metrics.bytes_out.inc_by(served.sent);
        if let Some(error) = served.error {
            self.metrics.error(error);
        }
        // Text is made only when somebody looks.
        if self.events.receiver_count() == 0 {
            return;
        }
        let path = served.path.split(|byte| *byte == b'?').next().unwrap_or_default();
        let event = RequestEvent {
            tunnel: Arc::clone(&self.name),
            method: String::from_utf8_lossy(served.method).into_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            status: served.status,
            error: served.error,
            took: served.took,
            received: served.received,
            sent: served.sent,
        };
        let _ = self.events.send(AgentEvent::Request(Arc::new(event)));
    }
}

impl Local {
    fn connector_h2(&self) -> &dyn Connect {
        &**self.tunnel.connect_h2.as_ref().unwrap_or(&self.tunnel.connect)
    }
}

impl Dial for Local {
    fn dial(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(self.connect(self.connector_h2()))
    }

    fn target(&self) -> String {
        self.connector_h2().describe()
    }

    fn patience(&self) -> Duration {
        self.tunnel.connect_timeout
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Something served, for metrics and events.
pub(super) struct Served<'a> {
    pub(super) method: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) status: u16,
    pub(super) error: Option<&'static str>,
    pub(super) took: Duration,
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// What a stream is reset with when the local service cannot be reached.
pub(super) fn connect_code(error: &ConnectError) -> ErrorCode {
    if error.is_timeout() { ErrorCode::Timeout } else { ErrorCode::Connect }
}

/// The agent's table: the only place local targets come from.
#[derive(Default)]
pub(super) struct Table(Vec<Arc<Local>>);

impl Table {
    pub(super) fn new(locals: Vec<Arc<Local>>) -> Self {
        Self(locals)
    }

    /// Finds a tunnel by the number given in Register; numbers start at 1.
    pub(super) fn get(&self, id: u32) -> Option<&Arc<Local>> {
        let at = usize::try_from(id).ok()?.checked_sub(1)?;
        self.0.get(at).filter(|local| local.id == id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Local>> {
        self.0.iter()
    }
}
