//! What is published at the ports of an SSH server, in the place of a tunnel server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::forward::{RemoteEvent, RemotePort, RemotePorts, SshServers};
use adit_core::config::publish::{CONNECT_TIMEOUT, PublicPlace, PublishConfig, PublishedTunnel, SSH_BIND};
use adit_core::target::{SshServer, Target};
use runtime::connect::Connect;
use runtime::scope::Scope;
use serde_json::{Value, json};

use super::super::view::View;
use super::telling::{GRACE, Troubles};
use super::{Chosen, Phase, Ready, State, TunnelRow, Work};
use crate::command::agent::START_TIMEOUT;

/// Makes ready the ports of a server.
pub(super) fn ready(
    publish: &PublishConfig,
    server: &SshServer,
    servers: &Arc<SshServers>,
    chosen: Option<&Arc<Chosen>>,
    troubles: Troubles,
    open: &dyn Fn(&str, Duration, &Target) -> Arc<dyn Connect>,
) -> Ready {
    let before = |port: &RemotePort| chosen?.get(&server.to_string(), &port.name, &port.bind);
    let with_before = |port: RemotePort| RemotePort { before: before(&port), ..port };
    let ports: Vec<RemotePort> = publish.tunnels.iter().map(|tunnel| with_before(port(tunnel, open))).collect();
    let rows = publish.tunnels.iter().zip(&ports).map(|(tunnel, port)| TunnelRow {
        name: tunnel.key.clone(),
        url: place(server, &port.bind, port.port),
        asked: place(server, &port.bind, port.port),
        target: port.connect.describe(),
        note: "waiting".into(),
        ..TunnelRow::default()
    });
    let tunnels = rows.collect();
    Ready {
        work: Work::Ssh { server: server.clone(), servers: Arc::clone(servers), ports, chosen: chosen.cloned() },
        tunnels,
        troubles,
        token: None,
    }
}

fn port(tunnel: &PublishedTunnel, open: &dyn Fn(&str, Duration, &Target) -> Arc<dyn Connect>) -> RemotePort {
    let port = match tunnel.public {
        PublicPlace::Port(port) => port,
        // The parser lets none of these through.
        PublicPlace::Any | PublicPlace::Name(_) | PublicPlace::Host(_) => 0,
    };
    let here = matches!(tunnel.to, Target::Local(_));
    let unsaid = tunnel.connect_timeout == CONNECT_TIMEOUT && !here;
    let limit = if unsaid { START_TIMEOUT } else { tunnel.connect_timeout };
    let connect = open(&tunnel.key, limit, &tunnel.to);
    let (name, bind) = (tunnel.key.clone(), tunnel.bind.clone());
    RemotePort { name, bind, port, before: None, connect, connect_timeout: limit + GRACE }
}

/// Where visitors find a port, as far as it is known: the server decides by its `GatewayPorts`.
fn place(server: &SshServer, bind: &str, port: u16) -> String {
    let port = if port == 0 { "(any)".to_owned() } else { port.to_string() };
    match bind {
        SSH_BIND => format!("localhost:{port} of {server}"),
        "*" => format!("tcp://{}:{port}", server.host),
        bind => format!("{bind}:{port} of {server}"),
    }
}

/// Starts to keep them open.
pub(super) fn start(
    server: SshServer,
    servers: Arc<SshServers>,
    ports: Vec<RemotePort>,
    told: Told,
    scope: &Scope,
) -> Arc<RemotePorts> {
    let ports = RemotePorts::new(servers, server, ports, Arc::new(move |event| told.hear(&event)));
    scope.spawn("remote ports", Arc::clone(&ports).run(scope.clone()));
    ports
}

/// Whoever is told what happens to the ports.
pub(super) struct Told {
    scope: Scope,
    server: SshServer,
    state: Arc<State>,
    /// Where numbers are written down, if they are to be had again by another process.
    chosen: Option<Arc<Chosen>>,
    view: Arc<View>,
}

impl Told {
    pub(super) fn new(
        scope: &Scope,
        server: &SshServer,
        state: &Arc<State>,
        chosen: Option<Arc<Chosen>>,
        view: &Arc<View>,
    ) -> Self {
        Self { scope: scope.clone(), server: server.clone(), state: Arc::clone(state), chosen, view: Arc::clone(view) }
    }

    fn hear(&self, event: &RemoteEvent) {
        take(&self.state, &self.server, event);
        tell(&self.view, &self.state, &self.server, event);
        if let RemoteEvent::Listening { name, bind, port, chosen: true, .. } = event {
            self.write_down(name.clone(), bind.clone(), *port);
        }
    }

