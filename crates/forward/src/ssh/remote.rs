//! Ports of an SSH server that lead to targets near us: what `ssh -R` does (RFC 4254, section 7).
//!
//! A connection of their own carries them: what a visitor does not read holds up no forward. A port that the server
//! refuses is asked for again, since the usual reason goes by itself: the server has not noticed yet that the connection
//! before this one is gone, and holds the port for it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use adit_core::backoff::{Backoff, BackoffSettings};
use adit_core::target::SshServer;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use runtime::Scope;
use runtime::connect::{Connect, Io};
use runtime::splice::splice;
use russh::client::Msg;
use russh::{Channel, ChannelOpenFailure};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::bastion::{KEY, REFUSED};
use super::dial::Dial;
use super::error::SshError;
use super::key_files::KeyFiles;
use super::link::{Link, LinkShared};
use super::servers::SshServers;
use super::settings::Known;
use super::stream::SshStream;

/// Visitors at the same time; more are refused.
const VISITORS_MAX: usize = 1024;
/// What a pump keeps of each direction between two streams that are no sockets.
const BUFFER: usize = 64 * 1024;
/// After a connection that was lost or could not be made.
const AGAIN: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(50),
    base: Duration::from_millis(100),
    growth: 2.0,
    cap: Duration::from_secs(5),
};
/// After a port that was refused.
const PORT_AGAIN: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(500),
    base: Duration::from_secs(1),
    growth: 2.0,
    cap: Duration::from_secs(15),
};
/// So often a number that the server chose is asked for again before it may choose another one: it holds the port for the
/// connection before this one until it has noticed its end.
const SAME_AGAIN: u32 = 3;
/// A connection that has lived so long was a good one.
const STABLE: Duration = Duration::from_secs(10);
/// An answer about a port may take so long.
const ANSWER: Duration = Duration::from_secs(15);
/// The end of a port is told to the server, which may be gone.
const GOODBYE: Duration = Duration::from_millis(500);

/// A port of the server, and where it leads.
#[derive(Clone)]
pub struct RemotePort {
    /// For events.
    pub name: String,
    /// Where the server is asked to listen: `localhost`, `*` for everywhere, or one of its addresses.
    pub bind: String,
    /// The port there; 0 is any that is free.
    pub port: u16,
    /// Where any may be taken, the number that it had when another process kept it open: visitors know it.
    pub before: Option<u16>,
    /// Opens a stream to what it leads to.
    pub connect: Arc<dyn Connect>,
    /// How long that may take.
    pub connect_timeout: Duration,
}

/// What happens to the ports of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RemoteEvent {
    /// The server is logged in to.
    Connected,
    /// The server listens.
    Listening {
        /// The port by its name.
        name: String,
        /// Where it was asked to.
        bind: String,
        /// The number of the port, also when 0 was asked for.
        port: u16,
        /// Whether the server chose it, now or before.
        chosen: bool,
        /// The number that it had before, when the server has not given that one again.
        before: Option<u16>,
    },
    /// The server does not listen; it is asked again.
    Refused {
        /// The port by its name.
        name: String,
        /// The number that was asked for.
        port: u16,
    },
    /// A visitor's stream is open.
    Opened {
        /// The port by its name.
        name: String,
    },
    /// It is done.
    Closed {
        /// The port by its name.
        name: String,
        /// Bytes of the visitor.
        received: u64,
        /// Bytes for the visitor.
        sent: u64,
    },
    /// There is no connection. Another attempt follows.
    Lost {
        /// Why.
        reason: String,
        /// What to do.
        hint: Option<String>,
        /// When the next attempt is.
        wait: Duration,
    },
}

/// Told what happens.
pub type RemoteEvents = Arc<dyn Fn(RemoteEvent) + Send + Sync>;

/// Ports of one SSH server that lead to targets near us.
pub struct RemotePorts {
    servers: Arc<SshServers>,
    server: SshServer,
    wanted: watch::Sender<Vec<RemotePort>>,
    events: RemoteEvents,
    /// The machine slept: nothing that is known of failures holds.
    woken: Notify,
    /// It slept: the servers on the way have to show that they live.
    asked: AtomicBool,
    /// A host key that was not believed may be known now.
    looked: Notify,
    /// The numbers that the server chose: visitors know them.
    chosen: Mutex<HashMap<Place, u16>>,
}

