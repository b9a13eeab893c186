//! The way to a server through another one, with room for what is sent.
//!
//! russh takes nothing from a server while it waits to send. Through a hop that may be for ever: what waits to be taken fills the stream
//! of the hop, the hop's connection then waits for its reader, and so takes no more of what is to be sent, nor hears that it may send.
//! So here what is sent is always taken, up to a bound, and goes on its way whenever there is something to be read or room to write.
//! How much may wait is for the windows of the server to say: each stream sends as much as the server has room for, 2 MiB with OpenSSH.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much may wait: of sixteen streams that send all they can.
const MOST: usize = 32 * 1024 * 1024;
/// What was needed once is kept up to this size.
const KEPT: usize = 256 * 1024;

/// A stream that takes what is written at once.
pub(super) struct Roomy<S> {
    inner: S,
    waiting: BytesMut,
}

impl<S> Roomy<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, waiting: BytesMut::new() }
    }
}

impl<S: AsyncWrite + Unpin> Roomy<S> {
    /// Sends what waits, as far as there is room for it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.waiting.advance(sent),
            }
            if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
                self.waiting = BytesMut::new();
            }
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Roomy<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.waiting.is_empty() {
            let sent = self.poll_send(cx);
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error));
            }
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Roomy<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(sent) = self.poll_send(cx) {
            sent?;
            // Nothing waits: it may go without being copied.
            if let Poll::Ready(written) = Pin::new(&mut self.inner).poll_write(cx, buf) {
                return Poll::Ready(written);
            }
        }
        let room = MOST - self.waiting.len();
        if room == 0 {
            return Poll::Pending;
        }
        let taken = buf.len().min(room);
        self.waiting.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    /// What waits is on its way: whoever would wait for it here would not read meanwhile.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_send(cx) {
            Poll::Pending => Poll::Ready(Ok(())),
            sent => sent,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_waits_for_no_room_and_goes_on_while_something_is_read() {
        let (near, far) = tokio::io::duplex(1024);
        let mut near = Roomy::new(near);
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
        let mut near = Roomy::new(near);
        let piece = vec![7; 1024 * 1024];
        let mut taken = 0;
        while let Ok(Ok(())) = tokio::time::timeout(std::time::Duration::from_millis(50), near.write_all(&piece)).await
        {
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
        let mut near = Roomy::new(near);
        near.write_all(&[7; 100]).await.unwrap();
        drop(far);
        assert!(near.read_u8().await.is_err());
        assert!(near.write_all(&[7; 100]).await.is_err());
    }
}
