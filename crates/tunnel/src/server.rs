//! The tunnel server: what visitors reach and agents connect to.
//!
//! [`Server::bind`] takes every port and reads every file, so that any conflict fails the start;
//! [`Server::start`] serves until the scope it was bound with drains.

mod access;
mod account;
mod admin;
mod agents;
mod answer;
mod audit;
mod auth;
mod control;
mod metrics;
mod ports;
mod public;
mod record;
pub mod registry;
mod reservations;
mod session;
mod state;
mod upload;
mod visit;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use adit_core::config::server::{LogTarget, ServerConfig, TlsFiles};
use adit_core::diagnose::{Diagnose, Fault};
use adit_core::name::PortRange;
use adit_core::shutdown::Phase;
use arc_swap::ArcSwap;
use prometheus_client::registry::Registry as Prometheus;
use runtime::admin::AdminServer;
use runtime::lines::LineSinkError;
use runtime::listener::{BindError, BoundListener, ConnectionLimit};
use runtime::readiness::Readiness;
use runtime::scope::Scope;
use runtime::tls::{Fingerprint, Identity, ReloadingResolver, TlsError};

pub use auth::{AuthFilesError, read_tokens, tokens_path};
use state::State;

/// Name, type and meaning of every metric of the server, for the reference page.
#[must_use]
pub fn metric_names() -> Vec<(String, String, String)> {
    metrics::names()
}

/// How often name reservations that changed are written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The same while the server drains: the end must not wait for it.
const SAVE_WHILE_DRAINING: Duration = Duration::from_millis(20);

/// A server cannot be started, or a new configuration cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port cannot be had.
    #[error("{what}: {source}")]
    Bind {
        /// Which listener.
        what: &'static str,
        /// Why.
        #[source]
        source: BindError,
    },
    /// A certificate or key cannot be used.
    #[error("{what}: {source}")]
    Tls {
        /// Which listener.
        what: &'static str,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// Tokens or keys cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthFilesError),
    /// A log cannot be written.
    #[error(transparent)]
    Log(#[from] LineSinkError),
    /// The data directory cannot be used.
    #[error("the data directory {path} cannot be used")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The new configuration changes what only a restart can change.
    #[error("{0} cannot be changed while the server runs")]
    NeedsRestart(&'static str),
}

impl Diagnose for ServerError {
    fn fault(&self) -> Fault {
        match self {
            Self::Bind { source, .. } => source.fault(),
            Self::Tls { .. } | Self::Auth(_) | Self::DataDir { .. } | Self::NeedsRestart(_) => Fault::Config,
            Self::Log(_) => Fault::Config,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { source, .. } => source.hint(),
            Self::Tls { source, .. } => source.hint(),
            Self::Auth(source) => source.hint(),
            Self::Log(_) => Some("check log.access and log.audit".into()),
            Self::DataDir { .. } => Some("set data_dir to a directory this user may write".into()),
            Self::NeedsRestart(_) => Some("restart the server to apply it; everything else stays as it was".into()),
        }
    }
}

/// What a program that embeds a server may set beyond its configuration.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Adds a `server-timing` header to answers: where the time went.
    pub server_timing: bool,
}

/// A server whose ports are bound and whose files are read.
pub struct Server {
    state: Arc<State>,
    listeners: Scope,
    public: Vec<BoundListener>,
    agents: Vec<BoundListener>,
    public_tls: Option<Arc<ReloadingResolver>>,
    agent_tls: Arc<ReloadingResolver>,
    admin: AdminServer,
    readiness: Readiness,
    public_limit: ConnectionLimit,
}

/// Addresses and fingerprint of a bound server, for messages.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Where visitors connect.
    pub public: Vec<SocketAddr>,
    /// Where agents connect.
    pub agents: Vec<SocketAddr>,
    /// Where visitors of TCP tunnels connect, if there are any: the address of all these ports.
    pub tcp: Option<(IpAddr, PortRange)>,
    /// Metrics and health.
    pub admin: SocketAddr,
    /// What agents may pin.
    pub fingerprint: Fingerprint,
    /// Whether the agents' certificate is one the server made itself.
    pub self_signed: bool,
    /// Whether there is anybody who could authenticate.
    pub has_tokens: bool,
}

