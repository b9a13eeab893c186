//! The life of a forward: `Idle → Resolving → Connecting → Ready → (Backoff | Failed | Draining)`.
//!
//! It starts with the first demand, once for however many callers, and ends when nobody has used it for a while. Each
//! try to find and reach the target has a number, an [`Attempt`], so that the late end of an old connection never
//! harms its successor. Who waits for it does so on the [`ForwardStatus`].
//!
//! The driver passes on what happens with [`Forward::handle_input`], wakes the machine at [`Forward::poll_timeout`],
//! and does what [`Forward::poll_action`] says until that has nothing more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::{Backoff, BackoffSettings};

mod input;
mod status;

pub use input::{Attempt, ForwardAction, ForwardInput, Reason, Trouble};
pub use status::{ForwardState, ForwardStatus};

/// No wait is shorter, so that a deadline always lies in the future.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The wait of a forward before it stands in line for what it shares with others and cannot be reached.
const AWAY: Duration = Duration::from_millis(10);

/// When a forward starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first demand; it ends when it is idle.
    #[default]
    OnDemand,
    /// At once, and it stays.
    Always,
}

/// How a forward behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardSettings {
    /// When it starts.
    pub start: Start,
    /// After how long without a lease and a live stream one that was started on demand ends; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// The waits after transient trouble.
    pub backoff: BackoffSettings,
    /// After how many tries without success in between it gives up; `None` is never. A connection that did not hold is no
    /// success. Who asks for it by name, or uses it later, has it try again.
    pub max_attempts: Option<u32>,
    /// How long a connection must have held before its loss is answered by redialling at once.
    pub stable_after: Duration,
    /// For how long after a permanent failure a lease gets the remembered reason instead of a new attempt.
    pub failure_memory: Duration,
    /// When one that always runs tries again after a permanent failure.
    pub retry_failed: Duration,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        Self {
            start: Start::OnDemand,
            idle_timeout: Some(Duration::from_secs(60 * 60)),
            backoff: BackoffSettings::default(),
            max_attempts: None,
            stable_after: Duration::from_secs(10),
            failure_memory: Duration::from_secs(1),
            retry_failed: Duration::from_secs(30),
        }
    }
}

/// The forward machine.
#[derive(Debug)]
pub struct Forward {
    settings: ForwardSettings,
    state: State,
    since: Instant,
    /// Why it is not ready: the last trouble since it last was.
    reason: Option<Reason>,
    attempt: Attempt,
    backoff: Backoff,
    leases: u64,
    live: u64,
    /// Since when there is neither lease nor live stream.
    unused_since: Option<Instant>,
    actions: VecDeque<ForwardAction>,
}

/// [`ForwardState`] with what only the machine needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Resolving,
    Connecting,
    Ready,
    Backoff { until: Instant },
    Failed { until: Option<Instant> },
    Draining { closed: bool, again: bool },
}

impl Forward {
    /// A forward that rests, or one that starts when it always runs.
    #[must_use]
    pub fn new(settings: ForwardSettings, now: Instant) -> Self {
        let mut forward = Self::at_rest(settings, now);
        if settings.start == Start::Always {
            forward.resolve(now);
        }
        forward
    }

