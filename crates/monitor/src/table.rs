//! Connections, processes and remotes, from records. Pure: time comes in with each call, and everything has a bound.

mod histogram;
mod sums;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::histogram::Histogram;
pub use self::sums::{Rate, Sums};
use crate::decode::{Command, ConnectionId, End, Folded, Owner, ProcessId, Record, Step};

/// How long a process that is dead, or a remote that nobody uses, is kept: so long that whoever reads every 15 or 30
/// seconds has seen the last of it.
const KEPT: Duration = Duration::from_secs(90);
/// A connection that so many surveys do not find is gone. While others come and go the kernel may leave one out.
const MISSED: u64 = 4;
/// Where those go that have no place of their own.
pub const OTHER: &str = "other";

/// How much is kept at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Processes, with those that ended a moment ago.
    pub processes: usize,
    /// Remotes.
    pub remotes: usize,
    /// Names of commands, and of places, that have sums of their own. They are never taken back: a sum must not fall.
    pub labels: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 65_536, processes: 8_192, remotes: 8_192, labels: 256 }
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Table {
    limits: Limits,
    connections: HashMap<ConnectionId, Connection>,
    processes: HashMap<ProcessId, Process>,
    remotes: HashMap<RemoteId, Remote>,
    totals: Sums,
    commands: HashMap<Arc<str>, Sums>,
    places: HashMap<Arc<str>, Sums>,
    ports: HashMap<&'static str, Sums>,
    ends: HashMap<(&'static str, &'static str), u64>,
    times: Times,
    survey: u64,
    overflow: Overflow,
    last_tick: Option<Duration>,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Times {
    /// From the first packet of an outgoing connection until it is established.
    pub handshake: Histogram,
    /// The smoothed round-trip time of connections that ended.
    pub rtt: Histogram,
    /// How long connections lived.
    pub duration: Histogram,
}

/// What had no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    /// Records of open connections.
    pub connections: u64,
    /// Processes.
    pub processes: u64,
    /// Remotes.
    pub remotes: u64,
    /// Connections whose end nobody saw.
    pub unseen: u64,
}

/// A connection that is open.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The newest that is known of it.
    pub record: Record,
    /// Bytes a second of late.
    pub rate: Rate,
    /// Where its process runs.
    pub place: Option<Arc<str>>,
    /// What of its traffic is in the sums already: of all, and of its process.
    counted: Traffic,
    of_process: Traffic,
    /// The process that has it among its own.
    process: Option<ProcessId>,
    at_tick: Traffic,
    survey: u64,
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    sent: u64,
    received: u64,
    retransmits: u64,
}

impl Traffic {
    const fn of(record: &Record) -> Self {
        Self { sent: record.sent, received: record.received, retransmits: record.retransmits as u64 }
    }

    /// What is more than before. A count never falls; one that seems to was read of another socket.
    const fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
            retransmits: self.retransmits.saturating_sub(before.retransmits),
        }
    }

    /// The greater of each.
    fn most(self, other: Self) -> Self {
        Self {
            sent: self.sent.max(other.sent),
            received: self.received.max(other.received),
            retransmits: self.retransmits.max(other.retransmits),
        }
    }
}

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
    at_tick: (u64, u64),
    last_seen: Duration,
    dead_since: Option<Duration>,
}

/// Another machine's address with the port of the service that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemoteId {
    /// The address there.
    pub address: IpAddr,
    /// The port there, or here when the connection came from there.
    pub port: u16,
    /// Whether the connections came from there.
    pub incoming: bool,
}

impl RemoteId {
    const fn of(record: &Record) -> Self {
        let port = if record.incoming { record.local.port() } else { record.remote.port() };
        Self { address: record.remote.ip(), port, incoming: record.incoming }
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
    at_tick: (u64, u64),
    last_seen: Duration,
}

impl Table {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a record; `place` is where its owner runs.
    pub fn handle_record(&mut self, now: Duration, record: &Record, place: Option<&Arc<str>>) {
        let mut connection = match self.connections.remove(&record.id) {
            Some(known) => known,
            None if record.ended.is_none() && self.connections.len() >= self.limits.connections => {
                // It is counted when it ends.
                self.overflow.connections += 1;
                return;
            }
            None => self.begin(now, record),
        };
        connection.survey = self.survey;
        if connection.place.is_none() {
            connection.place = place.cloned();
        }
        // Records of one connection may overtake each other: what is known stays known.
        let owner = record.owner.or(connection.record.owner);
        let established = record.established.or(connection.record.established);
        connection.record = Record { owner, established, ..*record };
        self.claim(now, &mut connection);
        self.carry(now, &mut connection);
        match record.ended {
            Some((_, end)) => self.end(now, &connection, end),
            None => {
                self.connections.insert(record.id, connection);
            }
        }
    }

