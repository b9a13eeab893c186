//! Processes with connections, and which of them go when there is no room.

use std::sync::Arc;
use std::time::Duration;

use super::{BUSY, EMPTIED, Rate, Sums, Table, Traffic};
use crate::decode::{Command, Owner, ProcessId};

/// A process with connections.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which process.
    pub id: ProcessId,
    /// Its name.
    pub command: Command,
    /// Its user.
    pub user: Option<u32>,
    /// Where it runs.
    pub place: Option<Arc<str>>,
    /// Connections that are open now.
    pub open: usize,
    /// What it has done.
    pub sums: Sums,
    /// Bytes a second of late.
    pub rate: Rate,
    /// What its connections had carried when they were seen first: it is in no sum.
    pub(super) before: Traffic,
    pub(super) at_tick: (u64, u64),
    pub(super) last_seen: Duration,
    /// When it was last looked whether it lives.
    pub(super) checked: Duration,
    pub(super) dead_since: Option<Duration>,
}

impl Process {
    /// What it has done, with all that its connections have carried, also before anybody looked.
    #[must_use]
    pub const fn whole(&self) -> Sums {
        self.before.before(&self.sums)
    }
}

impl Table {
    /// The process of an owner; `None` when there is no room.
    pub(super) fn process(&mut self, now: Duration, owner: &Owner, place: Option<Arc<str>>) -> Option<&mut Process> {
        let id = owner.process;
        if !self.processes.contains_key(&id) {
            let is_newest = self.supersede(id);
            if !self.has_room_for_process(now) {
                return None;
            }
            if is_newest {
                self.newest.insert(id.pid, id);
            }
        }
        let process = self.processes.entry(id).or_insert_with(|| Process {
            id,
            command: owner.command,
            user: owner.user,
            place: None,
            open: 0,
            sums: Sums::default(),
            rate: Rate::default(),
            before: Traffic::default(),
            at_tick: (0, 0),
            last_seen: now,
            checked: Duration::ZERO,
            dead_since: None,
        });
        // A process may take another name: exec.
        process.command = owner.command;
        process.user = owner.user.or(process.user);
        process.place = place.or_else(|| process.place.take());
        Some(process)
    }

    /// The number belongs to another process now: what had it before is dead. Not so where what is told late is of the one
    /// before; whether it is the newest.
    fn supersede(&mut self, id: ProcessId) -> bool {
        let Some(before) = self.newest.get(&id.pid).copied().filter(|before| *before != id) else { return true };
        let is_newest = before.start <= id.start || !self.processes.contains_key(&before);
        if is_newest && self.processes.get(&before).is_some_and(|process| process.open == 0) {
            self.processes.remove(&before);
        }
        is_newest
    }

    /// Room for one more process; when there is none, those that are dead go, or else the one that is idle longest.
    fn has_room_for_process(&mut self, now: Duration) -> bool {
        if self.processes.len() < self.limits.processes {
            return true;
        }
        if now < self.processes_busy {
            return false;
        }
        let idle = self.processes.values().filter(|one| one.open == 0);
        let mut idle: Vec<_> = idle.map(|one| (one.dead_since.is_none(), one.last_seen, one.id)).collect();
        if idle.is_empty() {
            self.processes_busy = now + BUSY;
            return false;
        }
        idle.sort_unstable();
        let dead = idle.iter().filter(|(is_alive, ..)| !is_alive).count();
        idle.truncate(dead.min(self.limits.processes / EMPTIED).max(1));
        for (is_alive, _, id) in idle {
            self.processes.remove(&id);
            self.overflow.processes += u64::from(is_alive);
        }
        true
    }
}
