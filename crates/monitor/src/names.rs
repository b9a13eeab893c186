//! Names for numbers: where a process runs, from its control group; its user; whether it is alive; with a cache.

mod groups;
mod place;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use self::groups::Groups;
pub use self::place::Place;
use crate::decode::{Command, Owner, ProcessId};
use crate::hash::HashMap;

/// Control groups and processes remembered at most; then it begins anew.
const REMEMBERED: usize = 4096;
/// The root of all control groups of the newer kind. It is what has no group of its own, as all do where the older kind
/// is in use, so it tells nothing; and directories of other file systems have this number, too.
const ROOT: u64 = 1;
/// The first namespace of processes, by the number that all kernels give it.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Looks names up in /proc.
#[derive(Debug, Default)]
pub struct Names {
    places: HashMap<Key, Option<Arc<str>>>,
    users: HashMap<ProcessId, Option<u32>>,
    /// Whether those that are called as threads of the kernel are such: on a busy machine one of them closes many
    /// connections.
    threads: HashMap<ProcessId, bool>,
    groups: Groups,
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
    /// Where the owner of a connection runs. It may read files, so nobody is to wait for it who holds a lock.
    pub fn place(&mut self, now: Duration, owner: &Owner) -> Option<Arc<str>> {
        let (group, process) = (Key::Group(owner.cgroup), Key::Process(owner.process));
        let has_group = owner.cgroup > ROOT;
        let known = self.places.get(&group).filter(|_| has_group).or_else(|| self.places.get(&process));
        if let Some(Some(known)) = known {
            return Some(Arc::clone(known));
        }
        let is_known_to_be_gone = known.is_some();
        let text = if is_known_to_be_gone { None } else { groups_of(owner.process) };
        let (key, found) = match text {
            Some(text) => {
                let is_of_group = has_group && self.is_of_group(&text, owner.cgroup);
                (if is_of_group { group } else { process }, Some(Place::of(&text).to_string().into()))
            }
            None if has_group => match self.groups.place(now, owner.cgroup) {
                Some(place) => (group, Some(place)),
                None => (process, None),
            },
            None => (process, None),
        };
        if self.places.len() >= REMEMBERED {
            self.places.clear();
        }
        self.places.insert(key, found.clone());
        found
    }

    /// Whose process it is, for where a source does not tell. Without that all daemons whose sockets were found among
    /// their files would share the names of one user. It reads files, as [`Self::place`] does.
    pub fn user(&mut self, process: ProcessId) -> Option<u32> {
        if let Some(known) = self.users.get(&process) {
            return *known;
        }
        let found = user_of(process);
        if self.users.len() >= REMEMBERED {
            self.users.clear();
        }
        self.users.insert(process, found);
        found
    }

    /// Whether this is a thread of the kernel, which does work of others: so it closes connections of Multipath TCP. It is
    /// asked only of what is called as these are, once each. Of one that has gone the name alone tells.
    pub fn is_kernel_thread(&mut self, owner: &Owner) -> bool {
        if !owner.command.starts_with(b"kworker/") || owner.user.is_some_and(|user| user != 0) {
            return false;
        }
        if let Some(known) = self.threads.get(&owner.process) {
            return *known;
        }
        let text = fs::read(format!("/proc/{}/stat", owner.process.pid)).ok();
        // Its number may be another one's by now.
        let own = text.filter(|text| stat(text).is_some_and(|(_, start)| is_same(owner.process, start)));
        let found = own.is_none_or(|text| has_no_program(&text));
        if self.threads.len() >= REMEMBERED {
            self.threads.clear();
        }
        self.threads.insert(owner.process, found);
        found
    }

    /// Whether the path that a process is at now tells of the group that its connection had: it may have moved.
    fn is_of_group(&mut self, text: &str, number: u64) -> bool {
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| *path != "/");
        path.is_some_and(|path| self.groups.is_other(path, number) != Some(true))
    }
}

