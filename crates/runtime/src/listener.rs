//! Listening sockets: bound before anything is served, and accepted from without ever waiting for a peer.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use adit_core::diagnose::{Diagnose, Fault};
use adit_core::free_port;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::scope::Scope;
use crate::socket;

mod clients;
mod holder;
mod spell;

pub use clients::{LocalClient, local_clients};
pub use holder::Holder;
pub(crate) use spell::Spell;

/// Connections the kernel keeps for us until we accept them; it lowers this to its own limit.
const BACKLOG: i32 = 4096;
/// The pause after running out of descriptors: long enough not to spin, short enough not to be noticed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Clients that wait longer than this for others to leave are worth a warning.
const CROWDED: Duration = Duration::from_secs(1);
/// At most one warning in this time about what one listener runs out of.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// A socket that is bound and listening, but not yet served.
#[derive(Debug)]
pub struct BoundListener {
    listener: StdListener,
    local: SocketAddr,
}

impl BoundListener {
    /// Binds and listens. `[::]` takes IPv4 as well. Needs no tokio runtime.
    ///
    /// # Errors
    /// [`BindError`], with the process that holds the port as far as it can be found out.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Self::bind_socket(address).map_err(|source| BindError::explain(address, source))
    }

    /// [`BoundListener::bind`], for surfaces that only this machine may reach (S13, S18).
    ///
    /// # Errors
    /// [`BindError::NotLoopback`] for any other address.
    pub fn bind_loopback(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(BindError::NotLoopback { address });
        }
        Self::bind(address)
    }

    fn bind_socket(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket::tune(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = StdListener::from(socket);
        let local = listener.local_addr()?;
        Ok(Self { listener, local })
    }

    /// A socket that listens already, of another process.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_std(listener: StdListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local })
    }

    /// Another descriptor of the same socket: it listens as long as one of them is open.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// The address with the actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The tokio listener, for the rare caller that accepts by itself.
    ///
    /// # Errors
    /// When called outside a tokio runtime with I/O, or out of descriptors.
    pub fn into_tokio(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.listener)
    }

    /// Accepts until the scope drains, then closes the listener. `on_connection` must not block: it
    /// starts a task or drops the connection.
    ///
    /// # Errors
    /// Only when the socket cannot be handed to tokio at the start. Running out of descriptors later
    /// pauses and goes on (S1).
    pub async fn accept_loop<F>(self, scope: Scope, on_connection: F) -> io::Result<()>
    where
        F: Fn(TcpStream, SocketAddr) + Send,
    {
        // As many places as anybody could want.
        let places = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        self.accept_in_turn(scope, places, move |stream, peer, _| on_connection(stream, peer)).await
    }

    /// The same, of as many connections at a time as there are places: the others wait in the kernel. A place is free
    /// again when what `on_connection` was given is dropped. It is taken when there is somebody to accept, and one of
    /// them is this listener's own, which others cannot take.
    ///
    /// # Errors
    /// As [`BoundListener::accept_loop`].
    pub async fn accept_in_turn<F>(self, scope: Scope, places: Arc<Semaphore>, on_connection: F) -> io::Result<()>
    where
        F: Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) + Send,
    {
        let local = self.local;
        #[expect(deprecated, reason = "its successor is unsafe, and a listener of std has one descriptor all its life")]
        let listener = AsyncFd::with_interest(self.listener, Interest::READABLE)?;
        let accepting = async move {
            let own = Arc::new(Semaphore::new(1));
            let (mut exhausted, mut crowded) = (Spell::default(), Warning::default());
            loop {
                // A crowd of clients is not to keep this thread from its other tasks.
                tokio::task::coop::consume_budget().await;
                // Fails only while the runtime is shut down.
                let Ok(mut ready) = listener.readable().await else { return };
                let Ok(place) =
                    Arc::clone(&places).try_acquire_owned().or_else(|_| Arc::clone(&own).try_acquire_owned())
                else {
                    if is_waited_for(&listener) {
                        crowded.wait_for_place(local, &places, &own).await;
                    } else {
                        ready.clear_ready();
                    }
                    continue;
                };
                match ready.try_io(|listener| accept(listener.get_ref())) {
                    Err(_) => {}
                    Ok(Ok((stream, peer))) => {
                        exhausted.over(|failed| {
                            tracing::warn!(%local, failed, "connections are accepted again");
                        });
                        on_connection(stream, peer, place);
                    }
                    Ok(Err(error)) if is_peers_doing(&error) => {}
                    Ok(Err(error)) => {
                        drop(place);
                        exhausted.failed(Instant::now(), |failed| {
                            tracing::warn!(%local, %error, failed, "cannot accept connections, trying again shortly");
                        });
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        };
        let drained = scope.drained();
        tokio::select! {
            biased;
            () = drained => {}
            () = accepting => {}
        }
        Ok(())
    }
}

/// One connection of the queue.
fn accept(listener: &StdListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok((TcpStream::from_std(stream)?, peer))
}

/// Whether somebody waits to be accepted. That there was somebody is remembered until an accept finds nobody.
fn is_waited_for(listener: &AsyncFd<StdListener>) -> bool {
    let mut look = [PollFd::new(listener.get_ref(), PollFlags::IN)];
    poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket listens there.
    #[error("port {} on {} is taken{}", address.port(), address.ip(), By(holder.as_ref()))]
    Taken {
        /// The wanted address.
        address: SocketAddr,
        /// Who has it, when that could be found out.
        holder: Option<Holder>,
        /// A port close by that was free a moment ago.
        free: Option<u16>,
    },
    /// The system does not let this user have the port.
    #[error("port {} on {} may not be used by this user", address.port(), address.ip())]
    NotPermitted {
        /// The wanted address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address does not belong to this machine.
    #[error("{} is not an address of this machine", address.ip())]
    NoSuchAddress {
        /// The wanted address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The surface is for this machine only.
    #[error("{address} can be reached from other machines, and this surface has no credentials and no tls")]
    NotLoopback {
        /// The wanted address.
        address: SocketAddr,
    },
    /// Anything else, such as no descriptors left.
    #[error("cannot listen on {address}")]
    System {
        /// The wanted address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    fn explain(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                Self::Taken { address, holder: Holder::of(address), free: free_port_near(address, |_| false) }
            }
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address, source },
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress { address, source },
            _ => Self::System { address, source },
        }
    }

    /// The same, whose free port is none of those that somebody else will want.
    #[must_use]
    pub fn but_ports(self, is_wanted: impl Fn(u16) -> bool) -> Self {
        match self {
            Self::Taken { address, holder, free: Some(port) } if is_wanted(port) => {
                Self::Taken { address, holder, free: free_port_near(address, is_wanted) }
            }
            other => other,
        }
    }

    /// The address that was wanted.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Taken { address, .. }
            | Self::NotPermitted { address, .. }
            | Self::NoSuchAddress { address, .. }
            | Self::NotLoopback { address }
            | Self::System { address, .. } => *address,
        }
    }
}

