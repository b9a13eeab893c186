//! Daemons of this user that are found by what they hold, not by their socket.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What to do about one.
pub(in crate::command) fn hint(pid: u32) -> String {
    format!(
        "a daemon that has lost its control socket makes it anew within seconds: try `adit daemon status` again; \
         else end that one: kill {pid}"
    )
}

/// Whether a process is a daemon of this user, as far as the system shows it.
pub(in crate::command) fn is_daemon(pid: u32) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let ours = std::fs::metadata(&process).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
    ours && std::fs::read(process.join("cmdline")).is_ok_and(|arguments| runs_daemon(&arguments))
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
    }
}
