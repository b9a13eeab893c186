//! The effective `adit.yaml`: everything that holds, defaults included, secrets hidden.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::destination::{CreateSettings, JumpSettings};
use super::document::Written;
use super::forwards::{
    Credentials, ExecProbe, GrpcProbe, HealthConfig, HealthProbe, HttpProbe, KafkaProbe, LimitsConfig, PostgresProbe,
    ProbeText, ProbeTls, RedisProbe, RestartConfig,
};
use super::gateway::{BasicAuth, GatewayTls, PasswordSource, UpstreamScheme};
use super::publish::{HeaderEdits, HealthCheck, Probe, PublicPlace, PublishedTunnel, TrustConfig};
use super::unit::show_duration;
use super::{
    AgentFile, CONFIG_VERSION, DaemonConfig, Defaults, ForwardConfig, GatewayConfig, KubernetesConfig, PublishConfig,
    RouteConfig,
};
use crate::forward::Start;
use crate::health::HealthSettings;
use crate::target::{JumpTarget, Selection, SshBackend, SshOptions, SshServer, SshTarget, Target, TargetKind};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Parts of the names of headers whose values are shown to nobody.
const SECRET_HEADERS: [&str; 6] = ["authorization", "cookie", "token", "secret", "password", "key"];

impl AgentFile {
    /// The file as YAML, with every default and without secrets.
    #[must_use]
    pub fn effective_yaml(&self) -> String {
        document(self).yaml()
    }

    /// The same as JSON.
    #[must_use]
    pub fn effective_json(&self) -> Value {
        document(self).json()
    }
}

fn document(file: &AgentFile) -> Written {
    let forwards = file.forwards.iter().fold(Written::map(), |map, one| map.with(&one.name, forward(one)));
    Written::map()
        .with("version", Written::bare(&CONFIG_VERSION))
        .with("kubernetes", kubernetes(&file.kubernetes))
        .with("defaults", defaults(&file.defaults))
        .with_some("forwards", filled(forwards))
        .with_some("gateway", file.gateway.as_ref().map(gateway))
        .with_some("publish", file.publish.as_ref().map(publish))
        .with("daemon", daemon(&file.daemon))
}

fn daemon(config: &DaemonConfig) -> Written {
    let times = config.shutdown;
    let shutdown = Written::map()
        .with("accept", duration(times.accept))
        .with("drain", duration(times.drain))
        .with("cancel", duration(times.cancel))
        .with("abort", duration(times.abort));
    Written::map()
        .with_some("listen", config.listen.as_ref().map(Written::text))
        .with_some("token_file", config.token_file.as_ref().map(|path| Written::text(&path.display())))
        .with_some("metrics", config.metrics.as_ref().map(Written::text))
        .with("shutdown", shutdown)
        .with("notify", Written::bare(&config.notify))
}

fn kubernetes(config: &KubernetesConfig) -> Written {
    let protect = config.protect.iter().map(super::kubernetes::ProtectPattern::as_str);
    Written::map()
        .with_some("kubeconfig", filled(paths(&config.kubeconfig)))
        .with_some("exec_path", filled(paths(&config.exec_path)))
        .with("keepalive", duration_or_off(config.keepalive))
        .with_some("protect", filled(Written::texts(protect)))
}

fn defaults(defaults: &Defaults) -> Written {
    Written::map()
        .with("idle_timeout", duration_or_off(defaults.idle_timeout))
        .with_some("health", defaults.health.as_ref().map(health))
        .with("restart", restart(&defaults.restart))
        .with("limits", limits(defaults.limits))
}

pub(super) fn forward(forward: &ForwardConfig) -> Written {
    let start = match forward.start {
        Start::OnDemand => "on-demand",
        Start::Always => "always",
    };
    Written::map()
        .with_some("enabled", (!forward.enabled).then(|| Written::bare(&false)))
        .with_some("description", forward.description.as_ref().map(Written::text))
        .with("to", destination(&forward.to, forward.jump.as_ref()))
        .with_some("listen", one_or_more(&forward.listen))
        .with("start", Written::text(start))
        .with("idle_timeout", duration_or_off(forward.idle_timeout))
        .with_some("tags", filled(Written::texts(&forward.tags)))
        .with("balance", Written::bare(&forward.balance))
        .with("restart", restart(&forward.restart))
        .with("limits", limits(forward.limits))
        .with("health", forward.health.as_ref().map_or_else(|| Written::text("off"), health))
}

fn limits(limits: LimitsConfig) -> Written {
    let unlimited = || Written::text("unlimited");
    let rate = limits.bytes_per_second.map(|bytes| Written::Text(format!("{bytes}B/s")));
    Written::map()
        .with("connections", limits.connections.as_ref().map_or_else(unlimited, Written::bare))
        .with("bytes_per_second", rate.unwrap_or_else(unlimited))
}