impl Diagnose for BindError {
    fn fault(&self) -> Fault {
        match self {
            Self::Taken { .. } | Self::NoSuchAddress { .. } | Self::NotLoopback { .. } => Fault::Config,
            Self::NotPermitted { .. } => Fault::NotPermitted,
            Self::System { .. } => Fault::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Taken { free, .. } => free.map(|port| format!("use {port}, which is free")),
            Self::NotPermitted { address, .. } => Some(format!(
                "use a port above 1023, or let the program have low ones \
                 (setcap cap_net_bind_service=+ep, or AmbientCapabilities in its unit) for {}",
                address.port()
            )),
            Self::NoSuchAddress { .. } => Some(
                "use an address that `ip address` shows, 0.0.0.0 for all, or 127.0.0.1 for this machine only".into(),
            ),
            Self::NotLoopback { address } => Some(format!("use 127.0.0.1:{}", address.port())),
            Self::System { .. } => None,
        }
    }
}

/// A cap on connections that are open at the same time; cloning gives another handle to the same cap.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    shared: Arc<LimitState>,
}

#[derive(Debug)]
struct LimitState {
    used: AtomicUsize,
    max: usize,
}

impl ConnectionLimit {
    /// A cap of `max` connections.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let shared = LimitState { used: AtomicUsize::new(0), max };
        Self { shared: Arc::new(shared) }
    }

    /// A place for one connection, given back on drop; `None` when all are taken.
    #[must_use]
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        let max = self.shared.max;
        self.shared
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| (used < max).then_some(used + 1))
            .ok()
            .map(|_| ConnectionPermit { shared: Arc::clone(&self.shared) })
    }

    /// How many places are taken.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// How many places there are.
    #[must_use]
    pub fn max(&self) -> usize {
        self.shared.max
    }
}

