//! What is added up, for a process, a remote, a name.

use std::time::Duration;

use crate::decode::{End, Folded, Record};

/// Sums that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Connections that were asked for here.
    pub opened: u64,
    /// Connections that others asked for.
    pub incoming: u64,
    /// Connections that never came to be.
    pub failed: u64,
    /// Connections that were there and are over, in whatever way.
    pub closed: u64,
    /// Of these, those that the other end cut off.
    pub reset: u64,
    /// Of these, those that the process here cut off.
    pub aborted: u64,
    /// Bytes of data sent.
    pub sent: u64,
    /// Bytes of data received.
    pub received: u64,
    /// Packets sent again.
    pub retransmits: u64,
}

impl Sums {
    pub(super) const fn begin(&mut self, record: &Record) {
        // What was there before the monitor was opened at another time.
        if record.seen_late {
            return;
        }
        if record.incoming {
            self.incoming += 1;
        } else {
            self.opened += 1;
        }
    }

    pub(super) const fn carry(&mut self, sent: u64, received: u64, retransmits: u64) {
        self.sent = self.sent.wrapping_add(sent);
        self.received = self.received.wrapping_add(received);
        self.retransmits = self.retransmits.wrapping_add(retransmits);
    }

    pub(super) const fn add(&mut self, more: &Folded) {
        self.opened += more.opened;
        self.incoming += more.incoming;
        self.failed += more.failed;
        self.closed += more.closed;
        self.carry(more.sent, more.received, more.retransmits);
    }

    pub(super) const fn end(&mut self, end: End) {
        match end {
            End::Failed(_) => self.failed += 1,
            End::Reset => {
                self.closed += 1;
                self.reset += 1;
            }
            End::Aborted => {
                self.closed += 1;
                self.aborted += 1;
            }
            End::Closed | End::Broken(_) | End::Unseen => self.closed += 1,
        }
    }
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
}

impl Rate {
    pub(super) fn of(sent: u64, received: u64, span: Duration) -> Self {
        let millis = span.as_millis().max(1);
        let rate = |bytes: u64| u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX);
        Self { sent: rate(sent), received: rate(received) }
    }

    /// Both directions.
    #[must_use]
    pub const fn both(self) -> u64 {
        self.sent.saturating_add(self.received)
    }
}