fn restart(restart: &RestartConfig) -> Written {
    let attempts = restart.max_attempts.as_ref().map_or_else(|| Written::text("unlimited"), Written::bare);
    Written::map()
        .with("max_attempts", attempts)
        .with("initial_delay", duration(restart.initial_delay))
        .with("multiplier", Written::bare(&restart.multiplier))
        .with("max_delay", duration(restart.max_delay))
        .with("window", duration(restart.window))
}

fn health(health: &HealthConfig) -> Written {
    let map = Written::map().with("type", Written::text(health.probe.as_str()));
    let map = match &health.probe {
        HealthProbe::Tcp | HealthProbe::Mysql => map,
        HealthProbe::Http(probe) => http_probe(map, probe),
        HealthProbe::Postgres(PostgresProbe { login, database, sslmode, tls }) => {
            let map = credentials(map, login)
                .with_some("database", database.as_ref().map(probe_text))
                .with("sslmode", Written::text(sslmode.as_str()));
            trust(map, tls)
        }
        HealthProbe::Redis(RedisProbe { login, tls }) => probe_tls(credentials(map, login), tls.as_ref()),
        HealthProbe::Grpc(GrpcProbe { service, tls, host_header }) => {
            let map = map
                .with_some("service", (!service.is_empty()).then(|| probe_text(service)))
                .with_some("host_header", host_header.as_ref().map(probe_text));
            probe_tls(map, tls.as_ref())
        }
        HealthProbe::Kafka(KafkaProbe { login, mechanism, tls }) => {
            let map = credentials(map, login)
                .with_some("mechanism", login.user.as_ref().map(|_| Written::text(mechanism.as_str())));
            probe_tls(map, tls.as_ref())
        }
        HealthProbe::Exec(ExecProbe { shown, .. }) => map.with("command", Written::texts(shown)),
    };
    health_settings(map, &health.settings)
}

fn probe_text(text: &ProbeText) -> Written {
    Written::text(text.shown())
}

fn http_probe(map: Written, probe: &HttpProbe) -> Written {
    // Whatever a header of a probe says, it is there to be let in.
    let headers = probe.headers.iter();
    let headers = headers.fold(Written::map(), |map, (name, _)| map.with(name.as_str(), Written::text(REDACTED)));
    let map = map
        .with_some("method", (probe.method != http::Method::GET).then(|| Written::text(probe.method.as_str())))
        .with("path", Written::text(&probe.shown_path))
        .with_some("status", filled(Written::texts(&probe.status)))
        .with_some("content", probe.content.as_ref().map(probe_text))
        .with_some("headers", filled(headers))
        .with_some("host_header", probe.host_header.as_ref().map(probe_text));
    match &probe.tls {
        Some(tls) => trust(map.with("verify", Written::bare(&tls.verify)), tls),
        None => map,
    }
}

fn credentials(map: Written, login: &Credentials) -> Written {
    let map = map.with_some("user", login.user.as_ref().map(probe_text));
    match &login.password {
        Some(PasswordSource::Value(_)) => map.with("password", Written::text(REDACTED)),
        Some(PasswordSource::File(path)) => map.with("password_file", Written::text(&path.display())),
        None => map,
    }
}

fn probe_tls(map: Written, tls: Option<&ProbeTls>) -> Written {
    let map = map.with("tls", Written::bare(&tls.is_some()));
    match tls {
        Some(tls) => trust(map.with("verify", Written::bare(&tls.verify)), tls),
        None => map,
    }
}

fn trust(map: Written, tls: &ProbeTls) -> Written {
    map.with_some("ca", tls.ca.as_ref().map(|path| Written::text(&path.display())))
        .with_some("server_name", tls.server_name.as_ref().map(Written::text))
}

fn health_settings(map: Written, settings: &HealthSettings) -> Written {
    map.with("interval", duration(settings.interval))
        .with("timeout", duration(settings.timeout))
        .with("rise", Written::bare(&settings.rise))
        .with("fall", Written::bare(&settings.fall))
}

fn gateway(gateway: &GatewayConfig) -> Written {
    let aliases =
        gateway.aliases.iter().fold(Written::map(), |map, (label, context)| map.with(label, Written::text(context)));
    let allow = Written::map()
        .with_some("contexts", filled(Written::texts(&gateway.allow.contexts)))
        .with_some("namespaces", filled(Written::texts(&gateway.allow.namespaces)));
    let tls = match gateway.tls {
        GatewayTls::Passthrough => "passthrough",
        GatewayTls::Local => "local",
    };
    let routes = gateway.routes.iter().fold(Written::map(), |map, one| map.with(&one.key, route(one)));
    Written::map()
        .with_some("listen", one_or_more(&gateway.listen))
        .with("dynamic_host", gateway.dynamic_host.as_ref().map_or_else(|| Written::text("off"), Written::text))
        .with_some("aliases", filled(aliases))
        .with_some("allow", filled(allow))
        .with("idle_timeout", duration_or_off(gateway.idle_timeout))
        .with("tls", Written::text(tls))
        .with_some("trusted_proxies", filled(Written::texts(&gateway.trusted_proxies)))
        .with_some("routes", filled(routes))
}

