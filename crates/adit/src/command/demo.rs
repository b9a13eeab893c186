//! `adit demo`: sample service, server, agent and gateway in one process, on loopback, with nothing to set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::accounts::{NewToken, TokenStore};
use adit_core::config::server::{LogTarget, ServerConfig};
use adit_core::config::{AgentFile, GatewayConfig};
use adit_core::diagnose::Fault;
use adit_core::name::{NamePattern, PortRange};
use adit_core::secret::Secret;
use adit_core::shutdown::PhaseTimes;
use adit_core::token::Token;
use clap::Args;
use forward::{Clusters, KubeSettings};
use gateway::entrances::Entrances;
use prometheus_client::registry::Registry;
use runtime::connect::TcpConnect;
use runtime::listener::BoundListener;
use runtime::scope::Scope;
use runtime::signals::StopSignals;
use runtime::tls::ServerTrust;
use tunnel::agent::{Agent, AgentConfig, AgentEvent, AgentMetrics, AgentTunnel, TokenSource, Wanted};
use tunnel::server::{Server, ServerOptions};

use super::{Global, on_runtime};
use crate::report::{Failure, failure};
use crate::terminal;

/// The demo is up within this time or says what is wrong.
const START: Duration = Duration::from_secs(10);
/// Ctrl-C ends a demo at once: nobody depends on what is in flight.
const END: PhaseTimes = PhaseTimes {
    accept: Duration::from_millis(50),
    drain: Duration::from_millis(50),
    cancel: Duration::from_millis(100),
    abort: Duration::from_millis(100),
};

/// Run everything on this machine in one process.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Port for visitors; any free one unless given
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
}

pub(crate) fn run(global: &Global, arguments: &DemoArguments) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    let directory =
        std::env::temp_dir().join(format!("adit-demo-{}-{:016x}", std::process::id(), rand::random::<u64>()));
    let result = on_runtime(None, serve(arguments.port, &directory));
    // The demo's certificate and logs are of no use to anybody once it is over.
    let _ = std::fs::remove_dir_all(&directory);
    result?
}

async fn serve(port: u16, directory: &std::path::Path) -> Result<ExitCode, Failure> {
    let internal = |error: &dyn std::fmt::Display| Failure::new(Fault::Internal, error.to_string(), "");
    let mut signals = StopSignals::install().map_err(|error| internal(&error))?;
    let scope = Scope::root();
    let service = BoundListener::bind(loopback(0)).map_err(|error| failure(&error))?;
    let service_address = service.local_addr();
    let service_scope = scope.child();
    scope.spawn("demo-service", {
        let scope = service_scope.clone();
        async move {
            if let Err(error) = crate::demo::serve(service, scope, Arc::new(|_: &str| Vec::new())).await {
                tracing::error!(%error, "sample service failed");
            }
        }
    });
    let token = Token::from_random(rand::random());
    write_token(directory, &token).map_err(|error| internal(&error))?;
    let server = Server::bind(server_config(port), directory, &ServerOptions { server_timing: true }, &scope)
        .map_err(|error| failure(&error))?;
    let (bound, listeners) = (server.bound(), server.listeners());
    let running = server.start().map_err(|error| failure(&error))?;
    let agents = bound.agents.first().copied().ok_or_else(|| internal(&"no agent listener"))?;
    let trust = ServerTrust::Pinned(bound.fingerprint.0);
    let token = TokenSource::Fixed(Secret::new(token.expose().to_owned()));
    let mut config = AgentConfig::new(&agents.to_string(), trust, token, "demo");
    let connect = || Arc::new(TcpConnect::new("127.0.0.1", service_address.port(), START));
    config.tunnels = vec![
        AgentTunnel::new("hello", Wanted::Name("hello".into()), connect()),
        AgentTunnel::new("tcp", Wanted::Port(0), connect()),
    ];
    let agent =
        Agent::new(config, Arc::new(AgentMetrics::new(&mut Registry::default()))).map_err(|error| failure(&error))?;
    let mut events = agent.events();
    let agent_scope = scope.clone();
    scope.spawn("demo-agent", async move {
        if let Err(error) = agent.run(agent_scope).await {
            tracing::error!(%error, "agent failed");
        }
    });
    let urls = tokio::time::timeout(START, published(&mut events))
        .await
        .map_err(|_| internal(&"the demo did not come up within 10 s"))??;
    let gateway = gateway(service_address, &scope)?;
    announce(&urls, &bound.admin, gateway.open().next().map_or(0, |(address, _)| address.port()));
    let outcome = runtime::shutdown::run(&scope, &listeners, END, &mut signals, std::future::pending(), |phase| {
        running.on_phase(phase);
    })
    .await;
    terminal::say(&format!("ended in {} ms", outcome.took.as_millis()));
    Ok(ExitCode::SUCCESS)
}

