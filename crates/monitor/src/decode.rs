//! What the kernel's programs write, as values: bytes in, records out. The layout is `struct record` of
//! `bpf/record.h`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_core::printable;

/// Bytes of a record.
pub const RECORD: usize = 160;

/// Nanoseconds in a hundredth of a second, the unit of /proc.
const TICK: u64 = 10_000_000;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const INCOMING: u8 = 1;
const SEEN_LATE: u8 = 2;
const GONE: u8 = 4;
const BY_ACCEPT: u8 = 8;
const BY_CLOSE: u8 = 16;
const BY_FILE: u8 = 32;
const ABORTED: u8 = 64;
const UNSEEN: u8 = 128;

/// Of the flags of a socket: its peer has sent FIN (`SOCK_DONE` of `include/net/sock.h`).
const DONE: u8 = 2;

/// The number of "connection reset by peer" and of "broken pipe" on Linux.
const RESETS: [u16; 2] = [104, 32];

/// A connection, for as long as it lives: a socket's place is used again, but not at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The address of the socket in the kernel, or its cookie.
    pub(crate) socket: u64,
    /// When it was opened, in nanoseconds since the system started.
    pub(crate) opened: u64,
}

impl ConnectionId {
    /// The connection of a socket that was opened at this time, in nanoseconds since the system started.
    #[must_use]
    pub const fn new(socket: u64, opened: u64) -> Self {
        Self { socket, opened }
    }
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A process here asked for a connection.
    Opened,
    /// The handshake is over.
    Established,
    /// Now it is known whose it is.
    Claimed,
    /// It is over: the record has all there is to know.
    Ended,
    /// It was found alive when somebody looked.
    Live,
}

impl Step {
    /// One lower-case word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Established => "established",
            Self::Claimed => "claimed",
            Self::Ended => "ended",
            Self::Live => "live",
        }
    }
}

/// The state of a connection, as TCP names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Both ends are open.
    Established,
    /// The first packet is on its way.
    SynSent,
    /// The answer to a first packet is on its way.
    SynReceived,
    /// Closed here, not yet acknowledged.
    FinWait1,
    /// Closed here; the other end still sends.
    FinWait2,
    /// Over, waiting for stray packets.
    TimeWait,
    /// Over.
    Closed,
    /// The other end has closed; this one still sends.
    CloseWait,
    /// Closed by both, not yet acknowledged.
    LastAck,
    /// Waits for connections.
    Listen,
    /// Closed by both at the same time.
    Closing,
}

impl State {
    /// From the kernel's number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }

    /// The words of `ss`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-recv",
            Self::FinWait1 => "fin-wait-1",
            Self::FinWait2 => "fin-wait-2",
            Self::TimeWait => "time-wait",
            Self::Closed => "closed",
            Self::CloseWait => "close-wait",
            Self::LastAck => "last-ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }
}

/// A process's name as the kernel keeps it: 15 bytes at most.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Command([u8; 16]);

impl Command {
    /// From what /proc says, which need not be UTF-8.
    #[must_use]
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        let (name, mut bytes) = (name.as_ref(), [0; 16]);
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name[..length]);
        Self(bytes)
    }

    /// Whether it begins so.
    #[must_use]
    pub fn starts_with(&self, text: &[u8]) -> bool {
        self.0.starts_with(text)
    }

    /// As text; what is no UTF-8 or would upset a terminal is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        printable::part(&String::from_utf8_lossy(&self.0[..length]), self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text(), f)
    }
}

/// A process that had or has this number: numbers are used again, the start tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it began, in hundredths of a second since the system started, as /proc says it; 0 when that is not known.
    pub start: u64,
}

/// How it was found out whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnedBy {
    /// It called connect.
    Connect,
    /// It called accept.
    Accept,
    /// It closed the socket.
    Close,
    /// The socket was found among its files.
    File,
}

/// The process a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which process.
    pub process: ProcessId,
    /// Its name.
    pub command: Command,
    /// Its user; none until somebody has looked it up.
    pub user: Option<u32>,
    /// The number of its control group, 0 when there is none.
    pub cgroup: u64,
    /// How that was found out.
    pub by: OwnedBy,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Both ends closed it.
    Closed,
    /// It never came to be; the number of the error, 0 when the process gave up by itself.
    Failed(u16),
    /// The other end cut it off.
    Reset,
    /// The process here cut it off: it closed with data unread, or without lingering.
    Aborted,
    /// It broke; the number of the error.
    Broken(u16),
    /// Nobody saw its end.
    Unseen,
}

