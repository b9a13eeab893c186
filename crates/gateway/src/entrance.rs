//! A listening socket of this machine, and what is done with its connections, which a reload may change.

use std::net::SocketAddr;
use std::sync::Arc;

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
        });
        let (accepted, scope, places) = (Arc::clone(&entrance), accepting.clone(), Arc::clone(places));
        accepting.spawn("accept", async move {
            let take = |client, peer, place| accepted.take(client, peer, place);
            let end = listener.accept_in_turn(scope, places, take).await;
            if let Err(error) = end {
                tracing::error!(%error, %local, "cannot accept connections");
            }
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
                let (door, ends) = (Arc::clone(door), Ends { peer, local: self.local });
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
