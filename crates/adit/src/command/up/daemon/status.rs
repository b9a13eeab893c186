//! How the daemon and its forwards are, as JSON: what `adit status -o json` prints and `GET /v1/forwards` answers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::forward::{ForwardReport, HealthReport};
use adit_core::config::{AgentFile, ForwardConfig};
use adit_core::forward::{ForwardState, Start};
use adit_core::health::HealthState;
use adit_core::target::Target;
use adit_core::timestamp;
use gateway::entrances::Entrances;
use gateway::failures::LastError;
use gateway::traffic::Traffic;
use serde_json::{Value, json};

use super::desired::{Desired, Wish};
use super::left_out;
use super::ports_before::PortsBefore;
use crate::command::up::publish::TunnelRow;

/// What is known of one forward.
struct Known {
    report: Option<ForwardReport>,
    addresses: Vec<SocketAddr>,
    traffic: Option<Arc<Traffic>>,
    /// What to do about its reason.
    hint: Option<String>,
    /// Why it cannot be reached where it should be.
    unopened: Vec<String>,
    /// Why it can lead nowhere, though nobody has tried it: its context is not there.
    nowhere: Option<(String, Option<String>)>,
}

impl Known {
    fn reason(&self) -> Option<String> {
        (!self.unopened.is_empty()).then(|| self.unopened.join("; "))
    }

    /// Why it will fail for whoever uses it first.
    fn will_fail(&self) -> Option<&(String, Option<String>)> {
        let rests = self.report.as_ref().is_some_and(|report| report.status.state == ForwardState::Idle);
        self.nowhere.as_ref().filter(|_| rests)
    }

    /// The later one of what is known of its port, and of everything that goes through it.
    fn last_error(&self) -> Option<(SystemTime, String)> {
        let of_port = self.traffic.as_ref().and_then(|traffic| traffic.last_error());
        let of_port = of_port.map(|LastError { at, text, .. }| (at, text));
        let all = self.report.as_ref().and_then(|report| report.last_error.clone()).map(|last| (last.at, last.text));
        // Of the same thing the port knows more, and a moment later.
        all.into_iter().chain(of_port).max_by_key(|(at, _)| *at)
    }
}

/// Whether a forward is among those that are asked for.
pub(super) fn is_chosen(forward: &ForwardConfig, names: &[String], tags: &[String]) -> bool {
    names.contains(&forward.name) || forward.tags.iter().any(|tag| tags.contains(tag))
}

