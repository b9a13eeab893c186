//! What has happened: into files by a thread of its own, and to whoever listens.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use adit_core::timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use super::place::Logs;
use super::rotating::Rotating;

/// Entries on their way to the files; with more of them they are dropped and counted.
const QUEUE: usize = 4096;
/// Entries that a listener may be behind before it misses some.
const BEHIND: usize = 1024;
/// Files of single forwards that are open at the same time.
const OPEN_MAX: usize = 64;
/// Files of single forwards that there may be, counting those that were put aside.
const FILES_MAX: usize = 1000;
/// How long the end waits for a slow disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes entries; never waits for a disk or a listener.
pub(in crate::command::up) struct Journal {
    queue: std_mpsc::SyncSender<Item>,
    listeners: broadcast::Sender<Arc<Entry>>,
    dropped: Arc<AtomicU64>,
    /// Held from an entry's time until it stands in line: lines are in the order of their times.
    order: Mutex<()>,
}

/// One thing that has happened.
#[derive(Clone, Debug)]
pub(in crate::command::up) struct Entry {
    /// As JSON: `time`, `level`, `event`, `name` if it concerns one forward, `text`, and what else is known.
    pub(super) line: String,
    /// Whom it concerns.
    pub(super) name: Option<String>,
}

enum Item {
    Entry(Arc<Entry>),
    Audit(String),
    Flush(std_mpsc::SyncSender<()>),
}

impl Journal {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(logs: Logs) -> io::Result<Arc<Self>> {
        let (queue, items) = std_mpsc::sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let missing = Arc::clone(&dropped);
        // No task: a write to a disk that hangs cannot be cancelled, and the end does not wait for it.
        std::thread::Builder::new().name("journal".into()).spawn(move || write(&logs, &items, &missing))?;
        Ok(Arc::new(Self { queue, listeners: broadcast::Sender::new(BEHIND), dropped, order: Mutex::default() }))
    }

    /// Notes something. `details` is a map, or null.
    pub(in crate::command::up) fn note(&self, event: &str, text: &str, details: &Value) {
        let name = details.get("name").and_then(Value::as_str).map(str::to_owned);
        let _in_order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Arc::new(Entry { line: line(event, text, details), name });
        // Without a listener there is nobody to tell.
        let _ = self.listeners.send(Arc::clone(&entry));
        self.put(Item::Entry(entry));
    }

    /// Notes a change of the configuration, in a file of its own.
    pub(super) fn audit(&self, change: &Value) {
        let mut map = Map::new();
        map.insert("time".into(), now().into());
        map.extend(change.as_object().cloned().unwrap_or_default());
        self.put(Item::Audit(Value::Object(map).to_string()));
    }

    /// Everything that happens from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.listeners.subscribe()
    }

    /// Entries that were lost: the disk is full or slow.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all is written, but not for ever.
    pub(super) fn flush(&self) {
        let (done, written) = std_mpsc::sync_channel(1);
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            let _ = written.recv_timeout(PATIENCE);
        }
    }

    fn put(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Events that a person should look at.
fn level(event: &str) -> &'static str {
    match event {
        "lost" | "failed" | "error" | "reload-failed" | "unhealthy" | "missing" | "exposed" | "left-out"
        | "warning" | "not-opened" | "cancelling" | "renumbered" => "warn",
        _ => "info",
    }
}

