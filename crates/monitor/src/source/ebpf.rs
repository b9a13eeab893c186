//! Programs in the kernel: loaded from the object in this program, attached in the best way the kernel permits.
//!
//! Nothing is pinned, so everything is gone with the process, however it ends.

mod attach;
mod iterator;

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::{Btf, EbpfLoader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::attach::Attached;
use super::{Counts, Options, Source, SourceError, Way, rights};
use crate::decode::{self, ConnectionId, Folded, PROCESS, ProcessId, RECORD, Record, SUMS};
use crate::names;

/// Connections kept at the same time, unless asked otherwise: about 12 MB of the kernel's memory.
pub const CAPACITY: u32 = 65_536;
/// Bytes of the ring: a third of a second of 20,000 connections a second.
pub const RING: u32 = 2 * 1024 * 1024;
/// Bytes of the kernel's own before each record in the ring.
const HEADER: usize = 8;
/// Bytes of `struct kept` in `bpf/tcp.bpf.c`.
const KEPT: usize = 72;
/// The order is that of `enum count` in `bpf/tcp.bpf.c`.
const COUNTS: usize = 11;
/// An ended connection that no process closes is told without an owner after this.
const PATIENCE: Duration = Duration::from_secs(90);

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp.bpf.o"));

/// The source.
pub struct Ebpf {
    way: Way,
    connections: HashMap<MapData, u64, [u8; KEPT]>,
    /// The same map, for surveys.
    kept: OwnedFd,
    events: RingBuf<MapData>,
    /// Bytes that have room there.
    ring: usize,
    counts: PerCpuArray<MapData, [u64; COUNTS]>,
    folded: HashMap<MapData, [u8; PROCESS], [u8; SUMS]>,
    /// What was taken of that already, and the count of all then.
    taken: std::collections::HashMap<ProcessId, Folded>,
    folded_count: u64,
    attached: Attached,
    undecoded: u64,
    /// Looks through open files that the system has refused.
    refused_looks: u64,
    /// What each of the programs has missed, at the last survey.
    missed: Vec<u64>,
    // Last: links go before programs and maps.
    _programs: aya::Ebpf,
}

impl Ebpf {
    /// Loads and attaches.
    ///
    /// # Errors
    /// [`SourceError`] with what is missing here and what to do about it.
    pub fn open(options: &Options) -> Result<Self, SourceError> {
        Self::open_object(OBJECT, options)
    }

    fn open_object(object: &[u8], options: &Options) -> Result<Self, SourceError> {
        raise_memory_limit();
        let facts = rights::Facts::here();
        let obstacle = |error: &dyn std::error::Error| SourceError::NotPermitted(rights::judge(&facts, &chain(error)));
        let btf = Btf::from_sys_fs().map_err(|error| obstacle(&error))?;
        let ring = options.ring.unwrap_or(RING);
        let capacity = options.capacity.unwrap_or(CAPACITY);
        let every_step = u32::from(options.every_step);
        let patience = u64::try_from(options.patience.unwrap_or(PATIENCE).as_nanos()).unwrap_or(u64::MAX);
        // So many places of connections that are over are kept for others, beside those that are there.
        let many = capacity / 2;
        let places = capacity.saturating_add(many);
        let mut programs = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("every_step", &every_step, true)
            .override_global("patience", &patience, true)
            .override_global("many", &many, true)
            .map_max_entries("connections", places)
            .map_max_entries("events", ring)
            .load(object)
            .map_err(|error| obstacle(&error))?;
        let mut way = Way { source: "ebpf", capacity: places as usize, ..Way::default() };
        let attached = attach::attach(&mut programs, &btf, options, &mut way.parts);
        if way.chosen("state").is_none() {
            let state = way.parts.iter().filter(|part| part.purpose == "state");
            let said: Vec<String> =
                state.filter_map(|part| Some(format!("{}: {}", part.way, part.refused.as_ref()?))).collect();
            return Err(SourceError::NotPermitted(rights::judge(&facts, &said.join("; "))));
        }
        way.missing = attach::missing(&way);
        way.missing.extend(super::unseen_processes());
        let mut map = |name: &'static str| {
            programs.take_map(name).ok_or_else(|| SourceError::broken("the object", &format!("it has no map {name}")))
        };
        let broken = |error: &dyn std::fmt::Display| SourceError::broken("a map of the kernel", error);
        let connections = map("connections")?;
        let Map::HashMap(data) = &connections else { return Err(broken(&"it is of another kind")) };
        let kept = data.fd().as_fd().try_clone_to_owned().map_err(|error| broken(&error))?;
        let connections = HashMap::try_from(connections).map_err(|error| broken(&error))?;
        let events = RingBuf::try_from(map("events")?).map_err(|error| broken(&error))?;
        let counts = PerCpuArray::try_from(map("counts")?).map_err(|error| broken(&error))?;
        let folded = HashMap::try_from(map("folded")?).map_err(|error| broken(&error))?;
        let mut source = Self {
            way,
            kept,
            connections,
            events,
            ring: ring as usize,
            counts,
            folded,
            taken: std::collections::HashMap::new(),
            folded_count: 0,
            attached,
            undecoded: 0,
            refused_looks: 0,
            missed: Vec::new(),
            _programs: programs,
        };
        if let Some(program) = source.attached.listening.take() {
            // Once: later beginnings are seen as they happen. Without it the direction of older connections is not known.
            if let Err(error) = iterator::over_all(program.as_fd()).and_then(iterator::run) {
                source.look_refused(&error);
            }
        }
        source.reconcile()?;
        drop(btf);
        give_back();
        Ok(source)
    }

    /// One look through open files less is no reason to end: what it would have found is found by the next, or not at all.
    fn look_refused(&mut self, error: &std::io::Error) {
        self.refused_looks += 1;
        tracing::warn!(%error, "open files could not be looked through");
    }
}

