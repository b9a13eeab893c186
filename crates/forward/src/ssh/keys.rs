//! Private keys and certificates of files.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use runtime::regular_file;
use russh::keys::{Algorithm, Certificate, PrivateKey, PublicKey, decode_secret_key};

/// Why such a key cannot be used here.
pub(crate) const IN_HARDWARE: &str = "a key in hardware, see backend: openssh";

/// Why the public half of a key cannot be used.
pub(crate) const PUBLIC: &str = "a public key, and no agent has the private one";

/// A private key's file, read.
pub(crate) enum FileKey {
    Ready(Box<PrivateKey>),
    /// A passphrase is needed.
    Locked(String),
    /// There is no such file.
    Missing,
    /// Others may use it, so that it is no secret; the mode of the file.
    Open(u32),
    /// It cannot be used; why.
    Unusable(String),
}

/// Reads a key.
pub(crate) fn read(path: &Path) -> FileKey {
    let (text, mode) = match text_and_mode(path) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return FileKey::Missing,
        Err(error) => return FileKey::Unusable(crate::error::words(&error)),
    };
    if let Some(key) = public_of(&text) {
        let is_hardware = is_hardware(&key.algorithm());
        return FileKey::Unusable(if is_hardware { IN_HARDWARE } else { PUBLIC }.into());
    }
    if let Some(mode) = mode {
        return FileKey::Open(mode);
    }
    match decode_secret_key(&text, None) {
        Ok(key) if is_hardware(&key.algorithm()) => FileKey::Unusable(IN_HARDWARE.into()),
        Ok(key) => FileKey::Ready(Box::new(key)),
        Err(russh::keys::Error::KeyIsEncrypted) => FileKey::Locked(text),
        // The PEM kinds of encryption say it in other ways.
        Err(_) if text.contains("ENCRYPTED") => FileKey::Locked(text),
        Err(_) if !text.contains("PRIVATE KEY") => FileKey::Unusable("it is no key".into()),
        Err(error) => FileKey::Unusable(error.to_string()),
    }
}

/// What a file holds, and its mode if others than its owner may use it (S6). As with OpenSSH a file of another owner is let pass: one that
/// was given to us, as a secret is to a container.
fn text_and_mode(path: &Path) -> std::io::Result<(String, Option<u32>)> {
    let file = regular_file::open(path)?;
    // Of the open file: the name may lead to another one in the next moment.
    let found = file.metadata()?;
    let is_ours = found.uid() == rustix::process::getuid().as_raw();
    let mode = (is_ours && found.is_file() && found.mode() & 0o077 != 0).then_some(found.mode() & 0o777);
    let mut text = String::new();
    if found.is_file() {
        file.take(regular_file::SIZE_MAX).read_to_string(&mut text)?;
    }
    Ok((text, mode))
}

/// Opens a locked key.
pub(crate) fn unlock(text: &str, passphrase: &str) -> Option<PrivateKey> {
    decode_secret_key(text, Some(passphrase)).ok()
}

/// The public half: of the file beside it, of the file itself if that is a public key, or of the private key, which has
/// it in the clear even when it is locked.
pub(crate) fn public(path: &Path) -> Option<PublicKey> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    if let Some(key) = regular_file::read_to_string(&PathBuf::from(beside)).ok().and_then(|text| public_of(&text)) {
        return Some(key);
    }
    let text = regular_file::read_to_string(path).ok()?;
    public_of(&text).or_else(|| Some(PrivateKey::from_openssh(&text).ok()?.public_key().clone()))
}

fn public_of(text: &str) -> Option<PublicKey> {
    PublicKey::from_openssh(text.trim()).ok()
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
    for certificate in
        files.filter_map(|path| Certificate::from_openssh(regular_file::read_to_string(&path).ok()?.trim()).ok())
    {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_in_hardware_is_known_by_its_file_and_by_its_public_half() {
        use russh::keys::ssh_key::{LineEnding, private, public};
        let dir = tempfile::tempdir().unwrap();
        let (path, half) = (dir.path().join("id_sk"), dir.path().join("half.pub"));
        let public = public::SkEd25519::new(public::Ed25519PublicKey([7; 32]), "ssh:".to_owned());
        let key = PrivateKey::new(private::SkEd25519::new(public, 1, vec![1; 64]).unwrap().into(), "me").unwrap();
        fs::write(&path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&half, key.public_key().to_openssh().unwrap()).unwrap();
        for file in [&path, &half] {
            assert!(matches!(read(file), FileKey::Unusable(reason) if reason == IN_HARDWARE), "{}", file.display());
            assert!(are_in_hardware(&[dir.path().join("none"), file.clone()]), "{}", file.display());
        }
        let plain = dir.path().join("plain.pub");
        fs::write(&plain, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n")
            .unwrap();
        assert!(!are_in_hardware(&[path, plain]), "one of two can be used here");
    }

    #[test]
    fn a_public_half_is_found_in_each_file_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let mut command = std::process::Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "locked", "-C", "me", "-f"]).arg(&path);
        assert!(command.status().unwrap().success());
        let beside = path.with_extension("pub");
        let wanted = public(&path).unwrap();
        assert_eq!(public(&beside).unwrap().key_data(), wanted.key_data(), "named itself");
        fs::remove_file(&beside).unwrap();
        assert_eq!(public(&path).unwrap().key_data(), wanted.key_data(), "of the locked key alone");
        assert!(public(&dir.path().join("none")).is_none());
    }
}
