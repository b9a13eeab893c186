//! One session with the server: its lanes, what it is told over them, its end.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use adit_core::backoff::Backoff;
use adit_core::secret::Secret;
use mux::frame::{DATA_DEFAULT, FrameType, flags};
use mux::lane::{LaneConfig, Side, Stats};
use mux::message::{
    self, AuthRefresh, AuthResponse, GoAway, Join, Opaque, RefreshResponse, Register, Registered, TunnelResult,
    TunnelState, TunnelStates,
};
use mux::{ErrorCode, Lane, Open, StreamKind};
use runtime::Scope;
use tokio::sync::watch;

use super::dial::{Dialer, clean, printable};
use super::error::AgentError;
use super::event::AgentEvent;
use super::local::Local;
use super::{Shared, http, tcp};
use crate::Stream;
use crate::handshake::{FrameReader, hex, join_proof};
use crate::lane::{LaneEnd, LaneHandler, LaneShared, LaneTask, TlsPipe};

/// How long the server may take to answer a control message.
const ANSWER: Duration = Duration::from_secs(15);
/// A lane that was told to close has this long to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);
/// How often a session that is to end looks whether its streams have.
const QUIET_CHECK: Duration = Duration::from_millis(10);
/// Bounds of the heartbeat interval, whatever the server asks for.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// A server that grants more lanes than this means something else.
const LANES_MAX: u8 = 8;

/// One session.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    /// Tasks of its lanes and streams.
    pub(super) scope: Scope,
    pub(super) id: String,
    pub(super) account: String,
    pub(super) lanes_granted: u8,
    dialer: Dialer,
    welcome: Welcome,
    state: Mutex<State>,
    /// Rises with every change of `state` that somebody may wait for.
    ticks: watch::Sender<u64>,
    lane_numbers: AtomicU32,
}

/// What the server granted.
struct Welcome {
    resume_secret: Opaque,
    lane: LaneConfig,
}

#[derive(Default)]
struct State {
    lanes: Vec<LaneEntry>,
    token: Secret<String>,
    expires: Option<SystemTime>,
    registered: Option<Registered>,
    refreshed: Option<RefreshResponse>,
    going_away: Option<GoAway>,
    last_end: Option<LaneEnd>,
    ended_at: Option<Instant>,
    /// It is to end: lost lanes are not made anew.
    retiring: bool,
}

struct LaneEntry {
    lane: Arc<LaneShared>,
    /// What was counted already.
    counted: Stats,
}

/// How a session came to its end, or is about to.
#[derive(Debug)]
pub(super) enum Over {
    /// The server drains.
    GoingAway(GoAway),
    /// No lane is left.
    Lost(LaneEnd),
}

