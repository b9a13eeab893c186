//! The binary header block: a count, then length-prefixed pairs, with a static table for common names.
//!
//! There is no dynamic table, so a block costs no state and cannot be turned into a memory attack
//! (compare RFC 7541 section 7.3). Layout: `count: u16`, then for each pair the name (one byte
//! 1–255 that indexes [`STATIC_NAMES`] from 1, or 0, `length: u16` and the bytes) and the value
//! (`length: u16` and the bytes).

use bytes::Bytes;

/// Names that are sent as one byte; the index on the wire is the position plus one.
/// The order is part of the protocol: append only.
pub const STATIC_NAMES: [&str; 62] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "access-control-request-headers",
    "access-control-request-method",
    "age",
    "allow",
    "alt-svc",
    "authorization",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "cookie",
    "date",
    "dnt",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "grpc-message",
    "grpc-status",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "last-modified",
    "link",
    "location",
    "origin",
    "pragma",
    "range",
    "referer",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-websocket-accept",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "server",
    "set-cookie",
    "te",
    "upgrade",
    "vary",
    "x-forwarded-for",
    "x-request-id",
];

/// Pairs a block may hold at the most.
pub const MAX_PAIRS: usize = 256;

/// Why a header block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A length points past the end of the block.
    #[error("the header block is cut short")]
    Short,
    /// Bytes are left behind the last pair.
    #[error("the header block has bytes behind its last pair")]
    Trailing,
    /// A name index beyond the table, or a name that is no lower-case token (RFC 9110 section 5.1).
    #[error("the header block has an illegal name")]
    Name,
    /// A value with CR, LF or NUL.
    #[error("the header block has an illegal value")]
    Value,
    /// More than [`MAX_PAIRS`] pairs.
    #[error("the header block has too many pairs")]
    Many,
}

/// Builds a block.
#[derive(Debug)]
pub struct BlockWriter {
    out: Vec<u8>,
    count_at: usize,
    count: u16,
}

impl BlockWriter {
    /// Starts a block behind whatever `out` holds already.
    #[must_use]
    pub fn new(mut out: Vec<u8>) -> Self {
        let count_at = out.len();
        out.extend_from_slice(&[0, 0]);
        Self { out, count_at, count: 0 }
    }

    /// Appends a pair; `name` must be lower-case. Returns false, and appends nothing, when the pair does not fit
    /// (a value over 64 KiB, too many pairs).
    pub fn pair(&mut self, name: &str, value: &[u8]) -> bool {
        let (Ok(name_len), Ok(value_len)) = (u16::try_from(name.len()), u16::try_from(value.len())) else {
            return false;
        };
        if usize::from(self.count) >= MAX_PAIRS {
            return false;
        }
        self.count += 1;
        match static_index(name) {
            Some(index) => self.out.push(index),
            None => {
                self.out.push(0);
                self.out.extend_from_slice(&name_len.to_be_bytes());
                self.out.extend_from_slice(name.as_bytes());
            }
        }
        self.out.extend_from_slice(&value_len.to_be_bytes());
        self.out.extend_from_slice(value);
        true
    }

    /// Ends the block and returns the buffer it was built in.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let count = self.count.to_be_bytes();
        self.out[self.count_at..self.count_at + 2].copy_from_slice(&count);
        self.out
    }
}

/// The one-byte index of a common name.
fn static_index(name: &str) -> Option<u8> {
    // The table is sorted but for its first three and last few names, so a match on the length and
    // first byte skips nearly all comparisons.
    let first = *name.as_bytes().first()?;
    STATIC_NAMES
        .iter()
        .position(|s| s.len() == name.len() && s.as_bytes()[0] == first && *s == name)
        .and_then(|at| u8::try_from(at + 1).ok())
}

/// A name in a block: from the table, or spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A name of [`STATIC_NAMES`].
    Static(&'static str),
    /// Any other legal lower-case name.
    Spelled(Bytes),
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Static(name) => name,
            Self::Spelled(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        }
    }
}

/// Reads a block pair by pair; values are slices of the block's own memory.
#[derive(Debug, Clone)]
pub struct BlockReader {
    rest: Bytes,
    left: u16,
    failed: bool,
}

impl BlockReader {
    /// Starts reading a block that fills `block` to its end.
    ///
    /// # Errors
    /// [`BlockError`] when not even the count is there, or it is too large.
    pub fn new(mut block: Bytes) -> Result<Self, BlockError> {
        let left = take_u16(&mut block)?;
        if usize::from(left) > MAX_PAIRS {
            return Err(BlockError::Many);
        }
        Ok(Self { rest: block, left, failed: false })
    }

    /// How many pairs are still to come.
    #[must_use]
    pub fn remaining(&self) -> usize {
        usize::from(self.left)
    }

    fn read(&mut self) -> Result<Option<(Name, Bytes)>, BlockError> {
        if self.left == 0 {
            return if self.rest.is_empty() { Ok(None) } else { Err(BlockError::Trailing) };
        }
        self.left -= 1;
        let index = take(&mut self.rest, 1)?[0];
        let name = if index == 0 {
            let length = take_u16(&mut self.rest)?;
            let name = take(&mut self.rest, usize::from(length))?;
            if name.is_empty() || !name.iter().all(|b| is_lower_token(*b)) {
                return Err(BlockError::Name);
            }
            Name::Spelled(name)
        } else {
            Name::Static(STATIC_NAMES.get(usize::from(index) - 1).ok_or(BlockError::Name)?)
        };
        let length = take_u16(&mut self.rest)?;
        let value = take(&mut self.rest, usize::from(length))?;
        if value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(BlockError::Value);
        }
        Ok(Some((name, value)))
    }
}

