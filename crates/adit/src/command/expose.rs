//! `adit expose`: publishes local services at a tunnel server.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use adit_core::config::AgentFile;
use adit_core::config::publish::{
    HeaderEdits, PublicPlace, PublishConfig, PublishedTunnel, TrustConfig, parse_server_address, scheme_of,
};
use adit_core::diagnose::Fault;
use adit_core::name::{Hostname, TunnelName};
use adit_core::secret::Secret;
use adit_core::target::{LocalTarget, Target};
use clap::Args;
use http::header::{HeaderName, HeaderValue};
use prometheus_client::registry::Registry;
use runtime::admin::{AdminAnswer, AdminServer};
use runtime::readiness::Readiness;
use runtime::scope::Scope;
use runtime::signals::{StopSignal, StopSignals};
use runtime::tls::{Fingerprint, ServerTrust};
use runtime::watch::FileWatch;
use sha2::{Digest as _, Sha256};
use tunnel::agent::{Agent, AgentConfig, AgentError, AgentMetrics, AgentTunnel, HeaderRules, TokenSource, Wanted};

use super::live::Live;
use super::{Global, build_runtime, files};
use crate::report::{Failure, failure};

/// Publish local services at a tunnel server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit expose 3000 --as app1 --server tunnel.example.com:8443
  adit expose tcp://127.0.0.1:5432 --port 15432 --server tunnel.example.com:8443
  adit expose --config adit.yaml

The token comes from --token-file, from $ADIT_TOKEN, or from standard input with --token-stdin.
Without TARGET everything in the `publish:` section of adit.yaml is published.")]
pub(crate) struct ExposeArguments {
    /// What to publish: 3000, host:3000, http://…, https://…, h2c://…, tcp://host:port
    target: Option<String>,
    /// The subdomain wanted, e.g. app1; without it the server chooses one
    #[arg(long = "as", value_name = "NAME", requires = "target", conflicts_with_all = ["host", "port"])]
    name: Option<String>,
    /// A host of your own instead of a subdomain, e.g. shop.example.com
    #[arg(long, value_name = "HOST", requires = "target", conflicts_with = "port")]
    host: Option<String>,
    /// A public TCP port instead of a host name; 0 for any
    #[arg(long, value_name = "PORT", requires = "target")]
    port: Option<u16>,
    /// The server's address for agents, e.g. tunnel.example.com:8443
    #[arg(short, long, value_name = "HOST:PORT", env = "ADIT_SERVER")]
    server: Option<String>,
    /// File with the token (mode 0600)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read the token from standard input
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,
    /// Trust only the certificate with this SHA-256, as the server prints it
    #[arg(long, value_name = "SHA256", conflicts_with = "ca_file")]
    fingerprint: Option<String>,
    /// Trust the certificates of this file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The name in the server's certificate, if it is another one
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Host header the local service gets instead of the public one
    #[arg(long, value_name = "HOST", requires = "target")]
    host_header: Option<String>,
    /// Tell a TCP service the visitor's address by PROXY protocol version 2
    #[arg(long, requires = "target")]
    proxy_protocol: bool,
    /// This agent's name; a newer agent of the same name takes over [default: made once and kept]
    #[arg(long, value_name = "ID")]
    agent_id: Option<String>,
    /// Connections to the server, 1 to 8 [default: 2]
    #[arg(long, value_name = "N")]
    lanes: Option<u32>,
    /// Serve metrics and health here [default when given without a value: 127.0.0.1:9091]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9091")]
    metrics: Option<SocketAddr>,
}

pub(crate) fn run(global: &Global, arguments: &ExposeArguments) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    let publish = settings(global, arguments)?;
    let agent_config = agent_config(&publish, arguments)?;
    let runtime = build_runtime(None)?;
    runtime.block_on(serve(global, agent_config, publish.metrics))
}

