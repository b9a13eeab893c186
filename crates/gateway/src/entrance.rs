//! A listening socket of this machine, and what is done with its connections, which a reload may change.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use runtime::listener::BoundListener;
use runtime::scope::Scope;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::door::{Door, Ends};
use crate::port::TcpPort;

/// What is done with connections.
#[derive(Clone, Debug)]
pub enum Handler {
    /// They speak HTTP or TLS, and the host says where they go.
    Gateway(Arc<Door>),
    /// They are carried to one target.
    Port(Arc<TcpPort>),
}

/// An open socket. It is closed by [`Entrance::close`] or the end of its scope.
#[derive(Debug)]
pub struct Entrance {
    local: SocketAddr,
    handler: ArcSwap<Handler>,
    accepting: Scope,
    carrying: Scope,
    /// The same socket, for a process that takes over; `None` when there was no descriptor left.
    shared: Mutex<Option<OwnedFd>>,
}

impl Entrance {
    /// Accepts from now on, in a child of `listening`, as many as there are `places`; connections run in `carrying` until they end by themselves or
    /// that is cancelled.
    #[must_use]
    pub fn open(
        listener: BoundListener,
        handler: Handler,
        listening: &Scope,
        carrying: &Scope,
        places: &Arc<Semaphore>,
    ) -> Arc<Self> {
        let local = listener.local_addr();
        let accepting = listening.child();
        let entrance = Arc::new(Self {
            local,
            handler: ArcSwap::from_pointee(handler),
            accepting: accepting.clone(),
            carrying: carrying.clone(),
            shared: Mutex::new(listener.share().ok()),
        });
        let (accepted, scope, places) = (Arc::clone(&entrance), accepting.clone(), Arc::clone(places));
        accepting.spawn("accept", async move {
            let take = |client, peer, place| accepted.take(client, peer, place);
            let end = listener.accept_in_turn(scope, places, take).await;
            if let Err(error) = end {
                tracing::error!(%error, %local, "cannot accept connections");
            }
            // With the last descriptor the port is closed.
            accepted.forget();
        });
        entrance
    }

    /// The address with the actual port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What is done with connections now.
    #[must_use]
    pub fn handler(&self) -> Arc<Handler> {
        self.handler.load_full()
    }

    /// Does something else with the connections that come from now on.
    pub fn set(&self, handler: Handler) {
        self.handler.store(Arc::new(handler));
    }

    /// Closes the socket. Connections stay.
    pub fn close(&self) {
        self.accepting.drain();
        self.forget();
    }

    fn forget(&self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Another descriptor of the socket.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.as_ref().ok_or_else(|| io::Error::other("the socket is closed"))?.try_clone()
    }

    /// Waits until the socket is closed.
    pub(crate) async fn closed(&self) {
        self.accepting.idle().await;
    }

    fn take(&self, client: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let scope = self.carrying.clone();
        match &**self.handler.load() {
            Handler::Gateway(door) => {
                let Some(permit) = door.admit(peer) else { return };
                // Of a socket for all addresses, the one that was dialled.
                let all = self.local.ip().is_unspecified();
                let local = all.then(|| client.local_addr().ok()).flatten().unwrap_or(self.local);
                let (door, ends) = (Arc::clone(door), Ends { peer, local });
                self.carrying.spawn("gateway connection", async move {
                    let _held = (permit, place);
                    door.connection(client, ends, scope).await;
                });
            }
            Handler::Port(port) => {
                let Some(permit) = port.admit(peer) else { return };
                let port = Arc::clone(port);
                self.carrying.spawn("a connection", async move {
                    let _held = (permit, place);
                    scope.until_cancelled(port.carry(client, peer)).await;
                });
            }
        }
    }
}
