//! What an agent is told: the server, the credential and the tunnels.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use adit_core::backoff::BackoffSettings;
use adit_core::config::publish::HealthCheck;
use adit_core::secret::Secret;
use adit_core::target::{LocalTarget, TargetKind};
use mux::message::{TunnelKind, TunnelSpec};
use runtime::tls::{ServerTrust, TlsError};
use runtime::{Connect, TcpConnect, TlsConnect};
use tokio::sync::watch;

use super::rules::HeaderRules;

/// How long one attempt to reach a local service may take, unless said otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Receive windows of all streams together may grow by this much, unless said otherwise.
pub const MEMORY: u64 = 128 << 20;
/// Lanes of a session, unless said otherwise.
pub const LANES: u8 = 2;
/// The waits of an agent that is not to give up. What a server refuses somebody has to mend, and thousands of agents that
/// wait for that must not be a burden.
pub const PATIENCE: BackoffSettings = BackoffSettings {
    first: Duration::from_secs(60),
    base: Duration::from_secs(60),
    growth: 2.0,
    cap: Duration::from_secs(600),
};

/// Everything an agent is told.
#[derive(Debug)]
pub struct AgentConfig {
    /// The server's agent address, `host:port`.
    pub server: String,
    /// The name its certificate has, when that is not the host in `server`.
    pub server_name: Option<String>,
    /// What makes its certificate acceptable.
    pub trust: ServerTrust,
    /// The credential.
    pub token: TokenSource,
    /// Rises when the token may have changed; the token is then read and sent anew.
    pub token_changed: Option<watch::Receiver<u64>>,
    /// Names this agent across restarts; a newer session with the same one takes over.
    pub agent_id: String,
    /// Program and version, for the server's logs.
    pub software: String,
    /// Lanes wanted, 1 to 8.
    pub lanes: u8,
    /// Bytes by which the receive windows of all streams together may grow.
    pub memory: u64,
    /// Whether to go on trying when the server cannot be reached at the start.
    pub wait_for_server: bool,
    /// With which waits, less up to a quarter, a server is asked again that has refused this agent or cannot be trusted;
    /// `None`: the agent ends. Such as [`PATIENCE`].
    pub patience: Option<BackoffSettings>,
    /// What to publish. An agent without tunnels is connected and serves nothing.
    pub tunnels: Vec<AgentTunnel>,
}

impl AgentConfig {
    /// A configuration with the defaults for all that is not named here.
    #[must_use]
    pub fn new(server: &str, trust: ServerTrust, token: TokenSource, agent_id: &str) -> Self {
        Self {
            server: server.to_owned(),
            server_name: None,
            trust,
            token,
            token_changed: None,
            agent_id: agent_id.to_owned(),
            software: concat!("adit/", env!("CARGO_PKG_VERSION")).to_owned(),
            lanes: LANES,
            memory: MEMORY,
            wait_for_server: true,
            patience: None,
            tunnels: Vec::new(),
        }
    }
}

/// Where the credential comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// It was given once, by the environment or on standard input.
    Fixed(Secret<String>),
    /// A file, read at each connect and when it may have changed.
    File(PathBuf),
}

/// One tunnel: what the public sees, and the local service behind it.
pub struct AgentTunnel {
    /// The label in messages and metrics.
    pub name: String,
    /// What is asked of the server.
    pub wanted: Wanted,
    /// Opens a connection to the local service.
    pub connect: Arc<dyn Connect>,
    /// Opens one that speaks HTTP/2, when that takes another way (ALPN); `None`: by `connect`.
    pub connect_h2: Option<Arc<dyn Connect>>,
    /// Streams of visitors that are open now: counted by the agent, for whoever shows it.
    pub streams: Arc<AtomicU64>,
    /// The local service as the user wrote it.
    pub local: String,
    /// What the local service speaks; of no meaning for a TCP tunnel.
    pub protocol: LocalProtocol,
    /// The Host the local service is to see instead of the public one.
    pub host_header: Option<String>,
    /// Changes to requests.
    pub request_headers: HeaderRules,
    /// Changes to answers.
    pub response_headers: HeaderRules,
    /// Whether a TCP service is told the visitor's address by PROXY protocol version 2.
    pub proxy_protocol: bool,
    /// How the local service is probed.
    pub health: Option<HealthCheck>,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take; `None` leaves that to the server.
    pub request_timeout: Option<Duration>,
}

impl AgentTunnel {
    /// A tunnel to whatever `connect` reaches, with the defaults for the rest.
    pub fn new(name: &str, wanted: Wanted, connect: Arc<dyn Connect>) -> Self {
        Self {
            name: name.to_owned(),
            wanted,
            local: connect.describe(),
            connect,
            connect_h2: None,
            streams: Arc::default(),
            protocol: LocalProtocol::Http,
            host_header: None,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            proxy_protocol: false,
            health: None,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: None,
        }
    }

