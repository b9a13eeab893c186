//! The tokio glue every part of adit shares: task scopes, listeners, connections, TLS, readiness,
//! the admin server, logs, signals. The only crate that spawns tasks.

pub mod ack;
pub mod activation;
pub mod admin;
pub mod connect;
pub mod control;
pub mod delivery;
pub mod executor;
pub mod guard;
pub mod lines;
pub mod listener;
pub mod network;
pub mod page;
pub mod password;
pub mod peer;
pub mod pipe;
pub mod places;
pub mod readiness;
pub mod regular_file;
pub mod scope;
pub mod shutdown;
pub mod signals;
pub mod socket;
pub mod splice;
pub mod telemetry;
pub mod tls;
pub mod unread;
pub mod upstream;
pub mod watch;

pub use connect::{BoxFuture, Connect, ConnectError, Duplex, Io, TcpConnect, TlsConnect};
pub use listener::{BindError, BoundListener, ConnectionLimit, ConnectionPermit};
pub use scope::Scope;
