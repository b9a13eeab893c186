//! The server's metrics. Names follow the original's where it had them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use mux::lane::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::account::Quota;
use super::state::State;

const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const BYTES: [f64; 8] = [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 1_048_576.0, 16_777_216.0, 268_435_456.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
    account: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    r#type: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QuotaLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn bytes() -> Histogram {
    Histogram::new(BYTES)
}

/// Everything the server counts.
pub(crate) struct Metrics {
    /// Agents connected. A gauge despite its name, which is the original's.
    pub(crate) connections: Gauge,
    pub(crate) connection_seconds: Histogram,
    requests: Family<RequestLabels, Counter>,
    pub(crate) request_seconds: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
    pub(crate) streams: Counter,
    pub(crate) streams_active: Gauge,
    pub(crate) stream_seconds: Histogram,
    pub(crate) registry_size: Gauge,
    pub(crate) visitors: Gauge,
    first_byte: Family<PhaseLabels, Histogram>,
    errors: Family<ErrorLabels, Counter>,
    quota_exceeded: Family<QuotaLabels, Counter>,
    pub(crate) reloads: Counter,
    pub(crate) takeovers: Counter,
    ended: EndedLanes,
}

/// Sums of lanes that are gone, so that counters never fall.
#[derive(Default)]
struct EndedLanes {
    frames_in: AtomicU64,
    frames_out: AtomicU64,
    credit_stalls: AtomicU64,
    queued: AtomicU64,
    queued_micros: AtomicU64,
}

