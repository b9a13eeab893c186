//! What the terminal can do, and the only functions that print data.

use std::cell::Cell;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use runtime::telemetry::{self, StandardError};
use rustix::termios::OptionalActions;

/// What the system said when data could not be written, the first time.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Whether standard error is a terminal that shows colours, as far as the user allows it.
pub(crate) fn colour(no_color: bool) -> bool {
    !no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal()
}

/// Whether standard output is a terminal.
pub(crate) fn is_interactive() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes data to standard output. A closed pipe is the reader's wish, not a failure; anything else, such as a full disk, is
/// kept for [`unwritten`].
pub(crate) fn data(text: &str) {
    let Err(error) = write(text) else { return };
    if error.kind() != ErrorKind::BrokenPipe && !is_hung_up(&error) {
        // What came first is what is told.
        let _ = UNWRITTEN.set(error.to_string());
    }
}

/// Whether a terminal has gone; a disk that fails says the same.
fn is_hung_up(error: &std::io::Error) -> bool {
    use rustix::fs::FileType;
    let is_device = || {
        rustix::fs::fstat(std::io::stdout())
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
    };
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) && is_device()
}

/// Why data could not be written, if that happened: then a command has not done what it was asked for.
pub(crate) fn unwritten() -> Option<&'static str> {
    UNWRITTEN.get().map(String::as_str)
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Whether it is of no use to write more: nobody reads standard output, which a pipe tells without anything being written,
/// or it could not be written.
pub(crate) fn is_unread() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    if unwritten().is_some() {
        return true;
    }
    let out = std::io::stdout();
    let mut look = [PollFd::new(&out, PollFlags::empty())];
    let found = poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    found.is_ok_and(|found| found > 0) && look[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Writes a line for people to standard error.
pub(crate) fn say(text: &str) {
    let _ = StandardError.write_all(format!("{text}\n").as_bytes());
}

/// Waits, where standard error has a thread of its own, until it has written everything, but not for longer than this;
/// whether it has.
pub(crate) fn said(limit: Duration) -> bool {
    telemetry::flush(limit)
}

/// Columns of the terminal on standard output.
pub(crate) fn width() -> usize {
    columns(rustix::termios::tcgetwinsize(std::io::stdout()))
}

/// Lines of the terminal on standard output.
pub(crate) fn height() -> usize {
    let lines = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    if lines == 0 { 24 } else { lines.max(8) }
}

/// Columns of the terminal on standard error.
pub(crate) fn error_width() -> usize {
    columns(rustix::termios::tcgetwinsize(std::io::stderr()))
}

/// Draws over the current line of the terminal on standard error.
pub(crate) fn redraw(line: &str) {
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
}

/// Whether somebody can be asked a question.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Whether the terminal on standard input is the one that controls us, and we are in front: its shell could take it from us.
pub(crate) fn is_in_front() -> bool {
    in_front().is_some_and(|front| front == rustix::process::getpgrp())
}

/// Whether others are in front on the terminal that controls us: it is not ours now.
pub(crate) fn is_behind() -> bool {
    in_front().is_some_and(|front| front != rustix::process::getpgrp())
}

/// Who is in front; of another terminal the system does not say.
fn in_front() -> Option<rustix::process::Pid> {
    rustix::termios::tcgetpgrp(std::io::stdin()).ok()
}

/// Asks on standard error and reads a line; `None` when the input ends.
pub(crate) fn ask(question: &str) -> Option<String> {
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "{question}").and_then(|()| out.flush());
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim().to_owned())
}

/// The same for what must not be seen while it is typed.
pub(crate) fn ask_secret(question: &str) -> Option<String> {
    use rustix::termios::{LocalModes, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).ok()?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).ok()?;
    let answer = ask(question);
    let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
    say("");
    answer
}

/// The whole terminal, for a view with keys; it is given back when this is dropped.
pub(crate) struct Screen {
    before: Before,
    /// Whether it is not given back.
    is_taken: Cell<bool>,
}

impl Screen {
    /// Takes it. `None` when there is no terminal at both ends.
    pub(crate) fn take() -> Option<Self> {
        use rustix::termios::tcgetattr;
        if !std::io::stdin().is_terminal() || !is_interactive() {
            return None;
        }
        let before = Before(tcgetattr(std::io::stdin()).ok()?);
        before.take(OptionalActions::Flush).ok()?;
        Some(Self { before, is_taken: Cell::new(true) })
    }

    /// How the terminal was before.
    pub(crate) fn before(&self) -> Before {
        self.before.clone()
    }