/// What the file and the command line ask for together.
fn settings(global: &Global, arguments: &ExposeArguments) -> Result<PublishConfig, Failure> {
    let path = global
        .config
        .clone()
        .or_else(|| std::env::var_os("ADIT_CONFIG").map(PathBuf::from))
        .or_else(|| files::find("adit.yaml").filter(|_| arguments.target.is_none() || arguments.server.is_none()));
    let mut publish = match &path {
        Some(path) => {
            let (name, text) = (path.display().to_string(), files::read(path)?);
            match &arguments.target {
                // What the file says of the server holds, if it says anything of publishing at all.
                Some(_) => AgentFile::parse(&name, &text, &files::environment)?.publish.unwrap_or_default(),
                None => PublishConfig::parse(&name, &text, &files::environment)?,
            }
        }
        None => PublishConfig::default(),
    };
    if let Some(target) = &arguments.target {
        publish.tunnels = vec![tunnel_of(arguments, target)?];
    } else if publish.tunnels.is_empty() {
        return Err(Failure::new(
            Fault::Usage,
            "nothing to publish",
            "name a target, e.g. adit expose 3000, or a file with a `publish:` section",
        ));
    }
    if let Some(server) = &arguments.server {
        publish.server = Some(parse_server_address(server).map_err(|problem| {
            Failure::new(Fault::Usage, format!("--server {server}: {}", problem.message), "write HOST:PORT")
        })?);
    }
    if let Some(file) = &arguments.token_file {
        publish.token_file = Some(file.clone());
    }
    if let Some(fingerprint) = &arguments.fingerprint {
        let parsed: Fingerprint = fingerprint.parse().map_err(|_| {
            Failure::new(
                Fault::Usage,
                "--fingerprint is not a SHA-256",
                "copy the `fingerprint` line the server prints at its start",
            )
        })?;
        publish.trust = TrustConfig::Fingerprint(parsed.0);
    }
    if let Some(file) = &arguments.ca_file {
        publish.trust = TrustConfig::CaFile(file.clone());
    }
    if let Some(name) = &arguments.server_name {
        publish.server_name = Some(
            Hostname::parse(name)
                .map_err(|error| Failure::new(Fault::Usage, format!("--server-name {name}: {error}"), ""))?,
        );
    }
    publish.agent_id = arguments.agent_id.clone().or(publish.agent_id);
    publish.metrics = arguments.metrics.or(publish.metrics);
    if let Some(lanes) = arguments.lanes {
        if !(1..=8).contains(&lanes) {
            return Err(Failure::new(Fault::Usage, "--lanes must be 1 to 8", ""));
        }
        publish.lanes = lanes;
    }
    Ok(publish)
}

fn tunnel_of(arguments: &ExposeArguments, target: &str) -> Result<PublishedTunnel, Failure> {
    let to = target_of(target, arguments.port.is_some())?;
    let usage = |what: String, error: &dyn std::fmt::Display| {
        Failure::new(
            Fault::Usage,
            format!("{what}: {error}"),
            "use letters, digits and hyphens, such as app1 or shop.example.com",
        )
    };
    let public = match (&arguments.name, &arguments.host, arguments.port) {
        (Some(name), _, _) => {
            PublicPlace::Name(TunnelName::parse(name).map_err(|e| usage(format!("--as {name}"), &e))?)
        }
        (_, Some(host), _) => {
            PublicPlace::Host(Hostname::parse(host).map_err(|e| usage(format!("--host {host}"), &e))?)
        }
        (_, _, Some(port)) => PublicPlace::Port(port),
        (None, None, None) if !scheme_of(&to, false).is_http() => PublicPlace::Port(0),
        (None, None, None) => PublicPlace::Any,
    };
    let mut tunnel = PublishedTunnel::new(target.to_owned(), to, public);
    tunnel.host_header.clone_from(&arguments.host_header);
    tunnel.proxy_protocol = arguments.proxy_protocol;
    Ok(tunnel)
}

/// With a public port a bare address is a byte pipe.
fn target_of(text: &str, by_port: bool) -> Result<Target, Failure> {
    let found = match Target::parse(text) {
        Ok(Target::Local(_)) => LocalTarget::parse(text, by_port).map(Target::Local),
        other => other,
    };
    found.map_err(|error| failure(&error))
}

fn agent_config(publish: &PublishConfig, arguments: &ExposeArguments) -> Result<AgentConfig, Failure> {
    let server = publish.server.as_ref().ok_or_else(|| {
        Failure::new(
            Fault::Usage,
            "no server is named",
            "say which one: --server HOST:8443, $ADIT_SERVER, or publish.server in adit.yaml",
        )
    })?;
    // Before the token is asked for: a target that cannot be published needs none.
    let tunnels = publish.tunnels.iter().map(agent_tunnel).collect::<Result<_, _>>()?;
    let trust = match &publish.trust {
        TrustConfig::System => ServerTrust::Roots,
        TrustConfig::CaFile(file) => ServerTrust::CaFile(file.clone()),
        TrustConfig::Fingerprint(hash) => ServerTrust::Pinned(*hash),
    };
    let agent_id = publish.agent_id.clone().map_or_else(agent_id, Ok)?;
    let mut config = AgentConfig::new(&server.to_string(), trust, token_source(publish, arguments)?, &agent_id);
    config.server_name = publish.server_name.as_ref().map(|name| name.as_str().to_owned());
    config.lanes = u8::try_from(publish.lanes).unwrap_or(2);
    config.tunnels = tunnels;
    Ok(config)
}

