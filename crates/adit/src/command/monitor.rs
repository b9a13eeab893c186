//! `adit monitor`: the agent that tells monitoring of the machine's TCP connections.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::monitor::agent::{Agent, Shared};
use ::monitor::metrics;
use ::monitor::source::{self, Options, Wanted, Way};
use ::monitor::table::Limits;
use adit_core::config::unit::parse_duration;
use adit_core::diagnose::Fault;
use clap::Args;
use runtime::admin::{AdminAnswer, AdminServer, Routes};
use runtime::readiness::{Component, Readiness};
use runtime::scope::Scope;
use runtime::signals::StopSignals;
use serde_json::{Value, json};

use super::{Global, on_runtime};
use crate::report::{Failure, chain, failure};
use crate::terminal;

/// How long what is in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// Watch the TCP connections of this machine.
#[derive(Debug, Args)]
#[command(after_help = "\
It needs CAP_BPF and CAP_PERFMON, or root; without them it polls the kernel and says what that cannot see.

Endpoints: /metrics at the one address; /liveness, /readiness and /health at the other.

Examples:
  sudo adit monitor
  adit monitor --metrics 0.0.0.0:9090 --health 0.0.0.0:8080   in a pod, where Prometheus and the kubelet read")]
pub(crate) struct MonitorArguments {
    /// Where metrics are served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    metrics: SocketAddr,
    /// Where health is served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    health: SocketAddr,
    /// How often bytes and round-trip times of open connections are looked at
    #[arg(long, value_name = "TIME", default_value = "5s")]
    interval: String,
    #[command(flatten)]
    source: SourceArguments,
}

/// How connections are seen; `adit top` has the same.
#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    /// What tells of connections
    #[arg(long, value_enum, default_value_t)]
    source: SourceName,
    /// Attach to changes of state in this way only
    #[arg(long, value_name = "WAY", value_parser = ["tp_btf", "raw_tracepoint", "tracepoint", "kprobe", "kprobe_connect"])]
    attach: Option<String>,
    /// See who accepts in this way only; `close` needs nothing more, `sys_exit` costs each system call a little
    #[arg(long, value_name = "WAY", value_parser = ["fexit", "kretprobe", "sys_exit", "close"])]
    accept: Option<String>,
    /// Connections that the kernel keeps for us at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=4_194_304))]
    max_connections: Option<u32>,
}

/// What tells of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum SourceName {
    /// Programs in the kernel, else the poll.
    #[default]
    Best,
    /// Programs in the kernel.
    Ebpf,
    /// A poll of the kernel's sockets.
    SockDiag,
}

impl SourceArguments {
    pub(super) fn options(&self, every_step: bool) -> Options {
        Options {
            wanted: match self.source {
                SourceName::Best => Wanted::Best,
                SourceName::Ebpf => Wanted::Ebpf,
                SourceName::SockDiag => Wanted::SockDiag,
            },
            state: self.attach.clone(),
            accept: self.accept.clone(),
            capacity: self.max_connections,
            ring: None,
            every_step,
            ..Options::default()
        }
    }
}

pub(crate) fn run(global: &Global, arguments: &MonitorArguments) -> Result<ExitCode, Failure> {
    global.start_logs(None, false)?;
    let interval = interval(&arguments.interval)?;
    // One thread is enough for the signals; the agent and each server have their own.
    on_runtime(Some(1), serve(arguments, interval))?
}

/// How often everything is looked through.
pub(super) fn interval(text: &str) -> Result<Duration, Failure> {
    let usage =
        |problem: &str| Failure::new(Fault::Usage, format!("--interval {text}: {problem}"), "as in 1s or 500ms");
    let interval = parse_duration(text).map_err(|error| usage(&error.to_string()))?;
    if interval < Duration::from_millis(100) { Err(usage("less than 100ms")) } else { Ok(interval) }
}

