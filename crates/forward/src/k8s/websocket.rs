//! WebSocket framing (RFC 6455) of a client, as a byte stream and as messages with a channel byte.
//!
//! Payload is handed on as it comes: no message is ever gathered, as a server may put everything into one.

use bytes::Buf as _;

/// Control frames carry at most this much (RFC 6455 section 5.5).
const CONTROL_MAX: u64 = 125;
/// The longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_MAX: usize = 14;

/// The payload of a frame whose length has two bytes.
pub(crate) const FILL_MAX: usize = u16::MAX as usize;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a frame brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A part of a message; `first` at the message's start.
    Data {
        /// The message begins here.
        first: bool,
        /// Its bytes, maybe none.
        payload: &'a [u8],
    },
    /// A ping, which is to be answered with the same payload.
    Ping(&'a [u8]),
    /// The peer closes, with a status (1005: none was given).
    Close(u16),
}

/// The peer broke the framing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebSocketError {
    /// A reserved bit or an unknown kind of frame.
    #[error("a WebSocket frame of an unknown kind (first byte {0:#04x})")]
    Kind(u8),
    /// Servers do not mask.
    #[error("a masked WebSocket frame from a server")]
    Masked,
    /// A control frame that is too long or in pieces.
    #[error("a WebSocket control frame that breaks its limits")]
    Control,
    /// A continuation without a beginning, or a beginning inside a message.
    #[error("WebSocket fragments out of order")]
    Fragments,
}

/// Takes a server's frames apart, however they are cut.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    head: Vec<u8>,
    control: Vec<u8>,
    frame: Option<Frame>,
    /// Inside a message whose last fragment is still to come.
    in_message: bool,
    /// The message's first byte is still to come.
    at_start: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    left: u64,
}

impl Decoder {
    /// Decodes all of `input`.
    pub(crate) fn feed<E: From<WebSocketError>>(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let Some(frame) = &mut self.frame else {
                if input.is_empty() {
                    return Ok(());
                }
                self.head_byte(input.get_u8())?;
                continue;
            };
            let taken = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len());
            let (payload, rest) = input.split_at(taken);
            input = rest;
            frame.left -= taken as u64;
            let (kind, done) = (frame.kind, frame.left == 0);
            if kind >= CLOSE {
                self.control.extend_from_slice(payload);
                if done {
                    let control = std::mem::take(&mut self.control);
                    match kind {
                        CLOSE => {
                            sink(Piece::Close(control.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))))?;
                        }
                        PING => sink(Piece::Ping(&control))?,
                        _ => {}
                    }
                }
            } else if !payload.is_empty() {
                let first = std::mem::take(&mut self.at_start);
                sink(Piece::Data { first, payload })?;
            }
            if done {
                self.frame = None;
            } else if input.is_empty() {
                return Ok(());
            }
        }
    }

    fn head_byte(&mut self, byte: u8) -> Result<(), WebSocketError> {
        self.head.push(byte);
        let Some([first, second]) = self.head.first_chunk() else { return Ok(()) };
        let (kind, last) = (first & 0x0f, first & 0x80 != 0);
        if first & 0x70 != 0 || !matches!(kind, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(WebSocketError::Kind(*first));
        }
        if second & 0x80 != 0 {
            return Err(WebSocketError::Masked);
        }
        let length = match (second & 0x7f, &self.head[2..]) {
            (126, [a, b]) => u64::from(u16::from_be_bytes([*a, *b])),
            (127, rest) if rest.len() == 8 => rest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)),
            (126 | 127, _) => return Ok(()),
            (short, _) => u64::from(short),
        };
        if kind >= CLOSE && (length > CONTROL_MAX || !last) {
            return Err(WebSocketError::Control);
        }
        if kind < CLOSE {
            if (kind == CONTINUATION) != self.in_message {
                return Err(WebSocketError::Fragments);
            }
            self.at_start = self.at_start || kind != CONTINUATION;
            self.in_message = !last;
        }
        self.head.clear();
        self.frame = Some(Frame { kind, left: length });
        Ok(())
    }
}

/// Appends a binary frame with `payload`, masked with `mask`; `prefix` stands before the payload in the message.
pub(crate) fn encode(out: &mut Vec<u8>, prefix: &[u8], payload: &[u8], mask: [u8; 4]) {
    frame(out, BINARY, prefix, payload, mask);
}

/// Appends a binary frame with what `fill` appends, at most [`FILL_MAX`] bytes, masked where it lies; nothing if
/// that is nothing.
pub(crate) fn encode_filled(out: &mut Vec<u8>, mask: [u8; 4], fill: impl FnOnce(&mut Vec<u8>)) {
    /// Two bytes, two of length, four of mask.
    const HEAD: usize = 8;
    let from = out.len();
    out.extend_from_slice(&[0; HEAD]);
    fill(out);
    let length = out.len() - from - HEAD;
    debug_assert!(length <= FILL_MAX, "the length has to fit into its field");
    if length == 0 {
        return out.truncate(from);
    }
    out[from] = 0x80 | BINARY;
    let head = match u8::try_from(length) {
        Ok(short @ 0..=125) => {
            // A short length has no field of its own: the payload moves up by its two bytes.
            out.copy_within(from + HEAD.., from + HEAD - 2);
            out.truncate(out.len() - 2);
            out[from + 1] = 0x80 | short;
            HEAD - 2
        }
        _ => {
            out[from + 1] = 0x80 | 126;
            out[from + 2..from + 4].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
            HEAD
        }
    };
    out[from + head - 4..from + head].copy_from_slice(&mask);
    apply_mask(&mut out[from + head..], mask);
}

