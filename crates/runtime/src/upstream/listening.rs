//! A stream on which an answer is still heard after the other side has stopped taking the request.
//!
//! A server may answer before it has read a request to its end, and close: what is written then fails, and hyper would
//! take that for the end of the exchange though the answer is there to be read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Io;

/// An [`Io`] whose writes fail in silence once the other side has taken some of a request.
pub(super) struct Listening {
    io: Io,
    /// Something was taken after what was read last: a failure is not that of a connection dead from the start, which a
    /// request may be sent on by another for.
    taken: bool,
    deaf: bool,
}

impl Listening {
    pub(super) fn new(io: Io) -> Self {
        Self { io, taken: false, deaf: false }
    }

    pub(super) fn into_inner(self) -> Io {
        self.io
    }

    fn settle(&mut self, result: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(n)) => {
                self.taken |= n > 0;
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) if self.taken && is_end(&error) => {
                // Reading tells what there is: the answer, or the same end.
                self.deaf = true;
                Poll::Ready(Ok(all))
            }
            result => result,
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.taken = false;
        }
        result
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.settle(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(all));
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.settle(result, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.settle(result.map_ok(|()| 0), 0).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
