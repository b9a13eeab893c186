//! Streams that are counted while they live.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use adit_core::forward::ForwardInput;
use runtime::connect::Io;
use runtime::listener::ConnectionPermit;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use super::limited::Limited;

/// One live stream, told to the machine at its begin and end.
pub(super) struct Counted {
    shared: Arc<Shared>,
    /// Of those that there are, when it has a limit.
    _place: Option<ConnectionPermit>,
}

impl Counted {
    pub(super) fn begin(shared: &Arc<Shared>, place: Option<ConnectionPermit>) -> Self {
        shared.tell(ForwardInput::StreamOpened);
        Self { shared: Arc::clone(shared), _place: place }
    }

    /// The stream whose end is to be told.
    pub(super) fn carry(self, io: Io) -> Io {
        if let Some(rate) = self.shared.rate.clone() {
            return match io {
                Io::Buffered(io) => Io::buffered(CountedIo { io: Limited::new(io, &rate), _count: self }),
                // As below.
                io => Io::over(Limited::new(io, &rate)).with(self),
            };
        }
        match io {
            Io::Buffered(io) => Io::buffered(CountedIo { io, _count: self }),
            // Whoever cuts it can make its end a reset, and the kernel can carry it.
            io => io.with(self),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.tell(ForwardInput::StreamEnded);
    }
}

struct CountedIo<T> {
    io: T,
    _count: Counted,
}

impl<T: AsyncRead + Unpin> AsyncRead for CountedIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncBufRead + Unpin> AsyncBufRead for CountedIo<T> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().io).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.io).consume(amount);
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CountedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
