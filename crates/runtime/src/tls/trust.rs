//! How a client decides that a server is the right one.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::identity::read_certificates;
use super::words::Untrusted;
use super::{Fingerprint, TlsError, provider};

/// What makes a server's certificate acceptable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServerTrust {
    /// Issued, for the server's name, by an authority this system trusts.
    Roots,
    /// Issued, for the server's name, by an authority in this PEM file, or in that file itself.
    CaFile(PathBuf),
    /// Exactly the certificate with this SHA-256, whatever name it has.
    Pinned([u8; 32]),
}

impl ServerTrust {
    /// A client's settings; `alpn` is in order of preference.
    ///
    /// # Errors
    /// [`TlsError`] when the authorities cannot be read.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
        match self {
            Self::Roots => trusting_roots(system_roots()?, alpn),
            Self::CaFile(path) => {
                let named = read_certificates(path)?;
                let unusable = || TlsError::Unusable { path: path.clone(), wanted: "certificate" };
                let mut roots = RootCertStore::empty();
                for certificate in &named {
                    roots.add(certificate.clone()).map_err(|_| unusable())?;
                }
                let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
                let chain = chain.build().map_err(|_| unusable())?;
                trusting(NamedVerifier { chain, named }, alpn)
            }
            Self::Pinned(digest) => trusting(LeafVerifier::of(Accept::Only(Fingerprint(*digest))), alpn),
        }
    }
}

/// A client's settings that accept any certificate. Only for services on this machine.
pub(crate) fn unverified_client_config(alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    trusting(LeafVerifier::of(Accept::Any), alpn)
}

/// The server showed another certificate than the pinned one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the server's certificate is {found}, but {pinned} is pinned")]
pub struct FingerprintMismatch {
    /// What was pinned.
    pub pinned: Fingerprint,
    /// What the server showed.
    pub found: Fingerprint,
}

fn trusting_roots(roots: Arc<RootCertStore>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(with_alpn(config, alpn))
}

fn trusting(verifier: impl ServerCertVerifier + 'static, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(with_alpn(config, alpn))
}

fn with_alpn(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Read once: it takes tens of milliseconds.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some of the system's root certificates cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

#[derive(Clone, Copy, Debug)]
enum Accept {
    Only(Fingerprint),
    Any,
}

/// Looks at the leaf alone. The handshake's signature is checked all the same: it proves that the
/// server has the certificate's key.
#[derive(Debug)]
struct LeafVerifier {
    accept: Accept,
    algorithms: WebPkiSupportedAlgorithms,
}

impl LeafVerifier {
    fn of(accept: Accept) -> Self {
        Self { accept, algorithms: provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for LeafVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Fingerprint::of(leaf);
        match self.accept {
            Accept::Only(pinned) if pinned != found => {
                let mismatch = FingerprintMismatch { pinned, found };
                Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
            }
            Accept::Only(_) | Accept::Any => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The usual checks, but that a server may show the very certificate that is trusted. One made by `openssl req -x509` may
/// sign others, and the library takes no such certificate for a server's (RFC 5280, 4.2.1.9, does not ask for that).
#[derive(Debug)]
struct NamedVerifier {
    chain: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chain.verify_server_cert(leaf, intermediates, server_name, ocsp_response, now) {
            // The library has looked at its time before.
            Err(error) if Untrusted::of(&error) == Untrusted::Authority && self.named.contains(leaf) => {
                verify_server_name(&ParsedCertificate::try_from(leaf)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
