//! What can be made to go wrong inside upgraded connections, and what is counted there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::inside::Inside;
use super::link::Link;
use crate::cluster::locked;

/// Switches for what goes wrong inside streams, and counters of what happened; all usable at run time.
#[derive(Debug, Default)]
pub struct StreamFaults {
    script: Mutex<Script>,
    links: Mutex<Vec<Weak<Link>>>,
    silent: watch::Sender<bool>,
    muted: AtomicBool,
    inside: Inside,
    pub(super) counts: Arc<Counts>,
}

/// How a client may ask for streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket that carries SPDY: `SPDY/3.1+portforward.k8s.io`.
    Tunnel,
    /// `Upgrade: SPDY/3.1`.
    Spdy,
    /// A WebSocket with a channel byte in each message: `v4.channel.k8s.io` and its relatives.
    Channels,
}

/// What was asked for and is still to come.
#[derive(Debug, Default)]
struct Script {
    upgrade_delay: Duration,
    refusals: VecDeque<(u16, String)>,
    forced: Vec<(Transport, u16)>,
    cut_after: Option<u64>,
    stream_errors: VecDeque<String>,
    stream_delay: Duration,
    never_reply: bool,
}

/// Counters of all connections of a cluster.
#[derive(Debug, Default)]
pub(super) struct Counts {
    connections: Tally,
    streams: Tally,
    processes: Tally,
    pub(super) to_client: AtomicU64,
    pub(super) from_client: AtomicU64,
}

#[derive(Debug, Default)]
struct Tally {
    all: AtomicU64,
    now: AtomicU64,
}

/// Which of the things counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Connection,
    Stream,
    Process,
}

/// Something open; no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Counts>, What);

impl StreamFaults {
    /// Every upgrade is answered this much later.
    pub fn upgrade_delay(&self, delay: Duration) {
        locked(&self.script).upgrade_delay = delay;
    }

    /// The next `count` upgrades are answered with this status and text.
    pub fn refuse_upgrades(&self, count: usize, status: u16, body: &str) {
        let mut script = locked(&self.script);
        script.refusals.extend(std::iter::repeat_n((status, body.to_owned()), count));
    }

    /// Every upgrade by this transport is answered with this status; `None`: as the version does.
    pub fn force(&self, transport: Transport, status: Option<u16>) {
        let mut script = locked(&self.script);
        script.forced.retain(|(other, _)| *other != transport);
        script.forced.extend(status.map(|status| (transport, status)));
    }

    /// Connections opened from now on are reset after so many bytes towards the client.
    pub fn cut_after(&self, bytes: Option<u64>) {
        locked(&self.script).cut_after = bytes;
    }

    /// Resets all connections that are open.
    pub fn cut_all(&self) {
        self.live().iter().for_each(|link| link.cut());
    }

    /// Nothing is read, written or answered on any connection, pings included, while they stay open.
    pub fn silent(&self, silent: bool) {
        self.muted.store(silent, Ordering::Relaxed);
        self.silent.send_replace(silent);
    }

    /// Sends GOAWAY on all SPDY connections; from then on they take no new stream.
    pub fn go_away(&self) {
        self.live().iter().for_each(|link| link.go_away());
    }

    /// The next `count` streams end with this text on their error stream.
    pub fn stream_errors(&self, count: usize, text: &str) {
        locked(&self.script).stream_errors.extend(std::iter::repeat_n(text.to_owned(), count));
    }

    /// Every stream is answered this much later.
    pub fn stream_delay(&self, delay: Duration) {
        locked(&self.script).stream_delay = delay;
    }

    /// New streams get no answer at all.
    pub fn never_reply(&self, never: bool) {
        locked(&self.script).never_reply = never;
    }

    /// What is in the pods: tools and the hosts they reach.
    pub fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Connections that were upgraded since the start.
    pub fn connections(&self) -> u64 {
        self.counts.of(What::Connection).all.load(Ordering::Relaxed)
    }

    /// Upgraded connections open now.
    pub fn open_connections(&self) -> u64 {
        self.counts.of(What::Connection).now.load(Ordering::Relaxed)
    }

    /// Forwarded streams (a pair counts once) since the start.
    pub fn streams(&self) -> u64 {
        self.counts.of(What::Stream).all.load(Ordering::Relaxed)
    }

    /// Forwarded streams open now.
    pub fn open_streams(&self) -> u64 {
        self.counts.of(What::Stream).now.load(Ordering::Relaxed)
    }

    /// Processes started by exec since the start.
    pub fn processes(&self) -> u64 {
        self.counts.of(What::Process).all.load(Ordering::Relaxed)
    }

    /// Processes running now.
    pub fn running_processes(&self) -> u64 {
        self.counts.of(What::Process).now.load(Ordering::Relaxed)
    }

    /// Bytes written to clients, framing included.
    pub fn bytes_to_clients(&self) -> u64 {
        self.counts.to_client.load(Ordering::Relaxed)
    }

    /// Bytes read from clients, framing included.
    pub fn bytes_from_clients(&self) -> u64 {
        self.counts.from_client.load(Ordering::Relaxed)
    }

    pub(super) fn delay_of_upgrade(&self) -> Duration {
        locked(&self.script).upgrade_delay
    }

    pub(super) fn refusal(&self) -> Option<(u16, String)> {
        locked(&self.script).refusals.pop_front()
    }

    pub(super) fn forced(&self, transport: Transport) -> Option<u16> {
        locked(&self.script).forced.iter().find(|(of, _)| *of == transport).map(|(_, status)| *status)
    }

    pub(super) fn budget(&self) -> u64 {
        locked(&self.script).cut_after.unwrap_or(u64::MAX)
    }

    /// How late the next stream is answered; `None`: never.
    pub(super) fn delay_of_stream(&self) -> Option<Duration> {
        let script = locked(&self.script);
        (!script.never_reply).then_some(script.stream_delay)
    }

    /// The error text the next pair is to end with.
    pub(super) fn error(&self) -> Option<String> {
        locked(&self.script).stream_errors.pop_front()
    }

    pub(super) fn watch(&self, link: &Arc<Link>) {
        let mut links = locked(&self.links);
        if links.len() == links.capacity() {
            links.retain(|link| link.strong_count() > 0);
        }
        links.push(Arc::downgrade(link));
    }

    /// Waits while all is to be silent.
    pub(super) async fn spoken(&self) {
        if self.muted.load(Ordering::Relaxed) {
            // The sender is part of this, so it cannot be gone.
            let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
        }
    }

    fn live(&self) -> Vec<Arc<Link>> {
        locked(&self.links).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Counts {
    pub(super) fn open(self: &Arc<Self>, what: What) -> Open {
        self.of(what).all.fetch_add(1, Ordering::Relaxed);
        self.of(what).now.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self), what)
    }

    fn of(&self, what: What) -> &Tally {
        match what {
            What::Connection => &self.connections,
            What::Stream => &self.streams,
            What::Process => &self.processes,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.of(self.1).now.fetch_sub(1, Ordering::Relaxed);
    }
}
