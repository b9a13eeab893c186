//! Addresses at the other end, and which of them go when there is no room.

use std::net::IpAddr;
use std::time::Duration;

use super::{BUSY, EMPTIED, KEPT, Rate, Sums, Table, Traffic};
use crate::decode::Record;

/// Another machine's address with the port of the service that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemoteId {
    /// The address there.
    pub address: IpAddr,
    /// The port there, or here when the connection came from there.
    pub port: u16,
    /// Whether the connections came from there.
    pub incoming: bool,
    /// The network namespace of an address that each has for itself, as loopback; 0 of all others.
    pub netns: u32,
}

impl RemoteId {
    /// The remote of a connection.
    #[must_use]
    pub const fn of(record: &Record) -> Self {
        let port = if record.incoming { record.local.port() } else { record.remote.port() };
        let address = record.remote.ip();
        let netns = if address.is_loopback() { record.netns } else { 0 };
        Self { address, port, incoming: record.incoming, netns }
    }
}

/// What goes to or comes from another address.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Which one.
    pub id: RemoteId,
    /// Connections that are open now.
    pub open: usize,
    /// What was done with it.
    pub sums: Sums,
    /// The newest round-trip time.
    pub rtt: Option<Duration>,
    /// Bytes a second of late.
    pub rate: Rate,
    /// What its connections had carried when they were seen first: it is in no sum.
    pub(super) before: Traffic,
    pub(super) at_tick: (u64, u64),
    pub(super) last_seen: Duration,
}

impl Remote {
    /// What was done with it, with all that its connections have carried, also before anybody looked.
    #[must_use]
    pub const fn whole(&self) -> Sums {
        self.before.before(&self.sums)
    }
}

impl Table {
    /// The remote of a connection; `None` when there is no room.
    pub(super) fn remote(&mut self, now: Duration, record: &Record) -> Option<&mut Remote> {
        let id = RemoteId::of(record);
        if !self.remotes.contains_key(&id) && !self.has_room_for_remote(now) {
            self.overflow.remotes += 1;
            return None;
        }
        Some(self.remotes.entry(id).or_insert_with(|| Remote {
            id,
            open: 0,
            sums: Sums::default(),
            rtt: None,
            rate: Rate::default(),
            before: Traffic::default(),
            at_tick: (0, 0),
            last_seen: now,
        }))
    }

    /// Room for one more remote; when there is none, those go that are idle longest.
    fn has_room_for_remote(&mut self, now: Duration) -> bool {
        if self.remotes.len() < self.limits.remotes {
            return true;
        }
        if now < self.remotes_busy {
            return false;
        }
        let idle = self.remotes.values().filter(|one| one.open == 0);
        let mut idle: Vec<_> = idle.map(|one| (one.last_seen, one.id)).collect();
        if idle.is_empty() {
            self.remotes_busy = now + BUSY;
            return false;
        }
        idle.sort_unstable();
        idle.truncate((self.limits.remotes / EMPTIED).max(1));
        for (last_seen, id) in idle {
            self.remotes.remove(&id);
            self.overflow.remotes += u64::from(now.saturating_sub(last_seen) < KEPT);
        }
        true
    }
}
