//! Drives a source: takes its records into the table, looks through everything now and then, and says when it fails.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::decode::{Folded, OwnedBy, ProcessId, Record, Step};
use crate::memory;
use crate::metrics::{self, Snapshot};
use crate::names::{self, Names};
use crate::source::{Counts, Source, SourceError, Way};
use crate::table::{Limits, Table};

/// How often events are taken when nobody wakes us, where few happen, and where many do.
const TAKE: Duration = Duration::from_millis(100);
const TAKE_OFTEN: Duration = Duration::from_millis(5);
/// So many are to be found each time at most, where many happen, and in the ring of a processor no more than half of what it
/// has room for: what finds none there goes a way that costs connections much more.
const TAKE_AT_ONCE: u32 = 512;
/// How often dead processes are looked for, and how often when there is soon no room for more.
const EXPIRE: Duration = Duration::from_secs(10);
const EXPIRE_TIGHT: Duration = Duration::from_secs(1);
/// Processes that are looked at each time: some 10 ms.
const EXPIRE_MOST: usize = 1_024;
/// Where /proc does not tell whether a process lives, it is taken for dead when it was not seen for so long.
const UNSEEN: Duration = Duration::from_secs(900);
/// Records that are looked up together, so that the table is not held meanwhile.
const BATCH: usize = 512;
/// An agent that was not heard of for so long hangs: far longer than a look through a busy machine takes.
const HANGS: Duration = Duration::from_secs(60);
/// Looking for owners takes at most this part of the time.
const OWNERS_PART: u32 = 50;
/// Owners are looked for at least so often, for what hooks have missed.
const OWNERS_AT_LEAST: Duration = Duration::from_secs(30);

/// The agent's own priority: before ordinary work, as it does little.
#[cfg(target_os = "linux")]
const PRIORITY: i32 = -10;

/// What others may read while the agent runs.
#[derive(Debug)]
pub struct Shared {
    table: Mutex<Table>,
    counts: Mutex<Counts>,
    way: Way,
    stop: AtomicBool,
    /// When the agent was last heard of, in milliseconds since the system started; 0 before it runs.
    beat: AtomicU64,
    /// Connections that the kernel's map had at the last survey.
    kept: AtomicUsize,
}

impl Shared {
    /// What is known of connections.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the source has counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is found out.
    #[must_use]
    pub const fn way(&self) -> &Way {
        &self.way
    }

    /// What monitoring reads. The table is held for a copy, not for the text.
    #[must_use]
    pub fn metrics(&self) -> String {
        // Without a survey nobody has counted them.
        let kept = self.way.chosen("survey").filter(|_| self.way.capacity > 0);
        let kept = kept.map(|_| self.kept.load(Ordering::Relaxed));
        let snapshot = Snapshot::of(&self.table(), kept);
        metrics::text(&snapshot, &self.counts(), &self.way)
    }

    /// For how long the agent was not heard of, when that is too long.
    #[must_use]
    pub fn hangs(&self) -> Option<Duration> {
        let beat = self.beat.load(Ordering::Relaxed);
        let silent = now().saturating_sub(Duration::from_millis(beat));
        (beat > 0 && silent > HANGS).then_some(silent)
    }

