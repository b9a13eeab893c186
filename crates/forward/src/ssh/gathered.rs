//! Small messages that go out together.
//!
//! Clients often leave one connection and make the next in the same moment. Sent one by one, the question for the second stream and
//! the end of the first wake the server twice, and its answer waits for both. So what is written stays here until whatever else can
//! run has run. Nobody waits for that: it is no time, but a place in the queue of the runtime.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is as large as this is not copied.
const LARGE: usize = 4096;

/// So much is kept at most.
const MOST: usize = 16 * 1024;

/// So often others are let go first. Once is not enough: russh looks in any order at what it has to send and at what it may
/// read, and is here before it has seen what others have left for it.
const TURNS: u8 = 2;

/// A way whose small writes are kept until it is read from, as russh always does next, and nothing else is left to run.
pub(crate) struct Gathered<S> {
    inner: S,
    kept: Vec<u8>,
    sent: usize,
    turns: u8,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(crate) const fn new(inner: S) -> Self {
        Self { inner, kept: Vec::new(), sent: 0, turns: 0 }
    }

    /// Sends what is kept.
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.kept[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.kept.clear();
        (self.sent, self.turns) = (0, 0);
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Whether others are to be let go first.
    fn gives_way(&mut self, cx: &Context<'_>) -> bool {
        if self.kept.is_empty() || self.turns >= TURNS {
            return false;
        }
        self.turns += 1;
        // Whoever wakes itself comes behind all that is ready.
        cx.waker().wake_by_ref();
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.gives_way(cx) {
            return Poll::Pending;
        }
        // Whoever has read may wait for long: nothing is left behind before that.
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let fits = buf.len() < LARGE && self.kept.len() + buf.len() <= MOST && self.sent == 0;
        if !fits {
            ready!(self.poll_kept(cx))?;
            if buf.len() >= LARGE {
                return Pin::new(&mut self.inner).poll_write(cx, buf);
            }
        }
        if !self.kept.is_empty() && self.turns > 0 {
            // What others had left has come.
            self.turns = TURNS;
        }
        self.kept.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.is_empty() { Pin::new(&mut self.inner).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// Counts the writes that go through.
    struct Counted {
        inner: DuplexStream,
        writes: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            Pin::new(&mut self.inner).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }

    fn pair(room: usize) -> (Gathered<Counted>, DuplexStream) {
        let (near, far) = tokio::io::duplex(room);
        (Gathered::new(Counted { inner: near, writes: 0 }), far)
    }

    #[tokio::test]
    async fn small_writes_go_out_together_when_others_have_run() {
        let (mut way, mut server) = pair(64 * 1024);
        let (say, mut said) = tokio::sync::mpsc::channel(4);
        way.write_all(b"open").await.unwrap();
        way.flush().await.unwrap();
        // What another task has to say in the same moment.
        let other = async { say.send(b"end").await.unwrap() };
        let session = async {
            let mut answer = [0; 2];
            loop {
                tokio::select! {
                    biased;
                    read = way.read_exact(&mut answer) => break read.map(|_| answer),
                    Some(more) = said.recv() => {
                        way.write_all(more).await.unwrap();
                        way.flush().await.unwrap();
                    }
                }
            }
        };
        let answering = async {
            let mut asked = [0; 7];
            server.read_exact(&mut asked).await.unwrap();
            server.write_all(b"ok").await.unwrap();
            asked
        };
        let (answer, (), asked) = tokio::join!(session, other, answering);
        assert_eq!((answer.unwrap(), asked), (*b"ok", *b"openend"));
        assert_eq!(way.inner.writes, 1);
    }

    #[tokio::test]
    async fn bytes_of_any_length_come_in_order_and_all_of_them() {
        let (mut way, mut server) = pair(10_000);
        let lengths = [1, 4095, 4096, 3, 20_000, 4000, 4000, 4000, 4000, 4000, 7];
        let all: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let writing = async {
            let mut rest = all.as_slice();
            for length in lengths {
                let (now, later) = rest.split_at(length);
                way.write_all(now).await.unwrap();
                way.flush().await.unwrap();
                rest = later;
            }
            way.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(server.read_to_end(&mut got), writing);
        assert_eq!((read.unwrap(), got == all), (all.len(), true));
    }

    #[tokio::test]
    async fn nothing_is_read_before_what_is_kept_has_gone_out() {
        let (mut way, mut server) = pair(4);
        way.write_all(b"more than it has room for").await.unwrap();
        server.write_all(b"said").await.unwrap();
        let mut said = [0; 4];
        let reading = tokio::time::timeout(std::time::Duration::from_millis(100), way.read_exact(&mut said)).await;
        assert!(reading.is_err(), "the server has not taken it");
        let mut got = [0; 25];
        let (read, taken) = tokio::join!(way.read_exact(&mut said), server.read_exact(&mut got));
        assert_eq!((read.unwrap(), &said, taken.unwrap()), (4, b"said", 25));
        assert_eq!(&got, b"more than it has room for");
    }

    #[tokio::test]
    async fn a_way_that_is_gone_is_told_to_whoever_reads() {
        let (mut way, server) = pair(64);
        drop(server);
        way.write_all(b"nobody").await.unwrap();
        assert_eq!(way.read_u8().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
