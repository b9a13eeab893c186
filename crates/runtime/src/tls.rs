//! TLS on both ends: one provider (aws-lc-rs, passed explicitly and never the process's default),
//! certificates that can be replaced while serving, and the three ways to trust a server.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adit_core::diagnose::{Diagnose, Fault};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::ResolvesServerCert;
use rustls::{ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

pub mod authority;
mod identity;
mod trust;
mod words;

pub use identity::{Identity, ReloadingResolver};
pub use tokio_rustls::server::TlsStream;
pub(crate) use trust::unverified_client_config;
pub use trust::{FingerprintMismatch, ServerTrust};
pub use words::{Untrusted, in_words, in_words_of_io};

/// The cryptography all of adit uses.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// A server's side: TLS 1.2 and 1.3, the certificate from `resolver` at each handshake, sessions
/// resumed by ticket. `alpn` is in order of preference.
///
/// # Errors
/// [`TlsError::Library`] when the library refuses the settings.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The server's side of a handshake, under a deadline. Never call it in an accept loop: start a task.
///
/// # Errors
/// [`HandshakeError`]; the connection is gone then.
pub async fn accept<S>(
    config: &Arc<ServerConfig>,
    stream: S,
    deadline: Duration,
) -> Result<TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
    match tokio::time::timeout(deadline, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(HandshakeError::Failed { source }),
        Err(_) => Err(HandshakeError::Timeout { after: deadline }),
    }
}

/// What the client asked for by SNI and what was agreed on by ALPN.
#[must_use]
pub fn negotiated(connection: &ServerConnection) -> (Option<&str>, Option<&[u8]>) {
    (connection.server_name(), connection.alpn_protocol())
}

/// Why a client's handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("no tls handshake within {after:?}")]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// The client sent something else, went away, or does not trust us.
    #[error("the tls handshake failed")]
    Failed {
        /// What the TLS library said.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for HandshakeError {
    fn fault(&self) -> Fault {
        match self {
            Self::Timeout { .. } | Self::Failed { .. } => Fault::Downstream,
        }
    }

    fn hint(&self) -> Option<String> {
        None
    }
}

/// The SHA-256 of a certificate, which an agent can pin; reads and shows as `sha256:AB:CD:…`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256")?;
        self.0.iter().try_for_each(|byte| write!(f, ":{byte:02X}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let text = text.trim();
        let prefixed = text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sha256:"));
        let hex = if prefixed { &text[7..] } else { text };
        let mut digits = hex.bytes().filter(|byte| *byte != b':').map(hex_digit);
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            let (high, low) = (digits.next().flatten(), digits.next().flatten());
            *byte = high.ok_or(NotAFingerprint)? << 4 | low.ok_or(NotAFingerprint)?;
        }
        if digits.next().is_some() {
            return Err(NotAFingerprint);
        }
        Ok(Self(bytes))
    }
}

/// The text is not a SHA-256 in hex.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a fingerprint: 64 hex digits are expected, with or without colons, after an optional `sha256:`")]
pub struct NotAFingerprint;

/// What can be wrong with certificates, keys and names.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no usable {wanted}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
    },
    /// The key is not the certificate's.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Other users could read or replace a secret.
    #[error("{} is open to other users (mode {mode:04o})", path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of a local certificate authority is damaged, or its other half is gone.
    #[error("{} {problem}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, to be read after its name.
        problem: &'static str,
    },
    /// The system has no root certificates.
    #[error("no root certificates were found on this system")]
    NoRoots,
    /// Not a DNS name and not an address.
    #[error("`{name}` is not a name a certificate can have")]
    NotAName {
        /// The text.
        name: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Generate {
        /// What the certificate library said.
        #[source]
        source: rcgen::Error,
    },
    /// The TLS library refused.
    #[error("tls cannot be set up")]
    Library {
        /// What the TLS library said.
        #[from]
        source: rustls::Error,
    },
}

impl Diagnose for TlsError {
    fn fault(&self) -> Fault {
        match self {
            Self::Read { .. }
            | Self::Unusable { .. }
            | Self::Mismatch { .. }
            | Self::Exposed { .. }
            | Self::Authority { .. }
            | Self::NoRoots
            | Self::NotAName { .. } => Fault::Config,
            Self::Write { .. } | Self::Generate { .. } | Self::Library { .. } => Fault::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unusable { wanted, .. } => {
                format!("the file should have a PEM block with the {wanted}")
            }
            Self::Mismatch { .. } => "give the certificate and the key that were issued together".into(),
            Self::Exposed { path, mode } => format!("chmod {:o} {}", mode & 0o700, path.display()),
            Self::Authority { .. } => "restore the file, or move it and those beside it away to have a new authority \
                                       made, and then run `adit trust` again"
                .into(),
            Self::NoRoots => "install the system's ca-certificates, or give a ca file or a fingerprint".into(),
            Self::Read { .. } => "check the path, and that this user may read the file".into(),
            Self::Write { .. } => "check that this user may write there, and that there is room".into(),
            Self::NotAName { .. } | Self::Generate { .. } | Self::Library { .. } => return None,
        };
        Some(hint)
    }
}

/// A name or address as certificates have it.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::NotAName { name: name.to_owned() })
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests;
