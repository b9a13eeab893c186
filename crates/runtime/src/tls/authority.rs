//! A local certificate authority: it makes certificates for whatever name a client on this machine asks for.
//!
//! One kind is kept in a directory, so that it can be trusted once (`adit trust`); the other lives in memory
//! and is for pages that have to be shown over TLS although nobody can trust them. Whoever has the key of a
//! trusted authority can pretend to be any site towards this user, so the key is readable by its owner only
//! and never leaves the directory.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::identity::{create_private_directory, read, refuse_if_exposed};
use super::{Fingerprint, TlsError, provider, server_name};

mod leaf;

pub use leaf::LeafResolver;

/// The certificate of a kept authority, in its directory.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// Its key.
pub const KEY_FILE: &str = "ca-key.pem";
/// Held by the one process that makes or renews an authority.
pub const LOCK_FILE: &str = "ca.lock";

/// How the name of every kept authority begins; a few digits of its key follow.
pub const NAME_PREFIX: &str = "adit local CA";

/// Long enough to be trusted once per machine.
const KEPT_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Nobody can trust it, so it only has to outlive the process.
const MEMORY_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// An authority with less left is renewed, so that no leaf of it is cut short.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);
/// How long a leaf is good for when its authority can be trusted.
const LEAF_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How long a leaf is good for that nobody trusts.
const MEMORY_LEAF_LIFE: Duration = Duration::from_secs(86_400);
/// For clocks that are late, as those of virtual machines that were asleep.
const BACKDATED: Duration = Duration::from_secs(86_400);
/// X.509's limit for a common name.
const COMMON_NAME_LIMIT: usize = 64;

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    facts: CertificateFacts,
    path: Option<PathBuf>,
    origin: Origin,
    leaf_life: Duration,
}

/// Where an authority came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// It was there.
    Kept,
    /// It was made by this call.
    Made,
    /// Its certificate was about to expire, so this call made another one for the same key. It has to be trusted again.
    Renewed,
}

impl Authority {
    /// An authority that ends with the process.
    ///
    /// # Errors
    /// [`TlsError::Generate`] when the name is not one a certificate can have.
    pub fn in_memory(common_name: &str) -> Result<Self, TlsError> {
        let key = new_key()?;
        let certificate = self_signed(&key, common_name, SystemTime::now(), MEMORY_LIFE)?;
        let der = certificate.der().clone();
        Self::assemble(der, certificate.pem(), key, None, Origin::Made).ok_or_else(unreadable)
    }

    /// The authority kept in `directory`; made on the first call and the same ever after. When less than 30 days
    /// of its certificate are left, it gets a new one for the same key, which is logged.
    ///
    /// Several processes may call it at once: they end with the same authority.
    ///
    /// # Errors
    /// [`TlsError`] when it cannot be made or read, or when others can read its key. Nothing that is there is
    /// overwritten then.
    pub fn load_or_create(directory: &Path) -> Result<Self, TlsError> {
        Self::load_or_create_at(directory, SystemTime::now())
    }

