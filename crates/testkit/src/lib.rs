//! What adit's tests and benchmarks stand on: peers, services, load and faults, all on loopback.
//!
//! Nothing here knows adit's own crates, so any of them may use it in its tests.

pub mod cert;
pub mod cluster;
pub mod faulty;
pub mod kafka;
pub mod load;
pub mod network;
pub mod noise;
pub mod origin;
pub mod process;
pub mod raw;
pub mod relay;
pub mod servers;
pub mod sshd;
pub mod terminal;
pub mod ws;

mod task;
mod wire;
