//! The driver of the protocol: TLS, the task of a lane, and the handles of its streams.
//!
//! One task drives a lane. Handles reach the pure machine through a mutex that is never held across an
//! await or a system call; they wake the task when they leave something to be sent.

mod shared;
mod stream;
mod task;

pub(crate) use runtime::pipe::{Pipe as TlsPipe, PipeFault as TlsFault};
pub(crate) use shared::{LaneEnd, LaneHandler, LaneShared};
pub use stream::Stream;
pub(crate) use task::LaneTask;
