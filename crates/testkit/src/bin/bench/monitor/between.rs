//! A client and a server in processes of their own, on two processors: who connects and closes, and who accepts and closes.
//! The client waits for the server after each step, so no more than a step's connections wait to be accepted.
//!
//! The server takes as many of each kind as a step has, over and over, and writes after each what it has taken of the
//! processor until then. So the two agree without a word about what comes next.

use std::fmt::Display;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use super::stand::{DEADLINE, Services, Turns, spent};
use super::switched::{Kept, Load, Taken, processors};
use super::told;

/// The word for the server's process on the bench's command line.
pub(crate) const WORD: &str = "closer";

/// The client: this thread.
pub(super) struct Between {
    turns: Turns,
    path: PathBuf,
    server: Server,
    /// What the server had taken when it last said so.
    until: f64,
    _kept: Kept,
    _directory: TempDir,
}

/// The server's process, as long as it is wanted.
struct Server {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Server {
    fn start(path: &Path) -> Result<Self, String> {
        let this = std::env::current_exe().map_err(told)?;
        let mut command = Command::new(this);
        command.arg(WORD).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(told)?;
        let said = process.stdout.take().ok_or("the server has no output")?;
        Ok(Self { process, said: BufReader::new(said) })
    }

    /// Its next word.
    fn word<W: std::str::FromStr>(&mut self) -> Result<W, String> {
        let mut line = String::new();
        if self.said.buffer().is_empty() {
            let mut output = [PollFd::new(self.said.get_ref(), PollFlags::IN)];
            let limit = Timespec::try_from(DEADLINE).map_err(told)?;
            if poll(&mut output, Some(&limit)).map_err(told)? == 0 {
                return Err("the server that closes has said nothing for 20 s: measure again".to_owned());
            }
        }
        self.said.read_line(&mut line).map_err(told)?;
        line.trim().parse().map_err(|_| format!("the server that closes said {line:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, if it has failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Between {
    /// Starts the server, and keeps this thread to a processor until it is dropped.
    pub(super) fn build() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(told)?;
        let path = directory.path().join("other");
        let mut server = Server::start(&path)?;
        let turns = Turns::new(server.word()?);
        let kept = Kept::to(processors()?.last().copied().unwrap_or_default())?;
        Ok(Self { turns, path, server, until: 0.0, _kept: kept, _directory: directory })
    }

    /// What one connection of some has taken, at both ends.
    fn each(&mut self, connect: impl Fn(&mut Self) -> io::Result<()>) -> Result<f64, String> {
        let first = spent();
        for _ in 0..Self::STEP {
            connect(self).map_err(told)?;
        }
        let here = spent() - first;
        let until: f64 = self.server.word()?;
        let there = until - self.until;
        self.until = until;
        Ok((here + there) / Self::STEP as f64)
    }
}

impl Load for Between {
    const STEP: usize = 20;

    fn step(&mut self) -> Result<Taken, String> {
        let connection = self.each(|this| TcpStream::connect(this.turns.next()).map(drop))?;
        let other = self.each(|this| UnixStream::connect(&this.path).map(drop))?;
        Ok(Taken { connection, other })
    }
}

/// The server's own main: until its standard input ends, which it does with the bench.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let path = arguments.first().ok_or("where are local sockets to be accepted?")?;
    let seen = Services::bind()?;
    let others = UnixListener::bind(path).map_err(told)?;
    say(&seen.port())?;
    // Room for what both have to say: neither waits.
    let (end, ended) = mpsc::sync_channel(2);
    let no_more = end.clone();
    thread::spawn(move || end.send(serve(seen, &others)));
    thread::spawn(move || no_more.send(io::stdin().read_to_end(&mut Vec::new()).map(drop).map_err(told)));
    ended.recv().map_err(told)?
}

/// Accepts and closes, and says after each step what that has taken until then.
fn serve(mut seen: Services, others: &UnixListener) -> Result<(), String> {
    let _kept = Kept::to(processors()?.first().copied().unwrap_or_default())?;
    loop {
        for _ in 0..Between::STEP {
            drop(seen.next().0.accept().map_err(told)?);
        }
        say(&spent())?;
        for _ in 0..Between::STEP {
            drop(others.accept().map_err(told)?);
        }
        say(&spent())?;
    }
}

/// In one call, so that what it costs is the same each time.
fn say(word: &impl Display) -> Result<(), String> {
    let mut output = io::stdout().lock();
    output.write_all(format!("{word}\n").as_bytes()).and_then(|()| output.flush()).map_err(told)
}
