//! One authenticated connection, and what its streams have waiting.
//!
//! russh opens a stream's receive window again when bytes arrive, not when they are read, and one queue that is full
//! holds up the whole connection. So what waits is counted here, by bytes, for each stream and for all of the process: a
//! connection on which a stream is not read takes no new streams, long before anything is held up; and a stream that holds
//! up the others for long is ended.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use runtime::Scope;
use runtime::connect::BoxFuture;
use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, ChannelReadHalf};
use tokio::sync::{Notify, watch};

use super::budget::{Account, Budget};
use super::error::SshError;
use super::host_keys::{Belief, HostKeys};
use super::remote::RemoteTable;
use super::stream::SshStream;
use super::words::printable;

/// A stream with so many bytes unread is behind: others are not put beside it.
const BEHIND: isize = 1024 * 1024;

/// A stream that comes to hold up others has so much time at least, however long nothing of it was read before.
const GRACE: Duration = Duration::from_millis(50);

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
        }
    }
}

/// What of one stream arrived and was not read.
pub(crate) struct Flow {
    /// The same in the sum of all streams.
    account: Account,
    begun: Instant,
    /// When something was read last, or there was something to read again, in milliseconds after the begin.
    read: AtomicU64,
    /// Below zero for a moment: russh hands on the bytes before they are counted, and a fast reader has them by then.
    unread: AtomicIsize,
    pieces: AtomicIsize,
    room: Notify,
    queue: Mutex<Queue>,
    /// Who waits to write: russh does not tell them that the connection has ended.
    writer: Mutex<Option<Waker>>,
    closed: AtomicBool,
    /// It held up the others for too long.
    cut: AtomicBool,
}

/// russh's queue of one stream. It is here and not in the stream, so that it can be thrown away while nobody reads.
#[derive(Default)]
struct Queue {
    read: Option<ChannelReadHalf>,
    reader: Option<Waker>,
}

impl Flow {
    fn new(account: Account) -> Self {
        Self {
            account,
            begun: Instant::now(),
            read: AtomicU64::new(0),
            unread: AtomicIsize::new(0),
            pieces: AtomicIsize::new(0),
            room: Notify::new(),
            queue: Mutex::default(),
            writer: Mutex::default(),
            closed: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        }
    }

