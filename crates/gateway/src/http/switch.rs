//! Upgraded connections: bytes both ways until both have ended. What is cut off, by either side or by us, is a reset for
//! the other, as for any other connection: a last message without its end would pass for a whole one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HeaderMap;
use http::{Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use runtime::Io;
use runtime::guard::Guarded;
use runtime::splice::refuse;
use runtime::tls::TlsStream;
use runtime::upstream::UpstreamConnection;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::body::{AnswerBody, RequestBody};
use super::exchange::Flight;
use super::{Connection, Problem};
use crate::replay::Replay;

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
        let mut target = Target { io: target, told: false, flight: &flight };
        let Some(Ok(client)) = scope.until_cancelled(on_upgrade).await else { return };
        let mut client = Client { io: Some(TokioIo::new(client)), told: false };
        let carry = async {
            client.write_all(&first).await?;
            flight.sent(first.len());
            tokio::io::copy_bidirectional(&mut client, &mut target).await
        };
        // How either side leaves is its own business, and then the other's: either is dropped here, or with the task.
        let _ = scope.until_cancelled(carry).await;
    });
    let mut response = Response::new(AnswerBody::own(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    Ok(response)
}

/// What comes of a read, where TLS that was ended by TCP alone has ended: the other side would see no more of a plain
/// connection. A reset, or a stream behind a pod that broke off, stays a failure.
fn or_end(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(error)) if is_end_of_tcp(&error) => Poll::Ready(Ok(())),
        read => read,
    }
}

/// Whether it is what rustls says of an end of TCP before an end of TLS; others say UnexpectedEof of other things.
fn is_end_of_tcp(error: &io::Error) -> bool {
    let said = || error.get_ref().is_some_and(|inner| inner.to_string().contains("without sending TLS close_notify"));
    error.kind() == io::ErrorKind::UnexpectedEof && said()
}

/// The client's side.
struct Client {
    /// There until it is dropped.
    io: Option<TokioIo<Upgraded>>,
    /// The end of what the target says.
    told: bool,
}

impl Client {
    fn io(self: Pin<&mut Self>) -> Pin<&mut TokioIo<Upgraded>> {
        Pin::new(self.get_mut().io.as_mut().expect("it is taken by the drop alone"))
    }
}

impl Drop for Client {
    /// When it was not told an end it sees a reset, whether its task has ended or was aborted.
    fn drop(&mut self) {
        let Some(io) = self.io.take().filter(|_| !self.told) else { return };
        // Whatever it is, hyper has it in a box; these are what a door serves.
        match io.into_inner().downcast::<TokioIo<Guarded<TcpStream>>>() {
            Ok(plain) => refuse(plain.io.inner().get_ref()),
            Err(other) => {
                if let Ok(tls) = other.downcast::<TokioIo<Guarded<TlsStream<Replay>>>>() {
                    refuse(tls.io.inner().get_ref().get_ref().0.tcp());
                }
            }
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        or_end(self.io().poll_read(cx, buf))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.as_mut().io().poll_shutdown(cx);
        self.told |= matches!(shut, Poll::Ready(Ok(())));
        shut
    }
}

/// A target's side whose bytes are counted as they pass: such a connection may live for days.
struct Target<'a> {
    io: Io,
    /// The end of what the client says.
    told: bool,
    flight: &'a Flight,
}

impl Drop for Target<'_> {
    /// Whoever was not told an end sees a reset; streams that are no TCP connections have none when they are dropped.
    fn drop(&mut self) {
        if !self.told
            && let Some(tcp) = self.io.tcp()
        {
            refuse(tcp);
        }
    }
}

impl AsyncRead for Target<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = or_end(Pin::new(&mut self.io).poll_read(cx, buf));
        self.flight.sent(buf.filled().len() - before);
        result
    }
}

impl AsyncWrite for Target<'_> {
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
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.told |= matches!(shut, Poll::Ready(Ok(())));
        shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_behind_a_pod_that_broke_off_has_not_ended() {
        assert!(!is_end_of_tcp(&io::ErrorKind::UnexpectedEof.into()));
        assert!(!is_end_of_tcp(&io::ErrorKind::ConnectionReset.into()));
    }
}
