//! Everything that is open, a row each, for tables and JSON.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_core::config::gateway::GatewayTls;
use adit_core::target::Target;
use forward::{Forward, ForwardReport, HealthReport};

use crate::entrances::Entrances;
use crate::failures::{LastError, later};
use crate::http::State;
use crate::routes::{state_of, state_of_plain};
use crate::table::Route;
use crate::traffic::Traffic;
use crate::upstream::Upstream;

/// One entrance and what is behind it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The forward's name, the route's key or the dynamic host.
    pub name: String,
    /// What kind of entrance: `port`, `route`, `host`, or `forward` for one that others lead to.
    pub kind: &'static str,
    /// Its state is that of another row: a route to a forward of the file.
    pub echoes: bool,
    /// Where clients come in: addresses, or a URL without its path.
    pub entrance: String,
    /// What it leads to, as a user would write it.
    pub target: String,
    /// The pod that new connections go to.
    pub pod: Option<String>,
    /// How the target is.
    pub state: State,
    /// How long the last start took.
    pub took: Option<Duration>,
    /// Why it is not ready, or what is waited for.
    pub reason: Option<String>,
    /// What to do about that, when it has failed.
    pub hint: Option<String>,
    /// The cluster that keeps it waiting, when that keeps waiting all that leads there.
    pub outage: Option<Outage>,
    /// What probes of its target say, when it is probed.
    pub health: Option<HealthReport>,
    /// Streams and requests now.
    pub streams: u64,
    /// Those since the start.
    pub opened: u64,
    /// Bytes towards the target.
    pub bytes_in: u64,
    /// Bytes from it.
    pub bytes_out: u64,
    /// What went wrong last, when, and whether it still does.
    pub last_error: Option<LastError>,
}

/// A cluster that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Its context.
    pub context: String,
    /// Why.
    pub reason: String,
}

impl Entrances {
    /// All rows: ports and forwards by name, routes in the order of the file, dynamic hosts by name.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let open: Vec<_> = self.open().collect();
        let gateway = open.iter().find(|(_, owner)| owner.is_none()).map(|(address, _)| address.port());
        for (spec, forward) in self.targets().forwards().iter() {
            let report = forward.report();
            let addresses = open.iter().filter(|(_, owner)| owner.as_ref() == Some(&spec.name));
            let entrance = addresses.map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(", ");
            let traffic = self.ports().find(|(name, _)| *name == spec.name).map(|(_, traffic)| Arc::clone(traffic));
            // Those that are called by their URL are seen at the entrances that name them.
            if entrance.is_empty() && spec.name.contains("://") {
                continue;
            }
            let kind = if entrance.is_empty() { "forward" } else { "port" };
            let mut row = Row::new(spec.name.clone(), kind, entrance, report.target.clone());
            row.set_report(&report);
            row.set_hint(forward);
            if let Some(traffic) = traffic {
                row.add_traffic(&traffic);
            } else {
                row.streams = report.streams();
            }
            rows.push(row);
        }
        let table = self.routes().table();
        rows.extend(table.routes().iter().map(|route| route_row(route, gateway)));
        if let Some(dynamic) = table.dynamic() {
            let scheme = if table.tls() == GatewayTls::Local { "https" } else { "http" };
            for (route, report) in dynamic.known() {
                let entrance = url(scheme, &route.host, gateway);
                let mut row = Row::new(route.host.clone(), "host", entrance, report.target.clone());
                row.set_report(&report);
                row.add_upstream(&route.upstream);
                row.add_traffic(&route.traffic);
                rows.push(row);
            }
        }
        rows
    }
}

fn route_row(route: &Route, gateway: Option<u16>) -> Row {
    let config = &route.config;
    let scheme = if config.is_for_https() || config.terminate { "https" } else { "http" };
    let mut row = Row::new(config.key.clone(), "route", url(scheme, &config.key, gateway), config.to.to_string());
    row.echoes = matches!(config.to, Target::Forward(_));
    if let Some(forward) = &route.forward {
        row.set_report(&forward.report());
        row.set_hint(forward);
    } else {
        row.state = state_of_plain(route);
    }
    row.add_upstream(&route.upstream);
    row.add_traffic(&route.traffic);
    row
}

/// A host, with a path or without, as a URL at the gateway's port.
fn url(scheme: &str, key: &str, port: Option<u16>) -> String {
    let (host, path) = key.find('/').map_or((key, ""), |at| key.split_at(at));
    match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{host}{path}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}{path}"),
    }
}

impl Row {
    fn new(name: String, kind: &'static str, entrance: String, target: String) -> Self {
        Self {
            name,
            kind,
            echoes: false,
            entrance,
            target,
            pod: None,
            state: State::Ready,
            took: None,
            reason: None,
            hint: None,
            outage: None,
            health: None,
            streams: 0,
            opened: 0,
            bytes_in: 0,
            bytes_out: 0,
            last_error: None,
        }
    }

    fn set_report(&mut self, report: &ForwardReport) {
        let (state, detail) = state_of(report);
        self.state = state;
        self.pod.clone_from(&report.pod);
        self.took = report.took;
        self.health.clone_from(&report.health);
        self.reason = detail.filter(|_| state != State::Ready);
        let trouble = report.cluster_trouble().filter(|_| self.reason.is_some()).map(str::to_owned);
        self.outage = trouble.zip(report.context.clone()).map(|(reason, context)| Outage { context, reason });
    }

    fn set_hint(&mut self, forward: &Forward) {
        self.hint = (self.state == State::Failed).then(|| forward.hint()).flatten();
    }

    fn add_traffic(&mut self, traffic: &Traffic) {
        self.streams += traffic.live();
        self.opened += traffic.opened();
        self.bytes_in += traffic.meter().inward();
        self.bytes_out += traffic.meter().outward();
        self.note_error(traffic.last_error());
    }

    fn add_upstream(&mut self, upstream: &Upstream) {
        let counters = upstream.counters();
        self.streams += counters.active.load(Ordering::Relaxed);
        self.opened += counters.requests.load(Ordering::Relaxed);
        self.bytes_in += counters.received.load(Ordering::Relaxed);
        self.bytes_out += counters.sent.load(Ordering::Relaxed);
        self.note_error(counters.failures().last());
    }

    /// Keeps the later one. What is ready and fails is called so, as on the index.
    fn note_error(&mut self, error: Option<LastError>) {
        self.last_error = later(self.last_error.take(), error);
        self.state = self.state.as_tried(self.last_error.as_ref());
    }
}
