//! What processes have used, read from /proc.

use std::fs;
use std::time::Duration;

/// CPU and memory of one or several processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time since their start, ended threads included (not ended children).
    pub cpu: Duration,
    /// Resident bytes.
    pub resident: u64,
    /// Resident bytes that no other process shares: what these processes cost.
    pub private: u64,
    /// Largest resident bytes so far.
    pub peak: u64,
    /// Threads.
    pub threads: u64,
    /// How many processes were counted.
    pub processes: u64,
}

/// The usage of one process; all zero when it is gone.
pub fn usage(pid: u32) -> Usage {
    let status = read(pid, "status");
    let memory = read(pid, "smaps_rollup");
    let kib = |text: &str, key: &str| field(text, key).unwrap_or(0) * 1024;
    Usage {
        cpu: cpu(pid),
        resident: kib(&status, "VmRSS:"),
        private: kib(&memory, "Private_Clean:") + kib(&memory, "Private_Dirty:"),
        peak: kib(&status, "VmHWM:"),
        threads: field(&status, "Threads:").unwrap_or(0),
        processes: u64::from(!status.is_empty()),
    }
}

/// The usage of several processes together.
pub fn usage_of_all(pids: &[u32]) -> Usage {
    pids.iter().map(|pid| usage(*pid)).fold(Usage::default(), |sum, one| Usage {
        cpu: sum.cpu + one.cpu,
        resident: sum.resident + one.resident,
        private: sum.private + one.private,
        peak: sum.peak + one.peak,
        threads: sum.threads + one.threads,
        processes: sum.processes + one.processes,
    })
}

/// A process and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while let Some(pid) = pids.get(at).copied() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    pids
}

fn cpu(pid: u32) -> Duration {
    let stat = read(pid, "stat");
    // The second field is the name in parentheses and may hold anything; utime and stime are the 14th and 15th.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 =
        after_name.split_ascii_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
