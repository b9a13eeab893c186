//! What `adit up` shows: a live table on a terminal, lines otherwise, or events as JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use adit_core::config::Problem;
use adit_core::health::HealthState;
use gateway::failures::LastError;
use gateway::http::State;
use gateway::routes::Routes;
use gateway::rows::Row;
use runtime::scope::Scope;
use runtime::signals::StopSignal;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tunnel::agent::AgentEvent;

use super::daemon::journal::Journal;
use super::outages::{Back, Outages};
use super::publish::TunnelRow;
use super::pulse::{self, News, Pulse};
use super::reasons::{Reasons, Said};
use super::running::{Change, KubeFound, Running, Snapshot};
use super::table::{table, wrapped};
use super::thinned;
use crate::command::output::{Line, Output, Weight};
use crate::command::{Global, live};
use crate::report::{Failure, Output as Format};
use crate::terminal;

/// How often a table on a terminal is drawn.
const DRAW: Duration = Duration::from_millis(250);
/// The last lines stay below the table.
const NOTES: usize = 5;
/// Of what a reload has changed so many are named.
const NAMED: usize = 5;
/// The time of day and two blanks.
const CLOCK: usize = 10;
/// Prints; shared by all tasks.
pub(super) struct View {
    form: Form,
    quiet: bool,
    output: Output,
    begun: Instant,
    notes: Mutex<Vec<String>>,
    /// Where a daemon keeps what has happened.
    journal: Option<Arc<Journal>>,
    agent: Mutex<live::News>,
    /// There may be other forwards than before.
    applied: Notify,
    outages: Mutex<Outages>,
    /// Reasons that were told: a request that failed for one of them says it once more.
    reasons: Mutex<Reasons>,
    /// Addresses that other machines can reach, as was told.
    exposed: Mutex<Vec<(String, SocketAddr)>>,
    /// Whose index says so when a version of the file was refused.
    routes: OnceLock<Arc<Routes>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Lines,
    Json,
    /// Nobody looks.
    None,
}

/// What was last told of a row.
#[derive(Clone, PartialEq)]
struct Told {
    state: State,
    pod: Option<String>,
    reason: Option<String>,
    /// When it was last lost, while it is.
    lost: Option<Instant>,
    /// What was said of it since it last worked: attempts go on for ever, and each reason is worth one line.
    said: Said,
    error: Option<SystemTime>,
    /// That its probes fail was told.
    unhealthy: bool,
}

impl Told {
    /// Of a row before anybody used it; a plain address is always ready.
    fn untouched(row: &Row) -> Self {
        let state = told_state(row);
        // What had to be started was news, however soon it was ready.
        let plain = row.took.is_none() || row.target.starts_with("tcp://");
        let plain = plain && matches!(state, State::Ready | State::Unchecked) && row.pod.is_none();
        let state = if plain { state } else { State::Idle };
        Self { state, pod: None, reason: None, lost: None, said: Said::default(), error: None, unhealthy: false }
    }
}

impl View {
    /// # Errors
    /// When there is no thread that could write.
    pub(super) fn start(global: &Global) -> io::Result<Arc<Self>> {
        Self::start_with(Form::of(global), global.quiet, None)
    }

    /// The view of a daemon: in the foreground as `adit up`, without a table; what happens is in the journal, too.
    ///
    /// # Errors
    /// When there is no thread that could write.
    pub(super) fn with_journal(global: Option<&Global>, journal: &Arc<Journal>) -> io::Result<Arc<Self>> {
        let form = match global.map(Form::of) {
            Some(Form::Table) => Form::Lines,
            Some(form) => form,
            None => Form::None,
        };
        Self::start_with(form, global.is_none_or(|global| global.quiet), Some(Arc::clone(journal)))
    }

    /// One that shows nothing.
    #[cfg(test)]
    pub(super) fn silent() -> Arc<Self> {
        Self::start_with(Form::None, true, None).expect("its thread starts")
    }

