//! An h2c service that behaves like a gRPC server: it streams each request back and ends with trailers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::task::{self, Task};

/// The running service.
#[derive(Debug)]
pub struct GrpcOrigin {
    addr: SocketAddr,
    calls: Arc<AtomicU64>,
    _task: Task,
}

/// What a call returned.
#[derive(Clone, Debug, Default)]
pub struct GrpcAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The answer's headers.
    pub headers: HeaderMap,
    /// All data frames, one after the other.
    pub body: Vec<u8>,
    /// The trailers; empty when there were none.
    pub trailers: HeaderMap,
    /// Whether the head itself ended the answer, as gRPC wants it of an answer without a body.
    pub ended_with_head: bool,
}

impl GrpcOrigin {
    /// Starts it on a free port. Any path is served; `/fail` ends at once with `grpc-status: 5` in its
    /// trailers, `/refuse` with the same in its head and nothing else.
    pub async fn start() -> io::Result<Self> {
        let (listener, addr) = task::listen()?;
        let calls = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&calls);
        let task = task::spawn(task::serve(listener, move |stream, _| {
            let calls = Arc::clone(&shared);
            async move {
                let service = service_fn(move |request| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    std::future::ready(Ok::<_, Infallible>(answer(request)))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // How a client leaves is its own business.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        }));
        Ok(Self { addr, calls, _task: task })
    }

    /// Where it listens, without TLS.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Calls since the start.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// One call over HTTP/2 on `io`: POSTs `body`, returns the answer with its trailers.
pub async fn call<S>(io: S, authority: &str, path: &str, body: Bytes) -> io::Result<GrpcAnswer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
    let _connection = task::spawn(connection);
    let request = Request::post(format!("http://{authority}{path}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let ended_with_head = response.body().is_end_stream();
    let (head, body) = response.into_parts();
    let collected = body.collect().await.map_err(io::Error::other)?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(GrpcAnswer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: collected.to_bytes().to_vec(),
        trailers,
        ended_with_head,
    })
}

fn answer(request: Request<Incoming>) -> Response<EchoBody> {
    let path = request.uri().path().to_owned();
    let code = if path == "/fail" { "5" } else { "0" };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("grpc-message", HeaderValue::from_static("done"));
    let body = EchoBody { source: (code == "0").then(|| request.into_body()), trailers: Some(trailers) };
    let mut response = Response::new(body);
    if path == "/refuse" {
        *response.body_mut() = EchoBody { source: None, trailers: None };
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Ok(path) = HeaderValue::from_str(&path) {
        response.headers_mut().insert("x-path", path);
    }
    response
}

/// The request's data frames as they arrive, then trailers.
struct EchoBody {
    source: Option<Incoming>,
    trailers: Option<HeaderMap>,
}

impl Body for EchoBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn is_end_stream(&self) -> bool {
        self.source.is_none() && self.trailers.is_none()
    }

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        while let Some(source) = &mut self.source {
            match std::task::ready!(Pin::new(source).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.source = None,
            }
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::net::TcpStream;

    use super::{GrpcOrigin, call};
    use crate::noise;

    #[tokio::test]
    async fn a_call_comes_back_with_trailers() {
        let origin = GrpcOrigin::start().await.unwrap();
        let sent = noise::bytes(1, 300_000);
        let stream = TcpStream::connect(origin.addr()).await.unwrap();
        let answer = call(stream, "origin", "/echo.Echo/Stream", Bytes::from(sent.clone())).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body == sent);
        assert_eq!(answer.trailers["grpc-status"], "0");
        assert_eq!(answer.headers["x-path"], "/echo.Echo/Stream");
        assert_eq!(origin.calls(), 1);
    }

    #[tokio::test]
    async fn a_failing_call_has_its_code_in_the_trailers() {
        let origin = GrpcOrigin::start().await.unwrap();
        let stream = TcpStream::connect(origin.addr()).await.unwrap();
        let answer = call(stream, "origin", "/fail", Bytes::new()).await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "5");
    }
}
