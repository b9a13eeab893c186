//! HTTP/1.1 framing as both ends of the kit need it: heads, bodies and trailers over any byte stream.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head or chunk line the kit reads; its own peers never come near.
const LINE_CAP: usize = 256 * 1024;
/// Room asked for before each read.
const READ_ROOM: usize = 8 * 1024;
/// Room asked for while a body runs.
const BODY_ROOM: usize = 64 * 1024;

/// How the body of the message being read is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body, or its end was reached.
    Ended,
    /// This many bytes are to come.
    Length(u64),
    /// Chunked; this many bytes of the current chunk are to come, `None` before a size line.
    Chunked(Option<u64>),
    /// Everything until the peer ends.
    ToEnd,
}

/// A byte stream with what was read from it and not yet used.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    pub(crate) io: S,
    pub(crate) buffer: BytesMut,
    pub(crate) trailers: Vec<(String, String)>,
}

impl<S: AsyncRead + Unpin> Wire<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { io, buffer: BytesMut::new(), trailers: Vec::new() }
    }

    /// Reads once; 0 is the peer's end.
    pub(crate) async fn fill(&mut self, room: usize) -> io::Result<usize> {
        if self.buffer.capacity() - self.buffer.len() < room / 4 {
            self.buffer.reserve(room);
        }
        self.io.read_buf(&mut self.buffer).await
    }

    /// The next head up to and including its empty line; `None` when the peer ended before it began.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Bytes>> {
        let mut seen = 0;
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n", seen) {
                return Ok(Some(self.buffer.split_to(end + 4).freeze()));
            }
            seen = self.searched(3)?;
            self.more(READ_ROOM).await.or_else(|error| ended_cleanly(error, self.buffer.is_empty()))?;
            if seen == 0 && self.buffer.is_empty() {
                return Ok(None);
            }
        }
    }

    /// The next piece of the body; `None` when it has ended, with trailers stored.
    pub(crate) async fn piece(&mut self, framing: &mut Framing) -> io::Result<Option<Bytes>> {
        loop {
            match *framing {
                Framing::Ended | Framing::Length(0) => {
                    *framing = Framing::Ended;
                    return Ok(None);
                }
                Framing::Length(left) => {
                    let piece = self.up_to(left).await?;
                    *framing = Framing::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::Chunked(None) => *framing = self.chunk_size().await?,
                Framing::Chunked(Some(left)) => {
                    return self.chunk_piece(left, framing).await.map(Some);
                }
                Framing::ToEnd => {
                    if self.buffer.is_empty() && self.fill(BODY_ROOM).await? == 0 {
                        *framing = Framing::Ended;
                        return Ok(None);
                    }
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }

    /// Exactly `length` bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> io::Result<Bytes> {
        while self.buffer.len() < length {
            self.more(length.clamp(READ_ROOM, BODY_ROOM)).await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn chunk_piece(&mut self, left: u64, framing: &mut Framing) -> io::Result<Bytes> {
        let piece = self.up_to(left).await?;
        let left = left - piece.len() as u64;
        *framing = Framing::Chunked(Some(left));
        if left == 0 {
            let end = self.line().await?;
            if !end.is_empty() {
                return Err(invalid("a chunk is longer than its size"));
            }
            *framing = Framing::Chunked(None);
        }
        Ok(piece)
    }

    async fn chunk_size(&mut self) -> io::Result<Framing> {
        let line = self.line().await?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let text = std::str::from_utf8(digits).map_err(|_| invalid("a chunk size is not text"))?;
        let size = u64::from_str_radix(text.trim(), 16).map_err(|_| invalid("a chunk size is not a number"))?;
        if size > 0 {
            return Ok(Framing::Chunked(Some(size)));
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(Framing::Ended);
            }
            self.trailers.extend(field(&line));
        }
    }

    async fn up_to(&mut self, most: u64) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.more(BODY_ROOM).await?;
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn line(&mut self) -> io::Result<Bytes> {
        let mut seen = 0;
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n", seen) {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(2);
                return Ok(line);
            }
            seen = self.searched(1)?;
            self.more(READ_ROOM).await?;
        }
    }

    /// Where to look on for an end whose first `overlap` bytes may be there already.
    fn searched(&self, overlap: usize) -> io::Result<usize> {
        if self.buffer.len() > LINE_CAP {
            return Err(invalid("a head or line is too long"));
        }
        Ok(self.buffer.len().saturating_sub(overlap))
    }

    async fn more(&mut self, room: usize) -> io::Result<()> {
        match self.fill(room).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended in the middle of a message")),
            _ => Ok(()),
        }
    }
}

/// The header fields of a head, in order, without its first line.
pub(crate) fn fields(head: &[u8]) -> Vec<(String, String)> {
    lines(head).skip(1).filter_map(field).collect()
}

/// The lines of a head, without their ends.
pub(crate) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

/// Where `needle` starts in `haystack`, looking from `from`.
pub(crate) fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    haystack.get(from..)?.windows(needle.len()).position(|window| window == needle).map(|at| at + from)
}

/// An error that says the peer broke the format.
pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn field(line: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(line);
    let (name, value) = text.split_once(':')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

fn ended_cleanly(error: io::Error, nothing_read: bool) -> io::Result<()> {
    if error.kind() == io::ErrorKind::UnexpectedEof && nothing_read { Ok(()) } else { Err(error) }
}