/// Appends the answer to a ping.
pub(crate) fn encode_pong(out: &mut Vec<u8>, payload: &[u8], mask: [u8; 4]) {
    frame(out, PONG, &[], payload, mask);
}

/// Appends a ping.
pub(crate) fn encode_ping(out: &mut Vec<u8>, mask: [u8; 4]) {
    frame(out, PING, &[], &[], mask);
}

/// Appends a close with status 1000.
pub(crate) fn encode_close(out: &mut Vec<u8>, mask: [u8; 4]) {
    frame(out, CLOSE, &[], &1000u16.to_be_bytes(), mask);
}

fn frame(out: &mut Vec<u8>, kind: u8, prefix: &[u8], payload: &[u8], mask: [u8; 4]) {
    let length = prefix.len() + payload.len();
    out.reserve(HEAD_MAX + length);
    out.push(0x80 | kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(0x80 | short),
        (_, Ok(middle)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let from = out.len();
    out.extend_from_slice(prefix);
    out.extend_from_slice(payload);
    apply_mask(&mut out[from..], mask);
}

/// Eight bytes at once; the compiler makes more of it.
fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        if let Some(chunk) = word.first_chunk_mut::<8>() {
            *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(decoder: &mut Decoder, input: &[u8]) -> Result<Vec<(bool, Vec<u8>)>, WebSocketError> {
        let mut got = Vec::new();
        decoder.feed::<WebSocketError>(input, |piece| {
            if let Piece::Data { first, payload } = piece {
                got.push((first, payload.to_vec()));
            }
            Ok(())
        })?;
        Ok(got)
    }

    #[test]
    fn any_cutting_gives_the_same_bytes() {
        // A message in three fragments, the first of length 0, with a ping in between; then a long one.
        let mut wire = vec![0x02, 0, 0x00, 3, 1, 2, 3, 0x89, 1, 7, 0x80, 1, 4];
        wire.extend_from_slice(&[0x82, 126, 1, 0]);
        wire.extend(std::iter::repeat_n(9, 256));
        for size in [1, 2, 3, 7, 1000] {
            let mut decoder = Decoder::default();
            let pieces: Vec<_> = wire.chunks(size).flat_map(|chunk| collect(&mut decoder, chunk).unwrap()).collect();
            let bytes: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            assert_eq!(bytes[..4], [1, 2, 3, 4]);
            assert_eq!(bytes.len(), 260, "{size}");
            assert_eq!(pieces.iter().filter(|(first, _)| *first).count(), 2, "{size}");
        }
    }

    #[test]
    fn what_breaks_the_framing_is_refused() {
        for (wire, error) in [
            (&[0xf2, 0][..], WebSocketError::Kind(0xf2)),
            (&[0x83, 0], WebSocketError::Kind(0x83)),
            (&[0x82, 0x81], WebSocketError::Masked),
            (&[0x09, 0], WebSocketError::Control),
            (&[0x89, 126, 1, 0], WebSocketError::Control),
            (&[0x80, 0], WebSocketError::Fragments),
            (&[0x02, 0, 0x02, 0], WebSocketError::Fragments),
        ] {
            assert_eq!(collect(&mut Decoder::default(), wire), Err(error), "{wire:x?}");
        }
    }

    #[test]
    fn a_masked_frame_is_what_the_standard_says() {
        let mut out = Vec::new();
        encode(&mut out, &[5], b"Hello, all of you", [1, 2, 3, 4]);
        assert_eq!(out[..6], [0x82, 0x80 | 18, 1, 2, 3, 4]);
        apply_mask(&mut out[6..], [1, 2, 3, 4]);
        assert_eq!(out[6..], *b"\x05Hello, all of you");
        let mut long = Vec::new();
        encode(&mut long, &[], &vec![0; 70_000], [0; 4]);
        assert_eq!(long[..10], [0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[test]
    fn a_frame_filled_in_place_is_the_same_as_a_copied_one() {
        for length in [0usize, 1, 7, 125, 126, 127, 4096, FILL_MAX] {
            let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let (mut copied, mut filled) = (vec![9], vec![9]);
            if length > 0 {
                encode(&mut copied, &[], &payload, [1, 2, 3, 4]);
            }
            encode_filled(&mut filled, [1, 2, 3, 4], |out| out.extend_from_slice(&payload));
            assert_eq!(copied, filled, "{length}");
        }
    }

    #[test]
    fn pings_and_closes_are_told() {
        let mut got = Vec::new();
        Decoder::default()
            .feed::<WebSocketError>(&[0x89, 2, 1, 2, 0x8a, 0, 0x88, 2, 3, 0xe8], |piece| {
                got.push(format!("{piece:?}"));
                Ok(())
            })
            .unwrap();
        assert_eq!(got, ["Ping([1, 2])", "Close(1000)"]);
    }
}
