//! The cluster's port: held from the first moment to the last, listening or not.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::gate::Gates;
use super::{Shared, connection, locked};
use crate::task::{self, Task};

/// How long the accept loop rests when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
const BACKLOG: i32 = 4096;

/// The port and who listens on it.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    /// Bound but not listening: nobody else gets the port while the cluster is stopped.
    _reserved: Socket,
    gates: Gates,
    shared: OnceLock<Weak<Shared>>,
    task: Mutex<Option<Task>>,
}

impl Listener {
    /// Takes a port.
    pub(super) fn bind(address: Option<SocketAddr>) -> io::Result<Self> {
        let wanted = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let reserved = socket(wanted)?;
        let address = reserved.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
        Ok(Self {
            address,
            _reserved: reserved,
            gates: Gates::default(),
            shared: OnceLock::new(),
            task: Mutex::new(None),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Starts to accept for this cluster.
    pub(super) fn serve(&self, shared: &Arc<Shared>) -> io::Result<()> {
        // Only the first call's value counts, and there is one cluster.
        let _ = self.shared.set(Arc::downgrade(shared));
        self.start()
    }

    /// Accepts again after [`Listener::stop`].
    pub(super) fn start(&self) -> io::Result<()> {
        let shared = self.shared.get().and_then(Weak::upgrade).ok_or_else(|| io::Error::other("not served yet"))?;
        let mut running = locked(&self.task);
        if running.is_none() {
            let socket = socket(self.address)?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            *running = Some(task::spawn(accept(listener, shared)));
        }
        Ok(())
    }

    /// Closes the listener; when this returns, a connect is refused. Connections are left as they are.
    pub(super) async fn stop(&self) {
        let running = locked(&self.task).take();
        if let Some(running) = running {
            running.end().await;
        }
    }

    /// Closes the listener some time soon.
    pub(super) fn abandon(&self) {
        drop(locked(&self.task).take());
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Best effort: a socket that is already dead refuses the option.
                let _ = stream.set_nodelay(true);
                let gated = shared.listener.gates().guard(stream);
                shared.hold(connection::serve(Arc::clone(&shared), gated));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}
