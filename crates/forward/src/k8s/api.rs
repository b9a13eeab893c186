//! One API server as one context of the kubeconfig sees it: requests, watches, upgrades, and who we are there.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_core::diagnose::{Diagnose, Fault};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::middleware::{BaseUriLayer, ExtraHeadersLayer};
use kube::client::{Body, ConfigExt as _};
use kube::core::WatchEvent;
use runtime::connect::{ConnectError, speaks_no_tls};
use runtime::pipe::Pipe;
use runtime::tls::{in_words, in_words_of_io};
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tower::{Layer as _, ServiceExt as _};

use self::connector::ApiConnector;
use super::credentials::Signer;
use super::dial::Dialer;
use super::keepalive::KeepAlive;
use super::kubeconfig::{KubeSettings, KubeconfigError, Kubeconfigs};
use super::plugin::PluginError;
use crate::error::words;

mod connector;

/// An ordinary request, from sending it to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection made ahead is kept: the look-ups beside it take less.
const AHEAD_KEPT: Duration = Duration::from_secs(5);
/// How often an HTTP/2 connection with watches on it is asked whether it lives, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A question that is not answered for so long is asked once more over another connection, and what is quicker counts.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// The same where the server says something else meanwhile: it is there, and slow.
const ASK_AGAIN_SLOW: Duration = Duration::from_secs(8);
/// What to look at where there is no way to the server.
const REACHES: &str = "check that the cluster runs and that this machine reaches it (VPN?)";

/// One API server and one identity; cloning gives another handle.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    settings: KubeSettings,
    context: String,
    flags: String,
    keepalive: KeepAlive,
    session: Mutex<Arc<Session>>,
    /// One renewal at a time: a plugin may ask a person.
    renewing: tokio::sync::Semaphore,
    /// Which transport the server took last; see [`super::port_forward`].
    transport: AtomicU8,
    /// Counts how often connections were found to be dead.
    redials: watch::Sender<u64>,
    /// A connection that is being made before it is known what it is for.
    ahead: Mutex<Option<Ahead>>,
}

/// A connection that is being made, and since when.
type Ahead = (Instant, oneshot::Receiver<Pipe>);

/// What follows from one reading of the kubeconfig; replaced as a whole when credentials are refused.
pub(crate) struct Session {
    pub(crate) dialer: Dialer,
    client: kube::Client,
    signer: Arc<Signer>,
    base: Uri,
    headers: ExtraHeadersLayer,
    namespace: String,
    generation: u64,
    /// Counts what was read from its connections.
    heard: Arc<AtomicU64>,
}

/// Told when the head of an answer has come; travels with the request.
#[derive(Clone, Default)]
struct Head(Arc<watch::Sender<bool>>);

impl Head {
    fn arrive(&self) {
        self.0.send_replace(true);
    }

    async fn arrived(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|arrived| *arrived).await;
    }
}

