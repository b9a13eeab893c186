//! From the tree to a [`ServerConfig`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::auth::auth;
use super::{
    AccountConfig, AdminConfig, AgentsConfig, LimitsConfig, LogConfig, LogFormat, LogLevel, LogTarget, NamesConfig,
    PublicConfig, PublicUrl, Quotas, ServerConfig, TlsFiles, TunnelConfig,
};
use crate::accounts::check_account;
use crate::cidr::Cidr;
use crate::config::daemon::phases;
use crate::config::reader::{
    Complaint, Reader, Section, listen_address, loopback_address, positive_duration, resolve_path,
};
use crate::config::unit::{parse_duration, parse_rate, parse_size, show_duration};
use crate::config::{Environment, Problems, tree};
use crate::head;
use crate::name::{Hostname, PortRange, TunnelName};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The largest window a file may ask for; credit is 32 bits and one stream must not take all memory.
const WINDOW_LIMIT: u64 = 1 << 30;

pub(super) fn parse(file: &str, text: &str, env: Environment<'_>) -> Result<ServerConfig, Problems> {
    let (node, problems) = tree::read(file, text).map_err(Problems::one)?;
    let reader = Reader::new(file, env, problems);
    let config = {
        let root = reader.root(&node);
        root.version();
        let quotas = quotas(root.section("quotas"), &Quotas::default());
        let public = public(root.section("public"));
        let config = ServerConfig {
            data_dir: root.path("data_dir"),
            workers: root.number("workers", 1..=1024),
            agents: agents(root.section("agents")),
            auth: auth(root.section("auth")),
            accounts: accounts(&root.section("accounts"), &quotas, public.tcp_ports),
            quotas,
            public,
            limits: limits(root.section("limits")),
            names: names(root.section("names")),
            admin: admin(root.section("admin")),
            log: log(root.section("log"), file, env),
            shutdown: phases(root.section("shutdown")),
            tunnel: tunnel(root.section("tunnel")),
        };
        root.finish();
        config
    };
    reader.finish(config)
}

fn public(section: Section<'_>) -> PublicConfig {
    let default = PublicConfig::default();
    let base_domain = section.get("base_domain", Hostname::parse).unwrap_or(default.base_domain);
    let config = PublicConfig {
        listen: listen(&section).unwrap_or(default.listen),
        url: section.get("url", |text| public_url(text, &base_domain)),
        base_domain,
        tls: tls(section.optional_section("tls")),
        trusted_proxies: section.list("trusted_proxies", Cidr::parse).unwrap_or_default(),
        tcp_ports: section.get("tcp_ports", PortRange::parse),
        tcp_listen: section.get("tcp_listen", ip),
    };
    section.finish();
    config
}

fn agents(section: Section<'_>) -> AgentsConfig {
    let config = AgentsConfig {
        listen: listen(&section).unwrap_or_else(|| AgentsConfig::default().listen),
        tls: tls(section.optional_section("tls")),
    };
    section.finish();
    config
}

fn listen(section: &Section<'_>) -> Option<Vec<SocketAddr>> {
    let addresses = section.list("listen", |text| listen_address(text, ANY))?;
    if addresses.is_empty() {
        let complaint = Complaint::new("names no address", "write one, or leave the key out");
        section.complain("listen", complaint);
    }
    Some(addresses)
}

fn tls(section: Option<Section<'_>>) -> Option<TlsFiles> {
    let section = section?;
    let cert = section.path("cert");
    let key = section.path("key");
    if !section.has("cert") {
        section.missing("cert", "write the PEM file of the certificate chain");
    }
    if !section.has("key") {
        section.missing("key", "write the PEM file of the private key");
    }
    section.finish();
    Some(TlsFiles { cert: cert?, key: key? })
}

