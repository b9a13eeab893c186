//! One stream to a host behind an SSH server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::flow::Flow;
use super::link::{LinkShared, close_in};

/// A byte stream. Reading takes what arrived without copying it.
pub(crate) struct SshStream {
    write: Box<dyn AsyncWrite + Send + Unpin>,
    /// For closing.
    half: Option<ChannelWriteHalf<Msg>>,
    flow: Arc<Flow>,
    shared: Arc<LinkShared>,
    chunk: Bytes,
    ended: bool,
    /// The server was told the end of our direction.
    told: bool,
}

impl SshStream {
    pub(crate) fn new(channel: Channel<Msg>, flow: Arc<Flow>, shared: Arc<LinkShared>) -> Self {
        let (read, half) = channel.split();
        let write = Box::new(half.make_writer());
        flow.hold(read);
        Self { write, half: Some(half), flow, shared, chunk: Bytes::new(), ended: false, told: false }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() && !self.ended {
            let message = ready!(self.flow.poll_message(cx));
            if let Some(error) = self.flow.cut_error() {
                return Poll::Ready(Err(error));
            }
            match message {
                Some(ChannelMsg::Data { data }) => self.chunk = data,
                Some(ChannelMsg::Eof) => self.ended = true,
                // Without an end before it: the other side gave up.
                Some(ChannelMsg::Close) | None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(_) => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for SshStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_chunk(cx))?;
        Poll::Ready(Ok(&this.chunk))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        let amount = amount.min(self.chunk.len());
        self.chunk.advance(amount);
        if amount > 0 {
            self.flow.taken(amount);
        }
    }
}

impl AsyncRead for SshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..n]);
        self.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.flow.cut_error() {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(written) = Pin::new(&mut self.write).poll_write(cx, buf) {
            return Poll::Ready(written);
        }
        // Remembered first: an end after the look wakes us.
        self.flow.wait_to_write(cx.waker());
        if let Some(error) = self.flow.cut_error() {
            return Poll::Ready(Err(error));
        }
        if self.shared.has_ended() { Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) } else { Poll::Pending }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.write).poll_shutdown(cx))?;
        self.told = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for SshStream {
    fn drop(&mut self) {
        self.flow.close();
        let Some(half) = self.half.take() else { return };
        let shared = Arc::clone(&self.shared);
        if self.flow.is_over() || shared.has_ended() {
            return shared.forget(half.id());
        }
        if self.told {
            return shared.leave(half);
        }
        let scope = shared.scope().clone();
        let mut closing = Box::pin(async move { shared.close(half).await });
        // There is room for it, most times; then no task is needed.
        if closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            close_in(&scope, closing);
        }
    }
}
