//! A TCP service whose client says in its first line what it wants, so one tunnel carries every scenario.
//!
//! | line | what the service does |
//! |---|---|
//! | `echo` | sends everything back, half-closes when the client does |
//! | `source [BYTES] [KEY]` | sends BYTES (or for ever), then ends; counts them under KEY |
//! | `sink` | reads to the client's end, then answers with the count |
//! | `first KEY` | says `hello` and ends its direction; then reads to the client's end and counts under KEY |
//! | `tally KEY` | answers `open COUNT` or `done COUNT` |
//! | `hold` | reads nothing |
//! | `silent` | reads and says nothing |
//! | `drip PIECES MS` | sends that many 100-byte pieces, so far apart |
//! | `reset BYTES` | sends so many bytes, then resets |
//! | `head` | says `hello\n`, then echoes (a service that speaks first) |
//!
//! A first line that is none of these is sent back as it came, followed by an echo.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::noise;
use crate::task::{self, Task, reset_on_close};

/// Bytes of one read or write.
const CHUNK: usize = 256 << 10;
/// An echo's buffer grows from this, so that ten thousand idle ones are cheap.
const SMALL: usize = 1 << 10;
/// Longest command line.
const LINE_CAP: usize = 256;

/// The running service.
#[derive(Debug)]
pub struct TcpOrigin {
    addr: SocketAddr,
    state: Arc<State>,
    _task: Task,
}

#[derive(Debug, Default)]
struct State {
    connections: AtomicU64,
    open: AtomicU64,
    tallies: Mutex<HashMap<String, Arc<Tally>>>,
}

#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    done: AtomicU64,
}

impl TcpOrigin {
    /// Starts it on a free port.
    pub async fn start() -> io::Result<Self> {
        Ok(Self::launch(task::listen()?))
    }

    /// Starts it on this address (to come back where an earlier one was).
    pub async fn start_on(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self::launch(task::listen_on(addr)?))
    }

    fn launch((listener, addr): (TcpListener, SocketAddr)) -> Self {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = task::spawn(task::serve(listener, move |stream, _| {
            let state = Arc::clone(&shared);
            async move {
                state.connections.fetch_add(1, Ordering::Relaxed);
                let _open = Open::new(&state);
                // How a client leaves is its own business.
                let _ = converse(&state, stream).await;
            }
        }));
        Self { addr, state, _task: task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.state.open.load(Ordering::Relaxed)
    }

    /// Bytes counted under `key` so far.
    pub fn tally(&self, key: &str) -> u64 {
        self.state.tally(key).count.load(Ordering::Relaxed)
    }
}

impl State {
    fn tally(&self, key: &str) -> Arc<Tally> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tallies.entry(key.to_owned()).or_default())
    }
}

struct Open<'a>(&'a State);

