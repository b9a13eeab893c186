//! Names for numbers: where a process runs, from its control group; whether it is alive; with a cache.

mod place;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::place::Place;
use crate::decode::{Command, Owner, ProcessId};

/// Control groups and processes remembered at most; then it begins anew.
const REMEMBERED: usize = 4096;
/// Directories of control groups that are looked through for one.
const DIRECTORIES: usize = 10_000;

/// Looks names up in /proc.
#[derive(Debug, Default)]
pub struct Names {
    places: HashMap<Key, Option<Arc<str>>>,
}

/// What a place is remembered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The number of a control group: so a process that has gone has a place, too, if another of its group was seen.
    Group(u64),
    /// A process, where all have the same control group because the system uses the older kind.
    Process(ProcessId),
}

impl Names {
    /// Where the owner of a connection runs.
    pub fn place(&mut self, owner: &Owner) -> Option<Arc<str>> {
        let (group, process) = (Key::Group(owner.cgroup), Key::Process(owner.process));
        if let Some(known) = self.places.get(&group).or_else(|| self.places.get(&process)) {
            return known.clone();
        }
        let text = fs::read_to_string(format!("/proc/{}/cgroup", owner.process.pid)).ok();
        let (key, found) = match text {
            Some(text) => {
                let key = if owner.cgroup != 0 && has_own_group(&text) { group } else { process };
                (key, Some(Place::of(&text).to_string().into()))
            }
            None if owner.cgroup == 0 => (process, None),
            None => (process, find_place(owner.cgroup)),
        };
        if self.places.len() >= REMEMBERED {
            self.places.clear();
        }
        self.places.insert(key, found.clone());
        found
    }
}

/// Whether the process is in a control group of the newer kind that is not the root of all.
fn has_own_group(text: &str) -> bool {
    text.lines().any(|line| line.strip_prefix("0::").is_some_and(|path| path != "/"))
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

/// The place of a control group whose process has gone: its directory has the number as its inode.
fn find_place(cgroup: u64) -> Option<Arc<str>> {
    let mut left = DIRECTORIES;
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().find_map(|root| {
        let found = find_directory(Path::new(root), cgroup, &mut left)?;
        let path = found.strip_prefix(root).ok()?.to_str()?.to_owned();
        Some(Place::of(&format!("0::/{path}")).to_string().into())
    })
}

fn find_directory(at: &Path, inode: u64, left: &mut usize) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    *left = left.checked_sub(1)?;
    if fs::metadata(at).ok()?.ino() == inode {
        return Some(at.to_path_buf());
    }
    let entries = fs::read_dir(at).ok()?.flatten();
    let mut directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.find_map(|entry| find_directory(&entry.path(), inode, left))
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
    use crate::decode::OwnedBy;

    #[test]
    fn a_process_name_with_brackets_and_blanks_is_read() {
        let text = "7 (a ) (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 0 0";
        assert_eq!(stat(text), Some(("a ) (b".to_owned(), 1234)));
        assert_eq!(stat("7 x"), None);
    }

    #[test]
    fn a_group_tells_only_where_each_has_its_own() {
        assert!(has_own_group("0::/system.slice/x.service\n"));
        assert!(!has_own_group("4:pids:/docker/x\n0::/\n"), "the older kind: all are in the same");
        assert!(!has_own_group("4:pids:/docker/x\n"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_has_gone_has_the_place_of_its_group_and_is_looked_up_once() {
        let mut names = Names::default();
        let owner = |pid: u32, cgroup| Owner {
            process: ProcessId { pid, start: 1 },
            command: Command::new("x"),
            user: None,
            cgroup,
            by: OwnedBy::Connect,
        };
        // No process has this number, and no control group that.
        assert_eq!(names.place(&owner(u32::MAX, u64::MAX)), None);
        names.places.insert(Key::Group(77), Some("web.service".into()));
        assert_eq!(names.place(&owner(u32::MAX, 77)).as_deref(), Some("web.service"));
        assert!(names.place(&owner(std::process::id(), 0)).is_some());
        assert_eq!(names.places.len(), 3);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_with_another_start_is_another_process() {
        let (id, _) = process(std::process::id()).expect("this process is there");
        assert!(is_alive(id));
        assert!(!is_alive(ProcessId { start: id.start + 100, ..id }));
    }
}