impl RemotePorts {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(servers: Arc<SshServers>, server: SshServer, ports: Vec<RemotePort>, events: RemoteEvents) -> Arc<Self> {
        Arc::new(Self {
            servers,
            server,
            wanted: watch::Sender::new(ports),
            events,
            woken: Notify::new(),
            asked: AtomicBool::new(false),
            looked: Notify::new(),
            chosen: Mutex::default(),
        })
    }

    /// Which ports are open from now on: those that stay keep their visitors, and lead new ones where they lead now.
    pub fn set(&self, ports: Vec<RemotePort>) {
        self.wanted.send_replace(ports);
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> &SshServer {
        &self.server
    }

    /// Makes the connection anew at once: the machine slept, or its network changed.
    pub fn wake(&self) {
        self.asked.store(true, Ordering::Release);
        self.woken.notify_one();
    }

    /// Ends a pause after a host key that was not believed: the file was read again, or a person has done something about it.
    pub fn look_again(&self) {
        self.looked.notify_waiters();
    }

    /// Keeps the ports open until `scope` drains; then visitors finish what they are at.
    pub async fn run(self: Arc<Self>, scope: Scope) {
        let secrets = self.servers.secrets();
        let mut paces = Paces::new();
        loop {
            let table = Arc::new(RemoteTable::new(&self.events));
            let mut key_files = KeyFiles::default();
            let linking = async {
                let known = Known::of(&scope, &self.server).await?;
                key_files = KeyFiles::of(&scope, &known).await;
                if known.by_openssh() {
                    return Err(by_openssh(&known));
                }
                let asked = self.asked.swap(false, Ordering::AcqRel);
                let dial = Dial {
                    servers: &self.servers,
                    scope: &scope,
                    secrets: &secrets,
                    notes: &|_| {},
                    asked,
                    hop_files: OnceLock::new(),
                };
                let (limits, budget) = (self.servers.limits(), self.servers.budget());
                let shared = LinkShared::for_visitors(&scope, limits, budget, Arc::clone(&table));
                let linked = dial.link_with(&known, shared).await;
                if let Some(files) = dial.hop_files.into_inner() {
                    key_files.add(files);
                }
                linked
            };
            let linked = tokio::select! {
                biased;
                () = scope.drained() => return,
                () = self.woken.notified() => continue,
                linked = linking => linked,
            };
            let mut is_key = false;
            let (reason, hint, wait) = match linked {
                Ok(link) => {
                    (self.events)(RemoteEvent::Connected);
                    let begun = Instant::now();
                    let ended = self.serve(&link, &table, &scope).await;
                    // A server that lets us in and ends it at once is not asked at once for ever.
                    if begun.elapsed() >= STABLE {
                        paces = Paces::new();
                    }
                    // Its visitors finish what they are at beside its successor.
                    scope.spawn("last ssh visitors", see_off(link, table, scope.clone()));
                    match ended {
                        Some(reason) => (reason, None, paces.again.next_wait(rand::random())),
                        None => return,
                    }
                }
                Err(error) => {
                    is_key = error.is_host_key();
                    let wait = paces.after(&error);
                    let hint = adit_core::diagnose::Diagnose::hint(&error);
                    (crate::error::chain(&error), hint, wait)
                }
            };
            (self.events)(RemoteEvent::Lost { reason, hint, wait });
            tokio::select! {
                biased;
                () = scope.drained() => return,
                () = self.woken.notified() => paces = Paces::new(),
                // A refused login is not asked for by each version of the file: servers lock out whoever tries often.
                () = self.looked.notified(), if is_key => {}
                // The key may be that of a server on the way.
                () = key_files.changed(&scope), if is_key => self.asked.store(true, Ordering::Release),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<Place, u16>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number that the server chose for a port the last time.
    fn before(&self, place: &Place) -> Option<u16> {
        let known = self.chosen().get(place).copied();
        known.or_else(|| place.find(&self.wanted.borrow())?.before.filter(|_| place.port == 0))
    }

    /// Has the ports opened, and waits for the end of the connection; why. `None`: nobody wants them any more.
    async fn serve(&self, link: &Link, table: &Arc<RemoteTable>, scope: &Scope) -> Option<String> {
        let mut wanted = self.wanted.subscribe();
        let mut kept = FuturesUnordered::new();
        let mut places: HashSet<Place> = HashSet::new();
        let ended = loop {
            let now: Vec<Place> = wanted.borrow_and_update().iter().map(Place::of).collect();
            for place in now {
                if places.insert(place.clone()) {
                    kept.push(self.keep(link, table, place));
                }
            }
            tokio::select! {
                biased;
                () = scope.drained() => break None,
                reason = link.ended() => return Some(reason),
                () = self.woken.notified() => break Some("the network may have changed".to_owned()),
                // Its visitors stay; the ports go over to a successor.
                () = link.worn() => break Some("the connection has carried many visitors and is replaced".to_owned()),
                Ok(()) = wanted.changed() => {}
                Some(gone) = kept.next() => {
                    places.remove(&gone);
                }
            }
        };
        drop(kept);
        let closing = async {
            for (bind, port) in table.take() {
                link.close_port(bind, port).await;
            }
        };
        // The ports are free for the next connection then.
        let _ = tokio::time::timeout(GOODBYE, closing).await;
        ended
    }

    /// Asks for a port until it is opened, and closes it when nobody wants it any more.
    async fn keep(&self, link: &Link, table: &RemoteTable, place: Place) -> Place {
        let mut wanted = self.wanted.subscribe();
        let mut again = Backoff::new(PORT_AGAIN);
        let bind = if place.bind == "*" { "" } else { &place.bind };
        let before = self.before(&place);
        let mut same = before.map_or(0, |_| SAME_AGAIN);
        loop {
            let Some(port) = place.find(&wanted.borrow_and_update()) else { return place };
            let number = before.filter(|_| same > 0).unwrap_or(port.port);
            // Known before it is asked for: a visitor may come before the answer.
            if number != 0 {
                table.set(number, bind, &port);
            }
            // Without an answer it is not open as far as anybody knows, and it is asked for again.
            let answer = tokio::time::timeout(ANSWER, link.open_port(bind, number)).await;
            if let Ok(Some(found)) = answer {
                let found = if number == 0 { found } else { number };
                let before = before.filter(|before| *before != found);
                if port.port == 0 {
                    self.chosen().insert(place.clone(), found);
                }
                let (name, asked, chosen) = (place.name.clone(), place.bind.clone(), port.port == 0);
                (self.events)(RemoteEvent::Listening { name, bind: asked, port: found, chosen, before });
                loop {
                    let Some(port) = place.find(&wanted.borrow_and_update()) else { break };
                    table.set(found, bind, &port);
                    if wanted.changed().await.is_err() {
                        break;
                    }
                }
                table.remove(found, bind);
                let _ = tokio::time::timeout(ANSWER, link.close_port(bind.to_owned(), found)).await;
                return place;
            }
            table.remove(number, bind);
            same = same.saturating_sub(1);
            if number == port.port {
                (self.events)(RemoteEvent::Refused { name: place.name.clone(), port: number });
            }
            tokio::select! {
                () = tokio::time::sleep(again.next_wait(rand::random())) => {}
                _ = wanted.changed() => {}
            }
        }
    }
}

/// When the next attempt is, by what the last ones failed for.
struct Paces {
    again: Backoff,
    refused: Backoff,
    key: Backoff,
}

impl Paces {
    fn new() -> Self {
        Self { again: Backoff::new(AGAIN), refused: Backoff::new(REFUSED), key: Backoff::new(KEY) }
    }

    fn after(&mut self, error: &SshError) -> Duration {
        // The whole wait: jitter would let the first tries after a refusal come at once.
        let whole = |backoff: &mut Backoff| {
            let wait = backoff.longest();
            backoff.next_wait(rand::random());
            wait
        };
        if error.is_login() {
            whole(&mut self.refused)
        } else if error.is_host_key() {
            whole(&mut self.key)
        } else {
            self.again.next_wait(rand::random())
        }
    }
}

/// What makes a port the same one in another version of the file.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    name: String,
    bind: String,
    port: u16,
}

impl Place {
    fn of(port: &RemotePort) -> Self {
        Self { name: port.name.clone(), bind: port.bind.clone(), port: port.port }
    }

    fn find(&self, ports: &[RemotePort]) -> Option<RemotePort> {
        ports.iter().find(|port| Self::of(port) == *self).cloned()
    }
}

impl std::fmt::Debug for RemotePorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.wanted.borrow().iter().map(|port| port.name.clone()).collect();
        f.debug_struct("RemotePorts").field("server", &self.server).field("ports", &names).finish_non_exhaustive()
    }
}

/// Keeps a connection as long as it has visitors.
async fn see_off(link: Link, table: Arc<RemoteTable>, scope: Scope) {
    let all = u32::try_from(VISITORS_MAX).unwrap_or(u32::MAX);
    tokio::select! {
        biased;
        () = scope.cancelled() => {}
        _ = link.ended() => {}
        _ = table.visitors.acquire_many(all) => {}
    }
}

fn by_openssh(known: &Known) -> SshError {
    let why = known.only_openssh.unwrap_or("backend: openssh");
    SshError::Settings {
        server: known.server.to_string(),
        reason: format!("publishing needs adit's own ssh, and {why} needs OpenSSH"),
        hint: "publish by another server, or by a tunnel server".to_owned(),
    }
}

/// Which port of a connection leads where.
pub(crate) struct RemoteTable {
    open: Mutex<Vec<OpenPort>>,
    visitors: Arc<Semaphore>,
    events: RemoteEvents,
}

struct OpenPort {
    number: u16,
    bind: String,
    to: RemotePort,
}

impl RemoteTable {
    fn new(events: &RemoteEvents) -> Self {
        let visitors = Arc::new(Semaphore::new(VISITORS_MAX));
        Self { open: Mutex::default(), visitors, events: Arc::clone(events) }
    }

