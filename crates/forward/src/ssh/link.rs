//! One authenticated connection, and what its streams have waiting.
//!
//! russh opens a stream's receive window again when bytes arrive, not when they are read, and one queue that is full
//! holds up the whole connection. So what waits is counted here, by bytes, for each stream and for all of the process: a
//! connection on which a stream is not read takes no new streams, long before anything is held up; and a stream that holds
//! up the others for long is ended.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use runtime::Scope;
use runtime::connect::BoxFuture;
use runtime::delivery::Ends;
use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelId, ChannelOpenFailure, Sig};
use tokio::sync::{Notify, watch};

use super::budget::Budget;
use super::error::SshError;
use super::flow::{Cut, Flow, signed};
use super::host_keys::{Belief, HostKeys};
use super::leaving::{By, Leaving};
use super::refusals::{Denial, Refusals};
use super::remote::RemoteTable;
use super::stream::SshStream;
use super::words::printable;

/// A stream that comes to hold up others has so much time at least, however long nothing of it was read before.
const GRACE: Duration = Duration::from_millis(50);

/// Soon after another was ended, the patience with one of which nothing was ever read is this part of the whole: a second
/// of half a minute.
const CROWDED: u32 = 30;

/// How long the end waits for streams to be closed: a server that lives takes it in less.
const LAST: Duration = Duration::from_millis(500);

/// How much of a stream may wait for its reader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A stream has at most so many bytes unread. Then its connection waits for its reader.
    pub(crate) unread: isize,
    /// And at most so many pieces, however small: fewer than russh's queue has places, or it would wait for ever.
    pub(crate) pieces: isize,
    /// All streams of the process have at most so many bytes unread, see [`Budget`].
    pub(crate) total: isize,
    /// A connection waits so long for a reader that takes nothing while other streams wait behind it.
    pub(crate) stuck: Duration,
    /// A connection is not made anew for a target that says nothing before it is so old.
    pub(crate) renew: Duration,
    /// How long a connection has to show that it lives, when somebody asks for that.
    pub(crate) life: Duration,
    /// One that is left has so long to show it before its streams are ended: a server may be looking up a name, and does nothing else then.
    pub(crate) dead: Duration,
    /// A connection on which so many streams were ended before the server did is replaced: russh keeps some 3 KiB of each.
    pub(crate) left: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unread: 32 * 1024 * 1024,
            pieces: 48 * 1024,
            total: 64 * 1024 * 1024,
            stuck: Duration::from_secs(30),
            renew: Duration::from_secs(60),
            life: Duration::from_secs(5),
            dead: Duration::from_secs(30),
            left: 4096,
        }
    }
}

/// What a connection's handler and its streams share.
pub(crate) struct LinkShared {
    flows: Mutex<HashMap<ChannelId, Arc<Flow>>>,
    /// Streams that are being opened.
    opening: AtomicUsize,
    /// Told when there is one more stream, or one that is to be.
    more: Notify,
    /// Since when nothing is taken from the server, as a stream has as much as it may have.
    held: Mutex<Option<Instant>>,
    crowd: Mutex<Crowd>,
    pub(super) leaving: Leaving,
    refusals: Refusals,
    /// Streams that we ended before the server did.
    pub(super) left: AtomicUsize,
    /// Told when they are too many.
    pub(super) worn: Notify,
    /// The server may be another one than it was.
    doubted: AtomicBool,
    limits: Limits,
    budget: Arc<Budget>,
    /// How often something of a stream has come.
    heard: AtomicUsize,
    /// Why it ended.
    ended: watch::Sender<Option<String>>,
    scope: Scope,
    /// Ports of the server that lead here, when it was made for them.
    ports: Option<Arc<RemoteTable>>,
    /// Of the TCP connection, when there is one of its own.
    pub(super) ends: OnceLock<Ends>,
}

impl LinkShared {
    pub(crate) fn new(scope: &Scope, limits: Limits, budget: &Arc<Budget>) -> Arc<Self> {
        Self::with_ports(scope, limits, budget, None)
    }

    /// For a connection by which visitors of the server's ports come.
    pub(crate) fn for_visitors(
        scope: &Scope,
        limits: Limits,
        budget: &Arc<Budget>,
        ports: Arc<RemoteTable>,
    ) -> Arc<Self> {
        Self::with_ports(scope, limits, budget, Some(ports))
    }