impl End {
    /// One word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed(_) => "failed",
            Self::Reset => "reset",
            Self::Aborted => "aborted",
            Self::Broken(_) => "broken",
            Self::Unseen => "unseen",
        }
    }

    /// The name of the error, where there was one.
    #[must_use]
    pub fn error(self) -> Option<&'static str> {
        match self {
            Self::Failed(number) | Self::Broken(number) => Some(error_name(number)),
            Self::Reset => Some("ECONNRESET"),
            Self::Closed | Self::Aborted | Self::Unseen => None,
        }
    }
}

/// All that is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which connection.
    pub id: ConnectionId,
    /// What has happened.
    pub step: Step,
    /// The address here.
    pub local: SocketAddr,
    /// The address there.
    pub remote: SocketAddr,
    /// Whether the other side asked for it.
    pub incoming: bool,
    /// Whether it is older than the monitor, so that its times are not known.
    pub seen_late: bool,
    /// Whether its socket was no longer there when it was looked at.
    pub gone: bool,
    /// Whose it is.
    pub owner: Option<Owner>,
    /// Its network namespace.
    pub netns: u32,
    /// Its state.
    pub state: State,
    /// When the handshake was over, since the system started.
    pub established: Option<Duration>,
    /// When and how it ended.
    pub ended: Option<(Duration, End)>,
    /// Bytes of data sent, each once.
    pub sent: u64,
    /// Bytes of data received.
    pub received: u64,
    /// The smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// The shortest round-trip time.
    pub min_rtt: Option<Duration>,
    /// Packets that were sent again.
    pub retransmits: u32,
}

impl Record {
    /// When it was opened, or seen first, since the system started.
    #[must_use]
    pub const fn opened(&self) -> Duration {
        Duration::from_nanos(self.id.opened)
    }

    /// What the handshake took, of an outgoing connection that was seen from its beginning.
    #[must_use]
    pub fn handshake(&self) -> Option<Duration> {
        if self.incoming || self.seen_late {
            return None;
        }
        self.established?.checked_sub(self.opened())
    }

    /// How long it lived, or has lived until `now`.
    #[must_use]
    pub fn duration(&self, now: Duration) -> Duration {
        self.ended.map_or(now, |(at, _)| at).saturating_sub(self.opened())
    }
}

/// What was added up for a process in the kernel, as single records found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Whose connections they were.
    pub owner: Owner,
    /// Connections that it asked for.
    pub opened: u64,
    /// Connections that others asked for.
    pub incoming: u64,
    /// Connections that never came to be.
    pub failed: u64,
    /// Connections that were there and are over.
    pub closed: u64,
    /// Bytes of data sent.
    pub sent: u64,
    /// Bytes of data received.
    pub received: u64,
    /// Packets sent again.
    pub retransmits: u64,
}

impl Folded {
    /// Whether nothing was added. The kernel adds one number after the other, so there may be bytes alone.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        let connections = self.opened + self.incoming + self.failed + self.closed;
        connections + self.sent + self.received + self.retransmits == 0
    }

    /// What is more than before.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            owner: self.owner,
            opened: self.opened.saturating_sub(before.opened),
            incoming: self.incoming.saturating_sub(before.incoming),
            failed: self.failed.saturating_sub(before.failed),
            closed: self.closed.saturating_sub(before.closed),
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
            retransmits: self.retransmits.saturating_sub(before.retransmits),
        }
    }
}

/// Bytes of a process and of what was added up for it: `struct process` and `struct sums` of `bpf/record.h`.
pub const PROCESS: usize = 16;
/// See [`PROCESS`].
pub const SUMS: usize = 96;

/// Reads what was added up for a process.
#[must_use]
pub fn folded(process: &[u8; PROCESS], sums: &[u8; SUMS]) -> Folded {
    let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| sums[at + i]));
    let pid = u32::from_ne_bytes([process[8], process[9], process[10], process[11]]);
    let start = u64::from_ne_bytes(std::array::from_fn(|i| process[i])) / TICK;
    Folded {
        owner: Owner {
            process: ProcessId { pid, start },
            command: Command(std::array::from_fn(|i| sums[80 + i])),
            user: Some(u32::from_ne_bytes([sums[76], sums[77], sums[78], sums[79]])),
            cgroup: number(64),
            by: OwnedBy::Connect,
        },
        opened: number(0),
        incoming: number(8),
        failed: number(16),
        closed: number(24),
        sent: number(32),
        received: number(40),
        retransmits: number(48),
    }
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too few or too many.
    #[error("{0} bytes are no record, which has {RECORD}")]
    Length(usize),
    /// A kind that is not known.
    #[error("a record of kind {0} is not known")]
    Kind(u8),
    /// A family that is not known.
    #[error("address family {0} is not known")]
    Family(u8),
    /// A state that is not known.
    #[error("state {0} is not known")]
    State(u8),
}

