//! `health` of forwards: what a probe does, and what its results mean.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::gateway::PasswordSource;
use crate::health::HealthSettings;
use crate::name::Hostname;

mod parse;
mod text;

pub(super) use parse::read;
pub use text::ProbeText;

/// From one probe of a forward to the next. Each costs a connection through the cluster, so it is longer than for
/// published services.
const INTERVAL: Duration = Duration::from_secs(30);

/// How a forward is probed.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// What a probe does.
    pub probe: HealthProbe,
    /// How often, and what its results mean.
    pub settings: HealthSettings,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthProbe {
    /// Opens a connection.
    Tcp,
    /// Sends a request.
    Http(HttpProbe),
    /// Logs in and asks `SELECT 1`.
    Postgres(PostgresProbe),
    /// Asks `PING`.
    Redis(RedisProbe),
    /// Reads the server's greeting.
    Mysql,
    /// Asks the service `grpc.health.v1.Health`.
    Grpc(GrpcProbe),
    /// Asks a Kafka broker for the cluster.
    Kafka(KafkaProbe),
    /// Runs a program.
    Exec(ExecProbe),
}

/// How the server's certificate is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTls {
    /// Whether the certificate is verified.
    pub verify: bool,
    /// A file with the authorities; the system's if none is given.
    pub ca: Option<PathBuf>,
    /// The name that the certificate must have; the target's host if none is given.
    pub server_name: Option<Hostname>,
}

impl Default for ProbeTls {
    fn default() -> Self {
        Self { verify: true, ca: None, server_name: None }
    }
}

/// Who logs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: Option<ProbeText>,
    /// The user's password.
    pub password: Option<PasswordSource>,
}

/// A request that is sent as a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Whether it is spoken over TLS, and how.
    pub tls: Option<ProbeTls>,
    /// The method.
    pub method: http::Method,
    /// The path that is asked for, with its slash.
    pub path: String,
    /// The same for everybody to read: what variables hold is hidden.
    pub shown_path: String,
    /// The statuses that are good; none is all below 400.
    pub status: Vec<StatusRange>,
    /// What the answer must contain.
    pub content: Option<ProbeText>,
    /// Headers beside our own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What stands in the header `Host`; the target's host if none is given.
    pub host_header: Option<ProbeText>,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            tls: None,
            method: http::Method::GET,
            path: "/".to_owned(),
            shown_path: "/".to_owned(),
            status: Vec::new(),
            content: None,
            headers: Vec::new(),
            host_header: None,
        }
    }
}

impl HttpProbe {
    /// Whether a status is a good one.
    #[must_use]
    pub fn accepts(&self, status: u16) -> bool {
        if self.status.is_empty() {
            return status < 400;
        }
        self.status.iter().any(|range| range.first <= status && status <= range.last)
    }
}

/// Statuses from one to another, as in `200-299`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The first.
    pub first: u16,
    /// The last, which belongs to it.
    pub last: u16,
}

impl std::fmt::Display for StatusRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A login to PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresProbe {
    /// Who logs in; without a user only whether PostgreSQL answers.
    pub login: Credentials,
    /// The database; without it the user's.
    pub database: Option<ProbeText>,
    /// Whether TLS is spoken.
    pub sslmode: SslMode,
    /// How the certificate is looked at; `verify` is the mode's.
    pub tls: ProbeTls,
}

/// Whether a probe of PostgreSQL speaks TLS, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// When the server has it; its certificate is not verified.
    #[default]
    Prefer,
    /// Always; the certificate is verified when there is a file of authorities.
    Require,
    /// Always, and the certificate and its name are verified.
    Verify,
}

impl SslMode {
    /// As it is written in a file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::Verify => "verify-full",
        }
    }
}

/// A `PING` to Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisProbe {
    /// Who logs in; nobody without a password.
    pub login: Credentials,
    /// Whether it is spoken over TLS, and how.
    pub tls: Option<ProbeTls>,
}

/// A call of gRPC's health service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcProbe {
    /// The service that is asked after; without it the server as a whole.
    pub service: ProbeText,
    /// Whether it is spoken over TLS, and how.
    pub tls: Option<ProbeTls>,
    /// The authority of the call; the target's host if none is given.
    pub host_header: Option<ProbeText>,
}

/// Questions to a Kafka broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaProbe {
    /// Who logs in; without a user nobody does.
    pub login: Credentials,
    /// How.
    pub mechanism: SaslMechanism,
    /// Whether it is spoken over TLS, and how.
    pub tls: Option<ProbeTls>,
}

/// A way to log in to Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password as it is.
    #[default]
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    /// As it is written in a file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::ScramSha256 => "scram-sha-256",
            Self::ScramSha512 => "scram-sha-512",
        }
    }

    /// As Kafka calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A program whose exit code says how the target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecProbe {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// The same for everybody to read: what variables hold is hidden.
    pub shown: Vec<String>,
}

impl HealthProbe {
    /// As it is written in a file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(HttpProbe { tls: None, .. }) => "http",
            Self::Http(HttpProbe { tls: Some(_), .. }) => "https",
            Self::Postgres(_) => "postgres",
            Self::Redis(_) => "redis",
            Self::Mysql => "mysql",
            Self::Grpc(_) => "grpc",
            Self::Kafka(_) => "kafka",
            Self::Exec(_) => "exec",
        }
    }

    /// Who logs in, where somebody may.
    #[must_use]
    pub const fn login(&self) -> Option<&Credentials> {
        match self {
            Self::Postgres(PostgresProbe { login, .. })
            | Self::Redis(RedisProbe { login, .. })
            | Self::Kafka(KafkaProbe { login, .. }) => Some(login),
            Self::Tcp | Self::Http(_) | Self::Mysql | Self::Grpc(_) | Self::Exec(_) => None,
        }
    }

    /// How certificates are looked at, where TLS is spoken.
    #[must_use]
    pub const fn tls(&self) -> Option<&ProbeTls> {
        match self {
            Self::Http(HttpProbe { tls, .. })
            | Self::Redis(RedisProbe { tls, .. })
            | Self::Grpc(GrpcProbe { tls, .. })
            | Self::Kafka(KafkaProbe { tls, .. }) => tls.as_ref(),
            Self::Postgres(PostgresProbe { tls, .. }) => Some(tls),
            Self::Tcp | Self::Mysql | Self::Exec(_) => None,
        }
    }
}
