//! What the system permits, and what to say when it does not. [`judge`] is pure: facts in, words out.

use std::fs;

use super::Obstacle;

/// Numbers of capabilities (linux/capability.h).
const DAC_OVERRIDE: u8 = 1;
const DAC_READ_SEARCH: u8 = 2;
const SYS_PTRACE: u8 = 19;
const SYS_ADMIN: u8 = 21;
const SYS_RESOURCE: u8 = 24;
const PERFMON: u8 = 38;
const BPF: u8 = 39;

/// What brings tracepoints.
const TRACEFS: &str =
    "mount -t tracefs tracefs /sys/kernel/tracing; in a container mount the host's /sys/kernel/tracing";

/// What was found out about this system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Capabilities in effect, a bit each.
    pub capabilities: u64,
    /// The kernel's lockdown: `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_disabled: Option<u8>,
    /// Whether the kernel describes its types.
    pub btf: bool,
    /// Whether tracepoints can be looked up.
    pub tracefs: bool,
    /// The kernel's version.
    pub release: (u32, u32),
    /// Where this program is.
    pub program: String,
    /// Bytes of memory that may be locked, when there is a limit: before 5.11 maps count as such.
    pub locked: Option<u64>,
}

impl Facts {
    /// Those of this process on this system.
    #[must_use]
    pub fn here() -> Self {
        // Of this thread: each has its own.
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").ok();
        let disabled = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").ok();
        let tracefs = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
        Self {
            capabilities: effective(&status),
            lockdown: lockdown.as_deref().and_then(chosen),
            unprivileged_disabled: disabled.and_then(|text| text.trim().parse().ok()),
            btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            tracefs: tracefs.iter().any(|path| fs::metadata(format!("{path}/events/sock")).is_ok()),
            release: release(rustix::system::uname().release().to_str().unwrap_or_default()),
            program: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
            locked: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        }
    }

    /// Whether it can be seen which sockets the processes of other users have.
    #[must_use]
    pub const fn sees_files_of_others(&self) -> bool {
        self.has(SYS_PTRACE) && (self.has(DAC_READ_SEARCH) || self.has(DAC_OVERRIDE))
    }

    const fn has(&self, capability: u8) -> bool {
        self.capabilities & (1 << capability) != 0
    }

    fn program(&self) -> &str {
        if self.program.is_empty() { "adit" } else { &self.program }
    }

    /// The capabilities that are missing, by their names.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        if self.has(SYS_ADMIN) {
            return Vec::new();
        }
        let wanted = [(BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON")];
        wanted.into_iter().filter(|(number, _)| !self.has(*number)).map(|(_, name)| name).collect()
    }
}

/// Says what stands in the way, from the facts and from what the system said; the most likely reason first.
#[must_use]
pub fn judge(facts: &Facts, said: &str) -> Obstacle {
    foresee(facts).or_else(|| of_refusal(facts, said)).unwrap_or_else(|| Obstacle {
        message: format!("the kernel does not take the programs: {said}"),
        hint: "with -vv the log has what its verifier says; in a container, seccomp may forbid bpf(2)".into(),
    })
}

/// The same for a way that was asked for by an option, where others may do: of nothing but that one.
#[must_use]
pub fn judge_asked(facts: &Facts, option: &str, said: &str) -> Obstacle {
    let (why, hint) = if said.contains("tracefs") && !facts.tracefs {
        ("tracefs is missing or may not be read", format!("{TRACEFS}; or leave {option} out"))
    } else {
        (said, format!("leave {option} out: the best way that the kernel permits is taken then"))
    };
    Obstacle { message: format!("{option} is not to be had: {why}"), hint }
}

