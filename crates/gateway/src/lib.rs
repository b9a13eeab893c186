//! Local entrances: what comes in at a port of this machine and goes to a target.
//!
//! | module | what is in it |
//! |---|---|
//! | [`http`] | a connection that speaks HTTP: which route each request is for, and the reverse proxy |
//! | [`upstream`] | where a route leads: connections to the target, kept between requests |
//! | [`pages`] | what the gateway says itself: the index, and errors |

pub mod http;
pub mod pages;
pub mod upstream;
