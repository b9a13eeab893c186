//! Notices that configuration, certificates or tokens have changed on disk.
//!
//! The directories are watched rather than the files, because editors and Kubernetes replace files by
//! renaming. A look once a second covers what the system does not report: network file systems,
//! symlinks that lead elsewhere, watches that could not be had.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use crate::scope::Scope;
use crate::signals::Hangups;

/// The look for changes nobody reported.
const POLL: Duration = Duration::from_secs(1);
/// Files must be left alone for this long before a change counts: writers write in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// A file that is written to all the time counts as changed after this long.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Between two looks, however much happens in a directory: somebody else may write there all the time.
const BETWEEN: Duration = Duration::from_millis(100);
/// Reports not yet looked at. One is enough to look, so more are dropped.
const REPORTS: usize = 16;

/// Watches files until it is dropped.
#[derive(Debug)]
pub struct FileWatch {
    ticks: watch::Receiver<u64>,
    trigger: Trigger,
}

/// What counts as a change of watched files, whatever the files say.
#[derive(Clone, Debug)]
pub struct Trigger {
    commands: SyncSender<Command>,
    /// There was no room for a command: the thread looks here after each that it takes.
    missed: Arc<AtomicBool>,
}

impl Trigger {
    /// Counts as a change. Never waits.
    pub fn pull(&self) {
        // The thread is gone only at the end or after a panic, which was reported.
        if let Err(TrySendError::Full(_)) = self.commands.try_send(Command::Trigger) {
            self.missed.store(true, Ordering::Release);
        }
    }
}

impl FileWatch {
    /// Starts to watch. The files need not exist.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(files: Vec<PathBuf>) -> io::Result<Self> {
        let (commands, inbox) = sync_channel(REPORTS);
        let (ticker, ticks) = watch::channel(0);
        let (reports, missed) = (commands.clone(), Arc::new(AtomicBool::new(false)));
        let trigger = Trigger { commands, missed: Arc::clone(&missed) };
        // Before the thread starts: what changes after this call is noticed.
        let seen = signatures(&files);
        std::thread::Builder::new().name("file watch".into()).spawn(move || {
            let reported = Arc::default();
            let mut watcher = WatchThread { files, seen, inbox, missed, reported, ticker, watcher: None };
            watcher.watch_directories(&reports);
            watcher.run(&reports);
        })?;
        Ok(Self { ticks, trigger })
    }

    /// A number that rises with each change (several changes at once count as one).
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.ticks.clone()
    }

    /// What counts as a change, for those who outlive this or do not know it.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// Each SIGHUP counts as a change, until the scope drains.
    ///
    /// # Errors
    /// When the system refuses a signal handler.
    pub fn trigger_on_hangup(&self, scope: &Scope) -> io::Result<()> {
        let trigger = self.trigger();
        Hangups::install()?.each(scope, move || trigger.pull());
        Ok(())
    }

    /// Watches these files from now on.
    pub fn set_files(&self, files: Vec<PathBuf>) {
        // As they are now: what changes after this call is noticed.
        let seen = signatures(&files);
        let _ = self.trigger.commands.send(Command::SetFiles(files, seen));
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        let _ = self.trigger.commands.send(Command::Stop);
    }
}

#[derive(Debug)]
enum Command {
    /// Something happened in one of the directories.
    Look,
    Trigger,
    /// The files, and how they were seen by whoever wants them watched.
    SetFiles(Vec<PathBuf>, Vec<Signature>),
    Stop,
}

struct WatchThread {
    files: Vec<PathBuf>,
    seen: Vec<Signature>,
    inbox: Receiver<Command>,
    missed: Arc<AtomicBool>,
    /// Something was reported since the last look: no more is heard until the next one.
    reported: Arc<AtomicBool>,
    ticker: watch::Sender<u64>,
    /// Keeps the system's watches alive.
    watcher: Option<RecommendedWatcher>,
}

