//! Programs in the kernel: loaded from the object in this program, attached in the best way the kernel permits.
//!
//! Nothing is pinned, so everything is gone with the process, however it ends.

mod attach;
mod ends;
mod iterator;

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, Queue, RingBuf};
use aya::{Btf, EbpfLoader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::attach::Attached;
use self::ends::Ends;
use super::{Counts, Options, Source, SourceError, Way, rights};
use crate::decode::{self, Folded, PROCESS, ProcessId, RECORD, Record, SUMS};
use crate::hash;
use crate::memory;
use crate::names;

/// Connections kept at the same time, unless asked otherwise: about 14 MB of the kernel's memory.
pub const CAPACITY: u32 = 65_536;
/// Bytes of the ring: a third of a second of 20,000 connections a second.
pub const RING: u32 = 2 * 1024 * 1024;
/// Bytes of the kernel's own before each record in the ring.
const HEADER: usize = 8;
/// The order is that of `enum count` in `bpf/record.h`.
const COUNTS: usize = 12;
/// An ended connection that no process closes is told without an owner after this.
const PATIENCE: Duration = Duration::from_secs(90);
/// What is added up for a dead process is kept until nothing was added for so long: the kernel gives up connections that
/// nobody has any more in less.
const FOLDED_QUIET: Duration = Duration::from_secs(120);
/// Or until there are so many processes: half of those that have room.
const FOLDED_MANY: usize = 4_096;

/// How the rings of the processors are had, from the two maps.
type Rings = fn(BorrowedFd<'_>, BorrowedFd<'_>, usize, usize) -> std::io::Result<Ends>;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp.bpf.o"));

/// The source.
pub struct Ebpf {
    way: Way,
    /// The places of connections, for surveys.
    kept: OwnedFd,
    /// Ends of connections, where the programs can write them without the kernel's ring.
    ends: Option<Ends>,
    events: RingBuf<MapData>,
    /// Bytes that have room there.
    ring: usize,
    /// Ends that found no room and can be added to no sums.
    later: Queue<MapData, [u8; RECORD]>,
    counts: PerCpuArray<MapData, [u64; COUNTS]>,
    folded: HashMap<MapData, [u8; PROCESS], [u8; SUMS]>,
    /// What was taken of that already and when there was more last, and the count of all then.
    taken: hash::HashMap<ProcessId, (Folded, Instant)>,
    folded_count: u64,
    attached: Attached,
    undecoded: u64,
    /// Looks through open files that the system has refused.
    refused_looks: u64,
    /// Where processes listen, as far as it was looked at.
    listeners: HashMap<MapData, u64, u8>,
    /// How many connections had been missed when that was looked at last.
    missed_then: Option<u64>,
    /// What each of the programs has missed, at the last survey.
    missed: Vec<u64>,
    // Last: links go before programs and maps.
    programs: aya::Ebpf,
}

impl Ebpf {
    /// Loads and attaches.
    ///
    /// # Errors
    /// [`SourceError`] with what is missing here and what to do about it.
    pub fn open(options: &Options) -> Result<Self, SourceError> {
        Self::open_object(OBJECT, options, Ends::new)
    }

    fn open_object(object: &[u8], options: &Options, rings: Rings) -> Result<Self, SourceError> {
        raise_memory_limit();
        let facts = rights::Facts::here();
        let obstacle = |error: &dyn std::error::Error| SourceError::NotPermitted(rights::judge(&facts, &chain(error)));
        let btf = Btf::from_sys_fs().map_err(|error| obstacle(&error))?;
        let ring = options.ring.unwrap_or(RING);
        let capacity = options.capacity.unwrap_or(CAPACITY);
        let every_step = u32::from(options.every_step);
        let patience = u64::try_from(options.patience.unwrap_or(PATIENCE).as_nanos()).unwrap_or(u64::MAX);
        let (places, nests) = (places(capacity), may_nest());
        let processors = aya::util::nr_cpus().map_err(|(_, error)| obstacle(&error))?;
        let ends_of_each = ends::records_of_each(ring, processors);
        let by_processor = |each: u32| each.saturating_mul(u32::try_from(processors).unwrap_or(u32::MAX));
        let mut programs = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("every_step", &every_step, true)
            .override_global("patience", &patience, true)
            .override_global("last_place", &(places - 1), true)
            .override_global("nests", &u32::from(nests), true)
            .override_global("last_end", &(ends_of_each - 1), true)
            .map_max_entries("connections", places)
            .map_max_entries("waiting", places / 4)
            .map_max_entries("events", ring)
            .map_max_entries("ends", by_processor(ends_of_each))
            .map_max_entries("turns", by_processor(1))
            .load(object)
            .map_err(|error| obstacle(&error))?;
        // Before anything is attached: if they cannot be had, nobody is to write into them.
        let ends = ends(&mut programs, processors, ends_of_each as usize, rings)?;
        // More of them find room mostly, but not always.
        let mut way = Way { source: "ebpf", capacity: places as usize / 2, ..Way::default() };
        let attached = attach::attach(&mut programs, &btf, options, nests, &mut way.parts);
        if way.chosen("state").is_none() {
            let said = refusals(&way, "state");
            return Err(SourceError::NotPermitted(match (rights::foresee(&facts), &options.state) {
                (None, Some(asked)) => rights::judge_asked(&facts, &format!("--attach {asked}"), &said),
                _ => rights::judge(&facts, &said),
            }));
        }
        say_exits(&mut programs, &way).map_err(|error| SourceError::broken("a map of the kernel", &error))?;
        if let Some(asked) = options.accept.as_deref().filter(|asked| *asked != "close") {
            let (said, is_unmet) = (refusals(&way, "accept"), way.chosen("accept").is_none());
            way.unmet = is_unmet.then(|| rights::judge_asked(&facts, &format!("--accept {asked}"), &said));
        }
        way.missing = attach::missing(&way, facts.release);
        way.missing.extend(super::unseen_processes());
        let broken = |error: &dyn std::fmt::Display| SourceError::broken("a map of the kernel", error);
        let mut map = |name: &'static str| {
            programs.take_map(name).ok_or_else(|| SourceError::broken("the object", &format!("it has no map {name}")))
        };
        let Map::Array(connections) = map("connections")? else { return Err(broken(&"it is of another kind")) };
        let kept = connections.fd().as_fd().try_clone_to_owned().map_err(|error| broken(&error))?;
        let events = RingBuf::try_from(map("events")?).map_err(|error| broken(&error))?;
        let later = Queue::try_from(map("later")?).map_err(|error| broken(&error))?;
        let counts = PerCpuArray::try_from(map("counts")?).map_err(|error| broken(&error))?;
        let folded = HashMap::try_from(map("folded")?).map_err(|error| broken(&error))?;
        let listeners = HashMap::try_from(map("listeners")?).map_err(|error| broken(&error))?;
        let mut source = Self {
            way,
            kept,
            ends,
            events,
            ring: ring as usize,
            later,
            counts,
            folded,
            taken: hash::HashMap::default(),
            folded_count: 0,
            attached,
            undecoded: 0,
            refused_looks: 0,
            listeners,
            missed_then: None,
            missed: Vec::new(),
            programs,
        };
        source.reconcile()?;
        drop(btf);
        // The types of the whole kernel are many.
        memory::give_back();
        Ok(source)
    }

    /// Takes the programs off what they are attached to, or puts them back, in some milliseconds: so what they cost can be
    /// measured. What happens without them is missed.
    ///
    /// # Errors
    /// When the kernel does not attach one again.
    pub fn switch(&mut self, on: bool) -> Result<(), SourceError> {
        if on {
            let attached = self.attached.attach_again(&mut self.programs);
            return attached.map_err(|error| SourceError::broken("a program in the kernel", &error));
        }
        self.attached.detach();
        Ok(())
    }

    /// Who listens where, as it tells the direction of connections that are found late. That is looked at once, and again
    /// when the beginnings of others were missed since: these may be of servers that listen only since then.
    fn look_who_listens(&mut self) -> Result<(), SourceError> {
        let counts = self.counts()?;
        let missed = counts.map_full + counts.hook_missed;
        let Some(program) = self.attached.listening.as_ref() else { return Ok(()) };
        if self.missed_then.is_some_and(|then| missed <= then) {
            return Ok(());
        }
        // A port that nobody listens at any more may be a client's now.
        let keys: Vec<u64> = self.listeners.keys().flatten().collect();
        for key in keys {
            let _ = self.listeners.remove(&key);
        }
        match iterator::over_all(program.as_fd()).and_then(iterator::run) {
            Ok(()) => self.missed_then = Some(missed),
            Err(error) => self.look_refused(&error),
        }
        Ok(())
    }

    /// One look through open files less is no reason to end: what it would have found is found by the next, or not at all.
    fn look_refused(&mut self, error: &std::io::Error) {
        self.refused_looks += 1;
        tracing::warn!(%error, "open files could not be looked through");
    }
}

