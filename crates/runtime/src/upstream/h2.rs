//! HTTP/2 to a service: one connection, shared by all requests for it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::{BoxError, IDLE};
use crate::executor::ScopeExecutor;
use crate::{BoxFuture, ConnectError, Io, Scope};

/// Receive window of one answer: the service is near, so this is plenty.
const STREAM_WINDOW: u32 = 1 << 20;
/// Receive window of all answers together.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How long a service may take to say that it speaks HTTP/2.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// While requests run, a service that has said nothing for so long is asked whether it is still there, and has as
/// long to say so.
const PING: Duration = Duration::from_secs(20);
/// A service that did not speak HTTP/2 is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

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
    state: Arc<Mutex<State<B>>>,
    /// One attempt to connect at a time; the others wait for its result.
    connecting: Semaphore,
    /// One question whether HTTP/2 is spoken at a time; likewise.
    asking: Semaphore,
    keep: Duration,
}

struct State<B> {
    shared: Option<Shared<B>>,
    /// Whether HTTP/2 is spoken, and when that was found out.
    spoken: Option<(bool, Instant)>,
    /// Questions that were answered, or could not be asked.
    asked: u64,
    /// Attempts to connect that failed, and how the last of them did.
    failures: u64,
    fault: Option<Arc<H2Fault>>,
}

impl<B> State<B> {
    /// Whether the connection in use is the one that is used so.
    fn is_by(&self, uses: &Arc<Uses>) -> bool {
        self.shared.as_ref().is_some_and(|shared| Arc::ptr_eq(&shared.uses, uses))
    }
}

impl<B> Default for SharedConnection<B> {
    fn default() -> Self {
        Self::keeping(IDLE)
    }
}

impl<B> SharedConnection<B> {
    /// A connection that ends when no request has run on it for so long, at most [`IDLE`].
    #[must_use]
    pub fn keeping(keep: Duration) -> Self {
        let state = State { shared: None, spoken: None, asked: 0, failures: 0, fault: None };
        Self {
            state: Arc::new(Mutex::new(state)),
            connecting: Semaphore::new(1),
            asking: Semaphore::new(1),
            keep: keep.min(IDLE),
        }
    }
}

/// The living connection, and who uses it.
struct Shared<B> {
    sender: SendRequest<B>,
    uses: Arc<Uses>,
}

impl<B> Shared<B> {
    fn hand_out(&self) -> SharedSender<B> {
        self.uses.lock().running += 1;
        SharedSender { sender: self.sender.clone(), uses: Arc::clone(&self.uses) }
    }
}

/// How much a connection is used.
struct Uses {
    now: Mutex<Use>,
    /// The last request that ran has ended.
    quiet: Notify,
}

struct Use {
    running: u64,
    since: Instant,
}

impl Uses {
    fn new() -> Arc<Self> {
        Arc::new(Self { now: Mutex::new(Use { running: 0, since: Instant::now() }), quiet: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        // Nothing in there can fail half-way.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when no request has run; `None` while one does.
    fn quiet_since(&self) -> Option<Instant> {
        let now = self.lock();
        (now.running == 0).then_some(now.since)
    }
}

/// A sender on the shared connection. Hold it until the answer has been read to its end: meanwhile the connection does
/// not count as idle.
pub struct SharedSender<B> {
    sender: SendRequest<B>,
    uses: Arc<Uses>,
}

impl<B> Deref for SharedSender<B> {
    type Target = SendRequest<B>;

    fn deref(&self) -> &Self::Target {
        &self.sender
    }
}

impl<B> DerefMut for SharedSender<B> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.sender
    }
}

impl<B> Drop for SharedSender<B> {
    fn drop(&mut self) {
        let mut now = self.uses.lock();
        now.running -= 1;
        if now.running == 0 {
            now.since = Instant::now();
            self.uses.quiet.notify_one();
        }
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
    pub async fn sender(&self, by: &impl Dial) -> Result<(SharedSender<B>, bool), Arc<H2Fault>> {
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
        state.failures += 1;
        if !matches!(*fault, H2Fault::Connect(_)) {
            // It may have been replaced by one that does not speak it: the next one asks again.
            state.spoken = None;
        }
        state.fault = Some(Arc::clone(&fault));
        Err(fault)
    }

    /// Makes a connection, for this request and the following ones.
    async fn make(&self, by: &impl Dial) -> Result<SharedSender<B>, H2Fault> {
        let io = by.dial().await?;
        if let Io::Tls(_) = io
            && io.alpn() != Some(b"h2")
        {
            return Err(H2Fault::NotSpoken);
        }
        let (sender, connection) = Builder::new(ScopeExecutor::new(by.scope().clone(), "upstream http/2 stream"))
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(io))
            .await?;
        let (target, uses) = (by.target(), Uses::new());
        let idle = Idle {
            state: Arc::downgrade(&self.state),
            uses: Arc::clone(&uses),
            keep: self.keep,
            scope: by.scope().clone(),
        };
        let shared = Shared { sender, uses };
        let handed_out = shared.hand_out();
        self.lock().shared = Some(shared);
        by.scope().spawn("upstream http/2 connection", async move {
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                biased;
                result = &mut connection => {
                    idle.ended_of_itself();
                    result
                }
                // Without a sender it ends.
                () = idle.give_up() => connection.await,
            };
            if let Err(error) = result {
                tracing::debug!(%target, %error, "the http/2 connection to a service ended");
            }
        });
        Ok(handed_out)
    }

