//! SIGHUP: somebody wants the file to be read again, or the terminal is gone.

use std::fs::File;
use std::io::IsTerminal as _;

/// The terminal this was started on, if it was.
#[derive(Debug)]
pub(super) struct ControllingTerminal {
    at_start: bool,
}

impl ControllingTerminal {
    pub(super) fn now() -> Self {
        Self { at_start: is_there() }
    }

    /// Whether it was closed. What runs on would hold its ports, and nobody sees it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.at_start && !is_there()
    }
}

/// A process without a terminal of its own, or whose terminal was hung up, cannot open this.
fn is_there() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether whoever started this wants SIGHUP to be ignored: `nohup` does it so.
pub(super) fn is_ignored() -> bool {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => ignores_hangup(&status),
        // Systems that do not say: `nohup` lets nothing go to the terminal.
        Err(_) => is_there() && !std::io::stdout().is_terminal() && !std::io::stderr().is_terminal(),
    }
}

/// By the mask of ignored signals in `/proc/PID/status`; SIGHUP is the first one.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bit_of_the_mask_is_the_hangup() {
        assert!(ignores_hangup("Name:\tadit\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup("SigIgn:\tnonsense\n") && !ignores_hangup(""));
    }
}
