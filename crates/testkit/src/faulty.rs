//! Peers that misbehave: a listener that is silent, slow, resets or talks nonsense, and a stream that breaks on cue.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::noise;
use crate::task::{self, Task, reset_on_close};

/// What a [`FaultyListener`] does with each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Reads and never answers.
    Silent,
    /// Does not even read.
    Deaf,
    /// Resets at once.
    Reset,
    /// Reads this many bytes, then resets.
    ResetAfter(usize),
    /// Ends its direction at once and goes on reading.
    HalfClose,
    /// Ends both directions at once.
    Close,
    /// Waits for the first bytes, then sends this much noise and ends.
    Garbage(usize),
    /// Waits for the first bytes, then sends this and ends.
    Say(Vec<u8>),
    /// Waits for the first bytes, then sends these, one byte each time the pause is over.
    Slow(Vec<u8>, Duration),
}

/// A listener on a free port of 127.0.0.1 that misbehaves until it is dropped.
#[derive(Debug)]
pub struct FaultyListener {
    addr: SocketAddr,
    accepted: Arc<AtomicU64>,
    _task: Task,
}

impl FaultyListener {
    /// Starts it.
    pub async fn start(behaviour: Behaviour) -> io::Result<Self> {
        let (listener, addr) = task::listen()?;
        let accepted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&accepted);
        let task = task::spawn(task::serve(listener, move |stream, _| {
            count.fetch_add(1, Ordering::Relaxed);
            let behaviour = behaviour.clone();
            async move {
                // How a client leaves is its own business.
                let _ = misbehave(behaviour, stream).await;
            }
        }));
        Ok(Self { addr, accepted, _task: task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn misbehave(behaviour: Behaviour, mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    match behaviour {
        Behaviour::Silent => {}
        Behaviour::Deaf => std::future::pending().await,
        Behaviour::Reset => {
            reset_on_close(&stream);
            return Ok(());
        }
        Behaviour::ResetAfter(bytes) => {
            let mut left = bytes;
            while left > 0 {
                let most = left.min(buffer.len());
                left -= stream.read(&mut buffer[..most]).await?.max(1);
            }
            reset_on_close(&stream);
            return Ok(());
        }
        Behaviour::HalfClose => stream.shutdown().await?,
        Behaviour::Close => return Ok(()),
        Behaviour::Garbage(length) => say(&mut stream, &noise::bytes(9, length)).await?,
        Behaviour::Say(bytes) => say(&mut stream, &bytes).await?,
        Behaviour::Slow(bytes, pause) => {
            stream.readable().await?;
            for byte in bytes {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
            stream.shutdown().await?;
        }
    }
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn say(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.readable().await?;
    stream.write_all(bytes).await?;
    stream.shutdown().await
}

/// What one direction of a [`FaultyStream`] does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// At most this many bytes pass in one call; 0 is no limit.
    pub chunk: usize,
    /// After so many bytes, [`Plan::then`] happens.
    pub after: Option<u64>,
    /// What happens after them.
    pub then: Fault,
}

/// What breaks a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// An error: connection reset.
    #[default]
    Reset,
    /// The end: reads return 0, writes fail with a broken pipe.
    End,
    /// Nothing passes any more, for ever.
    Stall,
    /// Bytes pass, but inverted.
    Garble,
}

impl Plan {
    /// Passes in pieces of this size.
    pub fn chunks(chunk: usize) -> Self {
        Self { chunk, ..Self::default() }
    }

    /// Breaks after `bytes`.
    pub fn fault(after: u64, then: Fault) -> Self {
        Self { after: Some(after), then, ..Self::default() }
    }
}

/// A stream whose directions go wrong as planned.
#[derive(Debug)]
pub struct FaultyStream<S> {
    inner: S,
    read: Progress,
    write: Progress,
}

#[derive(Debug)]
struct Progress {
    plan: Plan,
    passed: u64,
}

/// What may be done with the next call.
enum Turn {
    Pass(usize),
    Fault(Fault),
}

impl Progress {
    fn turn(&self, wanted: usize) -> Turn {
        let chunk = if self.plan.chunk == 0 { wanted } else { wanted.min(self.plan.chunk) };
        match self.plan.after {
            Some(after) if self.passed >= after => Turn::Fault(self.plan.then),
            Some(after) => Turn::Pass(chunk.min(usize::try_from(after - self.passed).unwrap_or(usize::MAX))),
            None => Turn::Pass(chunk),
        }
    }
}

impl<S> FaultyStream<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, read: Plan, write: Plan) -> Self {
        Self { inner, read: Progress { plan: read, passed: 0 }, write: Progress { plan: write, passed: 0 } }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FaultyStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (most, garble) = match this.read.turn(out.remaining()) {
            Turn::Pass(most) => (most, false),
            Turn::Fault(Fault::Garble) => (out.remaining(), true),
            Turn::Fault(Fault::Reset) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Turn::Fault(Fault::End) => return Poll::Ready(Ok(())),
            Turn::Fault(Fault::Stall) => return Poll::Pending,
        };
        let mut buffer = vec![0; most];
        let mut limited = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut limited))?;
        let got = limited.filled().len();
        if garble {
            buffer[..got].iter_mut().for_each(|byte| *byte = !*byte);
        }
        out.put_slice(&buffer[..got]);
        this.read.passed += got as u64;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FaultyStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match this.write.turn(bytes.len()) {
            Turn::Pass(most) => ready!(Pin::new(&mut this.inner).poll_write(cx, &bytes[..most]))?,
            Turn::Fault(Fault::Garble) => {
                let garbled: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
                ready!(Pin::new(&mut this.inner).poll_write(cx, &garbled))?
            }
            Turn::Fault(Fault::Reset) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Turn::Fault(Fault::End) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Turn::Fault(Fault::Stall) => return Poll::Pending,
        };
        this.write.passed += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::{Behaviour, Fault, FaultyListener, FaultyStream, Plan};
    use crate::raw;

