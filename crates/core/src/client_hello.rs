//! What a TLS client says first: for whom it is, read to its end whatever the chunking and over records.
//!
//! A hello with a post-quantum key share is longer than one segment, and may be longer than one record, so it is read
//! piece by piece. Whoever reads keeps the bytes, as they have to be replayed to the upstream; here only the few are
//! kept that are not understood yet. Every length is compared with what surrounds it before it is believed: records,
//! message, list of extensions, extension, list of names, name (RFC 8446 §4.1.2 and §5.1, RFC 6066 §3).

use crate::diagnose::{Diagnose, Fault};
use crate::name::{Hostname, NameError};

mod message;

use message::Message;

/// The first byte of a TLS connection: a record of the handshake.
pub const FIRST_BYTE: u8 = HANDSHAKE;

/// How many bytes a client may need to say its hello, records' headers included. Post-quantum hellos have 2 KiB, those
/// with several such key shares not 20; what is longer is memory that somebody wants us to spend.
pub const READ_MAX: usize = 64 * 1024;

/// The longest record in plain text (RFC 8446 §5.1).
const RECORD_MAX: usize = 1 << 14;

/// The length of a record's header.
const HEADER_LENGTH: usize = 5;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const HEARTBEAT: u8 = 24;

/// Reads a ClientHello from bytes in any chunking.
#[derive(Debug, Default)]
pub struct ClientHelloReader {
    read: usize,
    header: Vec<u8>,
    record_left: usize,
    records: usize,
    message: Message,
    outcome: Option<Result<ClientHello, ClientHelloError>>,
}

/// How far the reading is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed. A client that never sends them is the business of the driver's deadline.
    More,
    /// The hello is there. Bytes behind it were not looked at.
    Done(ClientHello),
}

/// What of a hello decides where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host that is asked for, lower-case and without a trailing dot; without it the client named none. Where the
    /// hello has an encrypted one within it may be a public name that stands for another.
    pub server_name: Option<Hostname>,
}

/// Why bytes are no ClientHello with a usable name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientHelloError {
    /// Another protocol.
    #[error("the connection does not begin with TLS")]
    NotTls,
    /// The hello of SSL 2, which has no server name.
    #[error("the client begins with SSL 2")]
    Ssl2,
    /// TLS, but something else than a hello.
    #[error("the connection begins with {found} where a TLS client says hello")]
    NotAHello {
        /// What came instead.
        found: &'static str,
    },
    /// It claims to be, or became, longer than is read.
    #[error("the TLS client's hello is longer than {most} bytes")]
    TooLong {
        /// How many bytes are read.
        most: usize,
    },
    /// A length that lies, something there twice, something empty that must not be.
    #[error("the TLS client's hello is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A server name that is no host name.
    #[error("the TLS client asks for {name:?}, which is no host name")]
    ServerName {
        /// What it asks for, cut off where it is longer than any name.
        name: String,
        /// Why it is none.
        #[source]
        error: NameError,
    },
}