/// What the kernel said of the ways to one purpose that it refused.
fn refusals(way: &Way, purpose: &str) -> String {
    let parts = way.parts.iter().filter(|part| part.purpose == purpose);
    let mut said: Vec<_> = parts.filter_map(|part| Some(format!("{}: {}", part.way, part.refused.as_ref()?))).collect();
    // A way may have two programs, and the kernel the same to say of both.
    said.dedup();
    said.join("; ")
}

impl Source for Ebpf {
    fn way(&self) -> &Way {
        &self.way
    }

    fn fill(&self) -> (u32, u32) {
        self.ends.as_ref().map_or((0, u32::MAX), Ends::fill)
    }

    fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        let Self { ends, events, ring, later, undecoded, .. } = self;
        let mut read = |bytes: &[u8]| match decode::record(bytes) {
            Ok(record) => each(record),
            Err(error) => {
                *undecoded += 1;
                tracing::debug!(%error, "a record could not be read");
            }
        };
        if let Some(ends) = ends {
            ends.take(|bytes| read(bytes));
        }
        one_ring(*ring, || {
            let bytes = events.next()?;
            read(&bytes);
            Some(bytes.len())
        });
        // After the steps before them.
        for _ in 0..later.capacity() {
            let Ok(bytes) = later.pop(0) else { break };
            read(&bytes);
        }
        Ok(())
    }

    fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        let now = self.attached.hooks.iter().map(|hook| missed(hook.descriptor.as_fd()));
        keep_greatest(&mut self.missed, now);
        let Some(program) = self.attached.survey.as_ref() else { return Ok(()) };
        let run = iterator::over_map(program.as_fd(), self.kept.as_fd());
        run.and_then(|file| records(file, each, &mut self.undecoded))
            .map_err(|error| SourceError::broken("the survey of connections", &error))
    }

    fn reconcile(&mut self) -> Result<(), SourceError> {
        self.look_who_listens()?;
        let Some(program) = self.attached.files.as_ref() else { return Ok(()) };
        if let Err(error) = iterator::over_all(program.as_fd()).and_then(iterator::run) {
            self.look_refused(&error);
        }
        Ok(())
    }

    fn folded(&mut self, each: &mut dyn FnMut(Folded)) -> Result<(), SourceError> {
        let (now, is_tight) = (Instant::now(), self.taken.len() >= FOLDED_MANY);
        let count = self.counts()?.folded;
        // Where there is soon no room for more, what is over has to go, also when nothing could be added for lack of it.
        if count == self.folded_count && !is_tight {
            return Ok(());
        }
        self.folded_count = count;
        let mut dead = Vec::new();
        for entry in self.folded.iter() {
            // One that went while it was looked for is no failure.
            let Ok((process, sums)) = entry else { continue };
            let all = decode::folded(&process, &sums);
            let before = self.taken.get(&all.owner.process);
            let more = before.map_or(all, |(before, _)| all.since(before));
            let is_quiet = before.is_some_and(|(_, last)| is_tight || now.duration_since(*last) >= FOLDED_QUIET);
            if !more.is_nothing() {
                self.taken.insert(all.owner.process, (all, now));
                each(more);
            } else if is_quiet && !names::is_alive(all.owner.process) {
                dead.push((process, sums, all.owner.process));
            }
        }
        for (process, sums, id) in dead {
            // A dead process's last connections end after it. Was something added since it was read, it stays; what is
            // added after it was removed begins new sums.
            if self.folded.get(&process, 0).ok() != Some(sums) {
                continue;
            }
            let _ = self.folded.remove(&process);
            self.taken.remove(&id);
        }
        Ok(())
    }

    fn counts(&mut self) -> Result<Counts, SourceError> {
        let mut sums = [0; COUNTS];
        // Of changes of state, and of all else.
        for whose in 0..2 {
            let by_cpu = self.counts.get(&whose, 0);
            let by_cpu = by_cpu.map_err(|error| SourceError::broken("the kernel's counts", &error))?;
            for counts in by_cpu.iter() {
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        let [opened, incoming, reached, failed, closed, map_full, events_lost, unowned, seen_late, ..] = sums;
        let [.., folded, unheard, unseen] = sums;
        Ok(Counts {
            opened,
            incoming,
            established: incoming + reached,
            failed,
            closed,
            map_full,
            events_lost,
            unowned,
            seen_late,
            folded,
            undecoded: self.undecoded,
            listeners_full: unheard,
            hook_missed: self.missed.iter().sum(),
            unseen,
            refused_looks: self.refused_looks,
        })
    }

    fn wait(&self, up_to: Duration) {
        let mut look = [PollFd::new(&self.events, PollFlags::IN)];
        let up_to = Timespec::try_from(up_to).ok();
        // A signal ends the wait early, which does no harm.
        let _ = poll(&mut look, up_to.as_ref());
    }
}

/// The rings of ended connections, where the programs have them, and where they can be read.
fn ends(programs: &mut aya::Ebpf, processors: usize, each: usize, rings: Rings) -> Result<Option<Ends>, SourceError> {
    // They stay where they are: the programs that are loaded after this know them by their descriptors.
    let (Some(Map::Array(turns)), Some(Map::Array(ends))) = (programs.map("turns"), programs.map("ends")) else {
        return Ok(None);
    };
    match rings(turns.fd().as_fd(), ends.fd().as_fd(), processors, each) {
        Ok(ends) => Ok(Some(ends)),
        Err(error) => {
            tracing::warn!(%error, "the rings of the processors cannot be read: all goes through the kernel's own");
            let turns = programs.map_mut("turns").map(Array::try_from).transpose();
            let shut = turns.and_then(|turns| turns.map_or(Ok(()), |mut turns| ends::shut(&mut turns)));
            shut.map(|()| None).map_err(|error| SourceError::broken("a map of the kernel", &error))
        }
    }
}

/// Says to the programs of which families they hear why connect fails: then the end of such an attempt waits for that.
fn say_exits(programs: &mut aya::Ebpf, way: &Way) -> Result<(), aya::maps::MapError> {
    let families: u32 = match way.chosen("unreachable") {
        None => 0,
        Some(part) if part.way.contains("tcp_v6_connect") => 2,
        Some(_) => 1,
    };
    let map = programs.map_mut("connect_exits").map(Array::try_from).transpose()?;
    map.map_or(Ok(()), |mut map| map.set(0, families, 0))
}

/// Whether the kernel runs a program that interrupts itself on a processor; not since 6.1.
fn may_nest() -> bool {
    use aya::util::KernelVersion;
    KernelVersion::current().map_or(true, |version| version < KernelVersion::new(6, 1, 0))
}

/// So many places that of so many connections each finds one: a power of two, and at most half of them are in use then.
fn places(capacity: u32) -> u32 {
    (capacity.clamp(32, 1 << 29) * 2).next_power_of_two()
}

/// Takes what there is, but no more than the ring has room for: so much may have been there when it began. Should others
/// bring more as fast as it is taken, the rest is for the next turn, and there are surveys and ends in between.
fn one_ring(ring: usize, mut take: impl FnMut() -> Option<usize>) {
    let mut left = ring;
    while left > 0 {
        let Some(bytes) = take() else { return };
        left = left.saturating_sub(bytes + HEADER);
    }
}

/// Reads records from an iterator, as many as fit at a time.
fn records(mut file: impl Read, each: &mut dyn FnMut(Record), undecoded: &mut u64) -> std::io::Result<()> {
    let mut buffer = vec![0; RECORD * 128];
    let mut have = 0;
    loop {
        match iterator::read(&mut file, &mut buffer[have..])? {
            0 => return Ok(()),
            more => have += more,
        }
        let whole = have - have % RECORD;
        for bytes in buffer[..whole].chunks_exact(RECORD) {
            match decode::record(bytes) {
                Ok(record) => each(record),
                Err(_) => *undecoded += 1,
            }
        }
        buffer.copy_within(whole..have, 0);
        have -= whole;
    }
}

/// How often the kernel did not run a program because one ran already on that processor. It says so since 5.12; of
/// tracepoints and probes of the older kind since 6.7.
fn missed(program: BorrowedFd<'_>) -> u64 {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
    facts.ok().and_then(|facts| recursion_misses(&facts)).unwrap_or_default()
}

/// A count never falls, also when it could not be read this time.
fn keep_greatest(kept: &mut Vec<u64>, now: impl ExactSizeIterator<Item = u64>) {
    kept.resize(now.len(), 0);
    kept.iter_mut().zip(now).for_each(|(kept, now)| *kept = now.max(*kept));
}

fn recursion_misses(facts: &str) -> Option<u64> {
    facts.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

/// Before 5.11 maps are counted as locked memory. Where that is not so, or not permitted, nothing is lost.
fn raise_memory_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Memlock);
    let all = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, all).is_err() {
        let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let _ = setrlimit(Resource::Memlock, most);
    }
}