    fn set(&self, number: u16, bind: &str, to: &RemotePort) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.iter_mut().find(|port| port.number == number && port.bind == bind) {
            Some(port) => port.to = to.clone(),
            None => open.push(OpenPort { number, bind: bind.to_owned(), to: to.clone() }),
        }
    }

    fn remove(&self, number: u16, bind: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|port| port.number != number || port.bind != bind);
    }

    fn take(&self) -> Vec<(String, u16)> {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.into_iter().map(|port| (port.bind, port.number)).collect()
    }

    /// Where a port leads. Servers repeat the address they were asked for, or say the one they took.
    fn find(&self, bind: &str, number: u32) -> Option<RemotePort> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let those: Vec<_> = open.iter().filter(|port| u32::from(port.number) == number).collect();
        match (those.iter().find(|port| port.bind == bind), those.as_slice()) {
            (Some(port), _) => Some(port.to.clone()),
            (None, [only]) => Some(only.to.clone()),
            // Of several it may be another one's visitor.
            (None, _) => None,
        }
    }

    /// A visitor: connects to where the port leads, and only then says yes.
    pub(crate) fn visit(
        self: &Arc<Self>,
        channel: Channel<Msg>,
        bind: &str,
        number: u32,
        reply: russh::client::ChannelOpenHandle,
        shared: &Arc<LinkShared>,
    ) {
        let scope = shared.scope().clone();
        let place = Arc::clone(&self.visitors).try_acquire_owned();
        let (port, place) = match (self.find(bind, number), place) {
            (Some(port), Ok(place)) => (port, place),
            (None, _) => {
                scope.spawn("refuse an ssh visitor", reply.reject(ChannelOpenFailure::AdministrativelyProhibited));
                return;
            }
            (_, Err(_)) => {
                tracing::warn!(port = number, "more than {VISITORS_MAX} visitors at once: one was refused");
                scope.spawn("refuse an ssh visitor", reply.reject(ChannelOpenFailure::ResourceShortage));
                return;
            }
        };
        // Its bytes are counted from the first one on.
        let flow = shared.flow(channel.id());
        let (id, shared, events) = (channel.id(), Arc::clone(shared), Arc::clone(&self.events));
        scope.clone().spawn("ssh visitor", async move {
            let opened = tokio::time::timeout(port.connect_timeout, port.connect.connect()).await;
            let Ok(Ok(target)) = opened else {
                if opened.is_err() {
                    tracing::warn!(port = port.name, after = ?port.connect_timeout, "the target did not answer");
                }
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
                shared.forget(id);
                return;
            };
            reply.accept().await;
            events(RemoteEvent::Opened { name: port.name.clone() });
            let stream = SshStream::new(channel, flow, shared);
            let carried = scope.until_cancelled(carry(stream, target, place)).await;
            let (received, sent) = carried.unwrap_or_default();
            events(RemoteEvent::Closed { name: port.name, received, sent });
        });
    }
}

/// Carries a visitor's bytes both ways; how many came, and how many went.
async fn carry(visitor: SshStream, target: Io, _place: OwnedSemaphorePermit) -> (u64, u64) {
    match target {
        Io::Tcp(target) => {
            let end = splice(target, Io::buffered(visitor)).await;
            (end.outward, end.inward)
        }
        mut target => {
            let mut visitor = Counted { inner: visitor, received: 0, sent: 0 };
            // How it ended is nobody's business here: both sides have seen it.
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut visitor, &mut target, BUFFER, BUFFER).await;
            (visitor.received, visitor.sent)
        }
    }
}

/// Counts what is read and written, also of a stream that is cut.
struct Counted {
    inner: SshStream,
    received: u64,
    sent: u64,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.received += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
