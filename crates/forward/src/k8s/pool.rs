//! The connections to one pod.
//!
//! All streams of a connection share one TCP connection without flow control of their own (the peer has none), so
//! a stream that nobody reads holds up the others on it. Hence: a new stream goes to a connection that nothing
//! holds up, one without bulk before one with, the least loaded first; a spare connection is opened as soon as none
//! is idle; what is idle beyond the spare is closed after a while.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use adit_core::forward::Reason;
use runtime::Scope;
use tokio::sync::watch;

use super::api::{Api, ApiError};
use super::connection::{Connection, Cuts, PortStream};
use super::port_forward::{self, Transport};
use super::resolve::PodRef;

/// Streams of a connection at the most; beyond it another one is opened.
const FULL: u32 = 400;
/// Connections that are opened so that a stream may have one to itself.
const SPREAD: usize = 8;
/// Connections of a pod at the most, which only stalled ones lead to.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection that is not needed stays.
const IDLE: Duration = Duration::from_secs(60);
/// How long a connection that was lost while nobody looked may take to be made anew.
const AGAIN: Duration = Duration::from_secs(1);
/// How often that is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How often a connection whose server gives no sign of life is looked at.
const REPLACE_EVERY: Duration = Duration::from_millis(250);
/// How often the wait between two dials for it doubles from there: to 2 s, so that a server is found soon after its
/// return.
const REPLACE_DOUBLINGS: u32 = 3;
/// How long a connection may stay silent once the server answers on another one. TCP sends again ever more seldom, so
/// after a gap in the network an old connection comes back later than a new one is made: after as long as the gap was.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
/// The same for streams that ask something meanwhile: a kept connection of HTTP has a request that is better sent again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// How long a server that says nothing here may refuse new connections until what it has not answered is taken for lost.
const REFUSED_AFTER: Duration = Duration::from_secs(2);

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// The connections to one pod; dropping it lets running streams end and closes the rest.
pub(crate) struct PodPool {
    inner: Arc<Inner>,
}

struct Inner {
    api: Api,
    pod: PodRef,
    scope: Scope,
    state: Mutex<State>,
    /// Raised at each change of the state that somebody may wait for.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    dialing: usize,
    /// What was last dialled for.
    port: u16,
    failed: Option<(Instant, ApiError)>,
    /// Why no connection is left. All forwards that share the pool look at it, and the next connection clears it.
    lost: Option<Reason>,
    transport: Option<Transport>,
    /// When a connection was last dialled to replace a silent one, and how many have been since the server was heard.
    replaced: Option<(Instant, u32)>,
    closed: bool,
}

impl State {
    /// Whether another connection may be dialled beside silent ones; counts it.
    fn may_replace(&mut self, now: Instant) -> bool {
        if self.dialing > 0 || self.connections.len() >= CONNECTIONS_MAX {
            return false;
        }
        let times = match self.replaced {
            None => 0,
            Some((last, times)) if now >= last + REPLACE_EVERY * 2_u32.pow(times.min(REPLACE_DOUBLINGS)) => times,
            Some(_) => return false,
        };
        self.replaced = Some((now, times + 1));
        true
    }

    /// Whether the server refused a new connection after this time.
    fn is_refused_since(&self, time: Instant) -> bool {
        let failed = self.failed.as_ref().filter(|(at, _)| *at >= time);
        failed.is_some_and(|(_, error)| matches!(error, ApiError::Unreachable { .. }) && !error.is_silence())
    }

    /// Notes why no connection is left, when none is.
    fn note_loss(&mut self, why: impl FnOnce() -> Reason) {
        let alone = self.transport == Some(Transport::Channels);
        if self.connections.is_empty() && self.dialing == 0 && !alone {
            self.lost.get_or_insert_with(why);
        }
    }
}

/// What is to be done for a stream.
enum Choice {
    Take(Arc<Connection>),
    /// Each stream has a connection of its own here.
    Alone,
    Wait,
    Fail(ApiError),
}

impl PodPool {
    /// A pool without connections.
    pub(crate) fn new(api: Api, pod: PodRef, scope: &Scope) -> Self {
        let inner =
            Arc::new(Inner { api, pod, scope: scope.child(), state: Mutex::default(), changed: watch::Sender::new(0) });
        let sweeper = sweep(Arc::downgrade(&inner), inner.scope.clone(), inner.changed.subscribe());
        inner.scope.spawn("idle connections", sweeper);
        Self { inner }
    }