fn route(route: &RouteConfig) -> Written {
    let said = matches!(&route.to, Target::Local(local) if local.kind != TargetKind::Tcp);
    let mode = Written::text(if route.terminate { "terminate" } else { "passthrough" });
    let tls = if route.scheme == UpstreamScheme::Https {
        Written::map()
            .with("mode", mode)
            .with("verify", Written::bare(&route.tls.verify))
            .with_some("ca", route.tls.ca.as_ref().map(|path| Written::text(&path.display())))
            .with_some("server_name", route.tls.server_name.as_ref().map(Written::text))
    } else {
        mode
    };
    Written::map()
        .with("to", destination(&route.to, route.jump.as_ref()))
        .with_some("scheme", (!said).then(|| Written::text(route.scheme.as_str())))
        .with("tls", tls)
        .with_some("host_header", route.host_header.as_ref().map(Written::text))
        .with_some("headers", filled(edits(&route.headers)))
        .with_some("response_headers", filled(edits(&route.response_headers)))
        .with_some("basic_auth", route.basic_auth.as_ref().map(basic_auth))
        .with_some("timeout", route.timeout.map(duration))
}

fn basic_auth(auth: &BasicAuth) -> Written {
    let map = Written::map().with("user", Written::text(&auth.user));
    match &auth.password {
        PasswordSource::Value(_) => map.with("password", Written::text(REDACTED)),
        PasswordSource::File(path) => map.with("password_file", Written::text(&path.display())),
    }
}

fn publish(publish: &PublishConfig) -> Written {
    let (ca_file, fingerprint) = match &publish.trust {
        TrustConfig::System => (None, None),
        TrustConfig::CaFile(path) => (Some(Written::text(&path.display())), None),
        TrustConfig::Fingerprint(hash) => {
            let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            (None, Some(Written::Text(format!("sha256:{digits}"))))
        }
    };
    let tunnels = publish.tunnels.iter().fold(Written::map(), |map, one| {
        map.with(&one.key, if publish.via.is_some() { remote_port(one) } else { tunnel(one) })
    });
    Written::map()
        .with_some("server", publish.server.as_ref().map(Written::text))
        .with_some("token_file", publish.token_file.as_ref().map(|path| Written::text(&path.display())))
        .with_some("ca_file", ca_file)
        .with_some("fingerprint", fingerprint)
        .with_some("server_name", publish.server_name.as_ref().map(Written::text))
        .with_some("agent_id", publish.agent_id.as_ref().map(Written::text))
        .with_some("lanes", publish.via.is_none().then(|| Written::bare(&publish.lanes)))
        .with_some("metrics", publish.metrics.as_ref().map(Written::text))
        .with_some("via", publish.via.as_ref().map(via))
        .with_some("tunnels", filled(tunnels))
}

fn via(server: &SshServer) -> Written {
    if *server.options == SshOptions::default() {
        return Written::Text(format!("ssh://{server}"));
    }
    ssh_options(Written::map().with("server", Written::text(server)), &server.options)
}

fn remote_port(tunnel: &PublishedTunnel) -> Written {
    let port = match &tunnel.public {
        PublicPlace::Port(port) => *port,
        PublicPlace::Any | PublicPlace::Name(_) | PublicPlace::Host(_) => 0,
    };
    Written::map()
        .with("to", destination(&tunnel.to, tunnel.jump.as_ref()))
        .with("port", Written::bare(&port))
        .with("bind", Written::text(&tunnel.bind))
        .with("connect_timeout", duration(tunnel.connect_timeout))
}

