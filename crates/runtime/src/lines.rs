//! `LineSink`: the access log and the audit log. Lines go into a buffer and a thread of its own
//! writes them, so that a slow disk or a stopped terminal never holds up a request.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_core::diagnose::{Diagnose, Fault};
use tokio::sync::Notify;

/// Bytes of lines not yet written, at most: seconds of a busy server, and a bound on what a stuck
/// disk costs. Overflow policy: [`LineSink::write`] drops and counts, [`LineSink::write_all`] waits.
const BUFFER_MAX: usize = 1024 * 1024;
/// How long the writer waits for more lines before it writes: one call for many lines.
const LINGER: Duration = Duration::from_millis(10);
/// How long the end of the program waits for the last lines.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// At most one warning in this time about lines that cannot be written.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Where lines go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LineTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file: appended to, made with mode 0600 when it is missing.
    File(PathBuf),
}

impl LineTarget {
    /// `off`, `stdout`, `stderr` or a path, as the configuration has it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        }
    }
}

/// Takes lines and never blocks; cloning gives another handle. The last one dropped writes what is left.
#[derive(Clone)]
pub struct LineSink {
    /// `None`: the target is [`LineTarget::Off`].
    handle: Option<Arc<Handle>>,
}

impl LineSink {
    /// Opens the target and starts the writing thread.
    ///
    /// # Errors
    /// [`LineSinkError`] when the file cannot be opened or no thread can be had.
    pub fn open(target: &LineTarget) -> Result<Self, LineSinkError> {
        let (output, path): (Box<dyn Write + Send>, _) = match target {
            LineTarget::Off => return Ok(Self { handle: None }),
            LineTarget::Stdout => (Box::new(io::stdout()), None),
            LineTarget::Stderr => (Box::new(io::stderr()), None),
            LineTarget::File(path) => (Box::new(open_file(path)?), Some(path.clone())),
        };
        Self::start(output, path, BUFFER_MAX)
    }

    /// Lines for any writer.
    ///
    /// # Errors
    /// [`LineSinkError::Thread`] when no thread can be had.
    pub fn to_writer(output: impl Write + Send + 'static) -> Result<Self, LineSinkError> {
        Self::start(Box::new(output), None, BUFFER_MAX)
    }

