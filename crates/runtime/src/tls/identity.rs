//! A server's certificate and key: from files, or made once and kept.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::InconsistentKeys;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Fingerprint, TlsError, provider};
use crate::regular_file;

/// Certificate and key of a self-signed identity, in one file so that no half of it can be missing.
const SELF_SIGNED_FILE: &str = "self-signed.pem";

/// A certificate chain with its private key.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads a chain (leaf first) and a key from PEM files, which may be the same file.
    ///
    /// # Errors
    /// [`TlsError`] when a file cannot be read or used, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        warn_if_exposed(key);
        let chain = read_certificates(certificate)?;
        let unusable_key = || TlsError::Unusable { path: key.to_owned(), wanted: "private key" };
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| unusable_key())?;
        let signer = provider().key_provider.load_private_key(secret).map_err(|_| unusable_key())?;
        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Self { certified: Arc::new(certified) })
            }
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() })
            }
            Err(_) => Err(TlsError::Unusable { path: certificate.to_owned(), wanted: "certificate" }),
        }
    }

    /// The self-signed identity kept in `directory`; made on the first call, for `names`, and the
    /// same ever after, so that its fingerprint can be pinned.
    ///
    /// # Errors
    /// [`TlsError`] when it cannot be made or kept, or others may read it.
    pub fn self_signed(directory: &Path, names: &[String]) -> Result<Self, TlsError> {
        let path = directory.join(SELF_SIGNED_FILE);
        if !path.exists() {
            create_private_directory(directory)?;
            let pem = generate(names)?;
            keep_first(directory, &path, pem.as_bytes())
                .map_err(|source| TlsError::Write { path: path.clone(), source })?;
        }
        refuse_if_exposed(&path, 0o077)?;
        Self::load(&path, &path)
    }

    /// A self-signed identity that is not kept: for tests and for everything-in-one-process.
    ///
    /// # Errors
    /// [`TlsError::Generate`] when a name is not one a certificate can have.
    pub fn ephemeral(names: &[String]) -> Result<Self, TlsError> {
        let (certificate, key) = generate_parts(names)?;
        let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(|text| {
            let source = rustls::Error::General(text.to_owned());
            TlsError::Library { source }
        })?;
        let signer = provider().key_provider.load_private_key(secret)?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], signer);
        Ok(Self { certified: Arc::new(certified) })
    }

    /// The leaf's fingerprint, for agents that pin it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.leaf())
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    fn leaf(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], |leaf| leaf)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

/// Hands out the current identity at each handshake; replacing it touches no open connection.
pub struct ReloadingResolver {
    current: ArcSwap<CertifiedKey>,
    files: Option<(PathBuf, PathBuf)>,
}

impl ReloadingResolver {
    /// An identity that is replaced by [`ReloadingResolver::replace`] only.
    #[must_use]
    pub fn fixed(identity: Identity) -> Arc<Self> {
        Self::with_files(identity, None)
    }

    /// An identity from files.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let identity = Identity::load(certificate, key)?;
        let files = (certificate.to_owned(), key.to_owned());
        Ok(Self::with_files(identity, Some(files)))
    }

    fn with_files(identity: Identity, files: Option<(PathBuf, PathBuf)>) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::new(identity.certified), files })
    }

    /// Reads the files again; says whether the certificate is another one now.
    ///
    /// # Errors
    /// As [`Identity::load`]; the identity in use stays then.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some((certificate, key)) = &self.files else {
            return Ok(false);
        };
        let fresh = Identity::load(certificate, key)?;
        let changed = fresh.fingerprint() != self.identity().fingerprint();
        self.replace(fresh);
        Ok(changed)
    }

    /// Uses another identity from the next handshake on.
    pub fn replace(&self, identity: Identity) {
        self.current.store(identity.certified);
    }

    /// The identity in use.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { certified: self.current.load_full() }
    }

    /// The files it comes from, to be watched.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().flat_map(|(certificate, key)| [certificate.clone(), key.clone()]).collect()
    }
}

impl ResolvesServerCert for ReloadingResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for ReloadingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReloadingResolver({:?})", self.identity())
    }
}

/// All certificates of a PEM file, at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(TlsError::Unusable { path: path.to_owned(), wanted: "certificate" }),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    regular_file::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

/// A key from a certificate service often is readable for a group: only said, not refused.
fn warn_if_exposed(key: &Path) {
    if let Ok(mode) = mode(key)
        && mode & 0o007 != 0
    {
        tracing::warn!(path = %key.display(), mode = format!("{mode:04o}"), "every user can read this private key");
    }
}

pub(super) fn refuse_if_exposed(path: &Path, forbidden: u32) -> Result<(), TlsError> {
    let mode = mode(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    if mode & forbidden != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Makes a directory for secrets, unless it is there; nobody else may be able to put a file into it.
pub(super) fn create_private_directory(directory: &Path) -> Result<(), TlsError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| TlsError::Write { path: directory.to_owned(), source })?;
    refuse_if_exposed(directory, 0o002)
}

fn generate_parts(names: &[String]) -> Result<(rcgen::Certificate, KeyPair), TlsError> {
    let make = || {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "adit server");
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?, key))
    };
    make().map_err(|source| TlsError::Generate { source })
}

fn generate(names: &[String]) -> Result<String, TlsError> {
    let (certificate, key) = generate_parts(names)?;
    Ok(certificate.pem() + &key.serialize_pem())
}

/// Writes `path` as a whole or not at all; when another process was first, its file stays.
fn keep_first(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = directory.join(format!(".{SELF_SIGNED_FILE}.{}", std::process::id()));
    let _ = fs::remove_file(&draft); // of an earlier process with this number that was killed
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    let linked = match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    fs::remove_file(&draft)?;
    linked?;
    File::open(directory)?.sync_all()
}
