//! The server's side of WebSocket framing: messages as pieces, so that a tunnel need not wait for a whole one.

use std::io;

use bytes::{Buf, BytesMut};

use crate::wire::invalid;

/// Payload of one message towards the client in a tunnel, as the API server copies.
pub(super) const PIECE: usize = 32 << 10;

/// What the client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of a message, with whether they are its last.
    Message { text: bool, bytes: BytesMut, last: bool },
    /// To be answered with the same bytes.
    Ping(BytesMut),
    /// The client closes, with what it said.
    Close(BytesMut),
}

/// Frames out of a byte stream.
#[derive(Default)]
pub(super) struct Decoder {
    text: bool,
    frame: Option<Open>,
}

/// A frame whose payload has not come completely.
struct Open {
    opcode: u8,
    fin: bool,
    left: u64,
    key: [u8; 4],
}

impl Decoder {
    /// The next piece in `raw`; `None` when more bytes are needed.
    pub(super) fn next(&mut self, raw: &mut BytesMut) -> io::Result<Option<Piece>> {
        loop {
            if self.frame.is_none() && !self.begin(raw)? {
                return Ok(None);
            }
            let Some(frame) = &mut self.frame else { return Ok(None) };
            let whole = raw.len() as u64 >= frame.left;
            if !whole && (raw.is_empty() || frame.opcode >= 8) {
                return Ok(None);
            }
            let length = usize::try_from(frame.left).unwrap_or(usize::MAX).min(raw.len());
            let mut bytes = raw.split_to(length);
            unmask(&mut bytes, &mut frame.key);
            frame.left -= length as u64;
            let (opcode, last) = (frame.opcode, frame.fin && whole);
            if whole {
                self.frame = None;
            }
            match opcode {
                0..=2 => return Ok(Some(Piece::Message { text: self.text, bytes, last })),
                8 => return Ok(Some(Piece::Close(bytes))),
                9 => return Ok(Some(Piece::Ping(bytes))),
                _ => {}
            }
        }
    }

    /// Reads a frame's header; whether there was one.
    fn begin(&mut self, raw: &mut BytesMut) -> io::Result<bool> {
        let Some([first, second]) = raw.first_chunk::<2>().copied() else { return Ok(false) };
        if second & 0x80 == 0 {
            return Err(invalid("a WebSocket client must mask"));
        }
        let extended = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if raw.len() < 2 + extended + 4 {
            return Ok(false);
        }
        raw.advance(2);
        let left = match extended {
            2 => u64::from(raw.get_u16()),
            8 => raw.get_u64(),
            _ => u64::from(second & 0x7F),
        };
        let opcode = first & 0x0F;
        if opcode >= 8 && (left > 125 || first & 0x80 == 0) {
            return Err(invalid("a bad WebSocket control frame"));
        }
        if matches!(opcode, 1 | 2) {
            self.text = opcode == 1;
        }
        let mut key = [0; 4];
        raw.copy_to_slice(&mut key);
        self.frame = Some(Open { opcode, fin: first & 0x80 != 0, left, key });
        Ok(true)
    }
}

/// The header of an unmasked frame.
pub(super) fn head(out: &mut Vec<u8>, first: u8, length: usize) {
    out.push(first);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// A control frame.
pub(super) fn control(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(125)];
    head(out, 0x80 | opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Unmasks and turns the key, so that the rest of the frame goes on with it.
fn unmask(bytes: &mut [u8], key: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    let turn = rest.len() % 4;
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    key.rotate_left(turn);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{Decoder, Piece, unmask};

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut key = [1, 2, 3, 4];
        let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
        frame.extend_from_slice(&key);
        let mut payload = payload.to_vec();
        unmask(&mut payload, &mut key);
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_message_comes_whole_however_it_is_cut() {
        let bytes = [
            masked(0x02, b""),
            masked(0x00, b"hello, "),
            masked(0x89, b"ping"),
            masked(0x80, b"a world of pieces"),
            masked(0x88, &[3, 232]),
        ]
        .concat();
        for step in 1..bytes.len() {
            let (mut decoder, mut raw) = (Decoder::default(), BytesMut::new());
            let (mut message, mut pings, mut closed, mut ends) = (Vec::new(), 0, false, 0);
            for piece in bytes.chunks(step) {
                raw.extend_from_slice(piece);
                while let Some(piece) = decoder.next(&mut raw).unwrap() {
                    match piece {
                        Piece::Message { bytes, last, .. } => {
                            message.extend_from_slice(&bytes);
                            ends += usize::from(last);
                        }
                        Piece::Ping(bytes) => pings += usize::from(&bytes[..] == b"ping"),
                        Piece::Close(code) => closed = code[..] == [3, 232],
                    }
                }
            }
            assert_eq!(message, b"hello, a world of pieces");
            assert_eq!((pings, closed, ends), (1, true, 1));
        }
    }

    #[test]
    fn an_unmasked_frame_is_an_error() {
        let mut raw = BytesMut::from(&[0x82, 1, 0, 0, 0, 0, 0][..]);
        assert!(Decoder::default().next(&mut raw).is_err());
    }
}
