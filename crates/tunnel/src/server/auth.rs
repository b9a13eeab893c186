//! Who an agent is, and what it may take: token file, JWT, or both.

mod jwt;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use adit_core::accounts::{Grant, Refusal, TokenStore};
use adit_core::config::server::{AuthConfig, ServerConfig};
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::token::Token;
use arc_swap::ArcSwap;

pub(crate) use jwt::JwtVerifier;

/// Checks credentials. The result holds until its expiry, or until [`Authenticate::still_valid`] says otherwise.
pub(crate) trait Authenticate: Send + Sync {
    /// What the credential grants.
    fn authenticate(&self, credential: &str, now: SystemTime) -> Result<Grant, AuthError>;
    /// Whether a grant given earlier still stands; asked after the files behind it changed.
    fn still_valid(&self, grant: &Grant, now: SystemTime) -> bool;
}

/// Why a credential is refused. The texts go to the peer, so none of them says which part was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// Not a credential this server knows.
    #[error("the token is not valid")]
    Invalid,
    /// It was valid once.
    #[error("the token has expired")]
    Expired,
    /// It was taken back.
    #[error("the token was revoked")]
    Revoked,
}

impl AuthError {
    /// The stable word sent to the agent.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Invalid => "invalid_token",
            Self::Expired => "token_expired",
            Self::Revoked => "token_revoked",
        }
    }
}

/// The files behind authentication cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthFilesError {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} cannot be used: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why, without its content.
        reason: String,
    },
    /// Others may read a secret.
    #[error("{path} can be read by others (mode {mode:o})")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl Diagnose for AuthFilesError {
    fn fault(&self) -> Fault {
        Fault::Config
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { path, .. } => format!("check that {} exists and that this user may read it", path.display()),
            Self::Content { path, .. } => format!("mend or remove {}", path.display()),
            Self::Mode { path, .. } => format!("chmod 600 {}", path.display()),
        })
    }
}

/// Keys of a configuration that is about to be applied.
pub(crate) struct Prepared(Option<JwtVerifier>);

/// Token file and JWT together.
pub(crate) struct Credentials {
    tokens_path: PathBuf,
    tokens: ArcSwap<TokenStore>,
    /// The token file as it was when it was read.
    stamp: Mutex<Option<Stamp>>,
    jwt: ArcSwap<Option<JwtVerifier>>,
}

impl Credentials {
    /// Reads the files. A token file that does not exist yet is an empty one.
    pub(crate) fn load(config: &ServerConfig, data_dir: &Path) -> Result<Self, AuthFilesError> {
        let tokens_path = tokens_path(&config.auth, data_dir);
        let stamp = Mutex::new(stamp_of(&tokens_path));
        let tokens = read_tokens(&tokens_path)?;
        let jwt = config.auth.jwt.as_ref().map(JwtVerifier::load).transpose()?;
        Ok(Self { tokens_path, tokens: ArcSwap::from_pointee(tokens), stamp, jwt: ArcSwap::from_pointee(jwt) })
    }

    /// Reads the keys a configuration names, for [`Credentials::apply`]; changes nothing.
    pub(crate) fn prepare(&self, config: &ServerConfig) -> Result<Prepared, AuthFilesError> {
        config.auth.jwt.as_ref().map(JwtVerifier::load).transpose().map(Prepared)
    }

    /// Puts what was prepared in force.
    pub(crate) fn apply(&self, prepared: Prepared) {
        self.jwt.store(std::sync::Arc::new(prepared.0));
    }

    /// Reads the files anew. One that cannot be used leaves what it held as it was, and the other is read all
    /// the same: a revoked token must not live on because a key is broken.
    pub(crate) fn reload(&self, config: &ServerConfig) -> Vec<AuthFilesError> {
        let tokens = self.reload_tokens().err();
        let jwt = self.prepare(config).map(|prepared| self.apply(prepared)).err();
        tokens.into_iter().chain(jwt).collect()
    }

    fn reload_tokens(&self) -> Result<(), AuthFilesError> {
        // Held meanwhile, so that an older reading never overwrites a newer one.
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp_of(&self.tokens_path);
        self.tokens.store(std::sync::Arc::new(read_tokens(&self.tokens_path)?));
        *known = stamp;
        Ok(())
    }

    /// The files to watch.
    pub(crate) fn files(&self, config: &ServerConfig) -> Vec<PathBuf> {
        let jwt = config.auth.jwt.as_ref().map(JwtVerifier::file);
        std::iter::once(self.tokens_path.clone()).chain(jwt).collect()
    }

    /// Reads the token file again if it has changed: a token is of use the moment it was created, not when
    /// the watch has noticed. Returns whether there is something new.
    fn catch_up(&self) -> bool {
        let stamp = stamp_of(&self.tokens_path);
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == stamp {
            return false;
        }
        let Ok(tokens) = read_tokens(&self.tokens_path) else { return false };
        self.tokens.store(std::sync::Arc::new(tokens));
        *known = stamp;
        true
    }

    fn check_token(&self, token: &Token, now: SystemTime) -> Result<Grant, Refusal> {
        match self.tokens.load().authenticate(token, now) {
            Err(Refusal::Unknown) if self.catch_up() => self.tokens.load().authenticate(token, now),
            result => result,
        }
    }

    /// Whether anybody could authenticate at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.load().records().is_empty() && self.jwt.load().is_none()
    }
}

impl Authenticate for Credentials {
    fn authenticate(&self, credential: &str, now: SystemTime) -> Result<Grant, AuthError> {
        if let Ok(token) = Token::parse(credential) {
            return self.check_token(&token, now).map_err(|refusal| match refusal {
                Refusal::Expired => AuthError::Expired,
                Refusal::Revoked => AuthError::Revoked,
                Refusal::Unknown => AuthError::Invalid,
            });
        }
        match &**self.jwt.load() {
            Some(jwt) => jwt.authenticate(credential, now),
            None => Err(AuthError::Invalid),
        }
    }

    fn still_valid(&self, grant: &Grant, now: SystemTime) -> bool {
        if grant.expired(now) {
            return false;
        }
        match grant.token_id.strip_prefix(jwt::ID_PREFIX) {
            Some(_) => self.jwt.load().is_some(),
            None => self.tokens.load().by_id(&grant.token_id).is_some_and(|record| record.check(now).is_ok()),
        }
    }
}

/// Tells one state of a file from another: when it was written, its length, its inode.
type Stamp = (SystemTime, u64, u64);

fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// Where the tokens lie: as configured, else in the data directory.
#[must_use]
pub fn tokens_path(auth: &AuthConfig, data_dir: &Path) -> PathBuf {
    auth.tokens_file.as_ref().map_or_else(|| data_dir.join("tokens.json"), PathBuf::from)
}

/// Reads a token file; one that does not exist is empty.
///
/// # Errors
/// It cannot be read, others may read it, or it is not a token file.
pub fn read_tokens(path: &Path) -> Result<TokenStore, AuthFilesError> {
    let text = match runtime::regular_file::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(TokenStore::new()),
        Err(source) => return Err(AuthFilesError::Read { path: path.to_owned(), source }),
    };
    check_mode(path)?;
    TokenStore::parse(&path.to_string_lossy(), &text)
        .map_err(|problems| AuthFilesError::Content { path: path.to_owned(), reason: problems.to_string() })
}

/// Refuses a secret file that others may read (S6).
pub(crate) fn check_mode(path: &Path) -> Result<(), AuthFilesError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(path).map_err(|source| AuthFilesError::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(AuthFilesError::Mode { path: path.to_owned(), mode }) }
}
