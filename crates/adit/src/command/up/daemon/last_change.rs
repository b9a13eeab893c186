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
    /// The file is as it was before a mistake in it.
    mended: bool,
}

impl LastChange {
    pub(super) fn now(change: Change) -> Self {
        Self { at: SystemTime::now(), then: Instant::now(), change, mended: false }
    }

    /// A mistake was taken out of the file, and nothing else is otherwise than before it.
    pub(super) fn mended(change: Change) -> Self {
        Self { mended: true, ..Self::now(change) }
    }

    /// As the API answers it.
    pub(super) fn json(&self) -> Value {
        let Change { added, changed, removed, unchanged } = &self.change;
        let ago = u64::try_from(self.then.elapsed().as_millis()).unwrap_or(u64::MAX);
        json!({
            "at": timestamp::format(self.at), "ago_ms": ago, "added": added, "changed": changed, "removed": removed,
            "unchanged": unchanged, "mended": self.mended,
        })
    }
}