    /// A tunnel to an address the user named; `verify` is for `https` on this machine, elsewhere it is always verified.
    ///
    /// # Errors
    /// [`TlsError`] when an `https` target's certificate authorities cannot be read.
    pub fn to_target(
        name: &str,
        wanted: Wanted,
        target: &LocalTarget,
        connect_timeout: Duration,
        verify: bool,
    ) -> Result<Self, TlsError> {
        let (host, port) = (target.host.as_str(), target.port);
        let tls = |alpn: &[u8]| TlsConnect::to_service(host, port, connect_timeout, &[alpn], verify).map(Arc::new);
        let (protocol, connect, connect_h2): (_, Arc<dyn Connect>, Option<Arc<dyn Connect>>) = match target.kind {
            TargetKind::Https => (LocalProtocol::Https, tls(b"http/1.1")?, Some(tls(b"h2")?)),
            TargetKind::H2c => (LocalProtocol::H2c, Arc::new(TcpConnect::new(host, port, connect_timeout)), None),
            TargetKind::Http | TargetKind::Tcp => {
                (LocalProtocol::Http, Arc::new(TcpConnect::new(host, port, connect_timeout)), None)
            }
        };
        Ok(Self {
            connect_h2,
            protocol,
            local: target.to_string(),
            connect_timeout,
            ..Self::new(name, wanted, connect)
        })
    }

    /// What Register says of this tunnel.
    pub(super) fn spec(&self, id: u32, healthy: bool) -> TunnelSpec {
        let mut spec = TunnelSpec { id, healthy, kind: self.wanted.kind(), ..TunnelSpec::default() };
        match &self.wanted {
            Wanted::AnyName => {}
            Wanted::Name(name) => spec.name.clone_from(name),
            Wanted::Host(host) => spec.host.clone_from(host),
            Wanted::Port(port) => spec.port = *port,
        }
        spec
    }
}

impl fmt::Debug for AgentTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentTunnel")
            .field("name", &self.name)
            .field("wanted", &self.wanted)
            .field("local", &self.local)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// What a tunnel asks the server for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any subdomain.
    AnyName,
    /// This subdomain.
    Name(String),
    /// This host, outside the server's own domain.
    Host(String),
    /// This TCP port; 0 is any.
    Port(u16),
}

impl Wanted {
    /// What the tunnel carries.
    #[must_use]
    pub fn kind(&self) -> TunnelKind {
        match self {
            Self::AnyName | Self::Name(_) | Self::Host(_) => TunnelKind::Http,
            Self::Port(_) => TunnelKind::Tcp,
        }
    }
}

/// What a local HTTP service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalProtocol {
    /// HTTP/1.1; HTTP/2 by prior knowledge for gRPC, when the service understands that.
    Http,
    /// The same over TLS.
    Https,
    /// HTTP/2 by prior knowledge.
    H2c,
}

impl LocalProtocol {
    /// The scheme of the requests it gets.
    pub(super) fn scheme(self) -> http::uri::Scheme {
        match self {
            Self::Http | Self::H2c => http::uri::Scheme::HTTP,
            Self::Https => http::uri::Scheme::HTTPS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> LocalTarget {
        LocalTarget::parse(text, false).unwrap()
    }

    #[test]
    fn a_tunnel_asks_for_what_was_wanted() {
        let spec = |wanted| {
            AgentTunnel::to_target("t", wanted, &target("3000"), CONNECT_TIMEOUT, true).unwrap().spec(4, false)
        };
        assert_eq!(
            spec(Wanted::Name("app1".into())),
            TunnelSpec { id: 4, name: "app1".into(), healthy: false, ..TunnelSpec::default() }
        );
        assert_eq!(spec(Wanted::Host("a.example".into())).host, "a.example");
        assert_eq!(spec(Wanted::AnyName).name, "");
        let tcp = spec(Wanted::Port(15_432));
        assert_eq!((tcp.kind, tcp.port), (TunnelKind::Tcp, 15_432));
    }

    #[test]
    fn an_https_target_has_a_second_way_for_http2() {
        let tunnel =
            AgentTunnel::to_target("t", Wanted::AnyName, &target("https://localhost:8443"), CONNECT_TIMEOUT, false)
                .unwrap();
        assert_eq!(tunnel.protocol, LocalProtocol::Https);
        assert!(tunnel.connect_h2.is_some());
        assert_eq!(tunnel.local, "https://localhost:8443");
    }
}