/// Reads a record.
///
/// # Errors
/// [`DecodeError`] when the bytes are none.
pub fn record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let bytes: &[u8; RECORD] = bytes.try_into().map_err(|_| DecodeError::Length(bytes.len()))?;
    let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let family = bytes[154];
    let address = |at: usize, port: u16| -> Result<SocketAddr, DecodeError> {
        let ip = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| bytes[at + i]))).to_canonical(),
            other => return Err(DecodeError::Family(other)),
        };
        Ok(SocketAddr::new(ip, port))
    };
    let state = |number: u8| State::from_number(number).ok_or(DecodeError::State(number));
    let step = match bytes[158] {
        1 => Step::Opened,
        2 => Step::Established,
        3 => Step::Claimed,
        4 => Step::Ended,
        5 => Step::Live,
        other => return Err(DecodeError::Kind(other)),
    };
    let flags = bytes[44] | bytes[45];
    let ended = long(24);
    let ended = match (step, ended) {
        (Step::Ended, at) => {
            let end = end(state(bytes[36] >> 4)?, half(42), flags);
            Some((Duration::from_nanos(at), end))
        }
        _ => None,
    };
    // The peer's FIN has a number of its own, and the kernel counts it as a byte.
    let received = long(96).saturating_sub(u64::from(bytes[156] & DONE != 0));
    let micros = |value: u32| (value > 0).then(|| Duration::from_micros(value.into()));
    let moment = |value: u64| (value > 0).then(|| Duration::from_nanos(value));
    Ok(Record {
        id: ConnectionId { socket: long(0), opened: long(8) },
        step,
        local: address(120, half(40))?,
        remote: address(136, u16::from_be_bytes([bytes[152], bytes[153]]))?,
        incoming: flags & INCOMING != 0,
        seen_late: flags & SEEN_LATE != 0,
        gone: flags & GONE != 0,
        owner: owner(word(64), long(48), word(68), long(56), flags, bytes),
        netns: word(104),
        state: state(bytes[36] & 15)?,
        established: moment(long(16)),
        ended,
        sent: long(88),
        received,
        rtt: micros(word(108) >> 3),
        min_rtt: micros(if word(112) == u32::MAX { 0 } else { word(112) }),
        retransmits: word(116),
    })
}

fn owner(pid: u32, start: u64, user: u32, cgroup: u64, flags: u8, bytes: &[u8; RECORD]) -> Option<Owner> {
    let by = match flags {
        flags if flags & BY_ACCEPT != 0 => OwnedBy::Accept,
        flags if flags & BY_CLOSE != 0 => OwnedBy::Close,
        flags if flags & BY_FILE != 0 => OwnedBy::File,
        _ => OwnedBy::Connect,
    };
    (pid > 0).then(|| Owner {
        process: ProcessId { pid, start: start / TICK },
        command: Command(std::array::from_fn(|i| bytes[72 + i])),
        user: Some(user),
        cgroup,
        by,
    })
}

/// How a connection ended, from its last state and the error at its socket.
const fn end(last: State, error: u16, flags: u8) -> End {
    if matches!(last, State::SynSent) {
        return End::Failed(error);
    }
    if flags & ABORTED != 0 {
        return End::Aborted;
    }
    if flags & UNSEEN != 0 {
        return End::Unseen;
    }
    if error == RESETS[0] || error == RESETS[1] {
        return End::Reset;
    }
    if error != 0 { End::Broken(error) } else { End::Closed }
}

/// The number of an error that is not known: `ERROR_UNKNOWN` of `bpf/record.h`.
const UNKNOWN_ERROR: u16 = u16::MAX;

/// The name of an error of Linux, of those that connections end with.
#[must_use]
pub const fn error_name(number: u16) -> &'static str {
    match number {
        0 => "abandoned",
        1 => "EPERM",
        4 => "EINTR",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        19 => "ENODEV",
        22 => "EINVAL",
        32 => "EPIPE",
        71 => "EPROTO",
        90 => "EMSGSIZE",
        92 => "ENOPROTOOPT",
        98 => "EADDRINUSE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        125 => "ECANCELED",
        UNKNOWN_ERROR => "unknown",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
