//! Child processes under test: their output line by line, signals, exit, and what they cost.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions};
use tokio::sync::watch;

mod usage;

pub use rustix::process::Signal;
pub use usage::{Usage, tree, usage, usage_of_all};

/// After the exit, output that is still in the pipes gets this long to arrive; a grandchild may hold them open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running child; killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    stdin: Mutex<Option<ChildStdin>>,
    shared: Arc<Shared>,
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whether it came on stderr.
    pub stderr: bool,
    /// Its text without the line end.
    pub text: String,
}

/// What was waited for did not come; holds all output until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSeen {
    /// What was missing and why.
    pub what: String,
    /// The child's output so far.
    pub output: String,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ticks: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    pipes: usize,
    exit: Option<(ExitStatus, Instant)>,
}

impl std::fmt::Display for NotSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; output so far:\n{}", self.what, self.output)
    }
}

impl std::error::Error for NotSeen {}

impl Process {
    /// Starts `command` with its three streams piped.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pid = Pid::from_child(&child);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { pipes: 2, ..State::default() }),
            changed: Condvar::new(),
            ticks: watch::Sender::new(0),
        });
        let stdin = Mutex::new(child.stdin.take());
        follow(child.stdout.take(), false, &shared)?;
        follow(child.stderr.take(), true, &shared)?;
        await_exit(child, pid, &shared)?;
        Ok(Self { pid, stdin, shared })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Blocks until a line of either stream is wanted, and returns it; lines that came earlier count.
    pub fn wait_line(&self, deadline: Duration, wanted: impl Fn(&str) -> bool) -> Result<String, NotSeen> {
        let found = self.wait_for(deadline, |state| match state.find(0, &wanted) {
            Some(text) => Some(Some(text)),
            None => state.is_over().then_some(None),
        });
        found.flatten().ok_or_else(|| self.not_seen("the line did not come"))
    }

    /// As [`Process::wait_line`], without blocking the thread, and looking only at lines from number `from` on.
    pub async fn line_from(
        &self,
        from: usize,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, NotSeen> {
        let found = self.when(deadline, |state| match state.find(from, &wanted) {
            Some(text) => Some(Some(text)),
            None => state.is_over().then_some(None),
        });
        found.await.flatten().ok_or_else(|| self.not_seen("the line did not come"))
    }

    /// As [`Process::wait_line`], without blocking the thread.
    pub async fn line(&self, deadline: Duration, wanted: impl Fn(&str) -> bool) -> Result<String, NotSeen> {
        self.line_from(0, deadline, wanted).await
    }

    /// Blocks until it has exited.
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus, NotSeen> {
        let status = self.wait_for(deadline, |state| state.exit.filter(|_| state.is_over()));
        status.map(|(status, _)| status).ok_or_else(|| self.not_seen("it did not exit"))
    }

    /// As [`Process::wait`], without blocking the thread.
    pub async fn exited(&self, deadline: Duration) -> Result<ExitStatus, NotSeen> {
        let status = self.when(deadline, |state| state.exit.filter(|_| state.is_over()));
        status.await.map(|(status, _)| status).ok_or_else(|| self.not_seen("it did not exit"))
    }

    /// Whether it runs still.
    pub fn is_running(&self) -> bool {
        self.shared.state().exit.is_none()
    }

    /// How many lines there are so far.
    pub fn line_count(&self) -> usize {
        self.shared.state().lines.len()
    }

    /// All lines so far, in the order they were read.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.state().lines.clone()
    }

    /// All output so far.
    pub fn output(&self) -> String {
        self.text(|_| true)
    }

    /// What came on stdout so far.
    pub fn stdout(&self) -> String {
        self.text(|line| !line.stderr)
    }

    /// What came on stderr so far.
    pub fn stderr(&self) -> String {
        self.text(|line| line.stderr)
    }

    /// Writes to its stdin.
    pub fn write_stdin(&self, bytes: &[u8]) -> io::Result<()> {
        match &mut *self.stdin.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(stdin) => {
                stdin.write_all(bytes)?;
                stdin.flush()
            }
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends its stdin.
    pub fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Sends a signal; does nothing when it has exited.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // The child is reaped under the same lock, so the id cannot have gone to another process.
        let state = self.shared.state();
        match state.exit {
            Some(_) => Ok(()),
            None => rustix::process::kill_process(self.pid, signal).map_err(io::Error::from),
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGKILL.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// What it and its descendants have used so far.
    pub fn usage(&self) -> Usage {
        usage_of_all(&tree(self.pid()))
    }

    fn text(&self, wanted: impl Fn(&Line) -> bool) -> String {
        self.shared.state().lines.iter().filter(|line| wanted(line)).map(|line| format!("{}\n", line.text)).collect()
    }

    fn not_seen(&self, what: &str) -> NotSeen {
        let exit = self.shared.state().exit;
        let exit = exit.map(|(status, _)| format!(" ({status})")).unwrap_or_default();
        NotSeen { what: format!("{what}{exit}"), output: self.output() }
    }

    fn wait_for<T>(&self, deadline: Duration, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        let mut state = self.shared.state();
        loop {
            if let Some(seen) = look(&state) {
                return Some(seen);
            }
            let left = end.checked_duration_since(Instant::now())?;
            // Short turns, because the grace for last words ends without an event.
            let turn = left.min(LAST_WORDS / 10);
            state = self.shared.changed.wait_timeout(state, turn).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    async fn when<T>(&self, deadline: Duration, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        let mut ticks = self.shared.ticks.subscribe();
        loop {
            let seen = look(&self.shared.state());
            if seen.is_some() {
                return seen;
            }
            let left = end.checked_duration_since(Instant::now())?;
            let _ = tokio::time::timeout(left.min(LAST_WORDS / 10), ticks.changed()).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        let _ = self.kill();
        let _ = self.wait_for(Duration::from_secs(5), |state| state.exit);
    }
}

impl State {
    fn find(&self, from: usize, wanted: impl Fn(&str) -> bool) -> Option<String> {
        self.lines.iter().skip(from).find(|line| wanted(&line.text)).map(|line| line.text.clone())
    }

    fn is_over(&self) -> bool {
        self.exit.is_some_and(|(_, at)| self.pipes == 0 || at.elapsed() > LAST_WORDS)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
        self.ticks.send_modify(|tick| *tick += 1);
    }
}

/// Runs `command` to its end, giving it `input`; its streams are in the returned process.
pub fn run(command: &mut Command, input: &[u8], deadline: Duration) -> Result<(ExitStatus, Process), NotSeen> {
    let failed = |error: io::Error| NotSeen { what: format!("it did not start: {error}"), output: String::new() };
    let process = Process::start(command).map_err(failed)?;
    // A program that reads no input may be gone before it is written.
    let _ = process.write_stdin(input);
    process.close_stdin();
    let status = process.wait(deadline)?;
    Ok((status, process))
}

/// A port of 127.0.0.1 that was free a moment ago. Only for programs that cannot be told port 0.
pub fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?.port())
}

/// An address of 127.0.0.1 that refuses connections: as long as this is there, nobody else can listen at it.
#[derive(Debug)]
pub struct Closed {
    /// The address.
    pub address: SocketAddr,
    _held: OwnedFd,
}

impl Closed {
    /// Takes one.
    ///
    /// # Errors
    /// When there is no port.
    pub fn take() -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
        let held = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&held, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = getsockname(&held)?.try_into().map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, _held: held })
    }
}

