//! Transfers that run as fast as they can until they are dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::noise;
use crate::task::{self, Group, Task};

/// Bytes moved by one system call.
const CHUNK: usize = 256 << 10;

/// Which way the bytes go, seen from the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkDirection {
    /// The load reads.
    Down,
    /// The load writes.
    Up,
}

/// Running transfers; they end when this is dropped.
#[derive(Debug)]
pub struct Bulk {
    bytes: Arc<AtomicU64>,
    failed: Arc<AtomicUsize>,
    _task: Task,
}

impl Bulk {
    /// Starts `streams` transfers to or from a [`crate::origin::TcpOrigin`]; returns when bytes flow on all of them.
    pub async fn start(
        addr: SocketAddr,
        direction: BulkDirection,
        streams: usize,
        deadline: Duration,
    ) -> io::Result<Self> {
        let prelude = match direction {
            BulkDirection::Down => Bytes::from_static(b"source\n"),
            BulkDirection::Up => Bytes::from_static(b"sink\n"),
        };
        Self::start_with(addr, direction, streams, prelude, deadline).await
    }

    /// The same after `prelude` was sent, which may be the head of an HTTP request.
    pub async fn start_with(
        addr: SocketAddr,
        direction: BulkDirection,
        streams: usize,
        prelude: Bytes,
        deadline: Duration,
    ) -> io::Result<Self> {
        let end = Instant::now() + deadline;
        let bytes = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(AtomicUsize::new(0));
        let flowing = watch::Sender::new(0);
        let mut flowed = flowing.subscribe();
        let mut connections = Vec::new();
        for _ in 0..streams {
            let mut stream = timeout_at(end, TcpStream::connect(addr)).await.map_err(timed_out)??;
            stream.set_nodelay(true)?;
            stream.write_all(&prelude).await?;
            connections.push(stream);
        }
        let mut transfers = Group::new();
        for stream in connections {
            let (bytes, failed, flowing) = (Arc::clone(&bytes), Arc::clone(&failed), flowing.clone());
            transfers.spawn(async move {
                let ended = match direction {
                    BulkDirection::Down => down(stream, &bytes, &flowing).await,
                    BulkDirection::Up => up(stream, &bytes, &flowing).await,
                };
                if ended.is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let task = task::spawn(async move { transfers.finish().await });
        let all = timeout_at(end, flowed.wait_for(|flowing| *flowing == streams)).await.map(|all| all.is_ok());
        match all {
            Ok(true) => Ok(Self { bytes, failed, _task: task }),
            _ => Err(io::Error::new(io::ErrorKind::TimedOut, "not all bulk transfers began to flow")),
        }
    }

    /// Bytes moved so far by all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Transfers that have ended although they should run for ever.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }
}

async fn down(mut stream: TcpStream, bytes: &AtomicU64, flowing: &watch::Sender<usize>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut first = true;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => bytes.fetch_add(got as u64, Ordering::Relaxed),
        };
        if std::mem::take(&mut first) {
            flowing.send_modify(|flowing| *flowing += 1);
        }
    }
}

async fn up(mut stream: TcpStream, bytes: &AtomicU64, flowing: &watch::Sender<usize>) -> io::Result<()> {
    let buffer = noise::bytes(1, CHUNK);
    let mut first = true;
    loop {
        let sent = stream.write(&buffer).await?;
        bytes.fetch_add(sent as u64, Ordering::Relaxed);
        if std::mem::take(&mut first) {
            flowing.send_modify(|flowing| *flowing += 1);
        }
    }
}

fn timed_out(_: tokio::time::error::Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the bulk connections took too long")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bulk, BulkDirection};
    use crate::origin::TcpOrigin;

    #[tokio::test]
    async fn bytes_flow_both_ways() {
        let origin = TcpOrigin::start().await.unwrap();
        for direction in [BulkDirection::Down, BulkDirection::Up] {
            let bulk = Bulk::start(origin.addr(), direction, 2, Duration::from_secs(10)).await.unwrap();
            let flowed = async {
                while bulk.bytes() < 10_000_000 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), flowed).await.unwrap();
            assert_eq!(bulk.failed(), 0);
        }
    }
}
