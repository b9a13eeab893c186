//! TCP connections as the kernel sees them: which process connects where, how fast, and what fails.
//!
//! [`decode`] and [`table`] are pure: bytes to records, records to connections, processes and remotes. A
//! [`source::Source`] brings the records: programs in the kernel, or a poll of its sockets where those are not permitted.

pub mod agent;
#[cfg(target_os = "linux")]
pub mod confine;
pub mod decode;
mod hash;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod source;
pub mod table;
