//! The agent's life: connect, publish, watch, move, reconnect, for ever.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_core::backoff::{Backoff, BackoffSettings};
use adit_core::diagnose::{Diagnose as _, chain};
use mux::ErrorCode;
use mux::message::{Fault, GoAway, TunnelResult};
use runtime::Scope;
use tokio::time::sleep_until;

use super::Shared;
use super::dial::{Dialer, clean};
use super::error::AgentError;
use super::event::AgentEvent;
use super::session::{Over, Session};
use crate::lane::LaneEnd;

/// A session that lasted this long was a success; the next failure is met with patience anew.
const STABLE: Duration = Duration::from_secs(5);
/// Streams of a session that a newer one replaced may take this long to end.
const RETIREMENT: Duration = Duration::from_secs(600);
/// Streams of a session that ends for good may take this long.
const FAREWELL: Duration = Duration::from_secs(30);
/// About one round trip: a stream the server opens may cross the word that this side takes no more.
const CROSSING: Duration = Duration::from_millis(100);
/// Patience a server can ask for, in milliseconds.
const LONGEST_ASKED: u32 = 60_000;
/// The part of a credential's life after which it is renewed.
const RENEW_AFTER: f64 = 0.8;
/// A credential is not renewed more often than this.
const RENEW_PAUSE: Duration = Duration::from_secs(1);
/// Refused tunnels are asked for again with these waits.
const RETRY: BackoffSettings = BackoffSettings {
    first: Duration::from_secs(1),
    base: Duration::from_secs(1),
    growth: 2.0,
    cap: Duration::from_secs(30),
};
/// So many attempts are made in the usual time by an agent that was connected before: a restart may be all of it.
const QUICK: u32 = 6;
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// What is done about a session.
enum Step {
    /// Connect, after the usual wait.
    Reconnect,
    /// Connect at once; the session stays until the new one is there.
    Move(GoAway),
    /// End.
    Drain,
}

/// Runs an agent.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    /// Its drain signal ends the agent.
    scope: Scope,
    /// Tasks of the agent.
    work: Scope,
    backoff: Backoff,
    /// The same for what a patient agent is refused.
    refusals: Backoff,
    /// Wait before the next attempt.
    patience: Duration,
    /// Where to connect next, in turn with the configured address.
    elsewhere: Vec<String>,
    /// Was there ever a session?
    connected: bool,
    lost_at: Option<Instant>,
    /// A session that is to go once its successor is there.
    previous: Option<Arc<Session>>,
    /// Sessions whose successor is there, and whose streams still run.
    retiring: Vec<Arc<Session>>,
    published: HashSet<u32>,
}

