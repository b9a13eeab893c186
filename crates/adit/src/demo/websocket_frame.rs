//! WebSocket framing (RFC 6455), the server's side: masked frames in, unmasked frames out.

use thiserror::Error;

/// The largest message that is put together; a longer one ends the conversation.
pub(super) const MAX_MESSAGE: usize = 1024 * 1024;

/// The largest payload a control frame may have.
const MAX_CONTROL: usize = 125;

/// A complete message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// To be answered by a pong with the same payload.
    Ping(Vec<u8>),
    /// An answer to a ping.
    Pong,
    /// The peer's wish to end, with its code if it gave one.
    Close(Option<u16>),
}

/// Why the conversation cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Fault {
    /// The peer broke a rule of the framing.
    #[error("a frame that breaks the protocol")]
    Protocol,
    /// A text message is not UTF-8.
    #[error("a text message that is not UTF-8")]
    NotText,
    /// A message is over the limit.
    #[error("a message that is too big")]
    TooBig,
}

impl Fault {
    /// The code for the Close frame.
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotText => 1007,
            Self::TooBig => 1009,
        }
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    /// More of the message that was begun.
    Continuation = 0,
    /// The first frame of a text.
    Text = 1,
    /// The first frame of a binary message.
    Binary = 2,
    /// The end.
    Close = 8,
    /// Are you there?
    Ping = 9,
    /// I am.
    Pong = 10,
}

impl Opcode {
    fn from_wire(bits: u8) -> Result<Self, Fault> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(Fault::Protocol),
        })
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Appends one unmasked frame.
pub(super) fn encode(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode as u8);
    let length = payload.len();
    if let Ok(short) = u8::try_from(length)
        && length <= MAX_CONTROL
    {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
    out.extend_from_slice(payload);
}

/// Puts messages together from bytes in any chunking.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    input: Vec<u8>,
    /// The message begun but not finished: its kind and what is there of it.
    partial: Option<(Opcode, Vec<u8>)>,
}