/// One tunnel of a configuration as the agent wants it.
pub(super) fn agent_tunnel(published: &PublishedTunnel) -> Result<AgentTunnel, Failure> {
    let wanted = match &published.public {
        PublicPlace::Any => Wanted::AnyName,
        PublicPlace::Name(name) => Wanted::Name(name.as_str().to_owned()),
        PublicPlace::Host(host) => Wanted::Host(host.as_str().to_owned()),
        PublicPlace::Port(port) => Wanted::Port(*port),
    };
    let Target::Local(local) = &published.to else {
        return Err(Failure::new(
            Fault::Config,
            format!("{} cannot be published by adit expose", published.to),
            "that comes with adit up; until then publish a local port that leads there, as adit forward makes one",
        ));
    };
    let mut agent = AgentTunnel::to_target(&published.key, wanted, local, published.connect_timeout, published.verify)
        .map_err(|error| failure(&error))?;
    agent.host_header.clone_from(&published.host_header);
    agent.request_headers = rules(&published.headers)?;
    agent.response_headers = rules(&published.response_headers)?;
    agent.proxy_protocol = published.proxy_protocol;
    agent.health.clone_from(&published.health);
    agent.request_timeout = published.request_timeout;
    Ok(agent)
}

fn rules(edits: &HeaderEdits) -> Result<HeaderRules, Failure> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let add: Vec<(String, String)> = edits.add.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let add = add.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    HeaderRules::parse(add, edits.remove.iter().map(HeaderName::as_str)).map_err(|error| failure(&error))
}

/// Where the token comes from (S6): never an argument.
fn token_source(publish: &PublishConfig, arguments: &ExposeArguments) -> Result<TokenSource, Failure> {
    if arguments.token_stdin {
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .map_err(|error| Failure::new(Fault::Usage, format!("standard input: {error}"), ""))?;
        return Ok(TokenSource::Fixed(Secret::new(line.trim().to_owned())));
    }
    if let Some(file) = &publish.token_file {
        return Ok(TokenSource::File(file.clone()));
    }
    if let Ok(token) = std::env::var("ADIT_TOKEN") {
        return Ok(TokenSource::Fixed(Secret::new(token.trim().to_owned())));
    }
    let usual = files::config_dir().map(|dir| dir.join("adit/token")).filter(|path| path.is_file());
    usual.map(TokenSource::File).ok_or_else(|| {
        Failure::new(
            Fault::Auth,
            "no token is given",
            "put it into a file (chmod 600) and say --token-file FILE (~/.config/adit/token is found by itself), or set $ADIT_TOKEN, or use --token-stdin",
        )
    })
}

/// This machine's agent id: made once and kept.
fn agent_id() -> Result<String, Failure> {
    let Some(directory) = files::state_dir() else { return Ok(new_agent_id()) };
    let path = directory.join("agent-id");
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        // Several `adit expose` on one machine are several agents.
        return Ok(format!("{}.{}", id.trim(), instance_suffix()));
    }
    let id = new_agent_id();
    let kept = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, format!("{id}\n")));
    if let Err(error) = kept {
        tracing::warn!(%error, path = %path.display(), "the agent id cannot be kept; the next start is another agent");
    }
    Ok(format!("{id}.{}", instance_suffix()))
}

fn new_agent_id() -> String {
    let random: [u8; 8] = rand::random();
    random.iter().fold(String::from("agent-"), |id, byte| id + &format!("{byte:02x}"))
}

/// Tells agents of one machine apart by what they publish, and is the same after a restart, and after an update of
/// this program.
fn instance_suffix() -> String {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let directory = std::env::current_dir().unwrap_or_default();
    suffix_of(arguments.iter().map(OsString::as_os_str).chain([directory.as_os_str()]))
}

fn suffix_of<'a>(parts: impl Iterator<Item = &'a OsStr>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_encoded_bytes());
        // No argument and no path contains it.
        hasher.update([0]);
    }
    let hash = hasher.finalize();
    hash.iter().take(4).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