    fn beat(&self) {
        self.beat.store(u64::try_from(now().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it was told to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The agent ends within a tenth of a second.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whoever wants to hear of every record; with where its owner runs.
pub type Listener = Box<dyn FnMut(&Record, Option<&str>) + Send>;

/// Runs on a thread of its own until it is stopped.
pub struct Agent {
    source: Box<dyn Source>,
    shared: Arc<Shared>,
    names: Names,
    every: Duration,
    listener: Option<Listener>,
    /// Connections that were over and of whose owner the source has told nobody but who did its work.
    disowned: u64,
    /// Events that were found at the last look.
    found: u32,
}

impl Agent {
    /// An agent that surveys connections `every` so often.
    #[must_use]
    pub fn new(source: Box<dyn Source>, mut limits: Limits, every: Duration) -> Self {
        let way = source.way().clone();
        // What the kernel may find room for has room here: it has twice as many places.
        limits.connections = limits.connections.max(way.capacity * 2);
        let shared = Shared {
            table: Mutex::new(Table::new(limits)),
            counts: Mutex::default(),
            way,
            stop: AtomicBool::new(false),
            beat: AtomicU64::new(0),
            kept: AtomicUsize::new(0),
        };
        let (shared, names) = (Arc::new(shared), Names::default());
        Self { source, shared, names, every, listener: None, disowned: 0, found: 0 }
    }

    /// The same, with somebody who hears of every record that is no survey's, and of each end.
    #[must_use]
    pub fn with_listener(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// What others may read.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Works until it is stopped; then everything is detached.
    ///
    /// # Errors
    /// When the source fails.
    pub fn run(mut self) -> Result<(), SourceError> {
        come_first();
        let (mut surveyed, mut expired, mut reconciled, mut taken) = (None::<Duration>, now(), now(), now());
        let mut owners_every = self.every;
        while !self.shared.is_stopped() {
            self.shared.beat();
            let at = now();
            let is_due = |last: Duration, every: Duration| at.saturating_sub(last) >= every;
            let unowned = self.shared.table().has_unowned();
            if is_due(reconciled, if unowned { owners_every } else { OWNERS_AT_LEAST }) {
                self.source.reconcile()?;
                reconciled = now();
                owners_every = self.every.max(reconciled.saturating_sub(at) * OWNERS_PART);
            }
            if surveyed.is_none_or(|last| is_due(last, self.every)) {
                self.survey()?;
                surveyed = Some(at);
            } else {
                self.take()?;
            }
            let is_tight = self.shared.table().is_tight();
            if is_due(expired, if is_tight { EXPIRE_TIGHT } else { EXPIRE }) {
                self.expire(at);
                expired = at;
            }
            let since = now().saturating_sub(std::mem::replace(&mut taken, now()));
            let wait = until_next(since, self.found, self.source.fill());
            self.source.wait(wait.min(self.every));
        }
        self.take()?;
        self.take_folded(now())
    }

    /// Takes what has happened, once.
    ///
    /// # Errors
    /// When the source fails.
    pub fn take(&mut self) -> Result<(), SourceError> {
        let Self { source, shared, names, listener, disowned, found, .. } = self;
        let mut batch = Batch::new(shared, names, listener.as_mut());
        let mut all = 0_u32;
        source.events(&mut |record| {
            all = all.saturating_add(1);
            batch.push(record);
        })?;
        batch.flush();
        *disowned += batch.disowned;
        *found = all;
        let mut counts = source.counts()?;
        counts.unowned += *disowned;
        *shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        Ok(())
    }

    /// Looks through everything, once.
    ///
    /// # Errors
    /// When the source fails.
    pub fn survey(&mut self) -> Result<(), SourceError> {
        let at = now();
        // Without a program for it a survey finds nothing, which says nothing.
        let finds_all = self.shared.way.chosen("survey").is_some();
        {
            let Self { source, shared, names, listener, disowned, .. } = self;
            if finds_all {
                shared.table().begin_survey();
            }
            let mut batch = Batch { is_survey: true, ..Batch::new(shared, names, listener.as_mut()) };
            let mut kept = 0;
            source.survey(&mut |record| {
                kept += 1;
                // The end of a socket that is gone may be on its way: that tells it.
                if !record.gone {
                    batch.push(record);
                }
            })?;
            batch.flush();
            *disowned += batch.disowned;
            shared.kept.store(kept, Ordering::Relaxed);
        }
        // What ended since is in here; only then is it known whose end was missed.
        self.take()?;
        let (lost, is_less) = {
            let mut table = self.shared.table();
            let lost = if finds_all { table.end_survey(at) } else { Vec::new() };
            table.handle_tick(at);
            (lost, table.shrink())
        };
        if let Some(listener) = self.listener.as_mut() {
            lost.iter().for_each(|(record, place)| listener(record, place.as_deref()));
        }
        if is_less {
            memory::give_back();
        }
        self.take_folded(at)?;
        Ok(())
    }

    /// What there were too many of to be told singly.
    fn take_folded(&mut self, at: Duration) -> Result<(), SourceError> {
        let Self { source, shared, names, disowned, .. } = self;
        let mut all = Vec::new();
        source.folded(&mut |folded| all.push(folded))?;
        // It is not told how each came to its owner. Who has asked for none has only done the work of another.
        let is_anothers = |names: &mut Names, one: &Folded| one.opened == 0 && names.is_kernel_thread(&one.owner);
        let (of_nobody, owned): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| is_anothers(names, one));
        let places: Vec<_> = owned.iter().map(|folded| names.place(at, &folded.owner)).collect();
        let mut table = shared.table();
        for (folded, place) in owned.iter().zip(&places) {
            table.handle_folded(at, folded, place.as_ref());
        }
        for folded in &of_nobody {
            *disowned += folded.failed + folded.closed;
            table.handle_disowned(at, folded);
        }
        Ok(())
    }

    /// Drops what is over for a while. Whether processes live is asked without holding the table.
    fn expire(&self, at: Duration) {
        // A poll tells the processes that are in /proc here.
        let can_ask = self.shared.way.source != "ebpf" || names::sees_all_processes();
        let is_dead = |(id, seen): &(ProcessId, Duration)| {
            if can_ask { !names::is_alive(*id) } else { at.saturating_sub(*seen) > UNSEEN }
        };
        let idle = self.shared.table().idle(at, EXPIRE_MOST);
        let dead: HashSet<ProcessId> = idle.into_iter().filter(is_dead).map(|(id, _)| id).collect();
        self.shared.table().expire(at, |id| !dead.contains(&id));
    }

    /// The source's own part: for tests, and for whoever drives it in another way.
    pub fn source(&mut self) -> &mut dyn Source {
        &mut *self.source
    }
}

/// How long to wait until events are taken again, by how many were found and how long after those before; and how many in the
/// fullest of several places, and for how many each has room.
fn until_next(since: Duration, found: u32, (fullest, room): (u32, u32)) -> Duration {
    let until = |at_once: u32, found: u32| since.checked_mul(at_once).and_then(|time| time.checked_div(found));
    let wait = until(TAKE_AT_ONCE, found).unwrap_or(TAKE).min(until(room / 2, fullest).unwrap_or(TAKE));
    wait.clamp(TAKE_OFTEN, TAKE)
}

/// Records on their way into the table: names are looked up before it is taken hold of.
struct Batch<'a> {
    shared: &'a Shared,
    names: &'a mut Names,
    listener: Option<&'a mut Listener>,
    /// Whoever listens hears of what a survey finds only when that is an end, which nobody else tells.
    is_survey: bool,
    /// Ends of connections that a thread of the kernel has closed, and nobody owns.
    disowned: u64,
    records: Vec<(Record, Option<Arc<str>>)>,
}

impl<'a> Batch<'a> {
    fn new(shared: &'a Shared, names: &'a mut Names, listener: Option<&'a mut Listener>) -> Self {
        Self { shared, names, listener, is_survey: false, disowned: 0, records: Vec::new() }
    }

    fn push(&mut self, mut record: Record) {
        // Who has only done the work of another owns nothing; what the kernel connects to by itself, as for NFS, is its own.
        let owner = record.owner.filter(|owner| owner.by == OwnedBy::Connect || !self.names.is_kernel_thread(owner));
        self.disowned += u64::from(record.is_end() && owner != record.owner);
        record.owner = owner;
        if let Some(owner) = record.owner.as_mut().filter(|owner| owner.user.is_none()) {
            owner.user = self.names.user(owner.process);
        }
        let place = record.owner.and_then(|owner| self.names.place(now(), &owner));
        self.records.push((record, place));
        if self.records.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let at = now();
        let ends_unseen = self.shared.way.sees_attempts_alone();
        let mut table = self.shared.table();
        for (record, place) in &self.records {
            if ends_unseen && record.step == Step::Opened {
                table.handle_attempt(at, record, place.as_ref());
            } else {
                table.handle_record(at, record, place.as_ref());
            }
        }
        drop(table);
        for (record, place) in self.records.drain(..) {
            if let Some(listener) = self.listener.as_mut().filter(|_| !self.is_survey || record.is_end()) {
                listener(&record, place.as_deref());
            }
        }
    }
}

/// On a busy system this thread must get its turn, or events find no room. Where that is not permitted it goes as it
/// goes, and what is lost is counted.
#[cfg(target_os = "linux")]
fn come_first() {
    // Of this thread alone: that is what Linux means by no process.
    let _ = rustix::process::setpriority_process(None, PRIORITY);
}

#[cfg(not(target_os = "linux"))]
const fn come_first() {}

/// Since the system started, as the kernel's programs have it.
#[cfg(target_os = "linux")]
#[must_use]
pub fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(time).unwrap_or_default()
}

/// Since the program started.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn now() -> Duration {
    static BEGUN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGUN.get_or_init(std::time::Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Command, End, Owner, State};
    use crate::table::tests::{ended, live};

    /// A source that tells what it is given, and fails at the survey of this number.
    struct Script {
        way: Way,
        events: Vec<Record>,
        found: Vec<Record>,
        folded: Vec<Folded>,
        fails: bool,
    }

    impl Source for Script {
        fn way(&self) -> &Way {
            &self.way
        }

        fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
            self.events.drain(..).for_each(each);
            Ok(())
        }

        fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
            if self.fails {
                return Err(SourceError::broken("the survey", &"no more"));
            }
            self.found.iter().copied().for_each(each);
            Ok(())
        }