impl ClientHelloReader {
    /// A reader that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the connection. Once it is done or failed, the answer stays.
    ///
    /// # Errors
    /// When what came cannot become a hello with a usable name, with the first byte that makes it so.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Progress, ClientHelloError> {
        if self.outcome.is_none() {
            self.outcome = self.read_within_limit(bytes).transpose();
        }
        match &self.outcome {
            None => Ok(Progress::More),
            Some(Ok(hello)) => Ok(Progress::Done(hello.clone())),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    fn read_within_limit(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, ClientHelloError> {
        let (within, beyond) = bytes.split_at((READ_MAX - self.read).min(bytes.len()));
        self.read += within.len();
        match self.read_records(within)? {
            None if !beyond.is_empty() => Err(ClientHelloError::TooLong { most: READ_MAX }),
            found => Ok(found),
        }
    }

    fn read_records(&mut self, mut bytes: &[u8]) -> Result<Option<ClientHello>, ClientHelloError> {
        while let [first, rest @ ..] = bytes {
            if self.record_left == 0 {
                self.read_header(*first)?;
                bytes = rest;
                continue;
            }
            let (fragment, rest) = bytes.split_at(self.record_left.min(bytes.len()));
            self.record_left -= fragment.len();
            bytes = rest;
            if let Some(hello) = self.message.read(fragment)? {
                return Ok(Some(hello));
            }
        }
        Ok(None)
    }

    fn read_header(&mut self, byte: u8) -> Result<(), ClientHelloError> {
        self.header.push(byte);
        check_header(&self.header, self.records == 0)?;
        if let [.., high, low] = *self.header
            && self.header.len() == HEADER_LENGTH
        {
            self.record_left = record_length(high, low)?;
            self.records += 1;
            self.header.clear();
        }
        Ok(())
    }
}

impl ClientHelloError {
    /// The TLS alert that tells the client what was wrong (RFC 8446 §6), when it would understand one.
    #[must_use]
    pub const fn alert(&self) -> Option<u8> {
        match self {
            Self::NotTls => None,
            // Such a hello may offer later versions as well.
            Self::Ssl2 => Some(70),
            Self::NotAHello { .. } => Some(10),
            Self::TooLong { .. } | Self::Malformed { .. } => Some(50),
            Self::ServerName { .. } => Some(112),
        }
    }
}

impl Diagnose for ClientHelloError {
    fn fault(&self) -> Fault {
        match self {
            Self::NotTls
            | Self::Ssl2
            | Self::NotAHello { .. }
            | Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::ServerName { .. } => Fault::Downstream,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotTls => {
                Some("this port speaks HTTP and TLS; for other protocols give a forward a `listen` port".into())
            }
            Self::Ssl2 => Some("set the client to TLS 1.2 or later".into()),
            Self::ServerName { .. } => Some("use the service's host name in the URL, no address".into()),
            Self::NotAHello { .. } | Self::TooLong { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// Looks at the first bytes of a record's header, so that what is no TLS is found with the first byte that says so.
fn check_header(header: &[u8], first: bool) -> Result<(), ClientHelloError> {
    match *header {
        [HANDSHAKE] | [HANDSHAKE, 3, ..] => Ok(()),
        _ if !first => Err(ClientHelloError::Malformed { what: "something else stands between its records" }),
        [CHANGE_CIPHER_SPEC, 3, _, _, _] => Err(ClientHelloError::NotAHello { found: "a change of ciphers" }),
        [ALERT, 3, _, _, _] => Err(ClientHelloError::NotAHello { found: "an alert" }),
        [APPLICATION_DATA, 3, _, _, _] => Err(ClientHelloError::NotAHello { found: "encrypted data" }),
        [HEARTBEAT, 3, _, _, _] => Err(ClientHelloError::NotAHello { found: "a heartbeat" }),
        [CHANGE_CIPHER_SPEC..=HEARTBEAT] | [CHANGE_CIPHER_SPEC..=HEARTBEAT, 3, ..] => Ok(()),
        // Two bytes of length with the highest bit set, 1 for a hello, and the version.
        [0x80..=0xff, _, 1, 0, 2] | [0x80..=0xff, _, 1, 3, _] => Err(ClientHelloError::Ssl2),
        [0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 1] | [0x80..=0xff, _, 1, 0 | 3] => Ok(()),
        _ => Err(ClientHelloError::NotTls),
    }
}

/// RFC 8446 forbids empty records of the handshake: they cost work and bring nothing.
fn record_length(high: u8, low: u8) -> Result<usize, ClientHelloError> {
    match usize::from(u16::from_be_bytes([high, low])) {
        0 => Err(ClientHelloError::Malformed { what: "an empty record" }),
        length if length > RECORD_MAX => {
            Err(ClientHelloError::Malformed { what: "a record is longer than 16384 bytes" })
        }
        length => Ok(length),
    }
}

#[cfg(test)]
mod tests;
