//! What a peer can break. The session is over then.

use crate::headers::HeaderFault;

/// The peer broke the protocol, or floods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A control frame of another version; most often what arrives is no SPDY at all.
    #[error("a control frame of version {version}, not 3")]
    Version {
        /// The version it says.
        version: u16,
    },
    /// A control frame above the cap.
    #[error("a {frame} frame of {length} bytes")]
    Oversized {
        /// The frame's name.
        frame: &'static str,
        /// Its length without the header.
        length: usize,
    },
    /// A control frame whose length or content is not that of its type.
    #[error("a {frame} frame that is no such frame")]
    Malformed {
        /// The frame's name.
        frame: &'static str,
    },
    /// A header block that cannot be read. The connection's compression is lost with it.
    #[error("a header block that cannot be read")]
    Headers(#[from] HeaderFault),
    /// A stream number that this peer may not use here.
    #[error("stream number {id} is not the peer's to use here")]
    StreamId {
        /// The number.
        id: u32,
    },
    /// Too many frames that cost their sender nothing and this end something.
    #[error("too many {frames} in a short time")]
    Flood {
        /// What there were too many of.
        frames: &'static str,
    },
}