async fn serve(arguments: &MonitorArguments, interval: Duration) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::install().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let readiness = Readiness::new();
    let component = readiness.component("source");
    let told = Arc::new(Told::default());
    let metrics = open(arguments.metrics, "--metrics", metrics_routes(&told))?;
    let health = open(arguments.health, "--health", health_routes(&readiness, &told))?;
    let scope = Scope::root();
    let options = arguments.source.options(false);
    let source = scope.spawn_blocking("load", move || source::open(&options)).await;
    let source = source.map_err(|lost| Failure::new(Fault::Internal, lost.to_string(), ""))?;
    let source = source.map_err(|error| failure(&error))?;
    say_way(source.way());
    let agent = Agent::new(source, Limits::default(), interval);
    let shared = agent.shared();
    // It is set once, here.
    let _ = told.shared.set(Arc::clone(&shared));
    terminal::say(&format!("metrics  http://{}/metrics", metrics.local_addr()));
    terminal::say(&format!("health   http://{}/health", health.local_addr()));
    let working = work(&scope, agent, &component, &readiness);
    tokio::pin!(working);
    component.ready();
    let failed = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal = signal.as_str(), "stopping");
            false
        }
        () = &mut working => true,
    };
    if failed {
        // Whoever watches over us is to see it, and to start us anew.
        signals.next().await;
    }
    readiness.drain();
    shared.stop();
    if !failed && tokio::time::timeout(DRAIN, working).await.is_err() {
        tracing::warn!("the source does not end");
    }
    metrics.stop();
    health.stop();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs the agent; when it fails, the monitor is not alive any more.
async fn work(scope: &Scope, agent: Agent, component: &Component, readiness: &Readiness) {
    let ended = scope.spawn_blocking("monitor", move || agent.run()).await;
    let problem = match ended {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain(&error),
        Err(lost) => lost.to_string(),
    };
    component.not_ready(&problem);
    readiness.fail(problem);
}

/// What the servers tell of, once it is there.
#[derive(Default)]
struct Told {
    shared: std::sync::OnceLock<Arc<Shared>>,
}

fn metrics_routes(told: &Arc<Told>) -> Routes {
    let told = Arc::clone(told);
    Arc::new(move |path| match (path, told.shared.get()) {
        ("/metrics", Some(shared)) => {
            let text = metrics::text(&shared.table(), &shared.counts(), shared.way());
            AdminAnswer::new(metrics::CONTENT_TYPE, text)
        }
        ("/metrics", None) => AdminAnswer::new(metrics::CONTENT_TYPE, ""),
        _ => AdminAnswer::not_found(),
    })
}

