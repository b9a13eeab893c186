//! One authenticated connection, and what its streams have waiting.
//!
//! russh opens a stream's receive window again when bytes arrive, not when they are read, and one queue that is full
//! holds up the whole connection. So what waits is counted here, by bytes: a connection on which a stream is not read takes no
//! new streams, long before anything is held up; and a stream that holds up the others for long is ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use runtime::Scope;
use runtime::connect::BoxFuture;
use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tokio::sync::{Notify, watch};

use super::error::SshError;
use super::host_keys::HostKeys;
use super::remote::RemoteTable;
use super::stream::SshStream;

/// A stream with so many bytes unread is behind: others are not put beside it.
const BEHIND: usize = 1024 * 1024;
/// A stream has at most so many bytes unread. Then its connection waits for its reader.
const UNREAD_MAX: usize = 32 * 1024 * 1024;
/// A connection waits so long for a reader that takes nothing while other streams wait behind it.
const STUCK: Duration = Duration::from_secs(30);

/// Bytes of one stream that arrived and were not read.
#[derive(Default)]
pub(crate) struct Flow {
    unread: AtomicUsize,
    room: Notify,
    /// Who waits to write: russh does not tell them that the connection has ended.
    writer: Mutex<Option<Waker>>,
    closed: AtomicBool,
    /// It held up the others for too long.
    cut: AtomicBool,
}

impl Flow {
    pub(crate) fn taken(&self, bytes: usize) {
        self.unread.fetch_sub(bytes.min(self.unread.load(Ordering::Relaxed)), Ordering::AcqRel);
        self.room.notify_one();
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.notify_one();
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

    fn is_full(&self) -> bool {
        self.unread.load(Ordering::Acquire) >= UNREAD_MAX && !self.closed.load(Ordering::Acquire)
    }
}

/// What a connection's handler and its streams share.
pub(crate) struct LinkShared {
    flows: Mutex<HashMap<ChannelId, Arc<Flow>>>,
    /// Why it ended.
    ended: watch::Sender<Option<String>>,
    scope: Scope,
    /// Ports of the server that lead here, when it was made for them.
    ports: Option<Arc<RemoteTable>>,
}

impl LinkShared {
    pub(crate) fn new(scope: &Scope) -> Arc<Self> {
        Self::with_ports(scope, None)
    }

    /// For a connection by which visitors of the server's ports come.
    pub(crate) fn for_visitors(scope: &Scope, ports: Arc<RemoteTable>) -> Arc<Self> {
        Self::with_ports(scope, Some(ports))
    }

    fn with_ports(scope: &Scope, ports: Option<Arc<RemoteTable>>) -> Arc<Self> {
        let ended = watch::Sender::new(None);
        Arc::new(Self { flows: Mutex::default(), ended, scope: scope.clone(), ports })
    }

    pub(crate) fn flow(&self, id: ChannelId) -> Arc<Flow> {
        Arc::clone(self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default())
    }

    fn known_flow(&self, id: ChannelId) -> Option<Arc<Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(crate) fn forget(&self, id: ChannelId) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
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
        flows.values().any(|flow| flow.unread.load(Ordering::Relaxed) > BEHIND)
    }

    /// Takes nothing new: the machine slept, or the way there changed. Streams that run are left to finish, or to their
    /// keep-alives.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
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
            self.scope.spawn("close an ssh stream", async move { drop(opening.await) });
        }
    }
}

/// What russh asks.
pub(crate) struct Client {
    host_keys: Arc<HostKeys>,
    shared: Arc<LinkShared>,
    /// Why the server's key was refused, and the key.
    refused: Arc<OnceLock<(SshError, PublicKeyOrCertificate)>>,
}

impl Client {
    pub(crate) fn new(
        host_keys: Arc<HostKeys>,
        shared: Arc<LinkShared>,
        refused: Arc<OnceLock<(SshError, PublicKeyOrCertificate)>>,
    ) -> Self {
        Self { host_keys, shared, refused }
    }

    /// Waits until the stream's reader has taken something, but not for ever when others wait.
    async fn wait_for_room(&self, flow: &Flow) {
        loop {
            let before = flow.unread.load(Ordering::Acquire);
            let room = async {
                while flow.is_full() {
                    flow.room.notified().await;
                    if flow.unread.load(Ordering::Acquire) != before {
                        break;
                    }
                }
            };
            if tokio::time::timeout(STUCK, room).await.is_err() && self.shared.flows_open() > 1 {
                tracing::warn!("a stream that nobody read held up the others of its ssh connection, and was ended");
                flow.cut.store(true, Ordering::Release);
                flow.close();
            }
            if !flow.is_full() {
                return;
            }
        }
    }
}

impl LinkShared {
    fn flows_open(&self) -> usize {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        match self.host_keys.check(shown) {
            Ok(()) => Ok(true),
            Err(error) => {
                let shown = match shown {
                    PublicKeyOrCertificate::PublicKey { key, .. } => key.clone().into(),
                    PublicKeyOrCertificate::Certificate(certificate) => certificate.clone().into(),
                };
                let _ = self.refused.set((error, shown));
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

    async fn data(&mut self, id: ChannelId, data: &[u8], _: &mut client::Session) -> Result<(), Self::Error> {
        if let Some(flow) = self.shared.known_flow(id) {
            flow.unread.fetch_add(data.len(), Ordering::AcqRel);
            if flow.is_full() {
                self.wait_for_room(&flow).await;
            }
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                self.shared.end(&format!("the ssh server ended the connection: {}", said.message));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                self.shared.end(&match &error {
                    russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout => {
                        "the ssh server does not answer any more".to_owned()
                    }
                    error => format!("the ssh connection broke: {error}"),
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