/// What the system's answer tells together with the facts.
fn of_refusal(facts: &Facts, said: &str) -> Option<Obstacle> {
    let is_refused = ["EPERM", "Operation not permitted", "os error 1)"].iter().any(|word| said.contains(word));
    if let (true, true, false, Some(locked)) =
        (is_refused, facts.release < (5, 11), facts.has(SYS_RESOURCE), facts.locked)
    {
        return Some(Obstacle {
            message: format!(
                "only {} KiB of memory may be locked, as which this kernel counts maps, and CAP_SYS_RESOURCE is missing \
                 to raise that",
                locked / 1024
            ),
            hint: format!(
                "sudo setcap cap_bpf,cap_perfmon,cap_sys_resource+ep {}; or raise the limit: ulimit -l unlimited, \
                 LimitMEMLOCK=infinity in a unit of systemd; or use a smaller map: --max-connections 4096",
                facts.program()
            ),
        });
    }
    (said.contains("tracefs") && !facts.tracefs).then(|| Obstacle {
        message: "tracefs is missing or may not be read, and nothing but tracepoints was to be had".into(),
        hint: TRACEFS.into(),
    })
}

/// What will stand in the way, as far as that is known before anything is tried.
#[must_use]
pub fn foresee(facts: &Facts) -> Option<Obstacle> {
    let obstacle = |message: String, hint: String| Some(Obstacle { message, hint });
    // First: on an older one no right would help, and there are none of these.
    if facts.release < (5, 8) {
        let (major, minor) = facts.release;
        return obstacle(
            format!("this kernel is {major}.{minor}, and the programs need 5.8 or newer"),
            "use a newer kernel".into(),
        );
    }
    let missing = facts.missing();
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "is" } else { "are" };
        let names = missing.join(" and ");
        let has_bpf = !missing.contains(&"CAP_BPF");
        let unprivileged = match facts.unprivileged_disabled {
            Some(0) => "",
            // With CAP_BPF that is no matter.
            _ if has_bpf => "",
            _ => ", and kernel.unprivileged_bpf_disabled keeps everybody else from loading programs",
        };
        let program = facts.program();
        return obstacle(
            format!("{names} {verb} missing{unprivileged}"),
            format!(
                "sudo setcap cap_bpf,cap_perfmon+ep {program}; or run it with sudo; in a container add the capabilities BPF and PERFMON"
            ),
        );
    }
    if !facts.btf {
        return obstacle(
            "this kernel does not describe its types: there is no /sys/kernel/btf/vmlinux".into(),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of the distributions are since 5.4 or so; in a container mount /sys".into(),
        );
    }
    if facts.lockdown.as_deref() == Some("confidentiality") {
        return obstacle(
            "the kernel is locked down for confidentiality, which keeps programs from reading its memory".into(),
            "start the kernel with lockdown=integrity, or without secure boot".into(),
        );
    }
    None
}

