//! What monitoring reads of a daemon. The numbers are kept where they arise; each question makes a text of them.

use std::fmt::{Error, Write as _};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use ::forward::ForwardReport;
use adit_core::config::{AgentFile, ForwardConfig};
use adit_core::forward::ForwardState;
use adit_core::health::HealthState;
use gateway::entrances::Entrances;
use gateway::rows::Row;
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The form of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every state that a forward can have, in the words of `adit status -o json`.
const STATES: [ForwardState; 7] = [
    ForwardState::Idle,
    ForwardState::Resolving,
    ForwardState::Connecting,
    ForwardState::Ready,
    ForwardState::Backoff,
    ForwardState::Failed,
    ForwardState::Draining,
];
/// The state of a forward that is stopped or disabled.
const STOPPED: &str = "stopped";

/// Labels as pairs of names and values.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        self.0.iter().try_for_each(|(name, value)| (*name, value.as_str()).encode(encoder.encode_label()))
    }
}

type Counts = Family<Labels, Counter>;
type Seconds = Family<Labels, Counter<f64, AtomicU64>>;
type Gauges = Family<Labels, Gauge>;
type Times = Family<Labels, Gauge<f64, AtomicU64>>;

/// What is known of the daemon itself.
pub(super) struct OfDaemon {
    pub(super) started: SystemTime,
    pub(super) reloads: u64,
    pub(super) reloads_refused: u64,
    pub(super) in_force: bool,
    pub(super) lost_entries: u64,
    pub(super) requests_refused: u64,
    pub(super) ends: bool,
}

/// What is known of a forward.
struct OfForward<'a> {
    config: &'a ForwardConfig,
    report: Option<ForwardReport>,
    open: bool,
    row: Option<&'a Row>,
    failed: u64,
}

/// Families by forward, filled for one text.
#[derive(Default)]
struct ByForward {
    up: Gauges,
    state: Gauges,
    streams: Gauges,
    connections: Counts,
    failures: Counts,
    bytes: Counts,
    restarts: Counts,
    outages: Counts,
    outage_seconds: Seconds,
    last_error: Times,
    probe_up: Gauges,
    probe_seconds: Times,
    probe_failures: Gauges,
    probe_time: Times,
}

/// The metrics as a text.
pub(super) fn text(daemon: &OfDaemon, file: &AgentFile, entrances: &Entrances) -> String {
    let mut registry = Registry::default();
    of_daemon(&mut registry, daemon);
    let rows = entrances.rows();
    let forwards = entrances.targets().forwards();
    let open: Vec<String> = entrances.open().filter_map(|(_, owner)| owner).collect();
    let by = ByForward::default();
    for config in &file.forwards {
        by.note(&OfForward {
            config,
            report: forwards.get(&config.name).map(::forward::Forward::report),
            open: config.listen.is_empty() || open.contains(&config.name),
            row: rows.iter().find(|row| row.name == config.name && matches!(row.kind, "port" | "forward")),
            failed: entrances.ports().find(|(name, _)| *name == config.name).map_or(0, |(_, traffic)| traffic.failed()),
        });
    }
    by.register(&mut registry);
    of_gateway(&mut registry, &rows);
    encoded(&registry)
}

/// The names of all metrics, for the reference page.
pub(in crate::command) fn names() -> String {
    let mut registry = Registry::default();
    let started = SystemTime::UNIX_EPOCH;
    let daemon = OfDaemon {
        started,
        reloads: 0,
        reloads_refused: 0,
        in_force: true,
        lost_entries: 0,
        requests_refused: 0,
        ends: false,
    };
    of_daemon(&mut registry, &daemon);
    ByForward::with_one_of_each().register(&mut registry);
    register_gateway(&mut registry, one(), one(), one());
    encoded(&registry)
}

/// A family that is not left out for having nothing.
fn one<M: Default + Clone>() -> Family<Labels, M> {
    let family = Family::default();
    drop(family.get_or_create(&Labels(Vec::new())));
    family
}

