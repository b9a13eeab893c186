//! Versions of the file that are refused, and what is asked for meanwhile.

use std::net::TcpListener;

use runtime::control::ControlLock;
use tempfile::TempDir;

use super::*;
use crate::command::up::source::Selection;

/// A daemon within this process, of a file in a directory of its own. Nobody watches the file.
struct Bed {
    directory: TempDir,
    daemon: Arc<Daemon>,
}

impl Bed {
    fn new(yaml: &str) -> Self {
        Self::of(yaml, |file| Source::new(file, Selection::default()))
    }

    /// The same, with this as the source of what is read after the start.
    fn of(yaml: &str, source: impl FnOnce(PathBuf) -> Source) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("adit.yaml");
        std::fs::write(&file, yaml).unwrap();
        let place = Place { runtime: directory.path().join("run"), state: directory.path().join("state") };
        let private = place.open().unwrap();
        let lock = ControlLock::take(&private).unwrap();
        let socket = ControlSocket::bind(&private, &lock).unwrap();
        let (scope, answering) = (Scope::root(), Scope::root());
        let journal = Journal::start(place.logs()).unwrap();
        let view = View::with_journal(None, &journal).unwrap();
        let read = Source::new(file.clone(), Selection::default()).read().unwrap();
        let source = source(file.clone());
        let mut running = Running::new(&scope, &scope.child(), Arc::clone(&view));
        running.apply(&read).unwrap();
        let daemon = Daemon::new(Parts {
            presence: Presence::new(&answering, &place, lock, &socket).unwrap(),
            desired: Desired::load(place.desired(), &file),
            config: file,
            watch: Arc::new(FileWatch::start(read.files()).unwrap()),
            place,
            journal,
            running: Arc::new(Mutex::new(running)),
            source,
            view,
            scope,
            answering,
            doors: Doors::default(),
            is_activated: false,
            missing: read.contexts.clone(),
            read,
            notify: Notify::default(),
        });
        Self { directory, daemon }
    }

    fn write(&self, yaml: &str) {
        std::fs::write(self.directory.path().join("adit.yaml"), yaml).unwrap();
    }

    /// The forwards of the version in force.
    fn forwards(&self) -> Vec<String> {
        self.daemon.known().read.file.forwards.iter().map(|forward| forward.name.clone()).collect()
    }

    async fn start(&self, name: &str) -> Result<Value, Failure> {
        let chosen = Chosen { names: vec![name.to_owned()], wait_ms: Some(0), ..Chosen::default() };
        self.daemon.command(Verb::Start, &chosen).await
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.daemon.scope.abort();
        self.daemon.answering.abort();
    }
}

/// A port that somebody else has, and its number.
fn taken() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

