//! One client connection: TLS, then HTTP/1.1 (with upgrades) or HTTP/2, as ALPN has it.

use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::gate::Gated;
use super::{Shared, api};

/// A client that connects and says nothing is let go after this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams at once on one HTTP/2 connection, as Go's server allows.
const STREAMS: u32 = 250;

/// Serves a connection until its end.
pub(super) async fn serve(shared: Arc<Shared>, io: Gated) {
    let Some(acceptor) = shared.auth.acceptor(shared.options.tls) else {
        return http1(shared, io, None).await;
    };
    let Ok(Ok(tls)) = timeout(HANDSHAKE, acceptor.accept(io)).await else { return };
    let session = tls.get_ref().1;
    // The verifier took only what the cluster's own authority signed, and that is one user.
    let user = session.peer_certificates().map(|_| shared.auth.user());
    if session.alpn_protocol() == Some(b"h2") {
        http2(shared, tls, user).await;
    } else {
        http1(shared, tls, user).await;
    }
}

async fn http1(
    shared: Arc<Shared>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    user: Option<&'static str>,
) {
    let service = service_fn(move |request| api::handle(Arc::clone(&shared), user, request));
    // How a connection ends is the client's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).with_upgrades().await;
}

async fn http2(
    shared: Arc<Shared>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    user: Option<&'static str>,
) {
    let held = Held(Arc::clone(&shared));
    let service = service_fn(move |request| api::handle(Arc::clone(&shared), user, request));
    let mut builder = http2::Builder::new(held);
    builder.max_concurrent_streams(STREAMS);
    // How a connection ends is the client's business.
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

/// Runs hyper's tasks among the cluster's, so that they end with it.
#[derive(Clone)]
struct Held(Arc<Shared>);

impl<F> Executor<F> for Held
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.hold(async {
            future.await;
        });
    }
}
