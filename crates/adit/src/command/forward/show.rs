//! What `adit forward` prints: kubectl's lines on standard output, everything for people on standard error, or events
//! as JSON.

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::forward::ForwardReport;
use runtime::signals::StopSignal;
use serde_json::{Value, json};

use super::faults::{Faults, Said};
use super::news::Item;
use crate::command::Global;
use crate::report::Output;
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
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

#[derive(Default)]
struct State {
    /// A line that is drawn over by the next one.
    drawn: bool,
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
    pub(super) fn new(global: &Global, lent: bool) -> Self {
        Self {
            form: if global.output == Output::Json { Form::Json } else { Form::Text },
            verbose: global.verbose > 0,
            quiet: global.quiet,
            lent,
            terminal: std::io::stderr().is_terminal() && global.verbose == 0,
            state: Mutex::default(),
        }
    }

    /// The port is bound.
    pub(super) fn listening(&self, label: &str, addresses: &[SocketAddr], instead_of: Option<u16>) {
        if let (Form::Text, Some(wanted), Some(actual)) = (self.form, instead_of, addresses.first()) {
            self.say(&format!("{label}: port {wanted} is taken, using {}", actual.port()));
        }
        for address in addresses {
            self.event(|| {
                json!({ "event": "listening", "target": label, "address": address.ip(), "port": address.port(),
                        "instead_of": instead_of })
            });
        }
    }

    /// It takes longer than a moment.
    pub(super) fn waiting(&self, label: &str, text: &str, since: Duration) {
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
        if self.form == Form::Text && self.terminal {
            if !self.quiet {
                self.draw(&format!("{label}: {} ({} s)", waiting(text), since.as_secs()));
            }
        } else if news {
            self.note(&format!("{label}: {}", waiting(text)));
            self.event(|| json!({ "event": "waiting", "target": label, "for": text }));
        }
    }

    /// Connections are taken.
    pub(super) fn ready(&self, port: &ReadyPort, report: &ForwardReport, took: Duration) {
        let right = report.remote_port.map_or_else(|| port.remote.clone(), |port| port.to_string());
        for address in &port.addresses {
            if self.form == Form::Text {
                self.result(&format!("Forwarding from {address} -> {right}"));
            }
        }
        let Some(first) = port.addresses.first() else { return };
        let pod = report.pod.as_ref().map(|pod| format!(" (pod {pod})")).unwrap_or_default();
        self.note(&format!("{}  {first} → {}{pod}  ready in {} ms", port.label, port.to, took.as_millis()));
        self.event(|| {
            json!({
                "event": "ready", "target": port.label, "address": first.ip(), "port": first.port(), "to": port.to,
                "context": report.context, "namespace": report.namespace, "pod": report.pod,
                "remote_port": report.remote_port, "transport": report.transport, "took_ms": millis(took),
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
                self.event(|| json!({ "event": "lost", "target": label, "pod": pod, "reason": cause }));
            }
            Item::Waiting { text } => {
                self.say(&format!("{label}: {}", waiting(text)));
                self.event(|| json!({ "event": "waiting", "target": label, "for": text }));
            }
            Item::Back { pod, outage } => {
                let on = pod.as_ref().map(|pod| format!(" on pod {pod}")).unwrap_or_default();
                self.say(&format!("{label}: back{on} after {:.1} s", outage.as_secs_f64()));
                self.event(|| json!({ "event": "back", "target": label, "pod": pod, "outage_ms": millis(*outage) }));
            }
            Item::Moved { from, to } => {
                self.say(&format!("{label}: moved to pod {to}"));
                self.event(|| json!({ "event": "moved", "target": label, "from": from, "pod": to }));
            }
        }
    }

    /// A connection came in.
    pub(super) fn opened(&self, port: u16, peer: SocketAddr) {
        if self.verbose {
            self.result_as_text(&format!("Handling connection for {port}"));
            self.event(|| json!({ "event": "connection", "state": "opened", "port": port, "peer": peer }));
        }
    }

    /// It has ended.
    pub(super) fn closed(&self, ended: &Ended) {
        if self.verbose {
            self.event(|| {
                json!({
                    "event": "connection", "state": "closed", "port": ended.port, "peer": ended.peer,
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
        self.event(|| json!({ "event": "woke", "slept_ms": millis(slept) }));
    }

    /// Live connections finish.
    pub(super) fn finishing(&self, live: usize) {
        if live > 0 {
            let noun = if live == 1 { "connection" } else { "connections" };
            self.say(&format!("finishing {live} {noun}; Ctrl-C again ends at once"));
        }
    }

    /// The end.
    pub(super) fn stopped(&self, signal: Option<StopSignal>, exit_code: Option<u8>) {
        self.undraw();
        self.event(|| json!({ "event": "stopped", "signal": signal.map(StopSignal::as_str), "exit_code": exit_code }));
    }

    /// Takes a line that is drawn over off the terminal.
    pub(super) fn undraw(&self) {
        self.clear(&mut self.state());
    }

    fn fault(&self, said: &Said) {
        let more = if said.more > 0 { format!(" ({} more)", said.more) } else { String::new() };
        self.say(&format!("{}: {}{more}", said.port, said.reason));
        self.event(|| json!({ "event": "error", "port": said.port, "message": said.reason, "more": said.more }));
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
            let mut state = self.state();
            self.clear(&mut state);
            terminal::say(text);
        }
    }

    fn result_as_text(&self, text: &str) {
        if self.form == Form::Text {
            self.result(text);
        }
    }

    fn event(&self, value: impl FnOnce() -> Value) {
        if self.form == Form::Json {
            self.result(&value().to_string());
        }
    }

    /// A line that programs read; on standard error while standard output is somebody else's.
    fn result(&self, text: &str) {
        let mut state = self.state();
        self.clear(&mut state);
        if self.lent {
            terminal::say(text);
        } else {
            terminal::data(&format!("{text}\n"));
        }
    }

    /// A line that the next one is drawn over.
    fn draw(&self, text: &str) {
        let mut state = self.state();
        let width = terminal::error_width().saturating_sub(1);
        let line: String = text.chars().take(width).collect();
        terminal::redraw(&line);
        state.drawn = true;
    }

    fn clear(&self, state: &mut State) {
        if std::mem::take(&mut state.drawn) {
            terminal::redraw("");
        }
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