impl WatchThread {
    /// Until it is told to stop; how often it has looked.
    fn run(mut self, reports: &SyncSender<Command>) -> u64 {
        let (mut looks, mut looked) = (0, None);
        let mut next = Instant::now() + POLL;
        loop {
            match self.inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Command::Look) => next = looked.map_or_else(Instant::now, |looked| next.min(looked + BETWEEN)),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::Trigger) => self.tick(),
                Ok(Command::SetFiles(files, seen)) => self.set_files(files, seen, reports),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return looks,
            }
            if Instant::now() >= next {
                looks += 1;
                if self.look() != self.seen && !self.settle(reports) {
                    return looks;
                }
                let now = Instant::now();
                (looked, next) = (Some(now), now + POLL);
            }
            if self.missed.swap(false, Ordering::Acquire) {
                self.tick();
            }
        }
    }

    /// How the files are. What happens from now on is reported again.
    fn look(&self) -> Vec<Signature> {
        self.reported.store(false, Ordering::Release);
        signatures(&self.files)
    }

    /// Waits until the files are left alone, then ticks. `false`: it is time to stop.
    fn settle(&mut self, reports: &SyncSender<Command>) -> bool {
        let patience = Instant::now() + QUIET_MAX;
        let mut latest = signatures(&self.files);
        let mut quiet_at = Instant::now() + QUIET;
        while Instant::now() < quiet_at.min(patience) {
            let wait = quiet_at.min(patience).saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(wait) {
                Ok(Command::Look) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::Trigger) => break,
                Ok(Command::SetFiles(files, seen)) => self.set_files(files, seen, reports),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
            let now = signatures(&self.files);
            if now != latest {
                latest = now;
                quiet_at = Instant::now() + QUIET;
            }
        }
        self.tick();
        true
    }

    fn tick(&mut self) {
        self.seen = self.look();
        self.ticker.send_modify(|ticks| *ticks += 1);
    }

    fn set_files(&mut self, files: Vec<PathBuf>, mut seen: Vec<Signature>, reports: &SyncSender<Command>) {
        if files == self.files {
            return;
        }
        // What has changed of those that were watched all the time was not told yet.
        for (file, seen) in files.iter().zip(&mut seen) {
            if let Some(at) = self.files.iter().position(|known| known == file) {
                *seen = self.seen[at];
            }
        }
        (self.files, self.seen) = (files, seen);
        self.watch_directories(reports);
    }

    fn watch_directories(&mut self, reports: &SyncSender<Command>) {
        let (reporter, reported) = (reports.clone(), Arc::clone(&self.reported));
        let report = move |_| {
            if !reported.swap(true, Ordering::AcqRel) && reporter.try_send(Command::Look).is_err() {
                // Full: those who come later may have more luck.
                reported.store(false, Ordering::Release);
            }
        };
        self.watcher = None;
        let mut watcher = match notify::recommended_watcher(report) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, "the system reports no file changes, looking once a second instead");
                return;
            }
        };
        let directories: BTreeSet<&Path> = self.files.iter().map(|file| directory_of(file)).collect();
        for directory in directories {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                let directory = directory.display();
                tracing::debug!(%directory, %error, "not watched, looking once a second instead");
            }
        }
        self.watcher = Some(watcher);
        // For what changed while nobody watched.
        let _ = reports.try_send(Command::Look);
    }
}

/// What changes when a file does; `None`: there is no such file.
type Signature = Option<(u64, u64, u64, i64, i64, i64, i64)>;

fn signatures(files: &[PathBuf]) -> Vec<Signature> {
    files.iter().map(|file| signature(file)).collect()
}

