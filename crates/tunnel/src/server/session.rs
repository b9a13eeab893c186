//! One authenticated agent: its lanes, its tunnels, its end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use adit_core::accounts::Grant;
use mux::frame::{FrameType, flags};
use mux::lane::OpenStreamError;
use mux::message::{self, GoAway};
use mux::{ErrorCode, Open, Pool};

use super::account::{Account, Use};
use super::registry::RouteKey;
use super::state::State;
use crate::Stream;
use crate::lane::{LaneEnd, LaneHandler, LaneShared};

/// A tunnel of a session.
pub(super) struct Published {
    pub(super) key: RouteKey,
    pub(super) epoch: u64,
    pub(super) healthy: bool,
    pub(super) reason: String,
    pub(super) url: String,
    /// Counted against the account for as long as it is published.
    pub(super) _use: Use,
}

/// One authenticated agent.
pub(crate) struct Session {
    pub(super) id: String,
    pub(super) agent_id: String,
    pub(super) instance: String,
    pub(super) software: String,
    pub(super) account: Arc<Account>,
    pub(super) epoch: u64,
    pub(super) remote: SocketAddr,
    pub(super) resume_secret: String,
    pub(super) lanes_max: u8,
    pub(super) data_cap: u32,
    pub(super) window: u32,
    pub(super) pool: Arc<Pool>,
    pub(super) started: Instant,
    pub(super) state: Weak<State>,
    inner: Mutex<Inner>,
    /// Streams in flight, for choosing between agents.
    in_flight: AtomicU32,
    draining: AtomicBool,
    lane_numbers: AtomicU32,
    _agent_use: Use,
}

struct Inner {
    lanes: Vec<Arc<LaneShared>>,
    tunnels: HashMap<u32, Published>,
    grant: Grant,
    nonces: HashSet<String>,
    /// The older session of this agent, retired once this one has registered.
    previous: Option<Arc<Session>>,
    /// Control messages that wait for their turn.
    control: VecDeque<Control>,
    control_bytes: usize,
    /// Whether a task answers them.
    control_runs: bool,
    /// It was told to end; a lane that starts only now ends with it.
    closed: bool,
    over: bool,
}

/// A control message and the lane its answer goes to.
type Control = (Arc<LaneShared>, FrameType, Vec<u8>);

/// Bytes of control messages that may wait: 64 of the longest. How many there may be is bounded by the budget the
/// lanes hold their peer to. An honest agent has one registration under way; who sends more loses the lane.
const CONTROL_BYTES: usize = 64 * mux::frame::CONTROL_CAP as usize;

/// Joins a session remembers; far more than an honest agent makes in a session's life.
const NONCES_MAX: usize = 4096;