fn encoded(registry: &Registry) -> String {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        // Writing into a string does not fail; a scraper would take half a text for the whole.
        text.clear();
        let _ = writeln!(text, "# EOF");
    }
    text
}

fn of_daemon(registry: &mut Registry, daemon: &OfDaemon) {
    let version = Labels(vec![("version", env!("CARGO_PKG_VERSION").to_owned())]);
    registry.register("adit_build", "The program that runs", Info::new(version));
    let gauge = |value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        gauge
    };
    let started: Gauge<f64, AtomicU64> = Gauge::default();
    started.set(unix(daemon.started));
    registry.register_with_unit("adit_daemon_start_time", "When it started", Unit::Seconds, started);
    registry.register("adit_daemon_ending", "1 while it ends", gauge(i64::from(daemon.ends)));
    registry.register(
        "adit_daemon_config_in_force",
        "1 while the file as it is now is in force, 0 while a mistake in it keeps the one before",
        gauge(i64::from(daemon.in_force)),
    );
    let reloads = Counts::default();
    for (result, count) in [("ok", daemon.reloads), ("refused", daemon.reloads_refused)] {
        reloads.get_or_create(&Labels(vec![("result", result.to_owned())])).inc_by(count);
    }
    registry.register("adit_daemon_reloads", "Times that the file was read again, by what came of it", reloads);
    let counter = |value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        counter
    };
    registry.register(
        "adit_daemon_log_entries_lost",
        "Entries of the log that a full or slow disk cost",
        counter(daemon.lost_entries),
    );
    registry.register(
        "adit_daemon_requests_refused",
        "Requests at the daemon's own ports without the token, for another host, or of a web page",
        counter(daemon.requests_refused),
    );
}

impl ByForward {
    fn with_one_of_each() -> Self {
        Self {
            up: one(),
            state: one(),
            streams: one(),
            connections: one(),
            failures: one(),
            bytes: one(),
            restarts: one(),
            outages: one(),
            outage_seconds: one(),
            last_error: one(),
            probe_up: one(),
            probe_seconds: one(),
            probe_failures: one(),
            probe_time: one(),
        }
    }

    fn note(&self, forward: &OfForward<'_>) {
        let name = ("forward", forward.config.name.clone());
        let own = Labels(vec![name.clone()]);
        let with = |key, value: &str| Labels(vec![name.clone(), (key, value.to_owned())]);
        let report = forward.report.as_ref();
        let state = report.map(|report| report.status.state);
        for one in STATES {
            self.state.get_or_create(&with("state", one.as_str())).set(i64::from(state == Some(one)));
        }
        self.state.get_or_create(&with("state", STOPPED)).set(i64::from(state.is_none()));
        // What waits for its first connection is as it should be.
        let up = matches!(state, Some(ForwardState::Ready | ForwardState::Idle)) && forward.open;
        self.up.get_or_create(&own).set(i64::from(up));
        self.streams.get_or_create(&own).set(report.map_or(0, |report| signed(report.streams())));
        self.restarts.get_or_create(&own).inc_by(report.map_or(0, |report| report.restarts));
        let (outages, lost) = report.map_or((0, Duration::ZERO), |report| report.outages(Instant::now()));
        self.outages.get_or_create(&own).inc_by(outages);
        self.outage_seconds.get_or_create(&own).inc_by(lost.as_secs_f64());
        self.failures.get_or_create(&own).inc_by(forward.failed);
        let row = forward.row;
        self.connections.get_or_create(&own).inc_by(row.map_or(0, |row| row.opened));
        self.bytes.get_or_create(&with("direction", "in")).inc_by(row.map_or(0, |row| row.bytes_in));
        self.bytes.get_or_create(&with("direction", "out")).inc_by(row.map_or(0, |row| row.bytes_out));
        if let Some(last) = row.and_then(|row| row.last_error.as_ref()) {
            self.last_error.get_or_create(&own).set(unix(last.at));
        }
        let Some(health) = report.and_then(|report| report.health.as_ref()) else { return };
        self.probe_failures.get_or_create(&own).set(i64::from(health.failures));
        if health.state != HealthState::Unknown {
            self.probe_up.get_or_create(&own).set(i64::from(health.state == HealthState::Healthy));
        }
        if let Some(latency) = health.latency {
            self.probe_seconds.get_or_create(&own).set(latency.as_secs_f64());
        }
        if let Some(last) = health.last {
            self.probe_time.get_or_create(&own).set(unix(last));
        }
    }