fn line(event: &str, text: &str, details: &Value) -> String {
    let mut map = Map::new();
    map.insert("time".into(), now().into());
    map.insert("level".into(), level(event).into());
    map.insert("event".into(), event.into());
    if let Some(name) = details.get("name") {
        map.insert("name".into(), name.clone());
    }
    map.insert("text".into(), text.into());
    for (key, value) in details.as_object().into_iter().flatten() {
        map.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Value::Object(map).to_string()
}

fn now() -> String {
    timestamp::format(SystemTime::now())
}

/// Writes until the journal is gone. A disk that is full costs entries, nothing else.
fn write(logs: &Logs, items: &std_mpsc::Receiver<Item>, dropped: &AtomicU64) {
    let mut all = Rotating::new(logs.daemon());
    let mut audit = Rotating::new(logs.audit());
    let mut forwards: HashMap<String, Rotating> = HashMap::new();
    let mut told = 0;
    for item in items {
        let written = match item {
            Item::Entry(entry) => {
                let whole = all.write(&entry.line);
                let own = entry.name.as_ref().map_or(Ok(()), |name| write_own(logs, &mut forwards, name, &entry.line));
                whole.and(own)
            }
            Item::Audit(line) => audit.write(&line),
            Item::Flush(done) => {
                // Nobody waits any more: fine.
                let _ = done.send(());
                Ok(())
            }
        };
        if written.is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let lost = dropped.load(Ordering::Relaxed);
        if lost > told {
            let text = format!("{} entries of this log were lost: the disk was full or slow", lost - told);
            if all.write(&line("left-out", &text, &json!({ "entries": lost - told }))).is_ok() {
                told = lost;
            }
        }
    }
}

/// Writes a line into the file of a forward. Names may also be dynamic hosts and URLs, as many as somebody calls: what
/// has no room for a file of its own is in the log of everything.
fn write_own(logs: &Logs, open: &mut HashMap<String, Rotating>, name: &str, line: &str) -> io::Result<()> {
    if !open.contains_key(name) {
        let path = logs.forward(name);
        if !path.exists() && logs.count() >= FILES_MAX {
            return Ok(());
        }
        if open.len() >= OPEN_MAX {
            // Those that are still written to are opened again.
            open.clear();
        }
        open.insert(name.to_owned(), Rotating::new(path));
    }
    open.get_mut(name).map_or(Ok(()), |file| file.write(line))
}

#[cfg(test)]
mod tests {
    use super::super::place::Place;
    use super::*;

    fn journal() -> (tempfile::TempDir, Logs, Arc<Journal>) {
        let directory = tempfile::tempdir().unwrap();
        let place = Place { runtime: directory.path().into(), state: directory.path().into() };
        let journal = Journal::start(place.logs()).unwrap();
        (directory, place.logs(), journal)
    }

    #[test]
    fn what_concerns_a_forward_is_in_its_file_too() {
        let (_directory, logs, journal) = journal();
        journal.note("ready", "db: ready", &json!({ "name": "db", "took_ms": 3 }));
        journal.note("reloaded", "nothing", &Value::Null);
        journal.flush();
        let all = std::fs::read_to_string(logs.daemon()).unwrap();
        let own = std::fs::read_to_string(logs.forward("db")).unwrap();
        assert_eq!((all.lines().count(), own.lines().count()), (2, 1));
        let entry: Value = serde_json::from_str(&own).unwrap();
        assert_eq!((&entry["event"], &entry["took_ms"], &entry["level"]), (&json!("ready"), &json!(3), &json!("info")));
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_entries_and_the_count_is_told_later() {
        let (directory, logs, journal) = journal();
        let blocked = directory.path().join("logs");
        std::fs::write(&blocked, "").unwrap();
        journal.note("ready", "one", &Value::Null);
        journal.flush();
        assert_eq!(journal.dropped(), 1);
        std::fs::remove_file(&blocked).unwrap();
        journal.note("ready", "two", &Value::Null);
        journal.flush();
        let all = std::fs::read_to_string(logs.daemon()).unwrap();
        assert!(all.contains("two") && all.contains("1 entries of this log were lost"), "{all}");
    }

    #[test]
    fn lines_of_one_moment_are_in_the_order_of_their_times() {
        let (_directory, logs, journal) = journal();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let journal = &journal;
                scope.spawn(move || {
                    (0..500).for_each(|at| journal.note("ready", &format!("{thread}/{at}"), &Value::Null));
                });
            }
        });
        journal.flush();
        assert_eq!(journal.dropped(), 0);
        let all = std::fs::read_to_string(logs.daemon()).unwrap();
        let times: Vec<String> =
            all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["time"].to_string()).collect();
        assert!(times.len() == 2000 && times.is_sorted(), "{} lines", times.len());
    }

    #[test]
    fn names_without_end_make_no_files_without_end() {
        let (_directory, logs, journal) = journal();
        for at in 0..FILES_MAX + 200 {
            journal.note("failed", "no such service", &json!({ "name": format!("svc-{at}.example:1") }));
            if at % 1000 == 0 {
                journal.flush();
            }
        }
        journal.flush();
        assert_eq!(logs.count(), FILES_MAX);
        let all = std::fs::read_to_string(logs.daemon()).unwrap();
        assert_eq!(all.lines().count(), FILES_MAX + 200, "all of it is in the log of everything");
    }
}
