//! What the files say: `server.yaml` and `adit.yaml`, with every problem reported at once.
//!
//! A file is read into a tree that keeps its places, then walked with getters that record a problem and go on.
//! So five mistakes are five problems, each with file, line, key and a hint.

mod agent_file;
mod check;
pub mod daemon;
pub mod destination;
pub mod diff;
mod document;
pub mod export;
pub mod forwards;
pub mod gateway;
pub mod import;
pub mod kubernetes;
mod places;
mod problem;
pub mod publish;
mod reader;
pub mod server;
pub mod show;
mod substitute;
mod tree;
pub mod unit;

pub use agent_file::AgentFile;
pub use daemon::DaemonConfig;
pub use destination::{CreateSettings, JumpSettings};
pub use diff::ConfigDiff;
pub use forwards::{Defaults, ForwardConfig};
pub use gateway::{GatewayConfig, GatewayTls, RouteConfig};
pub use kubernetes::KubernetesConfig;
pub use places::Places;
pub use problem::{Problem, Problems};
pub use publish::PublishConfig;
pub use server::ServerConfig;

/// Looks up an environment variable; the caller has the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads an address to listen on, in the short forms of the files: `IP:PORT`, `:PORT`, `PORT`, `localhost:PORT`,
/// `*:PORT`. A port alone is at the `default` address.
///
/// # Errors
/// When it is none; the problem has no place.
pub fn listen_address(text: &str, default: std::net::IpAddr) -> Result<std::net::SocketAddr, Problem> {
    reader::listen_address(text, default).map_err(reader::Complaint::without_place)
}

/// The version that both files state.
pub const CONFIG_VERSION: u32 = 1;

/// A first `adit.yaml`: what holds anyway, with examples as comments.
pub const DEFAULT_FILE: &str = include_str!("config/adit.default.yaml");

/// A JSON Schema of `adit.yaml`, for editors.
pub const SCHEMA: &str = include_str!("config/adit.schema.json");

#[cfg(test)]
mod tests;
