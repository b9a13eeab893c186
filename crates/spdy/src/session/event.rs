//! What a session tells its user.

use std::time::Duration;

use crate::headers::Headers;
use crate::status::{GoAwayStatus, ResetStatus};
use crate::stream_id::StreamId;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream.
    Opened {
        /// The new stream.
        id: StreamId,
        /// What it said.
        headers: Headers,
        /// It sends nothing on it.
        fin: bool,
    },
    /// The peer answered a stream of ours.
    Replied {
        /// The stream.
        id: StreamId,
        /// What it said; nothing, in Kubernetes.
        headers: Headers,
    },
    /// Data, the end or a reset arrived. Told once, until [`Session::read`](crate::Session::read) is called.
    Readable(StreamId),
    /// A stream that took less than it was given has room again, or will take nothing more.
    Writable(StreamId),
    /// The peer takes no new streams. Told once.
    GoAway {
        /// The last stream of ours it says to have seen.
        last: StreamId,
        /// Why.
        status: GoAwayStatus,
    },
    /// The peer answered a PING.
    Pong {
        /// How long that took.
        after: Duration,
    },
}

/// Whether the peer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// As far as is known.
    Alive,
    /// It has been silent for too long.
    Dead,
}

/// What became of bytes that were to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// So many were queued. If not all, [`Event::Writable`] follows.
    Taken(usize),
    /// The stream takes no bytes: it was reset, finished or forgotten.
    Closed,
}

/// What there was to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadState {
    /// The bytes are in the buffer that was given.
    Data,
    /// Nothing yet.
    Pending,
    /// The peer has ended its half.
    Finished,
    /// The peer has reset the stream.
    Reset(ResetStatus),
    /// There is no such stream.
    Gone,
}

/// Why a stream was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// One of both ends takes no new streams.
    #[error("the session takes no new streams")]
    GoingAway,
    /// As many streams as are allowed are open, or wait to be told to the peer.
    #[error("too many streams are open")]
    TooMany,
    /// All stream numbers have been used.
    #[error("all stream numbers are used up")]
    Exhausted,
}
