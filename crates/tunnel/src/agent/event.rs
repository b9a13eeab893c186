//! What an agent tells about itself, for a live view or plain lines.

use std::sync::Arc;
use std::time::Duration;

use mux::message::Fault;

/// Something worth a line.
#[derive(Clone, Debug)]
pub enum AgentEvent {
    /// A connection to the server is being made.
    Connecting {
        /// `host:port`.
        server: String,
        /// Attempts since the last success, from 1.
        attempt: u32,
    },
    /// An attempt came to nothing; another follows.
    Retrying {
        /// `host:port`.
        server: String,
        /// What happened, in lower case.
        reason: String,
        /// What to do about it, if that is known.
        hint: Option<String>,
        /// When the next attempt is made.
        wait: Duration,
        /// The server can be reached, and things stay so until somebody changes something.
        refused: bool,
    },
    /// A session is there.
    Connected {
        /// `host:port`.
        server: String,
        /// Names the session in the server's logs.
        session: String,
        /// The account the credential belongs to.
        account: String,
        /// Lanes granted.
        lanes: u8,
        /// How long the connection took to make, from the first packet to the server's welcome.
        took: Duration,
    },
    /// A tunnel is published.
    Published {
        /// The tunnel's label.
        tunnel: String,
        /// What visitors open.
        url: String,
        /// The local service.
        local: String,
    },
    /// The server refused a tunnel.
    Refused {
        /// The tunnel's label.
        tunnel: String,
        /// Why.
        fault: Fault,
        /// When it is asked for again; `None`: not before the next session.
        retry: Option<Duration>,
    },
    /// The session is lost; the agent reconnects.
    Lost {
        /// What happened, in lower case.
        reason: String,
    },
    /// All is as before.
    Back {
        /// From the loss to now.
        outage: Duration,
    },
    /// The server drains; the agent moves to another session before it leaves this one.
    Moving {
        /// The server's reason.
        reason: String,
    },
    /// A lane was lost; the session goes on over the others.
    LaneLost {
        /// What happened, in lower case.
        reason: String,
        /// Lanes left.
        left: usize,
    },
    /// The health of a local service changed.
    Health {
        /// The tunnel's label.
        tunnel: String,
        /// Whether it is healthy now.
        healthy: bool,
        /// What the probe saw; empty when healthy.
        reason: String,
    },
    /// A request or connection was served.
    Request(Arc<RequestEvent>),
    /// The token was renewed, or could not be.
    Token {
        /// Why not; `None`: it was renewed.
        problem: Option<String>,
    },
    /// The agent finishes what is in flight and ends.
    Draining,
}

/// One request that was served, or a TCP connection that has ended.
#[derive(Clone, Debug)]
pub struct RequestEvent {
    /// The tunnel's label.
    pub tunnel: Arc<str>,
    /// The method; `TCP` for a connection.
    pub method: String,
    /// The path without its query; the visitor's address for a connection.
    pub path: String,
    /// The answer's status; 0 when there was none.
    pub status: u16,
    /// What went wrong, if anything did.
    pub error: Option<&'static str>,
    /// From the Open's arrival to the end of the answer.
    pub took: Duration,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
}
