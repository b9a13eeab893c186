//! `adit monitor`: the agent that tells monitoring of the machine's TCP connections.

mod room;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ::monitor::agent::{Agent, Shared};
use ::monitor::metrics;
use ::monitor::source::{self, Options, Source, Wanted, Way};
use ::monitor::table::Limits;
use adit_core::config::unit::parse_duration;
use adit_core::diagnose::Fault;
use bytes::Bytes;
use clap::Args;
use runtime::admin::{AdminAnswer, AdminServer, Routes};
use runtime::listener::BoundListener;
use runtime::readiness::{Component, Readiness};
use runtime::scope::Scope;
use runtime::signals::StopSignals;
use serde_json::{Value, json};

pub(super) use self::room::{Warned, lacks};
use super::{Global, on_runtime, say_aside};
use crate::report::{Failure, Output as Format, chain, failure};
use crate::terminal;

/// How long what is in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(10);
/// And who has asked by then has an answer within this.
const ANSWERS: Duration = Duration::from_secs(8);
/// Looking more often than this keeps the machine busy.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// Looking less often than this leaves figures without a value for long, and an agent that hangs unnoticed.
const MOST_INTERVAL: Duration = Duration::from_secs(60);
/// For so long a text of metrics is given again.
const FRESH: Duration = Duration::from_millis(500);

/// Watch the TCP connections of this machine.
#[derive(Debug, Args)]
#[command(after_help = "\
It needs CAP_BPF and CAP_PERFMON, or root; without them it polls the kernel and says what that cannot see.

Endpoints: /metrics at the one address; /liveness, /readiness and /health at the other.

Examples:
  sudo adit monitor
  adit monitor --metrics 0.0.0.0:9090 --health 0.0.0.0:8080   in a pod, where Prometheus and the kubelet read")]
pub(crate) struct MonitorArguments {
    /// Where metrics are served: IP:PORT, or a port alone, which is at 127.0.0.1
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090", value_parser = address)]
    metrics: SocketAddr,
    /// Where health is served: IP:PORT, or a port alone, which is at 127.0.0.1
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    health: SocketAddr,
    /// How often bytes and round-trip times of open connections are looked at: 100ms to 60s
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
    /// Connections that the kernel keeps for us at the same time [default: 65536]
    #[arg(long, value_name = "N", value_parser = connections, allow_negative_numbers = true)]
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
    /// The options, as they are taken; what the poll has no use for is refused beside it.
    pub(super) fn options(&self, every_step: bool) -> Result<Options, Failure> {
        if let (SourceName::SockDiag, Some(option)) = (self.source, self.of_programs().first()) {
            let hint = "leave it out, or use --source ebpf";
            return Err(Failure::new(
                Fault::Usage,
                format!("{option} is for programs in the kernel, not for the poll"),
                hint,
            ));
        }
        Ok(Options {
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
        })
    }

    /// Those that were given and are for programs in the kernel alone.
    fn of_programs(&self) -> Vec<&'static str> {
        let given = [
            ("--attach", self.attach.is_some()),
            ("--accept", self.accept.is_some()),
            ("--max-connections", self.max_connections.is_some()),
        ];
        given.into_iter().filter_map(|(option, is_given)| is_given.then_some(option)).collect()
    }

    /// What is to be said of options that the way that was taken has no use for, or that the kernel does not permit.
    pub(super) fn unused(&self, way: &Way) -> Option<String> {
        if let Some(unmet) = &way.unmet {
            return Some(format!("{}; all else goes on without it; hint: {}", unmet.message, unmet.hint));
        }
        let mut unused = self.of_programs();
        // What it polls for is told with the reason.
        let is_reason = |option: &str| way.reason.as_ref().is_some_and(|reason| reason.message.starts_with(option));
        unused.retain(|option| !is_reason(option));
        let is_unused = way.source != "ebpf" && !unused.is_empty();
        is_unused.then(|| format!("not used, as it polls: {}", unused.join(", ")))
    }
}

