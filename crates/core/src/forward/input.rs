//! What happens to a forward, and what its driver does.

use std::sync::Arc;
use std::time::Instant;

/// One try to find the target and to reach it. Numbers rise and are never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(u64);

impl Attempt {
    /// The number, for logs.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    pub(super) const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Why a forward does not work, for the user, without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// All of it.
    pub text: Arc<str>,
    /// The part of it that is about what it shares with others, such as its cluster: those have the same trouble.
    pub shared: Option<Arc<str>>,
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { text: text.into(), shared: None }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self { text: text.into(), shared: None }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For the user.
    pub reason: Reason,
    /// Trying again would not help: no such context, forbidden, no such port.
    pub permanent: bool,
    /// What it shares with others cannot be reached: no try of its own has failed.
    pub away: bool,
    /// It waits for a person, and is not tried before: such a wait counts as no try.
    pub until: Option<Instant>,
}

impl Trouble {
    /// Trouble that may pass.
    #[must_use]
    pub fn transient(reason: impl Into<Reason>) -> Self {
        Self { reason: reason.into(), permanent: false, away: false, until: None }
    }

    /// There is no way to what it shares with others.
    #[must_use]
    pub fn away(reason: impl Into<Reason>) -> Self {
        Self { reason: reason.into(), permanent: false, away: true, until: None }
    }

    /// Trouble that somebody has to act on.
    #[must_use]
    pub fn permanent(reason: impl Into<Reason>) -> Self {
        Self { reason: reason.into(), permanent: true, away: false, until: None }
    }

    /// The same, and nothing is tried before a time.
    #[must_use]
    pub fn held(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
    }
}

/// What happens. Answers carry the attempt they answer; those of an older attempt are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardInput {
    /// The user asks for it by name: it starts now, whatever it waits for.
    Demand,
    /// A caller wants to use it.
    LeaseTaken,
    /// A caller is done.
    LeaseDropped,
    /// The answer to [`ForwardAction::Resolve`]: there is a target.
    Resolved {
        /// Which attempt.
        attempt: Attempt,
    },
    /// The answer to [`ForwardAction::Resolve`]: there is none.
    ResolveFailed {
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        trouble: Trouble,
    },
    /// The answer to [`ForwardAction::Connect`]: the connection is warm.
    Connected {
        /// Which attempt.
        attempt: Attempt,
    },
    /// The answer to [`ForwardAction::Connect`]: it cannot be made.
    ConnectFailed {
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        trouble: Trouble,
    },
    /// The connection broke.
    Lost {
        /// Whose connection.
        attempt: Attempt,
        /// Why.
        reason: Reason,
    },
    /// The connection holds, but probes of the target fail: another target or another connection may do better.
    Unhealthy {
        /// Whose target.
        attempt: Attempt,
        /// What the last probe said.
        reason: Reason,
    },
    /// The target has gone and there is no other yet. While resolving it is news of what is waited for.
    NoTarget {
        /// Whose target.
        attempt: Attempt,
        /// What is waited for.
        reason: Reason,
    },
    /// A stream through it began.
    StreamOpened,
    /// A stream through it ended. Each that began ends once.
    StreamEnded,
    /// The machine woke from sleep.
    Wake,
    /// Take nothing new, let what is live finish, then rest.
    Stop,
    /// The answer to [`ForwardAction::Drain`]: all connections are closed.
    DrainDone,
}

/// What the driver does; every side effect of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardAction {
    /// Find the target. Answer with `Resolved` or `ResolveFailed`; say with `NoTarget` what is waited for.
    Resolve {
        /// For the answer.
        attempt: Attempt,
    },
    /// Connect to it. Answer with `Connected` or `ConnectFailed`, and later `Lost` or `NoTarget`.
    Connect {
        /// For the answer.
        attempt: Attempt,
    },
    /// Drop the `Resolve` or `Connect` that is under way, and its watch; no answer is wanted.
    Cancel {
        /// Which.
        attempt: Attempt,
    },
    /// Open nothing new on this attempt's connections; they close with their last stream.
    Retire {
        /// Whose.
        attempt: Attempt,
    },
    /// Close this attempt's connections: nobody uses them.
    Disconnect {
        /// Whose.
        attempt: Attempt,
    },
    /// Retire all connections, close them within the driver's own deadline, and answer with `DrainDone`.
    Drain,
}
