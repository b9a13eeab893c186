//! Giving up every right that is not needed once connections are seen (S21).
//!
//! A capability is a thread's own, and a thread gets those of the one that starts it: so this is done before there is a
//! second thread, and [`threads_with_more`] says afterwards whether that was so.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// As `nice -n -10` needs it: the limit counts from 20 downwards.
const NICE: u64 = 30;

/// Names as the manuals have them.
const NAMES: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::SYS_NICE, "CAP_SYS_NICE"),
];

/// Keeps what this kind of source needs, of what there is, and takes no new rights from any program that is run; goes on
/// as the user and group, if there is one. Gives the names of what is left.
///
/// # Errors
/// When the system does not permit it.
pub fn confine(source: &str, user: Option<(u32, u32)>) -> io::Result<Vec<&'static str>> {
    let have = thread::capabilities(None)?.permitted;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let keep = needed(source, hides_processes(&mounts), may_come_first(), have);
    if let Some((user, group)) = user {
        become_user(user, group)?;
    }
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    thread::set_capabilities(None, sets)?;
    thread::set_no_new_privs(true)?;
    Ok(NAMES.iter().filter(|(one, _)| keep.contains(*one)).map(|(_, name)| *name).collect())
}

/// The agent comes first on a busy machine: by a limit, so that it needs no right of its own for that.
fn may_come_first() -> bool {
    let is_enough = || getrlimit(Resource::Nice).current.is_none_or(|current| current >= NICE);
    let raised = Rlimit { current: Some(NICE), maximum: Some(NICE) };
    is_enough() || setrlimit(Resource::Nice, raised).is_ok() && is_enough()
}

/// Threads of this program that have rights which this one has not.
#[must_use]
pub fn threads_with_more() -> Vec<String> {
    let Ok(own) = thread::capabilities(None) else { return Vec::new() };
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses.filter(|status| permitted(status) & !own.permitted.bits() != 0).map(|status| name(&status)).collect()
}

fn name(status: &str) -> String {
    status.lines().next().and_then(|line| line.strip_prefix("Name:")).unwrap_or_default().trim().to_owned()
}

/// `CapPrm` of a thread's status.
fn permitted(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

/// The capabilities for a kind of source, of those that there are.
fn needed(source: &str, hides_processes: bool, may_come_first: bool, have: CapabilitySet) -> CapabilitySet {
    let programs = CapabilitySet::BPF.union(CapabilitySet::PERFMON);
    let mut needed = match source {
        // Where only the administrator's is there, it stands for both.
        "ebpf" if have.contains(programs) => programs,
        "ebpf" => programs.union(CapabilitySet::SYS_ADMIN),
        // Files of others lead to the owners of sockets.
        "sock_diag" => CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH),
        _ => CapabilitySet::empty(),
    };
    if hides_processes {
        needed |= CapabilitySet::SYS_PTRACE;
    }
    if source == "ebpf" && !may_come_first {
        needed |= CapabilitySet::SYS_NICE;
    }
    needed & have
}

/// Whether /proc shows the processes of others to nobody but those who may look into them: `hidepid`.
fn hides_processes(mounts: &str) -> bool {
    let of_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let is_hidden =
        |option: &str| option.trim_end().strip_prefix("hidepid=").is_some_and(|how| !matches!(how, "0" | "off"));
    mounts.lines().filter(of_proc).any(|line| line.split([' ', ',']).any(is_hidden))
}

/// The thread goes on as somebody else, with the rights it has.
fn become_user(user: u32, group: u32) -> io::Result<()> {
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    thread::set_keep_capabilities(true)?;
    thread::set_thread_groups(&[group])?;
    thread::set_thread_res_gid(group, group, group)?;
    thread::set_thread_res_uid(user, user, user)?;
    thread::set_keep_capabilities(false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_source_keeps_what_it_needs_of_what_there_is() {
        let all = CapabilitySet::all();
        let programs = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let files = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
        for (source, hidden, have, kept) in [
            ("ebpf", false, all, programs),
            ("ebpf", true, all, programs | CapabilitySet::SYS_PTRACE),
            ("ebpf", true, programs, programs),
            ("ebpf", false, CapabilitySet::SYS_ADMIN, CapabilitySet::SYS_ADMIN),
            ("sock_diag", false, all, files),
            ("stub", false, all, CapabilitySet::empty()),
        ] {
            assert_eq!(needed(source, hidden, true, have), kept, "{source} {hidden}");
        }
        assert_eq!(needed("ebpf", false, false, all), programs | CapabilitySet::SYS_NICE);
    }

    #[test]
    fn a_proc_that_hides_processes_is_known_by_its_mount() {
        let mount = |options: &str| format!("24 1 0:22 / /proc rw,nosuid - proc proc rw{options}\n");
        assert!(hides_processes(&mount(",hidepid=2")) && hides_processes(&mount(",hidepid=invisible")));
        assert!(!hides_processes(&mount("")) && !hides_processes(&mount(",hidepid=0")));
        assert!(!hides_processes("24 1 0:22 / /mnt rw - proc proc rw,hidepid=2\n"));
    }

    #[test]
    fn s21_a_thread_that_is_confined_has_the_two_capabilities_alone_and_gets_no_others() {
        // Of a thread of its own: the other tests go on as they are.
        let confined = std::thread::spawn(|| {
            let have = thread::capabilities(None)?.permitted;
            let kept = confine("ebpf", None)?;
            let status = fs::read_to_string("/proc/thread-self/status")?;
            Ok::<_, io::Error>((have, kept, status))
        });
        let (have, kept, status) = confined.join().expect("no panic").expect("it may give up rights");
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
            u64::from_str_radix(line.trim(), 16).expect("a number")
        };
        let programs = (CapabilitySet::BPF | CapabilitySet::PERFMON) & have;
        let expected = needed("ebpf", false, may_come_first(), have);
        assert!(programs.is_empty() || expected.difference(programs | CapabilitySet::SYS_NICE).is_empty());
        assert_eq!((value("CapEff:"), value("CapPrm:"), value("CapInh:")), (expected.bits(), expected.bits(), 0));
        assert_eq!((value("NoNewPrivs:"), kept.len()), (1, expected.bits().count_ones() as usize));
    }
}