impl Session {
    pub(super) fn new(parts: SessionParts) -> Arc<Self> {
        let inner = Inner {
            lanes: Vec::new(),
            tunnels: HashMap::new(),
            grant: parts.grant,
            nonces: HashSet::new(),
            previous: None,
            control: VecDeque::new(),
            control_bytes: 0,
            control_runs: false,
            closed: false,
            over: false,
        };
        // A session may use half of its account's memory.
        let pool = Pool::new(parts.window_pool, Some(Arc::clone(&parts.account.pool)));
        Arc::new(Self {
            id: parts.id,
            agent_id: parts.agent_id,
            instance: parts.instance,
            software: parts.software,
            account: parts.account,
            epoch: parts.epoch,
            remote: parts.remote,
            resume_secret: parts.resume_secret,
            lanes_max: parts.lanes_max,
            data_cap: parts.data_cap,
            window: parts.window,
            pool,
            started: Instant::now(),
            state: parts.state,
            inner: Mutex::new(inner),
            in_flight: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            lane_numbers: AtomicU32::new(0),
            _agent_use: parts.agent_use,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lane; `None` when the session is over or has as many as it may.
    pub(super) fn add_lane(self: &Arc<Self>, make: impl FnOnce(u32) -> Arc<LaneShared>) -> Option<Arc<LaneShared>> {
        let mut inner = self.lock();
        if inner.over || inner.lanes.len() >= usize::from(self.lanes_max) {
            return None;
        }
        let lane = make(self.lane_numbers.fetch_add(1, Ordering::Relaxed));
        inner.lanes.push(Arc::clone(&lane));
        Some(lane)
    }

    /// Notes a Join's nonce; false when it was used before.
    pub(super) fn use_nonce(&self, nonce: &str) -> bool {
        let mut inner = self.lock();
        nonce.len() >= 16
            && nonce.len() <= 64
            && inner.nonces.len() < NONCES_MAX
            && inner.nonces.insert(nonce.to_owned())
    }

    /// What the credential grants now.
    pub(super) fn grant(&self) -> Grant {
        self.lock().grant.clone()
    }

    pub(super) fn set_grant(&self, grant: Grant) {
        self.lock().grant = grant;
    }

    pub(super) fn take_previous(&self) -> Option<Arc<Session>> {
        self.lock().previous.take()
    }

    /// How many tunnels go with the predecessor, once this session has registered.
    pub(super) fn tunnels_of_previous(&self) -> u32 {
        let previous = self.lock().previous.clone();
        let count = previous.map_or(0, |previous| previous.with_tunnels(|tunnels| tunnels.len()));
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    pub(super) fn set_previous(&self, previous: Arc<Session>) {
        self.lock().previous = Some(previous);
    }

    pub(super) fn lanes(&self) -> Vec<Arc<LaneShared>> {
        self.lock().lanes.clone()
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Whether new streams may go to it.
    pub(super) fn is_open(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && !self.is_over()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn with_tunnels<R>(&self, look: impl FnOnce(&mut HashMap<u32, Published>) -> R) -> R {
        look(&mut self.lock().tunnels)
    }

    /// Whether the tunnel's local service is healthy; otherwise what its check saw.
    pub(super) fn health(&self, tunnel: u32) -> Result<(), String> {
        match self.lock().tunnels.get(&tunnel) {
            Some(published) if !published.healthy => Err(published.reason.clone()),
            _ => Ok(()),
        }
    }

    /// Opens a stream on the less loaded of two random lanes, or on any other that takes it.
    pub(super) fn open(self: &Arc<Self>, open: &Open, end: bool) -> Result<(Stream, InFlight), OpenStreamError> {
        let mut lanes = self.lanes();
        if lanes.len() > 1 {
            let first = rand::random_range(0..lanes.len());
            lanes.swap(0, first);
            let second = rand::random_range(1..lanes.len());
            if lanes[second].load() < lanes[0].load() {
                lanes.swap(0, second);
            }
        }
        let mut last = OpenStreamError::GoingAway;
        for lane in lanes {
            match lane.open(open.clone(), end) {
                Ok(stream) => {
                    self.in_flight.fetch_add(1, Ordering::Relaxed);
                    return Ok((stream, InFlight(Arc::clone(self))));
                }
                Err(OpenStreamError::TooLong) => return Err(OpenStreamError::TooLong),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Takes no new streams; what runs may finish.
    pub(super) fn drain(&self, message: &GoAway) {
        self.draining.store(true, Ordering::Relaxed);
        for lane in self.lanes() {
            lane.go_away(message.clone());
        }
    }

    /// Ends all lanes.
    pub(super) fn close(&self, code: ErrorCode, text: &str) {
        self.draining.store(true, Ordering::Relaxed);
        self.lock().closed = true;
        for lane in self.lanes() {
            lane.close(code, text);
        }
    }

    /// Queues a control message; `Ok` says whether a task must be started that answers, `Err` that too many wait.
    fn queue_control(&self, control: Control) -> Result<bool, ()> {
        let mut inner = self.lock();
        let bytes = inner.control_bytes + control.2.len();
        if bytes > CONTROL_BYTES {
            return Err(());
        }
        inner.control_bytes = bytes;
        inner.control.push_back(control);
        Ok(!std::mem::replace(&mut inner.control_runs, true))
    }

    /// The next control message to be answered; none means that the task is to end.
    pub(super) fn next_control(&self) -> Option<Control> {
        let mut inner = self.lock();
        let next = inner.control.pop_front();
        inner.control_runs = next.is_some();
        inner.control_bytes -= next.as_ref().map_or(0, |(_, _, payload)| payload.len());
        next
    }

    /// Whether [`Session::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Streams that still run.
    pub(super) fn streams(&self) -> usize {
        self.lanes().iter().map(|lane| lane.lock().machine.streams()).sum()
    }

    /// A lane is gone; true when it was the last.
    fn lane_ended(&self, lane: &Arc<LaneShared>) -> bool {
        let mut inner = self.lock();
        inner.lanes.retain(|l| !Arc::ptr_eq(l, lane));
        let last = inner.lanes.is_empty() && !inner.over;
        inner.over |= last;
        last
    }
}

/// What a session is made of.
pub(super) struct SessionParts {
    pub(super) id: String,
    pub(super) agent_id: String,
    pub(super) instance: String,
    pub(super) software: String,
    pub(super) account: Arc<Account>,
    pub(super) epoch: u64,
    pub(super) remote: SocketAddr,
    pub(super) resume_secret: String,
    pub(super) lanes_max: u8,
    pub(super) data_cap: u32,
    pub(super) window: u32,
    pub(super) window_pool: u64,
    pub(super) grant: Grant,
    pub(super) state: Weak<State>,
    pub(super) agent_use: Use,
}

/// Counts a stream of a session for as long as it lives.
pub(super) struct InFlight(Arc<Session>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a session does with what its lanes receive.
pub(super) struct SessionHandler(pub(super) Arc<Session>);

impl LaneHandler for SessionHandler {
    fn opened(&self, stream: Stream, _open: Open) {
        // Agents open no streams in this version.
        stream.reset(ErrorCode::Refused);
    }

    fn control(&self, lane: &Arc<LaneShared>, kind: FrameType, flag_bits: u8, payload: Vec<u8>) {
        let Some(state) = self.0.state.upgrade() else { return };
        if flag_bits & flags::ACK != 0 {
            return;
        }
        let session = Arc::clone(&self.0);
        match kind {
            // In the order they come: a Register overtaken by an Unregister, or by its own health, would go wrong.
            FrameType::TunnelState | FrameType::Register | FrameType::Unregister | FrameType::AuthRefresh => {
                match session.queue_control((Arc::clone(lane), kind, payload)) {
                    Ok(false) => {}
                    Ok(true) => {
                        let scope = state.scope.clone();
                        scope.spawn("session-control", async move { state.answer_control(&session).await });
                    }
                    Err(()) => lane.close(ErrorCode::EnhanceYourCalm, "too many control messages at once"),
                }
            }
            FrameType::Settings => {}
            _ => lane.close(ErrorCode::Protocol, "this frame is not for a server"),
        }
    }

    fn go_away(&self, _lane: &Arc<LaneShared>, _message: GoAway) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    fn ended(&self, lane: &Arc<LaneShared>, end: LaneEnd) {
        let Some(state) = self.0.state.upgrade() else { return };
        state.metrics.absorb(lane.lock().machine.stats());
        tracing::debug!(session = %self.0.id, agent = %self.0.agent_id, lane = lane.number(), %end, "lane ended");
        if matches!(end, LaneEnd::Violation(_)) {
            state.metrics.error("protocol", "agent");
            state.audit.protocol_violation(&self.0, &end);
        }
        if self.0.lane_ended(lane) {
            let session = Arc::clone(&self.0);
            let scope = state.scope.clone();
            scope.spawn("session-end", async move { state.session_ended(&session, &end).await });
        }
    }
}

/// Reads a control message, or ends the lane.
pub(super) fn read_control<'a, T: serde::Deserialize<'a>>(lane: &LaneShared, payload: &'a [u8]) -> Option<T> {
    match message::decode(payload) {
        Ok(message) => Some(message),
        Err(error) => {
            lane.close(ErrorCode::Protocol, &error.to_string());
            None
        }
    }
}
