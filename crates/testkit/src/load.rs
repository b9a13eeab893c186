//! Load that costs little itself and measures honestly.
//!
//! HTTP requests closed-loop (as fast as answers come) and open-loop (at a rate, measured from the intended
//! send time), bulk transfers, small echoes, idle and stalled connections, and the half-close cases.
//! All but plain HTTP speak to a [`crate::origin::TcpOrigin`], through whatever lies between.

mod bulk;
mod echo;
mod half_close;
mod histogram;
mod http;
mod idle;
mod pace;

pub use bulk::{Bulk, BulkDirection};
pub use echo::{echo_whole, noise_echo, ping};
pub use half_close::half_close;
pub use histogram::Histogram;
pub use http::{HttpLoad, Report};
pub use idle::{Idle, StalledReaders, StalledWriters};
pub use pace::Pace;
