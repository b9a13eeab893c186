//! Bytes and packets of a connection, beside what of them is counted already.

use super::Sums;
use crate::decode::Record;

/// What a connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) retransmits: u64,
}

impl Traffic {
    pub(super) const fn of(record: &Record) -> Self {
        Self { sent: record.sent, received: record.received, retransmits: record.retransmits as u64 }
    }

    /// What is more than before. A count never falls; one that seems to was read of another socket.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
            retransmits: self.retransmits.saturating_sub(before.retransmits),
        }
    }

    /// The greater of each.
    pub(super) fn most(self, other: Self) -> Self {
        Self {
            sent: self.sent.max(other.sent),
            received: self.received.max(other.received),
            retransmits: self.retransmits.max(other.retransmits),
        }
    }

    /// Both together.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
            retransmits: self.retransmits.saturating_add(other.retransmits),
        }
    }

    /// Sums with what was carried before they began.
    pub(super) const fn before(self, sums: &Sums) -> Sums {
        let all = self.and(Self { sent: sums.sent, received: sums.received, retransmits: sums.retransmits });
        Sums { sent: all.sent, received: all.received, retransmits: all.retransmits, ..*sums }
    }
}
