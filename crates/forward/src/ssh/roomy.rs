//! The way to a server through another one, with room for what is sent.
//!
//! russh takes nothing from a server while it waits to send. Through a hop that may be for ever: what waits to be taken fills the stream
//! of the hop, the hop's connection then waits for its reader, and so takes no more of what is to be sent, nor hears that it may send.
//! So here what is sent is always taken, up to a bound, and goes on its way as soon as there is room. A task sees to that and not russh:
//! while a stream waits for its reader russh does nothing else, and the end of another one's upload would wait for that reader too.
//! How much may wait is for the windows of the server to say: each stream sends as much as the server has room for, 2 MiB with OpenSSH.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use runtime::Scope;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// So much may wait: of sixteen streams that send all they can.
const MOST: usize = 32 * 1024 * 1024;
/// What was needed once is kept up to this size.
const KEPT: usize = 256 * 1024;
/// The end waits for what is to go before it as long as something of it goes in such a time: it may be told because nothing goes any more.
const LAST: Duration = Duration::from_secs(1);

/// A stream that takes what is written at once.
pub(super) struct Roomy<S> {
    shared: Arc<Shared<S>>,
    scope: Scope,
    /// How long the end still waits, and how much had gone when that began.
    ending: Option<(Pin<Box<Sleep>>, u64)>,
}

struct Shared<S>(Mutex<State<S>>);

struct State<S> {
    /// `None` when nobody has the stream any more.
    inner: Option<S>,
    waiting: BytesMut,
    /// How much was sent by the task.
    gone: u64,
    /// Why no more goes.
    error: Option<io::ErrorKind>,
    /// The task that sends what waits is there.
    pumping: bool,
    pump: Option<Waker>,
    reader: Option<Waker>,
    /// Waits for room, or for all to be gone.
    writer: Option<Waker>,
}

impl<S> Shared<S> {
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    /// Sends what waits; ready when nothing does any more.
    fn poll_pump(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        let before = state.gone;
        let sent = state.poll_send(cx);
        if let Poll::Ready(Err(error)) = &sent {
            state.error = Some(error.kind());
            state.waiting = BytesMut::new();
        }
        state.pump = sent.is_pending().then(|| cx.waker().clone());
        state.pumping = sent.is_pending();
        let writer = if sent.is_ready() || state.gone != before { state.writer.take() } else { None };
        let reader = if state.error.is_some() { state.reader.take() } else { None };
        drop(state);
        writer.into_iter().chain(reader).for_each(Waker::wake);
        sent.map(drop)
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(Ok(())) };
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut *inner).poll_write(cx, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => {
                    self.waiting.advance(sent);
                    self.gone += sent as u64;
                }
            }
            if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
                self.waiting = BytesMut::new();
            }
        }
        Pin::new(inner).poll_flush(cx)
    }

    /// The stream, unless it is known to take nothing any more.
    fn inner(&mut self) -> io::Result<Pin<&mut S>> {
        match (self.error, &mut self.inner) {
            (None, Some(inner)) => Ok(Pin::new(inner)),
            (error, _) => Err(error.unwrap_or(io::ErrorKind::BrokenPipe).into()),
        }
    }
}

