//! The section `publish` in `adit up`: an agent whose tunnels may lead to whatever this file can reach.
//!
//! Another version of the section is another agent. The one before serves until its successor does: a server hands the
//! names from an agent's older session to its newer one, all at once, so no visitor finds nobody.

mod chosen;
mod remote;
mod telling;
mod untrusted;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::forward::{RemotePort, RemotePorts, SshServers};
use adit_core::config::AgentFile;
use adit_core::target::{SshServer, Target};
use gateway::targets::Targets;
use prometheus_client::registry::Registry;
use runtime::connect::Connect;
use runtime::scope::Scope;
use runtime::watch::FileWatch;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tunnel::agent::{Agent, AgentEvent, AgentMetrics, PATIENCE};

pub(super) use self::chosen::Chosen;
use self::telling::{Telling, Troubles};
use super::view::View;
use crate::command::agent;
use crate::report::{Failure, failure};

/// An agent whose successor is not connected after this time goes all the same: what the file does not name any more
/// must not stay public because a server cannot be reached.
const HANDOVER: Duration = Duration::from_secs(30);

/// So long the successor of an agent that is just connecting waits for it.
const PENDING: Duration = Duration::from_secs(5);

/// What is said of all tunnels together; no tunnel has an empty name.
const REFUSAL: &str = "";

/// What a version of the file means for the agent.
pub(super) enum Next {
    /// Nothing.
    Same,
    /// Another agent.
    Other(Box<Ready>),
    /// None at all.
    None,
}

/// Something that has all it needs to publish, and is not connected yet.
pub(super) struct Ready {
    work: Work,
    tunnels: Vec<TunnelRow>,
    troubles: Troubles,
    token: Option<FileWatch>,
}

/// Who publishes.
enum Work {
    /// The agent of a tunnel server.
    Agent(Box<Agent>),
    /// Ports of an SSH server.
    Ssh { server: SshServer, servers: Arc<SshServers>, ports: Vec<RemotePort>, chosen: Option<Arc<Chosen>> },
}

/// The running agent.
pub(super) struct Published {
    now: Serving,
    before: Before,
}

/// Those before the one at work that serve in its place, or may have taken the names already.
type Before = Arc<Mutex<Vec<Serving>>>;

/// An agent at work, or ports of an SSH server that are open. It drains when this is dropped.
struct Serving {
    state: Arc<State>,
    scope: Scope,
    ports: Option<Arc<RemotePorts>>,
    _token: Option<FileWatch>,
}

struct State {
    tunnels: Mutex<Vec<TunnelRow>>,
    troubles: Mutex<Troubles>,
    phase: watch::Sender<Phase>,
    /// There is a successor: how this agent ends is no news.
    superseded: AtomicBool,
    /// What was said last of what is tried again and again.
    said: Mutex<HashMap<String, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The one before it is just connecting: whoever comes to the server last has the names.
    Waiting,
    /// No visitor is served.
    Connecting,
    /// There is a session, and the server has answered for every tunnel.
    Connected,
    /// The server can be reached and wants none of it. It is asked again, much later.
    Refused,
    /// It will never connect again.
    Ended,
}

/// A published tunnel, for tables and JSON.
#[derive(Clone, Debug, Default)]
pub(super) struct TunnelRow {
    pub(super) name: String,
    pub(super) url: String,
    /// The place that was asked for, when it may be another than the one that is given.
    asked: String,
    pub(super) target: String,
    /// What keeps it from being served, if anything does.
    pub(super) note: String,
    /// That is so until somebody changes something, here or at the server.
    refused: bool,
    /// What the last failed probe of its target saw.
    unhealthy: String,
    /// Why its target could not be reached; visitors are not told.
    pub(super) trouble: String,
    /// Streams of visitors that are open now; the next version of the section goes on with it.
    live: Arc<AtomicU64>,
    pub(super) requests: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl TunnelRow {
    /// How it is, in a word.
    pub(super) fn state(&self) -> &'static str {
        match () {
            () if self.refused => "refused",
            () if !self.note.is_empty() => "offline",
            () if !self.unhealthy.is_empty() || !self.trouble.is_empty() => "failing",
            () => "online",
        }
    }

    /// Why it is not online.
    pub(super) fn reason(&self) -> Option<String> {
        let unhealthy = (!self.unhealthy.is_empty()).then(|| format!("unhealthy: {}", self.unhealthy));
        let said = |text: &String| (!text.is_empty()).then(|| text.clone());
        said(&self.note).or(unhealthy).or_else(|| said(&self.trouble))
    }