impl Server {
    /// Binds every port and reads every file.
    ///
    /// # Errors
    /// See [`ServerError`]; nothing is left bound then.
    pub fn bind(
        config: ServerConfig,
        data_dir: &Path,
        options: &ServerOptions,
        scope: &Scope,
    ) -> Result<Self, ServerError> {
        make_data_dir(data_dir)?;
        let public = bind_all("public.listen", &config.public.listen)?;
        let agents = bind_all("agents.listen", &config.agents.listen)?;
        let public_tls = config.public.tls.as_ref().map(|files| load("public.tls", files)).transpose()?;
        let agent_tls = match &config.agents.tls {
            Some(files) => load("agents.tls", files)?,
            None => self_signed(&config, data_dir)?,
        };
        let credentials = auth::Credentials::load(&config, data_dir)?;
        let access = access::AccessLog::open(&config.log.access, config.log.format)?;
        let audit_target = config.log.audit.clone().unwrap_or_else(|| LogTarget::File(data_dir.join("audit.jsonl")));
        let audit = audit::Audit::open(&audit_target)?;
        let mut prometheus = Prometheus::default();
        let metrics = metrics::Metrics::new(&mut prometheus);
        let public_limit = ConnectionLimit::new(config.limits.connections);
        let public_port = public.first().map_or(0, |listener| listener.local_addr().port());
        let admin_address = config.admin.listen;
        let state = Arc::new(State {
            accounts: account::Accounts::new(config.limits.memory),
            data_dir: data_dir.to_owned(),
            scope: scope.child(),
            registry: Arc::new(registry::MemoryRegistry::default()),
            credentials,
            reservations: reservations::Reservations::load(&data_dir.join("names.json"), SystemTime::now()),
            ports: ports::Ports::new(config.public.tcp_address(), public_limit.clone()),
            turns: tokio::sync::Semaphore::new(1),
            metrics,
            access,
            audit,
            sessions: std::sync::Mutex::default(),
            epochs: AtomicU64::new(first_epoch()),
            draining: AtomicBool::new(false),
            public_port,
            server_timing: options.server_timing,
            config: ArcSwap::from_pointee(config),
        });
        prometheus.register_collector(Box::new(metrics::Live(Arc::downgrade(&state))));
        let readiness = Readiness::new();
        let admin = AdminServer::start(admin_address, admin::routes(&state, readiness.clone(), prometheus))
            .map_err(|source| ServerError::Bind { what: "admin.listen", source })?;
        Ok(Self {
            state,
            listeners: scope.child(),
            public,
            agents,
            public_tls,
            agent_tls,
            admin,
            readiness,
            public_limit,
        })
    }

    /// Addresses and fingerprint, for messages.
    #[must_use]
    pub fn bound(&self) -> Bound {
        let config = self.state.config.load();
        Bound {
            public: self.public.iter().map(BoundListener::local_addr).collect(),
            agents: self.agents.iter().map(BoundListener::local_addr).collect(),
            tcp: config.public.tcp_ports.map(|ports| (config.public.tcp_address(), ports)),
            admin: self.admin.local_addr(),
            fingerprint: self.agent_tls.identity().fingerprint(),
            self_signed: config.agents.tls.is_none(),
            has_tokens: !self.state.credentials.is_empty(),
        }
    }

    /// The scope whose tasks accept connections; once it is idle, nothing new comes in.
    #[must_use]
    pub fn listeners(&self) -> Scope {
        self.listeners.clone()
    }