impl Session {
    /// Begins a session: connects, authenticates and starts its first lane.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        dialer: Dialer,
        token: Secret<String>,
        scope: Scope,
    ) -> Result<Arc<Self>, AgentError> {
        let (pipe, reader, response) = dialer.authenticate(&shared.auth_request(&token)).await?;
        let session = Arc::new(Self {
            shared: Arc::clone(shared),
            scope,
            id: clean(&response.session, 64),
            account: clean(&response.account, 64),
            lanes_granted: response.lanes.clamp(1, LANES_MAX),
            dialer,
            welcome: Welcome { lane: lane_config(&response), resume_secret: response.resume_secret },
            state: Mutex::new(State { token, expires: response.expires.map(time), ..State::default() }),
            ticks: watch::Sender::new(0),
            lane_numbers: AtomicU32::new(0),
        });
        session.start_lane(pipe, reader);
        Ok(session)
    }

    /// The server it was made with.
    pub(super) fn server(&self) -> &str {
        &self.dialer.address
    }

    /// When the credential ends.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.lock().expires
    }

    /// When the last lane was lost.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        self.lock().ended_at
    }

    /// Whether a lane is left.
    pub(super) fn is_alive(&self) -> bool {
        !self.lock().lanes.is_empty()
    }

    /// Publishes tunnels; the answer has one result for each of them.
    pub(super) async fn register(&self, locals: &[Arc<Local>]) -> Result<Vec<TunnelResult>, AgentError> {
        let tunnels = locals.iter().map(|local| local.tunnel.spec(local.id, local.is_healthy())).collect();
        self.lock().registered = None;
        let asked = self.tell(FrameType::Register, &Register { tunnels });
        let answer = self.answer(asked.as_ref(), |state| state.registered.take()).await?;
        self.tell_health(locals);
        Ok(answer
            .tunnels
            .into_iter()
            .map(|result| TunnelResult {
                url: clean(&result.url, 300),
                error: result.error.as_ref().map(printable),
                ..result
            })
            .collect())
    }

    /// Tells the server of the health of those local services that are probed.
    pub(super) fn tell_health(&self, locals: &[Arc<Local>]) {
        let probed = locals.iter().filter(|local| local.tunnel.health.is_some());
        let state =
            |local: &Arc<Local>| TunnelState { id: local.id, healthy: local.is_healthy(), reason: local.reason() };
        let tunnels: Vec<_> = probed.map(state).collect();
        if !tunnels.is_empty() {
            self.tell(FrameType::TunnelState, &TunnelStates { tunnels });
        }
    }

    /// Sends a new token. `Ok(false)`: it is the one the session has.
    pub(super) async fn refresh(&self, token: Secret<String>) -> Result<bool, AgentError> {
        {
            let mut state = self.lock();
            if state.token.expose() == token.expose() {
                return Ok(false);
            }
            state.refreshed = None;
        }
        let message = AuthRefresh { token: Opaque::new(token.expose().clone()) };
        let asked = self.tell(FrameType::AuthRefresh, &message);
        let answer = self.answer(asked.as_ref(), |state| state.refreshed.take()).await?;
        if let Some(fault) = answer.error {
            return Err(AgentError::Refused { fault: printable(&fault) });
        }
        let mut state = self.lock();
        state.token = token;
        state.expires = answer.expires.map(time);
        Ok(true)
    }

    /// Waits until the server drains or no lane is left.
    pub(super) async fn over(&self) -> Over {
        self.wait(|state| match &state.going_away {
            Some(message) => Some(Over::GoingAway(message.clone())),
            None if state.lanes.is_empty() => Some(Over::Lost(state.end())),
            None => None,
        })
        .await
    }

    /// Keeps as many lanes as granted, until the session is to end or has ended.
    pub(super) async fn keep_lanes(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            let wanted = usize::from(self.lanes_granted);
            let ended = self
                .wait(|state| {
                    let ended = state.retiring || state.going_away.is_some() || state.lanes.is_empty();
                    (ended || state.lanes.len() < wanted).then_some(ended)
                })
                .await;
            if ended {
                return;
            }
            match self.dialer.join(&self.join_message()).await {
                Ok((pipe, reader)) => {
                    backoff.reset();
                    self.start_lane(pipe, reader);
                }
                Err(error) => {
                    self.shared.metrics.error("join");
                    let wait = backoff.next_wait(rand::random());
                    tracing::debug!(%error, ?wait, "a lane could not be added");
                    let ended = self.wait(|state| (state.retiring || state.lanes.is_empty()).then_some(()));
                    let _ = tokio::time::timeout(wait, ended).await;
                }
            }
        }
    }

    /// Tells the server that this side takes no new streams.
    pub(super) fn go_away(&self, reason: &str) {
        for lane in self.lanes() {
            lane.go_away(GoAway { reason: reason.to_owned(), ..GoAway::default() });
        }
    }

    /// Waits until the streams have ended, or `hurry` says that it is enough, and closes the lanes.
    pub(super) async fn retire(&self, hurry: impl Future<Output = ()>) {
        self.change(|state| state.retiring = true);
        tokio::select! {
            biased;
            () = hurry => {}
            () = self.quiet() => {}
        }
        self.close(ErrorCode::NoError, "the agent has finished");
        let gone = self.wait(|state| state.lanes.is_empty().then_some(()));
        let _ = tokio::time::timeout(GOOD_BYE, gone).await;
    }

    /// Ends all lanes; their streams are lost.
    pub(super) fn close(&self, code: ErrorCode, text: &str) {
        self.change(|state| state.retiring = true);
        for lane in self.lanes() {
            lane.close(code, text);
        }
    }

    /// Counts what the lanes have done since the last time.
    pub(super) fn count(&self) {
        for entry in &mut self.lock().lanes {
            entry.count(&self.shared);
        }
    }

    async fn quiet(&self) {
        while self.lanes().iter().any(|lane| lane.lock().machine.streams() > 0) {
            tokio::time::sleep(QUIET_CHECK).await;
        }
    }

    fn start_lane(self: &Arc<Self>, pipe: TlsPipe, reader: FrameReader) {
        let number = self.lane_numbers.fetch_add(1, Ordering::Relaxed);
        let memory = Arc::clone(&self.shared.memory);
        let machine = Lane::new(Side::Agent, self.welcome.lane.clone(), memory, Instant::now());
        let lane = LaneShared::new(machine, number);
        {
            let mut state = self.lock();
            // A Join that was under way when the session ended leads nowhere.
            if state.retiring || (number > 0 && state.lanes.is_empty()) {
                return;
            }
            state.lanes.push(LaneEntry { lane: Arc::clone(&lane), counted: Stats::default() });
        }
        self.shared.metrics.lanes.inc();
        let handler = Arc::new(Handler(Arc::clone(self)));
        self.scope.spawn("lane", LaneTask::new(pipe, lane, handler, reader.into_parts(), DATA_DEFAULT));
        self.tick();
    }

    fn join_message(&self) -> Join {
        let nonce = hex(&rand::random::<[u8; 16]>());
        let proof = join_proof(self.welcome.resume_secret.expose(), &self.id, &nonce);
        Join { session: self.id.clone(), proof: Opaque::new(proof), nonce }
    }

    /// Sends a control message; says over which lane, if one is left.
    fn tell<T: serde::Serialize>(&self, kind: FrameType, message: &T) -> Option<Arc<LaneShared>> {
        let lane = self.lanes().into_iter().next()?;
        lane.send_control(kind, 0, &message::encode(message));
        Some(lane)
    }

    /// Waits for the answer to a control message. A server that gives none is given up. The end of the lane
    /// that carried the message is the end of waiting: the answer may be lost with it.
    async fn answer<T>(
        &self,
        asked: Option<&Arc<LaneShared>>,
        mut take: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, AgentError> {
        let failed = |reason| AgentError::Conversation { server: self.server().to_owned(), reason };
        let answer = self.wait(|state| match take(state) {
            Some(answer) => Some(Ok(answer)),
            None if asked.is_some_and(|lane| state.has(lane)) => None,
            None => Some(Err(failed(state.end().to_string()))),
        });
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(result) => result,
            Err(_) => {
                self.close(ErrorCode::Timeout, "no answer to a control message");
                Err(failed(format!("no answer within {ANSWER:?}")))
            }
        }
    }

    /// Waits until `look` finds something.
    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut ticks = self.ticks.subscribe();
        loop {
            ticks.mark_unchanged();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            // Its sender lives as long as this session.
            let _ = ticks.changed().await;
        }
    }

    pub(super) fn lanes(&self) -> Vec<Arc<LaneShared>> {
        self.lock().lanes.iter().map(|entry| Arc::clone(&entry.lane)).collect()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.tick();
    }

    fn tick(&self) {
        self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there can fail half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has(&self, lane: &Arc<LaneShared>) -> bool {
        self.lanes.iter().any(|entry| Arc::ptr_eq(&entry.lane, lane))
    }

    fn end(&self) -> LaneEnd {
        self.last_end.clone().unwrap_or(LaneEnd::Here(ErrorCode::Internal))
    }
}