const WEB: &str = "forwards:\n  web: { to: \"tcp://127.0.0.1:1\", listen: 0 }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_for_an_address_takes_the_version_that_wanted_it_and_reads_none_that_is_half_written() {
    let bed = Bed::new(WEB);
    let (listener, port) = taken();
    let whole = format!("{WEB}  db: {{ to: 1, listen: {port} }}\n  more: {{ to: 2, listen: 0 }}\n");
    bed.write(&whole);
    assert!(bed.daemon.reload().await.is_err());
    assert_eq!(bed.forwards(), ["web"]);
    drop(listener);
    // Somebody writes it just now, and has got so far; it is valid, but not what is meant.
    bed.write(WEB);
    bed.daemon.reload_again().await;
    assert_eq!(bed.forwards(), ["web", "db", "more"]);
    assert_eq!(bed.daemon.mistake(), Value::Null);
    // It is in force: there is nothing to try.
    bed.daemon.reload_again().await;
    assert_eq!(bed.daemon.reloads.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_waited_for_an_address_is_forgotten_for_one_with_another_mistake() {
    let bed = Bed::new(WEB);
    let (listener, port) = taken();
    bed.write(&format!("{WEB}  db: {{ to: 1, listen: {port} }}\n"));
    assert!(bed.daemon.reload().await.is_err());
    bed.write("forwards: { broken\n");
    assert!(bed.daemon.reload().await.is_err());
    drop(listener);
    bed.daemon.reload_again().await;
    assert_eq!(bed.forwards(), ["web"]);
    assert!(bed.daemon.mistake()["text"].as_str().unwrap().contains("adit.yaml:"), "{}", bed.daemon.mistake());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_for_its_port_is_no_mistake_of_the_file() {
    let (listener, port) = taken();
    let bed = Bed::new(&format!("{WEB}  db: {{ to: 1, listen: {port}, enabled: false }}\n"));
    let refused = bed.start("db").await.unwrap_err();
    assert!(refused.text().contains("is taken by"), "{}", refused.text());
    assert_eq!(bed.daemon.mistake(), Value::Null);
    drop(listener);
    bed.daemon.reload_again().await;
    assert_eq!(bed.daemon.reloads.load(Ordering::Relaxed), 0, "there was nothing to reload");
    bed.start("db").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_leaves_the_version_that_waits_for_its_own_port() {
    let (first, port) = taken();
    let (_second, other) = taken();
    let off = format!("{WEB}  off: {{ to: 1, listen: {other}, enabled: false }}\n");
    let bed = Bed::new(&off);
    bed.write(&format!("{off}  db: {{ to: 1, listen: {port} }}\n"));
    assert!(bed.daemon.reload().await.is_err());
    let mistake = bed.daemon.mistake();
    assert!(bed.start("off").await.is_err());
    assert_eq!(bed.daemon.mistake(), mistake);
    drop(first);
    bed.daemon.reload_again().await;
    assert_eq!((bed.forwards(), bed.daemon.mistake()), (vec!["web".into(), "off".into(), "db".into()], Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_not_in_force_since_it_was_first_refused() {
    let bed = Bed::new(WEB);
    let (_listener, port) = taken();
    bed.write(&format!("{WEB}  db: {{ to: 1, listen: {port} }}\n"));
    assert!(bed.daemon.reload().await.is_err());
    let since = bed.daemon.mistake()["since"].clone();
    while since == timestamp::format(SystemTime::now()) {
        tokio::task::yield_now().await;
    }
    bed.daemon.reload_again().await;
    assert!(bed.daemon.reload().await.is_err());
    assert_eq!(bed.daemon.mistake()["since"], since);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_forwards_takes_no_version_that_is_being_written() {
    let whole = format!("{WEB}  db: {{ to: 1, listen: 0 }}\n");
    let bed = Bed::new(&whole);
    // Somebody writes it just now, and has got so far; it is valid, but not what is meant.
    bed.write(WEB);
    bed.start("web").await.unwrap();
    assert_eq!(bed.forwards(), ["web", "db"]);
    // A mistaken one is no reason to refuse it, and stays to be mended.
    bed.write("forwards: { broken\n");
    assert!(bed.daemon.reload().await.is_err());
    bed.start("db").await.unwrap();
    assert_eq!((bed.forwards(), bed.daemon.mistake().is_null()), (vec!["web".into(), "db".into()], false));
    bed.write(&whole);
    bed.start("db").await.unwrap();
    assert_eq!(bed.daemon.mistake(), Value::Null, "what is written is in force");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_forwards_reads_no_file_but_to_see_whether_its_mistake_is_mended() {
    // It is waited for until it is read for the first time.
    let bed = Bed::of(WEB, Source::none_yet);
    bed.start("web").await.unwrap();
    assert!(bed.daemon.has_no_file(), "it was read");
    bed.daemon.blame(&Failure::new(Fault::Config, "a mistake", ""));
    bed.start("web").await.unwrap();
    assert_eq!((bed.daemon.has_no_file(), bed.daemon.mistake()), (false, Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_process_takes_over_nothing_is_wished_here() {
    let bed = Bed::new(WEB);
    bed.daemon.handing.send_replace(true);
    assert!(bed.start("web").await.is_err());
    assert_eq!(bed.daemon.known().desired.get("web"), None);
    // The wishes that are written down are the other's.
    bed.daemon.reload().await.unwrap();
    assert!(!bed.daemon.place.desired().exists());
    bed.daemon.handing.send_replace(false);
    bed.start("web").await.unwrap();
    assert!(bed.daemon.place.desired().exists());
}