impl Supervisor {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, work: Scope) -> Self {
        Self {
            refusals: Backoff::new(shared.config.patience.unwrap_or_default()),
            shared,
            scope,
            work,
            backoff: Backoff::default(),
            patience: Duration::ZERO,
            elsewhere: Vec::new(),
            connected: false,
            lost_at: None,
            previous: None,
            retiring: Vec::new(),
            published: HashSet::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<(), AgentError> {
        loop {
            match self.serve().await {
                Err(error) if self.is_patient() && error.may_pass() => self.be_patient(&error),
                end => return end,
            }
        }
    }

    /// Serves until the end, or until there is no use in going on.
    async fn serve(&mut self) -> Result<(), AgentError> {
        loop {
            let Some((session, results)) = self.connect().await? else {
                self.end(None).await;
                return Ok(());
            };
            let began = Instant::now();
            let step = match self.watch(&session, results).await {
                Ok(step) => step,
                Err(error) => {
                    if session.is_alive() {
                        // A stream the server opened on one lane may cross its farewell on another.
                        self.patience_of(CROSSING).await;
                    }
                    // What a successor left to this session may still be finished.
                    session.retire(self.farewell()).await;
                    self.shared.set_session(None);
                    return Err(error);
                }
            };
            if began.elapsed() >= STABLE {
                self.backoff.reset();
            }
            match step {
                Step::Drain => {
                    self.end(Some(session)).await;
                    return Ok(());
                }
                Step::Reconnect => self.patience = self.backoff.next_wait(rand::random()),
                Step::Move(message) => {
                    self.patience = Duration::from_millis(u64::from(message.retry_after_ms.min(LONGEST_ASKED)));
                    if began.elapsed() < STABLE {
                        // A server that sends every newcomer away must not be asked without a pause.
                        self.patience = self.patience.max(self.backoff.next_wait(rand::random()));
                    }
                    self.elsewhere = message
                        .servers
                        .iter()
                        .map(|server| clean(server, 300))
                        // S14: a server chooses among its own ports, not among the hosts this agent can reach.
                        .filter(|server| super::dial::is_same_host(server, &self.shared.config.server))
                        .take(8)
                        .collect();
                    self.previous = Some(session);
                }
            }
        }
    }

    /// Tries until there is a session with its tunnels registered; `None`: the agent is to end.
    async fn connect(&mut self) -> Result<Option<(Arc<Session>, Vec<TunnelResult>)>, AgentError> {
        loop {
            let scope = self.scope.clone();
            let address = self.next_address();
            let attempt = async {
                tokio::time::sleep(self.patience).await;
                self.attempt(&address).await
            };
            let result = tokio::select! {
                biased;
                () = scope.drained() => return Ok(None),
                result = attempt => result,
            };
            let error = match result {
                Ok((session, results, took)) => {
                    self.welcome(&session, took);
                    return Ok(Some((session, results)));
                }
                Err(error) => error,
            };
            self.shared.metrics.error(error.kind());
            let final_now = if self.connected {
                error.is_final()
            } else {
                error.is_final_at_start(self.shared.config.wait_for_server)
            };
            // An address the server named is no reason to give up.
            if final_now && address == self.shared.config.server {
                return Err(error);
            }
            self.patience = self.backoff.next_wait(rand::random()).max(asked_patience(&error));
            if self.is_patient() && error.is_refusal() && self.backoff.attempts() > QUICK {
                self.patience = self.next_refusal();
            }
            self.tell_retrying(address, &error);
        }
    }

    /// After a refusal: the next attempt is made much later.
    fn be_patient(&mut self, error: &AgentError) {
        if !self.published.is_empty() {
            self.lost_at.get_or_insert_with(Instant::now);
        }
        self.shared.metrics.connection_status.set(0);
        self.patience = self.next_refusal();
        self.tell_retrying(self.shared.config.server.clone(), error);
    }

    fn is_patient(&self) -> bool {
        self.shared.config.patience.is_some()
    }

    fn next_refusal(&mut self) -> Duration {
        less_a_part(&mut self.refusals)
    }

    fn tell_retrying(&self, server: String, error: &AgentError) {
        let (reason, wait) = (chain(error), self.patience);
        tracing::debug!(address = %server, %reason, ?wait, "connection attempt failed");
        let refused = error.is_refusal();
        self.shared.tell(AgentEvent::Retrying { server, reason, hint: error.hint(), wait, refused });
    }

    async fn attempt(&self, address: &str) -> Result<(Arc<Session>, Vec<TunnelResult>, Duration), AgentError> {
        let attempt = self.backoff.attempts() + 1;
        self.shared.tell(AgentEvent::Connecting { server: address.to_owned(), attempt });
        let shared = Arc::clone(&self.shared);
        let to = address.to_owned();
        let prepared = self.work.spawn_blocking("agent credentials", move || {
            Ok::<_, AgentError>((Dialer::new(&to, &shared.config)?, shared.config.token.read()?))
        });
        let (dialer, token) = prepared
            .await
            .map_err(|error| AgentError::Conversation { server: address.to_owned(), reason: error.to_string() })??;
        let started = Instant::now();
        let session = Session::begin(&self.shared, dialer, token, self.work.child()).await?;
        let took = started.elapsed();
        let guard = CloseOnDrop(Some(&session));
        let locals: Vec<_> = self.shared.table.iter().cloned().collect();
        let results = if locals.is_empty() { Vec::new() } else { session.register(&locals).await? };
        guard.keep();
        Ok((session, results, took))
    }

    /// The session is there: it is the one in force from here on.
    fn welcome(&mut self, session: &Arc<Session>, took: Duration) {
        let shared = &self.shared;
        shared.set_session(Some(Arc::clone(session)));
        // What changed while the session was not yet the one to tell.
        let locals: Vec<_> = shared.table.iter().cloned().collect();
        session.tell_health(&locals);
        shared.metrics.connection_status.set(1);
        shared.tell(AgentEvent::Connected {
            server: session.server().to_owned(),
            session: session.id.clone(),
            account: session.account.clone(),
            lanes: session.lanes_granted,
            took,
        });
        self.work.spawn("agent lanes", Arc::clone(session).keep_lanes());
        if let Some(previous) = self.previous.take() {
            self.lost_at = self.lost_at.or(previous.ended_at());
            self.retiring.retain(|session| session.is_alive());
            self.retiring.push(Arc::clone(&previous));
            let hurry = self.patience_of(RETIREMENT);
            self.work.spawn("session retires", async move { previous.retire(hurry).await });
        }
        if self.connected {
            shared.metrics.reconnections.inc();
        }
        if let Some(lost_at) = self.lost_at.take() {
            let outage = lost_at.elapsed();
            shared.metrics.outage_seconds.inc_by(outage.as_secs_f64());
            shared.tell(AgentEvent::Back { outage });
        }
        self.connected = true;
        self.elsewhere.clear();
        self.patience = Duration::ZERO;
    }

    /// Stays with a session until something has to be done about it.
    async fn watch(&mut self, session: &Arc<Session>, results: Vec<TunnelResult>) -> Result<Step, AgentError> {
        let scope = self.scope.clone();
        let mut retries = Retries::new(self.shared.config.patience);
        self.note(&mut retries, results)?;
        let mut renewal = Renewal::new(&self.shared, session);
        loop {
            let work = async {
                tokio::select! {
                    biased;
                    () = renewal.due() => {
                        renewal.renew(&self.shared, session, &self.work).await;
                        Vec::new()
                    }
                    () = sleep_until(retries.at().into()) => retries.ask(&self.shared, session).await,
                }
            };
            // Work that is cut short by the end of the agent or of the session is of no more use.
            let results = tokio::select! {
                biased;
                () = scope.drained() => return Ok(Step::Drain),
                over = session.over() => return self.over(over),
                results = work => results,
            };
            self.note(&mut retries, results)?;
        }
    }

    /// Tells what became of tunnels, and remembers those to be asked for again.
    fn note(&mut self, retries: &mut Retries, results: Vec<TunnelResult>) -> Result<(), AgentError> {
        let mut refused = Vec::new();
        for result in results {
            let Some(local) = self.shared.table.get(result.id).cloned() else {
                continue;
            };
            match result.error {
                None => {
                    self.published.insert(local.id);
                    self.refusals.reset();
                    self.shared.tell(AgentEvent::Published {
                        tunnel: local.name.to_string(),
                        url: result.url,
                        local: local.tunnel.local.clone(),
                    });
                }
                Some(fault) => refused.push((local, fault)),
            }
        }
        if self.published.is_empty()
            && !refused.is_empty()
            && refused.iter().all(|(_, fault)| fault.retry_after_ms == 0)
        {
            let faults = refused.into_iter().map(|(local, fault)| (local.name.to_string(), fault)).collect();
            return Err(AgentError::NothingPublished { faults });
        }
        for (local, fault) in refused {
            let soon = fault.retry_after_ms > 0 || self.published.contains(&local.id);
            let retry = (soon || self.is_patient()).then(|| retries.add(local.id, &fault, soon));
            self.shared.metrics.error("register");
            self.shared.tell(AgentEvent::Refused { tunnel: local.name.to_string(), fault, retry });
        }
        Ok(())
    }

    fn over(&mut self, over: Over) -> Result<Step, AgentError> {
        let config = &self.shared.config;
        match over {
            // With another token at hand, the server's answer to that decides.
            Over::GoingAway(message) if message.permanent && !self.may_have_new_token(&message.reason) => {
                Err(AgentError::Dismissed { reason: clean(&message.reason, 300) })
            }
            Over::GoingAway(message) => {
                self.shared.tell(AgentEvent::Moving { reason: clean(&message.reason, 300) });
                Ok(Step::Move(message))
            }
            Over::Lost(LaneEnd::ByPeer(ErrorCode::Replaced, reason)) => Err(AgentError::Dismissed { reason }),
            Over::Lost(LaneEnd::ByPeer(ErrorCode::Unauthorized, reason)) if !config.token.can_change() => {
                Err(AgentError::Dismissed { reason })
            }
            Over::Lost(end) => {
                self.lost_at.get_or_insert_with(Instant::now);
                self.shared.metrics.connection_status.set(0);
                self.shared.metrics.error("session_lost");
                self.shared.set_session(None);
                self.shared.tell(AgentEvent::Lost { reason: end.to_string() });
                Ok(Step::Reconnect)
            }
        }
    }

    /// Resolves after `time`, or when the agent is to hurry.
    fn patience_of(&self, time: Duration) -> impl Future<Output = ()> + use<> {
        let scope = self.scope.clone();
        async move {
            let _ = tokio::time::timeout(time, scope.cancelled()).await;
        }
    }

    /// Resolves when an agent that the server dismissed has waited long enough for its last streams. One that is to end
    /// anyway, since another has taken its place, has the time that a replaced session has.
    fn farewell(&self) -> impl Future<Output = ()> + use<> {
        let (farewell, retirement) = (self.patience_of(FAREWELL), self.patience_of(RETIREMENT));
        let scope = self.scope.clone();
        async move {
            farewell.await;
            if scope.is_draining() {
                retirement.await;
            }
        }
    }

    fn may_have_new_token(&self, reason: &str) -> bool {
        reason.starts_with("token_") && self.shared.config.token.can_change()
    }

    /// The address for the next attempt: the configured one, in turn with those the server named.
    fn next_address(&mut self) -> String {
        if self.elsewhere.is_empty() {
            return self.shared.config.server.clone();
        }
        let next = self.elsewhere.remove(0);
        if super::dial::check(&next).is_ok() { next } else { self.shared.config.server.clone() }
    }

    /// Finishes what is in flight, in all sessions that are left.
    async fn end(&mut self, session: Option<Arc<Session>>) {
        self.shared.tell(AgentEvent::Draining);
        let older = self.retiring.drain(..).chain(self.previous.take());
        let sessions: Vec<_> = older.chain(session).collect();
        for session in &sessions {
            session.go_away("the agent is stopping");
        }
        if sessions.iter().any(|session| session.is_alive()) {
            // A stream the server opened before it knew is answered, not lost with its lane.
            self.patience_of(CROSSING).await;
        }
        for session in &sessions {
            session.retire(self.scope.cancelled()).await;
        }
        self.shared.set_session(None);
    }
}

/// A session that is not used after all is closed.
struct CloseOnDrop<'a>(Option<&'a Arc<Session>>);