/// Neither this nor `adit top` has a configuration file: one that is given would be ignored.
pub(super) fn refuse_config(global: &Global, command: &str) -> Result<(), Failure> {
    let Some(path) = &global.config else { return Ok(()) };
    let message = format!("--config {} has no meaning for adit {command}", path.display());
    Err(Failure::new(Fault::Usage, message, "leave it out: all that can be set is an option"))
}

/// How many connections are kept.
fn connections(text: &str) -> Result<u32, String> {
    let known = text.parse().ok().filter(|number| (room::LEAST..=room::MOST).contains(number));
    known.ok_or_else(|| format!("it takes a whole number from {} to {}", room::LEAST, room::MOST))
}

/// An address to listen on, in the short forms that adit's files take.
fn address(text: &str) -> Result<SocketAddr, String> {
    adit_core::config::listen_address(text, IpAddr::V4(Ipv4Addr::LOCALHOST)).map_err(|problem| match problem.hint {
        Some(hint) => format!("{}; {hint}", problem.message),
        None => problem.message,
    })
}

pub(crate) fn run(global: &Global, arguments: &MonitorArguments) -> Result<ExitCode, Failure> {
    refuse_config(global, "monitor")?;
    let is_json = global.output == Format::Json;
    global.start_logs(None, is_json)?;
    let interval = interval(&arguments.interval)?;
    let options = arguments.source.options(false)?;
    refuse_clash(arguments.metrics, arguments.health)?;
    // Without one a look at connections fails, so those who ask must not be able to take all: their places are counted by it.
    runtime::socket::raise_descriptor_limit();
    let sockets =
        Sockets { metrics: bind(arguments.metrics, "--metrics")?, health: bind(arguments.health, "--health")? };
    // Before there is a second thread: each has the rights of the one that starts it.
    let (source, rights) = open_source(&options, None)?;
    say_aside()?;
    if let Some(unused) = arguments.source.unused(source.way()) {
        tracing::warn!("{unused}");
    }
    // One thread is enough for the signals; the agent and each server have their own.
    on_runtime(Some(1), serve(sockets, interval, source, rights, is_json))?
}

/// Opens the source, and gives up what is not needed after that; with the rights that are left.
#[cfg(target_os = "linux")]
pub(super) fn open_source(
    options: &Options,
    user: Option<(u32, u32)>,
) -> Result<(Box<dyn Source>, Vec<&'static str>), Failure> {
    use ::monitor::confine;
    let source = source::open(options).map_err(|error| failure(&error))?;
    let kind = source.way().source;
    let rights = confine::confine(kind, user).or_else(|error| {
        // Going on as somebody else needs rights of its own; without them it goes on as who it is.
        tracing::warn!(%error, "it goes on as root, and not as the user who called sudo");
        confine::confine(kind, None)
    });
    let rights = rights.map_err(|error| {
        let hint = "it does not run with more rights than it needs: does a filter forbid capset or prctl?";
        Failure::new(Fault::NotPermitted, format!("rights cannot be given up: {error}"), hint)
    })?;
    let more = confine::threads_with_more();
    if !more.is_empty() {
        return Err(Failure::new(Fault::Internal, format!("threads with more rights: {}", more.join(", ")), ""));
    }
    let kept = if rights.is_empty() { "none".to_owned() } else { rights.join(" ") };
    tracing::info!("rights that are kept: {kept}");
    Ok((source, rights))
}

/// Opens the source; elsewhere there are no rights to give up.
#[cfg(not(target_os = "linux"))]
pub(super) fn open_source(
    options: &Options,
    _: Option<(u32, u32)>,
) -> Result<(Box<dyn Source>, Vec<&'static str>), Failure> {
    Ok((source::open(options).map_err(|error| failure(&error))?, Vec::new()))
}

