//! Tunnel protocol v1 as a pure library: no sockets, no clocks, no tasks.
//!
//! | module | what is in it |
//! |---|---|
//! | [`frame`] | the 12-byte header, types, flags and their caps |
//! | [`decoder`] | bytes in any chunking → frames |
//! | [`code`] | error codes |
//! | [`headers`] | the binary header block |
//! | [`open`] | the payload of Open |
//! | [`message`] | JSON control messages (auth, register, state) |
//! | [`flow`] | credit arithmetic of one stream |
//! | [`pool`] | shared memory bounds behind growing windows |
//! | [`abuse`] | budgets for cheap frames that cost the receiver |
//! | [`schedule`] | the fair writer's order |
//! | [`lane`] | the state machine of one lane |
//!
//! The normative page is `docs/reference/protocol.md`; its test vectors are `tests/vectors.rs`.

pub mod abuse;
pub mod code;
pub mod decoder;
pub mod flow;
pub mod frame;
pub mod headers;
pub mod lane;
pub mod message;
pub mod open;
pub mod pool;
pub mod schedule;

pub use code::ErrorCode;
pub use decoder::Decoder;
pub use frame::{FrameType, Header};
pub use lane::{Event, Health, Incoming, Key, Lane, LaneConfig, Side};
pub use open::{Open, StreamKind};
pub use pool::Pool;
