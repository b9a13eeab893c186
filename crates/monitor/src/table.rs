//! Connections, processes and remotes, from records. Pure: time comes in with each call, and everything has a bound.

mod histogram;
mod labels;
mod open;
mod process;
mod remote;
mod service;
mod sums;
mod traffic;

use std::sync::Arc;
use std::time::Duration;

pub use self::histogram::Histogram;
use self::labels::Labels;
pub use self::open::Open;
pub use self::process::Process;
pub use self::remote::{Remote, RemoteId};
pub use self::service::service;
pub use self::sums::{Rate, Sums};
use self::traffic::Traffic;
use crate::decode::{ConnectionId, End, Folded, Owner, ProcessId, Record, State, Step};
use crate::hash::{HashMap, HashSet};

/// How long a process that is dead, or a remote that nobody uses, is kept: so long that whoever reads every 15 or 30
/// seconds has seen the last of it.
const KEPT: Duration = Duration::from_secs(90);
/// A connection that so many surveys do not find is gone. While others come and go the kernel may leave one out.
const MISSED: u64 = 4;
/// Where those go that have no place of their own.
pub const OTHER: &str = "other";
/// Where connections go, once they are over, of which it is not known whose they were, or where that ran.
pub const UNKNOWN: &str = "unknown";
/// The part of a full table that is emptied at once: to look for the oldest takes a walk through all.
const EMPTIED: usize = 16;
/// When all were busy, it is looked again only after so long.
const BUSY: Duration = Duration::from_millis(100);
/// A map of connections with room for fewer stays as it is.
const SMALL: usize = 4_096;
/// The user whose share of the names those use whose user is not known.
const NOBODY_KNOWN: u32 = u32::MAX;

/// How much is kept at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Processes, with those that ended a moment ago.
    pub processes: usize,
    /// Remotes.
    pub remotes: usize,
    /// Names of commands, and of places, that have sums of their own at the same time.
    pub labels: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 65_536, processes: 8_192, remotes: 8_192, labels: 256 }
    }
}

/// All that is known.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    /// A map that grows is there twice for a moment, so what is large is kept beside it.
    connections: HashMap<ConnectionId, Box<Connection>>,
    processes: HashMap<ProcessId, Process>,
    remotes: HashMap<RemoteId, Remote>,
    totals: Sums,
    commands: Labels,
    places: Labels,
    ports: HashMap<&'static str, Sums>,
    ends: HashMap<(&'static str, &'static str), u64>,
    times: Times,
    survey: u64,
    overflow: Overflow,
    /// Connections without room that are counted already: those since the last survey, and those of before.
    refused: [HashSet<ConnectionId>; 2],
    last_tick: Option<Duration>,
    open: Open,
    /// The newest process of a number.
    newest: HashMap<u32, ProcessId>,
    /// Before this it is of no use to look for a remote, or a process, that may go.
    remotes_busy: Duration,
    processes_busy: Duration,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

/// What was measured.
#[derive(Clone, Debug, Default)]
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
    /// Open connections, each once.
    pub connections: u64,
    /// Processes, and those that had to go while they lived.
    pub processes: u64,
    /// Remotes, and those that had to go sooner than they should.
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
    /// What of its traffic is in the sums already: of all, of its process, and of its place.
    counted: Traffic,
    of_process: Traffic,
    of_place: Traffic,
    /// The process that has it among its own.
    process: Option<ProcessId>,
    /// Where it is counted as open: what had no room for it has nothing to take back at its end.
    in_process: bool,
    remote: Option<RemoteId>,
    command_label: Option<Arc<str>>,
    place_label: Option<Arc<str>>,
    at_tick: Traffic,
    survey: u64,
    /// Whether its handshake is among those that were measured.
    is_measured: bool,
}

