//! What all parts of a server share: sessions, routes, accounts, configuration.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use adit_core::config::server::ServerConfig;
use arc_swap::ArcSwap;
use mux::ErrorCode;
use mux::message::{Fault, GoAway};
use runtime::scope::Scope;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::access::AccessLog;
use super::account::Accounts;
use super::audit::Audit;
use super::auth::{AuthFilesError, Authenticate, Credentials};
use super::metrics::Metrics;
use super::ports::Ports;
use super::registry::{Member, Registry, Route, RouteKey};
use super::reservations::Reservations;
use super::session::Session;
use crate::lane::LaneEnd;

/// How long a session that was replaced may finish its streams.
const RETIREMENT: Duration = Duration::from_secs(60);

/// What all parts of a server share.
pub(crate) struct State {
    pub(super) config: ArcSwap<ServerConfig>,
    pub(super) data_dir: PathBuf,
    pub(super) scope: Scope,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) accounts: Accounts,
    pub(super) credentials: Credentials,
    pub(super) reservations: Reservations,
    pub(super) ports: Ports,
    /// One permit: claims and releases of routes happen one at a time, or a late release would close the port, or
    /// give away the name, that a claim beside it has just taken.
    pub(super) turns: Semaphore,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access: AccessLog,
    pub(super) audit: Audit,
    pub(super) sessions: Mutex<Sessions>,
    pub(super) epochs: AtomicU64,
    pub(super) draining: AtomicBool,
    /// The port visitors reach, as bound; for URLs.
    pub(super) public_port: u16,
    pub(super) server_timing: bool,
}

/// The live sessions.
#[derive(Default)]
pub(super) struct Sessions {
    by_id: HashMap<String, Arc<Session>>,
    /// (account, agent id) → session id.
    by_agent: HashMap<(String, String), String>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

impl State {
    pub(super) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions().by_id.get(id).cloned()
    }

    pub(super) fn all_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions().by_id.values().cloned().collect()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The session this agent has now, if any.
    pub(super) fn session_of(&self, account: &str, agent: &str) -> Option<Arc<Session>> {
        let sessions = self.sessions();
        let id = sessions.by_agent.get(&(account.to_owned(), agent.to_owned()))?;
        sessions.by_id.get(id).cloned()
    }

    /// Adds a session; the agent's one before it is its predecessor until the new one has registered.
    ///
    /// An agent has two sessions at the most: a predecessor that had one of its own never registered, and ends at
    /// once, or successions without end would be a way around the quota.
    pub(super) fn add_session(&self, session: &Arc<Session>) {
        let agent = (session.account.name().to_owned(), session.agent_id.clone());
        let mut sessions = self.sessions();
        sessions.by_id.insert(session.id.clone(), Arc::clone(session));
        let before = sessions.by_agent.get(&agent).and_then(|id| sessions.by_id.get(id).cloned());
        let overtaken = before.as_ref().is_some_and(|before| before.epoch > session.epoch);
        if !overtaken {
            sessions.by_agent.insert(agent, session.id.clone());
        }
        drop(sessions);
        self.metrics.connections.inc();
        let Some(before) = before else { return };
        if overtaken {
            // Its answer took longer than a newer session's whole handshake.
            return session.close(ErrorCode::Replaced, "a newer session of this agent took over");
        }
        match before.take_previous() {
            Some(oldest) => {
                session.set_previous(oldest);
                before.close(ErrorCode::Replaced, "a newer session of this agent took over");
            }
            None => session.set_previous(before),
        }
    }

    /// The last lane of a session is gone: its claims are taken back, each only if it is still its own.
    pub(super) async fn session_ended(&self, session: &Arc<Session>, end: &LaneEnd) {
        let agent = (session.account.name().to_owned(), session.agent_id.clone());
        // One that ends before it has registered leaves the agent to its predecessor.
        let previous = session.take_previous();
        {
            let mut sessions = self.sessions();
            if sessions.by_id.remove(&session.id).is_none() {
                return;
            }
            if sessions.by_agent.get(&agent).is_some_and(|id| *id == session.id) {
                match previous.filter(|previous| sessions.by_id.contains_key(&previous.id)) {
                    Some(previous) => sessions.by_agent.insert(agent, previous.id.clone()),
                    None => sessions.by_agent.remove(&agent),
                };
            }
        }
        self.metrics.connections.dec();
        self.metrics.connection_seconds.observe(session.started.elapsed().as_secs_f64());
        let tunnels: Vec<(RouteKey, u64)> =
            session.with_tunnels(|tunnels| tunnels.drain().map(|(_, t)| (t.key, t.epoch)).collect());
        for (key, epoch) in tunnels {
            let _turn = self.turn().await;
            self.release(&key, &session.id, epoch).await;
        }
        tracing::info!(agent = %session.agent_id, account = session.account.name(), %end, "agent disconnected");
        self.audit.session_ended(session, end);
    }

    /// The turn to claim or release routes; `None` never comes, as nobody closes it.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Takes a claim back and closes the public port nobody serves any more. The caller has the turn.
    pub(super) async fn release(&self, key: &RouteKey, session: &str, epoch: u64) {
        let changed = self.registry.release(key, session, epoch).await;
        self.metrics.registry_size.set(i64::try_from(self.registry.size()).unwrap_or(i64::MAX));
        if changed && self.registry.lookup(key).is_none() {
            self.reservations.released(&key.to_string(), SystemTime::now());
            if let RouteKey::Port(port) = key {
                self.ports.close(*port).await;
            }
        }
    }

