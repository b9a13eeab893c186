//! The reasons that RST_STREAM and GOAWAY give.

use std::fmt;

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetStatus {
    /// 1: a general fault of the stream.
    ProtocolError,
    /// 2: a frame for a stream that is not there.
    InvalidStream,
    /// 3: not taken, and nothing was done for it.
    RefusedStream,
    /// 4: the other end does not speak this version.
    UnsupportedVersion,
    /// 5: no longer wanted.
    Cancel,
    /// 6: a fault of the sender's own.
    InternalError,
    /// 7: more was sent than the window allowed.
    FlowControlError,
    /// 8: the stream was opened or answered twice.
    StreamInUse,
    /// 9: data after the end.
    StreamAlreadyClosed,
    /// 10: not said with credentials that hold.
    InvalidCredentials,
    /// 11: a frame was larger than its receiver takes.
    FrameTooLarge,
    /// Any other number.
    Unknown(u32),
}

impl ResetStatus {
    /// The status of a number on the wire.
    #[must_use]
    pub fn from_wire(status: u32) -> Self {
        match status {
            1 => Self::ProtocolError,
            2 => Self::InvalidStream,
            3 => Self::RefusedStream,
            4 => Self::UnsupportedVersion,
            5 => Self::Cancel,
            6 => Self::InternalError,
            7 => Self::FlowControlError,
            8 => Self::StreamInUse,
            9 => Self::StreamAlreadyClosed,
            10 => Self::InvalidCredentials,
            11 => Self::FrameTooLarge,
            other => Self::Unknown(other),
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        match self {
            Self::ProtocolError => 1,
            Self::InvalidStream => 2,
            Self::RefusedStream => 3,
            Self::UnsupportedVersion => 4,
            Self::Cancel => 5,
            Self::InternalError => 6,
            Self::FlowControlError => 7,
            Self::StreamInUse => 8,
            Self::StreamAlreadyClosed => 9,
            Self::InvalidCredentials => 10,
            Self::FrameTooLarge => 11,
            Self::Unknown(other) => other,
        }
    }
}

impl fmt::Display for ResetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProtocolError => f.write_str("protocol error"),
            Self::InvalidStream => f.write_str("no such stream"),
            Self::RefusedStream => f.write_str("stream refused"),
            Self::UnsupportedVersion => f.write_str("version not supported"),
            Self::Cancel => f.write_str("cancelled"),
            Self::InternalError => f.write_str("internal error"),
            Self::FlowControlError => f.write_str("flow control error"),
            Self::StreamInUse => f.write_str("stream in use"),
            Self::StreamAlreadyClosed => f.write_str("stream already closed"),
            Self::InvalidCredentials => f.write_str("invalid credentials"),
            Self::FrameTooLarge => f.write_str("frame too large"),
            Self::Unknown(status) => write!(f, "status {status}"),
        }
    }
}

/// Why a session takes no new streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GoAwayStatus {
    /// 0: an ordinary end.
    Ok,
    /// 1: the other end broke the protocol.
    ProtocolError,
    /// 2: a fault of the sender's own.
    InternalError,
    /// Any other number.
    Unknown(u32),
}

impl GoAwayStatus {
    /// The status of a number on the wire.
    #[must_use]
    pub fn from_wire(status: u32) -> Self {
        match status {
            0 => Self::Ok,
            1 => Self::ProtocolError,
            2 => Self::InternalError,
            other => Self::Unknown(other),
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::ProtocolError => 1,
            Self::InternalError => 2,
            Self::Unknown(other) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back_as_itself() {
        for number in (0..20).chain([u32::MAX]) {
            assert_eq!(ResetStatus::from_wire(number).to_wire(), number);
            assert_eq!(GoAwayStatus::from_wire(number).to_wire(), number);
        }
    }

    #[test]
    fn the_eleven_named_numbers_have_names_and_the_others_keep_their_number() {
        for number in 1..=11 {
            assert!(!matches!(ResetStatus::from_wire(number), ResetStatus::Unknown(_)), "{number}");
        }
        assert_eq!(ResetStatus::from_wire(12), ResetStatus::Unknown(12));
        assert_eq!(ResetStatus::from_wire(12).to_string(), "status 12");
        assert_eq!(ResetStatus::Cancel.to_string(), "cancelled");
    }
}
