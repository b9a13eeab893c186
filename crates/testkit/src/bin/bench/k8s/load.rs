//! Load on a forward: single exchanges on blocking sockets, which add least, and many at a time until they are dropped.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::runtimes;

/// A request to the HTTP service; the connection stays open.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
/// How its answer ends.
const END: &[u8] = b"Hello, world!";
/// A worker whose connection failed rests so long.
const PAUSE: Duration = Duration::from_millis(5);
/// A request that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Opens a connection, asks once and leaves; the time from the start to the first byte.
pub(crate) fn request(addr: SocketAddr, deadline: Duration) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = open(addr, deadline)?;
    exchange(&mut stream, start)
}

/// Echoes a byte over a new connection to the TCP service.
pub(crate) fn echo(addr: SocketAddr, deadline: Duration) -> io::Result<()> {
    let mut stream = open(addr, deadline)?;
    stream.write_all(b"echo\nx")?;
    stream.read_exact(&mut [0])
}

/// A connection with a time-out for each of its calls.
pub(crate) fn open(addr: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, deadline)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    Ok(stream)
}

/// One request and its answer on an open connection; the time from `start` to the first byte.
pub(crate) fn exchange(stream: &mut TcpStream, start: Instant) -> io::Result<Duration> {
    stream.write_all(REQUEST)?;
    let mut buffer = [0; 1024];
    let mut filled = 0;
    let mut first = None;
    while !buffer[..filled].ends_with(END) {
        match stream.read(&mut buffer[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => filled += got,
        }
        first.get_or_insert_with(|| start.elapsed());
    }
    first.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Workers that ask until this is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    counts: Arc<Counts>,
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct Counts {
    served: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// So many workers, each on one connection for ever, or with `fresh` on a new one for each request.
    pub(crate) fn start(addr: SocketAddr, workers: usize, fresh: bool) -> Result<Self, String> {
        let runtime = runtimes::apart(1)?;
        let counts = Arc::new(Counts::default());
        for _ in 0..workers {
            let counts = Arc::clone(&counts);
            runtime.spawn(async move {
                loop {
                    if work(addr, &counts, fresh).await.is_err() {
                        counts.failed.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            });
        }
        Ok(Self { counts, _runtime: runtime })
    }

    /// Requests answered so far.
    pub(crate) fn served(&self) -> u64 {
        self.counts.served.load(Ordering::Relaxed)
    }

    /// Requests that failed so far.
    pub(crate) fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// Answers a second over `window`.
    pub(crate) fn rate(&self, window: Duration) -> Result<f64, String> {
        let (start, served) = (Instant::now(), self.served());
        runtimes::pass(window)?;
        Ok((self.served() - served) as f64 / start.elapsed().as_secs_f64())
    }
}

async fn work(addr: SocketAddr, counts: &Counts, fresh: bool) -> io::Result<()> {
    let connect = tokio::time::timeout(DEADLINE, tokio::net::TcpStream::connect(addr));
    let mut stream = connect.await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    loop {
        tokio::time::timeout(DEADLINE, ask(&mut stream)).await.map_err(|_| late())??;
        counts.served.fetch_add(1, Ordering::Relaxed);
        if fresh {
            return Ok(());
        }
    }
}

async fn ask(stream: &mut tokio::net::TcpStream) -> io::Result<()> {
    stream.write_all(REQUEST).await?;
    let mut buffer = [0; 1024];
    let mut filled = 0;
    while !buffer[..filled].ends_with(END) {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => filled += got,
        }
    }
    Ok(())
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use testkit::origin::HttpOrigin;

    use super::Load;

    #[test]
    fn both_kinds_of_load_are_counted_and_single_requests_timed() {
        let runtime = crate::runtimes::apart(1).unwrap();
        let origin = runtime.block_on(HttpOrigin::start_quiet()).unwrap();
        assert!(super::request(origin.addr(), Duration::from_secs(5)).unwrap() > Duration::ZERO);
        for fresh in [false, true] {
            let load = Load::start(origin.addr(), 4, fresh).unwrap();
            let start = Instant::now();
            while load.served() < 100 && start.elapsed() < Duration::from_secs(10) {
                load.rate(Duration::from_millis(1)).unwrap();
            }
            assert!(load.served() >= 100 && load.failed() == 0);
        }
    }
}
