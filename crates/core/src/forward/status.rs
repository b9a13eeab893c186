//! What others see of a forward.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::input::Attempt;

/// Where a forward is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardState {
    /// Nobody wants it.
    Idle,
    /// The target is looked for, or waited for.
    Resolving,
    /// The target is connected to.
    Connecting,
    /// Streams can be opened.
    Ready,
    /// It waits before the next attempt.
    Backoff,
    /// Somebody has to act.
    Failed,
    /// What is live finishes.
    Draining,
}

impl ForwardState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 7] =
        [Self::Idle, Self::Resolving, Self::Connecting, Self::Ready, Self::Backoff, Self::Failed, Self::Draining];

    /// The state as one lower-case word, for JSON, logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Resolving => "resolving",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Draining => "draining",
        }
    }
}

/// A picture of a forward. Taking one copies no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardStatus {
    /// Where it is.
    pub state: ForwardState,
    /// Since when.
    pub since: Instant,
    /// Why it is not ready: the last trouble since it last was, or what it waits for.
    pub reason: Option<Arc<str>>,
    /// The part of it that is about what it shares with others, such as its cluster.
    pub shared: Option<Arc<str>>,
    /// The current attempt, or the last one.
    pub attempt: Attempt,
    /// Failures in a row.
    pub failures: u32,
    /// When the next attempt begins by itself.
    pub retry_at: Option<Instant>,
    /// Callers that use it.
    pub leases: u64,
    /// Streams through it.
    pub live: u64,
}

impl fmt::Display for ForwardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `backoff: connection refused`.
impl fmt::Display for ForwardStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}