    fn with_ports(scope: &Scope, limits: Limits, budget: &Arc<Budget>, ports: Option<Arc<RemoteTable>>) -> Arc<Self> {
        Arc::new(Self {
            flows: Mutex::default(),
            opening: AtomicUsize::new(0),
            more: Notify::new(),
            held: Mutex::default(),
            crowd: Mutex::default(),
            leaving: Leaving::default(),
            refusals: Refusals::default(),
            left: AtomicUsize::new(0),
            worn: Notify::new(),
            doubted: AtomicBool::new(false),
            limits,
            budget: Arc::clone(budget),
            heard: AtomicUsize::new(0),
            ended: watch::Sender::new(None),
            scope: scope.clone(),
            ports,
            ends: OnceLock::new(),
        })
    }

    pub(crate) fn flow(&self, id: ChannelId) -> Arc<Flow> {
        let flow = {
            let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(flows.entry(id).or_insert_with(|| Arc::new(Flow::new(self.budget.account()))))
        };
        self.more.notify_waiters();
        flow
    }

    pub(super) fn known_flow(&self, id: ChannelId) -> Option<Arc<Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Whether neither the server nor we have ended it.
    pub(crate) fn is_known(&self, id: ChannelId) -> bool {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    pub(crate) fn forget(&self, id: ChannelId) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    fn end(&self, reason: &str) {
        self.ended.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason.to_owned());
            }
            first
        });
        let flows: Vec<_> = self.flows.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        flows.iter().for_each(|flow| flow.wake_writer());
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Ends all its streams here, as the server takes no word of it.
    fn give_up(&self) {
        self.end("the ssh server does not answer any more");
        let flows: Vec<_> = self.flows.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        flows.iter().for_each(|flow| flow.cut(Cut::Silent));
    }
}

/// One authenticated connection.
pub(crate) struct Link {
    handle: Handle<Client>,
    shared: Arc<LinkShared>,
    /// Takes nothing new.
    retired: AtomicBool,
    /// Told then.
    left: Notify,
    /// It shows no life, and somebody waits for the place of one of its streams.
    in_the_way: AtomicBool,
    /// Its silence began with a stream that was asked for: the server may be looking up a name, for a minute and longer.
    busy: AtomicBool,
}

/// Why a stream was not opened.
pub(crate) enum OpenError {
    /// The connection is gone; another may do.
    Lost,
    /// The server does not open it.
    Denied(Denial),
}

impl Link {
    pub(crate) fn new(handle: Handle<Client>, shared: Arc<LinkShared>) -> Self {
        Self {
            handle,
            shared,
            retired: AtomicBool::new(false),
            left: Notify::new(),
            in_the_way: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        }
    }

    /// What it shares with its streams.
    #[cfg(test)]
    pub(super) const fn shared(&self) -> &Arc<LinkShared> {
        &self.shared
    }

    /// Whether somebody waits for a stream of it.
    #[cfg(test)]
    pub(super) fn is_opening(&self) -> bool {
        self.shared.opening.load(Ordering::Acquire) > 0
    }

    /// Streams that are open.
    pub(crate) fn streams(&self) -> usize {
        self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether it is there, and has streams.
    pub(crate) fn has_live_streams(&self) -> bool {
        !self.handle.is_closed() && !self.shared.has_ended() && self.streams() > 0
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.handle.is_closed() && !self.shared.has_ended() && !self.retired.load(Ordering::Acquire)
    }

    /// Whether one of its streams is not read as fast as it comes.
    pub(crate) fn is_behind(&self) -> bool {
        self.shared.is_behind()
    }

    /// Takes nothing new: the machine slept, or the way there changed. Streams that run are left to finish, or to their
    /// keep-alives.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.left.notify_waiters();
    }

