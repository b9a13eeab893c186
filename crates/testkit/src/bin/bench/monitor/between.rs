//! A client and a server in processes of their own, on two processors: who connects and closes, and who accepts and closes.
//! The client waits for the server's end before its own, so there is one connection at a time.
//!
//! The server makes as many of each kind as a step has, over and over, and writes after each what it has taken of the
//! processor until then. So the two agree without a word about what comes next.

use std::fmt::Display;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::stand::spent;
use super::switched::{Kept, Load, Taken, processors};
use super::told;

/// The word for the server's process on the bench's command line.
pub(crate) const WORD: &str = "closer";

/// The client: this thread.
pub(super) struct Between {
    address: SocketAddr,
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
        let address = server.word()?;
        let kept = Kept::to(processors()?.last().copied().unwrap_or_default())?;
        Ok(Self { address, path, server, until: 0.0, _kept: kept, _directory: directory })
    }

    /// What one connection of some has taken, at both ends.
    fn each(&mut self, connect: impl Fn(&Self) -> Result<(), String>) -> Result<f64, String> {
        let first = spent();
        for _ in 0..Self::STEP {
            connect(self)?;
        }
        let here = spent() - first;
        let until: f64 = self.server.word()?;
        let there = until - self.until;
        self.until = until;
        Ok((here + there) / Self::STEP as f64)
    }
}

impl Load for Between {
    const STEP: usize = 10;

    fn step(&mut self) -> Result<Taken, String> {
        let connection = self.each(|this| until_closed(TcpStream::connect(this.address)))?;
        let other = self.each(|this| until_closed(UnixStream::connect(&this.path)))?;
        Ok(Taken { connection, other })
    }
}

/// The other side closes first, as a service does that has given its answer.
fn until_closed<S: Read>(stream: io::Result<S>) -> Result<(), String> {
    let mut stream = stream.map_err(told)?;
    match stream.read(&mut [0]).map_err(told)? {
        0 => Ok(()),
        _ => Err("the server that closes has sent something".to_owned()),
    }
}

/// The server's own main: until its standard input ends, which it does with the bench.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let path = arguments.first().ok_or("where are local sockets to be accepted?")?;
    let seen = TcpListener::bind("127.0.0.1:0").map_err(told)?;
    let others = UnixListener::bind(path).map_err(told)?;
    say(&seen.local_addr().map_err(told)?)?;
    let serving = thread::spawn(move || serve(&seen, &others));
    io::stdin().read_to_end(&mut Vec::new()).map_err(told)?;
    if serving.is_finished() { serving.join().map_err(|_| "it has panicked")? } else { Ok(()) }
}

/// Accepts and closes, and says after each step what that has taken until then.
fn serve(seen: &TcpListener, others: &UnixListener) -> Result<(), String> {
    let _kept = Kept::to(processors()?.first().copied().unwrap_or_default())?;
    loop {
        for _ in 0..Between::STEP {
            drop(seen.accept().map_err(told)?);
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
