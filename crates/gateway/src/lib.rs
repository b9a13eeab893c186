//! Local entrances: what comes in at a port of this machine and goes to a target.
//!
//! | module | what is in it |
//! |---|---|
//! | [`entrances`] | everything that one `adit.yaml` opens, and how the next version takes its place |
//! | [`entrance`], [`port`] | a listening socket; a TCP port that leads to one target |
//! | [`door`] | the port for HTTP and TLS: what a connection is, and TLS that ends here |
//! | `places` | how many clients there are descriptors for |
//! | `hello`, `passthrough`, `replay` | the ClientHello; TLS that is handed on as it is |
//! | [`http`] | a connection that speaks HTTP: which route each request is for, and the reverse proxy |
//! | [`upstream`] | where a route leads: connections to the target, kept between requests |
//! | [`routes`], [`table`] | the routes in force; those of one configuration |
//! | [`dynamic`] | host names that say themselves what they mean |
//! | [`targets`] | the forwards that entrances lead to |
//! | [`pages`] | what the gateway says itself: the index, and errors |
//! | [`failures`] | what went wrong last, and whether it has worked since |
//! | `speaks` | what a port speaks by its number and name, for links |
//! | [`rows`], [`traffic`] | what is open and what it has carried, for tables and JSON |

pub mod door;
pub mod dynamic;
pub mod entrance;
pub mod entrances;
pub mod failures;
mod hello;
pub mod http;
pub mod pages;
mod passthrough;
mod places;
pub mod port;
mod replay;
pub mod routes;
pub mod rows;
mod speaks;
pub mod table;
pub mod targets;
pub mod traffic;
pub mod upstream;