    /// As programs read it.
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name, "url": self.url, "target": self.target, "state": self.state(), "reason": self.reason(),
            "streams": self.streams(), "requests": self.requests, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out,
        })
    }

    /// Streams of visitors that are open now.
    pub(super) fn streams(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Nobody is served, and why.
    fn hold(&mut self, refused: bool, note: &str) {
        self.refused = refused;
        note.clone_into(&mut self.note);
    }

    /// Visitors are served.
    fn open(&mut self) {
        self.refused = false;
        self.note.clear();
    }
}

/// Makes ready what `new` publishes. Nothing is connected yet, but whatever can be known to be wrong is told here, while
/// the version before still runs.
pub(super) fn prepare(
    new: &AgentFile,
    old: &AgentFile,
    running: Option<&Published>,
    targets: &Arc<Targets>,
    servers: &Arc<SshServers>,
    chosen: Option<&Arc<Chosen>>,
    view: &Arc<View>,
) -> Result<Next, Failure> {
    // `kubernetes.protect` asks nothing here, other than in `adit expose`: the file itself names what it publishes, and
    // nobody may be there to answer when it is read again.
    let Some(publish) = new.publish.as_ref().filter(|publish| !publish.tunnels.is_empty()) else {
        return Ok(Next::None);
    };
    // One that waits to ask again asks at once, and one that has given up is started again, though nothing has changed in
    // the file.
    if old.publish.as_ref() == Some(publish) && running.is_some_and(Published::is_alive) {
        return Ok(Next::Same);
    }
    let troubles = Troubles::default();
    let telling = |name: &str, limit, inner| -> Arc<dyn Connect> {
        Arc::new(Telling::new(name, limit, inner, Arc::clone(view), Arc::clone(&troubles)))
    };
    let connect = |target: &Target| targets.connect(target);
    if let Some(server) = &publish.via {
        let open = |name: &str, limit, target: &Target| telling(name, limit, connect(target));
        let ready = remote::ready(publish, server, servers, chosen, Arc::clone(&troubles), &open);
        return Ok(Next::Other(Box::new(ready)));
    }
    let token = agent::token_source(publish, false)?;
    token.read().map_err(|error| failure(&error))?;
    let mut config = agent::agent_config(publish, token, &connect)?;
    // Around all that it takes to speak with the target, TLS as well.
    for tunnel in &mut config.tunnels {
        let (name, limit) = (&tunnel.name, tunnel.connect_timeout);
        tunnel.connect = telling(name, limit, Arc::clone(&tunnel.connect));
        tunnel.connect_h2 = tunnel.connect_h2.take().map(|connect| telling(name, limit, connect));
        tunnel.connect_timeout = limit + telling::GRACE;
        // Streams of the agent before go on.
        if let Some(live) = running.and_then(|running| running.streams_of(&tunnel.name)) {
            tunnel.streams = live;
        }
    }
    config.trust.client_config(&[]).map_err(|error| failure(&error))?;
    config.patience = Some(PATIENCE);
    let token = agent::watch_token(&mut config);
    let tunnels = config.tunnels.iter().map(|tunnel| TunnelRow {
        name: tunnel.name.clone(),
        target: tunnel.local.clone(),
        live: Arc::clone(&tunnel.streams),
        note: "waiting".into(),
        ..TunnelRow::default()
    });
    let tunnels = tunnels.collect();
    let metrics = Arc::new(AgentMetrics::new(&mut Registry::default()));
    let agent = Agent::new(config, metrics).map_err(|error| failure(&error))?;
    Ok(Next::Other(Box::new(Ready { work: Work::Agent(Box::new(agent)), tunnels, troubles, token })))
}

impl Published {
    /// Starts an agent, and ends the one before as soon as this one has taken over.
    pub(super) fn start(ready: Ready, before: Option<Self>, scope: &Scope, view: &Arc<View>) -> Self {
        let (ready, before) = match before {
            // What stays keeps its visitors, and its port is never closed.
            Some(before) => match before.now.takes_on(ready) {
                None => return before,
                Some(ready) => (ready, Some(before)),
            },
            None => (ready, None),
        };
        let before: Before = Arc::new(Mutex::new(before.map(Self::into_olds).unwrap_or_default()));
        let now = Serving::start(ready, scope, view, &before);
        let olds: Vec<Arc<State>> = lock(&before).iter().map(|old| Arc::clone(&old.state)).collect();
        for old in olds {
            let (phase, new) = (old.phase.subscribe(), now.state.phase.subscribe());
            now.scope.spawn("publish handover", hand_over(Arc::clone(&before), old, phase, new, now.scope.clone()));
        }
        Self { now, before }
    }

    pub(super) fn rows(&self) -> Vec<TunnelRow> {
        let mut rows = self.now.state.tunnels().clone();
        let troubles = Arc::clone(&lock(&self.now.state.troubles));
        let troubles = lock(&troubles);
        for row in &mut rows {
            row.trouble = troubles.get(&row.name).cloned().unwrap_or_default();
        }
        rows
    }

