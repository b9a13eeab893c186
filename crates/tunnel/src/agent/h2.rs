//! HTTP/2 to a local service: one connection, shared by all requests of a tunnel.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::{Connect, ConnectError, Io, Scope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::body::RequestBody;
use super::local::Local;
use super::settings::LocalProtocol;

/// Receive window of one answer: the local service is near, so this is plenty.
const STREAM_WINDOW: u32 = 1 << 20;
/// Receive window of all answers together.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How long a service may take to say that it speaks HTTP/2.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A service that did not speak HTTP/2 is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The beginning of every HTTP/2 connection (RFC 9113 section 3.4), with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(super) type Sender = SendRequest<RequestBody>;

/// The HTTP/2 connection of one tunnel.
pub(super) struct SharedConnection {
    state: Mutex<State>,
    /// One attempt to connect at a time; the others wait for its result.
    connecting: Semaphore,
}

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    spoken: Option<(bool, Instant)>,
    /// Attempts to connect that failed, and how the last of them did.
    failures: u64,
    fault: Option<Arc<H2Fault>>,
}

impl Default for SharedConnection {
    fn default() -> Self {
        Self { state: Mutex::default(), connecting: Semaphore::new(1) }
    }
}

/// Why there is no HTTP/2 connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum H2Fault {
    /// The service cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not speak HTTP/2.
    #[error("the local service does not speak http/2")]
    NotSpoken,
    /// The connection failed.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
}

impl SharedConnection {
    /// The connection as it is, or a new one. `reused` tells which.
    pub(super) async fn sender(&self, local: &Local) -> Result<(Sender, bool), Arc<H2Fault>> {
        if let Some(sender) = self.living() {
            local.metrics.reused.inc();
            return Ok((sender, true));
        }
        let failures = self.lock().failures;
        let limit = local.tunnel.connect_timeout;
        // Closed never: this is its only owner.
        let Ok(_turn) = tokio::time::timeout(limit, self.connecting.acquire()).await else {
            return Err(Arc::new(too_late(local)));
        };
        if let Some(sender) = self.living() {
            return Ok((sender, true));
        }
        if let Some(fault) = self.failed_since(failures) {
            // Those who waited share the failure, or each of them would wait for one of its own in turn.
            return Err(fault);
        }
        let made = tokio::time::timeout(limit, self.make(local)).await;
        let fault = match made.unwrap_or_else(|_| Err(too_late(local))) {
            Ok(sender) => return Ok((sender, false)),
            Err(fault) => Arc::new(fault),
        };
        let mut state = self.lock();
        state.failures += 1;
        state.fault = Some(Arc::clone(&fault));
        Err(fault)
    }

    /// Makes a connection, for this request and the following ones.
    async fn make(&self, local: &Local) -> Result<Sender, H2Fault> {
        let io = local.connect(connector(local)).await?;
        if let Io::Tls(_) = io
            && io.alpn() != Some(b"h2")
        {
            return Err(H2Fault::NotSpoken);
        }
        let (sender, connection) = Builder::new(ScopeExecutor(local.scope.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(io))
            .await?;
        let name = Arc::clone(&local.name);
        local.scope.spawn("local http/2 connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(tunnel = %name, %error, "the http/2 connection to the local service ended");
            }
        });
        self.lock().sender = Some(sender.clone());
        Ok(sender)
    }

    /// How an attempt failed that was under way, or waited for, when there were so many failures.
    fn failed_since(&self, failures: u64) -> Option<Arc<H2Fault>> {
        let state = self.lock();
        if state.failures > failures { state.fault.clone() } else { None }
    }

    /// The next request gets a new connection.
    pub(super) fn forget(&self) {
        self.lock().sender = None;
    }

    /// Whether the service speaks HTTP/2 by prior knowledge, or by ALPN. Asked once, and now and then when
    /// it did not.
    pub(super) async fn is_spoken(&self, local: &Local) -> bool {
        if local.tunnel.protocol == LocalProtocol::H2c || self.living().is_some() {
            return true;
        }
        match self.lock().spoken {
            Some((true, _)) => return true,
            Some((false, at)) if at.elapsed() < ASK_AGAIN => return false,
            Some(_) | None => {}
        }
        let Ok(io) = local.connect(connector(local)).await else {
            // Nothing is known; the request itself will find out.
            return false;
        };
        let spoken = match &io {
            Io::Tls(_) => io.alpn() == Some(b"h2"),
            Io::Tcp(_) | Io::Buffered(_) | Io::Other(_) => {
                tokio::time::timeout(PROBE_TIMEOUT, answers_preface(io)).await.unwrap_or(false)
            }
        };
        self.lock().spoken = Some((spoken, Instant::now()));
        spoken
    }

    fn living(&self) -> Option<Sender> {
        let mut state = self.lock();
        if state.sender.as_ref().is_some_and(SendRequest::is_closed) {
            state.sender = None;
        }
        state.sender.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_late(local: &Local) -> H2Fault {
    H2Fault::Connect(ConnectError::Timeout { target: connector(local).describe(), after: local.tunnel.connect_timeout })
}

fn connector(local: &Local) -> &dyn Connect {
    &**local.tunnel.connect_h2.as_ref().unwrap_or(&local.tunnel.connect)
}

/// Whether the first thing the service says is a SETTINGS frame, as HTTP/2 demands.
async fn answers_preface(mut io: Io) -> bool {
    let mut head = [0; 9];
    if io.write_all(PREFACE).await.is_err() || io.read_exact(&mut head).await.is_err() {
        return false;
    }
    let [_, _, _, kind, _, stream @ ..] = head;
    kind == 4 && stream == [0; 4]
}

/// Lets hyper start its tasks in a scope.
#[derive(Clone)]
struct ScopeExecutor(Scope);

impl<F> hyper::rt::Executor<F> for ScopeExecutor
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("local http/2 stream", async move {
            future.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn spoken(answer: &'static [u8]) -> bool {
        let (near, mut far) = duplex(4096);
        let serve = async move {
            let mut preface = vec![0; PREFACE.len()];
            far.read_exact(&mut preface).await.unwrap();
            assert_eq!(preface, PREFACE);
            far.write_all(answer).await.unwrap();
        };
        tokio::join!(answers_preface(Io::other(near)), serve).0
    }

    #[tokio::test]
    async fn a_service_that_answers_with_settings_speaks_http2() {
        assert!(spoken(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64").await);
    }

    #[tokio::test]
    async fn a_service_that_answers_anything_else_does_not() {
        assert!(!spoken(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        assert!(!spoken(b"\0\0\x06\x07\0\0\0\0\0").await);
        assert!(!spoken(b"").await);
    }
}