    /// Whether it opens connections: one whose scope drains does not, and whoever shares it goes on with another.
    pub(crate) fn is_usable(&self) -> bool {
        !self.inner.scope.is_draining()
    }

    /// Which transport carries it.
    pub(crate) fn transport(&self) -> Option<Transport> {
        self.inner.lock().transport
    }

    /// Opens a first connection, unless there is one. On return it is there.
    ///
    /// # Errors
    /// Why none could be opened.
    pub(crate) async fn warm(&self, port: u16) -> Result<(), ApiError> {
        self.inner.connection(port).await.map(drop)
    }

    /// Opens the two streams of a port.
    ///
    /// # Errors
    /// Why no connection could be opened.
    pub(crate) async fn open(&self, port: u16) -> Result<PortStream, ApiError> {
        if Transport::remembered(&self.inner.api) == Transport::Channels {
            return self.inner.open_alone(port).await;
        }
        loop {
            let Some(connection) = self.inner.connection(port).await? else {
                return self.inner.open_alone(port).await;
            };
            match connection.open_pair(port) {
                Ok(stream) => {
                    self.inner.keep_a_spare(port);
                    return Ok(stream);
                }
                // It ended or filled up in between: the next choice leaves it out.
                Err(spdy::OpenError::GoingAway | spdy::OpenError::TooMany | spdy::OpenError::Exhausted) => {
                    connection.close_when_idle();
                    self.inner.forget(&connection);
                }
            }
        }
    }

    /// Replaces the connections: the machine slept, or its network changed, and they may be dead. Streams that run
    /// stay where they are.
    pub(crate) fn probe(&self) {
        let mut state = self.inner.lock();
        for connection in state.connections.drain(..) {
            connection.close_when_idle();
        }
        state.failed = None;
    }

    /// Waits until there was a connection and none is left; why.
    pub(crate) async fn lost(&self, port: u16) -> Reason {
        let mut changed = self.inner.changed.subscribe();
        // What was lost while nobody looked is made anew before it counts.
        let before = self.inner.lock().lost.take();
        if let Some(reason) = before {
            match tokio::time::timeout(AGAIN, self.warm(port)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.reason(crate::error::chain(&error)),
                Err(_) => return reason,
            }
        }
        loop {
            changed.mark_unchanged();
            if let Some(reason) = &self.inner.lock().lost {
                return reason.clone();
            }
            // The sender is ours: it cannot be gone.
            let _ = changed.changed().await;
        }
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.inner.lock().connections.len()
    }
}

impl Drop for PodPool {
    fn drop(&mut self) {
        self.inner.close();
    }
}

/// Sees to a connection whenever its server gives no sign of life; has no end.
async fn replace(inner: &Weak<Inner>, connection: &Arc<Connection>) -> Infallible {
    loop {
        connection.silence_changed().await;
        // Since when the server has answered elsewhere.
        let mut elsewhere = None;
        while connection.is_silent() && !connection.is_over() {
            let Some(inner) = inner.upgrade() else { break };
            inner.replace(connection, &mut elsewhere);
            // Whoever holds it keeps the pool from its end.
            drop(inner);
            tokio::select! {
                biased;
                () = connection.silence_changed() => {}
                () = tokio::time::sleep(REPLACE_EVERY) => {}
            }
        }
        // Whoever waits for a dial need not any more.
        if let Some(inner) = inner.upgrade().filter(|_| !connection.is_silent()) {
            inner.lock().replaced = None;
            inner.changed.send_modify(|count| *count += 1);
        }
    }
}

