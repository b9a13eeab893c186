//! The frame header: 12 bytes, big-endian, checked before anything is allocated.
//!
//! `version | type | flags | reserved | stream_id: u32 | length: u32`

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 12;
/// The protocol version this library speaks.
pub const VERSION: u8 = 0x01;
/// No payload of any type is longer, whatever was negotiated.
pub const ABSOLUTE_CAP: u32 = 1 << 20;
/// Cap of Data payloads that a peer may negotiate at the most.
pub const DATA_CAP: u32 = 64 * 1024;
/// Data payload cap in force unless another was negotiated: one TLS record.
pub const DATA_DEFAULT: u32 = 16 * 1024;
/// Cap of everything that is not Data.
pub const CONTROL_CAP: u32 = 64 * 1024;
/// Cap of the one frame an unauthenticated peer may send.
pub const UNAUTHENTICATED_CAP: u32 = 8 * 1024;

/// Flag bits of a header.
pub mod flags {
    /// The sender's direction of the stream ends with this frame.
    pub const END: u8 = 0x01;
    /// Answer to a frame of the same type.
    pub const ACK: u8 = 0x02;
    /// The payload is a header block (answer head, 1xx, trailers).
    pub const HEADERS: u8 = 0x04;
    /// The stream is aborted; the payload is an error code.
    pub const RST: u8 = 0x08;
    /// Hint: the stream carries bulk data.
    pub const BULK: u8 = 0x20;
    /// The bits this version defines; others must be zero.
    pub const KNOWN: u8 = END | ACK | HEADERS | RST | BULK;
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameType {
    /// 8 opaque bytes; with ACK the echo.
    Heartbeat,
    /// Credential and wishes of an agent.
    AuthRequest,
    /// What the server grants, or why not.
    AuthResponse,
    /// Changed limits in mid-session.
    Settings,
    /// A new credential before the old one expires.
    AuthRefresh,
    /// One or more tunnels to publish; with ACK the results.
    Register,
    /// Tunnels to take back; with ACK the results.
    Unregister,
    /// Local health, weight and draining of a tunnel.
    TunnelState,
    /// A new stream.
    Open,
    /// Body bytes or a header block.
    Data,
    /// End of a stream; with RST its abort.
    Close,
    /// Credit for a stream; with ACK credit handed back.
    Window,
    /// One UDP datagram (not used by this version).
    Datagram,
    /// The sender takes no new streams.
    GoAway,
    /// Another lane of a session.
    Join,
    /// 0x40–0x5F: ignored when unknown.
    Optional(u8),
    /// The lane ends, and why.
    Error,
}

impl FrameType {
    /// Reads the type byte; `None` for one that must be understood and is not.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::Heartbeat,
            0x01 => Self::AuthRequest,
            0x02 => Self::AuthResponse,
            0x03 => Self::Settings,
            0x04 => Self::AuthRefresh,
            0x10 => Self::Register,
            0x11 => Self::Unregister,
            0x12 => Self::TunnelState,
            0x20 => Self::Open,
            0x21 => Self::Data,
            0x22 => Self::Close,
            0x23 => Self::Window,
            0x25 => Self::Datagram,
            0x30 => Self::GoAway,
            0x31 => Self::Join,
            0x40..=0x5f => Self::Optional(byte),
            0xff => Self::Error,
            _ => return None,
        })
    }

    /// The type byte.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Heartbeat => 0x00,
            Self::AuthRequest => 0x01,
            Self::AuthResponse => 0x02,
            Self::Settings => 0x03,
            Self::AuthRefresh => 0x04,
            Self::Register => 0x10,
            Self::Unregister => 0x11,
            Self::TunnelState => 0x12,
            Self::Open => 0x20,
            Self::Data => 0x21,
            Self::Close => 0x22,
            Self::Window => 0x23,
            Self::Datagram => 0x25,
            Self::GoAway => 0x30,
            Self::Join => 0x31,
            Self::Optional(byte) => byte,
            Self::Error => 0xff,
        }
    }

    /// Whether frames of this type belong to a stream (`Some(true)`), to stream 0 (`Some(false)`)
    /// or to either (`None`).
    fn on_stream(self) -> Option<bool> {
        match self {
            Self::Open | Self::Data | Self::Close | Self::Window | Self::Datagram => Some(true),
            Self::Optional(_) => None,
            _ => Some(false),
        }
    }

    /// The longest payload of this type, given the negotiated Data cap.
    fn cap(self, data_cap: u32) -> u32 {
        match self {
            Self::Heartbeat => 8,
            Self::Window => 4,
            Self::Close => 2,
            Self::Data | Self::Datagram => data_cap,
            _ => CONTROL_CAP,
        }
    }
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: FrameType,
    /// See [`flags`].
    pub flags: u8,
    /// 0 is the session.
    pub stream: u32,
    /// Payload bytes that follow.
    pub length: u32,
}