impl Api {
    /// Connects nothing yet; runs the credential plugin when certificates come from it.
    ///
    /// # Errors
    /// [`ApiError::Config`] or [`ApiError::Credentials`].
    pub async fn new(
        kubeconfigs: &Kubeconfigs,
        settings: &KubeSettings,
        context: Option<&str>,
    ) -> Result<Self, ApiError> {
        let config = kubeconfigs.context(context)?;
        let name = config.name.clone();
        let session = Session::new(config, 0).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings: settings.clone(),
                flags: kubectl_flags(kubeconfigs, settings, &name),
                context: name,
                keepalive: KeepAlive::new(settings.keepalive),
                session: Mutex::new(Arc::new(session)),
                renewing: tokio::sync::Semaphore::new(1),
                transport: AtomicU8::new(0),
                redials: watch::Sender::new(0),
                ahead: Mutex::default(),
            }),
        })
    }

    /// The context's name.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.inner.context
    }

    /// The namespace the context names, else `default`.
    #[must_use]
    pub fn default_namespace(&self) -> String {
        self.session().namespace.clone()
    }

    /// What kubectl needs to be told to ask the same server, with a space before it; for hints.
    pub(crate) fn kubectl_flags(&self) -> &str {
        &self.inner.flags
    }

    /// The server, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        self.session().dialer.describe()
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.inner.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the server for a sign of life now and then; see [`KeepAlive`].
    pub(crate) async fn keep_alive(self) {
        self.inner.keepalive.run(&self).await;
    }

    /// Makes the connection for the first upgrade while it is still being looked up which pod it goes to; it is
    /// given up when nobody wants it for [`AHEAD_KEPT`].
    pub(crate) async fn dial_ahead(self) {
        let (give, take) = oneshot::channel();
        let begun = Instant::now();
        {
            let mut slot = self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            // One is enough: several ports of one pod share its connections.
            if slot.as_ref().is_some_and(|(begun, _)| begun.elapsed() < AHEAD_KEPT) {
                return;
            }
            *slot = Some((begun, take));
        }
        // Why it failed is told by whoever dials next.
        if let Ok(pipe) = self.session().dialer.pipe().await
            && give.send(pipe).is_ok()
        {
            tokio::time::sleep(AHEAD_KEPT).await;
            let mut slot = self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            slot.take_if(|(of, _)| *of == begun);
        }
    }

    /// The connection that is being made, if there is one; an old one may be dead without a word.
    pub(crate) fn take_ahead(&self) -> Option<oneshot::Receiver<Pipe>> {
        let ahead = self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        ahead.filter(|(begun, _)| begun.elapsed() < AHEAD_KEPT).map(|(_, receiver)| receiver)
    }

    pub(crate) fn remembered_transport(&self) -> u8 {
        self.inner.transport.load(Ordering::Relaxed)
    }

    pub(crate) fn remember_transport(&self, transport: u8) {
        self.inner.transport.store(transport, Ordering::Relaxed);
    }

    /// The server's version, such as `v1.31.2`: the lightest question there is.
    ///
    /// # Errors
    /// [`ApiError`], when it does not answer or does not know who asks.
    pub async fn version(&self) -> Result<String, ApiError> {
        let answer: serde_json::Value = self.get("/version").await?;
        Ok(answer["gitVersion"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Gets an object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let text = self.get_text(path).await?;
        serde_json::from_str(&text)
            .map_err(|source| ApiError::Decode { what: path.to_owned(), reason: source.to_string() })
    }

    /// Gets a text, such as a log.
    pub(crate) async fn get_text(&self, path: &str) -> Result<String, ApiError> {
        self.send_text("GET", path, Vec::new()).await
    }

    /// Sends a request with a JSON body, which is repeated once after credentials were renewed.
    pub(crate) async fn send_text(&self, method: &str, path: &str, body: Vec<u8>) -> Result<String, ApiError> {
        let repeat = method == "GET";
        self.asked(repeat, |session, head| {
            let request = request(method, path, body.clone(), head);
            async move {
                let answer = tokio::time::timeout(REQUEST_TIMEOUT, session.client.request_text(request?)).await;
                answer
                    .map_err(|_| ApiError::Timeout { server: session.dialer.describe(), after: REQUEST_TIMEOUT })?
                    .map_err(|error| session.explain(error))
            }
        })
        .await
    }

    /// Begins a watch. What it sends has no deadline; the head of its answer has.
    pub(crate) async fn watch<T>(
        &self,
        path: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<T>, ApiError>>, ApiError>
    where
        T: DeserializeOwned + Clone + Send + 'static,
    {
        self.asked(true, |session, head| {
            let request = request("GET", path, Vec::new(), head);
            async move {
                let begun = tokio::time::timeout(REQUEST_TIMEOUT, session.client.request_events::<T>(request?)).await;
                let events = begun
                    .map_err(|_| ApiError::Timeout { server: session.dialer.describe(), after: REQUEST_TIMEOUT })?
                    .map_err(|error| session.explain(error))?;
                let of = Arc::clone(&session);
                Ok(events.map(move |event| event.map_err(|error| of.explain(error))).boxed())
            }
        })
        .await
    }

    /// Runs `work`; when the server says 401, once more with the credentials read and the plugin run again.
    pub(crate) async fn signed_in<T, F>(&self, work: impl Fn(Arc<Session>) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let session = self.session();
        match work(Arc::clone(&session)).await {
            Err(ApiError::Unauthorized { .. }) => work(self.renew(&session).await?).await,
            result => result,
        }
    }

    /// [`Api::signed_in`], where a question that may be repeated is asked once more when it is not answered.
    async fn asked<T, F>(&self, repeat: bool, work: impl Fn(Arc<Session>, Head) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        self.signed_in(|session| self.hedged(session, repeat, &work)).await
    }

    /// The head of an answer decides which of two questions goes on: what follows it may be long.
    async fn hedged<T, F>(
        &self,
        session: Arc<Session>,
        repeat: bool,
        work: &impl Fn(Arc<Session>, Head) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let before = session.heard();
        let head = Head::default();
        let first = work(Arc::clone(&session), head.clone());
        tokio::pin!(first);
        tokio::select! {
            biased;
            answer = &mut first => return answer,
            () = head.arrived() => return first.await,
            () = session.hesitate(before), if repeat => {}
        }
        let fresh = Arc::new(session.redialled());
        let other = Head::default();
        let second = work(Arc::clone(&fresh), other.clone());
        tokio::pin!(second);
        let early = tokio::select! {
            biased;
            answer = &mut first => match answer {
                // The other one may fare better.
                Err(error) if !error.is_answer() => None,
                answer => return answer,
            },
            () = head.arrived() => return first.await,
            answer = &mut second => match answer {
                Err(error) if !error.is_answer() => return first.await,
                answer => Some(answer),
            },
            () = other.arrived() => None,
        };
        let was_silent = session.heard() == before;
        let answer = match early {
            Some(answer) => answer,
            None => second.await,
        };
        if answer.is_ok() && was_silent {
            self.adopt(&session, fresh);
        }
        answer
    }

    /// The connections of `dead` do not answer, and those of `fresh` do.
    fn adopt(&self, dead: &Arc<Session>, fresh: Arc<Session>) {
        {
            let mut slot = self.inner.session.lock().unwrap_or_else(PoisonError::into_inner);
            if !Arc::ptr_eq(&slot, dead) {
                return;
            }
            *slot = fresh;
        }
        tracing::debug!(context = self.inner.context, "connections to the API server were dead");
        self.inner.redials.send_modify(|count| *count += 1);
    }

    /// Changes when connections were found to be dead: what waits on one asks anew.
    pub(crate) fn redials(&self) -> watch::Receiver<u64> {
        self.inner.redials.subscribe()
    }

    /// The machine slept, its network changed, or a connection of the same age was found to be dead: requests from
    /// now on go over new connections.
    pub(crate) fn redial(&self) {
        {
            let mut slot = self.inner.session.lock().unwrap_or_else(PoisonError::into_inner);
            *slot = Arc::new(slot.redialled());
        }
        self.inner.redials.send_modify(|count| *count += 1);
    }

    /// A session newer than `refused`: another caller's, or one from the kubeconfig as it is now.
    pub(crate) async fn renew(&self, refused: &Arc<Session>) -> Result<Arc<Session>, ApiError> {
        // Never closed; without a turn it would only be less thrifty.
        let _turn = self.inner.renewing.acquire().await.ok();
        let current = self.session();
        if current.generation != refused.generation {
            return Ok(current);
        }
        tracing::debug!(context = self.inner.context, "the credentials were refused: reading them again");
        let kubeconfigs = Kubeconfigs::load(&self.inner.settings)?;
        let config = kubeconfigs.context(Some(&self.inner.context))?;
        let renewed = Arc::new(Session::new(config, current.generation + 1).await?);
        let mut slot = self.inner.session.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.generation == refused.generation {
            *slot = Arc::clone(&renewed);
        }
        Ok(Arc::clone(&slot))
    }
}

impl Session {
    async fn new(mut context: super::kubeconfig::ContextConfig, generation: u64) -> Result<Self, ApiError> {
        let name = context.name.clone();
        let credentials = |reason: Arc<PluginError>| ApiError::Plugin { context: name.clone(), source: reason };
        let signer = Arc::new(Signer::new(&mut context).await.map_err(|error| match error {
            super::credentials::SignerError::Plugin(error) => credentials(error),
            super::credentials::SignerError::Other(reason) => {
                ApiError::Credentials { context: context.name.clone(), reason }
            }
        })?);
        let config = context.config;
        let unusable = |reason: String| ApiError::Credentials { context: context.name.clone(), reason };
        let dialer = Dialer::new(&config).map_err(unusable)?;
        let headers = config.extra_headers_layer().map_err(|error| unusable(error.to_string()))?;
        let base = config.cluster_url.clone();
        let namespace = config.default_namespace.clone();
        let heard = Arc::default();
        let connector = ApiConnector { dialer: dialer.clone(), heard: Arc::clone(&heard) };
        let client = client(connector, &signer, &base, &headers, &namespace);
        Ok(Self { dialer, client, signer, base, headers, namespace, generation, heard })
    }

    /// Changes whenever the server says something on one of the connections.
    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Waits until it is time to ask once more, if nothing was heard since `before`, or later.
    async fn hesitate(&self, before: u64) {
        tokio::time::sleep(ASK_AGAIN).await;
        if self.heard() != before {
            tokio::time::sleep(ASK_AGAIN_SLOW - ASK_AGAIN).await;
        }
    }

    /// The same identity over connections yet to be made.
    fn redialled(&self) -> Self {
        let heard = Arc::default();
        let connector = ApiConnector { dialer: self.dialer.clone(), heard: Arc::clone(&heard) };
        Self {
            dialer: self.dialer.clone(),
            client: client(connector, &self.signer, &self.base, &self.headers, &self.namespace),
            signer: Arc::clone(&self.signer),
            base: self.base.clone(),
            headers: self.headers.clone(),
            namespace: self.namespace.clone(),
            generation: self.generation,
            heard,
        }
    }

    /// The head of an upgrade request: path with the server's prefix, `Host`, authorization, impersonation.
    pub(crate) async fn upgrade_head(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Vec<u8>, ApiError> {
        let prefix = self.base.path().trim_end_matches('/');
        let bare = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"))
            .body(Body::empty())
            .map_err(|error| ApiError::Decode { what: path.to_owned(), reason: error.to_string() })?;
        let signed = self.signer.sign(bare).await.map_err(|error| self.explain_box(&*error))?;
        let same =
            tower::service_fn(|request: Request<Body>| async move { Ok::<_, std::convert::Infallible>(request) });
        let signed = match self.headers.layer(same).oneshot(signed).await {
            Ok(signed) => signed,
            Err(never) => match never {},
        };
        let mut head =
            format!("{method} {prefix}{path} HTTP/1.1\r\nHost: {}\r\n", self.dialer.authority()).into_bytes();
        head.extend_from_slice(concat!("User-Agent: adit/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes());
        for (name, value) in signed.headers() {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        for (name, value) in headers {
            head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        Ok(head)
    }

    pub(crate) fn explain(&self, error: kube::Error) -> ApiError {
        match error {
            kube::Error::Api(status) => ApiError::of_status(status.code, &status.reason, &status.message),
            kube::Error::Service(source) => self.explain_box(&*source),
            kube::Error::SerdeError(source) => {
                ApiError::Decode { what: "an answer".to_owned(), reason: source.to_string() }
            }
            other => ApiError::Unreachable {
                server: self.dialer.describe(),
                reason: innermost(&other),
                fault: Fault::Upstream,
                hint: None,
                silent: false,
            },
        }
    }

    /// Looks for our own error inside hyper's.
    fn explain_box(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> ApiError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(known) = cause {
            if let Some(ours) = known.downcast_ref::<ConnectError>() {
                return ApiError::unreachable(ours);
            }
            if let Some(ours) = known.downcast_ref::<Arc<PluginError>>() {
                return ApiError::Plugin { context: String::new(), source: Arc::clone(ours) };
            }
            cause = known.source();
        }
        ApiError::Unreachable {
            server: self.dialer.describe(),
            reason: innermost(error),
            fault: Fault::Upstream,
            hint: None,
            silent: false,
        }
    }
}

/// Without them kubectl takes the current context of the files it finds by itself, which may be another one by the
/// time that a hint is read.
fn kubectl_flags(kubeconfigs: &Kubeconfigs, settings: &KubeSettings, context: &str) -> String {
    let mut flags = String::new();
    // What a pod has by its service account has no context to name.
    if kubeconfigs.contexts().any(|known| known == context) {
        flags.push_str(&format!(" --context {}", quoted(context)));
    }
    // kubectl takes a list of files from the environment only.
    if let Some(file) = settings.kubeconfig.as_ref().filter(|file| !file.contains(':')) {
        flags.push_str(&format!(" --kubeconfig {}", quoted(file)));
    }
    flags
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A client whose every request is signed, over connections that [`Dialer`] makes.
fn client(
    connector: ApiConnector,
    signer: &Arc<Signer>,
    base: &Uri,
    headers: &ExtraHeadersLayer,
    namespace: &str,
) -> kube::Client {
    // hyper's own tasks drive the connections: they end with this client, which no scope could wait for.
    let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    let http = builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(connector);
    let stack = headers.layer(BaseUriLayer::new(base.clone()).layer(http));
    let signer = Arc::clone(signer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (signer, stack) = (Arc::clone(&signer), stack.clone());
        async move {
            let head = request.extensions().get::<Head>().cloned();
            let request = signer.sign(request).await?;
            let answer = stack.oneshot(request).await.map_err(tower::BoxError::from)?;
            if let Some(head) = head {
                head.arrive();
            }
            Ok::<_, tower::BoxError>(answer)
        }
    });
    kube::client::ClientBuilder::new(service, namespace).build()
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    words(last)
}

fn request(method: &str, path: &str, body: Vec<u8>, head: Head) -> Result<Request<Vec<u8>>, ApiError> {
    let mut builder = Request::builder().method(method).uri(path).extension(head);
    if !body.is_empty() {
        builder = builder.header(http::header::CONTENT_TYPE, "application/json");
    }
    builder.body(body).map_err(|error| ApiError::Decode { what: path.to_owned(), reason: error.to_string() })
}

/// Why the API server did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Config(Arc<KubeconfigError>),
    /// The credential plugin gave nothing.
    #[error("no credentials{}", of_context(context))]
    Plugin {
        /// The context.
        context: String,
        /// Why.
        #[source]
        source: Arc<PluginError>,
    },
    /// Certificates or tokens cannot be used.
    #[error("the credentials{} cannot be used: {reason}", of_context(context))]
    Credentials {
        /// The context.
        context: String,
        /// Why.
        reason: String,
    },
    /// The server does not know us (401).
    #[error("the API server refused the credentials: {message}")]
    Unauthorized {
        /// What it said.
        message: String,
    },
    /// The server knows us, and we may not (403).
    #[error("{message}")]
    Forbidden {
        /// What it said.
        message: String,
    },
    /// There is no such thing (404).
    #[error("{message}")]
    NotFound {
        /// What it said.
        message: String,
    },
    /// The version asked for is no longer kept (410).
    #[error("{message}")]
    Gone {
        /// What it said.
        message: String,
    },
    /// Any other answer.
    #[error("the API server answered {code}: {message}")]
    Status {
        /// The HTTP status.
        code: u16,
        /// What it said.
        message: String,
    },
    /// There is no way to the server, or it went away.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        server: String,
        /// Why.
        reason: String,
        /// Whose fault it is.
        fault: Fault,
        /// What to do.
        hint: Option<String>,
        /// It did not answer at all.
        silent: bool,
    },
    /// The server is there and says nothing.
    #[error("{server} did not answer within {after:?}")]
    Timeout {
        /// The server.
        server: String,
        /// The deadline.
        after: Duration,
    },
    /// The server said something that cannot be understood.
    #[error("cannot read {what}: {reason}")]
    Decode {
        /// What was read.
        what: String,
        /// What is wrong.
        reason: String,
    },
}

fn of_context(context: &str) -> String {
    if context.is_empty() { String::new() } else { format!(" for the context `{context}`") }
}

impl ApiError {
    /// Sorts a Status object or a plain answer.
    pub(crate) fn of_status(code: u16, reason: &str, message: &str) -> Self {
        let message =
            if message.trim().is_empty() { format!("HTTP {code} {reason}") } else { message.trim().to_owned() };
        match code {
            401 => Self::Unauthorized { message },
            403 => Self::Forbidden { message },
            404 => Self::NotFound { message },
            410 => Self::Gone { message },
            code => Self::Status { code, message },
        }
    }

    pub(crate) fn unreachable(error: &ConnectError) -> Self {
        let (reason, hint) = match error {
            ConnectError::Certificate { why, .. } => (
                format!("its certificate is not trusted: {}", in_words(why)),
                "compare `certificate-authority` of this cluster in the kubeconfig with the server's certificate",
            ),
            ConnectError::Tls { why, .. } if speaks_no_tls(why) => (
                "it does not speak TLS".to_owned(),
                "check `server` of this cluster in the kubeconfig: another program may have its port",
            ),
            ConnectError::Tls { why, .. } => {
                (format!("TLS failed: {}", in_words_of_io(why)), "check `server` of this cluster in the kubeconfig")
            }
            ConnectError::Resolve { .. } => (
                "its name cannot be resolved".to_owned(),
                "check `server` of this cluster in the kubeconfig, and this machine's name servers (VPN?)",
            ),
            ConnectError::Refused { source, .. } => (innermost(source), "check that the cluster runs"),
            ConnectError::Timeout { after, .. } => (format!("it did not answer within {after:?}"), REACHES),
            error => {
                let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), innermost);
                let hint = if error.fault() == Fault::Internal { error.hint() } else { None };
                let hint = hint.or_else(|| Some(REACHES.to_owned()));
                let (server, fault) = (error.target().to_owned(), error.fault());
                return Self::Unreachable { server, reason, fault, hint, silent: false };
            }
        };
        let is_certificate = matches!(error, ConnectError::Certificate { .. });
        let fault = if is_certificate { Fault::Config } else { error.fault() };
        let (server, hint, silent) = (error.target().to_owned(), Some(hint.to_owned()), error.is_timeout());
        Self::Unreachable { server, reason, fault, hint, silent }
    }

    /// Whether it was not even refused.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unreachable { silent: true, .. })
    }

    /// Whether asking the same once more, over another connection, would end the same.
    pub(crate) fn is_answer(&self) -> bool {
        !matches!(self, Self::Timeout { .. })
            && !matches!(self, Self::Unreachable { fault, .. } if *fault != Fault::Config)
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            // A certificate that is not trusted.
            Self::Unreachable { fault: Fault::Config, .. } => false,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Gone { .. } => true,
            Self::Status { code, .. } => *code >= 500 || *code == 429,
            Self::Config(_)
            | Self::Plugin { .. }
            | Self::Credentials { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Decode { .. } => false,
        }
    }
}

impl From<KubeconfigError> for ApiError {
    fn from(error: KubeconfigError) -> Self {
        Self::Config(Arc::new(error))
    }
}

impl Diagnose for ApiError {
    fn fault(&self) -> Fault {
        match self {
            Self::Config(error) => error.fault(),
            Self::Plugin { source, .. } => source.fault(),
            Self::Credentials { .. } => Fault::Config,
            Self::Unauthorized { .. } => Fault::Auth,
            Self::Forbidden { .. } => Fault::Auth,
            Self::Unreachable { fault, .. } => *fault,
            Self::NotFound { .. }
            | Self::Gone { .. }
            | Self::Status { .. }
            | Self::Timeout { .. }
            | Self::Decode { .. } => Fault::Upstream,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Plugin { source, .. } => source.hint(),
            Self::Credentials { .. } => Some("check the user of this context in the kubeconfig".into()),
            Self::Unauthorized { .. } => Some("log in to the cluster again, or use another context".into()),
            Self::Forbidden { .. } => Some(
                "ask for the right: `get`, `list` and `watch` on pods (services and endpointslices for services), `create` on pods/portforward"
                    .into(),
            ),
            Self::Unreachable { hint, .. } => {
                hint.clone().or_else(|| Some(REACHES.into()))
            }
            Self::Timeout { .. } => Some(REACHES.into()),
            Self::Status { code: 429, .. } => Some("the API server is overloaded: try again later".into()),
            Self::NotFound { .. } | Self::Gone { .. } | Self::Status { .. } | Self::Decode { .. } => None,
        }
    }
}
