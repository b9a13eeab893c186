//! Readers of `adit top` and `adit monitor` who stand still: a pipe that is open, and that nobody reads.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use testkit::process::{Process, Signal, free_port};
use testkit::raw;

use super::ends::by_shell;
use crate::cli::home;
use crate::support::{DEADLINE, SOON, eventually, pipe};

/// A pipe that is read only when a test does so.
struct Unread {
    path: PathBuf,
    /// Both ends.
    pipe: File,
}

impl Unread {
    fn new(home: &Path, name: &str) -> Self {
        let path = home.join(name);
        pipe(&path);
        let without_waiting = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a small number");
        let mut options = OpenOptions::new();
        let pipe = options.read(true).write(true).custom_flags(without_waiting).open(&path).expect("it is there");
        // The least there is, so that it is soon full.
        rustix::pipe::fcntl_setpipe_size(&pipe, 4096).expect("it is a pipe");
        Self { path, pipe }
    }

    fn is_full(&self) -> bool {
        let mut look = [PollFd::new(&self.pipe, PollFlags::OUT)];
        poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("it can be looked at") == 0
    }

    fn fill(&self) {
        for part in [&[b'\n'; 4096][..], b"\n"] {
            while (&self.pipe).write(part).is_ok() {}
        }
        assert!(self.is_full());
    }