    fn register(self, registry: &mut Registry) {
        registry.register("adit_forward_up", "1 while it is ready, or waits for its first connection", self.up);
        registry.register("adit_forward_state", "1 at the state that it is in", self.state);
        registry.register("adit_forward_streams", "Streams that it carries now", self.streams);
        registry.register("adit_forward_connections", "Connections at its ports", self.connections);
        registry.register("adit_forward_connections_failed", "Those that failed", self.failures);
        registry.register_with_unit(
            "adit_forward",
            "Bytes by direction: in to the target, out from it",
            Unit::Bytes,
            self.bytes,
        );
        registry.register("adit_forward_restarts", "Times that it was started anew by itself", self.restarts);
        registry.register("adit_forward_outages", "Times that it was lost after it had been ready", self.outages);
        registry.register_with_unit(
            "adit_forward_outage",
            "Time from losses until it was ready again",
            Unit::Seconds,
            self.outage_seconds,
        );
        let last_error = "When a connection failed last; there is none as long as none has";
        registry.register_with_unit("adit_forward_last_error_time", last_error, Unit::Seconds, self.last_error);
        registry.register("adit_forward_probe_up", "1 while probes say that it is well, else 0", self.probe_up);
        registry.register_with_unit(
            "adit_forward_probe_duration",
            "What the last good probe took",
            Unit::Seconds,
            self.probe_seconds,
        );
        registry.register("adit_forward_probe_failures", "Probes in a row that failed", self.probe_failures);
        registry.register_with_unit(
            "adit_forward_probe_time",
            "When the last probe ended",
            Unit::Seconds,
            self.probe_time,
        );
    }
}

fn of_gateway(registry: &mut Registry, rows: &[Row]) {
    let (streams, requests, bytes) = (Gauges::default(), Counts::default(), Counts::default());
    for row in rows.iter().filter(|row| row.kind == "route") {
        let name = ("route", row.name.clone());
        let own = Labels(vec![name.clone()]);
        let with = |value: &str| Labels(vec![name.clone(), ("direction", value.to_owned())]);
        streams.get_or_create(&own).set(signed(row.streams));
        requests.get_or_create(&own).inc_by(row.opened);
        bytes.get_or_create(&with("in")).inc_by(row.bytes_in);
        bytes.get_or_create(&with("out")).inc_by(row.bytes_out);
    }
    register_gateway(registry, streams, requests, bytes);
}

fn register_gateway(registry: &mut Registry, streams: Gauges, requests: Counts, bytes: Counts) {
    registry.register("adit_gateway_streams", "Requests and streams of a route now", streams);
    registry.register("adit_gateway_requests", "Requests and streams of a route", requests);
    registry.register_with_unit(
        "adit_gateway",
        "Bytes of a route by direction: in to the target, out from it",
        Unit::Bytes,
        bytes,
    );
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_once_and_has_the_prefix() {
        let text = names();
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.len() > 20 && families.iter().all(|family| family.starts_with("adit_")), "{text}");
        let mut names: Vec<&str> = families.iter().filter_map(|family| family.split(' ').next()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), families.len());
        let helps = text.lines().filter(|line| line.starts_with("# HELP ")).count();
        assert_eq!(helps, families.len());
        assert!(text.ends_with("# EOF\n"));
    }
}