    /// Waits until it takes nothing new.
    pub(crate) async fn retired(&self) {
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            if self.retired.load(Ordering::Acquire) {
                return;
            }
            left.await;
        }
    }

    /// It shows no life, and somebody waits for the place of one of its streams.
    pub(super) fn be_in_the_way(&self) {
        self.in_the_way.store(true, Ordering::Release);
    }

    /// Its silence began with a stream that was asked for.
    pub(super) fn be_busy(&self) {
        self.busy.store(true, Ordering::Release);
    }

    pub(super) fn may_be_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    pub(super) fn is_in_the_way(&self) -> bool {
        self.in_the_way.load(Ordering::Acquire)
    }

    /// It shows no life: its streams are ended.
    pub(crate) fn give_up(&self) {
        self.retire();
        self.shared.give_up();
    }

    /// Whether it is to be replaced by another one.
    pub(crate) fn is_worn(&self) -> bool {
        self.shared.is_worn()
    }

    pub(super) fn scope(&self) -> &Scope {
        self.shared.scope()
    }

    /// Waits until it is to be replaced. For one who waits.
    pub(crate) async fn worn(&self) {
        while !self.is_worn() {
            self.shared.worn.notified().await;
        }
    }

    /// Whether the server answers in time, or says anything at all: on a slow way the question stands behind all that is sent. Of one from
    /// which nothing is taken no answer can come; that says nothing of it.
    pub(crate) async fn is_alive(&self, within: Duration) -> bool {
        let heard = || self.shared.heard.load(Ordering::Relaxed);
        let before = heard();
        let answers = async { matches!(tokio::time::timeout(within, self.handle.send_ping()).await, Ok(Ok(()))) };
        self.shared.is_held() || answers.await || self.shared.is_held() || heard() != before
    }

    /// Whether what it sends does not even reach the server's system: that is no name that is looked up there.
    pub(super) async fn is_cut_off(&self) -> bool {
        let Some(ends) = self.shared.ends.get().copied() else { return false };
        self.scope().spawn_blocking("look at a connection", move || ends.are_cut_off()).await.unwrap_or(false)
    }

    /// Waits for its end; why.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.shared.ended.subscribe();
        loop {
            let reason = ended.borrow_and_update().clone();
            if let Some(reason) = reason {
                return reason;
            }
            // The sender is in what this holds.
            let _ = ended.changed().await;
        }
    }

    /// Has the server listen; the port, or `None` when it does not.
    pub(crate) async fn open_port(&self, bind: &str, port: u16) -> Option<u16> {
        let found = self.handle.tcpip_forward(bind, u32::from(port)).await.ok()?;
        u16::try_from(found).ok()
    }

    /// Has the server listen no more.
    pub(crate) async fn close_port(&self, bind: String, port: u16) {
        // An error says that it does not listen any more.
        let _ = self.handle.cancel_tcpip_forward(bind, u32::from(port)).await;
    }

    /// Opens a stream. If nobody waits any more it is closed as soon as it is open.
    pub(crate) async fn open(self: Arc<Self>, host: String, port: u16) -> Result<SshStream, OpenError> {
        let scope = self.shared.scope.clone();
        let opening: OpeningFuture = Box::pin(async move {
            let _counted = BeingOpened::begin(&self.shared);
            let asking = self.handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0);
            let channel = self.shared.refusals.asking(asking).await?;
            let flow = self.shared.flow(channel.id());
            Ok(SshStream::new(channel, flow, Arc::clone(&self.shared)))
        });
        Opening { opening, is_over: false, scope }.finish().await
    }
}

type OpeningFuture = BoxFuture<'static, Result<SshStream, OpenError>>;

/// A stream that is being opened: the server's answer is awaited even if nobody wants it any more.
struct Opening {
    opening: OpeningFuture,
    is_over: bool,
    scope: Scope,
}

impl Opening {
    async fn finish(mut self) -> Result<SshStream, OpenError> {
        let opened = self.opening.as_mut().await;
        self.is_over = true;
        opened
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.is_over {
            let opening = std::mem::replace(&mut self.opening, Box::pin(std::future::pending()));
            close_in(&self.scope, Box::pin(async move { drop(opening.await) }));
        }
    }
}

/// Closes a stream, which takes as long as the server does. At the end that is waited for but a moment: a server that
/// answers needs no more, and whatever is left ends with its connection.
pub(crate) fn close_in(scope: &Scope, closing: BoxFuture<'static, ()>) {
    let until = scope.clone();
    scope.spawn("close an ssh stream", async move {
        tokio::select! {
            biased;
            () = closing => {}
            () = last_moment(&until) => {}
        }
    });
}

/// Returns when streams have had their time to be closed at the end. Where nobody waits for the end, as in a daemon that
/// was replaced, they have as long as at any other time.
pub(super) async fn last_moment(scope: &Scope) {
    scope.awaited().await;
    tokio::time::sleep(LAST).await;
}

/// What russh asks.
pub(crate) struct Client {
    host_keys: Arc<HostKeys>,
    shared: Arc<LinkShared>,
    /// Why the server's key was refused.
    refused: Arc<OnceLock<SshError>>,
}

impl Client {
    pub(crate) fn new(host_keys: Arc<HostKeys>, shared: Arc<LinkShared>, refused: Arc<OnceLock<SshError>>) -> Self {
        Self { host_keys, shared, refused }
    }

