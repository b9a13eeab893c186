//! Error codes, named as in RFC 9113 section 7, plus [`ErrorCode::Refused`].

/// Why a stream or a lane ended before its time.
///
/// On the wire a `u16`; a value this version does not know reads as [`ErrorCode::Internal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// Ended without an error.
    NoError = 0x0,
    /// The peer broke a rule of the protocol.
    Protocol = 0x1,
    /// Something failed on our own side.
    Internal = 0x2,
    /// More Data than credit was granted for, or a credit sum beyond its cap.
    FlowControl = 0x3,
    /// Data on a stream whose direction had ended.
    StreamClosed = 0x5,
    /// A payload longer than its type's cap.
    FrameSize = 0x6,
    /// Not processed at all: the request may be sent elsewhere, idempotent or not.
    Refused = 0x7,
    /// No longer wanted, e.g. the visitor left.
    Cancel = 0x8,
    /// The target could not be connected to.
    Connect = 0xa,
    /// A budget for cheap frames was used up.
    EnhanceYourCalm = 0xb,
    /// Credentials were refused, ended or revoked.
    Unauthorized = 0xc,
    /// The target did not answer in time.
    Timeout = 0x10,
    /// The target answered with something that is not the protocol expected of it.
    BadAnswer = 0x11,
    /// The target ended the connection before its answer was whole.
    Truncated = 0x12,
    /// The tunnel named in Open is not known here.
    UnknownTunnel = 0x13,
    /// The tunnel's local health check fails.
    Unhealthy = 0x14,
    /// A newer session of the same agent took over.
    Replaced = 0x15,
}

impl ErrorCode {
    /// Every code, for tables and documents.
    pub const ALL: [Self; 17] = [
        Self::NoError,
        Self::Protocol,
        Self::Internal,
        Self::FlowControl,
        Self::StreamClosed,
        Self::FrameSize,
        Self::Refused,
        Self::Cancel,
        Self::Connect,
        Self::EnhanceYourCalm,
        Self::Unauthorized,
        Self::Timeout,
        Self::BadAnswer,
        Self::Truncated,
        Self::UnknownTunnel,
        Self::Unhealthy,
        Self::Replaced,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn to_wire(self) -> u16 {
        self as u16
    }

    /// Reads a number from the wire; what is not known reads as [`ErrorCode::Internal`].
    #[must_use]
    pub fn from_wire(value: u16) -> Self {
        Self::ALL.into_iter().find(|code| code.to_wire() == value).unwrap_or(Self::Internal)
    }

    /// The name used in logs, metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoError => "no_error",
            Self::Protocol => "protocol_error",
            Self::Internal => "internal_error",
            Self::FlowControl => "flow_control_error",
            Self::StreamClosed => "stream_closed",
            Self::FrameSize => "frame_size_error",
            Self::Refused => "refused",
            Self::Cancel => "cancel",
            Self::Connect => "connect_error",
            Self::EnhanceYourCalm => "enhance_your_calm",
            Self::Unauthorized => "unauthorized",
            Self::Timeout => "timeout",
            Self::BadAnswer => "bad_answer",
            Self::Truncated => "truncated",
            Self::UnknownTunnel => "unknown_tunnel",
            Self::Unhealthy => "unhealthy",
            Self::Replaced => "replaced",
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(code.to_wire()), code);
        }
        assert_eq!(ErrorCode::from_wire(0xfffe), ErrorCode::Internal);
    }
}
