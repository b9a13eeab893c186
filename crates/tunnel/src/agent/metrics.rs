//! What an agent counts. The names without a note are those of the original.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use mux::lane::Stats;
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the request durations, in seconds.
const DURATIONS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Methods with a label of their own; any other counts as the last.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TCP", "OTHER"];
/// Statuses whose counters are kept at hand; others are looked up.
const STATUSES: [u16; 16] = [0, 101, 200, 201, 204, 206, 301, 302, 304, 400, 401, 403, 404, 500, 502, 503];

/// Labels as pairs of a fixed number of names and values.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Labels<const N: usize>([(&'static str, Label); N]);

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) enum Label {
    Static(&'static str),
    Text(std::sync::Arc<str>),
    Number(u16),
}

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, value) in &self.0 {
            match value {
                Label::Static(value) => (*name, *value).encode(encoder.encode_label())?,
                Label::Text(value) => (*name, value.as_ref()).encode(encoder.encode_label())?,
                Label::Number(value) => {
                    (*name, u32::from(*value)).encode(encoder.encode_label())?;
                }
            }
        }
        Ok(())
    }
}

type ByTunnel = Family<Labels<1>, Counter>;

/// The metrics of an agent.
#[derive(Debug)]
pub struct AgentMetrics {
    pub(super) connection_status: Gauge,
    pub(super) lanes: Gauge,
    pub(super) reconnections: Counter,
    pub(super) outage_seconds: Counter<f64, AtomicU64>,
    pub(super) streams_active: Gauge,
    pub(super) credit_stalls: Counter,
    pub(super) queue_waits: Counter,
    pub(super) queue_seconds: Counter<f64, AtomicU64>,
    pub(super) heartbeats: Gauge,
    requests: Family<Labels<3>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    errors: Family<Labels<1>, Counter>,
    local_requests: ByTunnel,
    local_connections: Family<Labels<2>, Counter>,
    bytes: Family<Labels<2>, Counter>,
    healthy: Family<Labels<1>, Gauge>,
}

impl AgentMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            connection_status: Gauge::default(),
            lanes: Gauge::default(),
            reconnections: Counter::default(),
            outage_seconds: Counter::default(),
            streams_active: Gauge::default(),
            credit_stalls: Counter::default(),
            queue_waits: Counter::default(),
            queue_seconds: Counter::default(),
            heartbeats: Gauge::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            errors: Family::default(),
            local_requests: Family::default(),
            local_connections: Family::default(),
            bytes: Family::default(),
            healthy: Family::default(),
        };
        metrics.register_connection(registry);
        metrics.register_traffic(registry);
        metrics
    }

    fn register_connection(&self, registry: &mut Registry) {
        registry.register(
            "agent_connection_status",
            "1 while a session with the server is there, else 0",
            self.connection_status.clone(),
        );
        registry.register("agent_lanes", "Lanes of the session (new)", self.lanes.clone());
        registry.register("agent_reconnections", "Sessions after the first one", self.reconnections.clone());
        registry.register(
            "agent_outage_seconds",
            "Time without a session since the first one (new)",
            self.outage_seconds.clone(),
        );
        registry.register(
            "agent_heartbeats_sent",
            "Heartbeats sent over ended and living lanes; only rises",
            self.heartbeats.clone(),
        );
        registry.register("agent_credit_stalls", "Times an answer waited for credit (new)", self.credit_stalls.clone());
        registry.register(
            "agent_queue_waits",
            "Times a stream waited in a lane's write queue (new)",
            self.queue_waits.clone(),
        );
        registry.register(
            "agent_queue_seconds",
            "Sum of the waits in lanes' write queues (new)",
            self.queue_seconds.clone(),
        );
    }

    fn register_traffic(&self, registry: &mut Registry) {
        registry.register(
            "agent_requests",
            "Requests and TCP connections served, by tunnel, method and status (0: no answer)",
            self.requests.clone(),
        );
        registry.register(
            "agent_request_duration_seconds",
            "From the arrival of a request to the end of its answer",
            self.durations.clone(),
        );
        registry.register("agent_errors", "What went wrong, by type", self.errors.clone());
        registry.register(
            "agent_local_requests",
            "Requests sent to local services; retries count",
            self.local_requests.clone(),
        );
        registry.register(
            "agent_local_connections",
            "Connections used for local services, by whether they were reused (new)",
            self.local_connections.clone(),
        );
        registry.register("agent_streams_active", "Streams being served (new)", self.streams_active.clone());
        registry.register(
            "agent_bytes",
            "Body and TCP bytes, by tunnel and direction: in from visitors, out to them (new)",
            self.bytes.clone(),
        );
        registry.register(
            "agent_tunnel_healthy",
            "1 while the local service is not known to be unhealthy (new)",
            self.healthy.clone(),
        );
    }

    pub(super) fn error(&self, kind: &'static str) {
        self.errors.get_or_create(&Labels([("type", Label::Static(kind))])).inc();
    }

    /// Counts what a lane did between two looks.
    pub(super) fn count(&self, before: &Stats, now: &Stats) {
        self.credit_stalls.inc_by(now.credit_stalls.saturating_sub(before.credit_stalls));
        self.queue_waits.inc_by(now.queued.saturating_sub(before.queued));
        let waited = Duration::from_micros(now.queued_micros.saturating_sub(before.queued_micros));
        self.queue_seconds.inc_by(waited.as_secs_f64());
        let beats = now.heartbeats.saturating_sub(before.heartbeats);
        self.heartbeats.inc_by(i64::try_from(beats).unwrap_or(i64::MAX));
    }

    /// The metrics of one tunnel, at hand.
    pub(super) fn tunnel(&self, name: &std::sync::Arc<str>) -> TunnelMetrics {
        let tunnel = ("tunnel", Label::Text(name.clone()));
        let with = |name, value| Labels([tunnel.clone(), (name, Label::Static(value))]);
        let connections = |reused| self.local_connections.get_or_create_owned(&with("reused", reused));
        let healthy = self.healthy.get_or_create_owned(&Labels([tunnel.clone()]));
        healthy.set(1);
        TunnelMetrics {
            local_requests: self.local_requests.get_or_create_owned(&Labels([tunnel.clone()])),
            fresh: connections("no"),
            reused: connections("yes"),
            bytes_in: self.bytes.get_or_create_owned(&with("direction", "in")),
            bytes_out: self.bytes.get_or_create_owned(&with("direction", "out")),
            durations: self.durations.get_or_create_owned(&Labels([tunnel])),
            streams_active: self.streams_active.clone(),
            healthy,
            at_hand: [const { [const { OnceLock::new() }; STATUSES.len()] }; METHODS.len()],
            requests: self.requests.clone(),
            errors: self.errors.clone(),
            name: name.clone(),
        }
    }
}

