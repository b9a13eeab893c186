//! Programs in the kernel: loaded from the object in this program, attached in the best way the kernel permits.
//!
//! Nothing is pinned, so everything is gone with the process, however it ends.

mod attach;
mod iterator;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::{Btf, EbpfLoader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::attach::Attached;
use super::{Counts, Options, Source, SourceError, Way, rights};
use crate::decode::{self, ConnectionId, Folded, PROCESS, ProcessId, RECORD, Record, SUMS};
use crate::names;

/// Connections kept at the same time, unless asked otherwise: about 8 MB of the kernel's memory.
pub const CAPACITY: u32 = 65_536;
/// Bytes of the ring: a third of a second of 20,000 connections a second.
pub const RING: u32 = 2 * 1024 * 1024;
/// Bytes of `struct kept` in `bpf/tcp.bpf.c`.
const KEPT: usize = 72;
/// The order is that of `enum count` in `bpf/tcp.bpf.c`.
const COUNTS: usize = 10;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcp.bpf.o"));

/// The source.
pub struct Ebpf {
    way: Way,
    connections: HashMap<MapData, u64, [u8; KEPT]>,
    /// The same map, for surveys.
    kept: OwnedFd,
    events: RingBuf<MapData>,
    counts: PerCpuArray<MapData, [u64; COUNTS]>,
    folded: HashMap<MapData, [u8; PROCESS], [u8; SUMS]>,
    /// What was taken of that already, and the count of all then.
    taken: std::collections::HashMap<ProcessId, Folded>,
    folded_count: u64,
    attached: Attached,
    undecoded: u64,
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
        let mut programs = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("every_step", &every_step, true)
            .map_max_entries("connections", capacity)
            .map_max_entries("events", ring)
            .load(object)
            .map_err(|error| obstacle(&error))?;
        let mut way = Way { source: "ebpf", capacity: capacity as usize, ..Way::default() };
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
            counts,
            folded,
            taken: std::collections::HashMap::new(),
            folded_count: 0,
            attached,
            undecoded: 0,
            _programs: programs,
        };
        if let Some(program) = source.attached.listening.take() {
            // Once: later beginnings are seen as they happen. Without it the direction of older connections is not known.
            let run = iterator::over_all(program.as_fd()).and_then(iterator::run);
            run.map_err(|error| SourceError::broken("the survey of open files", &error))?;
        }
        source.reconcile()?;
        Ok(source)
    }
}

impl Source for Ebpf {
    fn way(&self) -> &Way {
        &self.way
    }

    fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        while let Some(bytes) = self.events.next() {
            match decode::record(&bytes) {
                Ok(record) => each(record),
                Err(error) => {
                    self.undecoded += 1;
                    tracing::debug!(%error, "a record could not be read");
                }
            }
        }
        Ok(())
    }

    fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        let Some(program) = self.attached.survey.as_ref() else { return Ok(()) };
        let run = iterator::over_map(program.as_fd(), self.kept.as_fd());
        run.and_then(|file| records(file, each, &mut self.undecoded))
            .map_err(|error| SourceError::broken("the survey of connections", &error))
    }

    fn reconcile(&mut self) -> Result<(), SourceError> {
        let Some(program) = self.attached.files.as_ref() else { return Ok(()) };
        let run = iterator::over_all(program.as_fd()).and_then(iterator::run);
        run.map_err(|error| SourceError::broken("the survey of open files", &error))
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
        let [opened, incoming, established, failed, closed, map_full, events_lost, unowned, seen_late, folded] = sums;
        let undecoded = self.undecoded;
        Ok(Counts {
            opened,
            incoming,
            established,
            failed,
            closed,
            map_full,
            events_lost,
            unowned,
            seen_late,
            folded,
            undecoded,
        })
    }

    fn forget(&mut self, id: ConnectionId) {
        // Its end may have taken it away in between.
        let _ = self.connections.remove(&id.socket);
    }

    fn wait(&self, up_to: Duration) {
        let mut look = [PollFd::new(&self.events, PollFlags::IN)];
        let up_to = Timespec::try_from(up_to).ok();
        // A signal ends the wait early, which does no harm.
        let _ = poll(&mut look, up_to.as_ref());
    }
}

/// Reads records from an iterator, as many as fit at a time.
fn records(mut file: File, each: &mut dyn FnMut(Record), undecoded: &mut u64) -> std::io::Result<()> {
    use std::io::Read as _;
    let mut buffer = vec![0; RECORD * 128];
    let mut have = 0;
    loop {
        match file.read(&mut buffer[have..]) {
            Ok(0) => return Ok(()),
            Ok(more) => have += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
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