impl CloseOnDrop<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.0 {
            session.close(ErrorCode::NoError, "the session is not used");
        }
    }
}

/// The next wait, less up to a quarter of it.
fn less_a_part(backoff: &mut Backoff) -> Duration {
    let most = backoff.longest();
    most - backoff.next_wait(rand::random()).min(most) / 4
}

/// How long the server asked to be left alone.
fn asked_patience(error: &AgentError) -> Duration {
    match error {
        AgentError::Refused { fault } => Duration::from_millis(u64::from(fault.retry_after_ms.min(LONGEST_ASKED))),
        _ => Duration::ZERO,
    }
}

/// Tunnels to be asked for again: what passes by itself soon, what somebody has to change much later.
struct Retries {
    soon: Again,
    late: Again,
}

impl Retries {
    fn new(patience: Option<BackoffSettings>) -> Self {
        Self { soon: Again::new(RETRY), late: Again::new(patience.unwrap_or_default()) }
    }

    /// Remembers a tunnel; says how long it waits.
    fn add(&mut self, id: u32, fault: &Fault, soon: bool) -> Duration {
        let again = if soon { &mut self.soon } else { &mut self.late };
        if again.ids.is_empty() {
            let asked = Duration::from_millis(u64::from(fault.retry_after_ms.min(LONGEST_ASKED)));
            let wait =
                if soon { again.backoff.next_wait(rand::random()).max(asked) } else { less_a_part(&mut again.backoff) };
            again.at = Instant::now() + wait;
        }
        again.ids.push(id);
        again.at.saturating_duration_since(Instant::now())
    }

