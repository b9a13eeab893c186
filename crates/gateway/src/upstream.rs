//! Where a route leads: how requests are changed for it, and its connections, kept between requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use adit_core::config::publish::HeaderEdits;
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use runtime::tls::{ServerTrust, TlsError};
use runtime::upstream::{Dial, IDLE, Pool, SharedConnection, UpstreamConnection};
use runtime::{BoxFuture, Connect, ConnectError, Io, Scope, TlsConnect};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::failures::Failures;
use crate::http::RequestBody;
pub use crate::speaks::Instead;

/// For TLS with the target, and for all of an HTTP/2 connection's making; a cold start may come before it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A target's own deadline comes first; this only keeps those who wait for another's attempt from waiting for ever.
const SHARED_START: Duration = Duration::from_secs(120);

/// Looking at the pool more often than this is no use.
const SWEEP_LEAST: Duration = Duration::from_millis(50);

/// What an upstream is made of.
pub struct UpstreamOptions {
    /// The route's name, for messages.
    pub name: String,
    /// Opens byte streams to the target.
    pub connect: Arc<dyn Connect>,
    /// What the target speaks.
    pub scheme: UpstreamScheme,
    /// How its certificate is checked, when it speaks TLS.
    pub tls: UpstreamTls,
    /// The Host it gets instead of the client's.
    pub host_header: Option<String>,
    /// Changes to requests.
    pub headers: HeaderEdits,
    /// Changes to answers.
    pub response_headers: HeaderEdits,
    /// Who may come.
    pub basic_auth: Option<BasicAuth>,
    /// How long the head of an answer may take while nothing of the request's body is waited for from the client.
    pub timeout: Option<Duration>,
    /// How long a connection that nobody uses is kept, whatever it speaks, at most 30 s. It keeps a target that starts on demand awake.
    pub keep: Duration,
    /// Requests that pages of other sites make are refused: nobody named this route, so any page could guess it.
    pub own_pages_only: bool,
    /// What to say when it does not answer by HTTP.
    pub instead: Option<Instead>,
    /// TLS of clients ends here, so by `https` the route is the same as by `http`: hints must not send them there.
    pub terminates: bool,
    /// Where the upstream's own tasks live: they end at its cancel.
    pub scope: Scope,
}

impl UpstreamOptions {
    /// A route with nothing but what it needs; TLS is verified by the system's roots, for the name of the route.
    #[must_use]
    pub fn new(name: &str, connect: Arc<dyn Connect>, scheme: UpstreamScheme, scope: &Scope) -> Self {
        Self {
            name: name.to_owned(),
            connect,
            scheme,
            tls: UpstreamTls { server_name: name.to_owned(), trust: UpstreamTrust::Verified(ServerTrust::Roots) },
            host_header: None,
            headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            basic_auth: None,
            timeout: None,
            keep: IDLE,
            own_pages_only: false,
            instead: None,
            terminates: false,
            scope: scope.clone(),
        }
    }
}

/// What a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamScheme {
    /// HTTP/1.1; HTTP/2 for gRPC if the target speaks it.
    Http,
    /// The same over TLS.
    Https,
    /// HTTP/2 without TLS.
    H2c,
}

/// How a target's certificate is checked.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// The name it must have; also sent as SNI.
    pub server_name: String,
    /// Which certificates are good.
    pub trust: UpstreamTrust,
}

/// Which certificates of a target are good.
#[derive(Clone, Debug)]
pub enum UpstreamTrust {
    /// Those that authorities vouch for.
    Verified(ServerTrust),
    /// All: the user said `verify: false`.
    Anything,
}

/// A user and a password that a request must bring.
#[derive(Clone)]
pub struct BasicAuth {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret<String>,
}

/// Why an upstream cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Its `host_header` is no header value.
    // Without the text: what a variable put into it is nobody's to read.
    #[error("its host_header cannot be a Host header")]
    HostHeader,
    /// TLS cannot be set up for it.
    #[error("tls for route {name} cannot be set up")]
    Tls {
        /// The route.
        name: String,
        /// What is wrong.
        #[source]
        source: TlsError,
    },
}

