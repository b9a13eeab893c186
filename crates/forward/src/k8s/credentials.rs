//! Who we are towards an API server: what goes into each request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use adit_core::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryFutureExt as _;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use kube::client::middleware::AuthLayer;
use kube::client::{Body, ConfigExt as _};
use tower::{Layer as _, ServiceExt as _};

use super::kubeconfig::ContextConfig;
use super::plugin::{Credential, ExecPlugin, PluginError};

/// A token is renewed this long before it ends, so that none ends on its way.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// Adds the authorization to requests.
pub(crate) enum Signer {
    /// Tokens, token files, OIDC, basic authentication, or nothing (client certificates): kube-rs knows them.
    Kube(Option<AuthLayer>),
    /// A credential plugin, run again before its token ends.
    Plugin {
        /// The program.
        plugin: ExecPlugin,
        /// What it gave last.
        last: Mutex<Option<Credential>>,
        /// One run at a time: a plugin may ask a person.
        running: tokio::sync::Semaphore,
    },
}

/// A request with its authorization, or why there is none.
type Signed = Result<Request<Body>, tower::BoxError>;

/// Why there are no credentials.
pub(crate) enum SignerError {
    Plugin(Arc<PluginError>),
    Other(String),
}

impl Signer {
    /// Takes the context's user. A plugin is run at once: what it gives may be a client certificate, which goes
    /// into the TLS settings.
    pub(crate) async fn new(context: &mut ContextConfig) -> Result<Self, SignerError> {
        let Some(plugin) = context.plugin.clone() else {
            let layer = context.config.auth_layer().map_err(|error| SignerError::Other(error.to_string()))?;
            return Ok(Self::Kube(layer));
        };
        let credential = plugin.run().await.map_err(|error| SignerError::Plugin(Arc::new(error)))?;
        if let Some((certificate, key)) = &credential.certificate {
            let user = &mut context.config.auth_info;
            user.client_certificate_data = Some(STANDARD.encode(certificate));
            user.client_key_data = Some(STANDARD.encode(key.expose()).into());
        }
        Ok(Self::Plugin { plugin, last: Mutex::new(Some(credential)), running: tokio::sync::Semaphore::new(1) })
    }

    /// The request with its authorization.
    pub(crate) fn sign(self: &Arc<Self>, request: Request<Body>) -> BoxFuture<'static, Signed> {
        match &**self {
            Self::Kube(None) => Box::pin(std::future::ready(Ok(request))),
            Self::Kube(Some(layer)) => {
                // The layer wants an HTTP service: this one answers with the request.
                let answer = layer.layer(tower::service_fn(same)).oneshot(request);
                Box::pin(answer.map_ok(Response::into_body))
            }
            Self::Plugin { .. } => {
                let signer = Arc::clone(self);
                Box::pin(async move { signer.with_token(request).await })
            }
        }
    }

    async fn with_token(&self, mut request: Request<Body>) -> Signed {
        let Self::Plugin { plugin, last, running } = self else { return Ok(request) };
        if let Some(token) = token(plugin, last, running).await? {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

fn same(request: Request<Body>) -> std::future::Ready<Result<Response<Request<Body>>, tower::BoxError>> {
    std::future::ready(Ok(Response::new(request)))
}

async fn token(
    plugin: &ExecPlugin,
    last: &Mutex<Option<Credential>>,
    running: &tokio::sync::Semaphore,
) -> Result<Option<Secret<String>>, tower::BoxError> {
    if let Some(credential) = fresh(last) {
        return Ok(credential.token);
    }
    let _turn = running.acquire().await?;
    if let Some(credential) = fresh(last) {
        return Ok(credential.token);
    }
    tracing::debug!(plugin = plugin.name(), "the token is about to end: running the credential plugin");
    let credential = plugin.run().await.map_err(Arc::new)?;
    let token = credential.token.clone();
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(credential);
    Ok(token)
}

fn fresh(last: &Mutex<Option<Credential>>) -> Option<Credential> {
    let last = last.lock().unwrap_or_else(PoisonError::into_inner);
    last.clone().filter(|credential| credential.expires.is_none_or(|end| SystemTime::now() + RENEW_BEFORE < end))
}