/// Adds to each forward which processes of this machine hold its connections.
///
/// What came in by an address that a forward had before goes on; another one may have that address now.
pub(super) fn add_clients(status: &mut Value, before: &PortsBefore) {
    let services = status["services"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    let ports = |one: &Value| -> Vec<SocketAddr> {
        let texts = one["entrances"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let open: Vec<SocketAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        // What runs through a port that is closed goes on.
        let closed = one["local_port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let closed = closed.filter(|_| open.is_empty() && one["streams"] != 0);
        open.into_iter().chain(closed.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))).collect()
    };
    let now: Vec<SocketAddr> = services.iter().flat_map(ports).collect();
    let all_of = |one: &Value| -> Vec<SocketAddr> {
        let past = one["name"].as_str().filter(|_| one["streams"] != 0).map(|name| before.of(name));
        let past = past.into_iter().flatten().filter(|address| !now.contains(address));
        ports(one).into_iter().chain(past.copied()).collect()
    };
    let all: Vec<SocketAddr> = services.iter().flat_map(all_of).collect();
    let found = runtime::listener::local_clients(&all);
    for service in services {
        let own = all_of(service);
        let clients = found.iter().filter(|client| own.contains(&client.port));
        let clients = clients.map(
            |client| json!({ "address": client.address.to_string(), "pid": client.pid, "command": client.command }),
        );
        service["clients"] = clients.collect();
    }
}

/// All forwards of the file, with a summary.
pub(super) fn forwards(
    file: &AgentFile,
    desired: &Desired,
    entrances: &Entrances,
    nowhere: &HashMap<String, (String, Option<String>)>,
) -> Value {
    let open: Vec<_> = entrances.open().collect();
    let all = entrances.targets().forwards();
    let services: Vec<Value> = file
        .forwards
        .iter()
        .map(|config| {
            let owned = open.iter().filter(|(_, owner)| owner.as_ref() == Some(&config.name));
            let known = Known {
                report: all.get(&config.name).map(::forward::Forward::report),
                addresses: owned.map(|(address, _)| *address).collect(),
                traffic: entrances
                    .ports()
                    .find(|(name, _)| *name == config.name)
                    .map(|(_, traffic)| Arc::clone(traffic)),
                hint: all.get(&config.name).and_then(::forward::Forward::hint),
                unopened: unopened(entrances, Some(&config.name)),
                nowhere: nowhere.get(&config.name).cloned(),
            };
            one(config, desired.get(&config.name), &known)
        })
        .collect();
    json!({ "summary": summary(&services), "services": services })
}

/// Why entrances of a forward, or of the gateway, are not open.
fn unopened(entrances: &Entrances, owner: Option<&str>) -> Vec<String> {
    let left = entrances.unopened().filter(|(of, ..)| *of == owner);
    left.map(|(_, _, error)| left_out::reason(error)).collect()
}

/// What is published, with the forward that it leads to.
pub(super) fn published(row: &TunnelRow, file: &AgentFile) -> Value {
    let mut tunnels = file.publish.iter().flat_map(|publish| &publish.tunnels);
    let tunnel = tunnels.find(|tunnel| tunnel.key == row.name);
    let mut value = row.json();
    value["forward"] = match tunnel.map(|tunnel| &tunnel.to) {
        Some(Target::Forward(name)) => name.as_str().into(),
        _ => Value::Null,
    };
    value
}

/// The gateway's addresses; nothing when there is none.
pub(super) fn gateway(entrances: &Entrances, dynamic_host: Option<&str>) -> Value {
    let open = entrances.open().filter(|(_, owner)| owner.is_none());
    let addresses: Vec<String> = open.map(|(address, _)| address.to_string()).collect();
    let failed = unopened(entrances, None);
    if addresses.is_empty() && failed.is_empty() {
        return Value::Null;
    }
    json!({ "addresses": addresses, "failed": failed, "dynamic_host": dynamic_host })
}

/// Of the forwards that are shown; every one is counted once.
pub(in crate::command::up) fn summary(services: &[Value]) -> Value {
    let total = services.len();
    let count = |is: &dyn Fn(&Value) -> bool| services.iter().filter(|one| is(one)).count();
    let counted = |status: &str| count(&|one| one["status"] == status);
    let (running, idle, disabled) = (counted("running"), counted("idle"), counted("disabled"));
    let healthy = count(&|one| one["is_healthy"] == true);
    let unhealthy = count(&|one| one["is_healthy"] == false);
    let rate = |part: usize, of: usize| if of == 0 { 100.0 } else { tenths(100.0 * ratio(part, of)) };
    json!({
        "total": total,
        "running": running,
        "idle": idle,
        "starting": counted("starting") + counted("restarting"),
        "stopped": counted("stopped"),
        "disabled": disabled,
        "failed": counted("failed"),
        "healthy": healthy,
        "unhealthy": unhealthy,
        "success_rate": rate(running + idle, total - disabled),
        "health_rate": rate(healthy, healthy + unhealthy),
    })
}

fn ratio(part: usize, of: usize) -> f64 {
    f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / f64::from(u32::try_from(of).unwrap_or(u32::MAX))
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn one(config: &ForwardConfig, wish: Option<Wish>, known: &Known) -> Value {
    let report = known.report.as_ref();
    let status = match report {
        _ if !known.unopened.is_empty() || known.will_fail().is_some() => "failed",
        None if !config.enabled && wish != Some(Wish::Started) => "disabled",
        _ => word(report),
    };
    let traffic = known.traffic.as_deref();
    let local_port = known.addresses.first().or(config.listen.first()).map(SocketAddr::port);
    let probed = report.and_then(|report| report.health.as_ref());
    let healthy = report.zip(probed).and_then(|(report, health)| is_healthy(report.status.state, health));
    let will_fail = known.will_fail().cloned();
    // Between two starts because of it as well; of one that was lost for something else it is old.
    let is_probed = |report: &ForwardReport| {
        report.is_ready() || report.waiting_for.as_ref().is_none_or(|reason| reason.starts_with("its probes fail"))
    };
    let of_probe = probed.filter(|_| report.is_some_and(is_probed)).and_then(|health| health.hint.clone());
    json!({
        "name": config.name,
        "status": status,
        "technology": technology(&config.to),
        "local_port": local_port,
        "remote_port": report.and_then(|report| report.remote_port).or_else(|| port(&config.to)),
        "target": config.to.to_string(),
        "is_healthy": healthy,
        "uptime_seconds": report.filter(|report| report.is_ready()).and_then(|report| report.ready_since)
            .map(|since| since.elapsed().as_secs()),
        "last_health_check": probed.and_then(|health| health.last).map(timestamp::format),
        "health": probed.map(|health| json!({
            "state": health.state.as_str(),
            "latency_ms": health.latency.map(millis),
            "error": health.error,
            "detail": health.detail,
            "failures": health.failures,
            "type": config.health.as_ref().map(|health| health.probe.as_str()),
            "missed": health.missed,
            "restarts": health.renewals,
        })),
        "failure_count": report.map_or(0, |report| report.status.failures)
            .max(probed.map_or(0, |health| health.failures)),
        "restart_count": report.map_or(0, |report| report.restarts),
        "tags": config.tags,
        "description": config.description,
        "state": report.map_or("stopped", |report| report.status.state.as_str()),
        "enabled": config.enabled,
        "start": if config.start == Start::Always { "always" } else { "on-demand" },
        "wish": match wish { Some(Wish::Started) => Some("started"), Some(Wish::Stopped) => Some("stopped"), None => None },
        "as_file": wish.is_none_or(|wish| wish.is_as_written(config)),
        "entrances": known.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "context": report.and_then(|report| report.context.clone()),
        "namespace": report.and_then(|report| report.namespace.clone()),
        "pod": report.and_then(|report| report.pod.clone()),
        "transport": report.and_then(|report| report.transport),
        "took_ms": report.and_then(|report| report.took).map(millis),
        "reason": known.reason().or_else(|| Some(will_fail.as_ref()?.0.clone())).or_else(|| report.and_then(|report| report.waiting_for.clone()
            .or_else(|| report.status.reason.as_deref().map(str::to_owned)))),
        "cluster_trouble": report.and_then(ForwardReport::cluster_trouble),
        "hint": known.hint.clone().or_else(|| will_fail.as_ref()?.1.clone()).or(of_probe),
        "retry_in_ms": report.and_then(|report| report.status.retry_at.or(report.held_until))
            .map(|at| millis(at.saturating_duration_since(std::time::Instant::now()))),
        "streams": traffic.map_or_else(|| report.map_or(0, ForwardReport::streams), Traffic::live),
        "opened": traffic.map_or(0, Traffic::opened),
        "bytes_in": traffic.map_or(0, |traffic| traffic.meter().inward()),
        "bytes_out": traffic.map_or(0, |traffic| traffic.meter().outward()),
        "last_error": known.last_error().map(|(at, text)| json!({ "at": timestamp::format(at), "text": text })),
    })
}

/// What probes say; of what nobody probes nothing is known.
fn is_healthy(state: ForwardState, health: &HealthReport) -> Option<bool> {
    match (state, health.state) {
        // It was started anew for that, and nothing shows that it helped.
        (ForwardState::Ready, HealthState::Unknown) if health.is_doubted() => Some(false),
        (ForwardState::Ready, HealthState::Healthy) => Some(true),
        (ForwardState::Ready, HealthState::Unhealthy) => Some(false),
        // Before the first probe nothing is known; that it is not up is said elsewhere.
        (ForwardState::Failed | ForwardState::Backoff, _) => health.last.map(|_| false),
        _ => None,
    }
}

/// localport's words, and `idle` for what starts with its first connection.
fn word(report: Option<&ForwardReport>) -> &'static str {
    let Some(report) = report else { return "stopped" };
    match report.status.state {
        ForwardState::Idle => "idle",
        ForwardState::Ready if report.is_doubted() => "restarting",
        ForwardState::Ready => "running",
        ForwardState::Failed => "failed",
        ForwardState::Draining => "stopped",
        ForwardState::Resolving | ForwardState::Connecting | ForwardState::Backoff => {
            if report.carried {
                "restarting"
            } else {
                "starting"
            }
        }
    }
}

fn technology(target: &Target) -> &'static str {
    match target {
        Target::Kubernetes(_) => "kubernetes",
        Target::Jump(_) => "jump",
        Target::Ssh(_) => "ssh",
        Target::Local(_) => "tcp",
        Target::Forward(_) => "forward",
    }
}

