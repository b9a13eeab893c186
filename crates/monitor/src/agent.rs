//! Drives a source: takes its records into the table, looks through everything now and then, and says when it fails.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::decode::{ConnectionId, Record};
use crate::names::{self, Names};
use crate::source::{Counts, Source, SourceError, Way};
use crate::table::{Limits, Table};

/// How often events are taken when nobody wakes us.
const TAKE: Duration = Duration::from_millis(100);
/// How often dead processes are looked for.
const EXPIRE: Duration = Duration::from_secs(10);
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
    /// Connections whose socket was not there at the last survey.
    gone: HashSet<ConnectionId>,
}

impl Agent {
    /// An agent that surveys connections `every` so often.
    #[must_use]
    pub fn new(source: Box<dyn Source>, mut limits: Limits, every: Duration) -> Self {
        let way = source.way().clone();
        // What the kernel has room for has room here.
        limits.connections = limits.connections.max(way.capacity);
        let stop = AtomicBool::new(false);
        let shared = Shared { table: Mutex::new(Table::new(limits)), counts: Mutex::default(), way, stop };
        Self { source, shared: Arc::new(shared), names: Names::default(), every, listener: None, gone: HashSet::new() }
    }

    /// The same, with somebody who hears of every record that is no survey's.
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
        let (mut surveyed, mut expired, mut reconciled) = (None::<Duration>, now(), now());
        let mut owners_every = self.every;
        while !self.shared.is_stopped() {
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
            if is_due(expired, EXPIRE) {
                self.shared.table().expire(at, names::is_alive);
                expired = at;
            }
            self.source.wait(TAKE.min(self.every));
        }
        self.take()?;
        self.take_folded(now())
    }

    /// Takes what has happened, once.
    ///
    /// # Errors
    /// When the source fails.
    pub fn take(&mut self) -> Result<(), SourceError> {
        let at = now();
        let Self { source, shared, names, listener, .. } = self;
        let mut table = shared.table();
        source.events(&mut |record| note(&mut table, names, listener.as_mut(), at, &record))?;
        drop(table);
        let counts = source.counts()?;
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
        let mut gone = HashSet::new();
        {
            let Self { source, shared, names, .. } = self;
            let mut table = shared.table();
            if finds_all {
                table.begin_survey();
            }
            source.survey(&mut |record| {
                if record.gone {
                    gone.insert(record.id);
                } else {
                    note(&mut table, names, None, at, &record);
                }
            })?;
        }
        // What ended since is in here; only then is it known whose end was missed.
        self.take()?;
        {
            let mut table = self.shared.table();
            if finds_all {
                // Those that are lost have no place any more, or one that the next survey finds: there is nothing to forget.
                table.end_survey(at);
            }
            table.handle_tick(at);
        }
        // Twice: its end may be on its way, or its place taken by a connection that began in between.
        for id in gone.intersection(&self.gone) {
            self.source.forget(*id);
        }
        self.gone = gone;
        self.take_folded(at)?;
        Ok(())
    }

    /// What there were too many of to be told singly.
    fn take_folded(&mut self, at: Duration) -> Result<(), SourceError> {
        let Self { source, shared, names, .. } = self;
        let mut table = shared.table();
        source.folded(&mut |folded| {
            let place = names.place(&folded.owner);
            table.handle_folded(at, &folded, place.as_ref());
        })
    }

    /// The source's own part: for tests, and for whoever drives it in another way.
    pub fn source(&mut self) -> &mut dyn Source {
        &mut *self.source
    }
}

fn note(table: &mut Table, names: &mut Names, listener: Option<&mut Listener>, at: Duration, record: &Record) {
    let place = record.owner.and_then(|owner| names.place(&owner));
    table.handle_record(at, record, place.as_ref());
    if let Some(listener) = listener {
        listener(record, place.as_deref());
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
    use crate::decode::{End, Step};
    use crate::table::tests::{ended, live};

    /// A source that tells what it is given, and fails at the survey of this number.
    struct Script {
        way: Way,
        events: Vec<Record>,
        found: Vec<Record>,
        forgotten: Arc<Mutex<Vec<ConnectionId>>>,
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

        fn counts(&mut self) -> Result<Counts, SourceError> {
            Ok(Counts { opened: 3, ..Counts::default() })
        }

        fn forget(&mut self, id: ConnectionId) {
            self.forgotten.lock().unwrap().push(id);
        }

        fn wait(&self, _: Duration) {}
    }

    fn script() -> Script {
        let part = crate::source::Part { purpose: "survey", way: "a list", refused: None };
        let way = Way { parts: vec![part], ..Way::default() };
        Script { way, events: Vec::new(), found: Vec::new(), forgotten: Arc::default(), fails: false }
    }

    fn agent(script: Script) -> Agent {
        Agent::new(Box::new(script), Limits::default(), Duration::from_secs(1))
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
    fn a_socket_that_is_gone_at_two_surveys_is_forgotten_and_a_listener_hears_of_events_alone() {
        let gone = Record { gone: true, ..live(9, 7) };
        let script = Script { events: vec![live(1, 7)], found: vec![gone, live(2, 7)], ..script() };
        let forgotten = Arc::clone(&script.forgotten);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let listener =
            Box::new(move |record: &Record, _: Option<&str>| hears.lock().unwrap().push((record.id, record.step)));
        let mut agent = agent(script).with_listener(listener);
        agent.survey().unwrap();
        assert!(forgotten.lock().unwrap().is_empty(), "its end may be on its way");
        agent.survey().unwrap();
        assert_eq!(*forgotten.lock().unwrap(), [gone.id]);
        assert_eq!(*heard.lock().unwrap(), [(live(1, 7).id, Step::Live)]);
        assert_eq!(agent.shared().table().connections().len(), 2);
    }

    #[test]
    fn a_connection_that_surveys_do_not_find_is_over_but_its_place_is_not_forgotten() {
        let script = Script { events: vec![live(1, 7)], ..script() };
        let forgotten = Arc::clone(&script.forgotten);
        let mut agent = agent(script);
        (0..6).for_each(|_| agent.survey().unwrap());
        let shared = agent.shared();
        let table = shared.table();
        assert_eq!((table.connections().len(), table.overflow().unseen), (0, 1));
        assert!(forgotten.lock().unwrap().is_empty(), "another connection may have the place by now");
    }

    #[test]
    fn without_a_program_for_surveys_no_connection_is_taken_for_lost() {
        let mut agent = agent(Script { way: Way::default(), events: vec![live(1, 7)], ..script() });
        (0..6).for_each(|_| agent.survey().unwrap());
        assert_eq!(agent.shared().table().connections().len(), 1);
    }
}