    /// Ends streams that nobody reads, until no other is held up: all of them now, and not each after a time of its own.
    fn end_the_stuck(&self, first: ChannelId, session: &mut client::Session) -> Result<(), russh::Error> {
        let mut flows: Vec<_> = {
            let flows = self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner);
            flows.iter().map(|(id, flow)| (*id, Arc::clone(flow))).collect()
        };
        flows.sort_by_key(|(id, _)| *id != first);
        for (id, flow) in flows {
            if id == first || flow.is_stuck(&self.shared.limits) {
                tracing::warn!("a stream that nobody read held up the others of its ssh connection, and was ended");
                self.end_stream(id, &flow, Cut::Unread, session)?;
            }
        }
        Ok(())
    }

    fn end_stream(
        &self,
        id: ChannelId,
        flow: &Flow,
        why: Cut,
        session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        flow.cut(why);
        self.shared.over(id, By::Us);
        // Not left to the stream's owner, who may wait for its reader for ever.
        session.close(id)
    }

    /// A piece has come into a stream's queue: what follows waits until there is room for it.
    async fn queued(&self, id: ChannelId, bytes: usize, session: &mut client::Session) -> Result<(), russh::Error> {
        self.shared.heard.fetch_add(1, Ordering::Relaxed);
        let Some(flow) = self.shared.known_flow(id) else { return Ok(()) };
        flow.arrived(bytes);
        // Nobody will read what it goes on to send. What was read before it was counted here may be the last.
        if bytes > 0 && flow.is_closed() && flow.unread() > 0 {
            self.shared.over(id, By::Us);
            return session.close(id);
        }
        if flow.is_full(&self.shared.limits) && self.shared.wait_for_room(&flow, bytes).await == Room::Never {
            self.end_the_stuck(id, session)?;
        }
        Ok(())
    }

    /// What is of any length and is not counted has come: RFC 4254 has it for sessions, not for forwarded streams.
    fn foreign(&self, id: ChannelId, session: &mut client::Session) -> Result<(), russh::Error> {
        let Some(flow) = self.shared.known_flow(id) else { return Ok(()) };
        tracing::warn!("an ssh server sent what no forwarded stream has, and the stream was ended");
        self.end_stream(id, &flow, Cut::Foreign, session)
    }
}

/// Whether a stream's reader goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    There,
    Never,
}

/// Streams that were ended shortly one after the other because nobody read them: the patience with the next of them wears
/// off, or a connection with many would be held up for as long with each.
#[derive(Default)]
struct Crowd {
    ended: u32,
    last: Option<Instant>,
}

impl Crowd {
    /// How long a stream may hold up others that has been idle for so long.
    fn patience(&self, now: Instant, stuck: Duration, idle: Duration, touched: bool) -> Duration {
        let recent = self.last.is_some_and(|last| now - last < stuck);
        let least = stuck / CROWDED;
        let whole = match (recent, touched) {
            (false, _) => stuck,
            (true, false) => least,
            // A slow reader is not ended as quickly as one that has never read.
            (true, true) => (stuck / 1_u32.checked_shl(self.ended).unwrap_or(u32::MAX)).max(least),
        };
        whole.saturating_sub(idle).max(GRACE)
    }

    fn one_more(&mut self, now: Instant, stuck: Duration) {
        if self.last.is_none_or(|last| now - last >= stuck.saturating_mul(2)) {
            self.ended = 0;
        }
        self.ended += 1;
        self.last = Some(now);
    }
}

/// While it is there nothing is taken from the server.
struct Held<'a>(&'a LinkShared);

