//! Whether a client on this machine still holds its end of a connection.
//!
//! A client that closed and one that only shut its sending half down look the same on the wire: both send FIN. The
//! kernel knows the difference: the first one's socket belongs to no file any more. On loopback the kernel that has
//! to be asked is ours.

use std::future::Future as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// `struct nlmsghdr` (linux/netlink.h).
const NL_HEADER: usize = 16;
/// `struct inet_diag_req_v2` (linux/inet_diag.h).
const REQUEST: usize = 56;
/// Where `idiag_inode` is in an answer: behind the header, four bytes, `struct inet_diag_sockid` and four words.
const INODE: usize = NL_HEADER + 4 + 48 + 16;
/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const IS_REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// How soon after a client's end it is looked at whether the client is still there, and how seldom at the end.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_LAST: Duration = Duration::from_secs(5);

/// The socket that questions go through, once there is one.
static KERNEL: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Whether the process at the other end of a loopback connection has closed its socket. `None` when that cannot be
/// known: the peer is another machine, or the kernel does not tell.
///
/// `local` and `peer` are the addresses as this side sees them.
#[must_use]
pub fn is_gone(local: SocketAddr, peer: SocketAddr) -> Option<bool> {
    if !peer.ip().to_canonical().is_loopback() {
        return None;
    }
    match ask(local, peer) {
        Ok(gone) => Some(gone),
        // There is nothing to ask with at the moment; a later look may find something.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => Some(false),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not tell about a peer's socket");
            None
        }
    }
}

/// Looks now and then whether a client that has ended its half has left altogether.
#[derive(Debug)]
pub struct PeerWatch {
    /// As this side sees them; `None` when nothing can be known.
    addresses: Option<(SocketAddr, SocketAddr)>,
    look: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl PeerWatch {
    /// A watch over the other end of this connection; it looks when it is polled, not before.
    #[must_use]
    pub fn of(client: &TcpStream) -> Self {
        let addresses = client.local_addr().and_then(|local| Ok((local, client.peer_addr()?))).ok();
        let addresses = addresses.filter(|(_, peer)| peer.ip().to_canonical().is_loopback());
        if addresses.is_some() {
            prepare();
        }
        Self { addresses, look: None, patience: LOOK_FIRST }
    }

    /// Ready when the client has closed its socket; never, when that cannot be known. To be polled only once the client
    /// has ended its half.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((local, peer)) = self.addresses else { return Poll::Pending };
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
    let mut kernel = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    if kernel.is_none() {
        // Should it fail, there is a next time.
        *kernel = open().ok();
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?)
}

fn ask(local: SocketAddr, peer: SocketAddr) -> io::Result<bool> {
    // Held over a question and its answer, which is there at once.
    let mut kept = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = match kept.take() {
        Some(kernel) => kernel,
        None => open()?,
    };
    send(&kernel, &request(peer, local), SendFlags::empty())?;
    let mut answer = [0; 512];
    let (_, length) = recv(&kernel, answer.as_mut_slice(), RecvFlags::empty())?;
    let gone = read(&answer[..length.min(512)]).ok_or(io::ErrorKind::InvalidData)?;
    // After a failure the next question begins anew: an answer might come late.
    *kept = Some(kernel);
    Ok(gone)
}

/// Asks for the one socket that has these addresses.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(NL_HEADER + REQUEST);
    bytes.extend_from_slice(&u32::try_from(NL_HEADER + REQUEST).unwrap_or_default().to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&IS_REQUEST.to_ne_bytes());
    // Sequence and port: one question, one answer.
    bytes.extend_from_slice(&[0; 8]);
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    bytes.push(u8::try_from(family.as_raw()).unwrap_or_default());
    bytes.extend_from_slice(&[TCP, 0, 0]);
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&local.port().to_be_bytes());
    bytes.extend_from_slice(&remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        match address {
            IpAddr::V4(ip) => {
                bytes.extend_from_slice(&ip.octets());
                bytes.extend_from_slice(&[0; 12]);
            }
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
    }
    // Any interface, no cookie.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[0xff; 8]);
    bytes
}

/// `None`: not an answer we know.
fn read(answer: &[u8]) -> Option<bool> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    match kind {
        // There is no such socket: it is gone for good.
        ERROR => {
            let code = i32::from_ne_bytes(*answer.get(NL_HEADER..)?.first_chunk()?);
            (code == -Errno::NOENT.raw_os_error()).then_some(true)
        }
        BY_FAMILY => Some(u32::from_ne_bytes(*answer.get(INODE..)?.first_chunk()?) == 0),
        _ => None,
    }
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