    fn start(output: Box<dyn Write + Send>, path: Option<PathBuf>, limit: usize) -> Result<Self, LineSinkError> {
        let shared = Arc::new(Shared::new(limit));
        let writer = Writer { shared: Arc::clone(&shared), output, path, warned: None };
        std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || writer.run())
            .map_err(|source| LineSinkError::Thread { source })?;
        Ok(Self { handle: Some(Arc::new(Handle { shared })) })
    }

    /// Writes a line soon. Does not wait: when the buffer is full the line is dropped and counted,
    /// and `false` returned. Line breaks within the line become spaces.
    pub fn write(&self, line: &str) -> bool {
        let Some(handle) = &self.handle else {
            return true;
        };
        let taken = handle.shared.push(line);
        if !taken {
            handle.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Writes a line soon; waits while the buffer is full. For lines that must not be lost.
    pub async fn write_all(&self, line: &str) {
        let Some(handle) = &self.handle else {
            return;
        };
        loop {
            let room = handle.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if handle.shared.push(line) {
                return;
            }
            room.await;
        }
    }

    /// Opens the file anew before the next line: the old one was moved away by log rotation.
    pub fn reopen(&self) {
        if let Some(handle) = &self.handle {
            handle.shared.lock().reopen = true;
            handle.shared.work.notify_one();
        }
    }

    /// Waits until every line taken so far is written; `false` when that takes longer than `patience`.
    /// Blocks the thread: for the end of a program and for tests.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        self.handle.as_ref().is_none_or(|handle| handle.shared.flush(patience))
    }

    /// Lines dropped because the buffer was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.handle.as_ref().map_or(0, |handle| handle.shared.dropped.load(Ordering::Relaxed))
    }

    /// Batches of lines the system refused, as on a full disk.
    #[must_use]
    pub fn failed_writes(&self) -> u64 {
        self.handle.as_ref().map_or(0, |handle| handle.shared.failed.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for LineSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineSink").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

/// Why a log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LineSinkError {
    /// The file cannot be opened for appending.
    #[error("cannot write to {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("cannot start the log's thread")]
    Thread {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for LineSinkError {
    fn fault(&self) -> Fault {
        match self {
            Self::Open { .. } => Fault::Config,
            Self::Thread { .. } => Fault::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Open { .. } => Some("check that its directory exists and this user may write there".into()),
            Self::Thread { .. } => None,
        }
    }
}

/// What all clones of a sink share; dropping it ends the thread.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        self.shared.flush(LAST_WRITE);
    }
}

struct Shared {
    state: Mutex<State>,
    limit: usize,
    /// Wakes the writer.
    work: Condvar,
    /// Tells those who flush that a batch was written.
    written: Condvar,
    /// Tells those who wait that there is room again.
    room: Notify,
    dropped: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Bytes taken and bytes written since the start: what a flush compares.
    taken: u64,
    written: u64,
    /// Somebody waits, or the buffer fills: no lingering.
    urgent: bool,
    reopen: bool,
    closing: bool,
}

impl Shared {
    fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            limit,
            work: Condvar::new(),
            written: Condvar::new(),
            room: Notify::new(),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &str) -> bool {
        let mut state = self.lock();
        // Lines that are being written count too: they are in memory all the same.
        let unwritten = usize::try_from(state.taken - state.written).unwrap_or(usize::MAX);
        // A line longer than the whole buffer is taken when there is nothing else.
        if unwritten > 0 && unwritten.saturating_add(line.len()) >= self.limit {
            return false;
        }
        let start = state.pending.len();
        state.pending.extend_from_slice(line.as_bytes());
        for byte in &mut state.pending[start..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        state.pending.push(b'\n');
        state.taken += line.len() as u64 + 1;
        let half_full = !state.urgent && state.pending.len() > self.limit / 2;
        state.urgent |= half_full;
        drop(state);
        if start == 0 || half_full {
            self.work.notify_one();
        }
        true
    }

    fn flush(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        let goal = state.taken;
        state.urgent = true;
        self.work.notify_one();
        let (state, _) = self
            .written
            .wait_timeout_while(state, patience, |state| state.written < goal)
            .unwrap_or_else(PoisonError::into_inner);
        state.written >= goal
    }
}

/// The writing thread.
struct Writer {
    shared: Arc<Shared>,
    output: Box<dyn Write + Send>,
    path: Option<PathBuf>,
    warned: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let (reopen, closing) = self.wait(&mut batch);
            if reopen {
                self.reopen();
            }
            self.write(&batch);
            let mut state = self.shared.lock();
            state.written += batch.len() as u64;
            let done = closing && state.pending.is_empty();
            drop(state);
            self.shared.written.notify_all();
            self.shared.room.notify_waiters();
            if done {
                return;
            }
        }
    }

    /// Waits for something to do, then a little for more of it, and takes all lines there are.
    fn wait(&self, batch: &mut Vec<u8>) -> (bool, bool) {
        batch.clear();
        let shared = &self.shared;
        let idle = |state: &mut State| state.pending.is_empty() && !state.reopen && !state.closing;
        let state = shared.work.wait_while(shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let calm = |state: &mut State| !state.urgent && !state.reopen && !state.closing;
        let (mut state, _) =
            shared.work.wait_timeout_while(state, LINGER, calm).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.pending, batch);
        state.urgent = false;
        (std::mem::take(&mut state.reopen), state.closing)
    }

    fn write(&mut self, batch: &[u8]) {
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.output.write_all(batch).and_then(|()| self.output.flush()) {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            self.warn(&error);
        }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else {
            return;
        };
        match open_file(path) {
            Ok(file) => self.output = Box::new(file),
            // The old file stays in use: lines in a moved file are better than none.
            Err(LineSinkError::Open { source, .. } | LineSinkError::Thread { source }) => {
                self.warn(&source);
            }
        }
    }

    fn warn(&mut self, error: &io::Error) {
        if self.warned.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            let path = self.path.as_deref().unwrap_or(Path::new("-")).display();
            tracing::warn!(%path, %error, "log lines cannot be written");
        }
    }
}

