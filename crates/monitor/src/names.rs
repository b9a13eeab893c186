//! Names for numbers: where a process runs, from its control group; whether it is alive; with a cache.

mod place;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

pub use self::place::Place;
use crate::decode::{Command, Owner, ProcessId};

/// Control groups remembered at most; then it begins anew.
const REMEMBERED: usize = 4096;

/// Looks names up in /proc.
#[derive(Debug, Default)]
pub struct Names {
    /// By the number of the control group.
    places: HashMap<u64, Option<Arc<str>>>,
}

impl Names {
    /// Where the owner of a connection runs. A control group is looked up once, so that a process that has gone has a
    /// place, too, if another of its group was seen before.
    pub fn place(&mut self, owner: &Owner) -> Option<Arc<str>> {
        if owner.cgroup == 0 {
            return read_place(owner.process.pid);
        }
        if let Some(known) = self.places.get(&owner.cgroup) {
            return known.clone();
        }
        let found = read_place(owner.process.pid)?;
        if self.places.len() >= REMEMBERED {
            self.places.clear();
        }
        self.places.insert(owner.cgroup, Some(Arc::clone(&found)));
        Some(found)
    }
}

/// Whether the process is alive, and the same.
#[must_use]
pub fn is_alive(id: ProcessId) -> bool {
    let Some(start) = start_of(id.pid) else { return false };
    // The kernel's own clock and that of /proc may differ by a tick.
    id.start == 0 || start.abs_diff(id.start) <= 1
}

/// A process as /proc tells it.
#[must_use]
pub fn process(pid: u32) -> Option<(ProcessId, Command)> {
    let (command, start) = stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    Some((ProcessId { pid, start }, Command::new(&command)))
}

fn start_of(pid: u32) -> Option<u64> {
    Some(stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.1)
}

fn read_place(pid: u32) -> Option<Arc<str>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    Some(Place::of(&text).to_string().into())
}

/// The name and the start of a process; its name may hold blanks and brackets.
fn stat(text: &str) -> Option<(String, u64)> {
    let (before, after) = text.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    // The state is the third field, the start the twenty-second.
    let start = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((name.to_owned(), start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_and_blanks_is_read() {
        let text = "7 (a ) (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 0 0";
        assert_eq!(stat(text), Some(("a ) (b".to_owned(), 1234)));
        assert_eq!(stat("7 x"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_with_another_start_is_another_process() {
        let (id, _) = process(std::process::id()).expect("this process is there");
        assert!(is_alive(id));
        assert!(!is_alive(ProcessId { start: id.start + 100, ..id }));
    }
}