impl Iterator for BlockReader {
    type Item = Result<(Name, Bytes), BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.read().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

/// Where the time to the answer's head went, as the acceptor saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the Open's arrival to the request's departure, in microseconds.
    pub agent_micros: u32,
    /// From there to the local service's answer, in microseconds.
    pub local_micros: u32,
}

/// The head of an answer, or trailers: `status: u16 | agent: u32 | local: u32 | block`.
#[derive(Debug, Clone)]
pub struct AnswerHead {
    /// 100–999, or 0 for trailers.
    pub status: u16,
    /// Zero for trailers.
    pub timing: Timing,
    /// The pairs.
    pub headers: BlockReader,
}

impl AnswerHead {
    /// Starts an answer head: status and timing, then a block to be filled.
    #[must_use]
    pub fn writer(status: u16, timing: Timing) -> BlockWriter {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&status.to_be_bytes());
        out.extend_from_slice(&timing.agent_micros.to_be_bytes());
        out.extend_from_slice(&timing.local_micros.to_be_bytes());
        BlockWriter::new(out)
    }

    /// Reads an answer head.
    ///
    /// # Errors
    /// [`BlockError`] for an illegal status or a block that cannot be read.
    pub fn read(mut payload: Bytes) -> Result<Self, BlockError> {
        let status = take_u16(&mut payload)?;
        if status != 0 && !(100..=999).contains(&status) {
            return Err(BlockError::Value);
        }
        let timing = Timing { agent_micros: take_u32(&mut payload)?, local_micros: take_u32(&mut payload)? };
        Ok(Self { status, timing, headers: BlockReader::new(payload)? })
    }
}

/// Whether a byte may stand in a lower-case field name (RFC 9110 section 5.6.2 `tchar`, no upper case).
fn is_lower_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+'
        | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Takes `n` bytes off the front.
pub(crate) fn take(bytes: &mut Bytes, n: usize) -> Result<Bytes, BlockError> {
    if bytes.len() < n {
        return Err(BlockError::Short);
    }
    Ok(bytes.split_to(n))
}

/// Takes a big-endian `u16` off the front.
pub(crate) fn take_u16(bytes: &mut Bytes) -> Result<u16, BlockError> {
    let two = take(bytes, 2)?;
    Ok(u16::from_be_bytes([two[0], two[1]]))
}

/// Takes a big-endian `u32` off the front.
pub(crate) fn take_u32(bytes: &mut Bytes) -> Result<u32, BlockError> {
    let four = take(bytes, 4)?;
    Ok(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(block: Vec<u8>) -> Result<Vec<(String, Vec<u8>)>, BlockError> {
        BlockReader::new(block.into())?.map(|pair| pair.map(|(n, v)| (n.as_str().to_owned(), v.to_vec()))).collect()
    }

    #[test]
    fn static_names_take_one_byte() {
        let mut w = BlockWriter::new(Vec::new());
        assert!(w.pair("host", b"a"));
        assert_eq!(w.finish(), [0, 1, 1, 0, 1, b'a']);
    }

    #[test]
    fn every_static_name_is_a_legal_name_and_found() {
        for (at, name) in STATIC_NAMES.iter().enumerate() {
            assert!(name.bytes().all(is_lower_token), "{name}");
            assert_eq!(static_index(name).map(usize::from), Some(at + 1), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut w = BlockWriter::new(Vec::new());
        assert!(!w.pair("a", &vec![b'x'; 70_000]));
        assert_eq!(w.finish(), [0, 0]);
    }

    #[test]
    fn illegal_blocks_are_refused() {
        assert_eq!(read_all(vec![0]), Err(BlockError::Short));
        assert_eq!(read_all(vec![0, 0, 9]), Err(BlockError::Trailing));
        assert_eq!(read_all(vec![0, 1, 255, 0, 0]), Err(BlockError::Name));
        assert_eq!(read_all(vec![0, 1, 0, 0, 1, b'A', 0, 0]), Err(BlockError::Name));
        assert_eq!(read_all(vec![0, 1, 0, 0, 0, 0, 0]), Err(BlockError::Name));
        assert_eq!(read_all(vec![0, 1, 1, 0, 2, b'a', b'\n']), Err(BlockError::Value));
        assert_eq!(read_all(vec![0, 1, 1, 0, 9, b'a']), Err(BlockError::Short));
        assert_eq!(read_all(vec![0xff, 0xff]), Err(BlockError::Many));
    }

    #[test]
    fn an_answer_head_has_a_legal_status() {
        assert!(AnswerHead::read(Bytes::from_static(&[0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).is_err());
        assert_eq!(AnswerHead::read(Bytes::from_static(&[0, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).unwrap().status, 200);
        assert_eq!(AnswerHead::read(Bytes::from_static(&[0; 12])).unwrap().status, 0);
    }

    proptest! {
        #[test]
        fn a_block_survives_the_wire(pairs in prop::collection::vec(("[a-z0-9-]{1,20}", prop::collection::vec(32u8..=255, 0..40)), 0..30)) {
            let mut w = BlockWriter::new(Vec::new());
            for (n, v) in &pairs {
                prop_assert!(w.pair(n, v));
            }
            prop_assert_eq!(read_all(w.finish()).unwrap(), pairs);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(bytes.clone());
            let _ = AnswerHead::read(bytes.into()).map(|h| h.headers.count());
        }
    }
}