fn open_file(path: &Path) -> Result<std::fs::File, LineSinkError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| LineSinkError::Open { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// A writer that takes a batch only when the test lets it.
    struct Gate {
        open: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate(limit: usize) -> (LineSink, SyncSender<()>, Arc<Mutex<Vec<u8>>>) {
        let (let_through, open) = sync_channel(100);
        let written = Arc::new(Mutex::new(Vec::new()));
        let output = Gate { open, written: Arc::clone(&written) };
        (LineSink::start(Box::new(output), None, limit).unwrap(), let_through, written)
    }

    #[test]
    fn lines_reach_the_file_in_order_and_only_we_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = LineSink::open(&LineTarget::File(path.clone())).unwrap();
        assert!(sink.write("one") && sink.write("two\r\nforged"));
        assert!(sink.flush(DEADLINE));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo  forged\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_last_handle_writes_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = LineSink::open(&LineTarget::File(path.clone())).unwrap();
        let other = sink.clone();
        drop(sink);
        for number in 0..1000 {
            assert!(other.write(&number.to_string()));
        }
        drop(other);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1000);
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = LineSink::open(&LineTarget::File(path.clone())).unwrap();
        sink.write("old");
        assert!(sink.flush(DEADLINE));
        fs::rename(&path, dir.path().join("access.log.1")).unwrap();
        sink.reopen();
        sink.write("new");
        assert!(sink.flush(DEADLINE));
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::read_to_string(dir.path().join("access.log.1")).unwrap(), "old\n");
    }

    #[test]
    fn a_stuck_output_drops_lines_and_counts_them_and_blocks_nobody() {
        let (sink, let_through, written) = gate(64);
        while sink.write("0123456789") {}
        assert!(!sink.write("0123456789"));
        assert_eq!(sink.dropped(), 2);
        assert!(!sink.flush(Duration::from_millis(20)));
        drop((0..10).map(|_| let_through.send(()).unwrap()).collect::<Vec<_>>());
        assert!(sink.flush(DEADLINE));
        assert!(sink.write("again") && sink.flush(DEADLINE));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("0123456789\nagain\n"), "{text}");
    }

    #[tokio::test]
    async fn a_line_that_must_not_be_lost_waits_for_room() {
        let (sink, let_through, written) = gate(32);
        while sink.write("0123456789") {}
        let mut waiting = Box::pin(sink.write_all("audit line"));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        for _ in 0..10 {
            let_through.send(()).unwrap();
        }
        tokio::time::timeout(DEADLINE, waiting).await.unwrap();
        assert!(sink.flush(DEADLINE));
        assert!(written.lock().unwrap().ends_with(b"audit line\n"));
    }

    #[test]
    fn a_refused_write_is_counted_and_the_sink_goes_on() {
        let (sink, let_through, _) = gate(64);
        drop(let_through);
        sink.write("lost");
        assert!(sink.flush(DEADLINE));
        assert_eq!(sink.failed_writes(), 1);
        assert!(sink.write("next"));
    }

    #[test]
    fn off_takes_everything_and_keeps_nothing() {
        let sink = LineSink::open(&LineTarget::parse("off")).unwrap();
        assert!(sink.write("x") && sink.flush(Duration::ZERO));
        assert_eq!((sink.dropped(), sink.failed_writes()), (0, 0));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let path = PathBuf::from("/nonexistent/access.log");
        let error = LineSink::open(&LineTarget::parse("/nonexistent/access.log")).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write to {}", path.display()));
        assert_eq!(error.fault(), Fault::Config);
    }
}