/// `CapEff` of /proc/self/status.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// The first two numbers of a version.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|one: char| !one.is_ascii_digit()).map(|number| number.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Facts {
        let capabilities = 1 << BPF | 1 << PERFMON;
        Facts {
            capabilities,
            btf: true,
            tracefs: true,
            release: (6, 1),
            program: "/bin/adit".into(),
            ..Facts::default()
        }
    }

    #[test]
    fn a_missing_capability_is_named_with_the_command_that_grants_it() {
        let facts = Facts { capabilities: 1 << BPF, unprivileged_disabled: Some(0), ..root() };
        let obstacle = judge(&facts, "EPERM");
        assert_eq!(obstacle.message, "CAP_PERFMON is missing");
        assert!(obstacle.hint.starts_with("sudo setcap cap_bpf,cap_perfmon+ep /bin/adit;"), "{}", obstacle.hint);
        let facts = Facts { unprivileged_disabled: Some(2), ..facts };
        assert_eq!(judge(&facts, "EPERM").message, "CAP_PERFMON is missing");
        let facts = Facts { capabilities: 0, ..facts };
        let message = judge(&facts, "EPERM").message;
        assert!(
            message.starts_with("CAP_BPF and CAP_PERFMON are missing, and kernel.unprivileged_bpf_disabled"),
            "{message}"
        );
    }

    #[test]
    fn the_administrators_capability_stands_for_both() {
        let facts = Facts { capabilities: 1 << SYS_ADMIN, ..root() };
        assert!(facts.missing().is_empty());
        // On a kernel that is too old no right is asked for, as none would help.
        let old = judge(&Facts { capabilities: 0, release: (5, 4), ..root() }, "EPERM");
        assert!(old.message.contains("5.8") && !old.hint.contains("setcap"), "{old:?}");
    }

    #[test]
    fn every_other_obstacle_has_a_message_of_its_own() {
        let messages = [
            judge(&Facts { btf: false, ..root() }, ""),
            judge(&Facts { release: (5, 4), capabilities: 1 << SYS_ADMIN, ..root() }, ""),
            judge(&Facts { lockdown: Some("confidentiality".into()), ..root() }, "EPERM"),
            judge(&Facts { tracefs: false, ..root() }, "tracefs not found"),
            judge(&root(), "EINVAL"),
        ]
        .map(|obstacle| obstacle.message);
        for (at, word) in ["btf/vmlinux", "5.8", "confidentiality", "tracefs", "EINVAL"].iter().enumerate() {
            assert!(messages[at].contains(word), "{word}: {}", messages[at]);
        }
    }

    #[test]
    fn one_way_that_cannot_be_had_is_told_with_its_option_and_what_to_do() {
        let unmet =
            judge_asked(&Facts { tracefs: false, ..root() }, "--accept sys_exit", "a tracepoint: tracefs not found");
        assert!(unmet.message.starts_with("--accept sys_exit is not to be had") && unmet.message.contains("tracefs"));
        assert!(unmet.hint.starts_with("mount -t tracefs"), "{unmet:?}");
        let unmet = judge_asked(&root(), "--accept fexit", "fexit inet_csk_accept: no");
        assert!(
            unmet.message.ends_with("fexit inet_csk_accept: no") && unmet.hint.starts_with("leave --accept fexit out")
        );
    }

    #[test]
    fn a_limit_of_locked_memory_is_named_with_the_right_that_would_raise_it() {
        let facts = Facts { release: (5, 10), locked: Some(64 * 1024), ..root() };
        let obstacle = judge(&facts, "the map connections: Operation not permitted (os error 1)");
        assert!(obstacle.message.starts_with("only 64 KiB") && obstacle.message.contains("CAP_SYS_RESOURCE"));
        assert!(obstacle.hint.contains("cap_sys_resource+ep /bin/adit"), "{}", obstacle.hint);
        let has_right = Facts { capabilities: facts.capabilities | 1 << SYS_RESOURCE, ..facts.clone() };
        for other in [has_right, Facts { release: (5, 11), ..facts.clone() }, Facts { locked: None, ..facts.clone() }] {
            assert!(judge(&other, "EPERM").message.contains("does not take the programs"), "{other:?}");
        }
        assert!(judge(&facts, "EINVAL").message.contains("EINVAL"), "another refusal");
    }

    #[test]
    fn nothing_is_foreseen_where_all_is_well_and_files_of_others_take_two_rights() {
        assert_eq!(foresee(&root()), None);
        assert!(foresee(&Facts { btf: false, ..root() }).is_some());
        let with = |numbers: &[u8]| Facts { capabilities: numbers.iter().map(|one| 1 << one).sum(), ..root() };
        assert!(with(&[SYS_PTRACE, DAC_READ_SEARCH]).sees_files_of_others());
        assert!(with(&[SYS_PTRACE, DAC_OVERRIDE]).sees_files_of_others());
        assert!(!with(&[SYS_PTRACE]).sees_files_of_others() && !with(&[DAC_OVERRIDE]).sees_files_of_others());
    }

    #[test]
    fn the_facts_are_read_from_what_the_kernel_writes() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001fffeffffff\n"), 0x1ff_feff_ffff);
        assert_eq!(chosen("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(release("6.1.0-28-amd64"), (6, 1));
        assert_eq!(release(""), (0, 0));
    }
}