/// Where the time to the first byte went, in seconds.
pub(crate) struct FirstByte {
    pub(crate) total: f64,
    pub(crate) agent: f64,
    pub(crate) local: f64,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = Arc::new(Self {
            connections: Gauge::default(),
            connection_seconds: seconds(),
            requests: Family::default(),
            request_seconds: seconds(),
            request_bytes: bytes(),
            response_bytes: bytes(),
            streams: Counter::default(),
            streams_active: Gauge::default(),
            stream_seconds: seconds(),
            registry_size: Gauge::default(),
            visitors: Gauge::default(),
            first_byte: Family::new_with_constructor(seconds),
            errors: Family::default(),
            quota_exceeded: Family::default(),
            reloads: Counter::default(),
            takeovers: Counter::default(),
            ended: EndedLanes::default(),
        });
        metrics.register(registry);
        metrics
    }

    fn register(&self, r: &mut Registry) {
        r.register(
            "tunnel_connections_total",
            "Agents connected now (a gauge, named as in the original)",
            self.connections.clone(),
        );
        r.register("tunnel_connection_duration_seconds", "Life of agents' sessions", self.connection_seconds.clone());
        r.register("tunnel_requests", "Requests answered, by method, status and account", self.requests.clone());
        r.register(
            "tunnel_request_duration_seconds",
            "From a request's head to its answer's end",
            self.request_seconds.clone(),
        );
        r.register("tunnel_request_size_bytes", "Bodies of requests", self.request_bytes.clone());
        r.register("tunnel_response_size_bytes", "Bodies of answers", self.response_bytes.clone());
        r.register("tunnel_streams", "Streams opened", self.streams.clone());
        r.register("tunnel_streams_active", "Streams open now", self.streams_active.clone());
        r.register("tunnel_stream_duration_seconds", "Life of TCP and upgraded streams", self.stream_seconds.clone());
        r.register("tunnel_registry_size", "Routes served now", self.registry_size.clone());
        r.register("tunnel_visitor_connections", "Visitors' connections open now", self.visitors.clone());
        r.register(
            "tunnel_first_byte_seconds",
            "Time to the answer's head by phase: open (queue and network), agent, local, total",
            self.first_byte.clone(),
        );
        r.register("tunnel_errors", "Failures by kind and component", self.errors.clone());
        r.register(
            "tunnel_quota_exceeded",
            "Requests and registrations refused by a quota",
            self.quota_exceeded.clone(),
        );
        r.register("tunnel_config_reloads", "Configurations applied while running", self.reloads.clone());
        r.register("tunnel_takeovers", "Sessions replaced by a newer one of the same agent", self.takeovers.clone());
    }

    /// Counts an answered request.
    pub(crate) fn request(&self, method: &http::Method, status: u16, account: &str) {
        let labels = RequestLabels { method: method_label(method), status, account: account.to_owned() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a failure.
    pub(crate) fn error(&self, kind: &'static str, component: &'static str) {
        self.errors.get_or_create(&ErrorLabels { r#type: kind, component }).inc();
    }

    /// Counts a refusal by quota.
    pub(crate) fn quota(&self, quota: Quota) {
        self.quota_exceeded.get_or_create(&QuotaLabels { r#type: quota.name() }).inc();
    }

    /// Splits a time to first byte.
    pub(crate) fn first_byte(&self, times: &FirstByte) {
        let open = (times.total - times.agent - times.local).max(0.0);
        for (phase, value) in [("open", open), ("agent", times.agent), ("local", times.local), ("total", times.total)] {
            self.first_byte.get_or_create(&PhaseLabels { phase }).observe(value);
        }
    }

    /// Keeps the sums of a lane that ended.
    pub(crate) fn absorb(&self, stats: Stats) {
        let ended = &self.ended;
        for (sum, value) in [
            (&ended.frames_in, stats.frames_in),
            (&ended.frames_out, stats.frames_out),
            (&ended.credit_stalls, stats.credit_stalls),
            (&ended.queued, stats.queued),
            (&ended.queued_micros, stats.queued_micros),
        ] {
            sum.fetch_add(value, Ordering::Relaxed);
        }
    }
}

/// Known methods keep their name; others share one, so that a visitor cannot make label values.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        "TRACE" => "TRACE",
        _ => "OTHER",
    }
}

const LIVE_COUNTERS: [(&str, &str); 6] = [
    ("tunnel_frames_received", "Frames received from agents"),
    ("tunnel_frames_sent", "Frames sent to agents"),
    ("tunnel_credit_stalls", "Times a stream had to wait for credit"),
    ("tunnel_mux_queued", "Times a stream waited in a write queue"),
    ("tunnel_mux_queue_microseconds", "Sum of waits in write queues"),
    ("tunnel_access_log_dropped", "Access lines dropped because the writer was behind"),
];
const WINDOW_MEMORY: (&str, &str) = ("tunnel_window_memory_bytes", "Receive windows above their floors");
const ACCOUNT_GAUGES: [(&str, &str); 3] = [
    ("tunnel_connections_per_account", "Agents connected now, by account"),
    ("tunnel_tunnels_per_account", "Tunnels published now, by account"),
    ("tunnel_streams_per_account", "Streams in flight, by account"),
];
const BANDWIDTH: (&str, &str) = ("tunnel_bandwidth_bytes", "Bytes carried, by direction and account");

/// Name, type and meaning of every metric, for the reference page.
pub(crate) fn names() -> Vec<(String, String, String)> {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    // A family without a member is not shown.
    metrics.request(&http::Method::GET, 200, "");
    metrics.error("", "");
    metrics.quota(Quota::Agents);
    metrics.first_byte(&FirstByte { total: 0.0, agent: 0.0, local: 0.0 });
    let mut text = String::new();
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    let mut list = crate::described::described(&text);
    let live = LIVE_COUNTERS.into_iter().chain([BANDWIDTH]).map(|(name, help)| (name, "counter", help));
    let gauges = ACCOUNT_GAUGES.into_iter().chain([WINDOW_MEMORY]).map(|(name, help)| (name, "gauge", help));
    list.extend(live.chain(gauges).map(|(name, kind, help)| (name.to_owned(), kind.to_owned(), help.to_owned())));
    list.sort();
    list
}

/// Values that are read when they are asked for: lanes, accounts.
pub(crate) struct Live(pub(crate) Weak<State>);

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(state) = self.0.upgrade() else { return Ok(()) };
        let lanes: Vec<Stats> =
            state.all_sessions().iter().flat_map(|s| s.lanes()).map(|lane| lane.lock().machine.stats()).collect();
        let ended = &state.metrics.ended;
        let sum =
            |gone: &AtomicU64, of: fn(&Stats) -> u64| gone.load(Ordering::Relaxed) + lanes.iter().map(of).sum::<u64>();
        let values = [
            sum(&ended.frames_in, |s| s.frames_in),
            sum(&ended.frames_out, |s| s.frames_out),
            sum(&ended.credit_stalls, |s| s.credit_stalls),
            sum(&ended.queued, |s| s.queued),
            sum(&ended.queued_micros, |s| s.queued_micros),
            state.access.dropped(),
        ];
        for ((name, help), value) in LIVE_COUNTERS.into_iter().zip(values) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let memory = ConstGauge::new(i64::try_from(state.accounts.window_memory()).unwrap_or(i64::MAX));
        memory.encode(encoder.encode_descriptor(WINDOW_MEMORY.0, WINDOW_MEMORY.1, None, memory.metric_type())?)?;
        encode_accounts(&state, &mut encoder)
    }
}

fn encode_accounts(state: &State, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let accounts = state.accounts.all();
    for (at, (name, help)) in ACCOUNT_GAUGES.into_iter().enumerate() {
        let mut family = encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
        for account in &accounts {
            let value = ConstGauge::new(i64::from(account.in_use()[at]));
            value.encode(family.encode_family(&[("account", account.name())])?)?;
        }
    }
    let mut family =
        encoder.encode_descriptor(BANDWIDTH.0, BANDWIDTH.1, None, prometheus_client::metrics::MetricType::Counter)?;
    for account in &accounts {
        for (direction, total) in [("in", account.upload.total()), ("out", account.download.total())] {
            let value = ConstCounter::new(total);
            value.encode(family.encode_family(&[("direction", direction), ("account", account.name())])?)?;
        }
    }
    Ok(())
}