    /// Turns to another page than that of the shell, without a cursor. Like all that writes, it takes as long as the terminal
    /// has no room, for ever when nobody reads it.
    #[expect(clippy::unused_self, reason = "only who has the screen may draw on it")]
    pub(crate) fn begin(&self) {
        show("\x1b[?1049h\x1b[?25l\x1b[2J");
    }

    /// Lets others have it for a while; what was typed for them is theirs.
    pub(crate) fn lend(&self) {
        self.give_back(OptionalActions::Drain);
    }

    /// Takes it anew, whatever others have done to it meanwhile.
    pub(crate) fn take_again(&self) {
        self.is_taken.set(true);
        let _ = self.before.take(OptionalActions::Drain);
        self.begin();
    }

    fn give_back(&self, when: OptionalActions) {
        if !self.is_taken.replace(false) {
            return;
        }
        show("\x1b[?25h\x1b[?1049l");
        // In the background that would stop us; there the shell has set its own modes.
        if !is_behind() {
            let _ = set(when, &self.before.0);
        }
    }

    /// Draws it anew, line by line over what was there, so that nothing flickers.
    #[expect(clippy::unused_self, reason = "only who has the screen may draw on it")]
    pub(crate) fn draw(&self, lines: &[String]) {
        // What is wider than it seems, as some letters are, stays in its line meanwhile.
        let mut text = String::from("\x1b[?7l\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                text.push_str("\r\n");
            }
            // What was there goes first: behind a line as wide as the terminal its last character would go.
            text.push_str("\x1b[K");
            text.push_str(line);
        }
        text.push_str("\x1b[?7h");
        show(&text);
    }

    /// Its columns and lines, however few; a terminal that does not say has the usual ones.
    #[expect(clippy::unused_self, reason = "only who has the screen fills it")]
    pub(crate) fn size(&self) -> (usize, usize) {
        let size = rustix::termios::tcgetwinsize(std::io::stdout());
        let size = size.map_or((0, 0), |size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        (if size.0 == 0 { 80 } else { size.0 }, if size.1 == 0 { 24 } else { size.1 })
    }

    /// Takes away whatever is there, also what others have written.
    #[expect(clippy::unused_self, reason = "only who has the screen may draw on it")]
    pub(crate) fn clear(&self) {
        show("\x1b[2J");
    }

    /// Keys that were pressed, as bytes, after `up_to` at most.
    #[expect(clippy::unused_self, reason = "only who has the screen gets keys one by one")]
    pub(crate) fn keys(&self, up_to: Duration) -> Vec<u8> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdin = std::io::stdin();
        let mut look = [PollFd::new(&stdin, PollFlags::IN)];
        let ready = poll(&mut look, Timespec::try_from(up_to).ok().as_ref()).is_ok_and(|found| found > 0);
        let mut keys = [0; 64];
        let read = if ready { rustix::io::read(&stdin, &mut keys[..]).unwrap_or_default() } else { 0 };
        // At its end the terminal is gone: as if somebody had asked to stop.
        if ready && read == 0 { vec![3] } else { keys[..read].to_vec() }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give_back(OptionalActions::Flush);
    }
}

/// Puts something on the screen. A terminal that has gone ends the view by its keys.
fn show(text: &str) {
    let _ = write(text);
}

/// How a terminal was before a screen was taken there: for a terminal that nobody reads, where the screen stands in a write.
#[derive(Clone)]
pub(crate) struct Before(rustix::termios::Termios);

impl Before {
    /// Throws away what was written and not read, so that who stands in a write goes on.
    #[expect(clippy::unused_self, reason = "only who had the screen may throw away what is on it")]
    pub(crate) fn make_room(&self) {
        use rustix::termios::{Action, QueueSelector, tcflow, tcflush};
        let out = std::io::stdout();
        let _ = tcflush(&out, QueueSelector::OFlush);
        // Linux wakes nobody for that, but for this.
        let _ = tcflow(&out, Action::OOff).and_then(|()| tcflow(&out, Action::OOn));
    }

    /// Sets the modes of a view: keys come one by one, and none of them is a signal.
    fn take(&self, when: OptionalActions) -> rustix::io::Result<()> {
        let mut raw = self.0.clone();
        raw.make_raw();
        set(when, &raw)
    }

    /// Sets the modes back at once; another page than that of the shell may stay.
    pub(crate) fn restore(&self) {
        if is_behind() {
            return;
        }
        let _ = set(OptionalActions::Now, &self.0);
    }
}

fn set(when: OptionalActions, modes: &rustix::termios::Termios) -> rustix::io::Result<()> {
    rustix::termios::tcsetattr(std::io::stdin(), when, modes)
}

/// A terminal that does not say has the usual width.
fn columns(size: rustix::io::Result<rustix::termios::Winsize>) -> usize {
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 80 } else { columns.max(20) }
}