    /// The authority kept in `directory`, if there is one, as it is.
    ///
    /// # Errors
    /// [`TlsError`] when a file cannot be read or used, or when others can read the key.
    pub fn load(directory: &Path) -> Result<Option<Self>, TlsError> {
        let path = directory.join(CERTIFICATE_FILE);
        // The certificate is looked at first, because it is the one that is written last.
        if !exists(&path)? {
            return Ok(None);
        }
        let damaged = |problem| TlsError::Authority { path: path.clone(), problem };
        let no_pem = || damaged("holds no certificate in PEM form");
        let pem = String::from_utf8(read(&path)?).map_err(|_| no_pem())?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| no_pem())?;
        let key_path = directory.join(KEY_FILE);
        let key = load_key(&key_path)?.ok_or_else(|| TlsError::Authority {
            path: key_path.clone(),
            problem: "is missing, although the certificate of the authority is there",
        })?;
        let facts = CertificateFacts::of(&certificate).ok_or_else(|| damaged("holds a damaged certificate"))?;
        if !facts.authority {
            return Err(damaged("holds a certificate that is not one of an authority"));
        }
        if !is_intact(&certificate) {
            return Err(damaged("holds a damaged certificate"));
        }
        let certified = CertifiedKey::new(vec![certificate.clone()], signer(&key)?);
        if certified.keys_match().is_err() {
            return Err(TlsError::Mismatch { certificate: path, key: key_path });
        }
        Self::assemble(certificate, pem, key, Some(path.clone()), Origin::Kept)
            .map(Some)
            .ok_or_else(|| damaged("holds a certificate that cannot issue others"))
    }

    /// The certificate in PEM form, for those who are to trust it.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The certificate's SHA-256.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.facts.fingerprint
    }

    /// What the certificate says of itself.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The certificate's file; none for an authority in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether the call that returned it found it, made it or renewed it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    fn load_or_create_at(directory: &Path, now: SystemTime) -> Result<Self, TlsError> {
        create_private_directory(directory)?;
        refuse_if_exposed(directory, 0o022)?;
        // Without the lock first: a directory that can only be read is good enough for what is there.
        if let Some(kept) = Self::load(directory)?
            && !kept.expires_soon(now)
        {
            return Ok(kept);
        }
        let _lock = lock(directory)?;
        match Self::load(directory)? {
            Some(kept) if kept.expires_soon(now) => Self::renew(directory, now),
            Some(kept) => Ok(kept),
            None => Self::create(directory, now),
        }
    }

    fn expires_soon(&self, now: SystemTime) -> bool {
        self.facts.not_after <= now + RENEW_BEFORE
    }

    /// A key without a certificate is what a process leaves that was killed between the two: it is used.
    fn create(directory: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let key_path = directory.join(KEY_FILE);
        let key = match load_key(&key_path)? {
            Some(key) => key,
            None => {
                let key = new_key()?;
                write_whole(&key_path, 0o600, &key.serialize_pem())?;
                key
            }
        };
        let authority = Self::certify(directory, key, now, Origin::Made)?;
        tracing::info!(path = %directory.display(), fingerprint = %authority.fingerprint(),
            "a local certificate authority was made; `adit trust` makes browsers accept it");
        Ok(authority)
    }

    /// The key stays, so that its replacement is one rename, and so that whoever trusts the old certificate
    /// accepts the leaves until that one ends.
    fn renew(directory: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let key = load_key(&directory.join(KEY_FILE))?.ok_or_else(unreadable)?;
        let authority = Self::certify(directory, key, now, Origin::Renewed)?;
        tracing::warn!(path = %directory.display(), fingerprint = %authority.fingerprint(),
            "the certificate of the local authority was about to expire and was renewed: run `adit trust` again");
        Ok(authority)
    }

    fn certify(directory: &Path, key: KeyPair, now: SystemTime, origin: Origin) -> Result<Self, TlsError> {
        let certificate = self_signed(&key, &kept_name(&key), now, KEPT_LIFE)?;
        let path = directory.join(CERTIFICATE_FILE);
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        let authority = Self::assemble(der, pem, key, Some(path.clone()), origin).ok_or_else(unreadable)?;
        write_whole(&path, 0o644, &authority.pem)?;
        Ok(authority)
    }

    fn assemble(
        certificate: CertificateDer<'static>,
        pem: String,
        key: KeyPair,
        path: Option<PathBuf>,
        origin: Origin,
    ) -> Option<Self> {
        let facts = CertificateFacts::of(&certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).ok()?;
        let leaf_life = if path.is_some() { LEAF_LIFE } else { MEMORY_LEAF_LIFE };
        Some(Self { issuer, certificate, pem, facts, path, origin, leaf_life })
    }

    /// A certificate of a server with these names (host names or addresses) and this key, and when it ends.
    fn issue(
        &self,
        names: &[String],
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, SystemTime), TlsError> {
        for name in names {
            server_name(name)?;
        }
        let not_after = (now + self.leaf_life).min(self.facts.not_after);
        let issue = || {
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "adit local certificate");
            if let Some(name) = names.first().filter(|name| name.len() <= COMMON_NAME_LIMIT) {
                params.distinguished_name.push(DnType::CommonName, name.as_str());
            }
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.use_authority_key_identifier_extension = true;
            params.serial_number = random_serial();
            params.not_before = (now - BACKDATED).into();
            params.not_after = not_after.into();
            params.signed_by(key, &self.issuer)
        };
        let certificate = issue().map_err(|source| TlsError::Generate { source })?;
        Ok((certificate.der().clone(), not_after))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, {})", self.facts.common_name, self.facts.fingerprint)
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFacts {
    /// Its SHA-256.
    pub fingerprint: Fingerprint,
    /// Its subject's common name; empty when it has none.
    pub common_name: String,
    /// When it ends.
    pub not_after: SystemTime,
    /// Whether it may issue others.
    pub authority: bool,
}

