//! What was known at a moment. A copy: the table is not held while lines are made of it, and a pause keeps all of it.

use std::time::Duration;

use ::monitor::agent::{Shared, now};
use ::monitor::source::Counts;
use ::monitor::table::{Connection, Process, Remote};

use super::uses::Uses;

/// What was known at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// When it was, since the system started.
    pub(super) at: Duration,
    pub(super) connections: Vec<Connection>,
    pub(super) processes: Vec<Process>,
    pub(super) remotes: Vec<Remote>,
    pub(super) counts: Counts,
    /// Whether failures are seen in the way that was taken.
    pub(super) sees_failures: bool,
    pub(super) uses: Uses,
}

impl Look {
    /// Looks.
    pub(super) fn of(shared: &Shared, uses: Uses) -> Self {
        let (counts, sees_failures) = (shared.counts(), shared.way().sees_failures());
        let table = shared.table();
        Self {
            at: now(),
            connections: table.connections().cloned().collect(),
            processes: table.processes().cloned().collect(),
            remotes: table.remotes().cloned().collect(),
            counts,
            sees_failures,
            uses,
        }
    }
}