async fn serve(global: &Global, mut config: AgentConfig, metrics: Option<SocketAddr>) -> Result<ExitCode, Failure> {
    runtime::socket::raise_descriptor_limit();
    let mut signals = StopSignals::install().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let scope = Scope::root();
    let watch = watch_token(&mut config);
    let names: Vec<String> = config.tunnels.iter().map(|tunnel| tunnel.name.clone()).collect();
    let mut registry = Registry::default();
    let agent_metrics = Arc::new(AgentMetrics::new(&mut registry));
    let readiness = Readiness::new();
    let ready = readiness.component("session");
    ready.not_ready("not connected yet");
    let admin = metrics.map(|address| start_admin(address, registry, &readiness)).transpose()?;
    let agent = Agent::new(config, agent_metrics).map_err(|error| failure(&error))?;
    let mut live = Live::new(global, names, admin.as_ref().map(AdminServer::local_addr));
    let events = agent.events();
    let (told, ended) = tokio::sync::oneshot::channel();
    let agent_scope = scope.clone();
    scope.spawn("agent", async move {
        let _ = told.send(agent.run(agent_scope).await);
    });
    let result: Arc<Mutex<Option<AgentError>>> = Arc::default();
    let slot = Arc::clone(&result);
    let stop = async move {
        if let Ok(Err(error)) = ended.await {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    };
    let view_scope = scope.clone();
    scope.spawn("view", async move { live.follow(events, ready, view_scope).await });
    let times = adit_core::shutdown::PhaseTimes::default();
    let outcome = runtime::shutdown::run(&scope, &scope.child(), times, &mut signals, stop, |_| {}).await;
    drop((watch, admin));
    let error = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (error, outcome.signal) {
        (Some(error), _) => Err(failure(&error)),
        (None, Some(StopSignal::Interrupt)) => Ok(ExitCode::from(130)),
        (None, _) => Ok(ExitCode::SUCCESS),
    }
}

/// A token file that changes is sent to the server before the old token ends.
fn watch_token(config: &mut AgentConfig) -> Option<FileWatch> {
    let TokenSource::File(path) = &config.token else { return None };
    let watch = FileWatch::start(vec![path.clone()])
        .inspect_err(|error| tracing::warn!(%error, "the token file cannot be watched"))
        .ok()?;
    config.token_changed = Some(watch.changes());
    Some(watch)
}

fn start_admin(address: SocketAddr, registry: Registry, readiness: &Readiness) -> Result<AdminServer, Failure> {
    let readiness = readiness.clone();
    let registry = Mutex::new(registry);
    let routes = Arc::new(move |path: &str| match path {
        "/metrics" => {
            let mut text = String::new();
            let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
            // Encoding into a string cannot fail.
            let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
            AdminAnswer::new("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        }
        path => readiness.answer(path).unwrap_or_else(AdminAnswer::not_found),
    });
    AdminServer::start(address, routes).map_err(|error| failure(&error))
}

/// Reads a command line, for tests.
#[cfg(test)]
fn try_parse(arguments: &[&str]) -> Result<ExposeArguments, clap::Error> {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Wrapper {
        #[command(flatten)]
        expose: ExposeArguments,
    }
    Wrapper::try_parse_from(std::iter::once(&"expose").chain(arguments)).map(|wrapper| wrapper.expose)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> ExposeArguments {
        try_parse(arguments).unwrap()
    }

    #[test]
    fn a_bare_port_becomes_http_and_with_a_public_port_tcp() {
        let http = tunnel_of(&parse(&["3000", "--as", "app1"]), "3000").unwrap();
        assert_eq!(http.to.to_string(), "http://127.0.0.1:3000");
        let tcp = tunnel_of(&parse(&["5432", "--port", "15432"]), "5432").unwrap();
        assert_eq!((tcp.scheme.is_http(), tcp.public), (false, PublicPlace::Port(15432)));
    }

    #[test]
    fn a_tcp_target_without_a_port_asks_for_any() {
        let tunnel = tunnel_of(&parse(&["tcp://127.0.0.1:22"]), "tcp://127.0.0.1:22").unwrap();
        assert_eq!(tunnel.public, PublicPlace::Port(0));
    }

    #[test]
    fn what_says_how_a_target_is_published_needs_the_target() {
        for option in [
            &["--as", "app1"][..],
            &["--host", "shop.example.com"],
            &["--port", "15432"],
            &["--host-header", "localhost"],
            &["--proxy-protocol"],
        ] {
            let error = try_parse(option).expect_err("it would be dropped silently");
            assert_eq!(error.kind(), clap::error::ErrorKind::MissingRequiredArgument, "{option:?}");
            assert!(try_parse(&[option, &["3000"]].concat()).is_ok(), "{option:?}");
        }
        assert!(try_parse(&["--server", "h:1", "--lanes", "3"]).is_ok());
    }

    #[test]
    fn an_agents_suffix_depends_on_each_part_and_never_changes() {
        let of = |parts: &[&str]| suffix_of(parts.iter().map(OsStr::new));
        assert_eq!(of(&["expose", "3000"]), "2693b20a");
        assert_ne!(of(&["expose", "3000"]), of(&["expose3", "000"]));
    }
}