/// The control groups of a process. Its number may have gone to another one until it is read; the start tells.
fn groups_of(id: ProcessId) -> Option<String> {
    let text = fs::read(format!("/proc/{}/cgroup", id.pid)).ok()?;
    is_alive(id).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// The user of a process, if the number is still its own. The owner of its directory would not do: that is root where a
/// process has given up rights.
fn user_of(id: ProcessId) -> Option<u32> {
    let text = fs::read(format!("/proc/{}/status", id.pid)).ok()?;
    let user = real_user(&String::from_utf8_lossy(&text))?;
    is_alive(id).then_some(user)
}

/// The first number of the line: who it is, and not whose rights it uses for the moment; so the kernel's programs have it.
fn real_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether /proc has the processes of the whole machine. In a container that does not share them, numbers that the
/// kernel tells are those of others here, or of nobody.
#[must_use]
pub fn sees_all_processes() -> bool {
    // Where that cannot be read nothing is to be said.
    fs::read_link("/proc/self/ns/pid").map_or(true, |link| link.as_os_str() == FIRST_NAMESPACE)
}

/// Whether the process is alive, and the same.
#[must_use]
pub fn is_alive(id: ProcessId) -> bool {
    read(id.pid).is_some_and(|(_, start)| is_same(id, start))
}

/// Whether the one that has begun at this time is the one that is meant.
const fn is_same(id: ProcessId, start: u64) -> bool {
    // The kernel's own clock and that of /proc may differ by a tick.
    id.start == 0 || start.abs_diff(id.start) <= 1
}

/// What /proc says of the flags of a process.
fn has_no_program(stat: &[u8]) -> bool {
    /// `PF_KTHREAD` of the kernel.
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let after = stat.iter().rposition(|byte| *byte == b')').and_then(|close| stat.get(close + 1..));
    let after = after.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    // The state is the third field, the flags are the ninth.
    let flags = after.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// A process as /proc tells it.
#[must_use]
pub fn process(pid: u32) -> Option<(ProcessId, Command)> {
    let (command, start) = read(pid)?;
    Some((ProcessId { pid, start }, command))
}

/// Its name is whatever it likes, and need not be UTF-8.
fn read(pid: u32) -> Option<(Command, u64)> {
    stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name and the start of a process; its name may hold blanks and brackets.
fn stat(text: &[u8]) -> Option<(Command, u64)> {
    let (open, close) = (text.iter().position(|byte| *byte == b'(')?, text.iter().rposition(|byte| *byte == b')')?);
    let after = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    // The state is the third field, the start the twenty-second.
    let start = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((Command::new(text.get(open + 1..close)?), start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::OwnedBy;

    const REST: &str = " S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 0 0";

    #[test]
    fn a_thread_of_the_kernel_is_told_from_a_process_that_is_called_so() {
        let worker = b"9 (kworker/0:1-ev) I 2 0 0 0 -1 69238880 0 0 0 0 0 0 0 0 20 0 1 0 17 0 0";
        let program = b"9 (kworker/0:1) S 1 9 9 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 17 0 0";
        assert_eq!([has_no_program(worker), has_no_program(program), has_no_program(b"")], [true, false, false]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn whether_it_is_a_thread_of_the_kernel_is_asked_once_of_what_is_called_so() {
        let mut names = Names::default();
        let mut called = |command: &str, process, user| {
            let command = Command::new(command);
            names.is_kernel_thread(&Owner { process, command, user, cgroup: 1, by: OwnedBy::Close })
        };
        let (own, _) = process(std::process::id()).expect("this process is there");
        let gone = ProcessId { pid: u32::MAX, start: 1 };
        assert!(!called("kworker/0:1", own, Some(0)), "we are none, whatever we are called");
        assert!(called("kworker/0:1", gone, Some(0)) && !called("kworker/0:1", gone, Some(1_000)));
        assert!(!called("curl", gone, Some(0)));
        let before = ProcessId { start: own.start + 100, ..own };
        assert!(called("kworker/0:1", before, Some(0)), "the number is ours now, and that one has gone");
        assert_eq!(names.threads.len(), 3);
        // It is not asked again: what is remembered is said.
        names.threads.insert(own, true);
        let owner =
            Owner { process: own, command: Command::new("kworker/0:1"), user: Some(0), cgroup: 1, by: OwnedBy::Close };
        assert!(names.is_kernel_thread(&owner));
    }

    #[test]
    fn a_process_name_with_brackets_and_blanks_is_read() {
        let name = |text: &str| stat(text.as_bytes()).map(|(command, start)| (command.text(), start));
        assert_eq!(name(&format!("7 (a ) (b){REST}")), Some(("a ) (b".to_owned(), 1234)));
        assert_eq!((name("7 x"), name("7 )("), name("")), (None, None, None));
    }

    #[test]
    fn a_process_whose_name_is_no_utf_8_is_there_all_the_same() {
        let text = [b"7 (a\xff\xfeb)", REST.as_bytes()].concat();
        assert_eq!(stat(&text), Some((Command::new(b"a\xff\xfeb"), 1234)));
        assert_eq!(Command::new(b"a\xff\xfeb").text(), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn a_group_tells_only_where_each_has_its_own() {
        let mut names = Names::default();
        assert!(names.is_of_group("0::/nowhere.slice/x.service\n", 77));
        assert!(!names.is_of_group("4:pids:/docker/x\n0::/\n", 77), "the older kind: all are in the same");
        assert!(!names.is_of_group("4:pids:/docker/x\n", 77));
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
        let now = Duration::from_secs(1);
        // No process has this number, and no control group that.
        assert_eq!(names.place(now, &owner(u32::MAX, u64::MAX)), None);
        names.places.insert(Key::Group(77), Some("web.service".into()));
        assert_eq!(names.place(now, &owner(u32::MAX, 77)).as_deref(), Some("web.service"));
        assert_eq!(names.places.len(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_has_gone_is_not_said_to_be_on_the_host_because_all_share_the_root() {
        let mut names = Names::default();
        let (this, command) = process(std::process::id()).expect("this process is there");
        let owner = |process| Owner { process, command, user: None, cgroup: 1, by: OwnedBy::Connect };
        let now = Duration::from_secs(1);
        // As another process of the root would have left it.
        names.places.insert(Key::Group(1), Some("host".into()));
        assert_eq!(names.place(now, &owner(ProcessId { pid: u32::MAX, start: 1 })), None);
        assert!(names.place(now, &owner(this)).is_some(), "one that is there is told by its path");
        assert_eq!(names.place(now, &owner(ProcessId { pid: u32::MAX, start: 2 })), None, "and tells of itself alone");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_groups_of_a_number_that_another_process_has_by_now_are_not_taken() {
        let (this, _) = process(std::process::id()).expect("this process is there");
        assert!(groups_of(this).is_some());
        assert_eq!(groups_of(ProcessId { start: this.start + 100, ..this }), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_user_of_a_process_is_known_as_long_as_its_number_is_its_own() {
        assert_eq!(real_user("Name:\tx\nUid:\t33\t0\t0\t0\nGid:\t1\t1\t1\t1\n"), Some(33));
        assert_eq!((real_user("Name:\tx\n"), real_user("Uid:\n")), (None, None));
        let (this, _) = process(std::process::id()).expect("this process is there");
        let mut names = Names::default();
        assert_eq!(names.user(this), Some(rustix::process::getuid().as_raw()));
        assert_eq!(names.user(ProcessId { start: this.start + 100, ..this }), None);
        assert_eq!(names.users.len(), 2, "asked once each");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_with_another_start_is_another_process() {
        let (id, _) = process(std::process::id()).expect("this process is there");
        assert!(is_alive(id));
        assert!(!is_alive(ProcessId { start: id.start + 100, ..id }));
    }
}
