//! What `adit forward` prints: kubectl's lines on standard output, everything for people on standard error, or events
//! as JSON.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::forward::ForwardReport;
use adit_core::target::Target;
use runtime::signals::StopSignal;
use serde_json::{Value, json};

use super::faults::{Faults, Said};
use super::news::Item;
use crate::command::Global;
use crate::command::output::{Line, Output, Weight};
use crate::report::{Failure, Output as Format};
use crate::terminal;

/// The same news of several ports of one target is one line, when it comes within this time.
const SAME: Duration = Duration::from_secs(2);
/// News remembered for that.
const RECENT: usize = 32;

/// Prints; shared by all tasks.
pub(super) struct Show {
    form: Form,
    verbose: bool,
    quiet: bool,
    /// Standard output belongs to the command that is run.
    lent: bool,
    terminal: bool,
    output: Output,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

#[derive(Default)]
struct State {
    waiting: Vec<(String, String)>,
    recent: Vec<(String, Instant)>,
    faults: Faults,
}

/// A port that is ready.
#[derive(Clone, Debug)]
pub(super) struct ReadyPort {
    /// The target as it was written.
    pub(super) label: String,
    pub(super) addresses: Vec<SocketAddr>,
    /// What it leads to, in full.
    pub(super) to: String,
    /// Number or name of the port there, as it was written.
    pub(super) remote: String,
    /// Connections go to all pods in turn.
    pub(super) balanced: bool,
}

/// A connection that has ended.
pub(super) struct Ended {
    pub(super) port: u16,
    pub(super) peer: SocketAddr,
    /// Bytes towards the target.
    pub(super) up: u64,
    /// Bytes towards the local client.
    pub(super) down: u64,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
}

impl Show {
    /// # Errors
    /// When there is no thread that could write.
    pub(super) fn new(global: &Global, lent: bool) -> io::Result<Self> {
        let form = if global.output == Format::Json { Form::Json } else { Form::Text };
        let left_out = move |count| match form {
            Form::Text => Line::Say(format!("{count} lines were not printed: they came faster than they were read")),
            Form::Json if lent => Line::Say(event_text("left-out", &json!({ "lines": count }))),
            Form::Json => Line::Data(event_text("left-out", &json!({ "lines": count }))),
        };
        Ok(Self {
            form,
            verbose: global.verbose > 0,
            quiet: global.quiet,
            lent,
            terminal: io::stderr().is_terminal() && global.verbose == 0,
            output: Output::start(left_out)?,
            state: Mutex::default(),
        })
    }

    /// The port is bound.
    pub(super) fn listening(&self, label: &str, addresses: &[SocketAddr], instead_of: Option<u16>) {
        if let (Form::Text, Some(wanted), Some(actual)) = (self.form, instead_of, addresses.first()) {
            self.say(&format!("{label}: port {wanted} is taken, using {}", actual.port()));
        }
        for address in addresses {
            self.event("listening", || {
                json!({ "target": label, "address": address.ip(), "port": address.port(), "instead_of": instead_of })
            });
        }
    }

    /// It takes longer than a moment, and will be given up after `limit`.
    pub(super) fn waiting(&self, label: &str, text: &str, since: Duration, limit: Duration) {
        let mut state = self.state();
        let news = match state.waiting.iter_mut().find(|(of, _)| of == label) {
            Some((_, said)) if said == text => false,
            Some((_, said)) => {
                text.clone_into(said);
                true
            }
            None => {
                state.waiting.push((label.to_owned(), text.to_owned()));
                true
            }
        };
        drop(state);
        let at_most = spoken(limit);
        if self.form == Form::Text && self.terminal {
            if self.quiet {
                return;
            }
            let line = format!("{label}: {} s of at most {at_most}; {}", since.as_secs(), waiting(text));
            // What the terminal has no room for in one line is read once in full.
            if news && line.chars().count() >= terminal::error_width() {
                self.say(&format!("{label}: {}", waiting(text)));
            }
            self.output.put(Line::Draw(line), Weight::Light);
        } else if news {
            self.note(&format!("{label}: {} (for up to {at_most}; --pod-running-timeout)", waiting(text)));
            let timeout = millis(limit);
            self.event("waiting", || json!({ "target": label, "for": text, "timeout_ms": timeout }));
        }
    }

