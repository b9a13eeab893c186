//! What goes wrong on the API's side, all of it switched at run time.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::listener::Listener;
use super::locked;
use super::store::Store;
use super::stream::StreamFaults;

/// The switches of a cluster; those of the streams inside upgraded connections are in [`Faults::streams`].
#[derive(Debug)]
pub struct Faults {
    pub(super) streams: StreamFaults,
    store: Arc<Store>,
    listener: Arc<Listener>,
    rules: Mutex<Rules>,
    /// Whether there is any rule at all: requests look here first.
    any: AtomicBool,
    /// Watches that began before these counts changed end, the second kind with 410.
    dropped: AtomicU64,
    gone: AtomicU64,
}

#[derive(Debug, Default)]
struct Rules {
    answers: Vec<(String, u16, String)>,
    delay: Duration,
    denied: Vec<(String, String)>,
    expired: bool,
}

impl Faults {
    pub(super) fn new(store: Arc<Store>, listener: Arc<Listener>) -> Self {
        Self {
            streams: StreamFaults::default(),
            store,
            listener,
            rules: Mutex::default(),
            any: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            gone: AtomicU64::new(0),
        }
    }

    /// The switches of port-forward and exec.
    pub fn streams(&self) -> &StreamFaults {
        &self.streams
    }

    /// Answers every request like this; `None`: as usual again. An empty body becomes a Status object.
    pub fn api_status(&self, answer: Option<(u16, &str)>) {
        self.api_status_for("", answer);
    }

    /// The same for the requests whose path starts like this.
    pub fn api_status_for(&self, prefix: &str, answer: Option<(u16, &str)>) {
        self.change(|rules| {
            rules.answers.retain(|(known, ..)| known != prefix);
            if let Some((status, body)) = answer {
                rules.answers.push((prefix.to_owned(), status, body.to_owned()));
            }
        });
    }

    /// Lets every request wait for so long before it is looked at.
    pub fn api_delay(&self, delay: Duration) {
        self.change(|rules| rules.delay = delay);
    }

    /// Forbids a verb (`*`: all) on a resource (`pods`, `pods/portforward`, `*`), as RBAC does.
    pub fn deny(&self, verb: &str, resource: &str) {
        self.change(|rules| rules.denied.push((verb.to_owned(), resource.to_owned())));
    }

    /// Allows everything again.
    pub fn allow_all(&self) {
        self.change(|rules| rules.denied.clear());
    }

    /// Answers 401 to all credentials.
    pub fn token_expired(&self, expired: bool) {
        self.change(|rules| rules.expired = expired);
    }

    /// Ends all current watches with 410 and forgets all versions handed out so far, as a compaction does.
    pub fn watch_gone(&self) {
        self.gone.fetch_add(1, Ordering::SeqCst);
        self.store.compact();
    }

    /// Ends the answers of all current watches, without a word.
    pub fn drop_watches(&self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        self.store.wake();
    }

    /// Stops the API server: new connections are refused, those there are get a reset.
    pub async fn stop(&self) {
        self.listener.stop().await;
        self.listener.gates().cut();
    }

    /// Stops the API server as a machine that vanished does: connections stay open and say nothing.
    pub async fn stop_silently(&self) {
        self.listener.gates().silence();
        self.listener.stop().await;
    }

    /// Listens on the same port again. Silent connections stay silent.
    ///
    /// # Panics
    /// When the port, which is kept bound meanwhile, cannot be listened on.
    pub fn restart(&self) {
        let started: io::Result<()> = self.listener.start();
        started.expect("the reserved port takes a listener again");
    }

    /// Resets all connections; new ones are welcome.
    pub fn cut_connections(&self) {
        self.listener.gates().cut();
    }

    /// Lets all current connections stand open and say nothing any more, upgraded ones too.
    pub fn silent_connections(&self) {
        self.listener.gates().silence();
    }

    /// Lets silent connections go on where they were.
    pub fn resume_connections(&self) {
        self.listener.gates().open_again();
    }

    /// Takes back every rule about answers, delays, rights and tokens.
    pub fn clear(&self) {
        self.change(|rules| *rules = Rules::default());
    }

    pub(super) fn delay(&self) -> Option<Duration> {
        self.look(|rules| (!rules.delay.is_zero()).then_some(rules.delay))
    }

    pub(super) fn answer(&self, path: &str) -> Option<(u16, String)> {
        self.look(|rules| {
            let best = rules.answers.iter().filter(|(prefix, ..)| path.starts_with(prefix.as_str()));
            best.max_by_key(|(prefix, ..)| prefix.len()).map(|(_, status, body)| (*status, body.clone()))
        })
    }

    pub(super) fn denies(&self, verb: &str, resource: &str) -> bool {
        let denied = self.look(|rules| {
            let matches = |rule: &str, word: &str| rule == "*" || rule == word;
            rules.denied.iter().any(|(of, on)| matches(of, verb) && matches(on, resource)).then_some(())
        });
        denied.is_some()
    }

    pub(super) fn expired(&self) -> bool {
        self.look(|rules| rules.expired.then_some(())).is_some()
    }

    /// The counts a watch remembers at its start.
    pub(super) fn watch_marks(&self) -> (u64, u64) {
        (self.dropped.load(Ordering::SeqCst), self.gone.load(Ordering::SeqCst))
    }

    fn look<T>(&self, look: impl FnOnce(&Rules) -> Option<T>) -> Option<T> {
        if self.any.load(Ordering::Acquire) { look(&locked(&self.rules)) } else { None }
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut locked(&self.rules));
        self.any.store(true, Ordering::Release);
    }
}