/// One connection's place under a [`ConnectionLimit`].
#[derive(Debug)]
pub struct ConnectionPermit {
    shared: Arc<LimitState>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(1, Ordering::AcqRel);
    }
}

/// " by …" when the holder is known.
struct By<'a>(Option<&'a Holder>);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |holder| write!(f, " by {holder}"))
    }
}

/// One warning a second at most, with the number of those kept back.
#[derive(Default)]
struct Warning {
    last: Option<Instant>,
    kept_back: u32,
}

impl Warning {
    /// `tell` is given how many were kept back before.
    fn raise(&mut self, tell: impl FnOnce(u32)) {
        if self.last.is_some_and(|last| last.elapsed() < WARN_EVERY) {
            self.kept_back += 1;
            return;
        }
        self.last = Some(Instant::now());
        tell(std::mem::take(&mut self.kept_back));
    }

    /// Until there may be a place again, for somebody who waits to be accepted.
    async fn wait_for_place(&mut self, local: SocketAddr, places: &Semaphore, own: &Semaphore) {
        let free = async {
            tokio::select! {
                _ = places.acquire() => {}
                _ = own.acquire() => {}
            }
        };
        tokio::pin!(free);
        if tokio::time::timeout(CROWDED, &mut free).await.is_ok() {
            return;
        }
        self.raise(|repeated| {
            tracing::warn!(%local, repeated, "as many clients as there are descriptors for: the next ones have to wait");
        });
        free.await;
    }
}

/// Errors of one connection that ended before it was accepted: the next one may be fine.
fn is_peers_doing(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else {
        return false;
    };
    #[cfg(target_os = "linux")]
    if errno == Errno::NONET {
        return true;
    }
    // accept(2): network errors already pending on the new socket are passed on by accept.
    [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::INTR,
        Errno::PROTO,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::TIMEDOUT,
    ]
    .contains(&errno)
}