    /// The machine slept, or its network changed: agents find out by their heartbeats.
    pub(super) fn wake(&self) {
        if let Some(ports) = &self.now.ports {
            ports.wake();
        }
    }

    /// The file was read again: what was in the way may be gone.
    pub(super) fn look_again(&self) {
        if let Some(ports) = &self.now.ports {
            ports.look_again();
        }
    }

    fn is_alive(&self) -> bool {
        !matches!(*self.now.state.phase.borrow(), Phase::Refused | Phase::Ended)
    }

    /// The counter of a tunnel's open streams.
    fn streams_of(&self, name: &str) -> Option<Arc<AtomicU64>> {
        self.now.state.tunnels().iter().find(|row| row.name == name).map(|row| Arc::clone(&row.live))
    }

    /// Those that serve visitors, or are about to.
    fn into_olds(self) -> Vec<Serving> {
        self.now.state.superseded.store(true, Ordering::Relaxed);
        let mut olds = std::mem::take(&mut *lock(&self.before));
        if !matches!(*self.now.state.phase.borrow(), Phase::Waiting | Phase::Refused) {
            olds.push(self.now);
        }
        olds
    }
}

/// Ends one of those before, once its successor serves or never will.
async fn hand_over(
    before: Before,
    old: Arc<State>,
    mut phase: watch::Receiver<Phase>,
    mut new: watch::Receiver<Phase>,
    scope: Scope,
) {
    // One that has connected and lost it serves nobody, and were it to connect again, it would take the names back.
    let useless = async {
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Connected | Phase::Refused | Phase::Ended)).await;
        let _ = phase.wait_for(|phase| *phase != Phase::Connected).await;
    };
    let over = async {
        tokio::select! {
            biased;
            _ = new.wait_for(|phase| !matches!(phase, Phase::Waiting | Phase::Connecting)) => {}
            () = useless => {}
        }
    };
    tokio::select! {
        biased;
        () = scope.drained() => {}
        _ = tokio::time::timeout(HANDOVER, over) => {}
    }
    lock(&before).retain(|other| !Arc::ptr_eq(&other.state, &old));
}

/// Waits until an agent that was superseded while it connected has done so. Ended in the middle it could take the names
/// after all, and leave them to nobody.
async fn after_the_one_before(before: &Before, state: &State) {
    let connecting = |old: &Serving| old.ports.is_none() && old.state.is(Phase::Connecting);
    let pending = lock(before).iter().find(|old| connecting(old)).map(|old| old.state.phase.subscribe());
    if let Some(mut pending) = pending {
        let _ = tokio::time::timeout(PENDING, pending.wait_for(|phase| *phase != Phase::Connecting)).await;
        lock(before).retain(|old| !connecting(old));
    }
    state.enter(Phase::Connecting);
}

impl Serving {
    fn start(ready: Ready, scope: &Scope, view: &Arc<View>, before: &Before) -> Self {
        let Ready { work, tunnels, troubles, token } = ready;
        let scope = scope.child();
        let state = Arc::new(State {
            tunnels: Mutex::new(tunnels),
            troubles: Mutex::new(troubles),
            phase: watch::Sender::new(Phase::Waiting),
            superseded: AtomicBool::new(false),
            said: Mutex::default(),
        });
        let ports = match work {
            Work::Agent(agent) => {
                start_agent(*agent, &scope, &state, view, Arc::clone(before));
                None
            }
            Work::Ssh { server, servers, ports, chosen } => {
                let told = remote::Told::new(&scope, &server, &state, chosen, view);
                Some(remote::start(server, servers, ports, told, &scope))
            }
        };
        Self { state, scope, ports, _token: token }
    }

    /// Other ports of the same SSH server need no other connection; what is not taken on is given back.
    fn takes_on(&self, ready: Ready) -> Option<Ready> {
        match (&self.ports, ready.work) {
            (Some(open), Work::Ssh { server, ports, .. }) if *open.server() == server => {
                self.state.replace(ready.tunnels);
                *lock(&self.state.troubles) = ready.troubles;
                open.set(ports);
                None
            }
            (_, work) => Some(Ready { work, ..ready }),
        }
    }
}

fn start_agent(agent: Agent, scope: &Scope, state: &Arc<State>, view: &Arc<View>, before: Before) {
    scope.spawn("published", follow(agent.events(), Arc::clone(state), Arc::clone(view)));
    let (agent_scope, agent_state, view) = (scope.clone(), Arc::clone(state), Arc::clone(view));
    scope.spawn("agent", async move {
        tokio::select! {
            biased;
            () = agent_scope.drained() => return,
            () = after_the_one_before(&before, &agent_state) => {}
        }
        let result = agent.run(agent_scope).await;
        agent_state.phase.send_replace(Phase::Ended);
        if let Err(error) = result
            && !agent_state.superseded.load(Ordering::Relaxed)
        {
            let failure = failure(&error);
            agent_state.note(true, failure.message());
            view.failed("publish", &failure);
        }
    });
}

