//! The public entrance: tunnel server and agent.
//!
//! | module | what is in it |
//! |---|---|
//! | [`agent`] | the end that publishes local services |
//! | [`server`] | the end that visitors reach |

pub mod agent;
mod described;
mod handshake;
mod lane;
mod pump;
pub mod server;
mod throttle;
mod wire_http;

pub use described::described;
pub use lane::Stream;
