//! Stream numbers, and who opens which.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// The largest stream number: 31 bits.
pub(crate) const LAST: u32 = 0x7fff_ffff;

/// Which end of the connection this is. The client's streams and pings are odd, the server's even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that connected.
    Client,
    /// The end that was connected to.
    Server,
}

impl Role {
    /// The first number of this end's streams and pings.
    pub(crate) fn first_id(self) -> u32 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }

    /// Whether a stream or ping of this number is this end's own.
    pub(crate) fn owns(self, id: u32) -> bool {
        (id % 2 == 1) == (self == Self::Client)
    }
}

/// The number of a stream in its session. It is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// The stream of a number, as far as it has 31 bits.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(id & LAST)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Builds [`IdHasher`].
pub(crate) type IdHash = BuildHasherDefault<IdHasher>;

/// A hash for stream numbers: they count upwards, so one multiplication spreads them well.
///
/// A peer that picks numbers to collide gains little: it has to open the streams, and their count is capped.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        let mixed = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn odd_numbers_are_the_clients() {
        assert!(Role::Client.owns(1) && Role::Client.owns(LAST) && !Role::Client.owns(2));
        assert!(Role::Server.owns(2) && !Role::Server.owns(7));
        assert!(Role::Client.owns(Role::Client.first_id()) && Role::Server.owns(Role::Server.first_id()));
    }

    #[test]
    fn the_hash_spreads_the_numbers_of_one_end_in_its_low_and_its_high_bits() {
        let hash = |id: u32| {
            let mut hasher = IdHasher::default();
            hasher.write_u32(id);
            hasher.finish()
        };
        let low: HashSet<u64> = (0..4096).map(|n| hash(n * 2 + 1) & 0xfff).collect();
        let high: HashSet<u64> = (0..4096).map(|n| hash(n * 2 + 1) >> 57).collect();
        assert!(low.len() > 2_000, "{}", low.len());
        assert_eq!(high.len(), 128);
    }
}