fn health_routes(readiness: &Readiness, told: &Arc<Told>) -> Routes {
    let (readiness, told) = (readiness.clone(), Arc::clone(told));
    Arc::new(move |path| {
        let (ready, alive) = (readiness.is_ready(), readiness.is_live());
        let probe = |good: bool, yes: &'static str, no: &'static str| {
            let status = if good { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
            AdminAnswer::text(if good { yes } else { no }).with_status(status)
        };
        match path {
            "/liveness" => probe(alive, "OK", "Not alive"),
            "/readiness" => probe(ready && alive, "Ready", "Not ready"),
            "/health" => {
                let status = if ready && alive { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
                AdminAnswer::json(&health(ready, alive, &readiness, told.shared.get())).with_status(status)
            }
            _ => AdminAnswer::not_found(),
        }
    })
}

fn health(ready: bool, alive: bool, readiness: &Readiness, shared: Option<&Arc<Shared>>) -> Value {
    let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut value = json!({
        "ready": ready && alive, "alive": alive, "timestamp": timestamp, "components": readiness.report(),
    });
    if let Some(shared) = shared {
        value["source"] = way(shared.way());
        let (counts, table) = (shared.counts(), shared.table());
        value["connections"] = json!({
            "open": table.connections().len(), "opened": counts.opened, "incoming": counts.incoming,
            "established": counts.established, "failed": counts.failed, "closed": counts.closed,
        });
        value["lost"] = json!({ "connections": counts.map_full, "events": counts.events_lost });
    }
    value
}

/// How connections are seen, as JSON.
pub(super) fn way(way: &Way) -> Value {
    let parts: Vec<Value> = way
        .parts
        .iter()
        .map(|part| json!({ "purpose": part.purpose, "way": part.way, "refused": part.refused }))
        .collect();
    json!({
        "kind": way.source,
        "parts": parts,
        "missing": way.missing,
        "degraded": way.reason.is_some(),
        "reason": way.reason.as_ref().map(|reason| &reason.message),
        "hint": way.reason.as_ref().map(|reason| &reason.hint),
    })
}

/// Says in the log how connections are seen, and why not better.
fn say_way(way: &Way) {
    for part in &way.parts {
        match &part.refused {
            None => tracing::info!(purpose = part.purpose, "attached: {}", part.way),
            Some(said) => tracing::info!(purpose = part.purpose, "not attached: {}: {said}", part.way),
        }
    }
    if let Some(reason) = &way.reason {
        tracing::warn!(hint = %reason.hint, "no programs in the kernel: {}", reason.message);
    }
    if !way.missing.is_empty() {
        tracing::warn!("not seen in this way: {}", way.missing.join("; "));
    }
}

/// Opens a server; of a port that is taken it is said which other part of adit may have it.
fn open(address: SocketAddr, option: &str, routes: Routes) -> Result<AdminServer, Failure> {
    AdminServer::start_open(address, routes).map_err(|error| {
        let is_taken = matches!(error, runtime::BindError::Taken { .. });
        let failure = failure(&error).within(option);
        match (is_taken, address.port()) {
            (true, 9090) => failure.and(&format!(
                "adit server has its metrics there, too, and so has Prometheus: give another one with {option}"
            )),
            (true, 8080) => failure.and(&format!("adit server takes visitors there: give another one with {option}")),
            (true, _) => failure.and(&format!("give another one with {option}")),
            (false, _) => failure,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(readiness: &Readiness) -> [(u16, String); 3] {
        let routes = health_routes(readiness, &Arc::default());
        ["/liveness", "/readiness", "/health"].map(|path| {
            let answer = routes(path);
            (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
        })
    }

    #[test]
    fn probes_say_what_the_tool_before_said_in_each_state() {
        let readiness = Readiness::new();
        let component = readiness.component("source");
        let [alive, ready, health] = answers(&readiness);
        assert_eq!((alive, ready), ((200, "OK".into()), (503, "Not ready".into())), "before it is attached");
        assert!(health.0 == 503 && health.1.contains("\"ready\": false") && health.1.contains("\"timestamp\": "));
        component.ready();
        let [alive, ready, health] = answers(&readiness);
        assert_eq!((alive, ready, health.0), ((200, "OK".into()), (200, "Ready".into()), 200));
        readiness.drain();
        let [alive, ready, _] = answers(&readiness);
        assert_eq!((alive, ready), ((200, "OK".into()), (503, "Not ready".into())), "from the moment it stops");
        let readiness = Readiness::new();
        readiness.component("source").ready();
        readiness.fail("the survey: no more");
        let [alive, ready, health] = answers(&readiness);
        assert_eq!((alive, ready), ((503, "Not alive".into()), (503, "Not ready".into())), "after an error");
        assert!(health.0 == 503 && health.1.contains("no more"), "{}", health.1);
    }

    #[test]
    fn an_interval_that_would_keep_the_machine_busy_is_refused() {
        assert_eq!(interval("250ms").unwrap(), Duration::from_millis(250));
        for text in ["1ms", "0s", "soon"] {
            assert!(interval(text).unwrap_err().message().starts_with("--interval"), "{text}");
        }
    }
}