    /// When it is time to ask.
    fn at(&self) -> Instant {
        self.soon.at.min(self.late.at)
    }

    /// Asks for those whose time has come.
    async fn ask(&mut self, shared: &Shared, session: &Session) -> Vec<TunnelResult> {
        let first = if self.soon.at <= self.late.at { &mut self.soon } else { &mut self.late };
        first.ask(shared, session).await
    }
}

/// Tunnels that are asked for at the same time.
struct Again {
    ids: Vec<u32>,
    at: Instant,
    backoff: Backoff,
}

impl Again {
    fn new(waits: BackoffSettings) -> Self {
        Self { ids: Vec::new(), at: Instant::now() + NEVER, backoff: Backoff::new(waits) }
    }

    /// Asks for the tunnels again. Without an answer they stay to be asked for.
    async fn ask(&mut self, shared: &Shared, session: &Session) -> Vec<TunnelResult> {
        self.at = Instant::now() + NEVER;
        let locals: Vec<_> = self.ids.iter().filter_map(|id| shared.table.get(*id).cloned()).collect();
        match session.register(&locals).await {
            Ok(results) => {
                self.ids.clear();
                results
            }
            Err(error) => {
                tracing::debug!(%error, "tunnels could not be asked for again");
                self.at = Instant::now() + self.backoff.next_wait(rand::random());
                Vec::new()
            }
        }
    }
}