/// Why a header is not acceptable. Each of them ends the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another protocol version, or not this protocol at all.
    #[error("protocol version {0:#04x} is not supported")]
    Version(u8),
    /// A type that must be understood and is not.
    #[error("frame type {0:#04x} is unknown and critical")]
    UnknownType(u8),
    /// Bits that must be zero are not.
    #[error("reserved bits are set in a {0:#04x} frame")]
    Reserved(u8),
    /// The payload is longer than the type's cap.
    #[error("a {kind:#04x} frame of {length} bytes is over its cap of {cap}")]
    TooLong {
        /// Type byte.
        kind: u8,
        /// Announced length in bytes.
        length: u32,
        /// The cap in bytes.
        cap: u32,
    },
    /// A stream frame on stream 0, or a session frame on a stream.
    #[error("a {kind:#04x} frame cannot be sent on stream {stream}")]
    Stream {
        /// Type byte.
        kind: u8,
        /// The stream it came on.
        stream: u32,
    },
    /// Only authentication may be sent before authentication.
    #[error("frame type {0:#04x} before authentication")]
    Unauthenticated(u8),
}

/// How much a peer is trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// Before authentication: one AuthRequest or Join of at most 8 KiB.
    Unauthenticated,
    /// Afterwards, with the negotiated cap of Data payloads in bytes.
    Authenticated {
        /// Longest Data payload in bytes.
        data_cap: u32,
    },
}