    /// A newer session of the agent has taken over: the older one finishes what it has and goes.
    pub(super) fn retire(self: &Arc<Self>, old: Arc<Session>, by: &Session) {
        let same_program = old.instance == by.instance;
        self.metrics.takeovers.inc();
        self.audit.takeover(&old, by);
        // Two programs with one agent id would take the names from each other for ever: the older one stops.
        let message = GoAway {
            reason: if same_program { "replaced" } else { "another agent with this agent id connected" }.into(),
            permanent: !same_program,
            ..GoAway::default()
        };
        old.drain(&message);
        let state = Arc::clone(self);
        self.scope.spawn("session-retire", async move {
            let deadline = Instant::now() + RETIREMENT;
            while old.streams() > 0 && !old.is_over() && Instant::now() < deadline && !state.scope.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            old.close(ErrorCode::Replaced, "a newer session of this agent took over");
        });
    }

    /// Who serves a host or a port, best first choice first: of two random open members the one with
    /// fewer streams in flight.
    pub(super) fn choose(&self, route: &Route) -> Choice {
        let mut open: Vec<(Arc<Session>, u32)> = Vec::with_capacity(route.members.len());
        let mut unhealthy = None;
        let sessions = self.sessions();
        let live = |member: &Member| sessions.by_id.get(&member.session).cloned().map(|s| (s, member.tunnel));
        let members: Vec<_> = route.members.iter().filter_map(live).collect();
        drop(sessions);
        for (session, tunnel) in members {
            if !session.is_open() {
                continue;
            }
            match session.health(tunnel) {
                Ok(()) => open.push((session, tunnel)),
                Err(reason) => unhealthy = Some(reason),
            }
        }
        if open.len() > 1 {
            let first = rand::random_range(0..open.len());
            open.swap(0, first);
            let second = rand::random_range(1..open.len());
            if open[second].0.in_flight() < open[0].0.in_flight() {
                open.swap(0, second);
            }
        }
        match (open.is_empty(), unhealthy) {
            (false, _) => Choice::Open(open),
            (true, Some(reason)) => Choice::Unhealthy(reason),
            (true, None) => Choice::Offline,
        }
    }

    /// Reads the files behind authentication anew and ends sessions whose credential no longer stands. What cannot
    /// be read stays as it was, and does not keep the rest from being read.
    pub(super) fn reload_credentials(&self) -> Vec<AuthFilesError> {
        let problems = self.credentials.reload(&self.config.load());
        self.all_sessions().iter().for_each(|session| self.check_credential(session));
        problems
    }

    /// Ends a session whose credential does not stand any more.
    pub(super) fn check_credential(&self, session: &Arc<Session>) {
        let (grant, now) = (session.grant(), SystemTime::now());
        if !self.credentials.still_valid(&grant, now) {
            self.expel(session, if grant.expired(now) { "token_expired" } else { "token_revoked" });
        }
    }

    /// Ends a session whose credential is over.
    pub(super) fn expel(&self, session: &Arc<Session>, why: &str) {
        tracing::info!(agent = %session.agent_id, account = session.account.name(), why, "session ended");
        self.audit.expelled(session, why);
        let message = GoAway { reason: why.to_owned(), permanent: true, ..GoAway::default() };
        session.drain(&message);
        session.close(ErrorCode::Unauthorized, why);
    }

    /// Ends the session when its credential does, unless it was refreshed meanwhile.
    pub(super) fn watch_expiry(self: &Arc<Self>, session: &Arc<Session>) {
        if session.grant().expires.is_none() {
            return;
        }
        let (state, session) = (Arc::clone(self), Arc::downgrade(session));
        self.scope.spawn("session-expiry", async move {
            loop {
                let Some(live) = session.upgrade().filter(|s| !s.is_over()) else { return };
                let Some(end) = live.grant().expires else { return };
                match end.duration_since(SystemTime::now()) {
                    Ok(left) if !left.is_zero() => {
                        drop(live);
                        // Short naps, so that a session that ended lets go of its memory, and a clock that was set is noticed.
                        let nap = left.min(Duration::from_secs(5));
                        tokio::select! {
                            () = tokio::time::sleep(nap) => {}
                            // The drain ends every session, and must not wait for a nap.
                            () = state.scope.drained() => return,
                        }
                    }
                    _ => return state.expel(&live, "token_expired"),
                }
            }
        });
    }
}

/// Who can take a request.
pub(super) enum Choice {
    /// These, best first.
    Open(Vec<(Arc<Session>, u32)>),
    /// Agents are there, their local service is not well.
    Unhealthy(String),
    /// Nobody.
    Offline,
}

/// What agents are told when the server drains.
pub(super) fn shutting_down() -> GoAway {
    GoAway { reason: "the server is shutting down".into(), ..GoAway::default() }
}

/// A fault as it is sent to agents.
pub(super) fn fault(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault { code: code.to_owned(), message: message.into(), hint: hint.into(), retry_after_ms: 0 }
}