impl Diagnose for UpstreamError {
    fn fault(&self) -> Fault {
        match self {
            Self::HostHeader => Fault::Config,
            Self::Tls { source, .. } => source.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::HostHeader => Some("write a host name, with a port if need be".to_owned()),
            Self::Tls { source, .. } => source.hint(),
        }
    }
}

/// Where a route leads.
pub struct Upstream {
    pub(crate) name: String,
    pub(crate) scheme: UpstreamScheme,
    pub(crate) host_header: Option<HeaderValue>,
    pub(crate) headers: HeaderEdits,
    pub(crate) response_headers: HeaderEdits,
    pub(crate) timeout: Option<Duration>,
    pub(crate) own_pages_only: bool,
    pub(crate) terminates: bool,
    pub(crate) instead: Option<Instead>,
    pub(crate) h2: SharedConnection<RequestBody>,
    connect: Arc<dyn Connect>,
    connect_h2: Arc<dyn Connect>,
    /// The SHA-256 of what a request must bring.
    credentials: Option<[u8; 32]>,
    pool: Pool<RequestBody>,
    keep: Duration,
    sweeping: AtomicBool,
    scope: Scope,
    counters: UpstreamCounters,
}

/// What has passed through an upstream.
#[derive(Debug, Default)]
pub struct UpstreamCounters {
    /// Requests sent to it.
    pub requests: AtomicU64,
    /// Requests and upgraded connections under way.
    pub active: AtomicU64,
    /// Bytes of bodies towards it.
    pub received: AtomicU64,
    /// Bytes of bodies from it.
    pub sent: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    failures: Failures,
}

impl UpstreamCounters {
    /// The last request that came to nothing: when, and why.
    pub fn last_error(&self) -> Option<(SystemTime, String)> {
        self.failures.last().map(|last| (last.at, last.text))
    }

    /// The same, and whether an answer has come since.
    pub(crate) fn failures(&self) -> &Failures {
        &self.failures
    }
}

impl Upstream {
    /// Makes an upstream; nothing is connected yet.
    ///
    /// # Errors
    /// [`UpstreamError`] when the options make no sense.
    pub fn new(options: UpstreamOptions) -> Result<Arc<Self>, UpstreamError> {
        let tls = |alpn: &[&[u8]]| {
            tls_connect(&options.connect, &options.tls, alpn)
                .map_err(|source| UpstreamError::Tls { name: options.name.clone(), source })
        };
        let (connect, connect_h2) = match options.scheme {
            UpstreamScheme::Http | UpstreamScheme::H2c => (Arc::clone(&options.connect), Arc::clone(&options.connect)),
            UpstreamScheme::Https => (tls(&[b"http/1.1"])?, tls(&[b"h2", b"http/1.1"])?),
        };
        let host_header =
            options.host_header.map(|value| HeaderValue::from_str(&value).map_err(|_| UpstreamError::HostHeader));
        let credentials = options.basic_auth.map(|auth| {
            let mut digest = Sha256::new();
            digest.update(auth.user.as_bytes());
            digest.update(b":");
            digest.update(auth.password.expose().as_bytes());
            digest.finalize().into()
        });
        Ok(Arc::new(Self {
            name: options.name,
            scheme: options.scheme,
            host_header: host_header.transpose()?,
            headers: options.headers,
            response_headers: options.response_headers,
            timeout: options.timeout,
            own_pages_only: options.own_pages_only,
            terminates: options.terminates,
            instead: options.instead,
            h2: SharedConnection::keeping(options.keep),
            connect,
            connect_h2,
            credentials,
            pool: Pool::keeping(options.keep),
            keep: options.keep.min(IDLE),
            sweeping: AtomicBool::new(false),
            scope: options.scope,
            counters: UpstreamCounters::default(),
        }))
    }

