//! HTTP/2 to a service: one connection, shared by all requests for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::BoxError;
use crate::executor::ScopeExecutor;
use crate::{BoxFuture, ConnectError, Io, Scope};

/// Receive window of one answer: the service is near, so this is plenty.
const STREAM_WINDOW: u32 = 1 << 20;
/// Receive window of all answers together.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How long a service may take to say that it speaks HTTP/2.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A service that did not speak HTTP/2 is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A service with requests under way is asked so often whether it is still there, and has as long to answer.
const PING: Duration = Duration::from_secs(20);

/// The beginning of every HTTP/2 connection (RFC 9113 section 3.4), with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Opens the byte streams for a [`SharedConnection`].
pub trait Dial: Send + Sync {
    /// Opens one, with `h2` first among the protocols offered if it is TLS.
    fn dial(&self) -> BoxFuture<'_, Result<Io, ConnectError>>;

    /// The target as a user would write it.
    fn target(&self) -> String;

    /// How long all of it may take.
    fn patience(&self) -> Duration;

    /// Where the connection's task lives.
    fn scope(&self) -> &Scope;
}

/// The one HTTP/2 connection to a service.
pub struct SharedConnection<B> {
    state: Mutex<State<B>>,
    /// One attempt to connect at a time; the others wait for its result.
    connecting: Semaphore,
}

struct State<B> {
    sender: Option<SendRequest<B>>,
    /// When a request last asked for the connection.
    used: Instant,
    spoken: Option<(bool, Instant)>,
    /// Attempts to connect that failed, and how the last of them did.
    failures: u64,
    fault: Option<Arc<H2Fault>>,
}

impl<B> Default for SharedConnection<B> {
    fn default() -> Self {
        let state = State { sender: None, used: Instant::now(), spoken: None, failures: 0, fault: None };
        Self { state: Mutex::new(state), connecting: Semaphore::new(1) }
    }
}

/// Why there is no HTTP/2 connection.
#[derive(Debug, thiserror::Error)]
pub enum H2Fault {
    /// The service cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not speak HTTP/2.
    #[error("the service does not speak http/2")]
    NotSpoken,
    /// The connection failed.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
}

impl<B> SharedConnection<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// The connection as it is, or a new one; whether it was there already.
    ///
    /// # Errors
    /// [`H2Fault`], shared by all who waited for the same attempt.
    pub async fn sender(&self, by: &impl Dial) -> Result<(SendRequest<B>, bool), Arc<H2Fault>> {
        if let Some(sender) = self.living() {
            return Ok((sender, true));
        }
        let failures = self.lock().failures;
        let limit = by.patience();
        // Closed never: this is its only owner.
        let Ok(_turn) = tokio::time::timeout(limit, self.connecting.acquire()).await else {
            return Err(Arc::new(too_late(by)));
        };
        if let Some(sender) = self.living() {
            return Ok((sender, true));
        }
        if let Some(fault) = self.failed_since(failures) {
            // Those who waited share the failure, or each of them would wait for one of its own in turn.
            return Err(fault);
        }
        let made = tokio::time::timeout(limit, self.make(by)).await;
        let fault = match made.unwrap_or_else(|_| Err(too_late(by))) {
            Ok(sender) => return Ok((sender, false)),
            Err(fault) => Arc::new(fault),
        };
        let mut state = self.lock();
        if !matches!(*fault, H2Fault::Connect(_)) {
            // It may have been replaced by one that does not speak it: the next one asks again.
            state.spoken = None;
        }
        state.failures += 1;
        state.fault = Some(Arc::clone(&fault));
        Err(fault)
    }

    /// Makes a connection, for this request and the following ones.
    async fn make(&self, by: &impl Dial) -> Result<SendRequest<B>, H2Fault> {
        let io = by.dial().await?;
        if let Io::Tls(_) = io
            && io.alpn() != Some(b"h2")
        {
            return Err(H2Fault::NotSpoken);
        }
        let (sender, connection) = Builder::new(ScopeExecutor::new(by.scope().clone(), "upstream http/2 stream"))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .handshake(TokioIo::new(io))
            .await?;
        let target = by.target();
        by.scope().spawn("upstream http/2 connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%target, %error, "the http/2 connection to a service ended");
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

    /// A request failed on a new connection: in the clear a service that does not speak HTTP/2 shows it only then. The
    /// next one asks again.
    pub fn doubt(&self) {
        let mut state = self.lock();
        state.sender = None;
        state.spoken = None;
    }

    /// Lets go of a connection that no request has asked for since `keep` ago; requests under way finish on it. Whether
    /// there is none any more.
    pub fn sweep(&self, now: Instant, keep: Duration) -> bool {
        let mut state = self.lock();
        if now.saturating_duration_since(state.used) >= keep {
            state.sender = None;
        }
        state.sender.is_none()
    }

    /// The next request gets a new connection.
    pub fn forget(&self) {
        self.lock().sender = None;
    }

    /// Whether the service speaks HTTP/2 by prior knowledge, or by ALPN. Asked once, and now and then when
    /// it did not.
    pub async fn is_spoken(&self, by: &impl Dial) -> bool {
        if self.living().is_some() {
            return true;
        }
        match self.lock().spoken {
            Some((true, _)) => return true,
            Some((false, at)) if at.elapsed() < ASK_AGAIN => return false,
            Some(_) | None => {}
        }
        let Ok(io) = by.dial().await else {
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

    fn living(&self) -> Option<SendRequest<B>> {
        let mut state = self.lock();
        if state.sender.as_ref().is_some_and(SendRequest::is_closed) {
            state.sender = None;
        }
        state.used = Instant::now();
        state.sender.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_late(by: &impl Dial) -> H2Fault {
    H2Fault::Connect(ConnectError::Timeout { target: by.target(), after: by.patience() })
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