fn signature(file: &Path) -> Signature {
    let data = fs::metadata(file).ok()?;
    Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()))
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn next(changes: &mut watch::Receiver<u64>) -> u64 {
        timeout(DEADLINE, changes.changed()).await.expect("a change is noticed").unwrap();
        *changes.borrow_and_update()
    }

    #[tokio::test]
    async fn a_file_written_in_place_is_one_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.yaml");
        fs::write(&path, "a").unwrap();
        let watch = FileWatch::start(vec![path.clone()]).unwrap();
        let mut changes = watch.changes();
        for text in ["b", "bb", "bbb"] {
            fs::write(&path, text).unwrap();
        }
        assert_eq!(next(&mut changes).await, 1);
        assert!(!changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_file_replaced_by_renaming_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.yaml");
        fs::write(&path, "a").unwrap();
        let watch = FileWatch::start(vec![path.clone()]).unwrap();
        let mut changes = watch.changes();
        let draft = dir.path().join(".server.yaml.swp");
        fs::write(&draft, "b").unwrap();
        fs::rename(&draft, &path).unwrap();
        next(&mut changes).await;
        // And again: the watch did not stay with the old file.
        fs::write(&draft, "c").unwrap();
        fs::rename(&draft, &path).unwrap();
        next(&mut changes).await;
    }

    #[tokio::test]
    async fn a_symlink_swapped_as_in_a_mounted_config_map_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["v1", "v2"] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("server.yaml"), "same").unwrap();
        }
        let data = dir.path().join("..data");
        symlink("v1", &data).unwrap();
        let path = dir.path().join("server.yaml");
        symlink("..data/server.yaml", &path).unwrap();
        let watch = FileWatch::start(vec![path]).unwrap();
        let mut changes = watch.changes();
        let fresh = dir.path().join("..data_tmp");
        symlink("v2", &fresh).unwrap();
        fs::rename(&fresh, &data).unwrap();
        next(&mut changes).await;
    }

    #[tokio::test]
    async fn a_file_that_appears_later_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/yet/tokens.json");
        let watch = FileWatch::start(vec![path.clone()]).unwrap();
        let mut changes = watch.changes();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{}").unwrap();
        next(&mut changes).await;
    }

    #[tokio::test]
    async fn other_files_in_the_directory_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.yaml");
        fs::write(&path, "a").unwrap();
        let watch = FileWatch::start(vec![path.clone()]).unwrap();
        let mut changes = watch.changes();
        fs::write(dir.path().join("other"), "x").unwrap();
        assert!(timeout(Duration::from_millis(400), changes.changed()).await.is_err());
        fs::write(&path, "bb").unwrap();
        assert_eq!(next(&mut changes).await, 1);
    }

    #[tokio::test]
    async fn a_trigger_counts_without_a_change() {
        let watch = FileWatch::start(vec![]).unwrap();
        let mut changes = watch.changes();
        watch.trigger().pull();
        assert_eq!(next(&mut changes).await, 1);
    }

    #[test]
    fn a_trigger_that_finds_no_room_neither_waits_nor_is_lost() {
        // Its thread has not started yet: nobody takes anything.
        let (commands, inbox) = sync_channel(REPORTS);
        let (ticker, ticks) = watch::channel(0);
        let missed = Arc::new(AtomicBool::new(false));
        let trigger = Trigger { commands: commands.clone(), missed: Arc::clone(&missed) };
        for _ in 0..REPORTS - 1 {
            commands.send(Command::Look).unwrap();
        }
        commands.send(Command::Stop).unwrap();
        trigger.pull();
        let reported = Arc::default();
        let thread = WatchThread { files: vec![], seen: vec![], inbox, missed, reported, ticker, watcher: None };
        thread.run(&commands);
        assert_eq!(*ticks.borrow(), 1);
    }

    #[tokio::test]
    async fn the_set_of_files_can_be_exchanged() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let watch = FileWatch::start(vec![left.path().join("a")]).unwrap();
        let mut changes = watch.changes();
        let path = right.path().join("b");
        watch.set_files(vec![path.clone()]);
        // Commands are taken in order: after this tick the new set is in force.
        watch.trigger().pull();
        next(&mut changes).await;
        fs::write(&path, "x").unwrap();
        next(&mut changes).await;
    }

    /// A thread that has not started, and the way to it.
    fn not_started(files: &[&Path]) -> (WatchThread, SyncSender<Command>) {
        let (commands, inbox) = sync_channel(REPORTS);
        let files: Vec<PathBuf> = files.iter().map(|file| file.to_path_buf()).collect();
        let (missed, ticker, seen) = (Arc::default(), watch::Sender::new(0), signatures(&files));
        let reported = Arc::default();
        (WatchThread { files, seen, inbox, missed, reported, ticker, watcher: None }, commands)
    }

    #[test]
    fn files_that_are_exchanged_while_others_settle_are_watched_by_the_system_too() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut thread, commands) = not_started(&[&left.path().join("a")]);
        let files = vec![left.path().join("a"), right.path().join("b")];
        commands.send(Command::SetFiles(files.clone(), signatures(&files))).unwrap();
        assert!(thread.settle(&commands));
        assert!(thread.watcher.is_some());
        assert_eq!(thread.files, files);
    }

    #[test]
    fn a_change_that_was_not_told_yet_is_not_lost_when_the_files_are_exchanged() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        let (mut thread, commands) = not_started(&[&a]);
        fs::write(&a, "changed").unwrap();
        let files = vec![b, a];
        let seen = signatures(&files);
        fs::write(&files[0], "changed").unwrap();
        thread.set_files(files.clone(), seen, &commands);
        assert_eq!(thread.seen, [None, None]);
        assert!(signatures(&files).iter().all(Option::is_some));
    }

    #[test]
    fn a_busy_directory_is_looked_at_ten_times_a_second_at_most() {
        let directory = tempfile::tempdir().unwrap();
        let (mut thread, commands) = not_started(&[&directory.path().join("a")]);
        thread.watch_directories(&commands);
        let reports = commands.clone();
        let begun = Instant::now();
        let thread = std::thread::spawn(move || thread.run(&reports));
        let mut log = fs::File::create(directory.path().join("log")).unwrap();
        while begun.elapsed() < BETWEEN * 5 {
            io::Write::write_all(&mut log, b"line\n").unwrap();
            // By whatever way it is heard of.
            let _ = commands.try_send(Command::Look);
        }
        commands.send(Command::Stop).unwrap();
        let looks = thread.join().unwrap();
        let most = begun.elapsed().as_millis() / BETWEEN.as_millis() + 1;
        assert!(looks > 1 && u128::from(looks) <= most, "{looks} looks, {most} at most");
    }

    #[tokio::test]
    async fn a_dropped_watch_ends_its_thread() {
        let watch = FileWatch::start(vec![]).unwrap();
        let mut changes = watch.changes();
        drop(watch);
        let ended = timeout(DEADLINE, changes.changed()).await.unwrap();
        assert!(ended.is_err(), "the sender is gone with the thread");
    }
}
