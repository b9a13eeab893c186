//! Questions and answers of `sock_diag`(7), as bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::AddressFamily;

use crate::decode::State;

/// `struct nlmsghdr` (linux/netlink.h), `struct inet_diag_req_v2` and `struct inet_diag_msg` (linux/inet_diag.h).
const HEADER: usize = 16;
const REQUEST: usize = 56;
const ANSWER: usize = 72;
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const TCP: u8 = 6;
/// The attribute with `struct tcp_info`, and its bit in a question.
const INFO: u16 = 2;
/// All states but those without an owner: TIME-WAIT and CLOSE.
const STATES: u32 = 0xfff & !(1 << 6) & !(1 << 7) & !1;

/// What an answer tells of.
pub(super) enum Found {
    /// Somebody listens at this port.
    Listening(u16),
    /// A connection.
    Socket(Socket),
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) cookie: u64,
    pub(super) inode: u64,
    pub(super) user: u32,
    pub(super) state: State,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// None of one that is closed here and waits for the other side: the kernel has left no more than its addresses.
    pub(super) carried: Option<Carried>,
}

/// What a connection has carried, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) rtt: Option<Duration>,
    pub(super) min_rtt: Option<Duration>,
    pub(super) retransmits: u32,
}

/// Asks for all sockets of a family.
pub(super) fn request(family: AddressFamily) -> Vec<u8> {
    let mut bytes = vec![0; HEADER + REQUEST];
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    bytes[16] = u8::try_from(family.as_raw()).unwrap_or_default();
    bytes[17] = TCP;
    bytes[18] = 1 << (INFO - 1);
    bytes[20..24].copy_from_slice(&STATES.to_ne_bytes());
    bytes
}

/// Reads a part of the answer; whether it was the last.
pub(super) fn read(mut bytes: &[u8], each: &mut dyn FnMut(Found)) -> io::Result<bool> {
    while bytes.len() >= HEADER {
        let length = usize::try_from(word(bytes, 0)).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
        match half(bytes, 4) {
            DONE => return Ok(true),
            ERROR => {
                let number = message.get(..4).map_or(0, |_| word(message, 0).cast_signed());
                return Err(io::Error::from_raw_os_error(number.saturating_neg()));
            }
            BY_FAMILY => {
                if let Some(found) = found(message) {
                    each(found);
                }
            }
            _ => {}
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A message, if it is whole and of a kind that is known.
fn found(message: &[u8]) -> Option<Found> {
    let attributes = message.get(ANSWER..)?;
    let state = State::from_number(message[1])?;
    let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    if state == State::Listen {
        return Some(Found::Listening(port(4)));
    }
    let address = |at: usize, port: u16| {
        let ip = match message[0] {
            2 => IpAddr::V4(Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| message[at + i]))),
            10 => IpAddr::V6(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| message[at + i]))).to_canonical(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    Some(Found::Socket(Socket {
        cookie: u64::from(word(message, 44)) | u64::from(word(message, 48)) << 32,
        inode: word(message, 68).into(),
        user: word(message, 64),
        state,
        local: address(8, port(4))?,
        remote: address(24, port(6))?,
        carried: attribute(attributes, INFO).map(|info| carried(info, state)),
    }))
}

/// `struct tcp_info`; an older kernel's is shorter.
fn carried(info: &[u8], state: State) -> Carried {
    let number = |at: usize| info.get(at..at + 4).map_or(0, |_| word(info, at));
    let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
    let micros = |value: u32| (value > 0 && value < u32::MAX).then(|| Duration::from_micros(value.into()));
    // The peer's FIN has a number of its own, and the kernel counts it as a byte.
    let ended = matches!(state, State::CloseWait | State::LastAck | State::Closing);
    Carried {
        sent: long(200).saturating_sub(long(208)),
        received: long(128).saturating_sub(u64::from(ended)),
        rtt: micros(number(68)),
        min_rtt: micros(number(148)),
        retransmits: number(100),
    }
}

/// The attribute of a kind.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while bytes.len() >= 4 {
        let length = usize::from(half(bytes, 0));
        let value = bytes.get(4..length)?;
        if half(bytes, 2) == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// Four bytes that are known to be there.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Two bytes that are known to be there.
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_of_the_kernel_is_an_error_here() {
        let mut bytes = [0_u8; 36];
        bytes[0] = 36;
        bytes[4] = 2;
        bytes[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        let error = read(&bytes, &mut |_| {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1));
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_answer(mut bytes in proptest::collection::vec(any::<u8>(), 20..300)) {
            let length = u32::try_from(bytes.len()).unwrap();
            let _ = read(&bytes, &mut |_| {});
            bytes[0..4].copy_from_slice(&length.to_ne_bytes());
            bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
            bytes[16..18].copy_from_slice(&[2, 1]);
            let _ = read(&bytes, &mut |_| {});
        }
    }
}