impl<S> Roomy<S> {
    pub(super) fn new(scope: &Scope, inner: S) -> Self {
        let state = State {
            inner: Some(inner),
            waiting: BytesMut::new(),
            gone: 0,
            error: None,
            pumping: false,
            pump: None,
            reader: None,
            writer: None,
        };
        Self { shared: Arc::new(Shared(Mutex::new(state))), scope: scope.clone(), ending: None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Roomy<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state();
        let read = state.inner()?.poll_read(cx, buf);
        state.reader = read.is_pending().then(|| cx.waker().clone());
        read
    }
}

impl<S: AsyncWrite + Send + Unpin + 'static> AsyncWrite for Roomy<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.state();
        let is_pumping = state.pumping;
        let inner = state.inner()?;
        if !is_pumping {
            // Nothing waits: it may go without being copied. If not, it is the task that is told when it may.
            if let Poll::Ready(written) = inner.poll_write(&mut Context::from_waker(Waker::noop()), buf) {
                return Poll::Ready(written);
            }
        }
        let room = MOST - state.waiting.len();
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = buf.len().min(room);
        state.waiting.extend_from_slice(&buf[..taken]);
        let begins = !std::mem::replace(&mut state.pumping, true);
        drop(state);
        if begins {
            let shared = Arc::clone(&self.shared);
            self.scope.spawn("way through an ssh server", async move {
                std::future::poll_fn(|cx| shared.poll_pump(cx)).await;
            });
        }
        Poll::Ready(Ok(taken))
    }

    /// What waits is on its way: whoever would wait for it here would not read meanwhile.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state();
        if state.pumping {
            return Poll::Ready(Ok(()));
        }
        let flushed = state.inner()?.poll_flush(cx);
        if flushed.is_pending() { Poll::Ready(Ok(())) } else { flushed }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = this.shared.state();
        while state.pumping {
            state.writer = Some(cx.waker().clone());
            let gone = state.gone;
            let begin = || (Box::pin(tokio::time::sleep(LAST)), gone);
            let (last, before) = this.ending.get_or_insert_with(begin);
            ready!(last.as_mut().poll(cx));
            if *before == gone {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.ending = Some(begin());
        }
        state.inner()?.poll_shutdown(cx)
    }
}

impl<S> Drop for Roomy<S> {
    fn drop(&mut self) {
        let (inner, pump) = {
            let mut state = self.shared.state();
            (state.inner.take(), state.pump.take())
        };
        drop(inner);
        if let Some(pump) = pump {
            pump.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_waits_for_no_room_and_goes_on_while_something_is_read() {
        let (near, far) = tokio::io::duplex(1024);
        let mut near = Roomy::new(&Scope::root(), near);
        let all: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        near.write_all(&all).await.unwrap();
        near.flush().await.unwrap();
        let (mut got, (mut read, mut write)) = (vec![0; all.len()], tokio::io::split(far));
        let (reading, come) = (near.read_u8(), read.read_exact(&mut got));
        let answering = async {
            come.await.unwrap();
            write.write_all(b"!").await.unwrap();
        };
        let (answer, ()) = tokio::join!(reading, answering);
        assert_eq!((answer.unwrap(), got == all), (b'!', true));
    }

    #[tokio::test]
    async fn the_end_comes_after_all_that_waits_and_more_than_the_most_does_not() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut near = Roomy::new(&Scope::root(), near);
        let piece = vec![7; 1024 * 1024];
        let mut taken = 0;
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(50), near.write_all(&piece)).await {
            taken += piece.len();
        }
        assert_eq!(taken, MOST, "and the last piece in part");
        let (mut got, ended) = (Vec::new(), near.shutdown());
        let (ended, read) = tokio::join!(ended, async {
            let mut piece = vec![0; 64 * 1024];
            while got.len() < MOST {
                let read = far.read(&mut piece).await?;
                if read == 0 {
                    break;
                }
                got.extend_from_slice(&piece[..read]);
            }
            far.read_to_end(&mut got).await
        });
        ended.unwrap();
        read.unwrap();
        assert!(got.len() >= MOST);
    }

    #[tokio::test]
    async fn a_stream_that_is_gone_is_told() {
        let (near, far) = tokio::io::duplex(16);
        let mut near = Roomy::new(&Scope::root(), near);
        near.write_all(&[7; 100]).await.unwrap();
        drop(far);
        assert!(near.read_u8().await.is_err());
        let told = async {
            // As soon as the task has seen it.
            while near.write_all(&[7; 100]).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
    }

    #[tokio::test]
    async fn what_waits_goes_on_though_nobody_looks_at_the_stream() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut near = Roomy::new(&Scope::root(), near);
        let all = vec![7; 1_000_000];
        near.write_all(&all).await.unwrap();
        let mut got = vec![0; all.len()];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, all);
        // And then as at the begin.
        near.write_all(b"!").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'!');
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_long_where_nothing_goes() {
        let (near, _far) = tokio::io::duplex(1024);
        let scope = Scope::root();
        let mut near = Roomy::new(&scope, near);
        near.write_all(&[7; 5000]).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(near.shutdown().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < 2 * LAST, "{:?}", begun.elapsed());
        // Nothing is left of it.
        drop(near);
        scope.idle().await;
    }
}
