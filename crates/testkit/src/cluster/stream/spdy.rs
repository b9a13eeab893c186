//! SPDY/3.1 as `moby/spdystream` speaks it on the server's side, written from the wire and not from our own crate.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::wire::invalid;

mod dictionary;

/// Code of a stream that kubelet rejects or takes down.
pub(super) const CANCEL: u32 = 5;
/// Code of a stream with an impossible id.
pub(super) const PROTOCOL_ERROR: u32 = 1;
/// Bytes in front of every frame.
pub(super) const HEAD: usize = 8;
/// Largest header block after inflation; a client of Kubernetes sends some hundred bytes.
const BLOCK_CAP: usize = 1 << 20;
/// Most headers in one block.
const HEADERS_CAP: u32 = 1000;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream.
    Syn { id: u32, fin: bool, headers: Vec<(String, String)> },
    /// Bytes of a stream; a long frame comes in several pieces.
    Data { id: u32, bytes: Bytes, fin: bool },
    /// The client gave the stream up.
    Reset { id: u32 },
    /// To be sent back as it is.
    Ping { id: u32 },
    /// The client goes.
    GoAway,
}

/// Frames out of a byte stream that is cut anywhere.
pub(super) struct Decoder {
    pending: BytesMut,
    run: Option<Run>,
    inflate: Decompress,
}

/// A DATA frame that is not complete yet.
struct Run {
    id: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { pending: BytesMut::new(), run: None, inflate: Decompress::new(true) }
    }

    /// Takes what came.
    pub(super) fn feed(&mut self, bytes: BytesMut) {
        if self.pending.is_empty() {
            self.pending = bytes;
        } else {
            self.pending.extend_from_slice(&bytes);
        }
    }

    /// The buffer a raw connection reads into.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.pending
    }

    /// The next frame that matters; `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.data_piece() {
                return Ok(Some(frame));
            }
            let Some(head) = self.pending.first_chunk::<HEAD>().copied() else { return Ok(None) };
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if word >> 31 == 0 {
                self.pending.advance(HEAD);
                self.run = Some(Run { id: word, fin: head[4] & FIN != 0, left: length });
                continue;
            }
            if word >> 16 != 0x8003 {
                return Err(invalid("the peer does not speak SPDY/3"));
            }
            if self.pending.len() < HEAD + length {
                return Ok(None);
            }
            self.pending.advance(HEAD);
            let body = self.pending.split_to(length).freeze();
            if let Some(frame) = self.control(u16::from_be_bytes([head[2], head[3]]), head[4], body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn data_piece(&mut self) -> Option<Frame> {
        let run = self.run.as_mut()?;
        if run.left > 0 && self.pending.is_empty() {
            return None;
        }
        let bytes = self.pending.split_to(run.left.min(self.pending.len())).freeze();
        run.left -= bytes.len();
        let done = run.left == 0;
        let frame = Frame::Data { id: run.id, bytes, fin: run.fin && done };
        if done {
            self.run = None;
        }
        Some(frame)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> io::Result<Option<Frame>> {
        let short = || invalid("a short SPDY frame");
        match kind {
            SYN_STREAM => {
                let id = body.try_get_u32().map_err(|_| short())? & 0x7FFF_FFFF;
                body.try_get_u32().and_then(|_| body.try_get_u16()).map_err(|_| short())?;
                let headers = self.headers(&body)?;
                Ok(Some(Frame::Syn { id, fin: flags & FIN != 0, headers }))
            }
            RST_STREAM => Ok(Some(Frame::Reset { id: body.try_get_u32().map_err(|_| short())? & 0x7FFF_FFFF })),
            PING => Ok(Some(Frame::Ping { id: body.try_get_u32().map_err(|_| short())? })),
            GOAWAY => Ok(Some(Frame::GoAway)),
            // SYN_REPLY, SETTINGS, HEADERS and WINDOW_UPDATE change nothing here.
            _ => Ok(None),
        }
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Vec<(String, String)>> {
        let plain = inflate(&mut self.inflate, block)?;
        let mut rest = &plain[..];
        let count = rest.try_get_u32().map_err(|_| invalid("a short header block"))?;
        if count > HEADERS_CAP {
            return Err(invalid("too many SPDY headers"));
        }
        (0..count).map(|_| Ok((text(&mut rest)?.to_ascii_lowercase(), text(&mut rest)?))).collect()
    }
}

/// The header of a DATA frame.
pub(super) fn data_head(id: u32, length: usize, fin: bool) -> [u8; HEAD] {
    let id = id.to_be_bytes();
    let length = u32::try_from(length).unwrap_or_default().to_be_bytes();
    [id[0], id[1], id[2], id[3], u8::from(fin), length[1], length[2], length[3]]
}

/// A control frame with these words as its body.
pub(super) fn control(out: &mut Vec<u8>, kind: Control, words: &[u32]) {
    let kind = match kind {
        Control::Reset => RST_STREAM,
        Control::Ping => PING,
        Control::GoAway => GOAWAY,
    };
    head(out, kind, words.len() * 4);
    words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
}

/// A control frame without headers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
    Reset,
    Ping,
    GoAway,
}

/// The compressor of the header blocks this end sends; all of them are empty.
pub(super) struct Replies(Compress);

impl Replies {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        // It refuses a dictionary only when it has been used already.
        let _ = deflate.set_dictionary(&dictionary::bytes());
        Self(deflate)
    }

    /// A SYN_REPLY with an empty header block.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, id: u32) -> io::Result<()> {
        let mut block = Vec::with_capacity(64);
        self.0.compress_vec(&[0; 4], &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
        head(out, SYN_REPLY, 4 + block.len());
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&block);
        Ok(())
    }
}

fn head(out: &mut Vec<u8>, kind: u16, length: usize) {
    out.extend_from_slice(&[0x80, 0x03]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
}

fn text(rest: &mut &[u8]) -> io::Result<String> {
    let length = rest.try_get_u32().map_err(|_| invalid("a short header"))? as usize;
    let (text, after) = rest.split_at_checked(length).ok_or_else(|| invalid("a short header"))?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| invalid("a header is not text"))
}

fn inflate(inflate: &mut Decompress, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(1024);
    let mut rest = block;
    loop {
        let before = (inflate.total_in(), inflate.total_out());
        match inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
            Ok(_) => {}
            Err(error) if error.needs_dictionary().is_some() => {
                inflate.set_dictionary(&dictionary::bytes()).map_err(io::Error::other)?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        let used = usize::try_from(inflate.total_in() - before.0).unwrap_or(usize::MAX);
        rest = rest.get(used..).ok_or_else(|| invalid("a header block that does not inflate"))?;
        let full = plain.len() == plain.capacity();
        if rest.is_empty() && !full {
            return Ok(plain);
        }
        if plain.len() > BLOCK_CAP || (used == 0 && inflate.total_out() == before.1 && !full) {
            return Err(invalid("a header block that does not inflate"));
        }
        plain.reserve(1024);
    }
}

#[cfg(test)]
pub(super) mod tests;
