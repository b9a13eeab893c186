//! Targets: what a forward leads to, and how it is reached. The only crate that knows Kubernetes and SSH; above it there are
//! [`Forward`] (a [`runtime::Connect`]), [`Lease`] and [`ForwardReport`].
//!
//! | module | what is in it |
//! |---|---|
//! | [`supervisor`] | drives the forward machine of `adit-core`: starts, waits, backs off, stops |
//! | [`clusters`] | one API client per context, shared by all forwards |
//! | `services` | what services a context has |
//! | `session` | a running target: Kubernetes, jump, or a plain address |
//! | [`probe`] | asks a target in its own protocol whether it is well |
//! | `ssh` | SSH servers, their connections and streams |
//! | `k8s` | kubeconfig, credentials, resolution by watch, SPDY and WebSocket transports, exec |

pub mod clusters;
pub mod error;
pub mod probe;
pub mod set;
pub mod supervisor;

mod k8s;
mod reach;
mod report;
mod services;
mod session;
mod ssh;

pub use clusters::Clusters;
pub use error::ForwardError;
pub use k8s::api::{Api, ApiError};
pub use k8s::kubeconfig::{KubeSettings, KubeconfigError, Kubeconfigs, PluginUse};
pub use k8s::plugin::PluginError;
pub use k8s::proxy::ProxyError;
pub use report::{ForwardReport, HealthReport, LastTrouble};
pub use services::{ServiceEntry, ServiceList, Wanted as WantedServices};
pub use session::{CreatePod, JumpOptions};
pub use set::{ForwardSet, ForwardSpec};
pub use ssh::ask::{SECRET_VARIABLES, SshAsk};
pub use ssh::dial::ShownKey;
pub use ssh::error::SshError;
pub use ssh::look::SshFacts;
pub use ssh::remote::{RemoteEvent, RemoteEvents, RemotePort, RemotePorts};
pub use ssh::servers::SshServers;
pub use supervisor::{Forward, ForwardOptions, Lease};