impl Decoder {
    /// Takes what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next message that is complete.
    pub(super) fn next_message(&mut self) -> Result<Option<Message>, Fault> {
        while let Some(frame) = self.take_frame()? {
            let message = match frame.opcode {
                Opcode::Ping => Some(Message::Ping(frame.payload)),
                Opcode::Pong => Some(Message::Pong),
                Opcode::Close => Some(Message::Close(close_code(&frame.payload)?)),
                _ => self.join(&frame)?,
            };
            if message.is_some() {
                return Ok(message);
            }
        }
        Ok(None)
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, Fault> {
        let Some(head) = Head::parse(&self.input)? else {
            return Ok(None);
        };
        let end = head.size + head.length;
        if self.input.len() < end {
            return Ok(None);
        }
        let mask: Vec<u8> = self.input[head.size - 4..head.size].to_vec();
        let payload =
            self.input[head.size..end].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        self.input.drain(..end);
        Ok(Some(Frame { fin: head.fin, opcode: head.opcode, payload }))
    }

    fn join(&mut self, frame: &Frame) -> Result<Option<Message>, Fault> {
        let (kind, mut whole) = match (frame.opcode, self.partial.take()) {
            (Opcode::Continuation, Some(begun)) => begun,
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(Fault::Protocol),
            (kind, None) => (kind, Vec::new()),
        };
        if whole.len() + frame.payload.len() > MAX_MESSAGE {
            return Err(Fault::TooBig);
        }
        whole.extend_from_slice(&frame.payload);
        if !frame.fin {
            self.partial = Some((kind, whole));
            return Ok(None);
        }
        Ok(Some(if kind == Opcode::Text {
            Message::Text(String::from_utf8(whole).map_err(|_| Fault::NotText)?)
        } else {
            Message::Binary(whole)
        }))
    }
}

struct Frame {
    fin: bool,
    opcode: Opcode,
    payload: Vec<u8>,
}

struct Head {
    fin: bool,
    opcode: Opcode,
    /// Bytes before the payload, the mask included.
    size: usize,
    length: usize,
}

impl Head {
    fn parse(input: &[u8]) -> Result<Option<Self>, Fault> {
        let &[first, second, ref rest @ ..] = input else {
            return Ok(None);
        };
        let opcode = Opcode::from_wire(first & 0x0F)?;
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        // Reserved bits belong to extensions, none of which was agreed on.
        if first & 0x70 != 0 || !masked || (opcode.is_control() && !fin) {
            return Err(Fault::Protocol);
        }
        let (extended, length) = match second & 0x7F {
            126 => (2, rest.first_chunk::<2>().map(|b| u64::from(u16::from_be_bytes(*b)))),
            127 => (8, rest.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))),
            short => (0, Some(u64::from(short))),
        };
        let Some(length) = length else {
            return Ok(None);
        };
        let length = usize::try_from(length).map_err(|_| Fault::TooBig)?;
        if opcode.is_control() && length > MAX_CONTROL {
            return Err(Fault::Protocol);
        }
        if length > MAX_MESSAGE {
            return Err(Fault::TooBig);
        }
        Ok(Some(Self { fin, opcode, size: 2 + extended + 4, length }))
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    match payload {
        [] => Ok(None),
        [_] => Err(Fault::Protocol),
        [high, low, reason @ ..] => {
            std::str::from_utf8(reason).map_err(|_| Fault::NotText)?;
            Ok(Some(u16::from_be_bytes([*high, *low])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client sends it.
    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        encode(Opcode::Text, payload, &mut plain);
        let size = plain.len() - payload.len();
        plain[0] = first;
        plain[1] |= 0x80;
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        let mut frame = plain[..size].to_vec();
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        frame
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Message>, Fault> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        let mut messages = Vec::new();
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    #[test]
    fn the_masked_hello_of_rfc_6455_is_read() {
        let frame = [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
        assert_eq!(decode(&frame), Ok(vec![Message::Text("Hello".into())]));
    }

    #[test]
    fn frames_are_written_in_the_shortest_form() {
        let sizes = [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)];
        for (length, head) in sizes {
            let mut out = Vec::new();
            encode(Opcode::Binary, &vec![7; length], &mut out);
            assert_eq!(out.len(), head + length, "{length}");
        }
    }

    #[test]
    fn every_length_form_is_read_in_any_chunking() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..=255).cycle().take(length).collect();
            let frame = client_frame(0x82, &payload);
            for chunk in [1, 7, 4096] {
                let mut decoder = Decoder::default();
                let mut got = None;
                for bytes in frame.chunks(chunk) {
                    assert_eq!(got, None);
                    decoder.push(bytes);
                    got = decoder.next_message().expect("a legal frame");
                }
                assert_eq!(got, Some(Message::Binary(payload.clone())), "{length} by {chunk}");
            }
        }
    }

    #[test]
    fn fragments_are_joined_with_control_frames_between_them() {
        let mut bytes = client_frame(0x01, "grüß".as_bytes().split_at(3).0);
        bytes.extend(client_frame(0x89, b"there?"));
        bytes.extend(client_frame(0x80, "grüß".as_bytes().split_at(3).1));
        assert_eq!(decode(&bytes), Ok(vec![Message::Ping(b"there?".to_vec()), Message::Text("grüß".into())]));
    }

    #[test]
    fn a_frame_against_the_rules_ends_the_conversation() {
        let unmasked = [0x81, 0x01, b'a'];
        assert_eq!(decode(&unmasked), Err(Fault::Protocol));
        for first in [0xC1, 0x83, 0x8B, 0x80, 0x09] {
            assert_eq!(decode(&client_frame(first, b"x")), Err(Fault::Protocol), "{first:#x}");
        }
        let mut twice = client_frame(0x01, b"a");
        twice.extend(client_frame(0x81, b"b"));
        assert_eq!(decode(&twice), Err(Fault::Protocol));
        assert_eq!(decode(&client_frame(0x89, &[0; 126])), Err(Fault::Protocol));
        assert_eq!(decode(&client_frame(0x88, &[3])), Err(Fault::Protocol));
    }

    #[test]
    fn text_must_be_utf8() {
        assert_eq!(decode(&client_frame(0x81, &[0xFF])), Err(Fault::NotText));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let mut head = vec![0x82, 0xFF];
        head.extend_from_slice(&(MAX_MESSAGE as u64 + 1).to_be_bytes());
        assert_eq!(decode(&head), Err(Fault::TooBig));
        let half = vec![0; MAX_MESSAGE / 2 + 1];
        let mut bytes = client_frame(0x02, &half);
        bytes.extend(client_frame(0x80, &half));
        assert_eq!(decode(&bytes), Err(Fault::TooBig));
    }

    #[test]
    fn a_close_carries_its_code() {
        assert_eq!(decode(&client_frame(0x88, &[])), Ok(vec![Message::Close(None)]));
        let frame = client_frame(0x88, &[0x03, 0xE8, b'b', b'y', b'e']);
        assert_eq!(decode(&frame), Ok(vec![Message::Close(Some(1000))]));
    }
}