impl Source for Ebpf {
    fn way(&self) -> &Way {
        &self.way
    }

    fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        let Self { events, ring, undecoded, .. } = self;
        one_ring(*ring, || {
            let bytes = events.next()?;
            match decode::record(&bytes) {
                Ok(record) => each(record),
                Err(error) => {
                    *undecoded += 1;
                    tracing::debug!(%error, "a record could not be read");
                }
            }
            Some(bytes.len())
        });
        Ok(())
    }

    fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        let now = self.attached.hooks.iter().map(|hook| missed(hook.as_fd()));
        keep_greatest(&mut self.missed, now);
        let Some(program) = self.attached.survey.as_ref() else { return Ok(()) };
        let run = iterator::over_map(program.as_fd(), self.kept.as_fd());
        run.and_then(|file| records(file, each, &mut self.undecoded))
            .map_err(|error| SourceError::broken("the survey of connections", &error))
    }

    fn reconcile(&mut self) -> Result<(), SourceError> {
        let Some(program) = self.attached.files.as_ref() else { return Ok(()) };
        if let Err(error) = iterator::over_all(program.as_fd()).and_then(iterator::run) {
            self.look_refused(&error);
        }
        Ok(())
    }

    fn folded(&mut self, each: &mut dyn FnMut(Folded)) -> Result<(), SourceError> {
        let count = self.counts()?.folded;
        if count == self.folded_count {
            return Ok(());
        }
        self.folded_count = count;
        let mut dead = Vec::new();
        for entry in self.folded.iter() {
            // One that went while it was looked for is no failure.
            let Ok((process, sums)) = entry else { continue };
            let all = decode::folded(&process, &sums);
            let more = self.taken.insert(all.owner.process, all).map_or(all, |before| all.since(&before));
            if more.opened + more.incoming + more.failed + more.closed > 0 {
                each(more);
            } else if !names::is_alive(all.owner.process) {
                dead.push((process, all.owner.process));
            }
        }
        for (process, id) in dead {
            // Nothing can be added any more: there is room again.
            let _ = self.folded.remove(&process);
            self.taken.remove(&id);
        }
        Ok(())
    }

    fn counts(&mut self) -> Result<Counts, SourceError> {
        let by_cpu = self.counts.get(&0, 0).map_err(|error| SourceError::broken("the kernel's counts", &error))?;
        let mut sums = [0; COUNTS];
        for counts in by_cpu.iter() {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let [opened, incoming, reached, failed, closed, map_full, events_lost, unowned, seen_late, folded, unheard] =
            sums;
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
            refused_looks: self.refused_looks,
        })
    }

    fn forget(&mut self, id: ConnectionId) {
        // Its place may be another connection's by now, which must not lose it.
        let is_it =
            |kept: [u8; KEPT]| kept.first_chunk().is_some_and(|opened| u64::from_ne_bytes(*opened) == id.opened);
        if self.connections.get(&id.socket, 0).is_ok_and(is_it) {
            let _ = self.connections.remove(&id.socket);
        }
    }

    fn wait(&self, up_to: Duration) {
        let mut look = [PollFd::new(&self.events, PollFlags::IN)];
        let up_to = Timespec::try_from(up_to).ok();
        // A signal ends the wait early, which does no harm.
        let _ = poll(&mut look, up_to.as_ref());
    }
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

/// What the load has used is given back to the system: the types of the whole kernel are many.
fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "no library has this call")]
        // SAFETY: it has no argument that could be wrong, and any thread may call it at any time.
        let _ = unsafe { libc::malloc_trim(0) };
    }
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

    #[test]
    fn what_is_forgotten_is_the_old_connection_and_never_the_one_that_has_its_place() {
        let Ok(mut source) = Ebpf::open(&Options::default()) else {
            assert!(!rustix::process::geteuid().is_root() || std::env::var_os("ADIT_NO_EBPF").is_some());
            return;
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let local = client.local_addr().expect("an address");
        let find = |source: &mut Ebpf| {
            let mut found = None;
            source
                .survey(&mut |record| found = found.or((record.local == local).then_some(record.id)))
                .expect("a survey");
            found
        };
        let id = find(&mut source).expect("it is there");
        source.forget(ConnectionId { opened: id.opened - 1, ..id });
        assert_eq!(find(&mut source), Some(id), "that was another one");
        source.forget(id);
        assert_eq!(find(&mut source), None);
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
        match Ebpf::open_object(object, &Options::default()) {
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
