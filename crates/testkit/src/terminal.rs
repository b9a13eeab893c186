//! A terminal that programs under test are run on, and what it shows.

mod screen;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

pub use screen::Screen;

/// How often the reader looks whether the terminal is to be closed.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A terminal. It is closed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    path: PathBuf,
    /// Where programs are: as long as it is open, the terminal outlives them.
    seat: Option<File>,
    screen: Arc<Mutex<Screen>>,
    closing: Arc<AtomicBool>,
    frozen: Arc<AtomicBool>,
    keys: Option<File>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// A terminal of this size.
    ///
    /// # Errors
    /// When the system has none.
    pub fn open(columns: u16, rows: u16) -> io::Result<Self> {
        let front = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&front)?;
        unlockpt(&front)?;
        let name = ptsname(&front, Vec::new())?;
        let path = PathBuf::from(name.to_string_lossy().into_owned());
        let seat = open(&path)?;
        tcsetwinsize(&seat, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        let screen = Arc::new(Mutex::new(Screen::new(usize::from(columns), usize::from(rows))));
        let closing = Arc::new(AtomicBool::new(false));
        let keys = File::from(front.try_clone()?);
        let frozen = Arc::new(AtomicBool::new(false));
        let (shown, end, still) = (Arc::clone(&screen), Arc::clone(&closing), Arc::clone(&frozen));
        let reader =
            std::thread::Builder::new().name("terminal".into()).spawn(move || show(front, &shown, &end, &still))?;
        Ok(Self { path, seat: Some(seat), screen, closing, frozen, keys: Some(keys), reader: Some(reader) })
    }

    /// Runs a program on it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, command: &mut Command) -> io::Result<Seated> {
        let seat = || open(&self.path).map(Stdio::from);
        let child = command.stdin(seat()?).stdout(seat()?).stderr(seat()?).spawn()?;
        Ok(Seated(child))
    }

    /// Runs a program on it whose controlling terminal it is, by `setsid` of util-linux and what else is to be `before`
    /// its command line.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn control(&self, before: &[&str], command: &Command) -> io::Result<Seated> {
        let mut session = Command::new("setsid");
        session.arg("--ctty").args(before).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            session.current_dir(directory);
        }
        self.run(&mut session)
    }

    /// What it shows now.
    pub fn screen(&self) -> Screen {
        lock(&self.screen).clone()
    }

    /// Its modes, as text to compare.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn modes(&self) -> io::Result<String> {
        let seat = open(&self.path)?;
        Ok(format!("{:?}", tcgetattr(&seat)?))
    }

    /// Types.
    ///
    /// # Errors
    /// When it is closed.
    pub fn type_text(&self, text: &str) -> io::Result<()> {
        self.keys
            .as_ref()
            .map_or_else(|| Err(io::ErrorKind::NotConnected.into()), |mut keys| keys.write_all(text.as_bytes()))
    }

    /// While it is frozen, nobody reads what is written, as in a window whose connection hangs.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Whether it has no room for anything, for as long as this: who writes to it stands still.
    ///
    /// # Errors
    /// When it is closed.
    pub fn is_full(&self, for_all_of: Duration) -> io::Result<bool> {
        let seat = self.seat.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let limit = Timespec::try_from(for_all_of).map_err(io::Error::other)?;
        let mut look = [PollFd::new(seat, PollFlags::OUT)];
        Ok(poll(&mut look, Some(&limit))? == 0)
    }

    /// Its window is closed: whoever is on it is hung up.
    pub fn close(&mut self) {
        self.seat = None;
        self.keys = None;
        self.closing.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.close();
    }
}

/// A program on a terminal; killed when this is dropped.
#[derive(Debug)]
pub struct Seated(Child);

impl Seated {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(Pid::from_child(&self.0), signal)?)
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It becomes nobody's controlling terminal by that.
fn open(path: &std::path::Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Shows what is written, until the terminal is closed.
fn show(front: OwnedFd, screen: &Mutex<Screen>, closing: &AtomicBool, frozen: &AtomicBool) {
    let mut front = File::from(front);
    let mut bytes = [0; 4096];
    while !closing.load(Ordering::Relaxed) {
        // A frozen one is looked at for nothing that could come, so that it waits all the same.
        let is_frozen = frozen.load(Ordering::Relaxed);
        let wanted = if is_frozen { PollFlags::empty() } else { PollFlags::IN };
        let mut look = [PollFd::from_borrowed_fd(front.as_fd(), wanted)];
        if !matches!(poll(&mut look, Some(&LOOK)), Ok(ready) if ready > 0) || is_frozen {
            continue;
        }
        match front.read(&mut bytes) {
            Ok(length) if length > 0 => lock(screen).write(&bytes[..length]),
            _ => return,
        }
    }
}

fn lock(screen: &Mutex<Screen>) -> MutexGuard<'_, Screen> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}
