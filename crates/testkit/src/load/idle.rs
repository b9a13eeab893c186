//! Connections that do nothing, or refuse to do what the other end waits for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::task::Group;

/// Connections being opened at the same time; under any listener's backlog.
const OPENING: usize = 64;
/// A connection that is not usable after this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);
/// A writer that could write nothing for this long is stalled.
const STALLED: Duration = Duration::from_millis(300);
/// Bytes of one write or read of a stalled end.
const CHUNK: usize = 64 << 10;

/// Open connections to an echo that have been used once and then left alone.
#[derive(Debug)]
pub struct Idle {
    streams: Vec<TcpStream>,
    /// How many could not be opened.
    pub errors: usize,
    /// What the first failure was.
    pub first_error: Option<String>,
    /// How long the opening took.
    pub elapsed: Duration,
}

impl Idle {
    /// Opens `count` streams through `addr` to a [`crate::origin::TcpOrigin`] and echoes one byte on each.
    pub async fn open(addr: SocketAddr, count: usize) -> Self {
        Self::open_with(addr, count, Bytes::from_static(b"echo\nx"), 1).await
    }

    /// Opens `count` connections, sends `greeting` and reads `answer` bytes on each.
    pub async fn open_with(addr: SocketAddr, count: usize, greeting: Bytes, answer: usize) -> Self {
        let start = Instant::now();
        let turns = Arc::new(Semaphore::new(OPENING));
        let mut opening = Group::new();
        for _ in 0..count {
            let (turns, greeting) = (Arc::clone(&turns), greeting.clone());
            opening.spawn(async move {
                let _turn = turns.acquire().await;
                timeout(DEADLINE, greet(addr, &greeting, answer))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            });
        }
        let mut idle =
            Self { streams: Vec::with_capacity(count), errors: 0, first_error: None, elapsed: Duration::ZERO };
        while let Some(opened) = opening.next().await {
            match opened.flatten() {
                Ok(stream) => idle.streams.push(stream),
                Err(error) => {
                    idle.errors += 1;
                    idle.first_error.get_or_insert_with(|| error.to_string());
                }
            }
        }
        idle.elapsed = start.elapsed();
        idle
    }

    /// How many are open.
    pub fn opened(&self) -> usize {
        self.streams.len()
    }

    /// Echoes a byte on about `sample` of them, evenly spread; returns (checked, dead).
    pub async fn check(&mut self, sample: usize) -> (usize, usize) {
        let step = (self.streams.len() / sample.max(1)).max(1);
        let (mut checked, mut dead) = (0, 0);
        for stream in self.streams.iter_mut().step_by(step) {
            checked += 1;
            let echoed = async {
                stream.write_all(b"y").await?;
                stream.read_u8().await
            };
            dead += usize::from(!matches!(timeout(Duration::from_secs(2), echoed).await, Ok(Ok(b'y'))));
        }
        (checked, dead)
    }
}

async fn greet(addr: SocketAddr, greeting: &[u8], answer: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(greeting).await?;
    let mut answer = vec![0; answer];
    stream.read_exact(&mut answer).await?;
    Ok(stream)
}

/// Clients of an endless source that read nothing.
#[derive(Debug)]
pub struct StalledReaders(Vec<TcpStream>);

impl StalledReaders {
    /// Asks for `count` downloads through `addr` and leaves them unread.
    pub async fn open(addr: SocketAddr, count: usize) -> io::Result<Self> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(addr).await?;
            stream.write_all(b"source\n").await?;
            streams.push(stream);
        }
        Ok(Self(streams))
    }

    /// Reads `bytes` on each; returns how many streams delivered them.
    pub async fn resume(&mut self, bytes: usize) -> usize {
        let mut resumed = 0;
        let mut buffer = vec![0; CHUNK];
        for stream in &mut self.0 {
            let read = async {
                let mut left = bytes;
                while left > 0 {
                    match stream.read(&mut buffer).await? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        got => left = left.saturating_sub(got),
                    }
                }
                Ok::<_, io::Error>(())
            };
            resumed += usize::from(matches!(timeout(DEADLINE, read).await, Ok(Ok(()))));
        }
        resumed
    }
}

/// Clients that have written to an origin which reads nothing until no byte went in any more.
#[derive(Debug)]
pub struct StalledWriters {
    _streams: Vec<TcpStream>,
    /// Bytes that went in, over all streams: what all buffers on the way hold.
    pub absorbed: u64,
}

impl StalledWriters {
    /// Fills `count` streams through `addr`.
    pub async fn open(addr: SocketAddr, count: usize) -> io::Result<Self> {
        let mut writers = Self { _streams: Vec::new(), absorbed: 0 };
        let bytes = vec![0x5A; CHUNK];
        for _ in 0..count {
            let mut stream = TcpStream::connect(addr).await?;
            stream.write_all(b"hold\n").await?;
            while let Ok(written) = timeout(STALLED, stream.write(&bytes)).await {
                writers.absorbed += written? as u64;
            }
            writers._streams.push(stream);
        }
        Ok(writers)
    }
}

#[cfg(test)]
mod tests {
    use super::{Idle, StalledReaders, StalledWriters};
    use crate::origin::TcpOrigin;

    #[tokio::test]
    async fn idle_connections_stay_alive() {
        let origin = TcpOrigin::start().await.unwrap();
        let mut idle = Idle::open(origin.addr(), 100).await;
        assert_eq!((idle.opened(), idle.errors), (100, 0));
        assert_eq!(idle.check(20).await, (20, 0));
    }

    #[tokio::test]
    async fn stalled_ends_fill_buffers_and_resume() {
        let origin = TcpOrigin::start().await.unwrap();
        let mut readers = StalledReaders::open(origin.addr(), 2).await.unwrap();
        assert_eq!(readers.resume(8 << 20).await, 2);
        let writers = StalledWriters::open(origin.addr(), 1).await.unwrap();
        assert!(writers.absorbed > 0);
    }
}