    /// Takes what was added up in the place of single records; it has no remotes, no times and no ends of its own.
    pub fn handle_folded(&mut self, now: Duration, folded: &Folded, place: Option<&Arc<str>>) {
        let add = |sums: &mut Sums| sums.add(folded);
        add(&mut self.totals);
        add(label(&mut self.commands, self.limits.labels, &folded.owner.command.text()));
        if let Some(place) = place {
            add(label(&mut self.places, self.limits.labels, place));
        }
        add(self.ports.entry(OTHER).or_default());
        match self.process(now, &folded.owner, place.cloned()) {
            Some(process) => {
                process.sums.add(folded);
                process.last_seen = now;
            }
            None => self.overflow.processes += 1,
        }
    }

    /// A survey begins: what several in a row do not find is gone.
    pub fn begin_survey(&mut self) {
        self.survey += 1;
    }

    /// A survey is over. Gives the connections whose end nobody saw; they are not kept.
    pub fn end_survey(&mut self, now: Duration) -> Vec<ConnectionId> {
        let survey = self.survey;
        let lost: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, one)| one.survey + MISSED <= survey).map(|(id, _)| *id).collect();
        for id in &lost {
            if let Some(connection) = self.connections.remove(id) {
                self.overflow.unseen += 1;
                self.end(now, &connection, End::Unseen);
            }
        }
        lost
    }

    /// Computes rates; to be called after each survey.
    pub fn handle_tick(&mut self, now: Duration) {
        let span = now.saturating_sub(self.last_tick.unwrap_or_default());
        let first = self.last_tick.is_none();
        self.last_tick = Some(now);
        let rate = |sent: u64, received: u64| if first { Rate::default() } else { Rate::of(sent, received, span) };
        for one in self.connections.values_mut() {
            let more = one.counted.since(one.at_tick);
            one.rate = rate(more.sent, more.received);
            one.at_tick = one.counted;
        }
        for one in self.processes.values_mut() {
            let (sent, received) = one.at_tick;
            one.rate = rate(one.sums.sent.saturating_sub(sent), one.sums.received.saturating_sub(received));
            one.at_tick = (one.sums.sent, one.sums.received);
        }
        for one in self.remotes.values_mut() {
            let (sent, received) = one.at_tick;
            one.rate = rate(one.sums.sent.saturating_sub(sent), one.sums.received.saturating_sub(received));
            one.at_tick = (one.sums.sent, one.sums.received);
        }
    }

    /// Drops processes that are dead and remotes that nobody uses, once they were kept for a while.
    pub fn expire(&mut self, now: Duration, mut is_alive: impl FnMut(ProcessId) -> bool) {
        self.processes.retain(|id, process| {
            if process.open > 0 {
                process.dead_since = None;
                return true;
            }
            if process.dead_since.is_none() && !is_alive(*id) {
                process.dead_since = Some(now);
            }
            process.dead_since.is_none_or(|since| now.saturating_sub(since) < KEPT)
        });
        self.remotes.retain(|_, remote| remote.open > 0 || now.saturating_sub(remote.last_seen) < KEPT);
    }

    /// Open connections.
    pub fn connections(&self) -> impl ExactSizeIterator<Item = &Connection> {
        self.connections.values()
    }

    /// Processes.
    pub fn processes(&self) -> impl ExactSizeIterator<Item = &Process> {
        self.processes.values()
    }

    /// Remotes.
    pub fn remotes(&self) -> impl ExactSizeIterator<Item = &Remote> {
        self.remotes.values()
    }

    /// Sums of everything.
    #[must_use]
    pub fn totals(&self) -> &Sums {
        &self.totals
    }

    /// Sums by the names of commands.
    pub fn commands(&self) -> impl Iterator<Item = (&str, &Sums)> {
        self.commands.iter().map(|(name, sums)| (&**name, sums))
    }

    /// Sums by container, pod or unit.
    pub fn places(&self) -> impl Iterator<Item = (&str, &Sums)> {
        self.places.iter().map(|(name, sums)| (&**name, sums))
    }

    /// Sums by the kind of service, as its port tells.
    pub fn ports(&self) -> impl Iterator<Item = (&'static str, &Sums)> {
        self.ports.iter().map(|(name, sums)| (*name, sums))
    }

    /// How connections ended, with the name of the error or nothing.
    pub fn ends(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.ends.iter().map(|((end, error), count)| (*end, *error, *count))
    }

    /// What was measured.
    #[must_use]
    pub const fn times(&self) -> &Times {
        &self.times
    }

    /// What had no room.
    #[must_use]
    pub const fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// Whether there are connections whose owner is not known.
    #[must_use]
    pub fn has_unowned(&self) -> bool {
        self.connections.values().any(|one| one.record.owner.is_none())
    }

    /// A connection that was not known.
    fn begin(&mut self, now: Duration, record: &Record) -> Connection {
        let counted = if record.seen_late { Traffic::of(record) } else { Traffic::default() };
        let count = |sums: &mut Sums| sums.begin(record);
        count(&mut self.totals);
        count(self.ports.entry(service(RemoteId::of(record).port)).or_default());
        if let Some(remote) = self.remote(now, record) {
            remote.open += 1;
            remote.sums.begin(record);
        }
        Connection {
            record: *record,
            rate: Rate::default(),
            place: None,
            // What it carried before the monitor was there is not in any sum.
            counted,
            of_process: counted,
            process: None,
            at_tick: counted,
            survey: self.survey,
        }
    }

    /// The connection is its owner's, once that is known.
    fn claim(&mut self, now: Duration, connection: &mut Connection) {
        let Some(owner) = connection.record.owner else { return };
        if connection.process == Some(owner.process) {
            return;
        }
        if connection.process.is_some() {
            // Whoever had it first keeps it: the sums were theirs.
            return;
        }
        connection.process = Some(owner.process);
        let record = connection.record;
        label(&mut self.commands, self.limits.labels, &owner.command.text()).begin(&record);
        if let Some(place) = &connection.place {
            label(&mut self.places, self.limits.labels, place).begin(&record);
        }
        let place = connection.place.clone();
        match self.process(now, &owner, place) {
            Some(process) => {
                process.open += 1;
                process.sums.begin(&record);
            }
            None => self.overflow.processes += 1,
        }
    }

    /// Adds what the connection has carried since the last record.
    fn carry(&mut self, now: Duration, connection: &mut Connection) {
        let traffic = Traffic::of(&connection.record);
        let more = traffic.since(connection.counted);
        connection.counted = traffic.most(connection.counted);
        let record = &connection.record;
        let carry = |sums: &mut Sums, more: Traffic| sums.carry(more.sent, more.received, more.retransmits);
        carry(&mut self.totals, more);
        carry(self.ports.entry(service(RemoteId::of(record).port)).or_default(), more);
        if let Some(remote) = self.remotes.get_mut(&RemoteId::of(record)) {
            carry(&mut remote.sums, more);
            remote.last_seen = now;
            remote.rtt = record.rtt.or(remote.rtt);
        }
        let Some(owner) = record.owner.filter(|_| connection.process.is_some()) else { return };
        let more = traffic.since(connection.of_process);
        connection.of_process = traffic.most(connection.of_process);
        carry(label(&mut self.commands, self.limits.labels, &owner.command.text()), more);
        if let Some(place) = &connection.place {
            carry(label(&mut self.places, self.limits.labels, place), more);
        }
        if let Some(process) = connection.process.and_then(|id| self.processes.get_mut(&id)) {
            carry(&mut process.sums, more);
            process.last_seen = now;
        }
    }

    fn end(&mut self, now: Duration, connection: &Connection, end: End) {
        let record = &connection.record;
        *self.ends.entry((end.as_str(), end.error().unwrap_or_default())).or_default() += 1;
        let finish = |sums: &mut Sums| sums.end(end);
        finish(&mut self.totals);
        finish(self.ports.entry(service(RemoteId::of(record).port)).or_default());
        if let Some(owner) = record.owner {
            finish(label(&mut self.commands, self.limits.labels, &owner.command.text()));
            if let Some(place) = &connection.place {
                finish(label(&mut self.places, self.limits.labels, place));
            }
        }
        if let Some(process) = connection.process.and_then(|id| self.processes.get_mut(&id)) {
            finish(&mut process.sums);
        }
        if let Some(remote) = self.remotes.get_mut(&RemoteId::of(record)) {
            finish(&mut remote.sums);
        }
        if let Some(handshake) = record.handshake() {
            self.times.handshake.observe(handshake);
        }
        if let Some(rtt) = record.rtt {
            self.times.rtt.observe(rtt);
        }
        if !record.seen_late && !matches!(end, End::Failed(_) | End::Unseen) {
            self.times.duration.observe(record.duration(now));
        }
        self.leave(now, connection);
    }

    /// It is no longer among the open ones.
    fn leave(&mut self, now: Duration, connection: &Connection) {
        if let Some(process) = connection.process.and_then(|id| self.processes.get_mut(&id)) {
            process.open = process.open.saturating_sub(1);
            process.last_seen = now;
        }
        if let Some(remote) = self.remotes.get_mut(&RemoteId::of(&connection.record)) {
            remote.open = remote.open.saturating_sub(1);
            remote.last_seen = now;
        }
    }

    /// The process of an owner; `None` when there is no room.
    fn process(&mut self, now: Duration, owner: &Owner, place: Option<Arc<str>>) -> Option<&mut Process> {
        let id = owner.process;
        if !self.processes.contains_key(&id) {
            self.supersede(id);
            if self.processes.len() >= self.limits.processes {
                let idle = self.processes.values().filter(|one| one.open == 0).min_by_key(|one| one.last_seen)?.id;
                self.processes.remove(&idle);
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
            at_tick: (0, 0),
            last_seen: now,
            dead_since: None,
        });
        // A process may take another name: exec.
        process.command = owner.command;
        process.user = owner.user.or(process.user);
        process.place = place.or_else(|| process.place.take());
        Some(process)
    }

    /// The number belongs to another process now: what had it before is dead.
    fn supersede(&mut self, id: ProcessId) {
        self.processes.retain(|old, process| old.pid != id.pid || old.start == id.start || process.open > 0);
    }

    fn remote(&mut self, now: Duration, record: &Record) -> Option<&mut Remote> {
        let id = RemoteId::of(record);
        if !self.remotes.contains_key(&id) && self.remotes.len() >= self.limits.remotes {
            let idle = self.remotes.values().filter(|one| one.open == 0).min_by_key(|one| one.last_seen);
            let Some(idle) = idle.map(|one| one.id) else {
                self.overflow.remotes += 1;
                return None;
            };
            self.remotes.remove(&idle);
        }
        Some(self.remotes.entry(id).or_insert_with(|| Remote {
            id,
            open: 0,
            sums: Sums::default(),
            rtt: None,
            rate: Rate::default(),
            at_tick: (0, 0),
            last_seen: now,
        }))
    }
}

impl Record {
    /// Whether it says that its connection is over.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.step == Step::Ended
    }
}

/// The sums of a name, or those of all that have no room.
fn label<'a>(all: &'a mut HashMap<Arc<str>, Sums>, limit: usize, name: &str) -> &'a mut Sums {
    let name = if all.contains_key(name) || all.len() < limit { name } else { OTHER };
    if !all.contains_key(name) {
        all.insert(name.into(), Sums::default());
    }
    all.entry(name.into()).or_default()
}

/// What a port is for, in a few words: a label with few values.
#[must_use]
pub const fn service(port: u16) -> &'static str {
    match port {
        22 => "ssh",
        25 | 465 | 587 => "smtp",
        53 | 853 => "dns",
        80 | 8080 => "http",
        443 | 8443 => "https",
        3306 => "mysql",
        5432 => "postgres",
        6379 => "redis",
        6443 => "kubernetes",
        9092 => "kafka",
        27017 => "mongodb",
        0..1024 => "system",
        1024..32768 => "registered",
        _ => "high",
    }
}

#[cfg(test)]
pub(crate) mod tests;
