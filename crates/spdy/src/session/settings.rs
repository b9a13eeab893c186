//! What a session is held to.

use std::time::Duration;

use crate::stream_id::Role;

/// The limits and times of one session.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which end this is.
    pub role: Role,
    /// Unread bytes of one stream above which the session wants no more input.
    pub receive_limit: usize,
    /// Bytes that one stream queues to be sent.
    pub send_limit: usize,
    /// Streams at a time, whoever opened them.
    pub max_streams: usize,
    /// Whether the peer may open streams. If not, each is refused and the session goes on.
    pub accepts_streams: bool,
    /// Silence after which the peer is asked for a sign of life.
    pub ping_after: Duration,
    /// Silence after that question that means the peer is gone.
    pub dead_after: Duration,
    /// The same while the peer takes nothing either: then the question may not have got through, and TCP's own
    /// time-outs tell more than a PING. A paused reader at the far end looks like this.
    pub blocked_dead_after: Duration,
}

impl Settings {
    /// A client of Kubernetes: opens streams, and takes none.
    #[must_use]
    pub fn client() -> Self {
        Self {
            role: Role::Client,
            receive_limit: 256 * 1024,
            send_limit: 256 * 1024,
            max_streams: 4096,
            accepts_streams: false,
            ping_after: Duration::from_secs(20),
            dead_after: Duration::from_secs(20),
            blocked_dead_after: Duration::from_secs(600),
        }
    }

    /// The other end of [`Settings::client`].
    #[must_use]
    pub fn server() -> Self {
        Self { role: Role::Server, accepts_streams: true, ..Self::client() }
    }
}