impl LaneEntry {
    fn count(&mut self, shared: &Shared) {
        let now = self.lane.lock().machine.stats();
        shared.metrics.count(&self.counted, &now);
        self.counted = now;
    }
}

/// What a session does with what its lanes receive.
struct Handler(Arc<Session>);

impl LaneHandler for Handler {
    fn opened(&self, stream: Stream, open: Open) {
        let started = Instant::now();
        let session = &self.0;
        // S14, S16: where a stream leads is decided by this agent's own table alone.
        let Some(local) = session.shared.table.get(open.tunnel) else {
            session.shared.metrics.error("unknown_tunnel");
            return stream.reset(ErrorCode::UnknownTunnel);
        };
        let is_tcp = open.kind == StreamKind::Tcp;
        if is_tcp != (local.kind == message::TunnelKind::Tcp) {
            local.metrics.error("protocol");
            return stream.reset(ErrorCode::Protocol);
        }
        if !local.is_healthy() {
            local.metrics.error("unhealthy");
            return stream.reset(ErrorCode::Unhealthy);
        }
        let local = Arc::clone(local);
        let active = Active::new(&local);
        if is_tcp {
            session.scope.spawn("tcp stream", async move {
                let _active = active;
                tcp::serve(local, stream, open, started).await;
            });
        } else {
            session.scope.spawn("http stream", async move {
                let _active = active;
                http::serve(local, stream, open, started).await;
            });
        }
    }