    /// How an attempt failed that was under way, or waited for, when there were so many failures.
    fn failed_since(&self, failures: u64) -> Option<Arc<H2Fault>> {
        let state = self.lock();
        if state.failures > failures { state.fault.clone() } else { None }
    }

    /// A request failed by this sender: the next one gets a new connection, unless the stream alone is over.
    pub fn forget(&self, sender: &SharedSender<B>, error: &hyper::Error) {
        self.give_up(sender, error, |state| state.shared = None);
    }

    /// A request failed on a new connection: in the clear a service that does not speak HTTP/2 shows it only then. The
    /// next one asks again, unless the stream alone is over.
    pub fn doubt(&self, sender: &SharedSender<B>, error: &hyper::Error) {
        self.give_up(sender, error, |state| (state.shared, state.spoken) = (None, None));
    }

    /// Another request may have replaced the connection meanwhile: then that one stays.
    fn give_up(&self, sender: &SharedSender<B>, error: &hyper::Error, change: impl FnOnce(&mut State<B>)) {
        if is_of_stream(error) {
            return;
        }
        let mut state = self.lock();
        if state.is_by(&sender.uses) {
            change(&mut state);
        }
    }

    /// Whether the service speaks HTTP/2 by prior knowledge, or by ALPN. Asked once, again after a connection has
    /// failed, and now and then when it did not.
    pub async fn is_spoken(&self, by: &impl Dial) -> bool {
        if self.living().is_some() {
            return true;
        }
        let (known, asked) = self.known();
        if let Some(known) = known {
            return known;
        }
        // Closed never: this is its only owner.
        let Ok(_turn) = tokio::time::timeout(by.patience(), self.asking.acquire()).await else {
            return false;
        };
        let (known, asked_now) = self.known();
        if asked_now > asked || known.is_some() {
            // Those who waited share what was found out, and that nothing was: each of them would wait for an
            // attempt of its own in turn.
            return known.unwrap_or(false);
        }
        let spoken = ask(by).await;
        let mut state = self.lock();
        state.asked += 1;
        state.spoken = spoken.map(|spoken| (spoken, Instant::now()));
        // When nothing is known, the request itself will find out.
        spoken.unwrap_or(false)
    }

    /// Whether HTTP/2 is spoken as far as is known, and how often that was asked.
    fn known(&self) -> (Option<bool>, u64) {
        let state = self.lock();
        let known = state.spoken.filter(|(spoken, at)| *spoken || at.elapsed() < ASK_AGAIN);
        (known.map(|(spoken, _)| spoken), state.asked)
    }

    fn living(&self) -> Option<SharedSender<B>> {
        let mut state = self.lock();
        if state.shared.as_ref().is_some_and(|shared| shared.sender.is_closed()) {
            (state.shared, state.spoken) = (None, None);
        }
        state.shared.as_ref().map(Shared::hand_out)
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the service said that it has not acted on a request (RFC 9113 section 8.7): it refused the stream, or left
/// and named an earlier one as its last. Such a request can be sent once more, whatever it does.
#[must_use]
pub fn is_unprocessed(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // Streams that it still answers fail otherwise: with the connection.
        error.is_remote() && (refused || error.is_go_away())
    })
}

