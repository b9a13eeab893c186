//! A server certificate for each name that clients ask for, made at their first handshake.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};

use super::{Authority, new_key, signer};
use crate::tls::TlsError;

/// Names whose certificates are kept, some 1.5 kB each. A client may ask for as many names as it likes: the one
/// that was not used for longest is forgotten, and costs a signature when it is asked for again.
const CAPACITY: usize = 1_000;

/// The name for clients that ask for none, as they do when they were given an address.
const DEFAULT_NAME: &str = "localhost";

/// Addresses that the default name's certificate is for, too.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// Answers each handshake with a certificate, issued by an [`Authority`], for the name that is asked for.
///
/// All certificates share one key, which lives in memory only; so a new name costs one signature.
pub struct LeafResolver {
    authority: Arc<Authority>,
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    leaves: Mutex<Leaves>,
}

impl LeafResolver {
    /// A resolver with an empty cache.
    ///
    /// # Errors
    /// [`TlsError`] when no key can be made.
    pub fn new(authority: Arc<Authority>) -> Result<Self, TlsError> {
        let key = new_key()?;
        let signer = signer(&key)?;
        let leaves = Mutex::new(Leaves::new(CAPACITY));
        Ok(Self { authority, key, signer, leaves })
    }

    /// The authority that issues.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The certificate for a host name or an address: a chain of leaf and authority, with the key.
    ///
    /// # Errors
    /// [`TlsError`] when the name is none a certificate can have.
    pub fn certificate(&self, name: Option<&str>) -> Result<Arc<CertifiedKey>, TlsError> {
        self.certificate_at(name, SystemTime::now())
    }

    fn certificate_at(&self, name: Option<&str>, now: SystemTime) -> Result<Arc<CertifiedKey>, TlsError> {
        let name = canonical(name.unwrap_or(DEFAULT_NAME));
        if let Some(leaf) = self.leaves().get(&name, now) {
            return Ok(leaf);
        }
        // Signed without the lock. Two handshakes that ask for a new name at once sign twice; the later one is kept.
        let (certificate, not_after) = self.authority.issue(&names(&name), &self.key, now)?;
        let chain = vec![certificate, self.authority.certificate.clone()];
        let leaf = Arc::new(CertifiedKey::new(chain, Arc::clone(&self.signer)));
        // Made again when a quarter of its life is left, so that no visit begins with one about to end.
        let left = not_after.duration_since(now).unwrap_or_default();
        self.leaves().put(name, Arc::clone(&leaf), now + left / 4 * 3);
        Ok(leaf)
    }

    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        // Whoever panicked with the lock did so between two whole changes.
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for LeafResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate(hello.server_name())
            .inspect_err(|error| tracing::debug!(%error, "no certificate can be made for a client"))
            .ok()
    }
}

impl fmt::Debug for LeafResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafResolver({:?}, {} names)", self.authority, self.leaves().len())
    }
}

/// The certificates that were used last.
struct Leaves {
    capacity: usize,
    by_name: HashMap<String, Leaf>,
    /// Names by the turn in which they were used last.
    by_turn: BTreeMap<u64, String>,
    turn: u64,
}

struct Leaf {
    certified: Arc<CertifiedKey>,
    renew_at: SystemTime,
    turn: u64,
}

impl Leaves {
    fn new(capacity: usize) -> Self {
        Self { capacity, by_name: HashMap::new(), by_turn: BTreeMap::new(), turn: 0 }
    }

    fn len(&self) -> usize {
        self.by_name.len()
    }

    fn get(&mut self, name: &str, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        let leaf = self.by_name.get_mut(name).filter(|leaf| now < leaf.renew_at)?;
        self.turn += 1;
        if let Some(name) = self.by_turn.remove(&leaf.turn) {
            self.by_turn.insert(self.turn, name);
        }
        leaf.turn = self.turn;
        Some(Arc::clone(&leaf.certified))
    }

    fn put(&mut self, name: String, certified: Arc<CertifiedKey>, renew_at: SystemTime) {
        self.turn += 1;
        let leaf = Leaf { certified, renew_at, turn: self.turn };
        self.by_turn.insert(self.turn, name.clone());
        if let Some(old) = self.by_name.insert(name, leaf) {
            self.by_turn.remove(&old.turn);
        }
        while self.by_name.len() > self.capacity
            && let Some((_, oldest)) = self.by_turn.pop_first()
        {
            self.by_name.remove(&oldest);
        }
    }
}

/// What a name's certificate is for.
fn names(name: &str) -> Vec<String> {
    let more = if name == DEFAULT_NAME { &LOOPBACK[..] } else { &[] };
    std::iter::once(name).chain(more.iter().copied()).map(str::to_owned).collect()
}

/// Host names are compared without case and without the final dot; addresses come with or without brackets.
fn canonical(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