    /// Starts serving; returns a handle for reloads and for the phases of a shutdown.
    ///
    /// # Errors
    /// [`ServerError::Tls`] when a TLS configuration cannot be built.
    pub fn start(self) -> Result<Running, ServerError> {
        let Self { state, listeners, public, agents, public_tls, agent_tls, admin, readiness, public_limit } = self;
        let tls = |what, resolver: &Arc<ReloadingResolver>, alpn: &[&[u8]]| {
            runtime::tls::server_config(Arc::clone(resolver) as _, alpn)
                .map_err(|source| ServerError::Tls { what, source })
        };
        let ready = readiness.component("listeners");
        let limits = state.config.load().limits.clone();
        let visitors = Arc::new(public::PublicEntrance {
            state: Arc::clone(&state),
            tls: public_tls.as_ref().map(|resolver| tls("public.tls", resolver, &[b"h2", b"http/1.1"])).transpose()?,
            half_closed: public::PublicEntrance::half_closed(),
            limit: public_limit,
        });
        let entrance = Arc::new(agents::AgentEntrance {
            state: Arc::clone(&state),
            tls: agents::tls_config(Arc::clone(&agent_tls))
                .map_err(|source| ServerError::Tls { what: "agents.tls", source })?,
            door: Arc::new(agents::Doorkeeper::new(limits.unauthenticated, limits.unauthenticated_per_prefix)),
            agents: limits.agents,
        });
        for listener in public {
            let visitors = Arc::clone(&visitors);
            accept(&listeners, "public-accept", listener, move |tcp, peer| visitors.accept(tcp, peer));
        }
        for listener in agents {
            let entrance = Arc::clone(&entrance);
            accept(&listeners, "agent-accept", listener, move |tcp, peer| entrance.accept(tcp, peer));
        }
        save_reservations(&state);
        ready.ready();
        Ok(Running {
            state,
            resolvers: public_tls.into_iter().chain([agent_tls]).collect(),
            admin,
            readiness,
            _ready: ready,
        })
    }
}

fn accept(
    listeners: &Scope,
    name: &'static str,
    listener: BoundListener,
    on_connection: impl Fn(tokio::net::TcpStream, SocketAddr) + Send + 'static,
) {
    let scope = listeners.clone();
    listeners.spawn(name, async move {
        if let Err(error) = listener.accept_loop(scope, on_connection).await {
            tracing::error!(listener = name, %error, "listener failed");
        }
    });
}

fn save_reservations(state: &Arc<State>) {
    let state = Arc::clone(state);
    state.clone().scope.spawn("save-names", async move {
        loop {
            let nap = async {
                if state.scope.is_draining() {
                    return tokio::time::sleep(SAVE_WHILE_DRAINING).await;
                }
                tokio::select! {
                    () = tokio::time::sleep(SAVE_EVERY) => {}
                    () = state.scope.drained() => {}
                }
            };
            let over = state.scope.until_cancelled(nap).await.is_none();
            state.audit.settle();
            let cooldown = state.config.load().names.cooldown;
            let saver = Arc::clone(&state);
            let saved = state
                .scope
                .spawn_blocking("save-names", move || saver.reservations.save(SystemTime::now(), cooldown))
                .await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, directory = %state.data_dir.display(), "name reservations cannot be saved");
            }
            if over || (state.scope.is_draining() && state.sessions().is_empty()) {
                return;
            }
        }
    });
}

/// A server that serves.
pub struct Running {
    state: Arc<State>,
    resolvers: Vec<Arc<ReloadingResolver>>,
    admin: AdminServer,
    readiness: Readiness,
    _ready: runtime::readiness::Component,
}

impl Running {
    /// Applies a new configuration, all of it or nothing; no stream is dropped. Certificates and tokens are
    /// [`Running::reload_files`]'s, which goes on whatever becomes of the configuration.
    ///
    /// # Errors
    /// What is wrong with it; the old one stays in force then.
    pub fn reload(&self, config: ServerConfig) -> Result<(), ServerError> {
        let old = self.state.config.load_full();
        if let Some(what) = needs_restart(&old, &config) {
            return Err(ServerError::NeedsRestart(what));
        }
        if *old == config {
            return Ok(());
        }
        let prepared = self.state.credentials.prepare(&config)?;
        // From here on nothing can fail.
        self.state.credentials.apply(prepared);
        self.state.config.store(Arc::new(config));
        let config = self.state.config.load_full();
        self.state.accounts.reload(|name| config.quotas_of(name).clone());
        self.state.metrics.reloads.inc();
        self.state.audit.admin("reload", "configuration");
        Ok(())
    }