/// An error with its causes; what the verifier says is for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::End;

    /// Bytes of `struct kept` in `bpf/record.h`.
    const KEPT: usize = 128;

    /// The source, unless this process may not have it, which is said.
    fn opened(options: &Options) -> Option<Ebpf> {
        match Ebpf::open(options) {
            Ok(source) => Some(source),
            Err(error) => {
                let may = rustix::process::geteuid().is_root() && std::env::var_os("ADIT_NO_EBPF").is_none();
                assert!(!may, "root may load programs, but: {error}");
                eprintln!("SKIPPED, as the kernel does not permit it: {error}");
                None
            }
        }
    }

    #[test]
    fn the_place_of_a_socket_that_two_surveys_do_not_find_is_free_and_the_others_stay() {
        let Some(mut source) = opened(&Options::default()) else { return };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let local = client.local_addr().expect("an address");
        // As it is left when the end of a connection was missed, in a place that is free: there is no socket any more.
        let map = MapData::from_fd(source.kept.try_clone().expect("a descriptor")).expect("the map");
        let mut places: Array<_, [u8; KEPT]> = Map::Array(map).try_into().expect("an array");
        let free = |place: &[u8; KEPT]| place[36] == 0;
        let at = (0..places.len()).find(|at| free(&places.get(at, 0).expect("a place"))).expect("a free place");
        let mut left = [0; KEPT];
        left[0] = 8;
        left[8] = 7;
        left[36] = 1;
        places.set(at, left, 0).expect("a place");
        let mut look = || {
            let mut found = (0, 0);
            source
                .survey(&mut |record| {
                    found.0 += usize::from(record.local == local);
                    found.1 += usize::from(record.gone && record.id == decode::ConnectionId { socket: 8, opened: 7 });
                })
                .expect("a survey");
            found
        };
        assert_eq!([look(), look(), look()], [(1, 1), (1, 1), (1, 0)]);
        assert!(free(&places.get(&at, 0).expect("a place")));
        assert!(source.counts().expect("counts").unseen >= 1, "its end is told by nobody");
    }

    #[test]
    fn an_end_that_the_kernel_has_told_no_program_of_is_told_when_the_socket_goes() {
        for options in [Options::default(), Options { general: true, ..Options::default() }, raw()] {
            let Some(mut source) = opened(&options) else { return };
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let pair = || {
                let client = std::net::TcpStream::connect(address).expect("a connection");
                (client, listener.accept().expect("a connection").0)
            };
            let (mut orderly, reset) = (pair(), pair());
            std::io::Write::write_all(&mut orderly.0, b"12345").expect("room");
            Read::read_exact(&mut orderly.1, &mut [0; 5]).expect("what was sent");
            source.attached.detach_state();
            let before = source.counts().expect("counts").closed;
            drop(orderly);
            rustix::net::sockopt::set_socket_linger(&reset.1, Some(Duration::ZERO)).expect("an option");
            drop(reset.1);
            let _ = Read::read(&mut &reset.0, &mut [0]);
            drop(reset.0);
            let mut found = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(10);
            while found.len() < 4 && Instant::now() < deadline {
                let mut keep = |record: Record| {
                    if let Some((_, end)) = record.ended
                        && (record.local == address || record.remote == address)
                    {
                        found.push((record.incoming, record.sent, record.owner.is_some(), end));
                    }
                };
                source.events(&mut keep).expect("events");
            }
            found.sort_unstable_by_key(|(incoming, sent, ..)| (*incoming, *sent));
            assert_eq!(found.len(), 4, "{found:?}");
            // Who has accepted is known at its close, of which nothing was heard. Of a reset its process has been told already.
            assert_eq!(found[0], (false, 0, true, End::Unseen), "{options:?}");
            // Who closes first need not wait for the other's end.
            assert!(!found[1].0 && found[1].1 == 5 && found[1].2, "{found:?}");
            assert!(matches!(found[1].3, End::Closed | End::Unseen), "{found:?}");
            assert!(found.iter().any(|(incoming, .., end)| *incoming && *end == End::Closed), "{found:?}");
            assert!(source.counts().expect("counts").closed >= before + 4);
        }
    }

    fn raw() -> Options {
        Options { state: Some("raw_tracepoint".into()), ..Options::default() }
    }

    #[test]
    fn sockets_that_are_not_in_the_first_place_of_their_row_are_counted_there_while_they_are_kept() {
        let Some(source) = opened(&Options { capacity: Some(64), ..Options::default() }) else { return };
        let map = MapData::from_fd(source.kept.try_clone().expect("a descriptor")).expect("the map");
        let places: Array<_, [u8; KEPT]> = Map::Array(map).try_into().expect("an array");
        // How many are further on in their rows, and how many of these are counted.
        let look = || {
            let all = (0..places.len()).map(|at| places.get(&at, 0).expect("a place"));
            all.fold((0, 0), |(further, counted), place| {
                let is_further = place[36] != 0 && place[37] != 0;
                (further + u32::from(is_further), counted + u32::from(u16::from_ne_bytes([place[34], place[35]])))
            })
        };
        // The places are not read all at the same moment, so the two are alike once others rest.
        let until = |done: &dyn Fn((u32, u32)) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !done(look()) {
                assert!(Instant::now() < deadline, "{:?}", look());
            }
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        // Of the accepted sides; others may have connections at any time.
        let ours = || {
            let all = (0..places.len()).map(|at| places.get(&at, 0).expect("a place"));
            all.filter(|place| place[36] != 0 && place[40..42] == address.port().to_ne_bytes()).count()
        };
        let pair = |_| {
            let client = std::net::TcpStream::connect(address);
            (client.expect("a connection"), listener.accept().expect("a connection"))
        };
        for _ in 0..3 {
            let all: Vec<_> = (0..50).map(pair).collect();
            until(&|(further, counted)| further > 0 && further == counted && ours() > 0);
            drop(all);
            until(&|(further, counted)| further == counted && ours() == 0);
        }
    }

    #[test]
    fn what_cannot_be_read_where_it_lies_comes_through_the_kernels_ring() {
        if opened(&Options::default()).is_none() {
            return;
        }
        let refused: Rings = |_, _, _, _| Err(std::io::ErrorKind::PermissionDenied.into());
        let mut source = Ebpf::open_object(OBJECT, &Options::default(), refused).expect("the kernel's ring will do");
        assert!(source.ends.is_none());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop((std::net::TcpStream::connect(address).expect("a connection"), listener.accept().expect("a connection")));
        let (mut told, deadline) = (0, Instant::now() + Duration::from_secs(10));
        while told < 2 && Instant::now() < deadline {
            let mut keep = |record: Record| told += usize::from(record.local == address || record.remote == address);
            source.events(&mut keep).expect("events");
        }
        assert_eq!(told, 2);
    }

    #[test]
    fn the_quick_program_is_used_where_only_ends_are_told_and_changes_do_not_nest() {
        for every_step in [false, true] {
            let Some(source) = opened(&Options { every_step, ..Options::default() }) else { return };
            let is_quick = source.attached.hooks.iter().any(|hook| hook.program == "state_usual");
            assert_eq!(is_quick, cfg!(target_arch = "x86_64") && !every_step && !may_nest());
        }
    }

    #[test]
    fn there_are_twice_as_many_places_as_connections_are_to_be_kept() {
        assert_eq!([0, 64, 65, 65_536, u32::MAX].map(places), [64, 128, 256, 131_072, 1 << 30]);
    }

    #[test]
    fn a_turn_ends_with_one_ring_however_fast_others_bring_more() {
        let mut taken = 0;
        one_ring(4_096, || {
            taken += 1;
            // It fails, and not never ends, without the bound.
            (taken < 100_000).then_some(RECORD)
        });
        assert_eq!(taken, 4_096_usize.div_ceil(RECORD + HEADER));
        let mut few = 3;
        one_ring(4_096, || {
            few -= 1;
            (few > 0).then_some(RECORD)
        });
        assert_eq!(few, 0);
    }

    #[test]
    fn what_a_program_has_missed_is_read_from_its_descriptor() {
        let facts = "pos:\t0\nprog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t7\nverified_insns:\t900\n";
        assert_eq!(recursion_misses(facts), Some(7));
        assert_eq!(recursion_misses("prog_type:\t26\n"), None, "before 5.12");
        let mut kept = Vec::new();
        for now in [[7, 0], [0, 1], [8, 1]] {
            keep_greatest(&mut kept, now.into_iter());
        }
        keep_greatest(&mut kept, [0, 0].into_iter());
        assert_eq!(kept, [8, 1], "one that could not be read");
    }

    /// What opening an object that is none of ours says.
    fn refused(object: &[u8]) -> String {
        match Ebpf::open_object(object, &Options::default(), Ends::new) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_object_that_is_missing_or_broken_is_refused_with_words() {
        // Without the rights these are what is said, and that is right as well.
        for object in [&[][..], b"no object", &OBJECT[..OBJECT.len() / 2]] {
            let said = refused(object);
            assert!(said.contains("does not take the programs") || said.contains("missing"), "{said}");
        }
    }

    #[test]
    fn a_kernel_without_ipv6_takes_the_programs_as_well() {
        // As it has none of its addresses, what they are read for is never reached.
        let mut object = OBJECT.to_vec();
        for name in [&b"\0skc_v6_daddr\0"[..], b"\0skc_v6_rcv_saddr\0"] {
            let at = object.windows(name.len()).position(|window| window == name).expect("a name in the types");
            object[at + 1] = b'X';
        }
        let Some(usual) = opened(&Options::default()) else { return };
        let without = Ebpf::open_object(&object, &Options::default(), Ends::new).expect("programs that do without");
        assert_eq!(without.way.parts, usual.way.parts);
    }

    #[test]
    fn an_object_for_another_kernel_loses_the_ways_that_need_what_is_not_there() {
        // A field that no kernel has: offsets cannot be filled in, and the programs that use it are not loaded.
        let mut object = OBJECT.to_vec();
        let name = b"\0bytes_sent\0";
        let at = object.windows(name.len()).position(|window| window == name).expect("a name in the types");
        object[at + 1] = b'X';
        let said = refused(&object);
        assert!(said.contains("does not take the programs") || said.contains("missing"), "{said}");
    }
}