impl CertificateFacts {
    /// Reads a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Some(Self {
            fingerprint: Fingerprint::of(der),
            common_name: common_name.unwrap_or_default().to_owned(),
            not_after: timestamp::from_unix(not_after),
            authority: certificate.is_ca(),
        })
    }

    /// Reads the certificates in a PEM text; what is something else or damaged is left out.
    #[must_use]
    pub fn all_in_pem(pem: &[u8]) -> Vec<Self> {
        CertificateDer::pem_slice_iter(pem).filter_map(|der| Self::of(&der.ok()?)).collect()
    }
}

/// Whether a certificate that signed itself did so: a wrong bit elsewhere than in its key is seen only so.
fn is_intact(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        certificate.issuer() != certificate.subject() || certificate.verify_signature(None).is_ok()
    })
}

fn self_signed(
    key: &KeyPair,
    common_name: &str,
    now: SystemTime,
    life: Duration,
) -> Result<rcgen::Certificate, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "adit");
    params.distinguished_name.push(DnType::CommonName, common_name);
    // It issues leaves only: nothing below it may be an authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = random_serial();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
    params.self_signed(key).map_err(|source| TlsError::Generate { source })
}

/// Each key has a name of its own: stores keep certificates by name, and there may be several users or directories.
fn kept_name(key: &KeyPair) -> String {
    let digest: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
    digest.iter().take(4).fold(format!("{NAME_PREFIX} "), |name, byte| name + &format!("{byte:02x}"))
}

fn new_key() -> Result<KeyPair, TlsError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|source| TlsError::Generate { source })
}

/// The key as the TLS library wants it.
fn signer(key: &KeyPair) -> Result<Arc<dyn SigningKey>, TlsError> {
    let general = |text: &str| TlsError::Library { source: rustls::Error::General(text.to_owned()) };
    let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(general)?;
    Ok(provider().key_provider.load_private_key(secret)?)
}

/// 127 random bits. The library's own default follows from the key, which all leaves share.
fn random_serial() -> Option<SerialNumber> {
    let mut bytes = [0; 16];
    provider().secure_random.fill(&mut bytes).ok()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Some(SerialNumber::from_slice(&bytes))
}

fn unreadable() -> TlsError {
    TlsError::Generate { source: rcgen::Error::CouldNotParseCertificate }
}

/// The key in a file, or none when there is no such file.
fn load_key(path: &Path) -> Result<Option<KeyPair>, TlsError> {
    if !exists(path)? {
        return Ok(None);
    }
    refuse_if_exposed(path, 0o077)?;
    let damaged = || TlsError::Authority { path: path.to_owned(), problem: "holds no usable private key in PEM form" };
    let pem = String::from_utf8(read(path)?).map_err(|_| damaged())?;
    KeyPair::from_pem(&pem).map(Some).map_err(|_| damaged())
}

fn exists(path: &Path) -> Result<bool, TlsError> {
    path.try_exists().map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn lock(directory: &Path) -> Result<File, TlsError> {
    let path = directory.join(LOCK_FILE);
    let locked = || {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    locked().map_err(|source| TlsError::Write { path: path.clone(), source })
}

/// Writes a file as a whole or not at all. The caller has the directory's lock, so the draft is its own.
fn write_whole(path: &Path, mode: u32, content: &str) -> Result<(), TlsError> {
    let draft = path.with_extension("new");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&draft); // of a process that was killed
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        // The umask may have taken from a file that everybody should be able to read.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
