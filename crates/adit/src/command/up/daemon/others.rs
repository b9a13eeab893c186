//! Daemons of this user that are found by what they hold, not by their socket.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What to do about one.
pub(in crate::command) fn hint(pid: u32) -> String {
    if let Some(directory) = runtime_directory(pid) {
        return format!(
            "it was started with another XDG_RUNTIME_DIR: ask it with XDG_RUNTIME_DIR={directory} adit daemon status, \
             or end it: kill {pid}"
        );
    }
    format!(
        "a daemon that has lost its control socket makes it anew within seconds: try `adit daemon status` again; \
         else end that one: kill {pid}"
    )
}

/// The `XDG_RUNTIME_DIR` of a process, when ours is another one.
fn runtime_directory(pid: u32) -> Option<String> {
    const NAME: &str = "XDG_RUNTIME_DIR=";
    let environment = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
    let its = environment.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(NAME.as_bytes()))?;
    let its = String::from_utf8(its.to_owned()).ok().filter(|its| !its.is_empty())?;
    let ours = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
    (its != ours).then_some(its)
}

/// Whether a process is a daemon of this user, as far as the system shows it.
pub(in crate::command) fn is_daemon(pid: u32) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let ours = std::fs::metadata(&process).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
    ours && std::fs::read(process.join("cmdline")).is_ok_and(|arguments| runs_daemon(&arguments))
}

/// A process that is there, whatever it does: not only its number, which another one may get after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) struct Process {
    pid: u32,
    /// When it began, as the system counts; nothing where the system does not say.
    begun: Option<String>,
}

impl Process {
    /// The one of this number; nothing when there is none, or none any more: one that nobody has waited for yet holds
    /// neither locks nor sockets.
    pub(in crate::command) fn of(pid: u32) -> Option<Self> {
        if !Path::new("/proc/self/stat").exists() {
            let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)?;
            return rustix::process::test_kill_process(raw).is_ok().then_some(Self { pid, begun: None });
        }
        let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        Self::from_stat(pid, &text)
    }

    /// Whether it is there still.
    pub(in crate::command) fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// By `proc_pid_stat(5)`: after the name in brackets the state comes first and the begin twentieth.
    fn from_stat(pid: u32, text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut words = rest.split_ascii_whitespace();
        let state = words.next()?;
        let begun = words.nth(18)?.to_owned();
        (!matches!(state, "Z" | "X" | "x")).then_some(Self { pid, begun: Some(begun) })
    }
}

/// Whether a process is `adit up` of this user.
pub(in crate::command) fn is_up(pid: u32) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let ours = std::fs::metadata(&process).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
    ours && std::fs::read(process.join("cmdline")).is_ok_and(|arguments| runs_up(&arguments))
}

fn runs_up(arguments: &[u8]) -> bool {
    let mut words = arguments.split(|byte| *byte == 0);
    let program = words.next().and_then(|program| program.rsplit(|byte| *byte == b'/').next());
    program.is_some_and(|program| program.starts_with(b"adit")) && words.any(|word| word == b"up")
}

/// `adit … daemon run …` or `adit … daemon start --foreground`.
fn runs_daemon(arguments: &[u8]) -> bool {
    let mut words = arguments.split(|byte| *byte == 0);
    let program = words.next().and_then(|program| program.rsplit(|byte| *byte == b'/').next());
    let words: Vec<&[u8]> = words.collect();
    program.is_some_and(|program| program.starts_with(b"adit"))
        && words.windows(2).any(|pair| matches!(pair, [b"daemon", b"run" | b"start"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_known_by_its_arguments() {
        assert!(runs_daemon(b"/usr/bin/adit\0--config\0/x/adit.yaml\0daemon\0run\0--background\0"));
        assert!(runs_daemon(b"adit\0daemon\0start\0--foreground\0"));
        assert!(!runs_daemon(b"adit\0up\0") && !runs_daemon(b"vim\0daemon\0run\0") && !runs_daemon(b""));
        assert!(!is_daemon(std::process::id()));
        assert!(
            runs_up(b"/usr/bin/adit\0--config\0x\0up\0")
                && !runs_up(b"adit\0forward\0svc/up\0")
                && !runs_up(b"vim\0up\0")
        );
    }

    #[test]
    fn a_process_is_known_by_its_number_and_its_begin() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        let stat = |state: &str, begun: &str| {
            let between = ["0"; 18].join(" ");
            Process::from_stat(7, &format!("7 (a) b) {state} {between} {begun} 0 0\n"))
        };
        assert_eq!(stat("S", "4711").unwrap().begun.as_deref(), Some("4711"));
        assert_ne!(stat("S", "4711"), stat("S", "4712"));
        assert_eq!((stat("Z", "4711"), Process::from_stat(7, "")), (None, None));
    }
}
