//! `server.yaml`: everything a tunnel server can be told. All of it is optional.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::cidr::Cidr;
use crate::name::{Hostname, PortRange};
use crate::shutdown::PhaseTimes;

use super::{Environment, Problems};

mod auth;
mod parse;

pub use auth::{AuthConfig, JwtAlgorithm, JwtClaims, JwtConfig, JwtKeys};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerConfig {
    /// Where certificates, tokens and logs are kept; the caller has the default.
    pub data_dir: Option<PathBuf>,
    /// Worker threads; half the number of processors, rounded up, when absent.
    pub workers: Option<usize>,
    /// The side of the visitors.
    pub public: PublicConfig,
    /// The side of the agents.
    pub agents: AgentsConfig,
    /// Who may connect.
    pub auth: AuthConfig,
    /// What an account may use unless its own entry says otherwise.
    pub quotas: Quotas,
    /// Accounts with an entry of their own.
    pub accounts: BTreeMap<String, AccountConfig>,
    /// What protects the server itself.
    pub limits: LimitsConfig,
    /// Rules for tunnel names.
    pub names: NamesConfig,
    /// Metrics and health.
    pub admin: AdminConfig,
    /// Logs.
    pub log: LogConfig,
    /// How long each phase of a shutdown may take.
    pub shutdown: PhaseTimes,
    /// The tunnel protocol's settings.
    pub tunnel: TunnelConfig,
}

impl ServerConfig {
    /// Parses the file.
    ///
    /// # Errors
    /// With all problems of the file together.
    pub fn parse(file: &str, text: &str, env: Environment<'_>) -> Result<Self, Problems> {
        parse::parse(file, text, env)
    }

    /// The quotas of an account.
    #[must_use]
    pub fn quotas_of(&self, account: &str) -> &Quotas {
        self.accounts.get(account).map_or(&self.quotas, |entry| &entry.quotas)
    }

    /// Custom hosts an account may take, beside those of its token.
    #[must_use]
    pub fn hosts_of(&self, account: &str) -> &[Hostname] {
        self.accounts.get(account).map_or(&[], |entry| &entry.hosts)
    }

    /// Whether a name is reserved, by the list that always holds or by this file.
    #[must_use]
    pub fn is_reserved(&self, name: &str) -> bool {
        crate::name::reserved(name) || self.names.reserved.iter().any(|n| n.eq_ignore_ascii_case(name))
    }

    /// Whether an address is a trusted proxy.
    #[must_use]
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        self.public.trusted_proxies.iter().any(|block| block.contains(address))
    }

    /// The URL under which visitors reach a host. `port` is the listener's real one.
    #[must_use]
    pub fn public_url(&self, host: &Hostname, port: u16) -> String {
        let (https, port) = match &self.public.url {
            Some(url) => (url.https, url.port),
            None => (self.public.tls.is_some(), Some(port)),
        };
        let (scheme, usual) = if https { ("https", 443) } else { ("http", 80) };
        match port {
            Some(port) if port != usual => format!("{scheme}://{host}:{port}"),
            Some(_) | None => format!("{scheme}://{host}"),
        }
    }
}

/// `public`: where visitors come in.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicConfig {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Tunnels are names under it.
    pub base_domain: Hostname,
    /// What users are shown, when it differs from the listener: behind a proxy or another port.
    pub url: Option<PublicUrl>,
    /// Certificate and key; without them the listener speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Public TCP ports that tunnels may take; none when absent.
    pub tcp_ports: Option<PortRange>,
    /// The address on which those ports listen, when it is written; see [`PublicConfig::tcp_address`].
    pub tcp_listen: Option<IpAddr>,
}