impl<'a> Held<'a> {
    fn begin(shared: &'a LinkShared) -> Self {
        *shared.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.0.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Counts a stream while it is opened.
struct BeingOpened(Arc<LinkShared>);

impl BeingOpened {
    fn begin(shared: &Arc<LinkShared>) -> Self {
        shared.opening.fetch_add(1, Ordering::AcqRel);
        shared.more.notify_waiters();
        Self(Arc::clone(shared))
    }
}

impl Drop for BeingOpened {
    fn drop(&mut self) {
        self.0.opening.fetch_sub(1, Ordering::AcqRel);
    }
}

impl LinkShared {
    /// Whether one stream that is stuck holds up another, or one that is to be.
    fn others_wait(&self) -> bool {
        // One whose owner is gone waits for nothing.
        let is_open = |flow: &&Arc<Flow>| !flow.is_closed();
        let open = self.flows.lock().unwrap_or_else(PoisonError::into_inner).values().filter(is_open).take(2).count();
        open > 1 || self.opening.load(Ordering::Acquire) > 0
    }

    async fn until_others_wait(&self) {
        loop {
            let mut more = pin!(self.more.notified());
            more.as_mut().enable();
            if self.others_wait() {
                return;
            }
            more.await;
        }
    }

    fn held_for(&self) -> Option<Duration> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    fn is_held(&self) -> bool {
        self.held_for().is_some()
    }

    /// Whether a stream that is put here may wait for the reader of another one.
    fn is_behind(&self) -> bool {
        // Readers that go on hold it up for a moment now and then.
        self.held_for().is_some_and(|held| held > GRACE)
            || self.flows.lock().unwrap_or_else(PoisonError::into_inner).values().any(|flow| flow.is_behind())
    }

    /// Waits until the stream's reader has taken something, or others have when all together have too much; but not for
    /// ever when others wait behind it: then it is to be ended. It has brought so many bytes.
    async fn wait_for_room(&self, flow: &Flow, brought: usize) -> Room {
        let _held = Held::begin(self);
        let level = flow.unread() - signed(brought);
        loop {
            let before = flow.unread();
            let room = async {
                loop {
                    let mut freed = pin!(flow.freed());
                    freed.as_mut().enable();
                    if flow.has_room(&self.limits, level) || flow.unread() != before {
                        break;
                    }
                    tokio::select! {
                        biased;
                        () = flow.room().notified() => {}
                        () = freed => {}
                    }
                }
            };
            // With nobody else here there is no hurry, and no timer.
            let stuck = async {
                self.until_others_wait().await;
                tokio::time::sleep(self.patience_with(flow)).await;
            };
            let is_stuck = tokio::select! {
                biased;
                () = room => false,
                () = stuck => true,
            };
            if flow.has_room(&self.limits, level) {
                return Room::There;
            }
            if is_stuck && self.others_wait() {
                let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
                crowd.one_more(Instant::now(), self.limits.stuck);
                return Room::Never;
            }
        }
    }

    fn patience_with(&self, flow: &Flow) -> Duration {
        let crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        crowd.patience(Instant::now(), self.limits.stuck, flow.idle(), flow.is_touched())
    }
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        match self.host_keys.check(shown) {
            Ok(belief) => {
                self.shared.doubted.store(belief == Belief::Doubted, Ordering::Release);
                Ok(true)
            }
            Err(error) => {
                let _ = self.refused.set(error);
                Ok(false)
            }
        }
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.shared.flow(id);
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        id: ChannelId,
        _: ChannelOpenFailure,
        words: &str,
        _: &str,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.shared.refusals.said(id, words);
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        bind: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        // Without ports nothing was asked for, and the dropped reply refuses.
        if let Some(ports) = &self.shared.ports {
            ports.visit(channel, bind, port, reply, &self.shared);
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        self.shared.over(id, By::Server);
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], session: &mut client::Session) -> Result<(), Self::Error> {
        self.queued(id, data.len(), session).await
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        _: u32,
        _: &[u8],
        session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.foreign(id, session)
    }

    async fn exit_signal(
        &mut self,
        id: ChannelId,
        _: Sig,
        _: bool,
        _: &str,
        _: &str,
        session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.foreign(id, session)
    }

    // The rest of what russh puts into a stream's queue is short, and is counted as a piece.

    async fn exit_status(&mut self, id: ChannelId, _: u32, session: &mut client::Session) -> Result<(), Self::Error> {
        self.queued(id, 0, session).await
    }

    async fn xon_xoff(&mut self, id: ChannelId, _: bool, session: &mut client::Session) -> Result<(), Self::Error> {
        self.queued(id, 0, session).await
    }

    async fn channel_success(&mut self, id: ChannelId, session: &mut client::Session) -> Result<(), Self::Error> {
        self.queued(id, 0, session).await
    }

    async fn channel_failure(&mut self, id: ChannelId, session: &mut client::Session) -> Result<(), Self::Error> {
        self.queued(id, 0, session).await
    }

    async fn window_adjusted(
        &mut self,
        id: ChannelId,
        _: u32,
        session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.queued(id, 0, session).await
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                self.shared.end(&format!("the ssh server ended the connection: {}", printable(&said.message)));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                let is_timeout = match &error {
                    russh::Error::KeepaliveTimeout => true,
                    russh::Error::IO(error) => error.kind() == std::io::ErrorKind::TimedOut,
                    _ => false,
                };
                self.shared.end(&match &error {
                    _ if is_timeout => "the ssh server does not answer any more".to_owned(),
                    error => format!("the ssh connection broke: {}", printable(&error.to_string())),
                });
                Err(error)
            }
        }
    }
}

impl Drop for Client {
    /// Whatever ended russh's task, nobody waits for it.
    fn drop(&mut self) {
        self.shared.end("the ssh connection is gone");
    }
}

#[cfg(test)]
mod tests;