fn public_url(text: &str, base_domain: &Hostname) -> Result<PublicUrl, Complaint> {
    let hint = format!("write https://{base_domain} or https://{base_domain}:8443");
    let fault = || Complaint::new(format!("`{text}` is not the URL of the base domain"), hint.clone());
    let (scheme, rest) = text.split_once("://").ok_or_else(fault)?;
    let https = match scheme {
        "https" => true,
        "http" => false,
        _ => return Err(fault()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let rest = rest.strip_prefix("*.").unwrap_or(rest);
    let found = crate::authority::parse_host(rest.as_bytes()).map_err(|_| fault())?;
    if found.host != *base_domain {
        return Err(fault());
    }
    Ok(PublicUrl { https, port: found.port })
}

fn ip(text: &str) -> Result<IpAddr, Complaint> {
    text.parse()
        .map_err(|_| Complaint::new(format!("`{text}` is not an IP address"), "write one, such as 0.0.0.0 or ::"))
}

fn quotas(section: Section<'_>, default: &Quotas) -> Quotas {
    let bandwidth = |key, default: Option<u64>| match section.get(key, rate_or_unlimited) {
        Some(found) => found,
        None => default,
    };
    let quotas = Quotas {
        agents: section.number("agents", 0..=1_000_000).unwrap_or(default.agents),
        tunnels: section.number("tunnels", 0..=1_000_000).unwrap_or(default.tunnels),
        streams: section.number("streams", 0..=10_000_000).unwrap_or(default.streams),
        requests_per_second: section
            .number("requests_per_second", 0..=10_000_000)
            .unwrap_or(default.requests_per_second),
        burst: section.number("burst", 1..=10_000_000).or(default.burst),
        upload: bandwidth("upload", default.upload),
        download: bandwidth("download", default.download),
    };
    section.finish();
    quotas
}

/// A rate; `unlimited` and zero are none.
fn rate_or_unlimited(text: &str) -> Result<Option<u64>, Complaint> {
    if matches!(text, "unlimited" | "0") {
        return Ok(None);
    }
    let rate = parse_rate(text)?;
    Ok((rate > 0).then_some(rate))
}

fn accounts(section: &Section<'_>, general: &Quotas, tcp_ports: Option<PortRange>) -> BTreeMap<String, AccountConfig> {
    let mut accounts = BTreeMap::new();
    for (name, entry) in section.named_sections() {
        if let Err(error) = check_account(name) {
            entry.complain_here(error);
        }
        let account = AccountConfig {
            quotas: quotas(entry.section("quotas"), general),
            hosts: entry.list("hosts", Hostname::parse).unwrap_or_default(),
            ports: entry.get("ports", |text| account_ports(text, tcp_ports)),
        };
        entry.finish();
        accounts.insert(name.to_owned(), account);
    }
    accounts
}

fn account_ports(text: &str, tcp_ports: Option<PortRange>) -> Result<PortRange, Complaint> {
    let ports = PortRange::parse(text)?;
    match tcp_ports {
        Some(all) if all.covers(ports) => Ok(ports),
        Some(all) => {
            Err(Complaint::new(format!("{ports} is not within public.tcp_ports"), format!("choose ports from {all}")))
        }
        None => Err(Complaint::new("there are no public TCP ports", format!("set public.tcp_ports, such as {ports}"))),
    }
}

fn limits(section: Section<'_>) -> LimitsConfig {
    let default = LimitsConfig::default();
    let time = |key, default| section.get(key, positive_duration).unwrap_or(default);
    let count = |key, default| section.number(key, 1..=100_000_000).unwrap_or(default);
    let limits = LimitsConfig {
        connections: count("connections", default.connections),
        agents: count("agents", default.agents),
        unauthenticated: count("unauthenticated", default.unauthenticated),
        unauthenticated_per_prefix: count("unauthenticated_per_prefix", default.unauthenticated_per_prefix),
        head_size: section
            .get("head_size", |text| size_within(text, 1024, head::HEAD_MAX as u64))
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(default.head_size),
        headers: section.number("headers", 1..=head::HEADERS_MAX).unwrap_or(default.headers),
        memory: section.get("memory", |text| size_within(text, 1 << 20, 1 << 44)).unwrap_or(default.memory),
        body_min_rate: section
            .get("body_min_rate", rate_or_unlimited)
            .map_or(default.body_min_rate, Option::unwrap_or_default),
        header_timeout: time("header_timeout", default.header_timeout),
        idle_timeout: time("idle_timeout", default.idle_timeout),
        response_timeout: time("response_timeout", default.response_timeout),
        tls_timeout: time("tls_timeout", default.tls_timeout),
        auth_timeout: time("auth_timeout", default.auth_timeout),
    };
    section.finish();
    limits
}

fn size_within(text: &str, least: u64, most: u64) -> Result<u64, Complaint> {
    let size = parse_size(text)?;
    if !(least..=most).contains(&size) {
        return Err(Complaint::new(
            format!("{text} is out of range"),
            format!("write a size from {least} to {most} bytes"),
        ));
    }
    Ok(size)
}

fn names(section: Section<'_>) -> NamesConfig {
    let default = NamesConfig::default();
    let reserved = |text: &str| TunnelName::parse(text).map(|name| name.to_string());
    let names = NamesConfig {
        cooldown: section.get("cooldown", parse_duration).unwrap_or(default.cooldown),
        reserved: section.list("reserved", reserved).unwrap_or_default(),
    };
    section.finish();
    names
}

fn admin(section: Section<'_>) -> AdminConfig {
    let admin =
        AdminConfig { listen: section.get("listen", loopback_address).unwrap_or(AdminConfig::default().listen) };
    section.finish();
    admin
}

fn log(section: Section<'_>, file: &str, env: Environment<'_>) -> LogConfig {
    let target = |key| section.get(key, |text| log_target(text, file, env));
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let config = LogConfig {
        access: target("access").unwrap_or(LogTarget::Stderr),
        audit: target("audit"),
        level: section.word("level", &levels),
        format: section.word("format", &formats).unwrap_or_default(),
    };
    section.finish();
    config
}

fn log_target(text: &str, file: &str, env: Environment<'_>) -> Result<LogTarget, Complaint> {
    match text {
        // `off` is a boolean in some YAML; as text it is what the user means.
        "off" | "false" | "no" => Ok(LogTarget::Off),
        "stdout" => Ok(LogTarget::Stdout),
        "stderr" => Ok(LogTarget::Stderr),
        path => resolve_path(path, file, env).map(LogTarget::File),
    }
}

fn tunnel(section: Section<'_>) -> TunnelConfig {
    let default = TunnelConfig::default();
    let heartbeat = section.get("heartbeat", positive_duration).unwrap_or(default.heartbeat);
    let dead_after = section.get("dead_after", positive_duration);
    let config = TunnelConfig {
        // Without a word about it the two keep their proportion.
        dead_after: dead_after.unwrap_or_else(|| default.dead_after.max(heartbeat * 2)),
        heartbeat,
        lanes_max: section.number("lanes_max", 1..=8).unwrap_or(default.lanes_max),
        window_max: section
            .get("window_max", |text| size_within(text, 64 * 1024, WINDOW_LIMIT))
            .and_then(|size| u32::try_from(size).ok())
            .unwrap_or(default.window_max),
    };
    if config.dead_after <= config.heartbeat {
        let complaint = Complaint::new(
            "must be longer than the heartbeat",
            format!("write {} or more", show_duration(config.heartbeat * 2)),
        );
        section.complain("dead_after", complaint);
    }
    section.finish();
    config
}

#[cfg(test)]
mod tests;