/// A gateway with one route, to the sample service.
fn gateway(service: SocketAddr, scope: &Scope) -> Result<Entrances, Failure> {
    let text = format!("gateway: {{ routes: {{ service.localhost: {{ to: 'http://{service}' }} }} }}");
    let mut file = AgentFile::parse("demo", &text, &|_| None)?;
    if let Some(gateway) = &mut file.gateway {
        *gateway = GatewayConfig { listen: vec![loopback(0)], dynamic_host: None, ..gateway.clone() };
    }
    let mut entrances = Entrances::new(&scope.child(), scope, None);
    let clusters = Clusters::new(KubeSettings::default());
    let prepared = entrances.prepare(&file, &clusters).map_err(|error| failure(&error))?;
    entrances.commit(prepared);
    Ok(entrances)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn server_config(port: u16) -> ServerConfig {
    let mut config = ServerConfig::default();
    config.public.listen = vec![loopback(port)];
    config.public.tcp_ports = PortRange::new(20_000, 29_999);
    config.agents.listen = vec![loopback(0)];
    config.admin.listen = loopback(0);
    config.log.access = LogTarget::Off;
    config.log.audit = Some(LogTarget::Off);
    config
}

fn write_token(directory: &std::path::Path, token: &Token) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let new = NewToken {
        account: "demo".into(),
        allow: vec![NamePattern::parse("*").map_err(std::io::Error::other)?],
        hosts: Vec::new(),
        ports: PortRange::new(20_000, 29_999),
        max_tunnels: None,
        expires: None,
    };
    let mut store = TokenStore::new();
    store.add(token, new, SystemTime::now()).map_err(std::io::Error::other)?;
    let path = directory.join("tokens.json");
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(store.to_json().as_bytes())
}

/// Waits until both tunnels are published; returns their URLs.
async fn published(events: &mut tokio::sync::broadcast::Receiver<AgentEvent>) -> Result<Vec<String>, Failure> {
    let mut urls = Vec::new();
    while urls.len() < 2 {
        match events.recv().await {
            Ok(AgentEvent::Published { url, .. }) => urls.push(url),
            Ok(AgentEvent::Refused { tunnel, fault, .. }) => {
                return Err(Failure::new(Fault::Internal, format!("{tunnel}: {}", fault.message), fault.hint));
            }
            Ok(_) => {}
            Err(_) => return Err(Failure::new(Fault::Internal, "the agent ended before it published anything", "")),
        }
    }
    Ok(urls)
}

fn announce(urls: &[String], admin: &SocketAddr, gateway: u16) {
    let url = urls.iter().find(|url| url.starts_with("http")).map_or("", String::as_str);
    let tcp = urls.iter().find_map(|url| url.strip_prefix("tcp://")).unwrap_or_default();
    terminal::data(&format!("{url}/\n"));
    terminal::say(
        "\nOpen it in a browser: the page shows what happened to its own request,\n\
         visitor → server → (TLS, tunnel protocol) → agent → local service, and back.\n\nTry:",
    );
    for (command, what) in [
        (format!("curl {url}/api/inspect"), "the request as the local service got it"),
        (format!("curl http://{tcp}/api/inspect"), "the same through a TCP tunnel"),
        (
            format!("curl http://service.localhost:{gateway}/api/inspect"),
            "the same through a gateway, without a tunnel",
        ),
        (format!("curl http://{admin}/metrics"), "what the server counts"),
    ] {
        terminal::say(&format!("  {command:52}  # {what}"));
    }
    terminal::say("\nCtrl-C ends it.");
}
