//! A gRPC server with a health service and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::task::{self, Task};

/// The running service.
#[derive(Debug)]
pub struct GrpcHealth {
    addr: SocketAddr,
    _task: Task,
}

impl GrpcHealth {
    /// Starts it on a free port. `known` are services with their status: 1 is serving. Without any there is no health
    /// service.
    pub async fn start(known: &'static [(&'static str, u8)]) -> io::Result<Self> {
        let (listener, addr) = task::listen()?;
        let task = task::spawn(task::serve(listener, move |stream, _| async move {
            let service = service_fn(move |request| answer(request, known));
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // How a client leaves is its own business.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }));
        Ok(Self { addr, _task: task })
    }

    /// Where it listens, without TLS.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

type Answer = Response<std::pin::Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>>;

async fn answer(request: Request<Incoming>, known: &[(&str, u8)]) -> Result<Answer, Infallible> {
    let is_check = request.uri().path() == "/grpc.health.v1.Health/Check" && !known.is_empty();
    let body = request.into_body().collect().await.map(|all| all.to_bytes()).unwrap_or_default();
    // The prefix, then field 1 with its length.
    let service = String::from_utf8_lossy(body.get(7..).unwrap_or_default()).into_owned();
    let status = known.iter().find(|(name, _)| *name == service).map(|(_, status)| *status);
    let (code, message) = match status {
        _ if !is_check => ("12", Bytes::new()),
        None => ("5", Bytes::new()),
        Some(status) => ("0", Bytes::from(vec![0, 0, 0, 0, 2, 8, status])),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    let body: std::pin::Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>> = Box::pin(body);
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