fn free_port_near(address: SocketAddr, is_wanted: impl Fn(u16) -> bool) -> Option<u16> {
    free_port::near(address.port())
        .filter(|port| !is_wanted(*port))
        .find(|port| BoundListener::bind_socket(SocketAddr::new(address.ip(), *port)).is_ok())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn accepted_connections_are_tuned_without_calls_of_their_own() {
        let listener = BoundListener::bind(loopback()).unwrap();
        let address = listener.local_addr();
        let scope = Scope::root();
        let (tx, mut rx) = mpsc::channel(1);
        let serving = scope.clone();
        scope.spawn("accept", async move {
            listener
                .accept_loop(serving, move |stream, peer| {
                    tx.try_send((stream, peer)).unwrap();
                })
                .await
                .unwrap();
        });
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = timeout(DEADLINE, rx.recv()).await.unwrap().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert!(socket.tcp_notsent_lowat().unwrap() < u32::MAX);
        scope.drain();
        timeout(DEADLINE, scope.idle()).await.unwrap();
    }

    #[tokio::test]
    async fn drain_closes_the_listener_and_leaves_connections_alone() {
        let listener = BoundListener::bind(loopback()).unwrap();
        let address = listener.local_addr();
        let scope = Scope::root();
        let (tx, mut rx) = mpsc::channel(1);
        let serving = scope.clone();
        scope.spawn("accept", async move {
            listener.accept_loop(serving, move |stream, _| tx.try_send(stream).unwrap()).await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        let accepted = timeout(DEADLINE, rx.recv()).await.unwrap().unwrap();
        scope.drain();
        timeout(DEADLINE, scope.idle()).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
        drop(accepted);
        assert_eq!(
            timeout(DEADLINE, client.read_u8()).await.unwrap().unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn listeners_hold_no_place_while_they_wait_and_each_has_one_of_its_own() {
        let (scope, places) = (Scope::root(), Arc::new(Semaphore::new(1)));
        let (tx, mut rx) = mpsc::channel(8);
        let addresses: Vec<_> = (0..4)
            .map(|_| {
                let listener = BoundListener::bind(loopback()).unwrap();
                let (address, tx) = (listener.local_addr(), tx.clone());
                let (serving, places) = (scope.clone(), Arc::clone(&places));
                scope.spawn("accept", async move {
                    let keep = move |stream, _, place| tx.try_send((address, stream, place)).unwrap();
                    listener.accept_in_turn(serving, places, keep).await.unwrap();
                });
                address
            })
            .collect();
        let (mut clients, mut held) = (Vec::new(), Vec::new());
        // The last of them first; then a second client of one, for which there is no place.
        for address in addresses.iter().rev() {
            clients.push(TcpStream::connect(address).await.unwrap());
            held.push(timeout(DEADLINE, rx.recv()).await.unwrap().unwrap());
            assert_eq!(held.last().unwrap().0, *address);
        }
        let first = addresses[0];
        clients.push(TcpStream::connect(first).await.unwrap());
        assert!(timeout(Duration::from_millis(50), rx.recv()).await.is_err(), "it has to wait");
        held.clear();
        assert_eq!(timeout(DEADLINE, rx.recv()).await.unwrap().unwrap().0, first);
        scope.drain();
        timeout(DEADLINE, scope.idle()).await.unwrap();
    }

    #[test]
    fn the_wildcard_of_ipv6_takes_ipv4_too() {
        let Ok(listener) = BoundListener::bind("[::]:0".parse().unwrap()) else {
            return; // a machine without IPv6
        };
        let port = listener.local_addr().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
    }

    #[test]
    fn a_free_port_that_somebody_else_will_want_is_not_named() {
        let address = SocketAddr::from(([127, 0, 0, 1], 30_000));
        let taken = || BindError::Taken { address, holder: None, free: Some(30_001) };
        match taken().but_ports(|port| port < 30_010) {
            BindError::Taken { free: Some(port), .. } => assert!(port >= 30_010, "{port}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(taken().but_ports(|port| port == 30_002), BindError::Taken { free: Some(30_001), .. }));
    }

    #[test]
    fn a_taken_port_names_its_holder_and_a_free_one_nearby() {
        let first = BoundListener::bind(loopback()).unwrap();
        let error = BoundListener::bind(first.local_addr()).unwrap_err();
        let BindError::Taken { holder, free, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(holder.as_ref().unwrap().pid, std::process::id());
        let port = free.expect("one of the ports nearby is free");
        assert!((1..=free_port::REACH).contains(&port.abs_diff(first.local_addr().port())));
        assert!(error.to_string().contains(&format!("(pid {}", std::process::id())), "{error}");
        assert_eq!(error.hint().unwrap(), format!("use {port}, which is free"));
        assert_eq!(error.fault(), Fault::Config);
    }

    #[test]
    fn a_wildcard_listener_is_found_as_the_holder_too() {
        let first = BoundListener::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let wanted = SocketAddr::from(([127, 0, 0, 1], first.local_addr().port()));
        let error = BoundListener::bind(wanted).unwrap_err();
        assert!(matches!(error, BindError::Taken { holder: Some(_), .. }), "{error:?}");
    }

    #[test]
    fn an_address_of_another_machine_is_explained() {
        let error = BoundListener::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::NoSuchAddress { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("127.0.0.1"));
    }

    #[test]
    fn a_surface_for_this_machine_refuses_a_public_address() {
        for address in ["0.0.0.0:0", "[::]:0", "10.1.2.3:0"] {
            let error = BoundListener::bind_loopback(address.parse().unwrap()).unwrap_err();
            assert!(matches!(error, BindError::NotLoopback { .. }), "{error:?}");
        }
        BoundListener::bind_loopback(loopback()).unwrap();
    }

    #[test]
    fn permits_are_counted_and_given_back() {
        let limit = ConnectionLimit::new(2);
        let first = limit.try_acquire().unwrap();
        let _second = limit.clone().try_acquire().unwrap();
        assert!(limit.try_acquire().is_none());
        assert_eq!(limit.in_use(), 2);
        drop(first);
        let _third = limit.try_acquire().unwrap();
        assert!(limit.try_acquire().is_none());
    }
}
