//! Upgraded connections: bytes both ways until both have ended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HeaderMap;
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use runtime::Io;
use runtime::upstream::UpstreamConnection;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::body::{AnswerBody, RequestBody};
use super::exchange::Flight;
use super::{Connection, Problem};

/// Turns both sides into byte pipes once the client's has switched; the answer says that it may.
pub(crate) async fn switch(
    connection: &Arc<Connection>,
    upstream: UpstreamConnection<RequestBody>,
    headers: HeaderMap,
    on_upgrade: OnUpgrade,
    flight: Flight,
) -> Result<Response<AnswerBody>, Problem> {
    let gone = || Problem::NoAnswer { target: flight.upstream().target() };
    let (target, first) = upstream.into_upgraded().await.map_err(|_| gone())?.ok_or_else(gone)?;
    let scope = connection.scope.clone();
    connection.scope.spawn("upgraded", async move {
        let Some(Ok(client)) = scope.until_cancelled(on_upgrade).await else { return };
        let mut client = TokioIo::new(client);
        let mut target = Metered { io: target, flight: &flight };
        let carry = async {
            client.write_all(&first).await?;
            flight.sent(first.len());
            tokio::io::copy_bidirectional(&mut client, &mut target).await
        };
        // How either side leaves is its own business.
        let _ = scope.until_cancelled(carry).await;
    });
    let mut response = Response::new(AnswerBody::own(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    Ok(response)
}

/// A target's side whose bytes are counted as they pass: such a connection may live for days.
struct Metered<'a> {
    io: Io,
    flight: &'a Flight,
}

impl AsyncRead for Metered<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.flight.sent(buf.filled().len() - before);
        result
    }
}

impl AsyncWrite for Metered<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = result {
            self.flight.received(n as u64);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
