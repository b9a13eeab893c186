//! Whether a client on this machine still holds its end of a connection.
//!
//! A client that closed and one that only shut its sending half down look the same on the wire: both send FIN. The
//! kernel knows the difference: the first one's socket belongs to no file any more. On loopback the kernel that has
//! to be asked is ours.

use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

#[cfg(target_os = "linux")]
mod kernel;

/// Other systems are not asked: nothing is known there.
#[cfg(not(target_os = "linux"))]
mod kernel {
    pub(super) const fn prepare() {}

    pub(super) const fn is_gone(_: std::net::SocketAddr, _: std::net::SocketAddr) -> Option<bool> {
        None
    }
}

/// How soon after a client's end it is looked at whether the client is still there, and how seldom at the end.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_LAST: Duration = Duration::from_secs(5);

/// Whether the process at the other end of a loopback connection has closed its socket. `None` when that cannot be
/// known: the peer is another machine, or the kernel does not tell.
///
/// `local` and `peer` are the addresses as this side sees them.
#[must_use]
pub fn is_gone(local: SocketAddr, peer: SocketAddr) -> Option<bool> {
    if !peer.ip().to_canonical().is_loopback() {
        return None;
    }
    kernel::is_gone(local, peer)
}

/// Looks now and then whether a client that has ended its half has left altogether.
#[derive(Debug)]
pub struct PeerWatch {
    /// As this side sees them; `None` when nothing can be known.
    addresses: Option<(SocketAddr, SocketAddr)>,
    /// Others were let go first.
    gave_way: bool,
    look: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl PeerWatch {
    /// A watch over the other end of this connection; it looks when it is polled, not before.
    #[must_use]
    pub fn of(client: &TcpStream) -> Self {
        let addresses = client.local_addr().and_then(|local| Ok((local, client.peer_addr()?))).ok();
        addresses.map_or_else(Self::blind, |(local, peer)| Self::between(local, peer))
    }

    /// A watch over the other end of the connection between these addresses, as this side sees them.
    #[must_use]
    pub fn between(local: SocketAddr, peer: SocketAddr) -> Self {
        if !peer.ip().to_canonical().is_loopback() {
            return Self::blind();
        }
        prepare();
        Self { addresses: Some((local, peer)), ..Self::blind() }
    }

    const fn blind() -> Self {
        Self { addresses: None, gave_way: false, look: None, patience: LOOK_FIRST }
    }

    /// Whether anything can be known, as far as was found until now.
    pub(crate) const fn knows(&self) -> bool {
        self.addresses.is_some()
    }

    /// Ready when the client has closed its socket; never, when that cannot be known. To be polled only once the client
    /// has ended its half.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((local, peer)) = self.addresses else { return Poll::Pending };
        if !std::mem::replace(&mut self.gave_way, true) {
            // To ask the kernel takes a while, and whoever leaves has often just come again: that is seen to first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let look = match &mut self.look {
                Some(look) => look,
                None => {
                    match is_gone(local, peer) {
                        Some(true) => return Poll::Ready(()),
                        Some(false) => {}
                        None => {
                            self.addresses = None;
                            return Poll::Pending;
                        }
                    }
                    self.look.insert(Box::pin(sleep(self.patience)))
                }
            };
            ready!(look.as_mut().poll(cx));
            if is_gone(local, peer) == Some(true) {
                return Poll::Ready(());
            }
            self.patience = (self.patience * 2).min(LOOK_LAST);
            look.as_mut().reset(Instant::now() + self.patience);
        }
    }
}

/// Makes sure that [`is_gone`] has what it asks with. Without descriptors it could not be had, and connections that
/// are over would hold on to theirs.
pub fn prepare() {
    kernel::prepare();
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::{SocketAddr, is_gone};

    fn pair(address: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(address).ok()?;
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, _) = listener.accept().unwrap();
        Some((client, served))
    }

    #[test]
    fn a_half_closed_client_is_there_and_a_closed_one_is_gone() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some((client, served)) = pair(address) else { continue };
            let (local, peer) = (served.local_addr().unwrap(), served.peer_addr().unwrap());
            if cfg!(not(target_os = "linux")) {
                assert_eq!(is_gone(local, peer), None, "nobody is asked");
                continue;
            }
            assert_eq!(is_gone(local, peer), Some(false), "open");
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(is_gone(local, peer), Some(false), "half-closed");
            drop(client);
            assert_eq!(is_gone(local, peer), Some(true), "closed");
        }
    }

    #[test]
    fn of_other_machines_nothing_is_known() {
        let far = SocketAddr::from(([192, 0, 2, 1], 1));
        assert_eq!(is_gone(far, far), None);
    }
}