impl Header {
    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let s = self.stream.to_be_bytes();
        let l = self.length.to_be_bytes();
        [VERSION, self.kind.to_wire(), self.flags, 0, s[0], s[1], s[2], s[3], l[0], l[1], l[2], l[3]]
    }

    /// Decodes and checks a header.
    ///
    /// # Errors
    /// See [`HeaderError`]; nothing was allocated when one is returned.
    pub fn decode(bytes: &[u8; HEADER_LEN], limits: Limits) -> Result<Self, HeaderError> {
        let [version, kind_byte, flags, reserved, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let kind = FrameType::from_wire(kind_byte).ok_or(HeaderError::UnknownType(kind_byte))?;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let lenient = matches!(kind, FrameType::Optional(_));
        if reserved != 0 || (!lenient && flags & !flags::KNOWN != 0) {
            return Err(HeaderError::Reserved(kind_byte));
        }
        let cap = match limits {
            Limits::Unauthenticated => {
                if !matches!(kind, FrameType::AuthRequest | FrameType::Join) {
                    return Err(HeaderError::Unauthenticated(kind_byte));
                }
                UNAUTHENTICATED_CAP
            }
            Limits::Authenticated { data_cap } if flags & flags::HEADERS == 0 => kind.cap(data_cap),
            // A header block is not body: it has the cap of control, whatever Data was cut to.
            Limits::Authenticated { .. } => kind.cap(CONTROL_CAP),
        };
        if length > cap.min(ABSOLUTE_CAP) {
            return Err(HeaderError::TooLong { kind: kind_byte, length, cap });
        }
        if kind.on_stream().is_some_and(|wanted| wanted == (stream == 0)) {
            return Err(HeaderError::Stream { kind: kind_byte, stream });
        }
        Ok(Self { kind, flags, stream, length })
    }

    /// Whether a flag bit is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a whole frame to `out`.
///
/// The payload's length must fit its cap; callers hold it to that, as the receiver would end the lane.
pub fn put_frame(out: &mut Vec<u8>, kind: FrameType, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("payloads are capped far below 4 GiB");
    out.extend_from_slice(&Header { kind, flags, stream, length }.encode());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Limits = Limits::Authenticated { data_cap: DATA_DEFAULT };

    fn raw(kind: u8, flags: u8, stream: u32, length: u32) -> [u8; HEADER_LEN] {
        let mut b = [1, kind, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        b[4..8].copy_from_slice(&stream.to_be_bytes());
        b[8..12].copy_from_slice(&length.to_be_bytes());
        b
    }

    #[test]
    fn every_type_byte_that_is_known_survives_the_wire() {
        for byte in 0..=255u8 {
            if let Some(kind) = FrameType::from_wire(byte) {
                assert_eq!(kind.to_wire(), byte);
            }
        }
    }

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header { kind: FrameType::Data, flags: flags::END, stream: 7, length: 16384 };
        assert_eq!(Header::decode(&header.encode(), OPEN), Ok(header));
    }

    #[test]
    fn another_version_is_refused() {
        let mut b = raw(0x21, 0, 1, 0);
        b[0] = 2;
        assert_eq!(Header::decode(&b, OPEN), Err(HeaderError::Version(2)));
    }

    #[test]
    fn unknown_optional_passes_and_unknown_critical_does_not() {
        assert!(Header::decode(&raw(0x5f, 0xff, 9, 10), OPEN).is_ok());
        assert_eq!(Header::decode(&raw(0x60, 0, 0, 0), OPEN), Err(HeaderError::UnknownType(0x60)));
        assert_eq!(Header::decode(&raw(0x24, 0, 0, 0), OPEN), Err(HeaderError::UnknownType(0x24)));
    }

    #[test]
    fn a_length_over_the_cap_is_refused_by_its_header_alone() {
        for (kind, flags, stream, cap) in [
            (0x00, 0, 0, 8),
            (0x20, 0, 2, CONTROL_CAP),
            (0x21, 0, 2, DATA_DEFAULT),
            (0x21, flags::HEADERS, 2, CONTROL_CAP),
            (0x23, 0, 2, 4),
            (0x22, 0, 2, 2),
        ] {
            assert!(Header::decode(&raw(kind, flags, stream, cap), OPEN).is_ok());
            assert!(matches!(
                Header::decode(&raw(kind, flags, stream, cap + 1), OPEN),
                Err(HeaderError::TooLong { .. })
            ));
        }
    }

    #[test]
    fn before_authentication_only_a_small_auth_frame_passes() {
        let before = Limits::Unauthenticated;
        assert!(Header::decode(&raw(0x01, 0, 0, 8192), before).is_ok());
        assert!(Header::decode(&raw(0x31, 0, 0, 100), before).is_ok());
        assert!(Header::decode(&raw(0x01, 0, 0, 8193), before).is_err());
        assert_eq!(Header::decode(&raw(0x00, 0, 0, 8), before), Err(HeaderError::Unauthenticated(0x00)));
    }

    #[test]
    fn stream_frames_need_a_stream_and_session_frames_must_not_have_one() {
        assert!(matches!(Header::decode(&raw(0x21, 0, 0, 0), OPEN), Err(HeaderError::Stream { .. })));
        assert!(matches!(Header::decode(&raw(0x10, 0, 2, 0), OPEN), Err(HeaderError::Stream { .. })));
    }

    #[test]
    fn reserved_bits_must_be_zero() {
        assert!(matches!(Header::decode(&raw(0x21, 0x40, 2, 0), OPEN), Err(HeaderError::Reserved(_))));
        let mut b = raw(0x21, 0, 2, 0);
        b[3] = 1;
        assert!(matches!(Header::decode(&b, OPEN), Err(HeaderError::Reserved(_))));
    }
}
