//! The `publish` part of `adit.yaml`: what an agent publishes, and where.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::health::HealthSettings;
use crate::name::{Hostname, TunnelName};
use crate::target::{SshServer, Target, TargetKind};

use super::destination::JumpSettings;
use super::{Environment, Problems};

pub(super) mod parse;

pub use parse::{parse_fingerprint, parse_server_address};

/// The port of a tunnel server's agent listener.
pub const SERVER_PORT: u16 = 8443;

/// How long a connection to the local service may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Lanes of a session unless told otherwise.
pub const LANES: u32 = 2;

/// Where an SSH server is asked to listen unless told otherwise.
pub const SSH_BIND: &str = "localhost";

/// `publish`.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishConfig {
    /// The server; the command line or the environment may give it instead.
    pub server: Option<ServerAddress>,
    /// The file with the token.
    pub token_file: Option<PathBuf>,
    /// How the server is verified.
    pub trust: TrustConfig,
    /// The name in the server's certificate, when it is not the one in `server`.
    pub server_name: Option<Hostname>,
    /// The agent's own id; sessions of the same id replace each other.
    pub agent_id: Option<String>,
    /// TCP+TLS connections of the session.
    pub lanes: u32,
    /// Where metrics and health are served, if at all; loopback only.
    pub metrics: Option<SocketAddr>,
    /// An SSH server whose ports lead here, in the place of a tunnel server.
    pub via: Option<SshServer>,
    /// The tunnels in the order of the file.
    pub tunnels: Vec<PublishedTunnel>,
}

impl PublishConfig {
    /// Parses the file.
    ///
    /// # Errors
    /// With all problems of the file together.
    pub fn parse(file: &str, text: &str, env: Environment<'_>) -> Result<Self, Problems> {
        let file = super::agent_file::read(file, text, env, true)?;
        // Without the section there would have been a problem.
        Ok(file.publish.unwrap_or_default())
    }
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self {
            server: None,
            token_file: None,
            trust: TrustConfig::System,
            server_name: None,
            agent_id: None,
            lanes: LANES,
            metrics: None,
            via: None,
            tunnels: Vec::new(),
        }
    }
}

/// A tunnel server as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// The port of its agent listener.
    pub port: u16,
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How the server is verified. There is no way not to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustConfig {
    /// By the roots of the system.
    System,
    /// By the certificates of a file.
    CaFile(PathBuf),
    /// By the SHA-256 of its certificate.
    Fingerprint([u8; 32]),
}

/// One published tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedTunnel {
    /// Its key in the file, for messages.
    pub key: String,
    /// What it leads to.
    pub to: Target,
    /// How a jump is made, when `to` is one and says more than a URL.
    pub jump: Option<JumpSettings>,
    /// How the service is spoken to.
    pub scheme: TargetKind,
    /// Where visitors find it.
    pub public: PublicPlace,
    /// The address on which an SSH server is asked to listen: `localhost`, `*` for all it has, or one of them.
    pub bind: String,
    /// The Host header that the local service gets instead of the visitor's.
    pub host_header: Option<String>,
    /// What is changed in requests.
    pub headers: HeaderEdits,
    /// What is changed in answers.
    pub response_headers: HeaderEdits,
    /// Whether a byte pipe starts with a PROXY protocol version 2 header.
    pub proxy_protocol: bool,
    /// Whether the certificate of an `https` service is verified. Left out: yes, unless it is on this machine.
    pub verify: bool,
    /// How the local service is probed, if at all.
    pub health: Option<HealthCheck>,
    /// How long a connection to the local service may take.
    pub connect_timeout: Duration,
    /// How long the head of its answer may take.
    pub request_timeout: Option<Duration>,
}

impl PublishedTunnel {
    /// A tunnel with nothing but what it needs.
    #[must_use]
    pub fn new(key: String, to: Target, public: PublicPlace) -> Self {
        Self {
            key,
            verify: !is_here(&to),
            scheme: scheme_of(&to, matches!(public, PublicPlace::Port(_))),
            to,
            jump: None,
            public,
            bind: SSH_BIND.to_owned(),
            host_header: None,
            headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            proxy_protocol: false,
            health: None,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: None,
        }
    }
}

/// How a target is spoken to when nothing else is said: as its URL says, else as what is published.
#[must_use]
pub fn scheme_of(to: &Target, by_port: bool) -> TargetKind {
    match to {
        Target::Local(local) => local.kind,
        Target::Kubernetes(_) | Target::Jump(_) | Target::Ssh(_) | Target::Forward(_) if by_port => TargetKind::Tcp,
        Target::Kubernetes(_) | Target::Jump(_) | Target::Ssh(_) | Target::Forward(_) => TargetKind::Http,
    }
}

/// Whether the target is surely on this machine.
pub(super) fn is_here(to: &Target) -> bool {
    match to {
        Target::Local(local) => local.is_loopback(),
        Target::Kubernetes(_) | Target::Jump(_) | Target::Ssh(_) | Target::Forward(_) => false,
    }
}

/// Where visitors find a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PublicPlace {
    /// A name under the server's base domain that the server chooses.
    Any,
    /// A name under the server's base domain.
    Name(TunnelName),
    /// A host of the account's own.
    Host(Hostname),
    /// A TCP port of the server. For an SSH server 0 is any that is free.
    Port(u16),
}

impl std::fmt::Display for PublicPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("any name"),
            Self::Name(name) => name.fmt(f),
            Self::Host(host) => host.fmt(f),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

/// Headers to take out and to put in; what is put in replaces what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// To put in.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// To take out.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.add {
            headers.insert(name, value.clone());
        }
    }
}

/// How a local service is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a probe does.
    pub probe: Probe,
    /// How often, and what its results mean.
    pub settings: HealthSettings,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Opens a connection.
    Tcp,
    /// Asks for a path and wants a status below 400.
    Http {
        /// The path, with its slash.
        path: String,
    },
}