    /// A forward that rests until somebody asks for it, one that always runs, too.
    #[must_use]
    pub fn at_rest(settings: ForwardSettings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Idle,
            since: now,
            reason: None,
            attempt: Attempt::default(),
            backoff: Backoff::new(settings.backoff),
            leases: 0,
            live: 0,
            unused_since: Some(now),
            actions: VecDeque::new(),
        }
    }

    /// Takes what happened. `random` is any 64 random bits, for the wait that may begin.
    pub fn handle_input(&mut self, now: Instant, input: ForwardInput, random: u64) {
        match input {
            ForwardInput::Demand => self.demand(now),
            ForwardInput::LeaseTaken => self.lease_taken(now),
            ForwardInput::LeaseDropped => {
                self.leases = self.leases.saturating_sub(1);
                self.note_use(now);
            }
            ForwardInput::StreamOpened => {
                self.live = self.live.saturating_add(1);
                self.note_use(now);
                self.want(now);
            }
            ForwardInput::StreamEnded => {
                self.live = self.live.saturating_sub(1);
                self.note_use(now);
                self.end_drain(now);
            }
            ForwardInput::Resolved { attempt } => self.resolved(now, attempt),
            ForwardInput::Connected { attempt } => self.connected(now, attempt),
            ForwardInput::ResolveFailed { attempt, trouble } => {
                if self.awaits(attempt, State::Resolving) {
                    self.fail(now, trouble, random);
                }
            }
            ForwardInput::ConnectFailed { attempt, trouble } => {
                if self.awaits(attempt, State::Connecting) {
                    self.fail(now, trouble, random);
                }
            }
            ForwardInput::Lost { attempt, reason } | ForwardInput::Unhealthy { attempt, reason } => {
                self.lost(now, attempt, reason, random);
            }
            ForwardInput::NoTarget { attempt, reason } => self.no_target(now, attempt, reason),
            ForwardInput::Wake => self.wake(now),
            ForwardInput::Stop => self.stop(now),
            ForwardInput::DrainDone => {
                if let State::Draining { closed, .. } = &mut self.state {
                    *closed = true;
                }
                self.end_drain(now);
            }
        }
        // A deadline that passed meanwhile is acted on now, so that the next one lies in the future.
        self.handle_timeout(now);
    }

    /// Acts on the deadlines that have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.idle_deadline().is_some_and(|deadline| deadline <= now) {
            self.rest(now);
        }
        match self.state {
            State::Backoff { until } | State::Failed { until: Some(until) } if until <= now => self.resolve(now),
            _ => {}
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = self.retry_at();
        let idle = self.idle_deadline();
        retry.into_iter().chain(idle).min()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<ForwardAction> {
        self.actions.pop_front()
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> ForwardState {
        match self.state {
            State::Idle => ForwardState::Idle,
            State::Resolving => ForwardState::Resolving,
            State::Connecting => ForwardState::Connecting,
            State::Ready => ForwardState::Ready,
            State::Backoff { .. } => ForwardState::Backoff,
            State::Failed { .. } => ForwardState::Failed,
            State::Draining { .. } => ForwardState::Draining,
        }
    }

    /// The whole picture, for those who wait and those who look.
    #[must_use]
    pub fn status(&self) -> ForwardStatus {
        ForwardStatus {
            state: self.state(),
            since: self.since,
            reason: self.reason.as_ref().map(|reason| Arc::clone(&reason.text)),
            shared: self.reason.as_ref().and_then(|reason| reason.shared.clone()),
            attempt: self.attempt,
            failures: if self.state == State::Ready { 0 } else { self.backoff.attempts() },
            retry_at: self.retry_at(),
            leases: self.leases,
            live: self.live,
        }
    }

    /// The user asks for it by name: no wait and no remembered failure holds it back.
    fn demand(&mut self, now: Instant) {
        self.note_use(now);
        match self.state {
            State::Backoff { .. } => self.resolve(now),
            State::Failed { .. } => {
                // Its tries are counted anew.
                self.backoff.reset();
                self.resolve(now);
            }
            _ => self.want(now),
        }
    }

    fn lease_taken(&mut self, now: Instant) {
        self.leases = self.leases.saturating_add(1);
        self.note_use(now);
        self.want(now);
    }

    /// Somebody wants to use it: start it unless it is on its way. Traffic does not shorten a wait.
    fn want(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle => self.resolve(now),
            State::Failed { .. } => {
                let remembered = now.saturating_duration_since(self.since) < self.settings.failure_memory;
                if !remembered {
                    self.resolve(now);
                }
            }
            State::Draining { again, .. } => *again = true,
            State::Resolving | State::Connecting | State::Ready | State::Backoff { .. } => {}
        }
    }

    fn resolved(&mut self, now: Instant, attempt: Attempt) {
        if self.awaits(attempt, State::Resolving) {
            self.enter(now, State::Connecting);
            self.actions.push_back(ForwardAction::Connect { attempt });
        }
    }

    fn connected(&mut self, now: Instant, attempt: Attempt) {
        if self.awaits(attempt, State::Connecting) {
            self.reason = None;
            self.enter(now, State::Ready);
            // Nobody can use it before it is ready, so the idle time begins here.
            self.note_use(now);
        }
    }

    fn fail(&mut self, now: Instant, trouble: Trouble, random: u64) {
        self.reason = Some(trouble.reason);
        if trouble.permanent {
            let again = trouble.until.unwrap_or(now + self.settings.retry_failed).max(now + WAIT_MIN);
            return self.enter(now, State::Failed { until: (self.settings.start == Start::Always).then_some(again) });
        }
        if let Some(until) = trouble.until {
            return self.enter(now, State::Backoff { until: until.max(now + WAIT_MIN) });
        }
        if trouble.away {
            // Not counted: whoever dials for all of them has a pace of its own.
            return self.enter(now, State::Backoff { until: now + AWAY });
        }
        let wait = self.backoff.next_wait(random).max(WAIT_MIN);
        let tries = self.backoff.attempts();
        if self.settings.max_attempts.is_some_and(|most| tries >= most) {
            let noun = if tries == 1 { "try" } else { "tries" };
            if let Some(reason) = &mut self.reason {
                reason.text = format!("given up after {tries} {noun}: {}", reason.text).into();
            }
            return self.enter(now, State::Failed { until: None });
        }
        self.enter(now, State::Backoff { until: now + wait });
    }

    fn lost(&mut self, now: Instant, attempt: Attempt, reason: Reason, random: u64) {
        if !self.awaits(attempt, State::Ready) {
            return;
        }
        self.actions.push_back(ForwardAction::Retire { attempt });
        if !self.settle(now) {
            return self.fail(now, Trouble::transient(reason), random);
        }
        self.reason = Some(reason);
        self.resolve(now);
    }

    /// The resolver sees no pod that is ready. It goes on watching, and so does the attempt.
    fn no_target(&mut self, now: Instant, attempt: Attempt, reason: Reason) {
        if attempt != self.attempt {
            return;
        }
        match self.state {
            State::Resolving => self.reason = Some(reason),
            State::Connecting | State::Ready => {
                self.settle(now);
                self.undo();
                self.reason = Some(reason);
                self.resolve(now);
            }
            State::Idle | State::Backoff { .. } | State::Failed { .. } | State::Draining { .. } => {}
        }
    }

    /// The machine slept: whatever was under way hangs on a dead socket, and the wait has been long enough.
    fn wake(&mut self, now: Instant) {
        if matches!(self.state, State::Idle | State::Draining { .. }) {
            return;
        }
        self.undo();
        self.backoff.reset();
        self.resolve(now);
    }

    fn stop(&mut self, now: Instant) {
        if let State::Draining { again, .. } = &mut self.state {
            *again = false;
            return;
        }
        self.backoff.reset();
        if self.state == State::Ready || self.live > 0 {
            if self.state != State::Ready {
                self.undo();
            }
            self.actions.push_back(ForwardAction::Drain);
            return self.enter(now, State::Draining { closed: false, again: false });
        }
        if self.state != State::Idle {
            self.undo();
            self.reason = None;
            self.enter(now, State::Idle);
        }
    }

    fn end_drain(&mut self, now: Instant) {
        let State::Draining { closed: true, again } = self.state else { return };
        if self.live > 0 {
            return;
        }
        self.reason = None;
        self.enter(now, State::Idle);
        if again {
            self.resolve(now);
        }
    }

    /// Nobody used it for long enough.
    fn rest(&mut self, now: Instant) {
        match self.state {
            State::Ready => self.actions.push_back(ForwardAction::Disconnect { attempt: self.attempt }),
            _ => self.undo(),
        }
        self.backoff.reset();
        self.reason = None;
        self.enter(now, State::Idle);
    }

    /// Ends the attempt under way: nobody waits for its answer, nothing new goes through its connections.
    fn undo(&mut self) {
        let attempt = self.attempt;
        match self.state {
            State::Resolving | State::Connecting => self.actions.push_back(ForwardAction::Cancel { attempt }),
            State::Ready => self.actions.push_back(ForwardAction::Retire { attempt }),
            State::Idle | State::Backoff { .. } | State::Failed { .. } | State::Draining { .. } => {}
        }
    }

    /// Whether the connection held for long enough to forget the failures before it.
    fn settle(&mut self, now: Instant) -> bool {
        let stable =
            self.state == State::Ready && now.saturating_duration_since(self.since) >= self.settings.stable_after;
        if stable {
            self.backoff.reset();
        }
        stable
    }

    /// Begins a new attempt.
    fn resolve(&mut self, now: Instant) {
        self.attempt = self.attempt.next();
        self.actions.push_back(ForwardAction::Resolve { attempt: self.attempt });
        self.enter(now, State::Resolving);
    }

    fn enter(&mut self, now: Instant, state: State) {
        self.state = state;
        self.since = now;
    }

    fn awaits(&self, attempt: Attempt, state: State) -> bool {
        self.attempt == attempt && self.state == state
    }

    fn note_use(&mut self, now: Instant) {
        self.unused_since = (self.leases == 0 && self.live == 0).then_some(now);
    }

    fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Backoff { until } => Some(until),
            State::Failed { until } => until,
            State::Idle | State::Resolving | State::Connecting | State::Ready | State::Draining { .. } => None,
        }
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let may_rest = match self.state {
            State::Resolving | State::Connecting | State::Ready | State::Backoff { .. } => true,
            State::Idle | State::Failed { .. } | State::Draining { .. } => false,
        };
        if !may_rest || self.settings.start == Start::Always {
            return None;
        }
        self.unused_since?.checked_add(self.settings.idle_timeout?.max(WAIT_MIN))
    }
}

#[cfg(test)]
mod tests;