impl Table {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: HashMap::default(),
            processes: HashMap::default(),
            remotes: HashMap::default(),
            totals: Sums::default(),
            commands: Labels::new(limits.labels),
            places: Labels::new(limits.labels),
            ports: HashMap::default(),
            ends: HashMap::default(),
            times: Times::default(),
            survey: 0,
            overflow: Overflow::default(),
            refused: Default::default(),
            last_tick: None,
            open: Open::default(),
            newest: HashMap::default(),
            remotes_busy: Duration::ZERO,
            processes_busy: Duration::ZERO,
        }
    }

    /// Takes a record; `place` is where its owner runs.
    pub fn handle_record(&mut self, now: Duration, record: &Record, place: Option<&Arc<str>>) {
        let mut connection = match self.take(record.id) {
            Some(known) => known,
            None if record.ended.is_none() && self.connections.len() >= self.limits.connections => {
                // What it carries is counted when it ends.
                self.refuse(record.id);
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
        self.measure(&mut connection);
        match record.ended {
            Some((_, end)) => self.end(now, &connection, end),
            None => {
                self.open.add(&connection.record);
                self.connections.insert(record.id, connection);
            }
        }
    }

    /// Takes an attempt of which nobody tells what becomes of it: it is counted, and not kept.
    pub fn handle_attempt(&mut self, now: Duration, record: &Record, place: Option<&Arc<str>>) {
        let mut connection = self.begin(now, record);
        connection.place = place.cloned();
        self.claim(now, &mut connection);
        if connection.command_label.is_none() {
            self.commands.unknown_sums(now).begin(record);
        }
        if connection.place_label.is_none() {
            self.places.unknown_sums(now).begin(record);
        }
        self.leave(now, &connection);
    }

    /// Takes what was added up in the place of single records; it has no remotes, no times and no ends of its own.
    pub fn handle_folded(&mut self, now: Duration, folded: &Folded, place: Option<&Arc<str>>) {
        let command = self.commands.name(now, &folded.owner.command.text(), share(&folded.owner));
        let label = match place {
            Some(place) => self.place_label(now, place, &folded.owner),
            None => self.places.unknown(),
        };
        self.fold(now, folded, &command, &label);
        match self.process(now, &folded.owner, place.cloned()) {
            Some(process) => {
                process.sums.add(folded);
                process.last_seen = now;
            }
            None => self.overflow.processes += 1,
        }
    }

    /// The same where the one it was added up for has only done the work of another: nobody knows whose it was.
    pub fn handle_disowned(&mut self, now: Duration, folded: &Folded) {
        let (command, place) = (self.commands.unknown(), self.places.unknown());
        self.fold(now, folded, &command, &place);
    }

    fn fold(&mut self, now: Duration, folded: &Folded, command: &Arc<str>, place: &Arc<str>) {
        let add = |sums: &mut Sums| sums.add(folded);
        add(&mut self.totals);
        add(self.commands.sums(now, command));
        add(self.places.sums(now, place));
        // How they ended is known in part, and an attempt that failed without its error.
        for (end, error, count) in [("failed", OTHER, folded.failed), (OTHER, "", folded.closed)] {
            if count > 0 {
                *self.ends.entry((end, error)).or_default() += count;
            }
        }
        add(self.ports.entry(OTHER).or_default());
    }

    /// A survey begins: what several in a row do not find is gone.
    pub fn begin_survey(&mut self) {
        self.survey += 1;
        // A survey tells those again that are still open; the others are of no use any more.
        let [new, old] = &mut self.refused;
        *old = std::mem::take(new);
    }

    /// A survey is over. Gives the ends of connections that nobody saw, with where their owners run; they are not kept.
    pub fn end_survey(&mut self, now: Duration) -> Vec<(Record, Option<Arc<str>>)> {
        let survey = self.survey;
        let lost: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, one)| one.survey + MISSED <= survey).map(|(id, _)| *id).collect();
        let mut ends = Vec::with_capacity(lost.len());
        for mut connection in lost.into_iter().filter_map(|id| self.take(id)).collect::<Vec<_>>() {
            let ended = Some((now, End::Unseen));
            connection.record = Record { step: Step::Ended, state: State::Closed, ended, ..connection.record };
            self.end(now, &connection, End::Unseen);
            ends.push((connection.record, connection.place));
        }
        ends
    }

    /// Gives back most of the room for connections when hardly any is used; whether there was so much of it.
    pub fn shrink(&mut self) -> bool {
        let (open, room) = (self.connections.len(), self.connections.capacity());
        let is_much = room >= SMALL && open * 8 < room;
        if is_much {
            self.connections.shrink_to(open * 2);
        }
        is_much
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

    /// Whether there is soon no room for a process: then it is worth looking more often which of them are dead.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.processes.len() * 4 >= self.limits.processes * 3
    }

    /// Processes without connections of which it is worth to look whether they live, so many at most, those first that
    /// were not looked at for longest; with when they were last seen.
    pub fn idle(&mut self, now: Duration, most: usize) -> Vec<(ProcessId, Duration)> {
        let idle = self.processes.values_mut().filter(|one| one.open == 0 && one.dead_since.is_none());
        let mut idle: Vec<&mut Process> = idle.collect();
        idle.sort_unstable_by_key(|one| one.checked);
        idle.truncate(most);
        let checked = |one: &mut Process| {
            one.checked = now;
            (one.id, one.last_seen)
        };
        idle.into_iter().map(checked).collect()
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
        self.newest.retain(|_, id| self.processes.contains_key(id));
        self.remotes.retain(|_, remote| remote.open > 0 || now.saturating_sub(remote.last_seen) < KEPT);
    }

    /// Open connections.
    pub fn connections(&self) -> impl ExactSizeIterator<Item = &Connection> {
        self.connections.values().map(|one| &**one)
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
    pub fn commands(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Sums)> {
        self.commands.iter()
    }

    /// Sums by pod, container or unit.
    pub fn places(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Sums)> {
        self.places.iter()
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
    pub const fn has_unowned(&self) -> bool {
        self.open.unowned > 0
    }

    /// How many connections are open.
    #[must_use]
    pub const fn open(&self) -> Open {
        self.open
    }

    /// A connection has no room. A survey tells it again and again, and it is counted once; were there more than there is
    /// room for in all, some would be counted more than once.
    fn refuse(&mut self, id: ConnectionId) {
        let [new, old] = &mut self.refused;
        let is_known = new.contains(&id) || old.contains(&id);
        if new.len() < self.limits.connections {
            new.insert(id);
        }
        self.overflow.connections += u64::from(!is_known);
    }

    /// What is known of an open connection, to be put back when it stays open.
    fn take(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        let known = self.connections.remove(&id)?;
        self.open.remove(&known.record);
        Some(known)
    }

    /// A connection that was not known.
    fn begin(&mut self, now: Duration, record: &Record) -> Box<Connection> {
        let counted = if record.seen_late { Traffic::of(record) } else { Traffic::default() };
        let count = |sums: &mut Sums| sums.begin(record);
        count(&mut self.totals);
        count(self.ports.entry(service(RemoteId::of(record).port)).or_default());
        let remote = self.remote(now, record).map(|remote| {
            remote.open += 1;
            remote.sums.begin(record);
            remote.before = remote.before.and(counted);
            remote.id
        });
        Box::new(Connection {
            record: *record,
            rate: Rate::default(),
            place: None,
            // What it carried before the monitor was there is not in any sum.
            counted,
            of_process: counted,
            of_place: counted,
            process: None,
            in_process: false,
            remote,
            command_label: None,
            place_label: None,
            at_tick: counted,
            survey: self.survey,
            is_measured: false,
        })
    }

    /// The connection is its owner's, once that is known.
    fn claim(&mut self, now: Duration, connection: &mut Connection) {
        let Some(owner) = connection.record.owner else { return };
        let record = connection.record;
        if let (None, Some(place)) = (&connection.place_label, &connection.place) {
            let name = self.place_label(now, place, &owner);
            self.places.enter(now, &name).begin(&record);
            connection.place_label = Some(name);
        }
        if connection.process.is_some() {
            // Whoever had it first keeps it: the sums were theirs.
            return;
        }
        connection.process = Some(owner.process);
        let name = self.commands.name(now, &owner.command.text(), share(&owner));
        self.commands.enter(now, &name).begin(&record);
        connection.command_label = Some(name);
        let place = connection.place.clone();
        match self.process(now, &owner, place) {
            Some(process) => {
                process.open += 1;
                process.sums.begin(&record);
                process.before = process.before.and(connection.of_process);
                connection.in_process = true;
            }
            None => self.overflow.processes += 1,
        }
    }

    /// The name that a place is counted under: containers of a pod come and go, so it is the pod's.
    fn place_label(&mut self, now: Duration, place: &str, owner: &Owner) -> Arc<str> {
        // A user cannot make these, but units and `user-container/…` of his own.
        let is_granted = place.starts_with("pod/") || place.starts_with("container/");
        let name = match place.strip_prefix("pod/").and_then(|rest| rest.split_once('/')) {
            Some((uid, _)) => &place[.."pod/".len() + uid.len()],
            None => place,
        };
        self.places.name(now, name, if is_granted { None } else { share(owner) })
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
        if let Some(remote) = connection.remote.and_then(|id| self.remotes.get_mut(&id)) {
            carry(&mut remote.sums, more);
            remote.last_seen = now;
            remote.rtt = record.rtt.or(remote.rtt);
        }
        if connection.process.is_none() {
            return;
        }
        let more = traffic.since(connection.of_process);
        connection.of_process = traffic.most(connection.of_process);
        if let Some(name) = &connection.command_label {
            carry(self.commands.sums(now, name), more);
        }
        if let Some(name) = &connection.place_label {
            // It may have been known later than the process.
            let more = traffic.since(connection.of_place);
            connection.of_place = traffic.most(connection.of_place);
            carry(self.places.sums(now, name), more);
        }
        if let Some(process) = self.process_of(connection) {
            carry(&mut process.sums, more);
            process.last_seen = now;
        }
    }

    /// Its handshake, once, as soon as it is heard of: a connection may stay for days.
    fn measure(&mut self, connection: &mut Connection) {
        let Some(handshake) = connection.record.handshake().filter(|_| !connection.is_measured) else { return };
        connection.is_measured = true;
        self.times.handshake.observe(handshake);
    }

    /// The process that has the connection among its open ones.
    fn process_of(&mut self, connection: &Connection) -> Option<&mut Process> {
        let id = connection.process.filter(|_| connection.in_process)?;
        self.processes.get_mut(&id)
    }

    fn end(&mut self, now: Duration, connection: &Connection, end: End) {
        let record = &connection.record;
        self.overflow.unseen += u64::from(end == End::Unseen);
        *self.ends.entry((end.as_str(), end.error().unwrap_or_default())).or_default() += 1;
        let finish = |sums: &mut Sums| sums.end(end);
        finish(&mut self.totals);
        finish(self.ports.entry(service(RemoteId::of(record).port)).or_default());
        // Without a name of its own until now it has none, and is counted whole where such ones are.
        let whole = |sums: &mut Sums, before: Traffic| {
            let more = connection.counted.since(before);
            sums.begin(record);
            sums.carry(more.sent, more.received, more.retransmits);
            sums.end(end);
        };
        match &connection.command_label {
            Some(name) => finish(self.commands.sums(now, name)),
            None => whole(self.commands.unknown_sums(now), connection.of_process),
        }
        match &connection.place_label {
            Some(name) => finish(self.places.sums(now, name)),
            None => whole(self.places.unknown_sums(now), connection.of_place),
        }
        if let Some(process) = self.process_of(connection) {
            finish(&mut process.sums);
        }
        if let Some(remote) = connection.remote.and_then(|id| self.remotes.get_mut(&id)) {
            finish(&mut remote.sums);
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
        if let Some(name) = &connection.command_label {
            self.commands.leave(now, name);
        }
        if let Some(name) = &connection.place_label {
            self.places.leave(now, name);
        }
        if let Some(process) = self.process_of(connection) {
            process.open = process.open.saturating_sub(1);
            process.last_seen = now;
        }
        if let Some(remote) = connection.remote.and_then(|id| self.remotes.get_mut(&id)) {
            remote.open = remote.open.saturating_sub(1);
            remote.last_seen = now;
        }
    }
}

impl Record {
    /// Whether it says that its connection is over.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.step == Step::Ended
    }
}

/// Whose share of the names a new one of this owner is taken from; nothing of the administrator's.
fn share(owner: &Owner) -> Option<u32> {
    Some(owner.user.unwrap_or(NOBODY_KNOWN)).filter(|user| *user != 0)
}

#[cfg(test)]
pub(crate) mod tests;