impl PublicConfig {
    /// The address on which public TCP ports listen: the one that is written; else, when the HTTP side is for this
    /// machine only, its address; else every address.
    #[must_use]
    pub fn tcp_address(&self) -> IpAddr {
        let here = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        let of_http = self.listen.first().filter(|_| self.listen.iter().all(here)).map(SocketAddr::ip);
        self.tcp_listen.or(of_http).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// The scheme and port that users are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// Whether it is https.
    pub https: bool,
    /// The port, when it is not the usual one of the scheme.
    pub port: Option<u16>,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `agents`: where agents come in. Always TLS; self-signed without files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentsConfig {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Certificate and key; without them the server makes its own once and keeps it.
    pub tls: Option<TlsFiles>,
}

/// What an account may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Agents connected at a time.
    pub agents: u32,
    /// Tunnels registered at a time.
    pub tunnels: u32,
    /// Streams open at a time.
    pub streams: u32,
    /// Requests a second; 0 is no limit.
    pub requests_per_second: u32,
    /// Requests at once; as many as a second has when absent.
    pub burst: Option<u32>,
    /// Bytes a second from visitors to services; `None` is no limit.
    pub upload: Option<u64>,
    /// Bytes a second from services to visitors; `None` is no limit.
    pub download: Option<u64>,
}

/// `accounts.NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountConfig {
    /// Its quotas, filled up with the general ones.
    pub quotas: Quotas,
    /// Custom hosts it may take.
    pub hosts: Vec<Hostname>,
    /// Public TCP ports it may take.
    pub ports: Option<PortRange>,
}

/// `limits`: what protects the server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Visitor connections at a time.
    pub connections: usize,
    /// Agents at a time.
    pub agents: usize,
    /// Agent connections that have not authenticated yet.
    pub unauthenticated: usize,
    /// The same from one source: an IPv4 address or an IPv6 /64.
    pub unauthenticated_per_prefix: usize,
    /// Bytes of a request's head.
    pub head_size: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of memory for growing receive windows.
    pub memory: u64,
    /// How long a visitor may take for a head.
    pub header_timeout: Duration,
    /// Bytes a second a request body must come at, after ten seconds; 0 is no minimum.
    pub body_min_rate: u64,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long the head of an answer may take.
    pub response_timeout: Duration,
    /// How long a TLS handshake may take.
    pub tls_timeout: Duration,
    /// How long an agent may take to authenticate.
    pub auth_timeout: Duration,
}

/// `names`: rules for tunnel names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesConfig {
    /// How long a released name waits before another account may take it.
    pub cooldown: Duration,
    /// Names nobody gets, beside the built-in list.
    pub reserved: Vec<String>,
}

/// `admin`: metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// The address to listen on; loopback only.
    pub listen: SocketAddr,
}

/// `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Where one line for each request goes.
    pub access: LogTarget,
    /// Where the audit log goes; `audit.jsonl` in the data directory when absent.
    pub audit: Option<LogTarget>,
    /// The least serious level that is logged.
    pub level: Option<LogLevel>,
    /// The form of the log.
    pub format: LogFormat,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The end of a file.
    File(PathBuf),
}

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something is odd.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level as the log filter writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `tunnel`: the protocol's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// A heartbeat goes out after this long without traffic.
    pub heartbeat: Duration,
    /// A lane is dead after this long without a sign.
    pub dead_after: Duration,
    /// Lanes a session may have.
    pub lanes_max: u32,
    /// The largest receive window of a stream.
    pub window_max: u32,
}

impl Default for PublicConfig {
    fn default() -> Self {
        Self {
            listen: vec![any_address(8080)],
            base_domain: Hostname::parse("localhost").expect("`localhost` is a host name"),
            url: None,
            tls: None,
            trusted_proxies: Vec::new(),
            tcp_ports: None,
            tcp_listen: None,
        }
    }
}

impl Default for AgentsConfig {
    fn default() -> Self {
        Self { listen: vec![any_address(8443)], tls: None }
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            agents: 10,
            tunnels: 50,
            streams: 1000,
            requests_per_second: 0,
            burst: None,
            upload: None,
            download: None,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 10_000,
            agents: 5000,
            unauthenticated: 512,
            unauthenticated_per_prefix: 64,
            head_size: 64 * 1024,
            headers: 100,
            memory: 256 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            body_min_rate: 1024,
            idle_timeout: Duration::from_secs(120),
            response_timeout: Duration::from_secs(60),
            tls_timeout: Duration::from_secs(5),
            auth_timeout: Duration::from_secs(5),
        }
    }
}

impl Default for NamesConfig {
    fn default() -> Self {
        Self { cooldown: Duration::from_secs(24 * 3600), reserved: Vec::new() }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { access: LogTarget::Stderr, audit: None, level: None, format: LogFormat::Text }
    }
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            dead_after: Duration::from_secs(10),
            lanes_max: 8,
            window_max: 16 * 1024 * 1024,
        }
    }
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}