/// The target's port, when it is a number.
fn port(target: &Target) -> Option<u16> {
    target.to_string().rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// A report in one line.
pub(super) fn in_words(status: &Value) -> String {
    let services = status["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    let word = |one: &Value| {
        format!("{} {}", one["name"].as_str().unwrap_or_default(), one["status"].as_str().unwrap_or_default())
    };
    services.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// How the daemon itself is.
pub(super) struct OfDaemon<'a> {
    pub(super) started: SystemTime,
    /// By the clock that nobody sets.
    pub(super) uptime: Duration,
    pub(super) config: &'a std::path::Path,
    pub(super) socket: &'a std::path::Path,
    pub(super) logs: &'a std::path::Path,
    pub(super) reloads: u64,
    pub(super) lost_entries: u64,
    pub(super) ends: bool,
    /// There is no file yet.
    pub(super) waits_for_file: bool,
}

impl OfDaemon<'_> {
    pub(super) fn json(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "started": timestamp::format(self.started),
            "uptime_seconds": self.uptime.as_secs(),
            "config": self.config.display().to_string(),
            "socket": self.socket.display().to_string(),
            "logs": self.logs.display().to_string(),
            "reloads": self.reloads,
            "lost_log_entries": self.lost_entries,
            "ends": self.ends,
            "waits_for_file": self.waits_for_file,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_what_probes_say() {
        let report = |state, renewals| HealthReport {
            state,
            last: None,
            latency: None,
            error: None,
            detail: None,
            hint: None,
            failures: 0,
            missed: 0,
            renewals,
        };
        let of = |state, health| is_healthy(state, &report(health, 0));
        assert_eq!(of(ForwardState::Ready, HealthState::Healthy), Some(true));
        assert_eq!(of(ForwardState::Ready, HealthState::Unknown), None);
        assert_eq!(of(ForwardState::Backoff, HealthState::Unknown), None, "nothing was probed yet");
        let probed = HealthReport { last: Some(SystemTime::now()), ..report(HealthState::Unknown, 0) };
        assert_eq!(is_healthy(ForwardState::Backoff, &probed), Some(false));
        assert_eq!(of(ForwardState::Idle, HealthState::Healthy), None);
        assert_eq!(
            is_healthy(ForwardState::Ready, &report(HealthState::Unknown, 1)),
            Some(false),
            "started anew in vain"
        );
    }

    #[test]
    fn every_forward_is_counted_once() {
        let of = |status: &str| json!({ "status": status, "is_healthy": null });
        let all = ["running", "idle", "starting", "restarting", "stopped", "disabled", "failed"].map(of);
        let summary = summary(&all);
        let parts = ["running", "idle", "starting", "stopped", "disabled", "failed"];
        assert_eq!(parts.iter().filter_map(|part| summary[part].as_u64()).sum::<u64>(), 7, "{summary}");
    }
}
