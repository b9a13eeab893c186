//! One upgraded connection to an API server: its machine, its task, the handles of its streams.
//!
//! One task drives a connection. Handles reach the machine through a mutex that is never held across an await or
//! a system call; they wake the task when they leave something to be sent.

mod machine;
mod shared;
mod stream;
mod task;

pub(crate) use machine::{Key, Machine};
pub(crate) use shared::{Connection, Cuts, ReadOutcome};
#[cfg(test)]
pub(crate) use stream::PodFault;
pub(crate) use stream::{PortStream, StreamFault};
pub(crate) use task::ConnectionTask;