    fn start_with(form: Form, quiet: bool, journal: Option<Arc<Journal>>) -> io::Result<Arc<Self>> {
        let left_out = move |count| match form {
            Form::Json => Line::Data(event("left-out", &json!({ "lines": count }))),
            Form::Table | Form::Lines | Form::None => {
                Line::Say(format!("{count} lines were not printed: they came faster than they were read"))
            }
        };
        Ok(Arc::new(Self {
            form,
            quiet,
            output: Output::start(left_out)?,
            begun: Instant::now(),
            notes: Mutex::default(),
            journal,
            agent: Mutex::default(),
            applied: Notify::new(),
            outages: Mutex::default(),
            reasons: Mutex::default(),
            exposed: Mutex::default(),
            routes: OnceLock::new(),
        }))
    }

    /// A version of the file that is refused is told in the index of these, too: whoever misses a route looks there.
    pub(super) fn tell_in(&self, routes: &Arc<Routes>) {
        let _ = self.routes.set(Arc::clone(routes));
    }

    /// Which contexts there are.
    pub(super) fn kubeconfig(&self, found: &KubeFound) {
        let text = match &found.problem {
            None => {
                let noun = if found.contexts.len() == 1 { "context" } else { "contexts" };
                format!("kubeconfig  {}: {} {noun}", found.files, found.contexts.len())
            }
            Some(problem) => format!("kubeconfig  {problem}"),
        };
        self.note(
            &text,
            "kubeconfig",
            || json!({ "files": found.files, "contexts": found.contexts, "problem": found.problem }),
        );
    }

    /// Everything is open.
    pub(super) fn started(&self, snapshot: &Snapshot) {
        self.exposed(snapshot);
        match self.form {
            Form::Table | Form::None => {}
            Form::Lines => self.started_lines(snapshot),
            Form::Json => {
                for address in &snapshot.gateway {
                    self.event("gateway", &json!({ "address": address.to_string(), "dynamic_host": snapshot.dynamic }));
                }
                for row in &snapshot.rows {
                    self.event("open", &of_row(row));
                }
                let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.event("started", &json!({ "took_ms": ms }));
            }
        }
    }

    /// What other machines can reach, each address once.
    pub(super) fn exposed(&self, snapshot: &Snapshot) {
        let before = std::mem::replace(&mut *lock(&self.exposed), snapshot.exposed.clone());
        for (name, address) in snapshot.exposed.iter().filter(|now| !before.contains(now)) {
            let text = format!("{name}: whoever can reach {address} can reach what is behind it");
            self.note(&text, "exposed", || json!({ "name": name, "address": address.to_string() }));
        }
    }

    fn started_lines(&self, snapshot: &Snapshot) {
        for row in &snapshot.rows {
            if row.kind == "port" {
                let on_demand = if row.state == State::Idle { "  on demand" } else { "" };
                self.data(format!("{}  {} → {}{on_demand}", row.name, row.entrance, row.target));
            }
            if row.kind == "route" {
                self.data(format!("{}  {} → {}", row.name, row.entrance, row.target));
            }
        }
        if let Some(address) = snapshot.gateway.first() {
            let (scheme, port) = (snapshot.scheme(), address.port());
            let dynamic = snapshot.dynamic.as_ref().map_or_else(String::new, |suffix| {
                format!("  and {scheme}://{{service}}-{{port}}.svc.{{namespace}}.ns.{{context}}.cx.{suffix}:{port}")
            });
            self.data(format!("gateway  {scheme}://localhost:{port}{dynamic}"));
        }
        self.say(format!("started in {} ms", self.begun.elapsed().as_millis()));
    }

