//! The strict check of HTTP/1.x request heads that runs in front of hyper (rules S8, S9 and S11).
//!
//! hyper forgives some of what must not be forgiven: two parsers that disagree on where a request ends are how one
//! visitor's bytes become another's request. [`HeadGuard`] follows the framing of a connection, passes clean heads and
//! bodies on unchanged, and stops at the first fault. The same bytes give the same result in any chunking.

use crate::diagnose::{Diagnose, Fault};

mod chunked;
mod scan;
mod verdict;

use chunked::ChunkReader;
use scan::{HeadScan, Scan};
use verdict::{Body, Verdict};
pub use verdict::{UpgradeRule, upgrade_protocol};

/// The largest head, in bytes, that limits may permit.
pub const HEAD_MAX: usize = 64 * 1024;

/// The most headers that limits may permit.
pub const HEADERS_MAX: usize = 256;

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a head may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of a head, at most [`HEAD_MAX`].
    pub head_size: usize,
    /// Headers of a head, at most [`HEADERS_MAX`].
    pub headers: usize,
    /// Which protocols a connection may be upgraded to.
    pub upgrades: UpgradeRule,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_size: HEAD_MAX, headers: 100, upgrades: UpgradeRule::Any }
    }
}

/// Follows the bytes that a visitor sends on one connection.
///
/// After an upgrade request everything is passed on unseen, as it belongs to the other protocol. So a server that
/// refuses an upgrade must close the connection after its answer.
#[derive(Debug)]
pub struct HeadGuard {
    limits: HeadLimits,
    state: State,
    /// Bytes of a head that is not complete yet.
    partial: Vec<u8>,
    scan: HeadScan,
    heads: u64,
}

#[derive(Debug)]
enum State {
    /// Nothing has come yet that tells HTTP/1 from HTTP/2.
    Start,
    Head,
    Length(u64),
    Chunked(ChunkReader),
    Upgraded,
    Version2,
    Failed(HeadFault),
}

