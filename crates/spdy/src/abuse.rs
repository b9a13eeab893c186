//! Budgets for frames that cost their sender nothing and the receiver something.
//!
//! Each budget is a count a window of time; over it the session ends. Compare the floods of RFC 9113 section 10.5.

use std::time::{Duration, Instant};

use crate::violation::Violation;

/// Length of the window the counts are for.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cheap {
    /// A PING that asks for an answer.
    Ping,
    /// A stream that the peer opened and that is refused, or opened and then reset.
    Reset,
    /// DATA without bytes and without FIN.
    EmptyData,
    /// A WINDOW_UPDATE, which says nothing to this end.
    WindowUpdate,
    /// A frame for a stream that is gone.
    Late,
    /// A frame for a stream that never was.
    Stray,
    /// Any frame of the session: SETTINGS, GOAWAY, HEADERS, unknown ones.
    Control,
}

const KINDS: usize = 7;

impl Cheap {
    /// The largest count a [`WINDOW`], far above what an honest peer at full load needs.
    fn budget(self) -> u32 {
        match self {
            // kubectl sends one every 5 s.
            Self::Ping | Self::Stray => 1_000,
            Self::Reset => 100_000,
            Self::EmptyData => 10_000,
            // A peer that keeps to the draft sends one for every few KiB, and each costs nothing but its reading.
            // What a peer still had under way for a stream that was reset is as honest and as cheap.
            Self::WindowUpdate | Self::Late => 500_000,
            Self::Control => 2_000,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ping => "PING frames",
            Self::Reset => "streams that come to nothing",
            Self::EmptyData => "empty DATA frames",
            Self::WindowUpdate => "WINDOW_UPDATE frames",
            Self::Late => "frames for streams that are gone",
            Self::Stray => "frames for streams that never were",
            Self::Control => "control frames",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Ping => 0,
            Self::Reset => 1,
            Self::EmptyData => 2,
            Self::WindowUpdate => 3,
            Self::Late => 4,
            Self::Stray => 5,
            Self::Control => 6,
        }
    }
}

/// The counts of one session.
#[derive(Debug)]
pub(crate) struct Budgets {
    counts: [u32; KINDS],
    since: Instant,
}

impl Budgets {
    pub(crate) fn new(now: Instant) -> Self {
        Self { counts: [0; KINDS], since: now }
    }

    /// Counts one; a fault when it was one too many.
    pub(crate) fn spend(&mut self, now: Instant, what: Cheap) -> Result<(), Violation> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        let count = &mut self.counts[what.index()];
        *count = count.saturating_add(1);
        if *count > what.budget() {
            return Err(Violation::Flood { frames: what.name() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_the_next_window_brings_a_new_one() {
        let now = Instant::now();
        let mut budgets = Budgets::new(now);
        for _ in 0..Cheap::Ping.budget() {
            budgets.spend(now, Cheap::Ping).unwrap();
        }
        assert_eq!(budgets.spend(now, Cheap::Ping), Err(Violation::Flood { frames: "PING frames" }));
        budgets.spend(now, Cheap::Stray).unwrap();
        budgets.spend(now + WINDOW, Cheap::Ping).unwrap();
    }
}
