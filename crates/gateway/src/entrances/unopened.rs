//! Addresses that could not be had when everything else was opened, and that are tried again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use runtime::listener::{BindError, Holder};

use super::{EntranceError, Entrances, Key, Owner, place};

/// What a change leaves out.
pub(super) type LeftOut = BTreeMap<Key, Unopened>;

/// Whose entrance it should be, and why it is not.
#[derive(Debug)]
pub(super) struct Unopened {
    pub(super) owner: Owner,
    pub(super) error: EntranceError,
}

/// An entrance that was opened later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedLate {
    /// Where it is.
    pub address: SocketAddr,
    /// The forward behind it, or none for the gateway.
    pub owner: Option<String>,
}

impl Entrances {
    /// In the next change, an address that cannot be had stops no other one: it is left out, and
    /// [`Entrances::try_again`] tries it again. Changes after that one fail for an address only when it was not left
    /// out before.
    pub const fn leave_out(&mut self) {
        self.leaves_out = true;
    }

    /// What could not be opened: the forward, or none for the gateway; where; and why.
    pub fn unopened(&self) -> impl Iterator<Item = (Option<&str>, SocketAddr, &EntranceError)> {
        self.unopened.iter().map(|(key, left)| (left.owner.forward().map(String::as_str), key.address, &left.error))
    }

    /// Tries what could not be opened once more.
    pub fn try_again(&mut self) -> Vec<OpenedLate> {
        let mut opened = Vec::new();
        for (key, Unopened { owner, .. }) in std::mem::take(&mut self.unopened) {
            let Some(handler) = self.handler(&owner) else { continue };
            match self.bind_one(&key) {
                Ok(listener) => {
                    opened.push(OpenedLate { address: listener.local_addr(), owner: owner.forward().cloned() });
                    self.open_at(&key, listener, handler);
                }
                Err(source) => {
                    let error = EntranceError::Bind { key: place(&owner), source };
                    self.unopened.insert(key, Unopened { owner, error });
                }
            }
        }
        if !opened.is_empty() {
            self.tell_ports();
        }
        opened
    }

    /// Whether the next version may be put in force without this address.
    pub(super) fn may_leave_out(&self, key: &Key) -> bool {
        self.leaves_out || self.unopened.contains_key(key)
    }
}

impl EntranceError {
    /// The process that has the address, when it is known.
    #[must_use]
    pub const fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Bind { source: BindError::Taken { holder, .. }, .. } => holder.as_ref(),
            _ => None,
        }
    }
}
