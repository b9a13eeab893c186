//! Who asks: tokens, client certificates, basic authentication, a credential plugin; and the certificates of it all.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::locked;
use crate::cert::TestCa;

mod plugin;

use plugin::Plugin;

/// The user's name in every answer.
const USER: &str = "fake";

/// How clients show who they are; the kubeconfig is written to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// This token in the kubeconfig.
    Token(String),
    /// A certificate signed by the cluster's authority.
    ClientCert,
    /// A program that prints a token, which it says is good for so long.
    ExecPlugin {
        /// From the program's run to the `expirationTimestamp` it names.
        lifetime: Duration,
    },
    /// User and password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// Anybody may do anything.
    None,
}

/// Credentials and certificates of one cluster.
#[derive(Debug)]
pub(super) struct Auth {
    mode: AuthMode,
    ca: TestCa,
    tls: Arc<ServerConfig>,
    client: ClientIdentity,
    plugin: Plugin,
    /// The tokens that are good.
    tokens: Mutex<BTreeSet<String>>,
    current: Mutex<String>,
}

/// A certificate and a key as PEM.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    pub(super) cert: String,
    pub(super) key: String,
}

/// What a request's credentials come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    User(&'static str),
    /// No credentials at all.
    Anonymous,
    /// Credentials that are wrong.
    Wrong,
}

impl AuthMode {
    /// A token nobody can guess.
    pub fn random_token() -> Self {
        Self::Token(random())
    }
}

impl Auth {
    pub(super) fn new(mode: &AuthMode) -> io::Result<Self> {
        let ca = TestCa::new()?;
        let (client_ca, client) = client_identity().map_err(io::Error::other)?;
        let leaf = ca.leaf("apiserver", &["127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default.svc"])?;
        let key = PrivateKeyDer::from_pem_file(&leaf.key).map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        roots.add(client_ca).map_err(io::Error::other)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build().map_err(io::Error::other)?;
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?.with_client_cert_verifier(verifier);
        let mut tls = builder.with_single_cert(vec![leaf.der.clone()], key).map_err(io::Error::other)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let token = match mode {
            AuthMode::Token(token) => token.clone(),
            _ => random(),
        };
        let lifetime = match mode {
            AuthMode::ExecPlugin { lifetime } => *lifetime,
            _ => Duration::ZERO,
        };
        let plugin = Plugin::new(ca.dir(), &token, lifetime)?;
        Ok(Self {
            mode: mode.clone(),
            ca,
            tls: Arc::new(tls),
            client,
            plugin,
            tokens: Mutex::new(BTreeSet::from([token.clone()])),
            current: Mutex::new(token),
        })
    }

    /// The TLS side of a connection, when there is to be one.
    pub(super) fn acceptor(&self, tls: bool) -> Option<TlsAcceptor> {
        tls.then(|| TlsAcceptor::from(Arc::clone(&self.tls)))
    }

    pub(super) fn mode(&self) -> &AuthMode {
        &self.mode
    }

    #[expect(clippy::unused_self, reason = "a cluster with several users would look it up here")]
    pub(super) fn user(&self) -> &'static str {
        USER
    }

    pub(super) fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    pub(super) fn client(&self) -> &ClientIdentity {
        &self.client
    }

    pub(super) fn token(&self) -> String {
        locked(&self.current).clone()
    }

    pub(super) fn plugin_path(&self) -> PathBuf {
        self.plugin.path()
    }

    pub(super) fn plugin_runs(&self) -> usize {
        self.plugin.runs()
    }

    /// Makes a new token, and the old one worthless.
    pub(super) fn rotate(&self) -> String {
        let token = random();
        *locked(&self.tokens) = BTreeSet::from([token.clone()]);
        locked(&self.current).clone_from(&token);
        self.plugin.hand_out(&token);
        token
    }

    /// Who a request is from, by its connection's certificate and its Authorization field.
    pub(super) fn caller(&self, certificate: Option<&'static str>, authorization: Option<&str>) -> Caller {
        if self.mode == AuthMode::None {
            return Caller::User(USER);
        }
        match (certificate, authorization) {
            (Some(user), _) => Caller::User(user),
            (None, None) => Caller::Anonymous,
            (None, Some(shown)) if self.accepts(shown) => Caller::User(USER),
            (None, Some(_)) => Caller::Wrong,
        }
    }

    fn accepts(&self, shown: &str) -> bool {
        match (&self.mode, shown.split_once(' ')) {
            (AuthMode::Token(_) | AuthMode::ExecPlugin { .. }, Some((scheme, token))) => {
                scheme.eq_ignore_ascii_case("bearer") && locked(&self.tokens).contains(token.trim())
            }
            (AuthMode::Basic { username, password }, Some((scheme, pair))) => {
                scheme.eq_ignore_ascii_case("basic")
                    && pair.trim() == base64(format!("{username}:{password}").as_bytes())
            }
            _ => false,
        }
    }
}

/// An authority for clients, and the user's certificate by it. Real clusters have several authorities too.
fn client_identity() -> Result<(CertificateDer<'static>, ClientIdentity), rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "testkit client authority");
    let authority_key = KeyPair::generate()?;
    let root = authority.self_signed(&authority_key)?.der().clone();
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, USER);
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &Issuer::from_params(&authority, &authority_key))?;
    Ok((root, ClientIdentity { cert: cert.pem(), key: key.serialize_pem() }))
}

/// 32 hexadecimal digits nobody can guess.
fn random() -> String {
    let mut bytes = [0_u8; 16];
    let filled = aws_lc_rs::default_provider().secure_random.fill(&mut bytes);
    assert!(filled.is_ok(), "the system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Base64 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            out.push(if place <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Auth, AuthMode, Caller, base64};

    #[test]
    fn base64_is_padded() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, encoded) in cases {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn a_rotated_token_is_worth_nothing() {
        let auth = Auth::new(&AuthMode::random_token()).unwrap();
        let old = format!("Bearer {}", auth.token());
        assert_eq!(auth.caller(None, Some(&old)), Caller::User("fake"));
        let new = format!("bearer {}", auth.rotate());
        assert_eq!(auth.caller(None, Some(&old)), Caller::Wrong);
        assert_eq!(auth.caller(None, Some(&new)), Caller::User("fake"));
        assert_eq!(auth.caller(None, None), Caller::Anonymous);
    }

    #[test]
    fn a_password_is_checked() {
        let mode = AuthMode::Basic { username: "u".to_owned(), password: "p:w".to_owned() };
        let auth = Auth::new(&mode).unwrap();
        assert_eq!(auth.caller(None, Some("Basic dTpwOnc=")), Caller::User("fake"));
        assert_eq!(auth.caller(None, Some("Basic dTpwOnd=")), Caller::Wrong);
    }

    #[test]
    fn the_plugin_prints_the_token_of_now_and_counts_its_runs() {
        let auth = Auth::new(&AuthMode::ExecPlugin { lifetime: Duration::from_secs(60) }).unwrap();
        let run = || {
            let output = std::process::Command::new(auth.plugin_path()).output().unwrap();
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        };
        assert_eq!(run()["status"]["token"], auth.token());
        let rotated = auth.rotate();
        let second = run();
        assert_eq!(second["status"]["token"], rotated);
        let expires = crate::cluster::clock::parse(second["status"]["expirationTimestamp"].as_str().unwrap()).unwrap();
        assert!(expires.abs_diff(crate::cluster::clock::now() + 60) <= 5);
        assert_eq!(auth.plugin_runs(), 2);
    }
}
