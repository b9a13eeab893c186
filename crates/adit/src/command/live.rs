//! What `adit expose` shows: a short live view on a terminal, plain lines otherwise.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::readiness::Component;
use runtime::scope::Scope;
use serde_json::json;
use tokio::sync::broadcast;
use tunnel::agent::{AgentEvent, RequestEvent};

use super::Global;
use crate::report::Output;
use crate::terminal;

/// Requests shown in the live view.
const REQUESTS: usize = 8;
/// The live view is drawn at most this often.
const FRAME: Duration = Duration::from_millis(100);

/// Follows an agent's events.
pub(super) struct Live {
    form: Form,
    server: String,
    state: String,
    tunnels: Vec<Tunnel>,
    requests: VecDeque<Arc<RequestEvent>>,
    served: u64,
    metrics: Option<SocketAddr>,
    /// Lines of the last drawing, to be drawn over.
    drawn: usize,
    lost_at: Option<Instant>,
    news: News,
}

/// What was said already: attempts go on for ever, and each reason is worth one line.
#[derive(Debug, Default)]
pub(super) struct News {
    said: String,
}

impl News {
    /// Whether a line about this event says something new.
    pub(super) fn is_new(&mut self, event: &AgentEvent) -> bool {
        match event {
            AgentEvent::Retrying { reason, .. } if *reason == self.said => return false,
            AgentEvent::Retrying { reason, .. } => self.said.clone_from(reason),
            AgentEvent::Connected { .. } => self.said.clear(),
            _ => {}
        }
        true
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    View,
    Lines,
    Json,
}

struct Tunnel {
    name: String,
    url: String,
    local: String,
    note: String,
}

impl Live {
    pub(super) fn new(global: &Global, names: Vec<String>, metrics: Option<SocketAddr>) -> Self {
        let form = match global.output {
            Output::Json => Form::Json,
            Output::Text if terminal::is_interactive() && global.verbose == 0 => Form::View,
            Output::Text => Form::Lines,
        };
        let tunnels = names
            .into_iter()
            .map(|name| Tunnel { name, url: String::new(), local: String::new(), note: "waiting".into() })
            .collect();
        Self {
            form,
            server: String::new(),
            state: "starting".into(),
            tunnels,
            requests: VecDeque::new(),
            served: 0,
            metrics,
            drawn: 0,
            lost_at: None,
            news: News::default(),
        }
    }

