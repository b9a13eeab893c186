//! Budgets for frames that cost their sender nothing and the receiver something.
//!
//! Each budget is a count a window of time; over it the lane ends with
//! [`ErrorCode::EnhanceYourCalm`](crate::ErrorCode::EnhanceYourCalm). Compare the floods of RFC 9113 section 10.5.

use std::time::{Duration, Instant};

/// Length of the window the counts are for.
pub const WINDOW: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cheap {
    /// A heartbeat that asks for an echo.
    Ping,
    /// A stream that the peer opened and then reset.
    Reset,
    /// Data without bytes and without END.
    EmptyData,
    /// A grant under [`TINY_GRANT`] bytes.
    TinyWindow,
    /// A frame for a stream that is gone.
    Late,
    /// Any frame of the session: auth, register, state, settings, optional ones.
    Control,
    /// A header block beyond those that may wait unread on a stream.
    Heads,
}

/// Grants below this many bytes count as tiny.
pub const TINY_GRANT: u32 = 256;

const KINDS: usize = 7;

impl Cheap {
    /// The largest count a [`WINDOW`], each several times what an honest peer at full load was seen to need.
    #[must_use]
    pub fn budget(self) -> u32 {
        match self {
            // Every 5 s when idle, and once a growing window asks for a fresh round trip.
            Self::Ping => 200,
            // Visitors who leave. Costs no more than a request that is answered, so the bound is above the requests
            // a lane can carry: a visitor must not be able to end an agent's lane.
            Self::Reset => 100_000,
            Self::EmptyData => 100,
            Self::TinyWindow => 1_000,
            // A reset 16 MiB stream may have 1 024 frames under way. Each costs one look-up, as a live one does.
            Self::Late => 200_000,
            Self::Control => 2_000,
            // Each also costs its stream.
            Self::Heads => 1,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Ping => 0,
            Self::Reset => 1,
            Self::EmptyData => 2,
            Self::TinyWindow => 3,
            Self::Late => 4,
            Self::Control => 5,
            Self::Heads => 6,
        }
    }
}

/// A budget was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many {0:?} frames")]
pub struct Exhausted(pub Cheap);

/// The counts of one lane.
#[derive(Debug)]
pub struct Budgets {
    counts: [u32; KINDS],
    since: Instant,
}

impl Budgets {
    /// Starts with all budgets full.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { counts: [0; KINDS], since: now }
    }

    /// Counts one cheap frame.
    ///
    /// # Errors
    /// [`Exhausted`] when it is one too many.
    pub fn charge(&mut self, now: Instant, kind: Cheap) -> Result<(), Exhausted> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            self.counts = [0; KINDS];
            self.since = now;
        }
        let count = &mut self.counts[kind.index()];
        *count += 1;
        if *count > kind.budget() { Err(Exhausted(kind)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_stopped_and_a_steady_drip_is_not() {
        let start = Instant::now();
        let mut budgets = Budgets::new(start);
        let limit = Cheap::Ping.budget();
        for _ in 0..limit {
            budgets.charge(start, Cheap::Ping).unwrap();
        }
        assert_eq!(budgets.charge(start, Cheap::Ping), Err(Exhausted(Cheap::Ping)));
        assert!(budgets.charge(start, Cheap::Reset).is_ok(), "budgets are separate");
        let mut budgets = Budgets::new(start);
        for second in 0..10_000 {
            budgets.charge(start + Duration::from_secs(second), Cheap::Ping).unwrap();
        }
    }
}
