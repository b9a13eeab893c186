//! What monitoring reads, in the text format of Prometheus: made anew from the table for each question.
//!
//! All labels but those of `tcp_connects_by_pid` have a bound: names beyond it share the value `other`.

use std::fmt::{Error, Write as _};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::decode::{Command, End};
use crate::source::{Counts, Way};
use crate::table::{Histogram, Open, Overflow, Sums, Table, Times};

/// The form of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels as pairs of names and values.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        self.0.iter().try_for_each(|(name, value)| (*name, value.as_str()).encode(encoder.encode_label()))
    }
}

type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        encoder.encode_histogram::<Labels>(self.sum(), self.count(), &self.buckets(), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// What is told of a table, taken in a moment: whoever writes to it does not wait until the text is made.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    processes: Vec<(u32, Command, u64)>,
    open: Open,
    ends: Vec<(&'static str, &'static str, u64)>,
    totals: Sums,
    commands: Vec<(Arc<str>, Sums)>,
    places: Vec<(Arc<str>, Sums)>,
    services: Vec<(&'static str, Sums)>,
    times: Times,
    overflow: Overflow,
    entries: Vec<(&'static str, usize)>,
}

impl Snapshot {
    /// Of this table; `kept` are the connections that the kernel's map had at the last survey.
    #[must_use]
    pub fn of(table: &Table, kept: Option<usize>) -> Self {
        let asking = table.processes().filter(|process| process.sums.opened > 0);
        let mut entries = vec![
            ("connections", table.connections().len()),
            ("processes", table.processes().len()),
            ("remotes", table.remotes().len()),
            ("commands", table.commands().len()),
            ("places", table.places().len()),
        ];
        entries.extend(kept.map(|kept| ("kernel", kept)));
        Self {
            processes: asking.map(|process| (process.id.pid, process.command, process.sums.opened)).collect(),
            open: table.open(),
            ends: table.ends().collect(),
            totals: *table.totals(),
            commands: table.commands().map(|(name, sums)| (Arc::clone(name), *sums)).collect(),
            places: table.places().map(|(name, sums)| (Arc::clone(name), *sums)).collect(),
            services: table.ports().map(|(name, sums)| (name, *sums)).collect(),
            times: table.times().clone(),
            overflow: table.overflow(),
            entries,
        }
    }
}

/// The metrics as a text.
#[must_use]
pub fn text(table: &Snapshot, counts: &Counts, way: &Way) -> String {
    let mut registry = Registry::default();
    of_processes(&mut registry, table);
    of_connections(&mut registry, table, counts, way);
    By::of("command", &table.commands, way).register(&mut registry, "command");
    By::of("place", &table.places, way).register(&mut registry, "place");
    By::of("service", &table.services, way).register(&mut registry, "service");
    of_times(&mut registry, table, way.sees_failures());
    of_monitor(&mut registry, table, counts, way, (way.capacity > 0).then_some(way.capacity));
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        // Writing into a string does not fail; a scraper would take half a text for the whole.
        text.clear();
        let _ = writeln!(text, "# EOF");
    }
    plain(&text)
}

/// The older format from the newer one: it is what the tool before had, and what `promtool check metrics` reads. A
/// counter is described by the name that its samples have, an info is a gauge, and there are no units. Samples are in the order
/// of their labels, so that two texts can be compared; those of a histogram have theirs.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let (mut help, mut samples, mut has_order) = (None, Vec::new(), false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            write_samples(&mut plain, &mut samples, has_order);
            has_order = kind == "histogram";
            let meaning = help.take().map_or("", |(_, meaning)| meaning);
            let _ = write!(plain, "# HELP {name}{suffix} {meaning}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            samples.push(line);
        }
    }
    write_samples(&mut plain, &mut samples, has_order);
    plain
}

fn write_samples(text: &mut String, samples: &mut Vec<&str>, has_order: bool) {
    if !has_order {
        samples.sort_unstable();
    }
    for line in samples.drain(..) {
        text.push_str(line);
        text.push('\n');
    }
}

