//! Which key a server may show, by the files that `ssh` uses too.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use adit_core::ssh::{HostKey, KnownHosts, StrictHostKeys, Verdict, key_list};
use adit_core::target::SshServer;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::{Scope, regular_file};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey, PublicKeyOrCertificate};

use super::error::SshError;
use super::settings::Known;

/// What a list of revoked keys in OpenSSH's own binary format begins with.
const BINARY_LIST: &[u8] = b"SSHKRL\n\0";

/// How far a server is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    Sure,
    /// Its key has changed, and the settings let that pass: it may be anybody, so nothing is told to it.
    Doubted,
}

/// The host keys that are known, for one server.
pub(crate) struct HostKeys {
    known: KnownHosts,
    server: String,
    /// The command that accepts its key.
    accept: String,
    name: String,
    /// The name that is looked up when nothing is known of the first.
    bare: Option<String>,
    /// The host without its port, for certificates.
    principal: String,
    /// Keys that no server may show, or why they are not known.
    revoked: Result<Vec<HostKey>, String>,
    strict: StrictHostKeys,
    hash: bool,
    file: Option<std::path::PathBuf>,
}

impl HostKeys {
    /// Reads them where it holds up no stream.
    pub(crate) async fn of(scope: &Scope, known: &Known) -> Result<Self, SshError> {
        let files = known.clone();
        let read = scope.spawn_blocking("read known_hosts", move || Self::read(&files)).await;
        read.map_err(|lost| SshError::settings(&known.server.to_string(), lost.to_string()))
    }

    fn read(known: &Known) -> Self {
        let mut hosts = KnownHosts::default();
        for path in known.user_known_hosts.iter().chain(&known.global_known_hosts) {
            // Most of them do not exist.
            if let Ok(text) = regular_file::read(path) {
                hosts.read(&path.display().to_string(), &String::from_utf8_lossy(&text));
            }
        }
        let settings = &known.settings;
        Self {
            known: hosts,
            server: known.server.to_string(),
            accept: accept(&known.server),
            name: settings.known_name(),
            bare: settings.bare_name(),
            principal: settings.host_key_alias.clone().unwrap_or_else(|| settings.host.clone()),
            revoked: revoked(&known.revoked),
            strict: settings.strict,
            hash: settings.hash_known_hosts,
            file: known.user_known_hosts.first().cloned(),
        }
    }

    /// The algorithms to ask for: those of known keys first, so that a server with several shows a known one.
    pub(crate) fn algorithms(&self, all: &[Algorithm]) -> Vec<Algorithm> {
        let mut kinds = self.known.kinds(&self.name, &is_hashed);
        if let Some(bare) = self.bare.as_deref().filter(|_| kinds.is_empty()) {
            kinds = self.known.kinds(bare, &is_hashed);
        }
        let is_known = |algorithm: &&Algorithm| {
            let rsa = matches!(algorithm, Algorithm::Rsa { .. }) && kinds.contains(&"ssh-rsa");
            rsa || kinds.contains(&algorithm.as_str())
        };
        let (known, other): (Vec<_>, Vec<_>) = all.iter().partition(|algorithm| is_known(algorithm));
        known.into_iter().chain(other).cloned().collect()
    }

    /// Whether somebody signs keys of this host.
    pub(crate) fn has_authority(&self) -> bool {
        self.names().any(|name| !self.known.authorities(name, &is_hashed).is_empty())
    }

    /// Whether any key is known that the host may show.
    pub(crate) fn has_any(&self) -> bool {
        self.has_authority() || self.names().any(|name| !self.known.kinds(name, &is_hashed).is_empty())
    }