    /// Reads certificates, tokens and keys anew, after their files changed. Ends sessions whose credential is gone.
    ///
    /// # Errors
    /// What is wrong with some of them, which stay as they were; the others are in force.
    pub fn reload_files(&self) -> Result<(), Vec<ServerError>> {
        let mut problems: Vec<_> = self.state.reload_credentials().into_iter().map(ServerError::from).collect();
        for resolver in &self.resolvers {
            match resolver.reload() {
                Ok(true) => self.state.audit.admin("reload", "certificate"),
                Ok(false) => {}
                Err(source) => problems.push(ServerError::Tls { what: "certificate", source }),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Opens log files anew, after they were moved away.
    pub fn reopen_logs(&self) {
        self.state.access.reopen();
        self.state.audit.reopen();
    }

    /// Files whose change calls for [`Running::reload_files`].
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = self.state.credentials.files(&self.state.config.load());
        files.extend(self.resolvers.iter().flat_map(|resolver| resolver.files()));
        files
    }

    /// Readiness, for the admin pages and for those who wait for it.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// What is due when a phase of the shutdown begins.
    pub fn on_phase(&self, phase: Phase) {
        match phase {
            Phase::Running => {}
            Phase::StopAccepting => {
                self.readiness.drain();
                self.state.audit.admin("drain", "shutdown");
            }
            Phase::Draining => {
                self.state.draining.store(true, Ordering::SeqCst);
                let message = state::shutting_down();
                for session in self.state.all_sessions() {
                    session.drain(&message);
                    self.end_when_quiet(session);
                }
            }
            _ => {
                for session in self.state.all_sessions() {
                    session.close(mux::ErrorCode::NoError, "the server is shutting down");
                }
            }
        }
    }

    /// Closes a drained session as soon as its last stream is over.
    fn end_when_quiet(&self, session: Arc<session::Session>) {
        let scope = self.state.scope.clone();
        self.state.scope.spawn("session-drain", async move {
            while session.streams() > 0 && !session.is_over() {
                if scope.until_cancelled(tokio::time::sleep(Duration::from_millis(20))).await.is_none() {
                    break;
                }
            }
            session.close(mux::ErrorCode::NoError, "the server is shutting down");
        });
    }

    /// Where metrics and health are served.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Tunnels published now.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.state.registry.size()
    }
}

/// What differs and cannot be changed while the server runs.
fn needs_restart(old: &ServerConfig, new: &ServerConfig) -> Option<&'static str> {
    [
        ("public.listen", old.public.listen == new.public.listen),
        ("agents.listen", old.agents.listen == new.agents.listen),
        ("admin.listen", old.admin.listen == new.admin.listen),
        ("public.tls", old.public.tls == new.public.tls),
        ("agents.tls", old.agents.tls == new.agents.tls),
        ("auth.tokens_file", old.auth.tokens_file == new.auth.tokens_file),
        ("data_dir", old.data_dir == new.data_dir),
        ("log", old.log == new.log),
        ("workers", old.workers == new.workers),
        ("public.tcp_listen", old.public.tcp_address() == new.public.tcp_address()),
        ("shutdown", old.shutdown == new.shutdown),
        ("limits.connections", old.limits.connections == new.limits.connections),
        ("limits.agents", old.limits.agents == new.limits.agents),
        ("limits.unauthenticated", old.limits.unauthenticated == new.limits.unauthenticated),
        (
            "limits.unauthenticated_per_prefix",
            old.limits.unauthenticated_per_prefix == new.limits.unauthenticated_per_prefix,
        ),
        ("limits.memory", old.limits.memory == new.limits.memory),
    ]
    .into_iter()
    .find_map(|(what, same)| (!same).then_some(what))
}

fn bind_all(what: &'static str, addresses: &[SocketAddr]) -> Result<Vec<BoundListener>, ServerError> {
    addresses
        .iter()
        .map(|address| BoundListener::bind(*address).map_err(|source| ServerError::Bind { what, source }))
        .collect()
}

fn load(what: &'static str, files: &TlsFiles) -> Result<Arc<ReloadingResolver>, ServerError> {
    ReloadingResolver::from_files(&files.cert, &files.key).map_err(|source| ServerError::Tls { what, source })
}

/// The certificate the server makes itself, once, and keeps.
fn self_signed(config: &ServerConfig, data_dir: &Path) -> Result<Arc<ReloadingResolver>, ServerError> {
    let names = vec![config.public.base_domain.as_str().to_owned(), "localhost".to_owned()];
    Identity::self_signed(data_dir, &names)
        .map(ReloadingResolver::fixed)
        .map_err(|source| ServerError::Tls { what: "agents.tls", source })
}

fn make_data_dir(path: &Path) -> Result<(), ServerError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| ServerError::DataDir { path: path.to_owned(), source })
}

/// Epochs go on rising across restarts: they begin at the time.
fn first_epoch() -> u64 {
    adit_core::timestamp::unix(SystemTime::now()) << 20
}