    /// Connections are taken.
    pub(super) fn ready(&self, port: &ReadyPort, report: &ForwardReport, took: Duration) {
        let right = report.remote_port.map_or_else(|| port.remote.clone(), |port| port.to_string());
        for address in &port.addresses {
            if self.form == Form::Text {
                self.result(format!("Forwarding from {address} -> {right}"), Weight::Full);
            }
        }
        let Some(first) = port.addresses.first() else { return };
        self.note(&ready_line(port, first, report, took));
        if !report.declared.is_empty() {
            let declared = report.declared.join(", ");
            self.note(&format!(
                "{}: no container declares port {right}, only {declared}: if nothing listens on it, connections are refused",
                port.label
            ));
        }
        self.event("ready", || {
            json!({
                "target": port.label, "address": first.ip(), "port": first.port(), "to": port.to,
                "context": report.context, "namespace": report.namespace, "pod": report.pod,
                "pods": report.pod.as_ref().map(|_| report.pods), "remote_port": report.remote_port,
                "declared_ports": (!report.declared.is_empty()).then_some(&report.declared),
                "transport": report.transport, "took_ms": millis(took),
            })
        });
    }

    /// Something happened to the target.
    pub(super) fn news(&self, label: &str, item: &Item) {
        if !self.is_first(label, item) {
            return;
        }
        match item {
            Item::Lost { pod, cause, resolving } => {
                let what = pod.as_ref().map_or_else(|| "the connection".into(), |pod| format!("pod {pod}"));
                let cause_text = cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
                let then = if *resolving { "waiting for another" } else { "connecting again" };
                self.say(&format!("{label}: lost {what}{cause_text}; {then}"));
                self.event("lost", || json!({ "target": label, "pod": pod, "reason": cause }));
            }
            Item::Waiting { text } => {
                self.say(&format!("{label}: {}", waiting(text)));
                self.event("waiting", || json!({ "target": label, "for": text }));
            }
            Item::Back { pod, outage } => {
                let on = pod.as_ref().map(|pod| format!(" on pod {pod}")).unwrap_or_default();
                self.say(&format!("{label}: back{on} after {:.1} s", outage.as_secs_f64()));
                self.event("back", || json!({ "target": label, "pod": pod, "outage_ms": millis(*outage) }));
            }
            Item::Moved { from, to } => {
                self.say(&format!("{label}: moved to pod {to}"));
                self.event("moved", || json!({ "target": label, "from": from, "pod": to }));
            }
        }
    }

    /// A connection came in.
    pub(super) fn opened(&self, port: u16, peer: SocketAddr) {
        if self.verbose {
            if self.form == Form::Text {
                self.result(format!("Handling connection for {port}"), Weight::Light);
            }
            self.light_event("connection", || json!({ "state": "opened", "port": port, "peer": peer }));
        }
    }

    /// It has ended.
    pub(super) fn closed(&self, ended: &Ended) {
        if self.verbose {
            self.light_event("connection", || {
                json!({
                    "state": "closed", "port": ended.port, "peer": ended.peer,
                    "bytes_up": ended.up, "bytes_down": ended.down, "took_ms": millis(ended.took),
                    "error": ended.error,
                })
            });
        }
    }

    /// A connection failed towards the target. Returns when there is more to say about such, for [`Show::failures_due`].
    pub(super) fn failed(&self, port: u16, reason: &str) -> Option<Instant> {
        let mut state = self.state();
        let said = state.faults.take(port, reason, Instant::now());
        let next = state.faults.next();
        drop(state);
        if let Some(said) = said {
            self.fault(&said);
        }
        next
    }

    /// Says what was kept back of failures.
    pub(super) fn failures_due(&self) -> Option<Instant> {
        let mut state = self.state();
        let due = state.faults.due(Instant::now());
        let next = state.faults.next();
        drop(state);
        due.iter().for_each(|said| self.fault(said));
        next
    }

    /// The machine slept.
    pub(super) fn woke(&self, slept: Duration) {
        self.say(&format!("the machine slept for about {} s; connecting again", slept.as_secs()));
        self.event("woke", || json!({ "slept_ms": millis(slept) }));
    }

    /// Live connections finish.
    pub(super) fn finishing(&self, live: usize) {
        if live > 0 {
            let noun = if live == 1 { "connection" } else { "connections" };
            self.say(&format!("finishing {live} {noun}; Ctrl-C again ends at once"));
        }
    }

    /// They are not waited for any longer.
    pub(super) fn cutting(&self, live: usize) {
        if live > 0 {
            let noun = if live == 1 { "connection" } else { "connections" };
            self.say(&format!("cutting {live} {noun}"));
        }
    }

