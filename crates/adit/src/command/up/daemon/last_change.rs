//! When the file changed what is in force, and what: for whoever asks for a reload when the watcher was quicker.

use std::time::{Instant, SystemTime};

use adit_core::timestamp;
use serde_json::{Value, json};

use crate::command::up::running::Change;

/// The last change that the file asked for.
pub(super) struct LastChange {
    at: SystemTime,
    /// The same by the clock that nobody sets.
    then: Instant,
    change: Change,
}

impl LastChange {
    pub(super) fn now(change: Change) -> Self {
        Self { at: SystemTime::now(), then: Instant::now(), change }
    }

    /// As the API answers it.
    pub(super) fn json(&self) -> Value {
        let Change { added, changed, removed, .. } = &self.change;
        let ago = u64::try_from(self.then.elapsed().as_millis()).unwrap_or(u64::MAX);
        json!({
            "at": timestamp::format(self.at), "ago_ms": ago, "added": added, "changed": changed, "removed": removed,
        })
    }
}