    /// Tells what changes, until the end.
    pub(super) fn follow(self: &Arc<Self>, scope: &Scope, running: &Arc<Mutex<Running>>) {
        let (view, task_scope, running) = (Arc::clone(self), scope.clone(), Arc::downgrade(running));
        scope.spawn("view", async move {
            let mut told: HashMap<(&'static str, String), Told> = HashMap::new();
            let (mut pulse, mut pause, mut news) = (Pulse::default(), Duration::ZERO, News::new());
            let mut drawn = String::new();
            while pulse::wait(&task_scope, pause, std::mem::take(&mut news), &view.applied).await {
                let Some(running) = running.upgrade() else { return };
                pause = DRAW;
                // While a reload has it, there is nothing new to see. What changes after this is news for the next look.
                let look = |running: MutexGuard<'_, Running>| (running.news(), running.snapshot());
                let Ok((changes, snapshot)) = running.try_lock().map(look) else { continue };
                drop(running);
                news = changes;
                let changed = view.look(&mut told, &snapshot);
                let until_news = pulse.pause(&snapshot.rows, changed);
                if view.form == Form::Table {
                    view.draw(&snapshot, &mut drawn);
                } else {
                    pause = until_news;
                }
                if pulse.gives_back() {
                    monitor::memory::give_back();
                }
            }
        });
    }

    /// Tells what is new; whether anything was.
    fn look(&self, told: &mut HashMap<(&'static str, String), Told>, snapshot: &Snapshot) -> bool {
        let now = Instant::now();
        let mut changed = false;
        let mut rest = std::mem::take(told);
        let key = |row: &Row| (row.kind, row.name.clone());
        let known = |row| (row, rest.remove(&key(row)));
        let rows: Vec<(&Row, Option<Told>)> = snapshot.rows.iter().map(known).collect();
        // First, as outages know names only: one of them may be that of a row of another kind now.
        rest.keys().for_each(|(_, name)| lock(&self.outages).handle_left(name));
        for (row, before) in rows {
            let after = self.compare(row, before.clone(), now);
            changed |= before.as_ref() != Some(&after);
            told.insert(key(row), after);
        }
        let mut outages = lock(&self.outages);
        outages.poll_lines(now).iter().for_each(|line| self.show(line));
        // What is told soon must be looked for.
        changed || outages.is_due_soon()
    }

    /// Says what is new about a row.
    fn compare(&self, row: &Row, before: Option<Told>, now: Instant) -> Told {
        let mut after = Told {
            state: told_state(row),
            pod: row.pod.clone(),
            reason: row.reason.clone(),
            lost: before.as_ref().and_then(|before| before.lost),
            said: before.as_ref().map(|before| before.said.clone()).unwrap_or_default(),
            error: row.last_error.as_ref().map(|error| error.at),
            unhealthy: match row.health.as_ref().map(|health| health.state) {
                Some(HealthState::Unhealthy) => true,
                // Another pod is another target: it is well when a probe says so.
                Some(HealthState::Unknown) => before.as_ref().is_some_and(|before| before.unhealthy),
                Some(HealthState::Healthy) | None => false,
            },
        };
        // What happened to a row before it was first seen is news too.
        let before = before.unwrap_or_else(|| Told::untouched(row));
        if before == after {
            return after;
        }
        if !row.echoes {
            self.state_news(row, &before, &mut after, now);
            if before.unhealthy != after.unhealthy {
                self.health_news(row, after.unhealthy);
            }
        }
        if let Some(LastError { text, .. }) = row.last_error.as_ref().filter(|error| Some(error.at) != before.error)
            && (self.form == Form::Json || !lock(&self.reasons).holds(&row.target, text, now))
        {
            let line = format!("{}: {text}", row.name);
            self.record(&line, "error", || json!({ "name": row.name, "message": text }));
            // That the cluster is away was told, or will be.
            if row.outage.is_none() {
                self.show(&line);
            }
        }
        after
    }

    fn state_news(&self, row: &Row, before: &Told, after: &mut Told, now: Instant) {
        let name = &row.name;
        let pod = row.pod.as_ref().map(|pod| format!(" (pod {pod})")).unwrap_or_default();
        match (before.state, after.state) {
            (State::Ready, State::Ready) if before.pod != row.pod => {
                self.note(&format!("{name}: now{pod}"), "moved", || json!({ "name": name, "pod": row.pod }));
            }
            (State::Unchecked, State::Ready) | (State::Ready, State::Unchecked) => {}
            (old, State::Ready) if old != State::Ready => {
                after.said = Said::default();
                let back = lock(&self.outages).handle_back(now, name);
                match after.lost.take().map(|since| now - since) {
                    Some(outage) => {
                        let text = format!("{name}: back after {:.1} s{pod}", outage.as_secs_f64());
                        let value =
                            || json!({ "name": name, "what": row.kind, "outage_ms": millis(outage), "pod": row.pod });
                        self.record(&text, "back", value);
                        self.show_back(&back, &text);
                    }
                    None => {
                        let took = row.took.map(|took| format!("  ready in {} ms", millis(took))).unwrap_or_default();
                        let text = format!("{} → {}{pod}{took}", named(row), row.target);
                        self.record(&text, "ready", || of_row(row));
                        self.show_back(&back, "");
                        // What leads where is worth a line of its own.
                        self.show(&text);
                    }
                }
            }
            (State::Ready, State::Starting | State::Failed) => {
                after.lost = Some(now);
                match row.reason.clone() {
                    Some(why) => self.lost_news(row, &why, after, now),
                    // Somebody wanted it anew, or the machine woke or moved.
                    None => self.note(&format!("{name}: dialled anew"), "renewed", || json!({ "name": name })),
                }
            }
            (State::Starting, State::Starting) if before.reason.is_none() && after.lost.is_some() => {
                if let Some(why) = row.reason.clone() {
                    self.lost_news(row, &why, after, now);
                }
            }
            (State::Ready, State::Idle) => {
                self.note(&format!("{name}: stopped, nobody uses it"), "idle", || json!({ "name": name }));
            }
            (old, State::Failed) if old != State::Failed || before.reason != row.reason => {
                let why = row.reason.clone().unwrap_or_else(|| "it cannot be reached".into());
                self.told_of(row, &why);
                let hint = row.hint.as_ref().filter(|_| row.outage.is_none());
                let then = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                let text = format!("{name}: {why}{then}");
                if after.said.is_new(&why) {
                    self.record(&text, "failed", || json!({ "name": name, "reason": why, "hint": hint }));
                    self.show_lost(row, text, now);
                } else {
                    self.note_outage(row, text, now);
                }
            }
            (_, State::Idle) => {
                // It was not looked for from here on: nobody knows since when it could have been reached again.
                (after.said, after.lost) = (Said::default(), None);
                lock(&self.outages).handle_left(name);
            }
            _ => {}
        }
    }

    /// What is lost is waited for.
    fn lost_news(&self, row: &Row, why: &str, after: &mut Told, now: Instant) {
        self.told_of(row, why);
        let text = format!("{}: lost: {}", row.name, why.strip_prefix("waiting: ").unwrap_or(why));
        self.record(&text, "lost", || json!({ "name": row.name, "what": row.kind, "reason": why }));
        self.show_lost(row, text, now);
        after.said.is_new(why);
    }

    /// That the target is gone, or that its cluster is.
    fn show_lost(&self, row: &Row, line: String, now: Instant) {
        if row.outage.is_none() {
            self.show(&line);
        }
        self.note_outage(row, line, now);
    }

    /// What is told of all entrances of a cluster goes by the reason heard last.
    fn note_outage(&self, row: &Row, line: String, now: Instant) {
        let mut outages = lock(&self.outages);
        match &row.outage {
            Some(outage) => outages.handle_lost(now, &outage.context, &outage.reason, &row.name, line),
            None => outages.handle_left(&row.name),
        }
    }

    fn show_back(&self, back: &Back, usual: &str) {
        let lines = match back {
            Back::Usual => [usual, ""],
            Back::After(lost) => [lost, usual],
            Back::ForAll(line) => [line, ""],
            Back::Nothing => ["", ""],
        };
        lines.into_iter().filter(|line| !line.is_empty()).for_each(|line| self.show(line));
    }

    /// On a terminal the prober says it itself, as a warning.
    fn health_news(&self, row: &Row, unhealthy: bool) {
        let error = row.health.as_ref().and_then(|health| health.error.as_deref()).unwrap_or("no answer");
        let (name, text) = match unhealthy {
            true => ("unhealthy", format!("{}: its probes fail: {error}", row.name)),
            false => ("healthy", format!("{}: its probes succeed again", row.name)),
        };
        let value = json!({ "name": row.name, "error": unhealthy.then_some(error) });
        if let Some(journal) = &self.journal {
            journal.note(name, &text, &value);
        }
        self.event(name, &value);
    }

    fn draw(&self, snapshot: &Snapshot, drawn: &mut String) {
        let width = terminal::width();
        let height = terminal::height();
        let notes = self.notes();
        let wished = table(snapshot, width, usize::MAX, SystemTime::now()).lines().count();
        let notes = last_lines(&notes, width, room_for_notes(height, wished));
        // The last line stays free for the cursor.
        let room = height.saturating_sub(2 + notes.len());
        let mut text = table(snapshot, width, room, SystemTime::now());
        if !notes.is_empty() {
            text.push('\n');
        }
        for line in &notes {
            let _ = writeln!(text, "{line}");
        }
        if text == *drawn {
            return;
        }
        let lines = drawn.lines().count();
        let over = if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
        // One line less: the writer adds its own end.
        let body = text.strip_suffix('\n').unwrap_or(&text);
        self.output.put(Line::Data(format!("{over}{body}")), Weight::Light);
        *drawn = text;
    }

    /// Another version of the file is at work.
    pub(super) fn applied(&self) {
        self.applied.notify_one();
    }

    /// The file as it is now is in force: the pages of the gateway say nothing else any more.
    pub(super) fn in_force(&self) {
        if let Some(routes) = self.routes.get() {
            routes.set_refused(None);
        }
    }

    /// The file was read again and is in force.
    pub(super) fn reloaded(&self, change: &Change) {
        self.in_force();
        self.note(
            &format!("reloaded: {}", in_words(change)),
            "reloaded",
            || json!({ "added": change.added, "changed": change.changed, "removed": change.removed }),
        );
        if let Some(gone) = change.most_gone() {
            let text = thinned::in_words(gone);
            self.record(&text, "warning", || json!({ "message": text }));
            self.show(&format!("warning: {text}"));
        }
    }

    /// Contexts that the file names are not there.
    pub(super) fn missing(&self, problems: &[Problem]) {
        for problem in problems {
            let text = format!(
                "{}\nnote: everything else runs; this is looked for again when the kubeconfig changes",
                problem.to_string().trim_end()
            );
            self.note(
                &text,
                "missing",
                || json!({ "key": problem.key, "line": problem.line, "message": problem.message, "hint": problem.hint }),
            );
        }
    }

    /// TLS ends here with certificates of an authority that no store of this machine has.
    pub(super) fn untrusted(&self) {
        let text = "tls  ends here, with certificates of the local authority; browsers trust it after: adit trust";
        self.note(text, "untrusted", || json!({ "hint": "adit trust" }));
    }

    /// The file was read again and is not in force.
    pub(super) fn not_reloaded(&self, failure: &Failure) {
        let text = failure.text();
        if let Some(routes) = self.routes.get() {
            routes.set_refused(Some(text.trim_end().to_owned()));
        }
        self.note(&format!("not reloaded, everything stays as it is:\n{}", text.trim_end()), "reload-failed", || {
            failure.json()["error"].clone()
        });
    }

    /// What a tunnel leads to could not be reached.
    pub(super) fn unreachable(&self, tunnel: &str, target: &str, failure: &Failure) {
        let reason = failure.message();
        if lock(&self.reasons).holds(target, reason, Instant::now()) {
            return;
        }
        self.told(target, reason);
        let named = if reason.contains(target) { String::new() } else { format!(" → {target}") };
        let hint = failure.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        self.note(
            &format!("published {tunnel}{named}: {reason}{hint}"),
            "error",
            || json!({ "name": tunnel, "target": target, "message": reason, "hint": failure.hint() }),
        );
    }

    /// It can be reached again.
    pub(super) fn reachable(&self, tunnel: &str, target: &str) {
        let text = format!("published {tunnel}: {target} answers again");
        self.note(&text, "reachable", || json!({ "name": tunnel, "target": target }));
    }

    /// An address of the new version could not be had after all; what it was to replace is open again, or is not.
    pub(super) fn not_opened(&self, failure: &Failure, reopened: bool) {
        let what = if reopened { "the address before stays open" } else { "the address before could not be reopened" };
        let text = format!("{what}: {}", failure.text().trim_end());
        self.note(&text, "not-opened", || failure.json()["error"].clone());
    }

    /// An address was left out at the start.
    pub(super) fn left_out(&self, owner: Option<&str>, failure: &Failure) {
        let name = owner.unwrap_or("gateway");
        let hint = failure.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        let text = format!("{name}: {}; it is tried again every few seconds{hint}", failure.message());
        self.note(&text, "failed", || json!({ "name": name, "reason": failure.message(), "hint": failure.hint() }));
    }

    /// It could be opened after all.
    pub(super) fn opened_late(&self, owner: Option<&str>, address: SocketAddr) {
        let name = owner.unwrap_or("gateway");
        let text = format!("{name}: {address} is open now");
        self.note(&text, "opened", || json!({ "name": name, "address": address.to_string() }));
    }

    /// What is to be published is refused; it is asked for again.
    pub(super) fn refused(&self, reason: &str, hint: Option<&str>, wait: Duration) {
        let then = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        let when = wait.as_secs().div_ceil(60).max(1);
        let text = format!("publish: {reason}; asking again in {when} min, and whenever the file is read again{then}");
        let value = || json!({ "name": "publish", "reason": reason, "hint": hint, "retry_in_ms": millis(wait) });
        self.note(&text, "failed", value);
    }

    /// The machine slept so long: everything is dialled anew.
    pub(super) fn woke(&self, slept: Duration) {
        let text = format!("this machine was asleep for {} s: everything is dialled anew", slept.as_secs());
        self.note(&text, "woke", || json!({ "asleep_ms": millis(slept) }));
    }

    /// Its way out is another one.
    pub(super) fn moved(&self) {
        self.note("this machine is in another network: everything is dialled anew", "network", || Value::Null);
    }

    /// A part of it has failed for good.
    pub(super) fn failed(&self, name: &str, failure: &Failure) {
        let text = failure.text();
        self.note(
            &format!("{name}: {}", text.trim_end()),
            "failed",
            || json!({ "name": name, "reason": failure.message(), "hint": failure.hint() }),
        );
    }

    /// What the agent tells.
    pub(super) fn agent(&self, agent_event: &AgentEvent) {
        match self.form {
            Form::Json => {
                if let Some(value) = live::value(agent_event) {
                    self.output.put(Line::Data(value.to_string()), Weight::Full);
                }
            }
            // Attempts go on for ever, and each reason is worth one line.
            Form::Lines | Form::Table if !lock(&self.agent).is_new(agent_event) => {}
            Form::Lines | Form::Table => match live::line(agent_event) {
                Some(live::Told::Data(text)) if self.form == Form::Lines => self.data(text),
                Some(live::Told::Data(_)) | None => {}
                Some(live::Told::Say(text)) => self.note(&text, "agent", || Value::Null),
            },
            Form::None => {
                if let (Some(journal), Some(value)) = (&self.journal, live::value(agent_event)) {
                    let text = match live::line(agent_event) {
                        Some(live::Told::Data(text) | live::Told::Say(text)) => text,
                        None => return,
                    };
                    let event = value["event"].as_str().unwrap_or("agent").to_owned();
                    journal.note(&event, &text, &value);
                }
            }
        }
    }

    /// What happens to published ports of an SSH server.
    pub(super) fn remote(&self, name: &str, text: &str, value: impl FnOnce() -> Value) {
        self.note(text, name, value);
    }

    /// The end has begun.
    pub(super) fn finishing(&self, snapshot: &Snapshot) {
        let published = snapshot.published.iter().map(TunnelRow::streams);
        let live: u64 = snapshot.rows.iter().map(|row| row.streams).chain(published).sum();
        if live > 0 && self.form != Form::Json {
            let noun = if live == 1 { "stream" } else { "streams" };
            // What the terminal shows of Ctrl-C stands where the cursor is.
            let line = if self.form == Form::Table { "\n" } else { "" };
            self.say(format!("{line}waiting for {live} {noun} to end; Ctrl-C again cuts them"));
        }
    }

    /// It has ended.
    pub(super) async fn stopped(&self, signal: Option<StopSignal>) {
        self.event("stopped", &json!({ "signal": signal.map(|signal| format!("{signal:?}").to_lowercase()) }));
        // Whoever has not read it by then is not waited for.
        let _ = self.output.flush().await;
    }

    /// News for people, or for programs.
    fn note(&self, text: &str, name: &str, value: impl FnOnce() -> Value) {
        self.record(text, name, value);
        self.show(text);
    }

    /// News for programs and for the journal.
    fn record(&self, text: &str, name: &str, value: impl FnOnce() -> Value) {
        let value = value();
        if let Some(journal) = &self.journal {
            journal.note(name, text, &value);
        }
        self.event(name, &value);
    }

    /// News for people.
    fn show(&self, text: &str) {
        match self.form {
            Form::None | Form::Json => {}
            Form::Lines => self.say(text.to_owned()),
            Form::Table => {
                let mut notes = self.notes();
                notes.extend(text.lines().map(|line| format!("{}  {line}", clock(SystemTime::now()))));
                let surplus = notes.len().saturating_sub(NOTES);
                notes.drain(..surplus);
            }
        }
    }

    fn event(&self, name: &str, value: &Value) {
        if self.form == Form::Json {
            self.output.put(Line::Data(event(name, value)), Weight::Full);
        }
    }

    fn data(&self, text: String) {
        self.output.put(Line::Data(text), Weight::Full);
    }

    fn say(&self, text: String) {
        if !self.quiet {
            self.output.put(Line::Say(text), Weight::Full);
        }
    }

    fn notes(&self) -> MutexGuard<'_, Vec<String>> {
        lock(&self.notes)
    }

    /// Others call a forward of the file by its name.
    fn told_of(&self, row: &Row, reason: &str) {
        self.told(&row.target, reason);
        if matches!(row.kind, "port" | "forward") {
            self.told(&format!("forward:{}", row.name), reason);
        }
    }

    fn told(&self, target: &str, reason: &str) {
        lock(&self.reasons).add(target, reason, Instant::now());
    }
}

/// The state whose change is news. That what is ready fails is told with each thing that failed.
const fn told_state(row: &Row) -> State {
    match row.state {
        State::Failing => State::Ready,
        state => state,
    }
}

/// What has changed, by name as long as these are few.
fn in_words(change: &Change) -> String {
    if change.is_empty() {
        return "nothing has changed".to_owned();
    }
    let list = |what: &str, names: &[String]| match names {
        [] => None,
        names if names.len() <= NAMED => Some(format!("{what} {}", names.join(", "))),
        names => Some(format!("{what} {} and {} more", names[..NAMED].join(", "), names.len() - NAMED)),
    };
    let parts = [list("added", &change.added), list("changed", &change.changed), list("removed", &change.removed)];
    parts.into_iter().flatten().collect::<Vec<String>>().join("; ")
}

/// How a row is called where it is told what it leads to: a host's URL says its name.
fn named(row: &Row) -> String {
    match row.kind {
        "host" | "route" if row.entrance.contains(&row.name) => row.entrance.clone(),
        _ if row.entrance.is_empty() => row.name.clone(),
        _ => format!("{}  {}", row.name, row.entrance),
    }
}

/// Lines for what has happened: what the table does not wish for, at most half of the height, but always some.
fn room_for_notes(height: usize, wished: usize) -> usize {
    let least = height / 4;
    height.saturating_sub(2 + wished).clamp(least, (height / 2).max(least))
}

/// The notes as lines of the terminal: whole ones, the latest, as many as there is room for, and one at least.
fn last_lines(notes: &[String], width: usize, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for note in notes.iter().rev() {
        let more = wrapped(note, width, CLOCK);
        if !lines.is_empty() && lines.len() + more.len() > room {
            break;
        }
        lines.extend(more.into_iter().rev());
    }
    lines.reverse();
    lines
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Form {
    fn of(global: &Global) -> Self {
        match global.output {
            Format::Json => Self::Json,
            Format::Text if terminal::is_interactive() && global.verbose == 0 => Self::Table,
            Format::Text => Self::Lines,
        }
    }
}

/// A row as programs read it.
pub(super) fn of_row(row: &Row) -> Value {
    json!({
        "name": row.name, "kind": row.kind, "entrance": row.entrance, "target": row.target, "pod": row.pod,
        "state": row.state.as_str(), "took_ms": row.took.map(millis), "reason": row.reason, "streams": row.streams,
        "opened": row.opened, "bytes_in": row.bytes_in, "bytes_out": row.bytes_out,
        "last_error": row.last_error.as_ref().map(|error| &error.text),
        "health": row.health.as_ref().map(|health| json!({
            "state": health.state.as_str(), "latency_ms": health.latency.map(millis), "error": health.error,
            "failures": health.failures,
        })),
    })
}

/// An event as one line, its name first.
fn event(name: &str, value: &Value) -> String {
    let rest = value.to_string();
    match rest.strip_prefix('{').filter(|rest| *rest != "}") {
        Some(rest) => format!("{{\"event\":{},{rest}", Value::from(name)),
        None => format!("{{\"event\":{}}}", Value::from(name)),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The time of day in UTC, as `HH:MM:SS`.
fn clock(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests;
