//! SSH: one authenticated connection per server, shared by all forwards that lead through it.
//!
//! | module | what is in it |
//! |---|---|
//! | `servers` | the servers in use, each once |
//! | `bastion` | one server: its connections, one login at a time, when to try again |
//! | `dial` | transport, key exchange, login |
//! | `settings` | what `ssh -G` says, and our options over it |
//! | `own_config` | the same without that program |
//! | `host_keys` | which key a server may show |
//! | `key_files` | when a key that was not believed is looked at again |
//! | `auth`, `keys`, `ask` | who we are |
//! | `link`, `stream`, `flow`, `leaving` | one connection, its streams, what of them waits, how they end |
//! | `life` | which connections live |
//! | `look` | what keeps a login from being made, seen without a word to the server |
//! | `refusals` | why a server opens no stream |
//! | `budget` | how much of all streams may wait |
//! | `roomy` | the way through another server |
//! | `remote` | ports of a server that lead here |
//! | `words` | what a server says |
//! | `openssh` | the same by child processes `ssh -W` |

pub(crate) mod ask;
pub(crate) mod dial;
pub(crate) mod error;
pub(crate) mod look;
pub(crate) mod remote;
pub(crate) mod servers;
pub(crate) mod target;

mod auth;
mod bastion;
mod budget;
mod flow;
mod gathered;
mod host_keys;
mod key_files;
mod keys;
mod leaving;
mod life;
mod link;
mod openssh;
mod own_config;
mod refusals;
mod roomy;
mod settings;
mod stream;
mod transport;
mod words;

#[cfg(test)]
mod tests;
