//! The section `gateway` of `adit.yaml`: the port for HTTP and TLS, and what it leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::destination::JumpSettings;
use super::publish::HeaderEdits;
use crate::cidr::Cidr;
use crate::glob::GlobPattern;
use crate::name::Hostname;
use crate::route::{HostPattern, PathPrefix};
use crate::secret::Secret;
use crate::target::Target;

use super::forwards::IDLE_TIMEOUT;

pub(super) mod parse;
mod route;

/// The port for HTTP and TLS.
pub const GATEWAY_PORT: u16 = 8989;

/// The suffix of dynamic hosts.
pub const DYNAMIC_HOST: &str = "k8s.localhost";

/// `gateway`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// The addresses for HTTP and TLS.
    pub listen: Vec<SocketAddr>,
    /// The suffix of dynamic hosts; `None` is none of them.
    pub dynamic_host: Option<Hostname>,
    /// Labels that stand for contexts in dynamic hosts.
    pub aliases: Vec<(String, String)>,
    /// Which clusters dynamic hosts may lead to.
    pub allow: Allow,
    /// After how long without use what a route or a dynamic host started ends; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// What is done with TLS.
    pub tls: GatewayTls,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// The static routes in the order of the file.
    pub routes: Vec<RouteConfig>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: loopbacks(GATEWAY_PORT),
            dynamic_host: Hostname::parse(DYNAMIC_HOST).ok(),
            aliases: Vec::new(),
            allow: Allow::default(),
            idle_timeout: Some(IDLE_TIMEOUT),
            tls: GatewayTls::Passthrough,
            trusted_proxies: Vec::new(),
            routes: Vec::new(),
        }
    }
}

/// Which clusters dynamic hosts may lead to. An empty list is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// By the context's name.
    pub contexts: Vec<GlobPattern>,
    /// By the namespace's name.
    pub namespaces: Vec<GlobPattern>,
}

impl Allow {
    /// Whether a namespace of a context may be reached.
    #[must_use]
    pub fn permits(&self, context: &str, namespace: &str) -> bool {
        let fits = |patterns: &[GlobPattern], name: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
        };
        fits(&self.contexts, context) && fits(&self.namespaces, namespace)
    }

    /// Whether any namespace of a context may be reached.
    #[must_use]
    pub fn permits_context(&self, context: &str) -> bool {
        self.contexts.is_empty() || self.contexts.iter().any(|pattern| pattern.matches(context))
    }
}

/// What the gateway does with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayTls {
    /// It goes through as it is; the service has the certificate.
    #[default]
    Passthrough,
    /// It ends here, with certificates of a local authority.
    Local,
}

/// One static route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// Its key in the file.
    pub key: String,
    /// The host it is for.
    pub host: HostPattern,
    /// The paths it is for; without it all of the host.
    pub path: Option<PathPrefix>,
    /// Where it leads.
    pub to: Target,
    /// How a jump is made, when `to` is one and says more than a URL.
    pub jump: Option<JumpSettings>,
    /// How the service is spoken to.
    pub scheme: UpstreamScheme,
    /// How an `https` service is verified.
    pub tls: UpstreamTls,
    /// Whether TLS from the visitor ends here.
    pub terminate: bool,
    /// The Host header that the service gets instead of the visitor's.
    pub host_header: Option<String>,
    /// What is changed in requests.
    pub headers: HeaderEdits,
    /// What is changed in answers.
    pub response_headers: HeaderEdits,
    /// Who may pass.
    pub basic_auth: Option<BasicAuth>,
    /// How long the head of the service's answer may take.
    pub timeout: Option<Duration>,
}

impl RouteConfig {
    /// Whether TLS of visitors is handed on to the service: it has its own, or nobody said that it has none.
    #[must_use]
    pub fn passes_tls(&self) -> bool {
        !self.terminate && (self.scheme == UpstreamScheme::Https || route::is_byte_pipe(&self.to))
    }

    /// Whether `https` is the way to it: the visitor then sees the service's own certificate, and nothing is said of how
    /// to check it here, as a request by `http` needs.
    #[must_use]
    pub fn is_for_https(&self) -> bool {
        let passes = self.passes_tls() && self.path.is_none();
        passes && self.scheme == UpstreamScheme::Https && self.tls == UpstreamTls::default()
    }
}

/// How a service behind the gateway is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UpstreamScheme {
    /// HTTP/1.1 in the clear.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP/2 in the clear, by prior knowledge.
    H2c,
}

impl UpstreamScheme {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        }
    }
}

/// How an `https` service is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Whether its certificate is verified at all.
    pub verify: bool,
    /// The authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The name in its certificate, when it is not the one it is asked by.
    pub server_name: Option<Hostname>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { verify: true, ca: None, server_name: None }
    }
}

/// A user and a password that visitors must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The user.
    pub user: String,
    /// The password.
    pub password: PasswordSource,
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// In the file, best by a variable.
    Value(Secret<String>),
    /// In a file of its own.
    File(PathBuf),
}

/// A port on both loopback addresses. For port 0 only IPv4, as each would get another.
fn loopbacks(port: u16) -> Vec<SocketAddr> {
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    if port == 0 { vec![v4] } else { vec![v4, v6] }
}

#[cfg(test)]
mod tests;
