//! The question to Linux, by `sock_diag`(7), whether a socket belongs to a file.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

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

/// The socket that questions go through, once there is one.
static KERNEL: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// See [`super::prepare`].
pub(super) fn prepare() {
    let mut kernel = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    if kernel.is_none() {
        // Should it fail, there is a next time.
        *kernel = open().ok();
    }
}

/// Whether the socket that has these addresses the other way round belongs to no file.
pub(super) fn is_gone(local: SocketAddr, peer: SocketAddr) -> Option<bool> {
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