/// Whether a request's stream failed and its connection did not.
#[must_use]
pub fn is_of_stream(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(h2::Error::is_reset)
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref() {
            return Some(h2);
        }
        source = cause.source();
    }
    None
}

/// Lets a connection go that nobody uses: it holds its target awake.
struct Idle<B> {
    /// Whoever keeps the sender would else be kept by the connection it keeps.
    state: Weak<Mutex<State<B>>>,
    uses: Arc<Uses>,
    keep: Duration,
    scope: Scope,
}

impl<B> Idle<B> {
    /// Returns once no request has run for long enough, or at all when the scope drains; the next gets a new connection.
    async fn give_up(&self) {
        loop {
            let Some(since) = self.uses.quiet_since() else {
                self.uses.quiet.notified().await;
                continue;
            };
            if !self.scope.is_draining() {
                tokio::select! {
                    biased;
                    () = self.scope.drained() => {}
                    () = tokio::time::sleep_until(since + self.keep) => {}
                }
            }
            if self.try_give_up() {
                return;
            }
        }
    }

    fn try_give_up(&self) -> bool {
        self.of_state(|state| {
            // Nobody gets a sender while the state is locked.
            let over = self.uses.quiet_since().is_some_and(|since| since.elapsed() >= self.keep);
            let over = over || (self.scope.is_draining() && self.uses.quiet_since().is_some());
            if over {
                state.shared = None;
            }
            over
        })
        .unwrap_or(true)
    }

    /// The service ended it, or broke it: perhaps another has taken its place, which speaks something else.
    fn ended_of_itself(&self) {
        self.of_state(|state| (state.shared, state.spoken) = (None, None));
    }

    /// Changes the state, if this connection is still the one in use.
    fn of_state<T>(&self, change: impl FnOnce(&mut State<B>) -> T) -> Option<T> {
        let state = self.state.upgrade()?;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_by(&self.uses).then(|| change(&mut state))
    }
}

/// Whether a service speaks HTTP/2; `None` when it cannot be reached.
async fn ask(by: &impl Dial) -> Option<bool> {
    let io = by.dial().await.ok()?;
    Some(match &io {
        Io::Tls(_) => io.alpn() == Some(b"h2"),
        Io::Tcp(_) | Io::Buffered(_) | Io::Other(_) | Io::With(..) | Io::Over(_) => {
            tokio::time::timeout(PROBE_TIMEOUT, answers_preface(io)).await.unwrap_or(false)
        }
    })
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
    use http_body_util::Empty;
    use tokio::io::{DuplexStream, duplex};

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

    /// Leads to whoever holds the other ends.
    struct Place {
        scope: Scope,
        ends: Mutex<Vec<DuplexStream>>,
    }

    impl Dial for Place {
        fn dial(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
            let (near, far) = duplex(4096);
            self.ends.lock().unwrap().push(far);
            Box::pin(async { Ok(Io::other(near)) })
        }

        fn target(&self) -> String {
            "a place".into()
        }

        fn patience(&self) -> Duration {
            Duration::from_secs(10)
        }

        fn scope(&self) -> &Scope {
            &self.scope
        }
    }

    #[tokio::test]
    async fn the_late_failure_on_a_dead_connection_leaves_the_one_that_replaced_it() {
        let place = Place { scope: Scope::root(), ends: Mutex::default() };
        let shared = SharedConnection::<Empty<Bytes>>::default();
        let (mut early, _) = shared.sender(&place).await.unwrap();
        let (mut late, reused) = shared.sender(&place).await.unwrap();
        assert!(reused);
        place.ends.lock().unwrap().clear();
        let request = || http::Request::get("http://a.test/").body(Empty::new()).unwrap();
        let error = early.send_request(request()).await.unwrap_err();
        shared.forget(&early, &error);
        let (_next, reused) = shared.sender(&place).await.unwrap();
        assert!(!reused);
        let error = late.send_request(request()).await.unwrap_err();
        shared.forget(&late, &error);
        shared.doubt(&late, &error);
        assert!(shared.sender(&place).await.unwrap().1, "the new connection is still used");
        place.scope.cancel();
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