fn tunnel(tunnel: &PublishedTunnel) -> Written {
    let said = matches!(tunnel.to, Target::Local(_));
    let public = match &tunnel.public {
        PublicPlace::Any => None,
        PublicPlace::Name(name) => Some(("as", Written::text(name))),
        PublicPlace::Host(host) => Some(("host", Written::text(host))),
        PublicPlace::Port(port) => Some(("port", Written::bare(port))),
    };
    let map = Written::map()
        .with("to", destination(&tunnel.to, tunnel.jump.as_ref()))
        .with_some("scheme", (!said).then(|| Written::text(tunnel.scheme.scheme())));
    let map = match public {
        Some((key, value)) => map.with(key, value),
        None => map,
    };
    map.with_some("host_header", tunnel.host_header.as_ref().map(Written::text))
        .with_some("headers", filled(edits(&tunnel.headers)))
        .with_some("response_headers", filled(edits(&tunnel.response_headers)))
        .with_some("proxy_protocol", tunnel.proxy_protocol.then(|| Written::text("v2")))
        .with_some("verify", (tunnel.scheme == TargetKind::Https).then(|| Written::bare(&tunnel.verify)))
        .with_some("health", tunnel.health.as_ref().map(check))
        .with("connect_timeout", duration(tunnel.connect_timeout))
        .with_some("request_timeout", tunnel.request_timeout.map(duration))
}

fn check(check: &HealthCheck) -> Written {
    let map = Written::map();
    let map = match &check.probe {
        Probe::Tcp => map.with("type", Written::text("tcp")),
        Probe::Http { path } => map.with("type", Written::text("http")).with("path", Written::text(path)),
    };
    health_settings(map, &check.settings)
}

fn edits(edits: &HeaderEdits) -> Written {
    let add = edits.add.iter().fold(Written::map(), |map, (name, value)| {
        let secret = SECRET_HEADERS.iter().any(|part| name.as_str().contains(part));
        let value = if secret { REDACTED.into() } else { String::from_utf8_lossy(value.as_bytes()) };
        map.with(name.as_str(), Written::text(&value))
    });
    Written::map().with_some("add", filled(add)).with_some("remove", filled(Written::texts(&edits.remove)))
}

/// A target as its URL, or as a map when it says more.
pub(super) fn destination(to: &Target, settings: Option<&JumpSettings>) -> Written {
    match (to, settings) {
        (Target::Jump(jump), Some(settings)) => Written::map().with("jump", jump_map(jump, settings)),
        (Target::Ssh(ssh), _) if *ssh.server.options != SshOptions::default() => {
            Written::map().with("ssh", ssh_map(ssh))
        }
        _ => Written::text(to),
    }
}

fn ssh_map(ssh: &SshTarget) -> Written {
    let map = Written::map()
        .with("server", Written::text(&ssh.server))
        .with("host", Written::text(&ssh.host))
        .with("port", Written::bare(&ssh.port));
    ssh_options(map, &ssh.server.options)
}

fn ssh_options(map: Written, options: &SshOptions) -> Written {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| Written::text(&path.display()));
    map.with_some("key", path(&options.key))
        .with_some("passphrase_file", path(&options.passphrase_file))
        .with_some("password_file", path(&options.password_file))
        .with_some("config", path(&options.config))
        .with_some("known_hosts", path(&options.known_hosts))
        .with_some("jump", options.jump.as_ref().map(Written::text))
        .with_some("keepalive", options.keepalive.map(duration))
        .with_some("connect_timeout", options.connect_timeout.map(duration))
        .with_some("backend", (options.backend != SshBackend::Auto).then(|| Written::text(options.backend.as_str())))
}

fn jump_map(jump: &JumpTarget, settings: &JumpSettings) -> Written {
    let via = match &jump.via {
        Selection::Object { kind, name } => Written::map().with(kind.as_str(), Written::text(name)),
        Selection::Labels(labels) => Written::map().with("selector", Written::text(labels)),
    };
    let via = via
        .with_some("container", settings.container.as_ref().map(Written::text))
        .with_some("create", settings.create.as_ref().map(create));
    Written::map()
        .with_some("context", jump.context.as_ref().map(Written::text))
        .with_some("namespace", jump.namespace.as_ref().map(Written::text))
        .with("via", via)
        .with("host", Written::text(&jump.host))
        .with("port", Written::bare(&jump.port))
}

fn create(create: &CreateSettings) -> Written {
    Written::map()
        .with("image", Written::text(&create.image))
        .with_some("command", filled(Written::texts(&create.command)))
        .with("timeout", duration(create.timeout))
        .with_some("keep", create.keep.then(|| Written::bare(&true)))
}

fn filled(value: Written) -> Option<Written> {
    (!value.is_empty()).then_some(value)
}

/// One value alone is written without its list.
fn one_or_more<T: std::fmt::Display>(items: &[T]) -> Option<Written> {
    match items {
        [] => None,
        [one] => Some(Written::text(one)),
        more => Some(Written::texts(more)),
    }
}

fn paths(paths: &[PathBuf]) -> Written {
    Written::texts(paths.iter().map(|path| path.display()))
}

fn duration(duration: Duration) -> Written {
    Written::Text(show_duration(duration))
}

fn duration_or_off(wait: Option<Duration>) -> Written {
    wait.map_or_else(|| Written::text("off"), duration)
}

#[cfg(test)]
mod tests;