impl HeadGuard {
    /// A guard for a new connection.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        let limits = HeadLimits {
            head_size: limits.head_size.clamp(1, HEAD_MAX),
            headers: limits.headers.clamp(1, HEADERS_MAX),
            ..limits
        };
        Self { limits, state: State::Start, partial: Vec::new(), scan: HeadScan::default(), heads: 0 }
    }

    /// Takes the next bytes and appends to `out` what may go on: heads when they are complete and clean, body bytes at once.
    ///
    /// # Errors
    /// With the first fault of the connection. Nothing of the faulty head was passed on; after an error every call
    /// gives the same error.
    pub fn accept(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), HeadFault> {
        let mut rest = input;
        while !rest.is_empty() {
            let step = match &mut self.state {
                State::Start => Ok(self.start(rest, out)),
                State::Head => self.head(rest, out),
                State::Length(_) => Ok(self.body(rest, out)),
                State::Chunked(_) => self.chunks(rest, out),
                State::Upgraded | State::Version2 => {
                    out.extend_from_slice(rest);
                    Ok(rest.len())
                }
                State::Failed(fault) => Err(*fault),
            };
            match step {
                Ok(used) => rest = &rest[used..],
                Err(fault) => {
                    self.state = State::Failed(fault);
                    self.partial = Vec::new();
                    return Err(fault);
                }
            }
        }
        match self.state {
            State::Failed(fault) => Err(fault),
            _ => Ok(()),
        }
    }

    /// Heads that were passed on.
    #[must_use]
    pub const fn heads_passed(&self) -> u64 {
        self.heads
    }

    /// Whether a head has begun and is not complete: the time for it runs.
    #[must_use]
    pub const fn mid_head(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Whether a body has begun and is not complete: its minimum rate counts.
    #[must_use]
    pub const fn mid_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    /// Whether the connection speaks HTTP/2.
    #[must_use]
    pub const fn is_h2(&self) -> bool {
        matches!(self.state, State::Version2)
    }

    /// Whether an upgrade request was passed on.
    #[must_use]
    pub const fn is_upgraded(&self) -> bool {
        matches!(self.state, State::Upgraded)
    }

    fn start(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        let expected = &PREFACE[self.partial.len()..];
        let same = expected.iter().zip(rest).take_while(|(a, b)| a == b).count();
        if same < expected.len() && same < rest.len() {
            self.state = State::Head;
            return 0;
        }
        self.partial.extend_from_slice(&rest[..same]);
        if same == expected.len() {
            out.append(&mut self.partial);
            self.partial = Vec::new();
            self.state = State::Version2;
        }
        same
    }

    fn head(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, HeadFault> {
        let before = self.partial.len();
        // Most heads come in one piece: they are looked at where they are.
        let length = if before == 0 {
            match self.scan.run(rest, self.limits.head_size)? {
                Scan::More => {
                    self.partial.extend_from_slice(rest);
                    return Ok(rest.len());
                }
                Scan::Complete(length) => length,
            }
        } else {
            let room = self.limits.head_size.saturating_sub(before).min(rest.len());
            self.partial.extend_from_slice(&rest[..room]);
            match self.scan.run(&self.partial, self.limits.head_size)? {
                Scan::More => return Ok(room),
                Scan::Complete(length) => length,
            }
        };
        let head = if before == 0 { &rest[..length] } else { &self.partial[..length] };
        let verdict = Verdict::of(head, &self.limits)?;
        out.extend_from_slice(head);
        self.heads += 1;
        self.after_head(&verdict);
        Ok(length.saturating_sub(before))
    }

    fn after_head(&mut self, verdict: &Verdict) {
        self.next_head();
        match verdict.body {
            _ if verdict.upgrade => self.state = State::Upgraded,
            Body::None | Body::Length(0) => {}
            Body::Length(length) => self.state = State::Length(length),
            Body::Chunked => self.state = State::Chunked(ChunkReader::default()),
        }
    }

    fn body(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        let State::Length(left) = self.state else {
            return 0;
        };
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        out.extend_from_slice(&rest[..used]);
        match left - used as u64 {
            0 => self.next_head(),
            left => self.state = State::Length(left),
        }
        used
    }

    fn chunks(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, HeadFault> {
        let State::Chunked(chunk) = &mut self.state else {
            return Ok(0);
        };
        let run = chunk.run(rest);
        out.extend_from_slice(&rest[..run.passed]);
        if run.fault {
            return Err(HeadFault::Chunk);
        }
        if run.done {
            self.next_head();
        }
        Ok(run.passed)
    }

    fn next_head(&mut self) {
        self.state = State::Head;
        self.scan = HeadScan::default();
        // An idle connection keeps no buffer.
        self.partial = Vec::new();
    }
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadFault {
    /// The first line is not `METHOD TARGET HTTP/1.x`.
    #[error("the request line is malformed")]
    RequestLine,
    /// Another version than 1.0 and 1.1.
    #[error("the HTTP version is not supported")]
    Version,
    /// The method CONNECT.
    #[error("CONNECT is not supported")]
    Connect,
    /// A line that ends without CR.
    #[error("a line of the head ends in a bare line feed")]
    BareLf,
    /// A CR that ends no line.
    #[error("the head contains a bare carriage return")]
    BareCr,
    /// A NUL byte.
    #[error("the head contains a NUL byte")]
    Nul,
    /// A header continued on the next line.
    #[error("a header is folded over two lines")]
    Folded,
    /// `Name : value`.
    #[error("there is white space before the colon of a header")]
    SpaceBeforeColon,
    /// `: value`.
    #[error("a header has no name")]
    EmptyName,
    /// Any other malformed header.
    #[error("a header is malformed")]
    Header,
    /// More bytes than a head may have.
    #[error("the head is too large")]
    TooLarge,
    /// More headers than a head may have.
    #[error("the head has too many headers")]
    TooManyHeaders,
    /// No Host header.
    #[error("the host header is missing")]
    HostMissing,
    /// Several Host headers.
    #[error("there is more than one host header")]
    HostRepeated,
    /// Several Content-Length headers, even equal ones.
    #[error("there is more than one content-length header")]
    LengthRepeated,
    /// A Content-Length that is no number.
    #[error("the content-length is not a number")]
    Length,
    /// Content-Length beside Transfer-Encoding.
    #[error("there are content-length and transfer-encoding")]
    LengthAndEncoding,
    /// Several codings, or several headers of them.
    #[error("the transfer-encoding is not exactly `chunked`")]
    Encoding,
    /// A coding other than `chunked`.
    #[error("the transfer-encoding is not supported")]
    UnknownEncoding,
    /// Transfer-Encoding in HTTP/1.0.
    #[error("HTTP/1.0 has no transfer-encoding")]
    EncodingInVersion10,
    /// An upgrade request with a body.
    #[error("an upgrade request has a body")]
    UpgradeWithBody,
    /// An upgrade to several protocols, or to one that is not permitted.
    #[error("the upgrade is not supported")]
    Upgrade,
    /// A chunked body that is malformed; its head was passed on.
    #[error("the chunked body is malformed")]
    Chunk,
}

impl HeadFault {
    /// The status of the answer; the connection is closed after it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyHeaders => 431,
            Self::Connect | Self::UnknownEncoding => 501,
            Self::Version => 505,
            Self::RequestLine
            | Self::BareLf
            | Self::BareCr
            | Self::Nul
            | Self::Folded
            | Self::SpaceBeforeColon
            | Self::EmptyName
            | Self::Header
            | Self::HostMissing
            | Self::HostRepeated
            | Self::LengthRepeated
            | Self::Length
            | Self::LengthAndEncoding
            | Self::Encoding
            | Self::EncodingInVersion10
            | Self::UpgradeWithBody
            | Self::Upgrade
            | Self::Chunk => 400,
        }
    }

    /// Whether the head was passed on and its body is at fault: the request is under way already.
    #[must_use]
    pub const fn in_body(self) -> bool {
        matches!(self, Self::Chunk)
    }
}

impl Diagnose for HeadFault {
    fn fault(&self) -> Fault {
        Fault::Downstream
    }
}

#[cfg(test)]
mod tests;