    /// The route's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The target as a user would write it.
    #[must_use]
    pub fn target(&self) -> String {
        self.connect.describe()
    }

    /// What has passed through.
    #[must_use]
    pub fn counters(&self) -> &UpstreamCounters {
        &self.counters
    }

    /// Whether anybody may come.
    pub(crate) fn is_open(&self) -> bool {
        self.credentials.is_none()
    }

    /// Whether an `Authorization` header has the right user and password.
    pub(crate) fn admits(&self, authorization: &HeaderValue) -> bool {
        let Some(wanted) = &self.credentials else { return true };
        let brought = basic_credentials(authorization.as_bytes());
        // Digests have one length, so that the time says nothing of either side.
        let digest: [u8; 32] = Sha256::digest(brought.as_deref().unwrap_or_default()).into();
        brought.is_some() & bool::from(digest.ct_eq(wanted))
    }

    /// A connection that waits and is alive.
    pub(crate) fn kept(&self) -> Option<UpstreamConnection<RequestBody>> {
        self.pool.take(Instant::now())
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Result<Io, ConnectError> {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.connect.connect().await
    }

    /// Keeps a connection for the next request.
    pub(crate) fn park(self: &Arc<Self>, connection: UpstreamConnection<RequestBody>) {
        if self.scope.is_draining() {
            return;
        }
        self.pool.put(connection, Instant::now());
        if !self.sweeping.load(Ordering::Relaxed) && !self.sweeping.swap(true, Ordering::AcqRel) {
            self.start_sweeping();
        }
    }

    pub(crate) fn note_error(&self, why: String) {
        self.counters.failures.note(why);
    }

    /// Whoever waits in the pool holds its target awake, and nobody looks at it there: this does, until the pool is
    /// empty.
    fn start_sweeping(self: &Arc<Self>) {
        let (upstream, scope) = (Arc::downgrade(self), self.scope.clone());
        let pause = (self.keep / 2).max(SWEEP_LEAST);
        self.scope.spawn("upstream sweep", async move {
            loop {
                tokio::select! {
                    // Either leads to the same look.
                    biased;
                    () = scope.drained() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                let Some(upstream) = upstream.upgrade() else { return };
                if scope.is_draining() {
                    // Nothing is parked from now on.
                    upstream.pool.sweep(Instant::now() + IDLE * 2);
                    return;
                }
                upstream.pool.sweep(Instant::now());
                if upstream.pool.is_empty() {
                    upstream.sweeping.store(false, Ordering::Release);
                    // Something parked between the look and the mark has found the mark still set.
                    if upstream.pool.is_empty() || upstream.sweeping.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
            }
        });
    }
}

impl Dial for Upstream {
    fn dial(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.connect_h2.connect()
    }

    fn target(&self) -> String {
        self.connect_h2.describe()
    }

    fn patience(&self) -> Duration {
        SHARED_START
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({})", self.name)
    }
}

fn tls_connect(under: &Arc<dyn Connect>, tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<Arc<dyn Connect>, TlsError> {
    let under = Arc::clone(under);
    let connect = match &tls.trust {
        UpstreamTrust::Verified(trust) => {
            TlsConnect::new(under, &tls.server_name, trust.client_config(alpn)?, HANDSHAKE)?
        }
        UpstreamTrust::Anything => TlsConnect::unverified(under, &tls.server_name, alpn, HANDSHAKE)?,
    };
    Ok(Arc::new(connect))
}

/// `user:password` out of `Basic …`.
fn basic_credentials(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, token) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    STANDARD.decode(token.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_whatever_the_case_of_their_scheme() {
        assert_eq!(basic_credentials(b"Basic YTpi").as_deref(), Some(&b"a:b"[..]));
        assert_eq!(basic_credentials(b"bASIC   YTpi ").as_deref(), Some(&b"a:b"[..]));
        assert_eq!(basic_credentials(b"Bearer YTpi"), None);
        assert_eq!(basic_credentials(b"Basic"), None);
        assert_eq!(basic_credentials(b"Basic ???"), None);
    }
}
