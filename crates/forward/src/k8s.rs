//! Kubernetes: kubeconfig, credentials, the API server, resolution of targets and the port-forward transport.

pub(crate) mod api;
mod channels;
pub(crate) mod connection;
mod credentials;
mod dial;
mod exec;
pub(crate) mod jump;
mod keepalive;
pub(crate) mod kubeconfig;
pub(crate) mod objects;
pub(crate) mod plugin;
mod pool;
mod port_forward;
pub(crate) mod proxy;
pub(crate) mod resolve;
mod shared_trouble;
mod stream;
pub(crate) mod target;
mod unreached;
mod upgrade;
pub(crate) mod watch;
mod websocket;
