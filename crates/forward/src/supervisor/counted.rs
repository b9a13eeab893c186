//! Streams that are counted while they live.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use adit_core::forward::ForwardInput;
use runtime::connect::Io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;

/// One live stream, told to the machine at its begin and end.
pub(super) struct Counted {
    shared: Arc<Shared>,
}

impl Counted {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        shared.tell(ForwardInput::StreamOpened);
        Self { shared: Arc::clone(shared) }
    }

    /// The stream whose end is to be told.
    pub(super) fn carry(self, io: Io) -> Io {
        Io::other(CountedIo { io, _count: self })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.tell(ForwardInput::StreamEnded);
    }
}

struct CountedIo {
    io: Io,
    _count: Counted,
}

impl AsyncRead for CountedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