    fn arrived(&self, bytes: usize) {
        self.account.arrived(signed(bytes));
        if self.unread.fetch_add(signed(bytes), Ordering::AcqRel) <= 0 {
            self.read.store(self.age(), Ordering::Relaxed);
        }
        self.pieces.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn taken(&self, bytes: usize) {
        self.account.taken(signed(bytes));
        self.unread.fetch_sub(signed(bytes), Ordering::AcqRel);
        self.read.store(self.age(), Ordering::Relaxed);
        self.room.notify_one();
    }

    fn age(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long there was something to read and nothing was read.
    fn idle(&self) -> Duration {
        Duration::from_millis(self.age().saturating_sub(self.read.load(Ordering::Relaxed)))
    }

    fn unread(&self) -> isize {
        self.unread.load(Ordering::Acquire)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What arrives is taken with [`Flow::poll_message`].
    pub(crate) fn hold(&self, read: ChannelReadHalf) {
        let mut queue = self.queue();
        // It may have been cut before it was handed out.
        queue.read = (!self.is_cut()).then_some(read);
    }

    /// The next message of the stream; `None` when there will be none.
    pub(crate) fn poll_message(&self, cx: &mut Context<'_>) -> Poll<Option<ChannelMsg>> {
        let mut queue = self.queue();
        let Some(read) = &mut queue.read else { return Poll::Ready(None) };
        // A message that was not taken stays in the queue when the future is dropped.
        let message = pin!(read.wait()).poll(cx);
        match &message {
            Poll::Pending => queue.reader = Some(cx.waker().clone()),
            Poll::Ready(Some(ChannelMsg::Data { .. })) => {
                self.pieces.fetch_sub(1, Ordering::AcqRel);
                self.account.took_piece();
                self.room.notify_one();
            }
            Poll::Ready(_) => {}
        }
        message
    }

    /// Nobody reads it any more; what waits is thrown away.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let (read, reader) = {
            let mut queue = self.queue();
            (queue.read.take(), queue.reader.take())
        };
        drop(read);
        self.account.close();
        self.room.notify_one();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ends it: its reader and its writer are told.
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.close();
        self.wake_writer();
    }

    /// Remembers who waits to write.
    pub(crate) fn wait_to_write(&self, waker: &Waker) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn wake_writer(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Whether it has as much as any stream may have.
    fn has_its_most(&self, limits: &Limits) -> bool {
        self.unread() >= limits.unread || self.pieces.load(Ordering::Acquire) >= limits.pieces
    }

    fn is_full(&self, limits: &Limits) -> bool {
        (self.has_its_most(limits) || self.account.is_spent()) && !self.closed.load(Ordering::Acquire)
    }

    /// Whether another piece may come. Where there is none in the sum, what is read makes room for as much: a slow reader
    /// need not read all that it has first.
    fn has_room(&self, limits: &Limits, level: isize) -> bool {
        !self.is_full(limits) || !self.has_its_most(limits) && self.unread() <= level
    }

    fn is_behind(&self) -> bool {
        self.unread() > BEHIND || self.account.is_spent()
    }

    /// Whether it is full, and nothing of it was read for so long.
    fn is_stuck(&self, limits: &Limits) -> bool {
        self.is_full(limits) && self.idle() >= limits.stuck
    }
}

/// A piece is never so long that this matters.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// What a connection's handler and its streams share.
pub(crate) struct LinkShared {
    flows: Mutex<HashMap<ChannelId, Arc<Flow>>>,
    /// Streams that are being opened.
    opening: AtomicUsize,
    /// The server may be another one than it was.
    doubted: AtomicBool,
    limits: Limits,
    budget: Arc<Budget>,
    /// Why it ended.
    ended: watch::Sender<Option<String>>,
    scope: Scope,
    /// Ports of the server that lead here, when it was made for them.
    ports: Option<Arc<RemoteTable>>,
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
            doubted: AtomicBool::new(false),
            limits,
            budget: Arc::clone(budget),
            ended: watch::Sender::new(None),
            scope: scope.clone(),
            ports,
        })
    }

    pub(crate) fn flow(&self, id: ChannelId) -> Arc<Flow> {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flows.entry(id).or_insert_with(|| Arc::new(Flow::new(self.budget.account()))))
    }

    fn known_flow(&self, id: ChannelId) -> Option<Arc<Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(crate) fn forget(&self, id: ChannelId) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
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
}

/// One authenticated connection.
pub(crate) struct Link {
    handle: Handle<Client>,
    shared: Arc<LinkShared>,
    /// Takes nothing new.
    retired: AtomicBool,
}

/// Why a stream was not opened.
pub(crate) enum OpenError {
    /// The connection is gone; another may do.
    Lost,
    /// The server does not forward there.
    Prohibited,
    /// The server got no connection there.
    Failed,
    /// The server has no room for it now.
    Busy,
}

impl Link {
    pub(crate) fn new(handle: Handle<Client>, shared: Arc<LinkShared>) -> Self {
        Self { handle, shared, retired: AtomicBool::new(false) }
    }

    /// Streams that are open.
    pub(crate) fn streams(&self) -> usize {
        self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.handle.is_closed() && !self.shared.has_ended() && !self.retired.load(Ordering::Acquire)
    }

    /// Whether one of its streams is not read as fast as it comes.
    pub(crate) fn is_behind(&self) -> bool {
        let flows = self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.values().any(|flow| flow.is_behind())
    }

    /// Takes nothing new: the machine slept, or the way there changed. Streams that run are left to finish, or to their
    /// keep-alives.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Whether the server answers in time.
    pub(crate) async fn is_alive(&self, within: Duration) -> bool {
        matches!(tokio::time::timeout(within, self.handle.send_ping()).await, Ok(Ok(())))
    }

    /// Waits for its end; why.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.shared.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "the connection is gone".to_owned())
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
        let opening: BoxFuture<'static, _> = Box::pin(async move {
            let _counted = BeingOpened::begin(&self.shared);
            let opened = self.handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0).await;
            match opened {
                Ok(channel) => {
                    let flow = self.shared.flow(channel.id());
                    Ok(SshStream::new(channel, flow, Arc::clone(&self.shared)))
                }
                Err(russh::Error::ChannelOpenFailure(reason)) => Err(match reason {
                    ChannelOpenFailure::AdministrativelyProhibited => OpenError::Prohibited,
                    ChannelOpenFailure::ResourceShortage => OpenError::Busy,
                    _ => OpenError::Failed,
                }),
                Err(_) => Err(OpenError::Lost),
            }
        });
        Opening { opening: Some(opening), scope }.finish().await
    }
}

