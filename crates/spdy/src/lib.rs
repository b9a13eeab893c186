//! SPDY/3.1 as Kubernetes speaks it, as a pure library: no sockets, no clocks, no tasks.
//!
//! | module | what is in it |
//! |---|---|
//! | [`session`] | the state machine of one connection: streams, queues, life signs |
//! | [`block`] | header blocks: one stateful zlib pair a connection, with caps |
//! | [`headers`] | names and values of a header block |
//! | [`status`] | the reasons of RST_STREAM and GOAWAY |
//! | [`stream_id`] | stream numbers, and who opens which |
//! | [`violation`] | what a peer can break |
//!
//! The peer is `moby/spdystream` in API servers, kubelets and container runtimes. It neither sends nor obeys
//! WINDOW_UPDATE, so there is no flow control here but TCP's: sending ignores windows and has a bounded queue a
//! stream; receiving never drops a byte and asks its driver to stop reading when one stream holds too much.

pub mod block;
pub mod headers;
pub mod session;
pub mod status;
pub mod stream_id;
pub mod violation;

mod abuse;
mod byte_queue;
mod decoder;
mod dictionary;
mod frame;
mod keepalive;
mod turns;

pub use headers::Headers;
pub use session::Session;
pub use session::event::{Event, Health, OpenError, ReadState, Written};
pub use session::settings::Settings;
pub use status::{GoAwayStatus, ResetStatus};
pub use stream_id::{Role, StreamId};
pub use violation::Violation;