    /// The end, when it did not work; the failure itself is printed by whoever gets it.
    pub(super) fn gave_up(&self, failure: &Failure) {
        self.undraw();
        self.event(
            "failed",
            || json!({ "fault": failure.fault(), "message": failure.message(), "hint": failure.hint() }),
        );
    }

    /// The end.
    pub(super) fn stopped(&self, signal: Option<StopSignal>, exit_code: Option<u8>) {
        self.undraw();
        self.event("stopped", || json!({ "signal": signal.map(StopSignal::as_str), "exit_code": exit_code }));
    }

    /// Takes a line that is drawn over off the terminal.
    pub(super) fn undraw(&self) {
        self.output.put(Line::Undraw, Weight::Full);
    }

    /// Waits until everything is written, as far as somebody reads it.
    pub(super) async fn flush(&self) {
        // Whoever has not read it by then is not waited for.
        let _ = self.output.flush().await;
    }

    fn fault(&self, said: &Said) {
        let more = if said.more > 0 { format!(" ({} more)", said.more) } else { String::new() };
        self.say(&format!("{}: {}{more}", said.port, said.reason));
        self.event("error", || json!({ "port": said.port, "message": said.reason, "more": said.more }));
    }

    fn is_first(&self, label: &str, item: &Item) -> bool {
        let key = match item {
            Item::Lost { pod, .. } => format!("{label} lost {pod:?}"),
            Item::Waiting { text } => format!("{label} waiting {text}"),
            Item::Back { pod, .. } => format!("{label} back {pod:?}"),
            Item::Moved { to, .. } => format!("{label} moved {to}"),
        };
        let now = Instant::now();
        let mut state = self.state();
        state.recent.retain(|(_, at)| now.duration_since(*at) < SAME);
        let first = state.recent.iter().all(|(known, _)| *known != key);
        if first && state.recent.len() < RECENT {
            state.recent.push((key, now));
        }
        first
    }

    /// A line for people that quiet ones do without.
    fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// A line for people.
    fn say(&self, text: &str) {
        if self.form == Form::Text {
            self.output.put(Line::Say(text.to_owned()), Weight::Full);
        }
    }

    fn event(&self, name: &str, value: impl FnOnce() -> Value) {
        if self.form == Form::Json {
            self.result(event_text(name, &value()), Weight::Full);
        }
    }

    /// One of many.
    fn light_event(&self, name: &str, value: impl FnOnce() -> Value) {
        if self.form == Form::Json {
            self.result(event_text(name, &value()), Weight::Light);
        }
    }

    /// A line that programs read; on standard error while standard output is somebody else's.
    fn result(&self, text: String, weight: Weight) {
        self.output.put(if self.lent { Line::Say(text) } else { Line::Data(text) }, weight);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is waited for, as a line says it; some of it says so by itself.
fn waiting(text: &str) -> Cow<'_, str> {
    if text.starts_with("waiting") { text.into() } else { format!("waiting: {text}").into() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An event with its name in front, where people look for it.
fn event_text(name: &str, fields: &Value) -> String {
    let fields = fields.to_string();
    let rest = fields.strip_prefix('{').unwrap_or_default();
    let comma = if rest == "}" { "" } else { "," };
    format!("{{\"event\":\"{name}\"{comma}{rest}")
}

fn ready_line(port: &ReadyPort, first: &SocketAddr, report: &ForwardReport, took: Duration) -> String {
    // A URL says it all, and so does what it leads to.
    let label = if Target::is_url(&port.label) { String::new() } else { format!("{}  ", port.label) };
    let pods = match &report.pod {
        Some(_) if port.balanced && report.pods > 1 => format!(" ({} pods)", report.pods),
        Some(pod) => format!(" (pod {pod})"),
        None => String::new(),
    };
    format!("{label}{first} → {}{pods}  ready in {} ms", port.to, took.as_millis())
}

/// A time as it is said: `5 min`, `1 min 30 s`, `500 ms`.
fn spoken(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, 0) => format!("{} ms", time.as_millis()),
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_begins_with_its_name() {
        let text = event_text("ready", &json!({ "address": "a", "zone": 1 }));
        assert_eq!(text, r#"{"event":"ready","address":"a","zone":1}"#);
        assert_eq!(event_text("bare", &json!({})), r#"{"event":"bare"}"#);
    }

    #[test]
    fn times_are_said_as_people_do() {
        for (ms, said) in [(300_000, "5 min"), (90_000, "1 min 30 s"), (30_000, "30 s"), (500, "500 ms")] {
            assert_eq!(spoken(Duration::from_millis(ms)), said);
        }
    }
}