type OpeningFuture = BoxFuture<'static, Result<SshStream, OpenError>>;

/// A stream that is being opened: the server's answer is awaited even if nobody wants it any more.
struct Opening {
    opening: Option<OpeningFuture>,
    scope: Scope,
}

impl Opening {
    async fn finish(mut self) -> Result<SshStream, OpenError> {
        let opened = match &mut self.opening {
            Some(opening) => opening.await,
            None => Err(OpenError::Lost),
        };
        self.opening = None;
        opened
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(opening) = self.opening.take() {
            let closing = Box::pin(async move { drop(opening.await) });
            close_in(&self.scope, closing);
        }
    }
}

/// Closes a stream, which takes as long as the server does. At the end that is waited for but a moment: a server that
/// answers needs no more, and whatever is left ends with its connection.
pub(crate) fn close_in(scope: &Scope, closing: BoxFuture<'static, ()>) {
    let until = scope.clone();
    scope.spawn("close an ssh stream", async move {
        let ending = async {
            until.drained().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            biased;
            () = closing => {}
            () = ending => {}
        }
    });
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

    /// Waits until the stream's reader has taken something, or others have when all together have too much; but not for
    /// ever when others wait behind it: then it is to be ended. It has brought so many bytes.
    async fn wait_for_room(&self, flow: &Flow, brought: usize) -> Room {
        let limits = &self.shared.limits;
        let level = flow.unread() - signed(brought);
        loop {
            let before = flow.unread();
            let room = async {
                loop {
                    let mut freed = pin!(flow.account.freed());
                    freed.as_mut().enable();
                    if flow.has_room(limits, level) || flow.unread() != before {
                        break;
                    }
                    tokio::select! {
                        biased;
                        () = flow.room.notified() => {}
                        () = freed => {}
                    }
                }
            };
            // One of a crowd that was not read before either has had its time.
            let patience = limits.stuck.saturating_sub(flow.idle()).max(GRACE);
            let stuck = tokio::time::timeout(patience, room).await.is_err();
            if flow.has_room(limits, level) {
                return Room::There;
            }
            if stuck && self.shared.others_wait() {
                return Room::Never;
            }
        }
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
                flow.cut();
                self.shared.forget(id);
                // Not left to the stream's owner, who may wait for its reader for ever.
                session.close(id)?;
            }
        }
        Ok(())
    }
}

/// Whether a stream's reader goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    There,
    Never,
}

/// Counts a stream while it is opened.
struct BeingOpened(Arc<LinkShared>);

impl BeingOpened {
    fn begin(shared: &Arc<LinkShared>) -> Self {
        shared.opening.fetch_add(1, Ordering::AcqRel);
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
        let open = self.flows.lock().unwrap_or_else(PoisonError::into_inner).len();
        open > 1 || self.opening.load(Ordering::Acquire) > 0
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
        self.shared.forget(id);
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], session: &mut client::Session) -> Result<(), Self::Error> {
        let Some(flow) = self.shared.known_flow(id) else { return Ok(()) };
        flow.arrived(data.len());
        if flow.is_full(&self.shared.limits) && self.wait_for_room(&flow, data.len()).await == Room::Never {
            self.end_the_stuck(id, session)?;
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                self.shared.end(&format!("the ssh server ended the connection: {}", printable(&said.message)));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                self.shared.end(&match &error {
                    russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout => {
                        "the ssh server does not answer any more".to_owned()
                    }
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
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_read_before_they_are_counted_do_not_stay_in_the_count() {
        let limits = Limits { unread: 100, ..Limits::default() };
        let flow = Flow::new(Budget::new(limits.total).account());
        for _ in 0..1000 {
            flow.taken(64);
            flow.arrived(64);
        }
        assert_eq!(flow.unread.load(Ordering::Relaxed), 0);
        assert!(!flow.is_full(&limits));
        flow.arrived(100);
        assert!(flow.is_full(&limits));
    }
}