/// Raises this process's limit of open files to its hard limit and returns it; children inherit it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

fn follow(pipe: Option<impl Read + Send + 'static>, stderr: bool, shared: &Arc<Shared>) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let shared = Arc::clone(shared);
    let read = move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|got| got > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            shared.change(|state| state.lines.push(Line { stderr, text }));
            bytes.clear();
        }
        shared.change(|state| state.pipes -= 1);
    };
    std::thread::Builder::new().name("child output".to_owned()).spawn(read).map(drop)
}

fn await_exit(mut child: Child, pid: Pid, shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let wait = move || {
        // Wait without reaping: until it is reaped, under the lock, the id stays its own.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(rustix::process::waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
        shared.change(|state| {
            let status = child.wait().unwrap_or_default();
            state.exit = Some((status, Instant::now()));
        });
    };
    std::thread::Builder::new().name("child exit".to_owned()).spawn(wait).map(drop)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::{Process, Signal, run};

    const DEADLINE: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_exit_code_are_seen() {
        let (status, process) = run(&mut shell("cat; echo out; echo err >&2; exit 3"), b"in\n", DEADLINE).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!((process.stdout(), process.stderr()), ("in\nout\n".to_owned(), "err\n".to_owned()));
    }

    #[tokio::test]
    async fn a_line_can_be_waited_for_in_both_ways() {
        let process = Process::start(&mut shell("echo ready 80; read line; echo got $line; sleep 60")).unwrap();
        assert_eq!(process.line(DEADLINE, |line| line.contains("ready")).await.unwrap(), "ready 80");
        process.write_stdin(b"abc\n").unwrap();
        assert_eq!(process.wait_line(DEADLINE, |line| line.starts_with("got")).unwrap(), "got abc");
        let missing = process.wait_line(Duration::from_millis(50), |line| line == "never").unwrap_err();
        assert!(missing.output.contains("ready 80"), "{missing}");
    }

    #[test]
    fn waiting_for_a_line_ends_with_the_process() {
        let process = Process::start(&mut shell("echo bye")).unwrap();
        let start = Instant::now();
        assert!(process.wait_line(DEADLINE, |line| line == "hello").is_err());
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn signals_reach_it_and_dropping_kills_it() {
        let process =
            Process::start(&mut shell("trap 'echo caught; exit 7' TERM; echo up; while :; do sleep 0.01; done"))
                .unwrap();
        process.wait_line(DEADLINE, |line| line == "up").unwrap();
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait(DEADLINE).unwrap().code(), Some(7));
        let process = Process::start(&mut shell("exec sleep 60")).unwrap();
        let pid = process.pid();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn the_cost_of_work_is_seen() {
        let process =
            Process::start(&mut shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; sleep 60"))
                .unwrap();
        process.wait_line(Duration::from_secs(30), |line| line == "done").unwrap();
        let usage = process.usage();
        assert!(usage.cpu > Duration::from_millis(5), "{usage:?}");
        assert!(usage.resident > 100 * 1024 && usage.processes >= 1, "{usage:?}");
    }
}