impl<'a> Open<'a> {
    fn new(state: &'a State) -> Self {
        state.open.fetch_add(1, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn converse(state: &State, mut stream: TcpStream) -> io::Result<()> {
    let (line, rest) = command(&mut stream).await?;
    let mut words = line.split_ascii_whitespace();
    let verb = words.next().unwrap_or_default();
    let first = words.next();
    let number = first.and_then(|word| word.parse::<u64>().ok());
    match verb {
        "echo" => echo(stream, rest).await,
        "source" => {
            let tally = state.tally(words.next().unwrap_or("source"));
            source(stream, number.unwrap_or(u64::MAX), &tally).await
        }
        "sink" => {
            let count = drain(&mut stream, rest.len(), &Tally::default()).await?;
            stream.write_all(count.to_string().as_bytes()).await
        }
        "first" => {
            let tally = state.tally(first.unwrap_or("first"));
            stream.write_all(b"hello").await?;
            stream.shutdown().await?;
            drain(&mut stream, rest.len(), &tally).await.map(drop)
        }
        "tally" => {
            let tally = state.tally(first.unwrap_or_default());
            let word = if tally.done.load(Ordering::Acquire) > 0 { "done" } else { "open" };
            stream.write_all(format!("{word} {}", tally.count.load(Ordering::Relaxed)).as_bytes()).await
        }
        "hold" => std::future::pending().await,
        "silent" => drain(&mut stream, 0, &Tally::default()).await.map(drop),
        "drip" => drip(stream, number.unwrap_or(1), words.next().and_then(|word| word.parse().ok()).unwrap_or(1)).await,
        "reset" => reset(stream, number.unwrap_or(0)).await,
        "head" => {
            stream.write_all(b"hello\n").await?;
            echo(stream, rest).await
        }
        _ => {
            let mut all = line.into_bytes();
            all.extend_from_slice(&rest);
            echo(stream, all).await
        }
    }
}

/// The first line without its end, and the bytes that came after it. A stream that is no line is all line.
async fn command(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(SMALL);
    loop {
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let rest = bytes.split_off(end + 1);
            let whole = String::from_utf8_lossy(&bytes).into_owned();
            let known = whole.split_ascii_whitespace().next().is_some_and(is_verb);
            if known {
                return Ok((whole.trim_end().to_owned(), rest));
            }
            // A stranger's bytes are given back as they are, whether they are text or not.
            bytes.extend(rest);
            return Ok((String::new(), bytes));
        }
        let could_be_verb = bytes.len() <= LINE_CAP && bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r'));
        if !could_be_verb || stream.read_buf(&mut bytes).await? == 0 {
            return Ok((String::new(), bytes));
        }
    }
}

fn is_verb(word: &str) -> bool {
    matches!(word, "echo" | "source" | "sink" | "first" | "tally" | "hold" | "silent" | "drip" | "reset" | "head")
}

async fn echo(mut stream: TcpStream, first: Vec<u8>) -> io::Result<()> {
    stream.write_all(&first).await?;
    drop(first);
    let mut buffer = vec![0; SMALL];
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..got]).await?;
        if got == buffer.len() && got < CHUNK {
            buffer = vec![0; got * 4];
        }
    }
}

async fn source(mut stream: TcpStream, mut left: u64, tally: &Tally) -> io::Result<()> {
    let bytes = noise::bytes(2, CHUNK);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let sent = stream.write(&bytes[..most]).await? as u64;
        tally.count.fetch_add(sent, Ordering::Relaxed);
        left -= sent;
    }
    stream.shutdown().await?;
    until_gone(&mut stream).await
}

/// Counts what comes until the client's end.
async fn drain(stream: &mut TcpStream, already: usize, tally: &Tally) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    tally.count.fetch_add(already as u64, Ordering::Relaxed);
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            tally.done.store(1, Ordering::Release);
            return Ok(tally.count.load(Ordering::Relaxed));
        }
        tally.count.fetch_add(got as u64, Ordering::Relaxed);
    }
}

async fn drip(mut stream: TcpStream, pieces: u64, millis: u64) -> io::Result<()> {
    let piece = noise::bytes(4, 100);
    for _ in 0..pieces {
        stream.write_all(&piece).await?;
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    stream.shutdown().await
}

async fn reset(mut stream: TcpStream, bytes: u64) -> io::Result<()> {
    if bytes > 0 {
        stream.write_all(&noise::bytes(8, usize::try_from(bytes).unwrap_or(CHUNK))).await?;
        // A reset discards what is still queued: give the bytes time to leave, as a real service that dies later would.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    reset_on_close(&stream);
    Ok(())
}

/// Closing a socket with unread bytes resets it and may cut what was sent; read them first.
async fn until_gone(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::TcpOrigin;

    async fn ask(origin: &TcpOrigin, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(origin.addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn every_verb_answers_as_its_table_says() {
        let origin = TcpOrigin::start().await.unwrap();
        assert_eq!(ask(&origin, b"echo\nabc").await, b"abc");
        assert_eq!(ask(&origin, b"sink\nabc").await, b"3");
        assert_eq!(ask(&origin, b"source 100000 k\n").await.len(), 100_000);
        assert_eq!(origin.tally("k"), 100_000);
        assert_eq!(ask(&origin, b"first f\nabcd").await, b"hello");
        assert_eq!(ask(&origin, b"drip 3 1\n").await.len(), 300);
        assert_eq!(ask(&origin, b"head\nabc").await, b"hello\nabc");
        assert_eq!(ask(&origin, b"nonsense\nabc").await, b"nonsense\nabc");
        assert_eq!(ask(&origin, &[0, 1, 2, 255]).await, [0, 1, 2, 255]);
    }
}