    /// What is in it.
    fn read(&self) -> String {
        let mut bytes = [0; 4096];
        match (&self.pipe).read(&mut bytes) {
            Ok(length) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => String::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads until a word was there.
    async fn reads(&self, word: &str) -> String {
        let text = std::cell::RefCell::new(String::new());
        let look = || async {
            text.borrow_mut().push_str(&self.read());
            Some(text.borrow().clone()).filter(|text| text.contains(word))
        };
        eventually(DEADLINE, word, look).await
    }
}

/// `adit` whose standard output and error are as `places` of the shell says, with `$1` and `$2` for these two pipes.
fn start(home: &Path, places: &str, pipes: [&Unread; 2], arguments: &[&str]) -> Process {
    let script = format!(r#"out="$1" err="$2"; shift 2; exec "$0" "$@" {places}"#);
    let paths = pipes.map(|pipe| pipe.path.to_str().expect("text"));
    Process::start(&mut by_shell(home, &script, &[&paths[..], arguments].concat())).expect("it starts")
}

/// Connections that are open, with both their ends: of each a poll tells as well, at its next look.
#[derive(Default)]
struct Open(Vec<(TcpStream, TcpStream)>);

impl Open {
    fn more(&mut self, listener: &TcpListener, count: usize) {
        for _ in 0..count {
            let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            self.0.push((client, listener.accept().expect("its other end").0));
        }
    }
}

/// Whether a thread of it stands in a write to a pipe; `None` where the kernel does not tell.
fn stands_in_a_write(pid: u32) -> Option<bool> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let places: Vec<_> = tasks.filter_map(|one| std::fs::read_to_string(one.path().join("wchan")).ok()).collect();
    let is_told = places.iter().any(|place| place != "0");
    is_told.then(|| places.iter().any(|place| place.contains("pipe_write")))
}

/// By one that waits for its input, once it does.
async fn is_told_what_a_process_waits_for() -> bool {
    let waits = Process::start(&mut Command::new("cat")).expect("a process");
    let look = async {
        while stands_in_a_write(waits.pid()).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, look).await.is_ok()
}

#[tokio::test]
async fn lines_that_nobody_has_read_when_it_is_told_to_end_are_counted_and_a_failure() {
    if !is_told_what_a_process_waits_for().await {
        eprintln!("SKIPPED: this kernel does not tell what a process waits for");
        return;
    }
    for (signal, form) in [(Signal::TERM, &["--events", "all"][..]), (Signal::INT, &["-o", "json"])] {
        let home = home();
        let out = Unread::new(home.path(), "out");
        let arguments = [&["top", "--interval", "100ms"], form].concat();
        let process = start(home.path(), r#">"$out""#, [&out, &out], &arguments);
        out.reads(if form.contains(&"json") { "\"started\"" } else { "TIME " }).await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = std::cell::RefCell::new(Open::default());
        let full = || async {
            open.borrow_mut().more(&listener, 10);
            stands_in_a_write(process.pid()).filter(|stands| *stands)
        };
        eventually(DEADLINE, "a pipe that is full", full).await;
        process.signal(signal).unwrap();
        let status = process.wait(DEADLINE).expect("it ends, though its reader stands still");
        let said = process.stderr();
        assert_eq!(status.code(), Some(1), "{signal:?}: {said}");
        let count = said.split_once(if form.contains(&"json") { "\"message\":\"" } else { "error: " });
        let count = count.and_then(|(_, text)| text.split_once(' ')).and_then(|(count, _)| count.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count > 0) && said.contains("not written: nobody has read them"), "{said}");
    }
}

#[tokio::test]
async fn one_pipe_for_lines_and_for_what_is_said_that_nobody_reads_holds_up_no_end() {
    let home = home();
    let both = Unread::new(home.path(), "both");
    let arguments = ["top", "--interval", "100ms", "--events", "all"];
    let process = start(home.path(), r#">"$out" 2>&1"#, [&both, &both], &arguments);
    both.reads("TIME ").await;
    if stands_in_a_write(process.pid()).is_none() {
        eprintln!("SKIPPED: the kernel does not tell where a thread stands");
        return;
    }
    both.fill();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = std::cell::RefCell::new(Open::default());
    let stands = || async {
        open.borrow_mut().more(&listener, 10);
        stands_in_a_write(process.pid()).filter(|stands| *stands)
    };
    eventually(DEADLINE, "a line that is not read", stands).await;
    process.terminate().unwrap();
    assert_eq!(process.wait(DEADLINE).expect("it ends, though nobody hears of it").code(), Some(1));
}

#[tokio::test]
async fn warnings_that_nobody_reads_hold_up_neither_the_lines_nor_the_end_of_top() {
    let home = home();
    let said = Unread::new(home.path(), "said");
    let arguments = ["top", "--interval", "100ms", "--events", "all", "--source", "ebpf", "--max-connections", "64"];
    let process = start(home.path(), r#"2>"$err""#, [&said, &said], &arguments);
    if process.wait_line(DEADLINE, |line| line.starts_with("TIME ")).is_err() {
        eprintln!("SKIPPED: programs in the kernel are not permitted here: {}", said.read());
        return;
    }
    said.fill();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut open = Open::default();
    // More than the kernel has places for, which is worth a warning.
    open.more(&listener, 200);
    if stands_in_a_write(process.pid()).is_none() {
        eprintln!("SKIPPED: the kernel does not tell where a thread stands");
        return;
    }
    let stands = || async { stands_in_a_write(process.pid()).filter(|stands| *stands) };
    eventually(DEADLINE, "a warning that is not read", stands).await;
    drop(open);
    process.wait_line(DEADLINE, |line| line.contains(" closed ")).expect("lines go on");
    process.terminate().unwrap();
    assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(0), "all lines were read");
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_neither_the_probes_nor_the_end_of_the_monitor() {
    let home = home();
    let log = Unread::new(home.path(), "log");
    let arguments = ["monitor", "--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0", "--interval", "200ms"];
    let process = start(home.path(), r#"2>"$err""#, [&log, &log], &arguments);
    let begun = log.reads("/health\n").await;
    let address = begun.lines().find_map(|line| line.strip_prefix("health")?.split("http://").nth(1));
    let address = address.and_then(|url| url.split('/').next()?.parse().ok()).unwrap_or_else(|| panic!("{begun}"));
    log.fill();
    let ready = || async { raw::get(address, "localhost", "/readiness").await.ok().filter(|one| one.status == 200) };
    eventually(DEADLINE, "ready", ready).await;
    // It says that it stops, to nobody.
    process.terminate().unwrap();
    assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(0));
}

#[tokio::test]
async fn a_line_for_programs_that_nobody_reads_holds_up_neither_the_probes_nor_the_end_of_the_monitor() {
    let home = home();
    let out = Unread::new(home.path(), "out");
    out.fill();
    let health = free_port().expect("a port");
    let arguments = ["-o", "json", "monitor", "--metrics", "127.0.0.1:0", "--health", &health.to_string()];
    let process = start(home.path(), r#">"$out""#, [&out, &out], &arguments);
    let address = SocketAddr::from(([127, 0, 0, 1], health));
    let ready = || async { raw::get(address, "localhost", "/readiness").await.ok().filter(|one| one.status == 200) };
    eventually(DEADLINE, "ready", ready).await;
    process.terminate().unwrap();
    assert_eq!(process.wait(DEADLINE).expect("it ends, though nobody reads where it is").code(), Some(0));
}

#[tokio::test]
async fn a_table_that_nobody_reads_holds_up_no_signal() {
    if !is_told_what_a_process_waits_for().await {
        eprintln!("SKIPPED: this kernel does not tell what a process waits for");
        return;
    }
    let home = home();
    let out = Unread::new(home.path(), "out");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut open = Open::default();
    // More lines than the pipe has room for.
    open.more(&listener, 60);
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let arguments = ["top", "--once", "--by", "connection", "--interval", "100ms"];
        let process = start(home.path(), r#">"$out""#, [&out, &out], &arguments);
        let full = || async { stands_in_a_write(process.pid()).filter(|stands| *stands) };
        eventually(DEADLINE, "a table that is not read", full).await;
        process.signal(signal).unwrap();
        assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(code), "{}", process.stderr());
        while !out.read().is_empty() {}
    }
}
