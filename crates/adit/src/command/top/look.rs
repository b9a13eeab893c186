//! What was known at a moment. A copy: the table is not held while lines are made of it, and a pause keeps all of it.

use std::time::Duration;

use ::monitor::agent::{Shared, now};
use ::monitor::source::Counts;
use ::monitor::table::{Connection, Overflow, Process, Remote};

use super::uses::{Uses, netns_of};

/// What was known at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// When it was, since the system started.
    pub(super) at: Duration,
    pub(super) connections: Vec<Connection>,
    pub(super) processes: Vec<Process>,
    pub(super) remotes: Vec<Remote>,
    pub(super) counts: Counts,
    /// What found no room in the lists.
    pub(super) overflow: Overflow,
    /// Whether failures are seen in the way that was taken.
    pub(super) sees_failures: bool,
    /// Whether nothing is seen of connections but that they are asked for here.
    pub(super) sees_attempts_alone: bool,
    pub(super) uses: Uses,
    /// The network namespace that we are in ourselves.
    pub(super) netns: Option<u32>,
}

impl Look {
    /// Looks.
    pub(super) fn of(shared: &Shared, uses: Uses) -> Self {
        let (counts, way) = (shared.counts(), shared.way());
        let table = shared.table();
        Self {
            at: now(),
            connections: table.connections().cloned().collect(),
            processes: table.processes().cloned().collect(),
            remotes: table.remotes().cloned().collect(),
            overflow: table.overflow(),
            counts,
            sees_failures: way.sees_failures(),
            sees_attempts_alone: way.sees_attempts_alone(),
            uses,
            netns: netns_of("self"),
        }
    }

    /// A network namespace that is not ours: an address there is not the one that is meant here by it.
    pub(super) fn foreign(&self, netns: u32) -> Option<u32> {
        let is_foreign = netns != 0 && self.netns.is_some_and(|own| own != netns);
        is_foreign.then_some(netns)
    }
}
