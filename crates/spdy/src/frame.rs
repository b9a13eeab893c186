//! Frames on the wire: an 8-byte head, then the payload.
//!
//! ```text
//! control  1 | version 15 | type 16 | flags 8 | length 24
//! data     0 | stream 31            | flags 8 | length 24
//! ```

use crate::status::{GoAwayStatus, ResetStatus};
use crate::stream_id::{LAST, StreamId};
use crate::violation::Violation;

/// Bytes of a frame's head.
pub(crate) const HEAD_LEN: usize = 8;

/// The largest payload a length of 24 bits can name.
pub(crate) const PAYLOAD_MAX: usize = 0x00ff_ffff;

/// What a control frame may hold; ours have a few dozen bytes.
pub(crate) const CONTROL_MAX: usize = 64 * 1024;

/// The version in every control frame.
pub(crate) const VERSION: u16 = 3;

/// DATA, SYN_STREAM, SYN_REPLY, HEADERS: the sender sends nothing more on this stream.
pub(crate) const FIN: u8 = 1;

/// SYN_STREAM: the receiver is to send nothing on this stream.
pub(crate) const UNIDIRECTIONAL: u8 = 2;

/// The control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlType {
    SynStream,
    SynReply,
    RstStream,
    Settings,
    Ping,
    GoAway,
    Headers,
    WindowUpdate,
    /// CREDENTIAL, NOOP and what no draft knows. To be ignored.
    Unknown(u16),
}

impl ControlType {
    fn from_wire(kind: u16) -> Self {
        match kind {
            1 => Self::SynStream,
            2 => Self::SynReply,
            3 => Self::RstStream,
            4 => Self::Settings,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::Headers,
            9 => Self::WindowUpdate,
            other => Self::Unknown(other),
        }
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::SynStream => 1,
            Self::SynReply => 2,
            Self::RstStream => 3,
            Self::Settings => 4,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::Headers => 8,
            Self::WindowUpdate => 9,
            Self::Unknown(other) => other,
        }
    }

    /// The frame's name in the draft.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SynStream => "SYN_STREAM",
            Self::SynReply => "SYN_REPLY",
            Self::RstStream => "RST_STREAM",
            Self::Settings => "SETTINGS",
            Self::Ping => "PING",
            Self::GoAway => "GOAWAY",
            Self::Headers => "HEADERS",
            Self::WindowUpdate => "WINDOW_UPDATE",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: HeadKind,
    pub(crate) flags: u8,
    pub(crate) length: usize,
}

/// What the head is the head of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadKind {
    Control(ControlType),
    Data(StreamId),
}

impl Head {
    pub(crate) fn decode(bytes: [u8; HEAD_LEN]) -> Result<Self, Violation> {
        let [a, b, c, d, flags, l2, l1, l0] = bytes;
        let length = u32::from_be_bytes([0, l2, l1, l0]);
        let length = usize::try_from(length).unwrap_or(PAYLOAD_MAX);
        if a & 0x80 == 0 {
            let stream = StreamId::new(u32::from_be_bytes([a, b, c, d]));
            if stream.get() == 0 {
                return Err(Violation::StreamId { id: 0 });
            }
            return Ok(Self { kind: HeadKind::Data(stream), flags, length });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Violation::Version { version });
        }
        let kind = ControlType::from_wire(u16::from_be_bytes([c, d]));
        if length > CONTROL_MAX {
            return Err(Violation::Oversized { frame: kind.name(), length });
        }
        Ok(Self { kind: HeadKind::Control(kind), flags, length })
    }
}

/// The head of a DATA frame.
pub(crate) fn data_head(stream: StreamId, fin: bool, length: usize) -> [u8; HEAD_LEN] {
    let [a, b, c, d] = stream.get().to_be_bytes();
    let [_, l2, l1, l0] = length_on_wire(length);
    [a, b, c, d, if fin { FIN } else { 0 }, l2, l1, l0]
}

/// The head of a control frame.
pub(crate) fn control_head(kind: ControlType, flags: u8, length: usize) -> [u8; HEAD_LEN] {
    let [a, b] = VERSION.to_be_bytes();
    let [c, d] = kind.to_wire().to_be_bytes();
    let [_, l2, l1, l0] = length_on_wire(length);
    [a | 0x80, b, c, d, flags, l2, l1, l0]
}

pub(crate) fn rst_stream(stream: u32, status: ResetStatus) -> [u8; HEAD_LEN + 8] {
    pair(ControlType::RstStream, stream & LAST, status.to_wire())
}

pub(crate) fn go_away(last: u32, status: GoAwayStatus) -> [u8; HEAD_LEN + 8] {
    pair(ControlType::GoAway, last & LAST, status.to_wire())
}

pub(crate) fn ping(id: u32) -> [u8; HEAD_LEN + 4] {
    let mut frame = [0; HEAD_LEN + 4];
    frame[..HEAD_LEN].copy_from_slice(&control_head(ControlType::Ping, 0, 4));
    frame[HEAD_LEN..].copy_from_slice(&id.to_be_bytes());
    frame
}

/// A control frame of two numbers.
fn pair(kind: ControlType, first: u32, second: u32) -> [u8; HEAD_LEN + 8] {
    let mut frame = [0; HEAD_LEN + 8];
    frame[..HEAD_LEN].copy_from_slice(&control_head(kind, 0, 8));
    frame[HEAD_LEN..HEAD_LEN + 4].copy_from_slice(&first.to_be_bytes());
    frame[HEAD_LEN + 4..].copy_from_slice(&second.to_be_bytes());
    frame
}

fn length_on_wire(length: usize) -> [u8; 4] {
    debug_assert!(length <= PAYLOAD_MAX, "the writer cuts its frames");
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// The number at the front of a payload.
pub(crate) fn number_at(payload: &[u8], at: usize) -> Option<u32> {
    let bytes = payload.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_as_they_were_written() {
        let stream = StreamId::new(77);
        let head = Head::decode(data_head(stream, true, PAYLOAD_MAX)).unwrap();
        assert_eq!(head, Head { kind: HeadKind::Data(stream), flags: FIN, length: PAYLOAD_MAX });
        for wire in 0..12 {
            let kind = ControlType::from_wire(wire);
            assert_eq!(kind.to_wire(), wire);
            let head = Head::decode(control_head(kind, 5, 300)).unwrap();
            assert_eq!(head, Head { kind: HeadKind::Control(kind), flags: 5, length: 300 });
        }
    }

    #[test]
    fn a_control_frame_of_another_version_is_refused() {
        let answer = Head::decode([0x80, 2, 0, 6, 0, 0, 0, 4]);
        assert_eq!(answer, Err(Violation::Version { version: 2 }));
    }

    #[test]
    fn a_control_frame_over_its_cap_is_refused_and_a_data_frame_has_none() {
        assert!(Head::decode(control_head(ControlType::SynReply, 0, CONTROL_MAX)).is_ok());
        let answer = Head::decode(control_head(ControlType::SynReply, 0, CONTROL_MAX + 1));
        assert_eq!(answer, Err(Violation::Oversized { frame: "SYN_REPLY", length: CONTROL_MAX + 1 }));
        assert!(Head::decode(data_head(StreamId::new(1), false, PAYLOAD_MAX)).is_ok());
    }

    #[test]
    fn data_for_stream_zero_is_refused() {
        assert_eq!(Head::decode([0; 8]), Err(Violation::StreamId { id: 0 }));
    }
}