    fn write_down(&self, name: String, bind: String, port: u16) {
        let Some(chosen) = self.chosen.clone() else { return };
        let server = self.server.to_string();
        let tunnels: Vec<String> = self.state.tunnels().iter().map(|row| row.name.clone()).collect();
        let writing = self.scope.clone();
        self.scope.spawn("write a port down", async move {
            let write = move || {
                if let Err(error) = chosen.set(&server, &name, &bind, port, &tunnels) {
                    tracing::warn!(%error, tunnel = name, "another daemon will not know the number of this port");
                }
            };
            // It fails only at the end of everything.
            let _ = writing.spawn_blocking("write a port down", write).await;
        });
    }
}

fn take(state: &State, server: &SshServer, event: &RemoteEvent) {
    match event {
        RemoteEvent::Connected => state.enter(Phase::Connected),
        RemoteEvent::Listening { name, bind, port, .. } => state.set(name, |row| {
            row.url = place(server, bind, *port);
            row.open();
        }),
        RemoteEvent::Refused { name, port, .. } => state.set(name, |row| row.hold(true, &refused(server, *port))),
        RemoteEvent::Opened { name } => state.set(name, |row| {
            row.live.fetch_add(1, Ordering::Relaxed);
        }),
        RemoteEvent::Closed { name, received, sent } => state.set(name, |row| {
            // A visitor that came before the row did is not counted.
            let less = |live: u64| Some(live.saturating_sub(1));
            let _ = row.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            row.requests += 1;
            row.bytes_in += received;
            row.bytes_out += sent;
        }),
        RemoteEvent::Lost { reason, .. } => {
            state.enter(Phase::Connecting);
            state.note(false, &format!("offline: {reason}"));
        }
        _ => {}
    }
}

fn refused(server: &SshServer, port: u16) -> String {
    format!("{server} does not open port {port}")
}

fn tell(view: &View, state: &State, server: &SshServer, event: &RemoteEvent) {
    let text = server.to_string();
    let (name, key, line, value) = match event {
        RemoteEvent::Connected => ("connected", "publish", format!("connected to {server}"), json!({ "server": text })),
        RemoteEvent::Listening { name, bind, port, before, .. } => {
            if let Some(before) = before {
                renumbered(view, server, name, *before, *port);
            }
            let url = place(server, bind, *port);
            let target = state.target(name);
            let line = format!("{name}  {url} → {target}");
            ("published", name.as_str(), line, json!({ "tunnel": name, "url": url, "target": target, "port": port }))
        }
        RemoteEvent::Refused { name, port, .. } => {
            let hint = "it is taken there, or the server forbids it: AllowTcpForwarding, PermitListen";
            let line = format!("{name}: {}; asking again\nhint: {hint}", refused(server, *port));
            ("refused", name.as_str(), line, json!({ "tunnel": name, "port": port, "hint": hint }))
        }
        RemoteEvent::Lost { reason, hint, wait } => {
            let then = hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            let line = format!("publish: {reason}; next attempt in {:.1} s{then}", wait.as_secs_f64());
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            ("lost", "publish", line, json!({ "reason": reason, "hint": hint, "retry_in_ms": ms }))
        }
        _ => return,
    };
    // Attempts go on for ever, and each reason is worth one line.
    let new = match event {
        RemoteEvent::Refused { .. } | RemoteEvent::Lost { .. } => state.is_news(key, &line_without_wait(event, &line)),
        _ => {
            state.forget_news(key);
            true
        }
    };
    if new {
        view.remote(name, &line, || with_server(value, &text));
    }
}

/// Whoever was given the number before must be given the new one.
fn renumbered(view: &View, server: &SshServer, name: &str, before: u16, port: u16) {
    let hint = "name a port in `publish` that is yours there: `port: 0` takes what the server has";
    let line = format!(
        "{name}: its port at {server} is {port} now, not {before}, which was not to be had again\nhint: {hint}"
    );
    let value = || json!({ "tunnel": name, "port": port, "before": before, "server": server.to_string() });
    view.remote("renumbered", &line, value);
}

fn line_without_wait(event: &RemoteEvent, line: &str) -> String {
    match event {
        RemoteEvent::Lost { reason, .. } => reason.clone(),
        _ => line.to_owned(),
    }
}

fn with_server(mut value: Value, server: &str) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.insert("server".into(), server.into());
    }
    value
}