    fn control(&self, lane: &Arc<LaneShared>, kind: FrameType, flag_bits: u8, payload: Vec<u8>) {
        let is_answer = flag_bits & flags::ACK != 0;
        let result = match kind {
            FrameType::Register if is_answer => {
                message::decode(&payload).map(|answer| self.0.change(|state| state.registered = Some(answer)))
            }
            FrameType::AuthRefresh if is_answer => {
                message::decode(&payload).map(|answer| self.0.change(|state| state.refreshed = Some(answer)))
            }
            // Nothing hangs on these.
            FrameType::Unregister | FrameType::TunnelState | FrameType::Settings => Ok(()),
            _ => return lane.close(ErrorCode::Protocol, "this frame is not for an agent"),
        };
        if let Err(error) = result {
            lane.close(ErrorCode::Protocol, &error.to_string());
        }
    }

    fn go_away(&self, _lane: &Arc<LaneShared>, message: GoAway) {
        // Each lane says it; a later one may be the more decided.
        self.0.change(|state| match &mut state.going_away {
            Some(known) => known.permanent |= message.permanent,
            none => *none = Some(message),
        });
    }

    fn ended(&self, lane: &Arc<LaneShared>, end: LaneEnd) {
        let session = &self.0;
        let (left, retiring, was_there) = {
            let mut state = session.lock();
            let at = state.lanes.iter().position(|entry| Arc::ptr_eq(&entry.lane, lane));
            if let Some(at) = at {
                state.lanes.swap_remove(at).count(&session.shared);
            }
            if state.lanes.is_empty() {
                state.ended_at.get_or_insert_with(Instant::now);
            }
            state.last_end = Some(end.clone());
            (state.lanes.len(), state.retiring || state.going_away.is_some(), at.is_some())
        };
        if was_there {
            session.shared.metrics.lanes.dec();
        }
        tracing::debug!(session = %session.id, lane = lane.number(), %end, left, "lane ended");
        if left > 0 && !retiring {
            session.shared.metrics.error("lane_lost");
            session.shared.tell(AgentEvent::LaneLost { reason: end.to_string(), left });
        }
        session.tick();
        if left > 0 {
            // A change of health may have been lost with the lane, and nothing else would ever tell it.
            let locals: Vec<_> = session.shared.table.iter().cloned().collect();
            session.tell_health(&locals);
        }
    }
}

/// Counts a stream for as long as it is served.
struct Active(Arc<Local>);

impl Active {
    fn new(local: &Arc<Local>) -> Self {
        local.metrics.streams_active.inc();
        local.tunnel.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(local))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.metrics.streams_active.dec();
        self.0.tunnel.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the lanes of a session are bound by, as the server asked and within reason.
fn lane_config(response: &AuthResponse) -> LaneConfig {
    let default = LaneConfig::default();
    let asked = Duration::from_millis(u64::from(response.heartbeat_ms));
    let beat = if response.heartbeat_ms == 0 { default.heartbeat.unwrap_or(HEARTBEAT.1) } else { asked };
    let beat = beat.clamp(HEARTBEAT.0, HEARTBEAT.1);
    LaneConfig {
        peer_data_cap: if response.data_cap == 0 {
            DATA_DEFAULT
        } else {
            response.data_cap.clamp(1024, mux::frame::DATA_CAP)
        },
        peer_window: if response.window == 0 {
            default.peer_window
        } else {
            response.window.clamp(mux::flow::FLOOR_UNDER_PRESSURE, mux::flow::WINDOW_MAX)
        },
        heartbeat: Some(beat),
        dead_after: beat * 2,
        ..default
    }
}

/// Seconds since 1970; a time beyond what this machine can tell is as good as none for ever.
fn time(seconds: u64) -> SystemTime {
    let far = Duration::from_secs(100 * 365 * 86_400);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds).min(far)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_asks_of_lanes_is_held_within_reason() {
        let none = lane_config(&AuthResponse::default());
        assert_eq!(none.peer_data_cap, DATA_DEFAULT);
        assert_eq!(none.heartbeat, LaneConfig::default().heartbeat);
        let wild = lane_config(&AuthResponse {
            data_cap: u32::MAX,
            window: u32::MAX,
            heartbeat_ms: 1,
            ..AuthResponse::default()
        });
        assert_eq!(wild.peer_data_cap, mux::frame::DATA_CAP);
        assert_eq!(wild.peer_window, mux::flow::WINDOW_MAX);
        assert_eq!(wild.heartbeat, Some(HEARTBEAT.0));
        assert_eq!(wild.dead_after, HEARTBEAT.0 * 2);
    }

    #[test]
    fn a_credential_that_ends_after_the_end_of_time_is_no_panic() {
        assert!(time(u64::MAX) > SystemTime::now());
    }
}
