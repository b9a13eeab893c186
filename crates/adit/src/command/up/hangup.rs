//! SIGHUP: somebody wants the file to be read again, or the terminal is gone.

use std::fs::File;
use std::io;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::scope::Scope;
use runtime::signals::Hangups;
use runtime::watch::Trigger;
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

/// How often it is looked whether the terminal is there.
const LOOK: Duration = Duration::from_secs(1);
/// So long after the terminal was seen gone a SIGHUP is still of its end: a shell may take its time to pass it on.
const PASSED_ON: Duration = Duration::from_secs(5);

/// Each SIGHUP reads the file again, unless it says that the terminal was closed: then the notification comes.
pub(super) fn listen(scope: &Scope, reload: Trigger) -> io::Result<Arc<Notify>> {
    // Before the handler is there: by it nothing is ignored any more.
    let terminal = if is_there() == Some(true) && !is_ignored() { Terminal::There } else { Terminal::None };
    let hangups = Hangups::install()?;
    let (terminal, closed) = (Arc::new(Mutex::new(terminal)), Arc::new(Notify::new()));
    watch(scope, &terminal);
    let close = Arc::clone(&closed);
    hangups.each(scope, move || match lock(&terminal).handle_hangup(Instant::now(), is_there()) {
        Meaning::Closed => {
            tracing::info!("the terminal was closed");
            close.notify_one();
        }
        Meaning::Reload => reload.pull(),
    });
    Ok(closed)
}

/// Looks at the terminal as long as its end matters, or until the scope drains.
fn watch(scope: &Scope, terminal: &Arc<Mutex<Terminal>>) {
    let (until, terminal) = (scope.clone(), Arc::clone(terminal));
    if *lock(&terminal) == Terminal::None {
        return;
    }
    scope.spawn("terminal", async move {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while *lock(&terminal) != Terminal::None {
            tokio::select! {
                biased;
                () = until.drained() => return,
                _ = ticks.tick() => lock(&terminal).handle_look(Instant::now(), is_there()),
            }
        }
        tracing::info!("the terminal is gone, and no SIGHUP came: the next one reads the file again");
    });
}

/// The terminal whose end is the end of this process, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    /// There was none at the start, or whoever started this wants it to outlive its terminal. A shell that gave this
    /// process up (`disown`) sends no SIGHUP when the terminal goes: one that comes long after is somebody's wish.
    None,
    There,
    /// It was first seen gone then.
    Gone(Instant),
}

/// What a SIGHUP says.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Reload,
    /// What runs on would hold its ports, and nobody sees it any more.
    Closed,
}

impl Terminal {
    /// It was looked at.
    fn handle_look(&mut self, now: Instant, is_there: Option<bool>) {
        *self = match (*self, is_there) {
            (Self::There, Some(false)) => Self::Gone(now),
            (Self::Gone(since), _) if now.saturating_duration_since(since) >= PASSED_ON => Self::None,
            (same, _) => same,
        };
    }

    fn handle_hangup(&mut self, now: Instant, is_there: Option<bool>) -> Meaning {
        self.handle_look(now, is_there);
        if matches!(self, Self::Gone(_)) { Meaning::Closed } else { Meaning::Reload }
    }
}

/// Whether this process has a terminal; `None` if the system does not say.
fn is_there() -> Option<bool> {
    of_open(File::open("/dev/tty").map(drop))
}

/// A process without a terminal of its own, or whose terminal was hung up, cannot open it, for these reasons. Others, as
/// that there are too many open files, say nothing about it.
fn of_open(opened: io::Result<()>) -> Option<bool> {
    match opened {
        Ok(()) => Some(true),
        Err(error) => {
            let gone = [Errno::NXIO, Errno::IO, Errno::NODEV];
            Errno::from_io_error(&error).filter(|errno| gone.contains(errno)).map(|_| false)
        }
    }
}

/// Whether whoever started this wants SIGHUP to be ignored: `nohup` does it so.
fn is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status");
    status.map_or_else(|_| ignores_hangup_by_ps(std::process::id()), |status| ignores_hangup(&status))
}

/// By the mask of ignored signals in `/proc/PID/status`; SIGHUP is the first one.
fn ignores_hangup(status: &str) -> bool {
    status.lines().find_map(|line| line.strip_prefix("SigIgn:")).is_some_and(has_hangup)
}

/// The same mask where there is no `/proc`.
fn ignores_hangup_by_ps(process: u32) -> bool {
    let mut command = Command::new("ps");
    command.args(["-o", "ignored=", "-p", &process.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
    command.output().is_ok_and(|output| has_hangup(&String::from_utf8_lossy(&output.stdout)))
}

fn has_hangup(mask: &str) -> bool {
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

fn lock(terminal: &Mutex<Terminal>) -> MutexGuard<'_, Terminal> {
    terminal.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_first_bit_of_the_mask_is_the_hangup() {
        assert!(ignores_hangup("Name:\tadit\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup("SigIgn:\tnonsense\n") && !ignores_hangup(""));
    }

    #[test]
    fn where_there_is_no_proc_ps_tells_what_is_ignored() {
        for (script, ignored) in [("trap '' HUP; echo; read line", true), ("trap '' TERM; echo; read line", false)] {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            assert_eq!(ignores_hangup_by_ps(child.id()), ignored, "{script}");
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_hangup_is_the_end_of_the_terminal_only_about_the_time_of_that_end() {
        let start = Instant::now();
        let mut terminal = Terminal::There;
        assert_eq!(terminal.handle_hangup(start, Some(true)), Meaning::Reload);
        let mut passed_on_late = terminal;
        passed_on_late.handle_look(start + LOOK, Some(false));
        assert_eq!(passed_on_late.handle_hangup(start + LOOK * 3, Some(false)), Meaning::Closed);
        let mut given_up = terminal;
        for looks in 1..60 {
            given_up.handle_look(start + LOOK * looks, Some(false));
        }
        assert_eq!(given_up.handle_hangup(start + LOOK * 60, Some(false)), Meaning::Reload);
        assert_eq!(terminal.handle_hangup(start + LOOK * 60, Some(false)), Meaning::Closed, "seen by nobody before");
        assert_eq!(Terminal::None.handle_hangup(start, Some(false)), Meaning::Reload);
    }

    #[test]
    fn what_cannot_be_opened_for_other_reasons_is_not_gone() {
        let error = |errno: Errno| of_open(Err(io::Error::from_raw_os_error(errno.raw_os_error())));
        for errno in [Errno::NXIO, Errno::IO, Errno::NODEV] {
            assert_eq!(error(errno), Some(false));
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS] {
            assert_eq!(error(errno), None);
        }
        let mut terminal = Terminal::There;
        assert_eq!(terminal.handle_hangup(Instant::now(), error(Errno::MFILE)), Meaning::Reload);
        assert_eq!(terminal, Terminal::There);
    }
}