impl Drop for Serving {
    fn drop(&mut self) {
        // What is in flight is finished.
        self.scope.drain();
    }
}

async fn follow(mut events: broadcast::Receiver<AgentEvent>, state: Arc<State>, view: Arc<View>) {
    // A session that is refused all its tunnels is no news.
    let mut held = None;
    loop {
        match events.recv().await {
            Ok(event) => {
                let refused = state.is(Phase::Refused);
                state.take(&event);
                match &event {
                    AgentEvent::Connected { .. } if state.was_refused() => held = Some(event),
                    AgentEvent::Retrying { refused: true, reason, hint, wait, .. } => {
                        held = None;
                        if state.is_news(REFUSAL, reason) {
                            view.refused(reason, hint.as_deref(), *wait);
                        }
                    }
                    AgentEvent::Refused { tunnel, fault, .. } if !state.is_news(tunnel, &fault.message) => {}
                    AgentEvent::Draining if refused => {}
                    _ => {
                        if let AgentEvent::Published { tunnel, .. } = &event {
                            state.forget_news(REFUSAL);
                            state.forget_news(tunnel);
                            held.take().iter().for_each(|connected| view.agent(connected));
                        }
                        view.agent(&event);
                    }
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

impl State {
    fn take(&self, event: &AgentEvent) {
        match event {
            // What it is asked now may be granted.
            AgentEvent::Connecting { .. } if self.is(Phase::Refused) => self.enter(Phase::Connecting),
            AgentEvent::Connected { .. } => self.enter(Phase::Connected),
            AgentEvent::Published { tunnel, url, .. } => {
                self.enter(Phase::Connected);
                self.set(tunnel, |row| {
                    row.url.clone_from(url);
                    row.open();
                });
            }
            AgentEvent::Refused { tunnel, fault, .. } => self.set(tunnel, |row| row.hold(true, &fault.message)),
            AgentEvent::Health { tunnel, healthy, reason } => {
                self.set(tunnel, |row| row.unhealthy = if *healthy { String::new() } else { reason.clone() });
            }
            AgentEvent::Lost { reason } => {
                self.enter(Phase::Connecting);
                self.note(false, &format!("offline: {reason}"));
            }
            AgentEvent::Retrying { reason, refused: true, .. } => {
                self.enter(Phase::Refused);
                self.note(true, reason);
            }
            AgentEvent::Retrying { reason, .. } => self.note(false, &format!("reconnecting: {reason}")),
            AgentEvent::Request(request) => self.set(&request.tunnel, |row| {
                row.requests += 1;
                row.bytes_in += request.received;
                row.bytes_out += request.sent;
            }),
            _ => {}
        }
    }

    /// Whether the last that was said of all tunnels is that they are refused.
    fn was_refused(&self) -> bool {
        lock(&self.said).contains_key(REFUSAL)
    }

    fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }

    /// The end stays the end, however late an event is read.
    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let moves = *now != phase && *now != Phase::Ended;
            if moves {
                *now = phase;
            }
            moves
        });
    }

    fn note(&self, refused: bool, text: &str) {
        self.tunnels().iter_mut().for_each(|row| row.hold(refused, text));
    }

    fn set(&self, name: &str, change: impl FnOnce(&mut TunnelRow)) {
        if let Some(row) = self.tunnels().iter_mut().find(|row| row.name == name) {
            change(row);
        }
    }

    /// Rows of another version; one that is the same in all that is written goes on.
    fn replace(&self, rows: Vec<TunnelRow>) {
        let mut tunnels = self.tunnels();
        let same = |old: &TunnelRow, new: &TunnelRow| old.name == new.name && old.asked == new.asked;
        *tunnels = rows
            .into_iter()
            .map(|new| match tunnels.iter().find(|old| same(old, &new)) {
                Some(old) => TunnelRow { target: new.target, ..old.clone() },
                None => new,
            })
            .collect();
    }

    /// What a tunnel leads to.
    fn target(&self, name: &str) -> String {
        self.tunnels().iter().find(|row| row.name == name).map(|row| row.target.clone()).unwrap_or_default()
    }

    /// Whether something else is said than before.
    fn is_news(&self, about: &str, text: &str) -> bool {
        let before = lock(&self.said).insert(about.to_owned(), text.to_owned());
        before.as_deref() != Some(text)
    }

    fn forget_news(&self, about: &str) {
        lock(&self.said).remove(about);
    }

    fn tunnels(&self) -> MutexGuard<'_, Vec<TunnelRow>> {
        lock(&self.tunnels)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
