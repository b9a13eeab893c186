//! Who we are towards an API server: what goes into each request.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
/// How long the token of a file is used before the file is read again.
const TOKEN_FILE_AGE: Duration = Duration::from_secs(10);

/// Adds the authorization to requests.
pub(crate) enum Signer {
    /// Tokens, OIDC, basic authentication, or nothing (client certificates): kube-rs knows them.
    Kube(Option<AuthLayer>),
    /// A file with a token, which somebody else keeps fresh. kube-rs takes the line's end for a part of it.
    File {
        /// Where.
        path: PathBuf,
        /// What it held, and when.
        last: Mutex<(Secret<String>, Instant)>,
    },
    /// A credential plugin, run again before its token ends.
    Plugin {
        /// The program.
        plugin: Box<ExecPlugin>,
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
        let user = &context.config.auth_info;
        if let (None, None, Some(path)) = (&context.plugin, &user.token, &user.token_file) {
            let path = PathBuf::from(path);
            let token = read_token(&path)
                .map_err(|error| SignerError::Other(format!("the token file {}: {error}", path.display())))?;
            return Ok(Self::File { path, last: Mutex::new((token, Instant::now())) });
        }
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
        Ok(Self::Plugin {
            plugin: Box::new(plugin),
            last: Mutex::new(Some(credential)),
            running: tokio::sync::Semaphore::new(1),
        })
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
            Self::File { path, last } => Box::pin(std::future::ready(authorize(request, &file_token(path, last)))),
            Self::Plugin { .. } => {
                let signer = Arc::clone(self);
                Box::pin(async move { signer.with_token(request).await })
            }
        }
    }

    async fn with_token(&self, request: Request<Body>) -> Signed {
        let Self::Plugin { plugin, last, running } = self else { return Ok(request) };
        match token(plugin, last, running).await? {
            Some(token) => authorize(request, &token),
            None => Ok(request),
        }
    }
}

fn authorize(mut request: Request<Body>, token: &Secret<String>) -> Signed {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
    value.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(request)
}

fn read_token(path: &Path) -> std::io::Result<Secret<String>> {
    runtime::regular_file::read_to_string(path).map(|text| Secret::new(text.trim().to_owned()))
}

/// The token of a file, read anew now and then. A file that is gone leaves the last one, as with kubectl.
fn file_token(path: &Path, last: &Mutex<(Secret<String>, Instant)>) -> Secret<String> {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if last.1.elapsed() > TOKEN_FILE_AGE {
        let token = read_token(path).unwrap_or_else(|_| last.0.clone());
        *last = (token, Instant::now());
    }
    last.0.clone()
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
    last.clone().filter(|credential| is_fresh(credential.expires, SystemTime::now()))
}

/// The end is a time of the wall clock, which may be set: one that looks ended is asked for anew, and one that only looks
/// good is refused by the server, and asked for anew then.
fn is_fresh(expires: Option<SystemTime>, now: SystemTime) -> bool {
    expires.is_none_or(|end| now + RENEW_BEFORE < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_by_eight_hours_makes_a_token_old_or_young_and_nothing_else() {
        let (now, eight) = (SystemTime::now(), Duration::from_secs(8 * 3600));
        let end = Some(now + Duration::from_secs(3600));
        assert!(is_fresh(end, now) && is_fresh(end, now - eight) && !is_fresh(end, now + eight));
        assert!(is_fresh(None, now + eight));
    }
}