        fn folded(&mut self, each: &mut dyn FnMut(Folded)) -> Result<(), SourceError> {
            self.folded.drain(..).for_each(each);
            Ok(())
        }

        fn counts(&mut self) -> Result<Counts, SourceError> {
            Ok(Counts { opened: 3, ..Counts::default() })
        }

        fn wait(&self, _: Duration) {}
    }

    fn script() -> Script {
        let part = crate::source::Part { purpose: "survey", way: "a list", refused: None };
        let way = Way { parts: vec![part], ..Way::default() };
        Script { way, events: Vec::new(), found: Vec::new(), folded: Vec::new(), fails: false }
    }

    fn agent(script: Script) -> Agent {
        Agent::new(Box::new(script), Limits::default(), Duration::from_secs(1))
    }

    /// A source that takes hold of the table itself while it tells: it would wait for ever if somebody held it.
    struct Prying {
        way: Way,
        shared: Arc<Mutex<Option<Arc<Shared>>>>,
    }

    impl Prying {
        fn pry(&self) {
            let shared = self.shared.lock().unwrap().clone().expect("it is set");
            assert!(shared.table.try_lock().is_ok(), "the table is held while a source tells");
        }
    }

    impl Source for Prying {
        fn way(&self) -> &Way {
            &self.way
        }

        fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
            (0..BATCH as u64 * 2).for_each(|number| each(live(number, 7)));
            self.pry();
            Ok(())
        }

        fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
            each(live(1, 7));
            self.pry();
            Ok(())
        }

        fn folded(&mut self, _: &mut dyn FnMut(Folded)) -> Result<(), SourceError> {
            self.pry();
            Ok(())
        }

        fn counts(&mut self) -> Result<Counts, SourceError> {
            Ok(Counts::default())
        }

        fn wait(&self, _: Duration) {}
    }

    #[test]
    fn events_are_taken_so_often_that_few_are_found_each_time() {
        let after = |millis: u64, found| until_next(Duration::from_millis(millis), found, (0, u32::MAX));
        assert_eq!(after(100, 0), TAKE);
        assert_eq!(after(100, 512), TAKE);
        // 40,000 a second: both ends of 20,000 connections.
        assert_eq!(after(100, 4_000), Duration::from_micros(12_800));
        assert_eq!(after(12, 480), Duration::from_micros(12_800));
        assert_eq!(after(100, u32::MAX), TAKE_OFTEN);
        assert_eq!(after(3_600_000, 1), TAKE);
        let small = |fullest| until_next(Duration::from_millis(100), 400, (fullest, 128));
        assert_eq!((small(512), small(64)), (Duration::from_micros(12_500), TAKE), "one of several small rings");
        assert_eq!(until_next(Duration::MAX, 1, (1, 128)), TAKE, "a clock that has gone far");
    }

    #[test]
    fn nobody_holds_the_table_while_a_source_tells_and_names_are_read() {
        let known = Arc::default();
        let source = Prying { way: Way::default(), shared: Arc::clone(&known) };
        let mut agent = Agent::new(Box::new(source), Limits::default(), Duration::from_secs(1));
        *known.lock().unwrap() = Some(agent.shared());
        agent.survey().unwrap();
        assert_eq!(agent.shared().table().connections().len(), BATCH * 2);
    }

    #[test]
    fn an_agent_that_was_not_heard_of_for_long_hangs() {
        let agent = agent(script());
        let shared = agent.shared();
        assert_eq!(shared.hangs(), None, "it does not run yet");
        shared.beat();
        assert_eq!(shared.hangs(), None);
        shared.beat.store(1, Ordering::Relaxed);
        // The system may have started a moment ago.
        assert_eq!(shared.hangs().is_some(), now() > HANGS + Duration::from_secs(1));
    }

    #[test]
    fn a_source_that_fails_ends_the_agent_with_its_error() {
        let failed = agent(Script { fails: true, ..script() }).run().unwrap_err();
        assert_eq!(failed.to_string(), "the survey: no more");
    }

    #[test]
    fn an_agent_that_was_stopped_takes_what_is_left() {
        let agent = agent(Script { events: vec![ended(live(1, 7), End::Closed)], ..script() });
        let shared = agent.shared();
        shared.stop();
        agent.run().unwrap();
        assert_eq!((shared.table().totals().closed, shared.counts().opened), (1, 3));
    }

    #[test]
    fn a_socket_that_is_gone_is_no_open_connection_and_a_listener_hears_of_events_alone() {
        let gone = Record { gone: true, ..live(9, 7) };
        let script = Script { events: vec![live(1, 7)], found: vec![gone, live(2, 7)], ..script() };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let listener =
            Box::new(move |record: &Record, _: Option<&str>| hears.lock().unwrap().push((record.id, record.step)));
        let mut agent = agent(script).with_listener(listener);
        agent.survey().unwrap();
        agent.survey().unwrap();
        assert_eq!(*heard.lock().unwrap(), [(live(1, 7).id, Step::Live)]);
        assert_eq!(agent.shared().table().connections().len(), 2);
    }

    #[test]
    fn a_connection_that_surveys_do_not_find_is_over_and_that_is_told() {
        let script = Script { events: vec![live(1, 7)], ..script() };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let listener = Box::new(move |record: &Record, _: Option<&str>| hears.lock().unwrap().push(*record));
        let mut agent = agent(script).with_listener(listener);
        (0..6).for_each(|_| agent.survey().unwrap());
        let shared = agent.shared();
        let table = shared.table();
        assert_eq!((table.connections().len(), table.overflow().unseen), (0, 1));
        let heard = heard.lock().unwrap();
        let ends: Vec<&Record> = heard.iter().filter(|record| record.is_end()).collect();
        assert_eq!((heard.len(), ends.len()), (2, 1), "{heard:#?}");
        assert_eq!((ends[0].id, ends[0].owner, ends[0].state), (live(1, 7).id, live(1, 7).owner, State::Closed));
        assert_eq!(ends[0].ended.map(|(_, end)| end), Some(End::Unseen));
    }

    #[test]
    fn an_end_that_a_survey_alone_tells_is_heard_of_once() {
        let script = Script { found: vec![live(1, 7), ended(live(2, 7), End::Reset)], ..script() };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let listener = Box::new(move |record: &Record, _: Option<&str>| hears.lock().unwrap().push(record.id));
        let mut agent = agent(script).with_listener(listener);
        agent.survey().unwrap();
        assert_eq!(*heard.lock().unwrap(), [live(2, 7).id]);
    }

    #[test]
    fn where_attempts_alone_are_seen_each_is_counted_and_none_is_kept_as_open() {
        let part = |purpose, way| crate::source::Part { purpose, way, refused: None };
        let parts = vec![part("state", crate::source::CONNECTS), part("survey", "a list")];
        let way = Way { parts, capacity: 64, ..Way::default() };
        let asked = |number, pid| Record { step: Step::Opened, established: None, ..live(number, pid) };
        let events = vec![asked(1, 7), asked(2, 7), asked(3, 0)];
        let mut agent = agent(Script { way, events, ..script() });
        (0..6).for_each(|_| agent.survey().unwrap());
        let shared = agent.shared();
        {
            let table = shared.table();
            assert_eq!((table.connections().len(), table.open().outgoing, table.overflow().unseen), (0, 0, 0));
            assert_eq!((table.totals().opened, table.totals().closed, table.ends().count()), (3, 0, 0));
            let process = table.processes().next().unwrap();
            assert_eq!((process.sums.opened, process.open), (2, 0));
            assert_eq!(table.remotes().map(|remote| (remote.sums.opened, remote.open)).collect::<Vec<_>>(), [(3, 0)]);
            let of_commands: u64 = table.commands().map(|(_, sums)| sums.opened).sum();
            assert_eq!((of_commands, table.places().map(|(_, sums)| sums.opened).sum::<u64>()), (3, 3));
        }
        let metrics = shared.metrics();
        assert!(metrics.contains("adit_tcp_connections_total{what=\"opened\"} 3\n"), "{metrics}");
        for unseen in ["what=\"incoming\"", "what=\"established\"", "what=\"failed\"", "what=\"closed\""] {
            assert!(!metrics.contains(unseen), "{unseen}\n{metrics}");
        }
    }

    #[test]
    fn without_a_survey_nobody_says_how_full_the_kernels_places_are() {
        let told = |way: Way| agent(Script { way, ..script() }).shared().metrics();
        let entries = "adit_monitor_entries{table=\"kernel\"}";
        assert!(told(Way { capacity: 64, ..script().way }).contains(entries));
        assert!(!told(Way { capacity: 64, ..Way::default() }).contains(entries), "0 would be a map that is empty");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_user_that_the_source_does_not_tell_is_looked_up() {
        let (this, command) = names::process(std::process::id()).expect("this process is there");
        let owner = |user| Owner { process: this, command, user, cgroup: 0, by: OwnedBy::File };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let listener = Box::new(move |record: &Record, _: Option<&str>| hears.lock().unwrap().push(record.owner));
        let script = Script { events: vec![Record { owner: Some(owner(None)), ..live(1, 7) }], ..script() };
        let mut agent = agent(script).with_listener(listener);
        agent.take().unwrap();
        let user = Some(rustix::process::getuid().as_raw());
        assert_eq!(agent.shared().table().processes().next().map(|process| process.user), Some(user));
        assert_eq!(*heard.lock().unwrap(), [Some(owner(user))]);
    }

    #[test]
    fn what_a_thread_of_the_kernel_has_closed_is_nobodys_singly_and_added_up_and_is_counted_as_such() {
        // No process has this number; so its name tells.
        let worker = |by| Owner {
            process: ProcessId { pid: u32::MAX, start: 1 },
            command: Command::new("kworker/0:1"),
            user: Some(0),
            cgroup: 1,
            by,
        };
        let closed = |number, by| Record { owner: Some(worker(by)), ..ended(live(number, 7), End::Closed) };
        let none = Folded {
            owner: worker(OwnedBy::Connect),
            opened: 0,
            incoming: 0,
            failed: 0,
            closed: 0,
            sent: 0,
            received: 0,
            retransmits: 0,
        };
        // The first came in and was closed by it; the other it has asked for itself, as for a file system.
        let folded =
            vec![Folded { incoming: 4, closed: 4, ..none }, Folded { opened: 2, closed: 1, failed: 1, ..none }];
        let events = vec![closed(1, OwnedBy::Close), closed(2, OwnedBy::Connect)];
        let mut agent = agent(Script { events, folded, ..script() });
        agent.survey().unwrap();
        agent.take().unwrap();
        let shared = agent.shared();
        let table = shared.table();
        let mut commands: Vec<_> = table.commands().map(|(name, sums)| (&**name, sums.closed, sums.failed)).collect();
        commands.sort_unstable();
        assert_eq!(commands, [("kworker/0:1", 2, 1), ("unknown", 5, 0)]);
        assert_eq!(table.places().map(|(_, sums)| sums.closed).sum::<u64>(), 7);
        assert_eq!(table.processes().map(|process| process.sums.closed).collect::<Vec<_>>(), [2]);
        assert_eq!((table.totals().closed, shared.counts().unowned), (7, 5));
    }

    #[test]
    fn without_a_program_for_surveys_no_connection_is_taken_for_lost() {
        let mut agent = agent(Script { way: Way::default(), events: vec![live(1, 7)], ..script() });
        (0..6).for_each(|_| agent.survey().unwrap());
        assert_eq!(agent.shared().table().connections().len(), 1);
    }
}
