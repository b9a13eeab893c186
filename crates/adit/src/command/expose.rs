//! `adit expose`: publishes local services at a tunnel server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use adit_core::config::AgentFile;
use adit_core::config::publish::{
    PublicPlace, PublishConfig, PublishedTunnel, TrustConfig, parse_server_address, scheme_of,
};
use adit_core::diagnose::Fault;
use adit_core::name::{Hostname, TunnelName};
use adit_core::target::{LocalTarget, Target};
use clap::Args;
use forward::{Clusters, ForwardSet};
use gateway::targets::{Targets, specs};
use prometheus_client::registry::Registry;
use runtime::admin::{AdminAnswer, AdminServer};
use runtime::readiness::Readiness;
use runtime::scope::Scope;
use runtime::signals::{StopSignal, StopSignals};
use runtime::tls::Fingerprint;
use tunnel::agent::{Agent, AgentConfig, AgentError, AgentMetrics};

use super::agent::{agent_config, server, token_source, watch_token};
use super::live::Live;
use super::protection::Protection;
use super::{Global, files, on_runtime};
use crate::report::{Failure, failure};

/// Publish services of this machine, or any other target, at a tunnel server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit expose 3000 --as app1 --server tunnel.example.com:8443
  adit expose tcp://127.0.0.1:5432 --port 15432 --server tunnel.example.com:8443
  adit expose --config adit.yaml

The token comes from --token-file, from $ADIT_TOKEN, or from standard input with --token-stdin.
Without TARGET everything in the `publish:` section of adit.yaml is published.")]
pub(crate) struct ExposeArguments {
    /// What to publish: 3000, host:3000, http://…, https://…, h2c://…, tcp://host:port, k8s://…, jump://…, ssh://…
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
    /// Publish what is in protected contexts without asking
    #[arg(short, long)]
    yes: bool,
    /// Serve metrics and health here [default when given without a value: 127.0.0.1:9091]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9091")]
    metrics: Option<SocketAddr>,
}

pub(crate) fn run(global: &Global, arguments: &ExposeArguments) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    let mut file = settings(global, arguments)?;
    file.publish.as_ref().map(server).transpose()?;
    let clusters = Clusters::new(files::kube_settings(&file.kubernetes));
    let protection = Protection::new(&[], arguments.yes, file.kubernetes.clone())?;
    check_contexts(&mut file, &clusters, &protection)?;
    let publish = file.publish.clone().unwrap_or_default();
    server(&publish)?;
    let token = token_source(&publish, arguments.token_stdin)?;
    on_runtime(None, async {
        let scope = Scope::root();
        let targets: Arc<Targets> = Arc::default();
        let agent_config = agent_config(&publish, token, &|target| targets.connect(target))?;
        targets.replace(Arc::new(ForwardSet::default().next(&scope, &clusters, specs(&file))));
        serve(global, agent_config, publish.metrics, scope).await
    })?
}

/// A context that is not there is better told now than to the first visitor, and one that is protected is published
/// only after a question. What was asked about is what is used: the current context may be another one later.
fn check_contexts(file: &mut AgentFile, clusters: &Clusters, protection: &Protection) -> Result<(), Failure> {
    let mut agreed: Vec<String> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for tunnel in file.publish.iter_mut().flat_map(|publish| &mut publish.tunnels) {
        seen.extend(check_context(&mut tunnel.to, clusters, protection, &mut agreed)?);
    }
    // A forward may lead to the next.
    let mut next = 0;
    while let Some(name) = seen.get(next).cloned() {
        next += 1;
        let Some(forward) = file.forwards.iter_mut().find(|forward| forward.name == name) else { continue };
        let further = check_context(&mut forward.to, clusters, protection, &mut agreed)?;
        seen.extend(further.filter(|name| !seen.contains(name)));
    }
    Ok(())
}

/// Checks the context of one target; the name of the forward it leads to instead, if it does.
fn check_context(
    target: &mut Target,
    clusters: &Clusters,
    protection: &Protection,
    agreed: &mut Vec<String>,
) -> Result<Option<String>, Failure> {
    let context = match target {
        Target::Kubernetes(target) => &mut target.context,
        Target::Jump(target) => &mut target.context,
        Target::Forward(name) => return Ok(Some(name.clone())),
        Target::Ssh(_) | Target::Local(_) => return Ok(None),
    };
    let kubeconfigs = clusters.kubeconfigs().map_err(|error| failure(&error))?;
    let name = kubeconfigs.context_name(context.as_deref()).map_err(|error| failure(&error))?;
    if !agreed.contains(&name) {
        protection.check(&name)?;
        agreed.push(name.clone());
    }
    *context = Some(name);
    Ok(None)
}

/// What the file and the command line ask for together.
fn settings(global: &Global, arguments: &ExposeArguments) -> Result<AgentFile, Failure> {
    let path = global
        .config
        .clone()
        .or_else(|| std::env::var_os("ADIT_CONFIG").map(PathBuf::from))
        .or_else(|| files::find("adit.yaml").filter(|_| arguments.target.is_none() || arguments.server.is_none()));
    let mut file = match &path {
        Some(path) => {
            let (name, text) = (path.display().to_string(), files::read_once(path)?);
            if arguments.target.is_none() {
                // Without a target on the command line the file has to name some.
                PublishConfig::parse(&name, &text, &files::environment)?;
            }
            AgentFile::parse(&name, &text, &files::environment)?
        }
        None => AgentFile::default(),
    };
    let mut publish = file.publish.take().unwrap_or_default();
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
    // Only what is published is run, and the forwards it leads to.
    file.gateway = None;
    file.publish = Some(publish);
    Ok(file)
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

async fn serve(
    global: &Global,
    mut config: AgentConfig,
    metrics: Option<SocketAddr>,
    scope: Scope,
) -> Result<ExitCode, Failure> {
    runtime::socket::raise_descriptor_limit();
    let mut signals = StopSignals::install().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
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
}