/// The metrics of one tunnel, looked up once.
#[derive(Debug)]
pub(super) struct TunnelMetrics {
    pub(super) local_requests: Counter,
    pub(super) fresh: Counter,
    pub(super) reused: Counter,
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    pub(super) streams_active: Gauge,
    pub(super) healthy: Gauge,
    durations: Histogram,
    at_hand: [[OnceLock<Counter>; STATUSES.len()]; METHODS.len()],
    requests: Family<Labels<3>, Counter>,
    errors: Family<Labels<1>, Counter>,
    name: std::sync::Arc<str>,
}

impl TunnelMetrics {
    /// Counts something served.
    pub(super) fn served(&self, method: &[u8], status: u16, took: Duration) {
        self.durations.observe(took.as_secs_f64());
        let method = METHODS.iter().position(|known| known.as_bytes() == method).unwrap_or(METHODS.len() - 1);
        match STATUSES.iter().position(|known| *known == status) {
            Some(at) => {
                self.at_hand[method][at].get_or_init(|| self.counter(method, status)).inc();
            }
            None => {
                self.counter(method, status).inc();
            }
        }
    }

    /// Counts something that went wrong.
    pub(super) fn error(&self, kind: &'static str) {
        self.errors.get_or_create(&Labels([("type", Label::Static(kind))])).inc();
    }

    fn counter(&self, method: usize, status: u16) -> Counter {
        self.requests.get_or_create_owned(&Labels([
            ("tunnel", Label::Text(self.name.clone())),
            ("method", Label::Static(METHODS[method])),
            ("status", Label::Number(status)),
        ]))
    }
}

/// Name, type and meaning of every metric, for the reference page.
pub(super) fn names() -> Vec<(String, String, String)> {
    let mut registry = Registry::default();
    let metrics = AgentMetrics::new(&mut registry);
    // A family without a member is not shown.
    let tunnel = metrics.tunnel(&"".into());
    tunnel.served(b"GET", 200, Duration::ZERO);
    metrics.error("");
    let mut text = String::new();
    // Encoding into a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    crate::described::described(&text)
}

fn histogram() -> Histogram {
    Histogram::new(DURATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn the_names_of_the_original_are_there() {
        let mut registry = Registry::default();
        let metrics = AgentMetrics::new(&mut registry);
        let tunnel = metrics.tunnel(&"app1".into());
        tunnel.served(b"GET", 200, Duration::from_millis(3));
        tunnel.served(b"GET", 200, Duration::from_millis(3));
        tunnel.served(b"BREW", 418, Duration::from_millis(3));
        metrics.error("connect");
        let text = text(&registry);
        for line in [
            "agent_connection_status 0",
            "agent_requests_total{tunnel=\"app1\",method=\"GET\",status=\"200\"} 2",
            "agent_requests_total{tunnel=\"app1\",method=\"OTHER\",status=\"418\"} 1",
            "agent_request_duration_seconds_count{tunnel=\"app1\"} 3",
            "agent_errors_total{type=\"connect\"} 1",
            "agent_reconnections_total 0",
            "agent_heartbeats_sent 0",
            "agent_local_requests_total{tunnel=\"app1\"} 0",
            "agent_bytes_total{tunnel=\"app1\",direction=\"out\"} 0",
            "agent_tunnel_healthy{tunnel=\"app1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