    #[tokio::test]
    async fn each_behaviour_shows_on_the_wire() {
        let said = |behaviour| async {
            let listener = FaultyListener::start(behaviour).await.unwrap();
            raw::exchange(listener.addr(), b"hello").await
        };
        assert_eq!(said(Behaviour::Say(b"no".to_vec())).await.unwrap(), b"no");
        assert_eq!(said(Behaviour::Slow(b"abc".to_vec(), Duration::from_millis(1))).await.unwrap(), b"abc");
        assert_eq!(said(Behaviour::Garbage(100)).await.unwrap().len(), 100);
        assert_eq!(said(Behaviour::HalfClose).await.unwrap(), b"");
        assert!(said(Behaviour::Reset).await.is_err());
        assert!(said(Behaviour::ResetAfter(5)).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_listener_says_nothing() {
        let listener = FaultyListener::start(Behaviour::Silent).await.unwrap();
        let mut stream = TcpStream::connect(listener.addr()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        assert!(timeout(Duration::from_millis(50), stream.read(&mut [0; 1])).await.is_err());
        assert_eq!(listener.accepted(), 1);
    }

    #[tokio::test]
    async fn a_stream_breaks_after_its_bytes() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = FaultyStream::new(near, Plan::fault(3, Fault::End), Plan::fault(2, Fault::Reset));
        far.write_all(b"abcdef").await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"abc");
        assert!(stream.write_all(b"xyz").await.is_err());
        let mut passed = [0; 2];
        far.read_exact(&mut passed).await.unwrap();
        assert_eq!(&passed, b"xy");
    }

    #[tokio::test]
    async fn a_stream_passes_in_small_chunks() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = FaultyStream::new(near, Plan::chunks(1), Plan::default());
        far.write_all(b"abc").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 1);
    }
}