    /// Shows events until the agent has ended.
    pub(super) async fn follow(&mut self, mut events: broadcast::Receiver<AgentEvent>, ready: Component, scope: Scope) {
        self.say_metrics();
        let mut due: Option<Instant> = None;
        loop {
            let frame = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => {
                        track(&event, &ready);
                        self.take(&event);
                        if self.form == Form::View {
                            due.get_or_insert_with(|| Instant::now() + FRAME);
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                () = frame => {
                    due = None;
                    self.draw();
                }
                () = scope.cancelled() => break,
            }
        }
        if self.form == Form::View {
            self.draw();
        }
    }

    /// The view shows it all the time; others must hear of it, as the port may be one that was free.
    fn say_metrics(&self) {
        let Some(address) = self.metrics else { return };
        match self.form {
            Form::View => {}
            Form::Lines => terminal::say(&format!("metrics  http://{address}/metrics")),
            Form::Json => {
                terminal::data(&format!("{}\n", json!({ "event": "metrics", "address": address.to_string() })));
            }
        }
    }

    fn take(&mut self, event: &AgentEvent) {
        self.update(event);
        match self.form {
            Form::View => {}
            Form::Lines => {
                if self.news.is_new(event) {
                    match line(event) {
                        Some(Told::Data(text)) => terminal::data(&format!("{text}\n")),
                        Some(Told::Say(text)) => terminal::say(&text),
                        None => {}
                    }
                }
            }
            Form::Json => {
                if let Some(value) = value(event) {
                    terminal::data(&format!("{value}\n"));
                }
            }
        }
    }

    fn update(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::Connecting { server, attempt } => {
                self.server.clone_from(server);
                self.state = if *attempt > 1 { format!("connecting (attempt {attempt})") } else { "connecting".into() };
            }
            AgentEvent::Retrying { reason, .. } => self.state = format!("reconnecting: {reason}"),
            AgentEvent::Connected { server, account, lanes, .. } => {
                self.server.clone_from(server);
                self.state = format!("online, account {account}, {lanes} lanes");
                self.lost_at = None;
            }
            AgentEvent::Published { tunnel, url, local } => {
                self.set(tunnel, |t| {
                    t.url.clone_from(url);
                    t.local.clone_from(local);
                    // What a health check saw before the tunnel was published still holds.
                    if !t.note.starts_with("unhealthy") {
                        t.note.clear();
                    }
                });
            }
            AgentEvent::Refused { tunnel, fault, .. } => {
                self.set(tunnel, |t| t.note = format!("refused: {}; {}", fault.message, fault.hint));
            }
            AgentEvent::Lost { reason } => {
                self.state = format!("offline: {reason}");
                self.lost_at = Some(Instant::now());
            }
            AgentEvent::Health { tunnel, healthy, reason } => {
                self.set(tunnel, |t| t.note = if *healthy { String::new() } else { format!("unhealthy: {reason}") });
            }
            AgentEvent::Request(request) => {
                self.served += 1;
                self.requests.push_back(Arc::clone(request));
                if self.requests.len() > REQUESTS {
                    self.requests.pop_front();
                }
            }
            AgentEvent::Moving { reason } => self.state = format!("moving: {reason}"),
            AgentEvent::Draining => self.state = "finishing what is in flight".into(),
            AgentEvent::Back { .. } | AgentEvent::LaneLost { .. } | AgentEvent::Token { .. } => {}
        }
    }

    fn set(&mut self, name: &str, change: impl FnOnce(&mut Tunnel)) {
        if let Some(tunnel) = self.tunnels.iter_mut().find(|tunnel| tunnel.name == name) {
            change(tunnel);
        }
    }

    fn draw(&mut self) {
        let text = self.render();
        let width = terminal::width();
        let mut out = String::new();
        if self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
        }
        self.drawn = 0;
        for line in text.lines() {
            out.extend(line.chars().take(width.saturating_sub(1)));
            out.push('\n');
            self.drawn += 1;
        }
        terminal::data(&out);
    }

    fn render(&self) -> String {
        let mut text = format!("adit expose   {}   {}\n\n", self.server, self.state);
        for tunnel in &self.tunnels {
            let url = if tunnel.url.is_empty() { &tunnel.name } else { &tunnel.url };
            let _ = write!(text, "  {url}");
            if !tunnel.local.is_empty() {
                let _ = write!(text, "  →  {}", tunnel.local);
            }
            if !tunnel.note.is_empty() {
                let _ = write!(text, "   ({})", tunnel.note);
            }
            text.push('\n');
        }
        if let Some(metrics) = self.metrics {
            let _ = writeln!(text, "  metrics  http://{metrics}/metrics");
        }
        let _ = writeln!(text, "\n{} request{}", self.served, if self.served == 1 { "" } else { "s" });
        for request in &self.requests {
            let _ = writeln!(text, "  {}", request_line(request));
        }
        text
    }
}

fn request_line(request: &RequestEvent) -> String {
    let status = match (request.status, request.error) {
        (0, Some(error)) => error.to_owned(),
        (0, None) => "-".into(),
        (status, Some(error)) => format!("{status} {error}"),
        (status, None) => status.to_string(),
    };
    let path = shortened(&request.path, PATH_WIDTH);
    format!("{:7} {path:PATH_WIDTH$} {status:>6}  {:>9.1?}  {}", request.method, request.took, request.tunnel)
}

