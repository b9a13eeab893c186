//! The product's rules, pure: plain functions of *(state, input, now)*.
//!
//! Nothing here touches tokio, sockets, files or clocks; time and randomness come in as arguments.
//! The drivers in the crates above read bytes and clocks and act on what these machines say.
//!
//! | module | decides |
//! |---|---|
//! | [`diagnose`] | what kind of fault an error is, its exit code and HTTP status |
//! | [`name`], [`authority`], [`cidr`], [`glob`] | which names, hosts and addresses are legal or meant |
//! | [`ssh`] | which host keys are known, what `ssh -G` says |
//! | [`target`], [`forward_args`] | what a user may expose or forward to |
//! | [`secret`], [`token`], [`accounts`] | credentials and what they allow |
//! | [`backoff`], [`health`], [`bucket`], [`shutdown`], [`forward`] | when to do something |
//! | [`clock_jump`] | that the machine slept |
//! | [`near`], [`free_port`] | what to propose instead |
//! | [`config`] | what the files say, with every problem at once |
//! | [`client_hello`], [`dynamic_host`], [`route`] | where a connection or a request goes |
//! | [`head`], [`forwarded`] | what of a visitor's request goes on, and as what |
//! | [`timestamp`] | RFC 3339 without a clock |

pub mod accounts;
pub mod authority;
pub mod backoff;
pub mod bucket;
pub mod cidr;
pub mod client_hello;
pub mod clock_jump;
pub mod config;
pub mod diagnose;
pub mod dynamic_host;
pub mod forward;
pub mod forward_args;
pub mod forwarded;
pub mod free_port;
pub mod glob;
pub mod head;
pub mod health;
pub mod name;
pub mod near;
pub mod printable;
pub mod route;
pub mod secret;
pub mod shutdown;
pub mod ssh;
pub mod target;
pub mod timestamp;
pub mod token;
