//! How the client of an API server gets its connections, and how it is known that the server says something on them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use runtime::connect::{ConnectError, Io};

use crate::k8s::dial::Dialer;

/// Makes connections for hyper's pool.
#[derive(Clone)]
pub(super) struct ApiConnector {
    pub(super) dialer: Dialer,
    /// Counts what is read from them.
    pub(super) heard: Arc<AtomicU64>,
}

impl tower::Service<Uri> for ApiConnector {
    type Response = ApiIo;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<ApiIo, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dialer, heard } = self.clone();
        Box::pin(async move {
            let io = dialer.io().await?;
            // That it was taken is a sign of life too.
            heard.fetch_add(1, Ordering::Relaxed);
            Ok(ApiIo { io: TokioIo::new(io), heard })
        })
    }
}

/// A connection as hyper's pool wants it.
pub(super) struct ApiIo {
    io: TokioIo<Io>,
    heard: Arc<AtomicU64>,
}

impl Connection for ApiIo {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.io.inner().alpn() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl hyper::rt::Read for ApiIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl hyper::rt::Write for ApiIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
