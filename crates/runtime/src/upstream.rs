//! HTTP connections to services, kept between requests: HTTP/1.1 by a pool whose connections are driven by the requests
//! that use them, HTTP/2 by one connection that all share.

use std::time::Duration;

pub mod h1;
pub mod h2;
mod listening;

pub use h1::{Pool, UpstreamConnection};
pub use h2::{Dial, H2Fault, SharedConnection, SharedSender};

/// What hyper takes as the error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Servers close idle connections after 60 seconds as a rule, some after 5; half of the former leaves a
/// margin, and the latter is noticed when the connection is taken.
pub const IDLE: Duration = Duration::from_secs(30);
/// Connections that wait per service. More than that at once is a burst, whose connections are dropped.
pub const IDLE_MAX: usize = 128;
