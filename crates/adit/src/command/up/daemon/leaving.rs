//! A process that was replaced and still carries something says so in a file beside the socket: its successor answers for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::others;

/// How often it looks whether what it carries is something else.
pub(super) const LOOK: Duration = Duration::from_secs(1);

const BEGIN: &str = "leaving-";
const END: &str = ".json";

/// Says what this process carries before it is known whether it is replaced: whoever asks its successor first hears of it.
pub(super) fn announce(runtime: &Path, live: &[String]) {
    if !live.is_empty() {
        // Without it, it is not told what goes on; it goes on all the same.
        let _ = std::fs::write(own_path(runtime), json!(live).to_string());
    }
}

/// It was not replaced.
pub(super) fn take_back(runtime: &Path) {
    let _ = std::fs::remove_file(own_path(runtime));
}

fn own_path(runtime: &Path) -> PathBuf {
    runtime.join(format!("{BEGIN}{}{END}", std::process::id()))
}

/// What this process says; nothing any more when it is dropped.
pub(super) struct Leaving {
    path: PathBuf,
    told: Option<Vec<String>>,
}

impl Leaving {
    pub(super) fn new(runtime: &Path) -> Self {
        Self { path: own_path(runtime), told: None }
    }

    /// What it carries now.
    pub(super) fn tell(&mut self, live: Vec<String>) {
        if self.told.as_ref() == Some(&live) {
            return;
        }
        // Without it, it is not told what goes on; it goes on all the same.
        let _ = std::fs::write(&self.path, json!(live).to_string());
        self.told = Some(live);
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Processes before this one that still carry something, and what.
pub(super) fn all(runtime: &Path) -> Vec<Value> {
    let of = |path: PathBuf| {
        let pid: u32 = path.file_name()?.to_str()?.strip_prefix(BEGIN)?.strip_suffix(END)?.parse().ok()?;
        // One that was killed has left its file.
        if pid == std::process::id() || !others::is_daemon(pid) {
            return None;
        }
        let live: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        live.as_array().is_some_and(|live| !live.is_empty()).then(|| json!({ "pid": pid, "live": live }))
    };
    let entries = std::fs::read_dir(runtime).into_iter().flatten().flatten();
    entries.filter_map(|entry| of(entry.path())).collect()
}

/// The same as people read it, a line each.
pub(super) fn in_words(predecessors: &Value) -> String {
    let line = |one: &Value| {
        let live: Vec<&str> = one["live"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("the process before (pid {}) still carries: {}; kill it to end that\n", one["pid"], live.join(", "))
    };
    predecessors.as_array().into_iter().flatten().map(line).collect()
}