/// When the token is renewed: in time before it ends, and when its file has changed.
struct Renewal {
    at: Instant,
    changed: Option<tokio::sync::watch::Receiver<u64>>,
}

impl Renewal {
    fn new(shared: &Shared, session: &Session) -> Self {
        let mut changed = shared.config.token_changed.clone().filter(|_| shared.config.token.can_change());
        if let Some(changed) = &mut changed {
            changed.mark_unchanged();
        }
        Self { at: renew_at(shared, session, RENEW_AFTER), changed }
    }

    async fn due(&mut self) {
        let changed = async {
            let told = match &mut self.changed {
                Some(changed) => changed.changed().await.is_ok(),
                None => false,
            };
            if !told {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep_until(self.at.into()) => {}
            () = changed => {}
        }
    }

    async fn renew(&mut self, shared: &Arc<Shared>, session: &Session, work: &Scope) {
        let source = shared.config.token.clone();
        let read = work.spawn_blocking("agent credentials", move || source.read()).await;
        let result: Result<bool, AgentError> = match read {
            Ok(Ok(token)) => session.refresh(token).await,
            Ok(Err(error)) => Err(error.into()),
            // The task's panic was reported already.
            Err(_) => Ok(false),
        };
        let problem = match result {
            Ok(true) => {
                self.at = renew_at(shared, session, RENEW_AFTER);
                shared.tell(AgentEvent::Token { problem: None });
                return;
            }
            Ok(false) => None,
            Err(error @ AgentError::Conversation { .. }) => {
                // The question was lost with its lane: another one carries it, if one is left.
                tracing::debug!(%error, "a new token could not be sent");
                self.at = Instant::now() + RENEW_PAUSE;
                return;
            }
            Err(error) => Some(chain(&error)),
        };
        // Nothing new yet: half of what is left, then half of that.
        self.at = renew_at(shared, session, 0.5);
        if let Some(problem) = problem {
            shared.metrics.error("token");
            shared.tell(AgentEvent::Token { problem: Some(problem) });
        }
    }
}

/// When the given part of what is left of the credential's life is over.
fn renew_at(shared: &Shared, session: &Session, part: f64) -> Instant {
    let left = session
        .expires()
        .filter(|_| shared.config.token.can_change())
        .map(|expires| expires.duration_since(SystemTime::now()).unwrap_or_default());
    let wait = left.map_or(NEVER, |left| left.mul_f64(part).clamp(RENEW_PAUSE, NEVER));
    Instant::now() + wait
}
