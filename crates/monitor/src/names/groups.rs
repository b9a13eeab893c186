//! Directories of control groups by their number: for the place of a process that has gone before its own was read.
//!
//! Anybody can start processes that end at once, so a look takes a bounded part of each second, and a walk through all
//! directories is not begun for each of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Place;
use crate::hash::HashMap;

/// Directories that are looked at in a second.
const A_SECOND: usize = 2_000;
/// Directories that are remembered of a walk; a machine with more has places that are not known.
const REMEMBERED: usize = 20_000;
/// Bytes of a path that is looked at. Those of systemd, of runtimes and of Kubernetes have some 300; whoever may make
/// directories could make ones of 4,000, and tens of thousands of those would be remembered.
const LONGEST: usize = 512;
/// How often a walk begins anew for a number that the last one has not found.
const AGAIN: Duration = Duration::from_secs(15);

/// What was found of them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Where the newer kind is mounted; the older ones number their groups for themselves.
    mounts: Vec<PathBuf>,
    places: HashMap<u64, Arc<str>>,
    todo: Vec<(PathBuf, PathBuf)>,
    begun: Option<Duration>,
    /// The second, and what was looked at in it.
    spent: (u64, usize),
}

impl Groups {
    /// The place of the group of this number.
    pub(super) fn place(&mut self, now: Duration, number: u64) -> Option<Arc<str>> {
        if let Some(known) = self.places.get(&number) {
            return Some(Arc::clone(known));
        }
        let is_due = self.begun.is_none_or(|begun| now.saturating_sub(begun) >= AGAIN);
        if self.todo.is_empty() && is_due {
            self.begun = Some(now);
            self.places.clear();
            self.mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
            self.todo = self.mounts.iter().map(|mount| (mount.clone(), PathBuf::new())).collect();
        }
        self.walk(now);
        self.places.get(&number).cloned()
    }

    /// Whether the directory of this path is that of another group. Nothing when it cannot be seen from here.
    pub(super) fn is_other(&mut self, path: &str, number: u64) -> Option<bool> {
        use std::os::unix::fs::MetadataExt as _;
        if self.mounts.is_empty() {
            self.mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        }
        let path = path.trim_start_matches('/');
        self.mounts.iter().find_map(|mount| Some(fs::metadata(mount.join(path)).ok()?.ino() != number))
    }

    /// Goes on for as much as this second has left.
    fn walk(&mut self, now: Duration) {
        use std::os::unix::fs::MetadataExt as _;
        if self.spent.0 != now.as_secs() {
            self.spent = (now.as_secs(), 0);
        }
        while self.spent.1 < A_SECOND && self.places.len() < REMEMBERED {
            let Some((mount, path)) = self.todo.pop() else { return };
            self.spent.1 += 1;
            let at = mount.join(&path);
            let Ok(found) = fs::metadata(&at) else { continue };
            let place = Place::of(&format!("0::/{}", path.to_string_lossy())).to_string();
            self.places.insert(found.ino(), place.into());
            // Nothing is open while it goes deeper.
            let entries = fs::read_dir(&at).into_iter().flatten().flatten();
            let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let more = directories.map(|entry| (mount.clone(), path.join(entry.file_name())));
            let more = more.filter(|(_, path)| path.as_os_str().len() <= LONGEST);
            // With one too many it is given up below.
            let room = (REMEMBERED + 1).saturating_sub(self.todo.len());
            self.todo.extend(more.take(room));
        }
        if self.places.len() >= REMEMBERED || self.todo.len() > REMEMBERED {
            self.todo.clear();
        }
    }
}

/// Where control groups of the newer kind are, of /proc/self/mountinfo.
fn mounts(text: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let is_newer = after.split(' ').next() == Some("cgroup2");
        let point = before.split(' ').nth(4)?;
        // Blanks and the like are written in octal there; no system mounts it at such a place.
        (is_newer && !point.contains('\\')).then(|| Path::new(point).to_path_buf())
    };
    text.lines().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/pids rw,nosuid shared:11 - cgroup cgroup rw,pids
";

    #[test]
    fn groups_are_looked_for_where_the_newer_kind_is_mounted_alone() {
        assert_eq!(mounts(MOUNTS), [Path::new("/sys/fs/cgroup/unified")]);
        assert!(mounts("").is_empty() && mounts("x - cgroup2").is_empty());
    }

    fn groups_at(directory: &Path) -> Groups {
        let todo = vec![(directory.to_path_buf(), PathBuf::new())];
        Groups { mounts: vec![directory.to_path_buf()], todo, begun: Some(Duration::ZERO), ..Groups::default() }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_is_found_by_its_number_and_a_look_is_bounded_in_each_second() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        for at in 0..A_SECOND + 500 {
            fs::create_dir_all(root.path().join(format!("system.slice/s{at}.service"))).unwrap();
        }
        let number = |path: &str| fs::metadata(root.path().join(path)).unwrap().ino();
        let mut groups = groups_at(root.path());
        assert_eq!(groups.place(Duration::from_secs(1), u64::MAX), None);
        assert_eq!(groups.places.len(), A_SECOND);
        assert_eq!(groups.place(Duration::from_secs(1), u64::MAX), None);
        assert_eq!(groups.places.len(), A_SECOND, "nothing more in the same second");
        assert_eq!(groups.place(Duration::from_secs(2), u64::MAX), None);
        assert_eq!(groups.places.len(), A_SECOND + 502);
        let known = groups.place(Duration::from_secs(2), number("system.slice/s7.service"));
        assert_eq!(known.as_deref(), Some("s7.service"));
        assert_eq!(groups.is_other("/system.slice/s7.service", number("system.slice")), Some(true));
        assert_eq!(groups.is_other("/system.slice", number("system.slice")), Some(false));
        assert_eq!(groups.is_other("/nowhere", 1), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_number_that_nobody_has_does_not_begin_a_walk_each_time() {
        let root = tempfile::tempdir().unwrap();
        let mut groups = groups_at(root.path());
        for _ in 0..100 {
            assert_eq!(groups.place(Duration::from_secs(3), u64::MAX), None);
        }
        assert_eq!(groups.spent, (3, 1));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn directories_within_each_other_take_no_file_and_no_stack_each() {
        let root = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", 1_000).collect();
        fs::create_dir_all(root.path().join(&deep)).unwrap();
        let mut groups = groups_at(root.path());
        groups.walk(Duration::from_secs(1));
        // Its own, and those whose path is short enough: a letter and a stroke each.
        assert_eq!(groups.places.len(), 1 + LONGEST / 2);
    }
}
