//! Private keys and certificates of files.

use std::fs;
use std::path::{Path, PathBuf};

use russh::keys::{Algorithm, Certificate, PrivateKey, PublicKey, decode_secret_key};

/// A private key's file, read.
pub(crate) enum FileKey {
    Ready(Box<PrivateKey>),
    /// A passphrase is needed.
    Locked(String),
    /// It cannot be used; why.
    Unusable(String),
}

/// Reads a key; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Option<FileKey> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(FileKey::Unusable(crate::error::words(&error))),
    };
    Some(match decode_secret_key(&text, None) {
        Ok(key) if is_hardware(&key.algorithm()) => FileKey::Unusable("a key in hardware, see backend: openssh".into()),
        Ok(key) => FileKey::Ready(Box::new(key)),
        Err(russh::keys::Error::KeyIsEncrypted) => FileKey::Locked(text),
        // The PEM kinds of encryption say it in other ways.
        Err(_) if text.contains("ENCRYPTED") => FileKey::Locked(text),
        Err(error) => FileKey::Unusable(error.to_string()),
    })
}

/// Opens a locked key.
pub(crate) fn unlock(text: &str, passphrase: &str) -> Option<PrivateKey> {
    decode_secret_key(text, Some(passphrase)).ok()
}

/// The public half, from the file beside it.
pub(crate) fn public(path: &Path) -> Option<PublicKey> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    let text = fs::read_to_string(PathBuf::from(name)).ok()?;
    PublicKey::from_openssh(&text).ok()
}

/// The certificates for keys: those beside them, and those that are configured.
pub(crate) fn certificates(identities: &[PathBuf], configured: &[PathBuf]) -> Vec<Certificate> {
    let beside = identities.iter().map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push("-cert.pub");
        PathBuf::from(name)
    });
    let files = configured.iter().cloned().chain(beside);
    let mut found: Vec<Certificate> = Vec::new();
    for certificate in files.filter_map(|path| Certificate::from_openssh(fs::read_to_string(path).ok()?.trim()).ok()) {
        if !found.contains(&certificate) {
            found.push(certificate);
        }
    }
    found
}

/// Whether all keys that are there are in hardware, which only OpenSSH speaks with.
pub(crate) fn are_in_hardware(identities: &[PathBuf]) -> bool {
    let mut there = identities.iter().filter(|path| path.exists()).peekable();
    there.peek().is_some() && there.all(|path| public(path).is_some_and(|key| is_hardware(&key.algorithm())))
}

fn is_hardware(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256)
}