/// How often everything is looked through.
pub(super) fn interval(text: &str) -> Result<Duration, Failure> {
    let usage = |problem: &str, hint: &str| Failure::new(Fault::Usage, format!("--interval {text}: {problem}"), hint);
    let interval = parse_duration(text).map_err(|error| {
        // Many a tool takes a number of seconds.
        let is_number = text.parse::<f64>().is_ok_and(f64::is_finite);
        let seconds = format!("for seconds write --interval {text}s");
        if is_number { usage("it has no unit", &seconds) } else { usage(&error.to_string(), "as in 1s or 500ms") }
    })?;
    match interval {
        _ if interval < LEAST_INTERVAL => Err(usage("less than 100ms", "as in 1s or 500ms")),
        _ if interval > MOST_INTERVAL => Err(usage(
            "more than 60s",
            "take 60s or less: what is open, and whether it works at all, is known by looking",
        )),
        _ => Ok(interval),
    }
}

async fn serve(
    sockets: Sockets,
    interval: Duration,
    source: Box<dyn Source>,
    rights: Vec<&'static str>,
    is_json: bool,
) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::install().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let readiness = Readiness::new();
    let component = readiness.component("source");
    let told = Arc::new(Told { rights, ..Told::default() });
    // Counted before there is a client at either.
    let connections = runtime::admin::connections_of_each(2);
    let start =
        |listener, routes| AdminServer::start_open(listener, connections, routes).map_err(|error| failure(&error));
    let metrics = start(sockets.metrics, metrics_routes(&told))?;
    let health = start(sockets.health, health_routes(&readiness, &told))?;
    let scope = Scope::root();
    say_way(source.way());
    let agent = Agent::new(source, Limits::default(), interval);
    let shared = agent.shared();
    // It is set once, here.
    let _ = told.shared.set(Arc::clone(&shared));
    let announcing = announce(&scope, [metrics.local_addr(), health.local_addr()], shared.way(), is_json);
    let working = work(&scope, agent, &component, &readiness);
    let mut warned = Warned::default();
    let warning = keep_warning(&shared, interval, &mut warned);
    tokio::pin!(announcing, working, warning);
    component.ready();
    let mut failed = tokio::select! {
        never = &mut announcing => match never {},
        never = &mut warning => match never {},
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
    // First who has asked already, then what is attached: a last scrape has all that was seen.
    let until = tokio::time::Instant::now() + DRAIN;
    let answers = async { tokio::join!(metrics.drain(ANSWERS), health.drain(ANSWERS)) };
    tokio::pin!(answers);
    loop {
        tokio::select! {
            _ = &mut answers => break,
            () = &mut working, if !failed => failed = true,
            _ = signals.next() => {
                tracing::warn!("those who still ask have no answer: it was told to end once more");
                break;
            }
        }
    }
    shared.stop();
    if !failed && tokio::time::timeout_at(until, working).await.is_err() {
        tracing::warn!("the source does not end");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Warns of what had no room, once or now and then. Monitoring may look at the counts; who reads the log alone is told, too.
pub(super) async fn keep_warning(shared: &Shared, every: Duration, warned: &mut Warned) -> Infallible {
    loop {
        tokio::time::sleep(every).await;
        for text in warned.texts(::monitor::agent::now(), &shared.counts(), shared.way()) {
            tracing::warn!("{text}");
        }
    }
}

/// Says where it is to be asked: to people, or as a line for programs, who may read it later or never. It has no end, as
/// nothing waits for that.
async fn announce(scope: &Scope, [metrics, health]: [SocketAddr; 2], seen: &Way, is_json: bool) -> Infallible {
    let (metrics, health) = (format!("http://{metrics}/metrics"), format!("http://{health}/health"));
    if is_json {
        let line = json!({ "event": "started", "metrics": metrics, "health": health, "source": way(seen) });
        // One that cannot be written is told of at the end.
        let _ = scope.spawn_blocking("started", move || terminal::data(&format!("{line}\n"))).await;
    } else {
        terminal::say(&format!("metrics  {metrics}"));
        terminal::say(&format!("health   {health}"));
    }
    std::future::pending().await
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
    /// Capabilities that the monitor has kept.
    rights: Vec<&'static str>,
    metrics: Mutex<Option<(Instant, Bytes)>>,
}

impl Told {
    /// The metrics. Whoever asks again and again gets the same text for a moment: it costs the agent time to make one.
    fn metrics(&self, shared: &Shared, now: Instant) -> Bytes {
        let mut last = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((made, text)) if now.saturating_duration_since(*made) < FRESH => text.clone(),
            _ => {
                let text = Bytes::from(shared.metrics());
                *last = Some((now, text.clone()));
                text
            }
        }
    }
}

fn metrics_routes(told: &Arc<Told>) -> Routes {
    let told = Arc::clone(told);
    Arc::new(move |path| match (path, told.shared.get()) {
        ("/metrics", Some(shared)) => AdminAnswer::new(metrics::CONTENT_TYPE, told.metrics(shared, Instant::now())),
        ("/metrics", None) => AdminAnswer::new(metrics::CONTENT_TYPE, ""),
        ("/", _) => AdminAnswer::text(METRICS_PATHS),
        _ => nothing_at(path, METRICS_PATHS),
    })
}

fn health_routes(readiness: &Readiness, told: &Arc<Told>) -> Routes {
    let (readiness, told) = (readiness.clone(), Arc::clone(told));
    Arc::new(move |path| {
        let hangs = told.shared.get().and_then(|shared| shared.hangs());
        let (ready, alive) = (readiness.is_ready(), readiness.is_live() && hangs.is_none());
        let probe = |good: bool, yes: &'static str, no: &'static str| {
            let status = if good { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
            AdminAnswer::text(if good { yes } else { no }).with_status(status)
        };
        match path {
            "/liveness" => probe(alive, "OK", "Not alive"),
            "/readiness" => probe(ready && alive, "Ready", "Not ready"),
            "/health" => {
                let status = if ready && alive { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
                AdminAnswer::json(&health(ready, alive, &readiness, &told)).with_status(status)
            }
            "/" => AdminAnswer::text(HEALTH_PATHS),
            _ => nothing_at(path, HEALTH_PATHS),
        }
    })
}

/// What is there at each of the two addresses.
const METRICS_PATHS: &str = "adit monitor\n\n/metrics    what Prometheus reads\n";
const HEALTH_PATHS: &str = "adit monitor\n\n/liveness   200 OK, or 503\n/readiness  200 Ready, or 503\n/health     both, and how connections are seen, as JSON\n";

/// Nothing is there, but this is; what belongs to the other address is told as such.
fn nothing_at(path: &str, paths: &'static str) -> AdminAnswer {
    let other = match path {
        "/metrics" => "not here: metrics have an address of their own, as --metrics says\n\n",
        "/liveness" | "/readiness" | "/health" => "not here: health has an address of its own, as --health says\n\n",
        _ => "not found\n\n",
    };
    AdminAnswer::text(format!("{other}{paths}")).with_status(http::StatusCode::NOT_FOUND)
}

fn health(ready: bool, alive: bool, readiness: &Readiness, told: &Told) -> Value {
    let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let report = readiness.report();
    let mut value = json!({
        "ready": ready && alive, "alive": alive, "timestamp": timestamp, "components": report["components"],
    });
    if let Some(reason) = report.get("reason") {
        value["reason"] = reason.clone();
    }
    if let Some(shared) = told.shared.get() {
        if let Some(silent) = shared.hangs() {
            value["hangs_seconds"] = silent.as_secs().into();
        }
        value["rights"] = told.rights.clone().into();
        value["source"] = way(shared.way());
        let counts = shared.counts();
        value["connections"] = json!({ "open": shared.table().connections().len() });
        for (what, count) in counts.seen(shared.way()) {
            value["connections"][what] = count.into();
        }
        value["lost"] = json!({
            "connections": counts.map_full, "events": counts.events_lost, "ends": counts.unseen,
            "steps": counts.hook_missed,
        });
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

/// The servers' sockets, bound while there are the rights for it, and for seeing who has a port that is taken.
struct Sockets {
    metrics: BoundListener,
    health: BoundListener,
}

/// Each of the two has a server of its own: what would be a port that is taken, by nobody but ourselves, is told as what it is.
fn refuse_clash(metrics: SocketAddr, health: SocketAddr) -> Result<(), Failure> {
    // All addresses of IPv6 are those of IPv4 as well.
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let [a, b] = [metrics.ip(), health.ip()];
    let meet = a == b || covers(a, b) || covers(b, a);
    if metrics.port() == 0 || metrics.port() != health.port() || !meet {
        return Ok(());
    }
    let message = format!("--metrics {metrics} and --health {health} are the same port, and each needs one of its own");
    let free = if metrics.port() == 8080 { 8081 } else { 8080 };
    Err(Failure::new(Fault::Usage, message, format!("give one of them another, such as --health {free}")))
}

/// Binds a server's socket; of a port that is taken it is said which other part of adit may have it.
fn bind(address: SocketAddr, option: &str) -> Result<BoundListener, Failure> {
    BoundListener::bind(address).map_err(|error| {
        let is_taken = matches!(error, runtime::BindError::Taken { .. });
        let failure = failure(&error).within(option);
        if is_taken { failure.and(&who_else(option, address.port())) } else { failure }
    })
}

/// What to do about a port that is taken, with the other part of adit that may have it.
fn who_else(option: &str, port: u16) -> String {
    match port {
        9090 => {
            format!("adit server has its metrics there, too, and so has Prometheus: give another one with {option}")
        }
        8080 => format!("adit server takes visitors there: give another one with {option}"),
        _ => format!("give another one with {option}"),
    }
}

#[cfg(test)]
mod tests {
    use ::monitor::source::Obstacle;

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
    fn a_port_that_another_part_of_adit_has_by_default_is_told_as_such() {
        assert!(who_else("--metrics", 9090).starts_with("adit server has its metrics there"));
        assert!(who_else("--health", 8080).starts_with("adit server takes visitors there"));
        assert_eq!(who_else("--health", 8081), "give another one with --health");
    }

    #[test]
    fn metrics_are_made_once_for_those_who_ask_within_a_moment() {
        let source = ::monitor::source::stub::Stub::new(None);
        let shared = Agent::new(Box::new(source), Limits::default(), Duration::from_secs(1)).shared();
        let told = Told::default();
        let at = Instant::now();
        let [first, second] = [at, at + FRESH / 2].map(|at| told.metrics(&shared, at));
        // The very same bytes, not two that are alike.
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_ne!(told.metrics(&shared, at + FRESH).as_ptr(), second.as_ptr());
    }

    #[test]
    fn an_address_may_be_a_port_alone_and_what_is_none_is_told_with_the_form() {
        let read = |text: &str| address(text).map(|address| address.to_string());
        for (text, meant) in [
            ("9091", "127.0.0.1:9091"),
            (":8081", "127.0.0.1:8081"),
            ("localhost:1", "127.0.0.1:1"),
            ("*:9090", "0.0.0.0:9090"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(read(text).unwrap(), meant);
        }
        let said = read("node7").unwrap_err();
        assert!(said.contains("`node7` is not an address") && said.contains("127.0.0.1:9090"), "{said}");
        assert!(read("70000").unwrap_err().contains("70000 is no port"));
    }

    #[test]
    fn options_of_programs_are_refused_beside_the_poll_and_told_when_it_comes_to_polling() {
        let given = SourceArguments {
            source: SourceName::SockDiag,
            attach: None,
            accept: Some("close".into()),
            max_connections: Some(100),
        };
        let said = given.options(false).unwrap_err();
        assert!(said.message().starts_with("--accept is for programs in the kernel"), "{}", said.message());
        let best = SourceArguments { source: SourceName::Best, ..given };
        assert_eq!(best.options(false).unwrap().capacity, Some(100));
        let way = |source| Way { source, ..Way::default() };
        assert_eq!(best.unused(&way("sock_diag")).unwrap(), "not used, as it polls: --accept, --max-connections");
        assert_eq!(best.unused(&way("ebpf")), None);
        let reason = Obstacle { message: "--attach kprobe is not to be had: no".into(), hint: String::new() };
        let asked = SourceArguments { attach: Some("kprobe".into()), accept: None, ..best };
        let said = asked.unused(&Way { reason: Some(reason), ..way("sock_diag") }).unwrap();
        assert_eq!(said, "not used, as it polls: --max-connections", "it polls because of the other");
    }

    #[test]
    fn how_many_connections_are_kept_is_a_number_within_bounds() {
        assert_eq!(connections("64").unwrap(), 64);
        assert_eq!(connections("4194304").unwrap(), room::MOST);
        for text in ["63", "4194305", "-1", "", "many", "99999999999"] {
            assert_eq!(connections(text).unwrap_err(), "it takes a whole number from 64 to 4194304", "{text}");
        }
    }

    #[test]
    fn an_interval_that_would_keep_the_machine_busy_or_leave_figures_old_is_refused() {
        assert_eq!(interval("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(interval("1m").unwrap(), Duration::from_secs(60));
        assert!(interval("61s").unwrap_err().message().ends_with("more than 60s"));
        for text in ["1ms", "0s", "soon", "1h"] {
            assert!(interval(text).unwrap_err().message().starts_with("--interval"), "{text}");
        }
        let said = interval("2").unwrap_err();
        assert_eq!(
            (said.message(), said.hint()),
            ("--interval 2: it has no unit", Some("for seconds write --interval 2s"))
        );
    }

    #[test]
    fn health_says_each_thing_once_and_has_the_components_by_their_names() {
        let readiness = Readiness::new();
        readiness.component("source").not_ready("no rights");
        let told = health(false, true, &readiness, &Told::default());
        // A component that is dropped has ended.
        assert_eq!(told["components"], json!({ "source": { "ready": false, "reason": "ended" } }));
        assert!(told["ready"] == false && told["alive"] == true && told["timestamp"].is_u64(), "{told}");
    }

    #[test]
    fn two_servers_at_one_port_are_told_as_that() {
        let clash = |metrics: &str, health: &str| {
            let said = refuse_clash(address(metrics).unwrap(), address(health).unwrap()).err()?;
            Some(format!("{}; {}", said.message(), said.hint().unwrap_or_default()))
        };
        let said = clash("8080", "8080").expect("they meet");
        assert!(said.starts_with("--metrics 127.0.0.1:8080 and --health 127.0.0.1:8080 are the same port"), "{said}");
        assert!(said.ends_with("such as --health 8081"), "{said}");
        assert!(clash("9090", "*:9090").expect("all addresses are there").ends_with("--health 8080"));
        for (metrics, health) in
            [("0", "0"), ("9090", "8080"), ("127.0.0.1:9090", "127.0.0.2:9090"), ("*:9090", "[::1]:9090")]
        {
            assert_eq!(clash(metrics, health), None, "{metrics} {health}");
        }
    }

    #[test]
    fn at_the_root_and_where_nothing_is_it_says_what_there_is() {
        let told = Arc::default();
        let (metrics, health) = (metrics_routes(&told), health_routes(&Readiness::new(), &told));
        let said = |routes: &Routes, path: &str| {
            let answer = routes(path);
            (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
        };
        let (status, text) = said(&metrics, "/");
        assert!(status == 200 && text.contains("/metrics "), "{text}");
        let (status, text) = said(&health, "/");
        assert!(
            status == 200 && ["/liveness", "/readiness", "/health "].iter().all(|path| text.contains(path)),
            "{text}"
        );
        let (status, text) = said(&health, "/metrics");
        assert!(status == 404 && text.contains("--metrics"), "{text}");
        let (status, text) = said(&metrics, "/health");
        assert!(status == 404 && text.contains("--health"), "{text}");
        assert!(said(&health, "/healthz").0 == 404 && said(&health, "/healthz").1.contains("/liveness"));
    }
}
