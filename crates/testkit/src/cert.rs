//! Certificates for one test: an authority, leaves signed by it, and the client side that trusts them or anything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tempfile::TempDir;

/// An authority in a directory of its own, which goes when this is dropped.
#[derive(Debug)]
pub struct TestCa {
    dir: TempDir,
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

/// A certificate with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The chain file: the leaf alone.
    pub cert: PathBuf,
    /// The key file, mode 0600.
    pub key: PathBuf,
    /// The leaf as DER.
    pub der: CertificateDer<'static>,
}

impl TestCa {
    /// Makes an authority; its certificate is in [`TestCa::path`].
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "testkit authority");
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
        std::fs::write(dir.path().join("ca.pem"), &pem)?;
        Ok(Self { dir, params, key, pem })
    }

    /// The authority's certificate as a PEM file.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The authority's certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The directory with all its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Signs a certificate for these DNS names and addresses into `FILE.pem` and `FILE.key`; signing into the
    /// same file again replaces it at once, as a renewal does.
    pub fn leaf(&self, file: &str, names: &[&str]) -> io::Result<Leaf> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).map_err(io::Error::other)?;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).map_err(io::Error::other)?;
        let leaf = Leaf {
            cert: self.dir.path().join(format!("{file}.pem")),
            key: self.dir.path().join(format!("{file}.key")),
            der: cert.der().clone(),
        };
        replace(&leaf.key, &key.serialize_pem())?;
        replace(&leaf.cert, &cert.pem())?;
        Ok(leaf)
    }

    /// A client that trusts this authority alone, offering these ALPN protocols.
    pub fn client(&self, alpn: &[&str]) -> io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(io::Error::other)?;
        roots.add(der).map_err(io::Error::other)?;
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        Ok(offering(builder.with_root_certificates(roots).with_no_client_auth(), alpn))
    }
}

impl Leaf {
    /// A server that shows this certificate, offering these ALPN protocols.
    pub fn server(&self, alpn: &[&str]) -> io::Result<ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(io::Error::other)?;
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder = builder.with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.der.clone()], key).map_err(io::Error::other)?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

/// A client that trusts any certificate at all: for what listens on loopback in a test.
pub fn trust_anything(alpn: &[&str]) -> ClientConfig {
    trust_anything_with(aws_lc_rs::default_provider(), alpn)
}

/// The same with other cryptography: with a key share of another size.
pub fn trust_anything_with(provider: CryptoProvider, alpn: &[&str]) -> ClientConfig {
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    let verifier = Arc::new(TrustAnything(provider));
    offering(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth(), alpn)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn offering(mut config: ClientConfig, alpn: &[&str]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// Writes beside the file and renames, so that a reader sees the old content or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(new, path)
}

#[derive(Debug)]
struct TrustAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt;
    use tokio_rustls::TlsAcceptor;

    use super::{TestCa, trust_anything};
    use crate::raw;

    #[tokio::test]
    async fn a_leaf_is_trusted_for_its_name_only() {
        let ca = TestCa::new().unwrap();
        let leaf = ca.leaf("server", &["good.test"]).unwrap();
        let (listener, addr) = crate::task::listen().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(leaf.server(&["http/1.1"]).unwrap()));
        let _server = crate::task::spawn(crate::task::serve(listener, move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.shutdown().await;
                }
            }
        }));
        let good = raw::tls(addr, "good.test", ca.client(&["http/1.1"]).unwrap()).await.unwrap();
        assert_eq!(good.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(good.get_ref().1.peer_certificates().unwrap()[0], leaf.der);
        assert!(raw::tls(addr, "bad.test", ca.client(&[]).unwrap()).await.is_err());
        assert!(raw::tls(addr, "bad.test", trust_anything(&[])).await.is_ok());
    }
}