/// The names of all metrics in the newer format, for the reference page.
#[must_use]
pub fn names() -> String {
    let mut registry = Registry::default();
    let empty = Snapshot::of(&Table::default(), Some(0));
    registry.register("tcp_connects_by_pid", CONNECTS_BY_PID, one::<Gauge>());
    of_connections(&mut registry, &empty, &Counts::default(), &Way::default());
    for kind in ["command", "place", "service"] {
        By { connections: one(), bytes: one(), retransmits: one() }.register(&mut registry, kind);
    }
    of_times(&mut registry, &empty, true);
    of_monitor(&mut registry, &empty, &Counts::default(), &Way::default(), Some(0));
    let mut text = String::new();
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

const CONNECTS_BY_PID: &str = "Connections that a process has asked for, as long as it lives";

/// As the tool had it that this one follows: a gauge, by process. Processes that are dead are not told for long.
fn of_processes(registry: &mut Registry, table: &Snapshot) {
    let connects = Gauges::default();
    for (pid, command, opened) in &table.processes {
        let labels = vec![("pid", pid.to_string()), ("comm", command.text())];
        // Should a number be used again within a moment, the newer one's counts are added.
        connects.get_or_create(&Labels(labels)).inc_by(signed(*opened));
    }
    registry.register("tcp_connects_by_pid", CONNECTS_BY_PID, connects);
}

fn of_connections(registry: &mut Registry, table: &Snapshot, counts: &Counts, way: &Way) {
    let counters = Counters::default();
    for (what, count) in counts.seen(way) {
        if let Some(count) = count {
            counters.get_or_create(&labels("what", what)).inc_by(count);
        }
    }
    registry.register("adit_tcp_connections", "Connections by what has happened to them", counters);
    let open = Gauges::default();
    open.get_or_create(&labels("direction", "outgoing")).set(size(table.open.outgoing));
    open.get_or_create(&labels("direction", "incoming")).set(size(table.open.incoming));
    registry.register("adit_tcp_connections_open", "Connections that are there now", open);
    let ends = Counters::default();
    // There before the first one, so that its rate is one. Who sees no changes of state sees no end as it happens.
    let first = if way.sees_failures() { End::Closed } else { End::Unseen };
    drop(ends.get_or_create(&Labels(vec![("end", first.as_str().to_owned()), ("error", String::new())])));
    for (end, error, count) in &table.ends {
        let labels = Labels(vec![("end", (*end).to_owned()), ("error", (*error).to_owned())]);
        ends.get_or_create(&labels).inc_by(*count);
    }
    registry.register("adit_tcp_ends", "Connections that are over, by how they ended and the error", ends);
    let bytes = Counters::default();
    bytes.get_or_create(&labels("direction", "sent")).inc_by(table.totals.sent);
    bytes.get_or_create(&labels("direction", "received")).inc_by(table.totals.received);
    registry.register_with_unit("adit_tcp", "Bytes of data that connections carried", Unit::Bytes, bytes);
    registry.register("adit_tcp_retransmits", "Packets that were sent again", counter(table.totals.retransmits));
}

/// Families with one label.
struct By {
    connections: Counters,
    bytes: Counters,
    retransmits: Counters,
}

impl By {
    fn of(kind: &'static str, all: &[(impl AsRef<str>, Sums)], way: &Way) -> Self {
        let (ends, how) = (!way.sees_attempts_alone(), way.sees_failures());
        let by = Self { connections: Family::default(), bytes: Family::default(), retransmits: Family::default() };
        for (name, sums) in all {
            let own = (kind, name.as_ref().to_owned());
            let all = [
                ("opened", sums.opened, true),
                ("incoming", sums.incoming, ends),
                ("failed", sums.failed, how),
                ("closed", sums.closed, ends),
                ("reset", sums.reset, how),
                ("aborted", sums.aborted, how),
            ];
            // What is not seen has no series: 0 would say that it does not happen.
            for (what, count, _) in all.into_iter().filter(|(.., is_seen)| *is_seen) {
                let labels = Labels(vec![own.clone(), ("what", what.to_owned())]);
                by.connections.get_or_create(&labels).inc_by(count);
            }
            for (direction, count) in [("sent", sums.sent), ("received", sums.received)] {
                let labels = Labels(vec![own.clone(), ("direction", direction.to_owned())]);
                by.bytes.get_or_create(&labels).inc_by(count);
            }
            by.retransmits.get_or_create(&Labels(vec![own])).inc_by(sums.retransmits);
        }
        by
    }

    fn register(self, registry: &mut Registry, kind: &str) {
        let what = match kind {
            "command" => "the name of the process",
            "place" => "pod, container or unit of the process",
            _ => "the kind of service, as its port tells",
        };
        registry.register(format!("adit_tcp_{kind}_connections"), format!("Connections by {what}"), self.connections);
        registry.register_with_unit(format!("adit_tcp_{kind}"), format!("Bytes by {what}"), Unit::Bytes, self.bytes);
        registry.register(
            format!("adit_tcp_{kind}_retransmits"),
            format!("Packets sent again by {what}"),
            self.retransmits,
        );
    }
}

fn of_times(registry: &mut Registry, table: &Snapshot, sees_handshakes: bool) {
    let times = &table.times;
    for (name, help, histogram) in [
        ("handshake", "From the first packet of an outgoing connection until it is established", &times.handshake),
        ("round_trip", "Smoothed round-trip times of connections at their end", &times.rtt),
        ("duration", "How long connections lived", &times.duration),
    ] {
        // Without a value it would say that there was none.
        if name == "handshake" && !sees_handshakes {
            continue;
        }
        registry.register_with_unit(format!("adit_tcp_{name}"), help, Unit::Seconds, histogram.clone());
    }
}

fn of_monitor(registry: &mut Registry, table: &Snapshot, counts: &Counts, way: &Way, room: Option<usize>) {
    let chosen = |purpose: &str| way.chosen(purpose).map_or("none", |part| part.way).to_owned();
    let info = Labels(vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("source", way.source.to_owned()),
        ("state", chosen("state")),
        ("accept", chosen("accept")),
    ]);
    registry.register("adit_monitor", "How connections are seen", Info::new(info));
    registry.register(
        "adit_monitor_degraded",
        "1 while connections are polled because programs in the kernel are not permitted",
        gauge(i64::from(way.reason.is_some())),
    );
    let overflow = table.overflow;
    let lost = Counters::default();
    for (what, count) in [
        ("connection_no_room", counts.map_full),
        ("event_no_room", counts.events_lost),
        ("event_unreadable", counts.undecoded),
        ("table_connection", overflow.connections),
        ("table_process", overflow.processes),
        ("table_remote", overflow.remotes),
        ("end_unseen", overflow.unseen + counts.unseen),
        ("owner_unknown", counts.unowned),
        ("hook_missed", counts.hook_missed),
        ("listener_no_room", counts.listeners_full),
        ("files_not_looked_at", counts.refused_looks),
    ] {
        lost.get_or_create(&labels("what", what)).inc_by(count);
    }
    registry.register("adit_monitor_lost", "What was not seen, or found no room", lost);
    registry.register(
        "adit_monitor_folded",
        "Ends of connections that were added up by process because there were too many",
        counter(counts.folded),
    );
    registry.register(
        "adit_monitor_seen_late",
        "Connections that are older than the monitor",
        counter(counts.seen_late),
    );
    let entries = Gauges::default();
    for (what, count) in &table.entries {
        entries.get_or_create(&labels("table", what)).set(size(*count));
    }
    registry.register(
        "adit_monitor_entries",
        "Entries of the tables; those of the kernel's map as the last survey found them",
        entries,
    );
    let capacity = "Connections that the kernel's map keeps before any is likely to find no room; not there when it polls, as there is no map";
    if let Some(room) = room {
        registry.register("adit_monitor_capacity", capacity, gauge(size(room)));
    }
}

fn labels(name: &'static str, value: &str) -> Labels {
    Labels(vec![(name, value.to_owned())])
}

fn counter(value: u64) -> Counter {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    counter
}

fn gauge(value: i64) -> Gauge {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    gauge
}

/// A family that is not left out for having nothing.
fn one<M: Default + Clone>() -> Family<Labels, M> {
    let family = Family::default();
    drop(family.get_or_create(&Labels(Vec::new())));
    family
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