/// Closes idle connections now and then, until the pool is gone; all of them when its scope drains.
async fn sweep(inner: Weak<Inner>, scope: Scope, mut changed: watch::Receiver<u64>) {
    let mut next = tokio::time::Instant::now() + SWEEP_EVERY;
    loop {
        tokio::select! {
            biased;
            // 1. The end.
            () = scope.drained() => {
                if let Some(inner) = inner.upgrade() {
                    inner.close();
                }
                return;
            }
            // 2. News: perhaps that the pool was closed.
            news = changed.changed() => {
                if news.is_err() || inner.upgrade().is_none_or(|inner| inner.lock().closed) {
                    return;
                }
            }
            // 3. Time.
            () = tokio::time::sleep_until(next) => {
                next += SWEEP_EVERY;
                let Some(inner) = inner.upgrade() else { return };
                inner.sweep();
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens nothing any more; what runs ends by itself.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for connection in state.connections.drain(..) {
            connection.close_when_idle();
        }
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    async fn closed(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if self.lock().closed {
                return;
            }
            // The sender is ours: it cannot be gone.
            let _ = changed.changed().await;
        }
    }

    /// A connection for one more stream; dials one when there is none to be had. `None`: streams have one each.
    async fn connection(self: &Arc<Self>, port: u16) -> Result<Option<Arc<Connection>>, ApiError> {
        let mut changed = self.changed.subscribe();
        let begun = Instant::now();
        loop {
            changed.mark_unchanged();
            match self.choose(port, begun) {
                Choice::Take(connection) => return Ok(Some(connection)),
                Choice::Alone => return Ok(None),
                Choice::Fail(error) => return Err(error),
                Choice::Wait => {
                    // The sender is ours: it cannot be gone. Dials have deadlines of their own.
                    let _ = changed.changed().await;
                }
            }
        }
    }

    fn choose(self: &Arc<Self>, port: u16, begun: Instant) -> Choice {
        let mut state = self.lock();
        if state.closed {
            return Choice::Fail(self.stopped());
        }
        if state.transport == Some(Transport::Channels) && Transport::remembered(&self.api) == Transport::Channels {
            return Choice::Alone;
        }
        Self::prune(&mut state);
        let room = state.connections.len() + state.dialing < CONNECTIONS_MAX;
        let best = state
            .connections
            .iter()
            .filter(|connection| connection.streams() < FULL || !room)
            .min_by_key(|connection| {
                let held_up = (connection.is_silent(), connection.is_stalled());
                (held_up, connection.is_bulk(), connection.streams())
            })
            .cloned();
        match best {
            Some(best) if !best.is_silent() && (!best.is_stalled() || !room) => Choice::Take(best),
            stalled => {
                // A silent one is not.
                let stalled = stalled.filter(|best| !best.is_silent());
                if let (0, Some((at, error))) = (state.dialing, &state.failed)
                    && *at >= begun
                {
                    // No better one could be had: a stalled one is better than none.
                    return stalled.map_or_else(|| Choice::Fail(error.clone()), Choice::Take);
                }
                if state.dialing == 0 {
                    self.dial(&mut state, port);
                }
                Choice::Wait
            }
        }
    }

    /// Opens another connection when none is idle, so that the next stream finds one.
    fn keep_a_spare(self: &Arc<Self>, port: u16) {
        let mut state = self.lock();
        let idle = state
            .connections
            .iter()
            .any(|connection| connection.streams() == 0 && !connection.is_over() && !connection.is_silent());
        let failed_lately = state.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < SWEEP_EVERY);
        if !idle && state.dialing == 0 && state.connections.len() < SPREAD && !failed_lately && !state.closed {
            self.dial(&mut state, port);
        }
    }

    fn dial(self: &Arc<Self>, state: &mut State, port: u16) {
        state.dialing += 1;
        state.port = port;
        let inner = Arc::clone(self);
        self.scope.spawn("dial a pod", async move {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let opened = tokio::select! {
                biased;
                () = inner.closed() => Err(inner.stopped()),
                opened = port_forward::open(&inner.api, &inner.pod, port, number) => opened,
            };
            let mut state = inner.lock();
            state.dialing -= 1;
            match opened {
                Ok(opened) => {
                    state.transport = Some(opened.transport);
                    state.lost = None;
                    state.failed = None;
                    inner.run(opened.task, &opened.connection);
                    if state.closed || opened.transport == Transport::Channels {
                        // The latter only shows that there is a way: each stream opens its own.
                        opened.connection.close();
                    } else {
                        state.connections.push(opened.connection);
                    }
                }
                Err(error) => {
                    state.note_loss(|| error.reason(error.to_string()));
                    state.failed = Some((Instant::now(), error));
                }
            }
            drop(state);
            inner.changed.send_modify(|count| *count += 1);
        });
    }

    /// Drives a connection to its end, and tells those who wait for news.
    fn run(self: &Arc<Self>, task: super::connection::ConnectionTask, connection: &Arc<Connection>) {
        let (inner, connection) = (Arc::downgrade(self), Arc::clone(connection));
        let scope = self.scope.clone();
        self.scope.spawn("pod connection", async move {
            tokio::pin!(task);
            tokio::select! {
                biased;
                () = &mut task => {}
                // Its pool may have let go of it before.
                () = scope.drained() => {
                    connection.hurry();
                    task.await;
                }
                never = replace(&inner, &connection) => match never {},
            }
            if let Some(inner) = inner.upgrade() {
                let mut state = inner.lock();
                state.connections.retain(|known| !Arc::ptr_eq(known, &connection));
                state.note_loss(|| connection.ended().unwrap_or_else(|| "".into()));
                drop(state);
                inner.changed.send_modify(|count| *count += 1);
            }
        });
    }

    /// Has a connection beside one whose server gives no sign of life. Once the server gives one elsewhere, or refuses the
    /// new one, streams that wait for their first answer go there, those that ask again have [`ASK_AGAIN_AFTER`], the others [`GIVE_UP_AFTER`]. A pod that pauses an upload looks
    /// the same, so such a connection is kept.
    fn replace(self: &Arc<Self>, silent: &Arc<Connection>, elsewhere: &mut Option<Instant>) {
        let Some(since) = silent.silent_since() else { return };
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let mut others = state.connections.iter().filter(|other| !Arc::ptr_eq(other, silent) && !other.is_over());
        if others.any(|other| !other.is_silent() && other.has_answered_since(since)) {
            state.replaced = None;
            drop(state);
            if silent.is_bulk() {
                return;
            }
            match elsewhere {
                Some(answered) if answered.elapsed() >= GIVE_UP_AFTER => silent.give_up(),
                Some(answered) if answered.elapsed() >= ASK_AGAIN_AFTER => silent.cut(Cuts::Asked),
                Some(_) => {}
                None => {
                    *elsewhere = Some(Instant::now());
                    silent.cut(Cuts::Unanswered);
                    // Connections for requests are as old.
                    self.api.redial();
                }
            }
            return;
        }
        for other in state.connections.iter().filter(|other| !Arc::ptr_eq(other, silent)) {
            other.ask();
        }
        let all = state.connections.iter().all(|other| other.is_silent() || other.is_over());
        if all && state.may_replace(Instant::now()) {
            let port = state.port;
            self.dial(&mut state, port);
        }
        // Silence alone may be a gap in the network. A refusal beside it is a server that is gone.
        let refused = all && state.is_refused_since(since);
        drop(state);
        if refused && since.elapsed() >= REFUSED_AFTER {
            silent.cut(Cuts::Asked);
        }
    }

    /// A connection of the channel protocol, for one stream.
    async fn open_alone(self: &Arc<Self>, port: u16) -> Result<PortStream, ApiError> {
        use super::connection::Key;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let opened = port_forward::open(&self.api, &self.pod, port, number).await?;
        let connection = Arc::clone(&opened.connection);
        self.run(opened.task, &connection);
        {
            let mut state = self.lock();
            state.transport = Some(opened.transport);
            state.lost = None;
        }
        if opened.transport == Transport::Channels {
            return Ok(connection.pair(Key::Channel(0), Key::Channel(1)));
        }
        // The server has learnt a better transport since.
        let stream = connection.open_pair(port);
        self.lock().connections.push(Arc::clone(&connection));
        stream.map_err(|_| self.stopped())
    }

    fn stopped(&self) -> ApiError {
        ApiError::Unreachable {
            server: self.api.describe(),
            reason: "it takes no new streams".into(),
            fault: adit_core::diagnose::Fault::Upstream,
            hint: None,
            silent: false,
        }
    }

    /// Leaves out what takes no streams any more; running ones end there.
    fn prune(state: &mut State) {
        state.connections.retain(|connection| {
            let takes = !connection.is_over() && connection.takes_streams();
            if !takes {
                connection.close_when_idle();
            }
            takes
        });
    }

    fn forget(&self, gone: &Arc<Connection>) {
        self.lock().connections.retain(|connection| !Arc::ptr_eq(connection, gone));
    }

    /// Closes what is idle for long, all but one.
    fn sweep(&self) {
        let mut state = self.lock();
        Self::prune(&mut state);
        let mut left = state.connections.len();
        state.connections.retain(|connection| {
            let close = left > 1 && connection.idle() > IDLE;
            if close {
                left -= 1;
                connection.close();
            }
            !close
        });
    }
}