    /// Whether the server is who it says.
    pub(crate) fn check(&self, shown: &PublicKeyOrCertificate) -> Result<Belief, SshError> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.check_key(key),
            PublicKeyOrCertificate::Certificate(certificate) => self.check_certificate(certificate),
        }
    }

    /// Writes a key down.
    pub(crate) fn accept(&self, key: &PublicKey) -> Result<String, SshError> {
        let fault = |reason: String| SshError::settings(&self.server, reason);
        let file = self.file.as_deref().ok_or_else(|| fault("there is no file for host keys".to_owned()))?;
        let name = if self.hash { hashed(&self.name) } else { self.name.clone() };
        let key = written(key).ok_or_else(|| fault("the key cannot be written".to_owned()))?;
        append(file, &format!("{name} {} {}\n", key.kind, key.blob))
            .map_err(|error| fault(format!("{} cannot be written: {}", file.display(), crate::error::words(&error))))?;
        Ok(file.display().to_string())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.bare.as_deref())
    }

    /// What is known of the key. Under the name without a port only a key that is right counts: another one may be that of
    /// another server of the host.
    fn verdict(&self, key: &HostKey) -> Verdict {
        let verdict = self.known.verdict(&self.name, key, &is_hashed);
        match (&verdict, &self.bare) {
            (Verdict::Unknown, Some(bare)) => match self.known.verdict(bare, key, &is_hashed) {
                Verdict::Changed(_) => Verdict::Unknown,
                known => known,
            },
            _ => verdict,
        }
    }

    fn check_key(&self, key: &PublicKey) -> Result<Belief, SshError> {
        let unusable = || SshError::BadKey { server: self.server.clone(), reason: "it is of no known type".to_owned() };
        let found = written(key).ok_or_else(unusable)?;
        let (server, kind, fingerprint) = (self.server.clone(), found.kind.clone(), fingerprint(key));
        self.check_list(&found)?;
        match self.verdict(&found) {
            Verdict::Known => Ok(Belief::Sure),
            Verdict::Revoked(place) => {
                Err(SshError::BadKey { server, reason: format!("{place} revokes {kind} {fingerprint}") })
            }
            Verdict::Changed(place) if self.strict == StrictHostKeys::No => {
                tracing::warn!(server, %place, fingerprint, "the host key has changed, and StrictHostKeyChecking is off");
                Ok(Belief::Doubted)
            }
            Verdict::Changed(place) => Err(SshError::ChangedKey {
                server,
                kind,
                fingerprint,
                place: place.to_string(),
                accept: self.accept.clone(),
            }),
            Verdict::Unknown if matches!(self.strict, StrictHostKeys::AcceptNew | StrictHostKeys::No) => {
                tracing::info!(server, fingerprint, "a new host key is accepted, as StrictHostKeyChecking says");
                if let Err(error) = self.accept(key) {
                    tracing::warn!(%error, "the host key cannot be written down");
                }
                Ok(Belief::Sure)
            }
            Verdict::Unknown => {
                let accept = self.accept.clone();
                Err(SshError::UnknownKey { server, kind, fingerprint, accept })
            }
        }
    }

    /// Whether the key is on a list of revoked ones. Without the list nobody is believed, as with OpenSSH.
    fn check_list(&self, key: &HostKey) -> Result<(), SshError> {
        let reason = match &self.revoked {
            Ok(revoked) if !revoked.contains(key) => return Ok(()),
            Ok(_) => "RevokedHostKeys has it".to_owned(),
            Err(reason) => format!("whether it is revoked cannot be told: {reason}"),
        };
        Err(SshError::BadKey { server: self.server.clone(), reason })
    }

    fn check_certificate(&self, certificate: &Certificate) -> Result<Belief, SshError> {
        let key = PublicKey::new(certificate.public_key().clone(), "");
        let authority = PublicKey::new(certificate.signature_key().clone(), "");
        let bad = |reason: String| SshError::BadKey { server: self.server.clone(), reason };
        for key in [&key, &authority] {
            let key = written(key).ok_or_else(|| bad("it is of no known type".to_owned()))?;
            self.check_list(&key)?;
            if let Some(place) = self.names().find_map(|name| self.known.revoked(name, &key, &is_hashed)) {
                return Err(bad(format!("{place} revokes it")));
            }
        }
        let signs = |authority: HostKey| {
            self.names().any(|name| self.known.authorities(name, &is_hashed).contains(&&authority))
        };
        if !written(&authority).is_some_and(signs) {
            // Nobody we know signed it; the key in it may still be known by itself.
            return self.check_key(&key);
        }
        if certificate.cert_type() != CertType::Host {
            return Err(bad("its certificate is one of a user".to_owned()));
        }
        // Critical is what whoever does not know it must not pass over, and none is known for hosts.
        if let Some((option, _)) = certificate.critical_options().iter().next() {
            return Err(bad(format!("its certificate has the critical option {option}, which is not known")));
        }
        let principals = certificate.valid_principals();
        if !principals.is_empty() && !principals.iter().any(|name| name.eq_ignore_ascii_case(&self.principal)) {
            return Err(bad(format!("its certificate is for {}, not for {}", principals.join(", "), self.principal)));
        }
        let authority = authority.fingerprint(HashAlg::Sha256);
        let in_force = certificate.validate([&authority]);
        in_force.map(|()| Belief::Sure).map_err(|error| bad(format!("its certificate is not in force: {error}")))
    }
}