/// Columns of a path in the live view; a longer one must not push its status off the screen.
const PATH_WIDTH: usize = 32;

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// Keeps the health endpoint in step.
fn track(event: &AgentEvent, ready: &Component) {
    match event {
        AgentEvent::Connected { .. } => ready.ready(),
        AgentEvent::Lost { reason } => ready.not_ready(reason.clone()),
        AgentEvent::Draining => ready.not_ready("draining"),
        _ => {}
    }
}

/// A line about an event.
pub(super) enum Told {
    /// For programs, too.
    Data(String),
    /// For people.
    Say(String),
}

/// One line for each event that a person or a log wants to see.
pub(super) fn line(event: &AgentEvent) -> Option<Told> {
    let text = match event {
        AgentEvent::Published { tunnel, url, local } => {
            return Some(Told::Data(format!("{tunnel}  {url} → {local}")));
        }
        AgentEvent::Connecting { .. } | AgentEvent::LaneLost { .. } | AgentEvent::Request(_) => return None,
        AgentEvent::Connected { server, account, lanes, took, .. } => {
            format!("connected to {server} in {} ms (account {account}, {lanes} lanes)", took.as_millis())
        }
        AgentEvent::Retrying { server, reason, hint, .. } => {
            let hint = hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            format!("cannot connect to {server}: {reason}; trying on{hint}")
        }
        AgentEvent::Refused { tunnel, fault, .. } => {
            let hint = if fault.hint.is_empty() { String::new() } else { format!("\nhint: {}", fault.hint) };
            format!("{tunnel}: refused by the server: {}{hint}", fault.message)
        }
        AgentEvent::Lost { reason } => format!("connection lost: {reason}"),
        AgentEvent::Back { outage } => format!("connection back after {:.1} s", outage.as_secs_f64()),
        AgentEvent::Moving { reason } => format!("moving to a new connection: {reason}"),
        AgentEvent::Health { tunnel, healthy: true, .. } => format!("{tunnel}: the local service is healthy"),
        AgentEvent::Health { tunnel, reason, .. } => format!("{tunnel}: the local service is unhealthy: {reason}"),
        AgentEvent::Token { problem: None } => "token renewed".into(),
        AgentEvent::Token { problem: Some(problem) } => format!("token not renewed: {problem}"),
        AgentEvent::Draining => "finishing what is in flight".into(),
    };
    Some(Told::Say(text))
}

/// An event as programs read it.
pub(super) fn value(event: &AgentEvent) -> Option<serde_json::Value> {
    Some(match event {
        AgentEvent::Published { tunnel, url, local } => {
            json!({ "event": "published", "tunnel": tunnel, "url": url, "local": local })
        }
        AgentEvent::Refused { tunnel, fault, .. } => {
            json!({ "event": "refused", "tunnel": tunnel, "code": fault.code, "message": fault.message, "hint": fault.hint })
        }
        AgentEvent::Connected { server, session, account, lanes, .. } => {
            json!({ "event": "connected", "server": server, "session": session, "account": account, "lanes": lanes })
        }
        AgentEvent::Lost { reason } => json!({ "event": "lost", "what": "agent", "reason": reason }),
        AgentEvent::Back { outage } => {
            json!({ "event": "back", "what": "agent", "outage_ms": u64::try_from(outage.as_millis()).unwrap_or(u64::MAX) })
        }
        AgentEvent::Health { tunnel, healthy, reason } => {
            json!({ "event": "health", "tunnel": tunnel, "healthy": healthy, "reason": reason })
        }
        AgentEvent::Request(r) => json!({
            "event": "request", "tunnel": &*r.tunnel, "method": r.method, "path": r.path, "status": r.status,
            "error": r.error, "took_us": u64::try_from(r.took.as_micros()).unwrap_or(u64::MAX),
            "bytes_in": r.received, "bytes_out": r.sent,
        }),
        _ => return None,
    })
}