/// `SHA256:…`, as `ssh-keygen -l` prints it.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Whether only OpenSSH can read the list.
pub(crate) fn is_binary_list(path: &Path) -> bool {
    use std::io::Read as _;
    let mut head = Vec::new();
    let read = regular_file::open(path).and_then(|file| file.take(BINARY_LIST.len() as u64).read_to_end(&mut head));
    read.is_ok() && head == BINARY_LIST
}

fn revoked(paths: &[std::path::PathBuf]) -> Result<Vec<HostKey>, String> {
    let mut keys = Vec::new();
    for path in paths {
        let fault = |reason: String| format!("{}: {reason}", path.display());
        let text = regular_file::read(path).map_err(|error| fault(crate::error::words(&error)))?;
        if text.starts_with(BINARY_LIST) {
            return Err(fault("only `backend: openssh` can read this list".to_owned()));
        }
        keys.extend(key_list(&String::from_utf8_lossy(&text)));
    }
    Ok(keys)
}

fn written(key: &PublicKey) -> Option<HostKey> {
    let blob = STANDARD.encode(key.to_bytes().ok()?);
    // The blob's own name: RSA keys are `ssh-rsa` whatever signs with them.
    Some(HostKey { kind: key.algorithm().as_str().to_owned(), blob })
}

fn is_hashed(salt: &str, hash: &str, name: &str) -> bool {
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, name.as_bytes(), &hash).is_ok()
}

fn hashed(name: &str) -> String {
    let salt: [u8; 20] = rand::random();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    let hash = hmac::sign(&key, name.as_bytes());
    format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(hash.as_ref()))
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let ends_open = regular_file::read(path).is_ok_and(|text| !text.is_empty() && !text.ends_with(b"\n"));
    let line = if ends_open { format!("\n{line}") } else { line.to_owned() };
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?.write_all(line.as_bytes())
}

/// `adit ssh trust` for a server, with what its forward says besides.
pub(super) fn accept(server: &SshServer) -> String {
    let options = &server.options;
    let file = |flag: &str, path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(String::new, |path| format!(" {flag} {}", word(&path.display().to_string())))
    };
    let jump = options.jump.as_ref().map_or_else(String::new, |jump| format!(" --jump {}", word(jump)));
    let (known_hosts, config) = (file("--known-hosts", &options.known_hosts), file("--ssh-config", &options.config));
    format!("adit ssh trust{config}{known_hosts}{jump} {server}")
}

/// As a shell takes it for one.
pub(super) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@,+=~".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hashed_name_is_recognised() {
        let line = hashed("[bastion]:2222");
        let (salt, hash) = line.strip_prefix("|1|").and_then(|rest| rest.split_once('|')).unwrap();
        assert!(is_hashed(salt, hash, "[bastion]:2222"));
        assert!(!is_hashed(salt, hash, "bastion"));
        assert!(!is_hashed("!", hash, "bastion"));
    }

    #[test]
    fn a_line_is_added_to_a_file_whose_last_line_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/known_hosts");
        append(&path, "one\n").unwrap();
        fs::write(&path, "one").unwrap();
        append(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn the_command_that_accepts_a_key_has_what_the_forward_says() {
        let mut server = SshServer { user: None, host: "h".into(), port: None, options: Box::default() };
        assert_eq!(accept(&server), "adit ssh trust h");
        server.options.known_hosts = Some("/my files/kh".into());
        server.options.jump = Some("me@b:2222".into());
        assert_eq!(accept(&server), "adit ssh trust --known-hosts '/my files/kh' --jump me@b:2222 h");
    }
}
