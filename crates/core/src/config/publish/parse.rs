//! From the tree to a [`PublishConfig`].

use http::{HeaderName, HeaderValue};

use super::{
    CONNECT_TIMEOUT, HeaderEdits, HealthCheck, LANES, Probe, PublicPlace, PublishConfig, PublishedTunnel, SERVER_PORT,
    SSH_BIND, ServerAddress, TrustConfig, is_here, scheme_of,
};
use crate::config::Problem;
use crate::config::destination;
use crate::config::reader::{Complaint, Section, loopback_address, number, positive_duration};
use crate::forwarded::is_hop_by_hop;
use crate::health::HealthSettings;
use crate::name::{Hostname, TunnelName};
use crate::target::{LocalTarget, Target, TargetKind};

/// What is said of a tunnel server.
const SERVER_KEYS: [&str; 8] =
    ["server", "token_file", "ca_file", "fingerprint", "server_name", "agent_id", "lanes", "metrics"];
/// What is said of a tunnel at one.
const TUNNEL_KEYS: [&str; 10] = [
    "as",
    "host",
    "scheme",
    "host_header",
    "headers",
    "response_headers",
    "proxy_protocol",
    "verify",
    "health",
    "request_timeout",
];

/// Reads the address of a tunnel server: `host`, `host:port`, `[v6]:port`.
///
/// # Errors
/// With a problem without a place; the caller knows where the text came from.
pub fn parse_server_address(text: &str) -> Result<ServerAddress, Problem> {
    server_address(text).map_err(Complaint::without_place)
}

/// Reads the SHA-256 of a certificate: 64 hexadecimal digits, colons and the prefix `sha256:` permitted.
///
/// # Errors
/// With a problem without a place; the caller knows where the text came from.
pub fn parse_fingerprint(text: &str) -> Result<[u8; 32], Problem> {
    fingerprint(text).map_err(Complaint::without_place)
}

pub(in crate::config) fn publish(section: Section<'_>) -> PublishConfig {
    let via = section.has("via").then(|| destination::ssh_server(&section));
    if via.is_some() {
        only_for_tunnel_servers(&section, &SERVER_KEYS);
    }
    let tunnels = section.section("tunnels");
    let config = PublishConfig {
        server: section.get("server", server_address),
        token_file: section.path("token_file"),
        trust: trust(&section),
        server_name: section.get("server_name", Hostname::parse),
        agent_id: section.get("agent_id", agent_id),
        lanes: section.number("lanes", 1..=8).unwrap_or(LANES),
        metrics: section.get("metrics", loopback_address),
        tunnels: if via.is_some() { remote_ports(&tunnels) } else { self::tunnels(&tunnels) },
        via: via.flatten(),
    };
    // A token in the file itself would end in backups and repositories: rule S6.
    if section.has("token") {
        let complaint = Complaint::new(
            "a token must not stand in this file",
            "put it into a file of its own and set token_file, or set ADIT_TOKEN",
        );
        section.complain("token", complaint);
    }
    section.finish();
    config
}

fn trust(section: &Section<'_>) -> TrustConfig {
    let ca_file = section.path("ca_file").map(TrustConfig::CaFile);
    let pinned = section.get("fingerprint", fingerprint).map(TrustConfig::Fingerprint);
    if section.has("ca_file") && section.has("fingerprint") {
        let complaint = Complaint::new("there is a ca_file as well", "keep one of the two");
        section.complain("fingerprint", complaint);
    }
    pinned.or(ca_file).unwrap_or(TrustConfig::System)
}

fn server_address(text: &str) -> Result<ServerAddress, Complaint> {
    let fault = || {
        Complaint::new(
            format!("`{text}` is not the address of a server"),
            "write host:port, such as tunnel.example.com:8443",
        )
    };
    let text = text.trim();
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return Ok(ServerAddress { host: ip.to_string(), port: SERVER_PORT });
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (text, SERVER_PORT),
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port.parse().map_err(|_| fault())?),
        Some(_) => return Err(fault()),
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| fault())?.to_string(),
        None => match host.parse::<std::net::Ipv4Addr>() {
            Ok(v4) => v4.to_string(),
            Err(_) => Hostname::parse(host).map_err(|_| fault())?.to_string(),
        },
    };
    if port == 0 {
        return Err(fault());
    }
    Ok(ServerAddress { host, port })
}

fn fingerprint(text: &str) -> Result<[u8; 32], Complaint> {
    let bare = text.trim();
    let digits: String = match bare.get(..7) {
        Some(prefix) if prefix.eq_ignore_ascii_case("sha256:") => &bare[7..],
        Some(_) | None => bare,
    }
    .chars()
    .filter(|c| *c != ':')
    .collect();
    crate::token::TokenHash::parse(&digits).map(|hash| *hash.as_bytes()).map_err(|_| {
        Complaint::new(
            "is not the SHA-256 of a certificate",
            "copy what `adit server` prints at its start: sha256: and 64 hexadecimal digits",
        )
    })
}

fn agent_id(text: &str) -> Result<String, Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(legal) {
        return Err(Complaint::new(
            format!("`{text}` cannot be the id of an agent"),
            "use 1 to 64 letters, digits, `-`, `_` or `.`",
        ));
    }
    Ok(text.to_owned())
}

fn tunnels(section: &Section<'_>) -> Vec<PublishedTunnel> {
    let mut tunnels: Vec<PublishedTunnel> = Vec::new();
    for (key, entry) in section.named_sections() {
        let Some(tunnel) = tunnel(key, &entry) else {
            entry.finish();
            continue;
        };
        if let Some(other) = tunnels.iter().find(|other| other.public == tunnel.public) {
            entry.complain_here(Complaint::new(
                format!("{} is taken by the tunnel `{}`", tunnel.public, other.key),
                "give it another `as`, `host` or `port`",
            ));
        }
        entry.finish();
        tunnels.push(tunnel);
    }
    tunnels
}

/// What goes with a tunnel server only.
fn only_for_tunnel_servers(section: &Section<'_>, keys: &[&str]) {
    for key in keys.iter().filter(|key| section.holds(key)) {
        let complaint = Complaint::new("is for a tunnel server, and `via` is an ssh server", "leave one of them out");
        section.complain(key, complaint);
    }
}

/// Tunnels that are ports of an SSH server: byte pipes, whatever is said in them.
fn remote_ports(section: &Section<'_>) -> Vec<PublishedTunnel> {
    let mut tunnels: Vec<PublishedTunnel> = Vec::new();
    for (key, entry) in section.named_sections() {
        let hint = "say what to publish, such as 3000 or tcp://127.0.0.1:3000";
        let to = destination::destination(&entry, true, hint);
        let hint = "the port at which the ssh server listens, such as port: 8080; 0 is any that is free";
        let port = entry.require("port", hint, |text| number(text, &(0..=u16::MAX)));
        let bind = entry.get("bind", bind);
        let connect_timeout = entry.get("connect_timeout", positive_duration);
        for key in TUNNEL_KEYS {
            let _ = entry.has(key);
        }
        only_for_tunnel_servers(&entry, &TUNNEL_KEYS);
        entry.finish();
        let (Some(to), Some(port)) = (to, port) else { continue };
        let target = match to.target {
            Target::Local(local) => Target::Local(LocalTarget { kind: TargetKind::Tcp, ..local }),
            other => other,
        };
        let tunnel = PublishedTunnel::new(key.to_owned(), target, PublicPlace::Port(port));
        let tunnel = PublishedTunnel {
            jump: to.jump,
            bind: bind.unwrap_or_else(|| SSH_BIND.to_owned()),
            connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            ..tunnel
        };
        let same = |other: &&PublishedTunnel| port != 0 && other.public == tunnel.public && other.bind == tunnel.bind;
        if let Some(other) = tunnels.iter().find(same) {
            let message = format!("{} is taken by the tunnel `{}`", tunnel.public, other.key);
            section.complain(key, Complaint::new(message, "give it another `port` or `bind`"));
        }
        tunnels.push(tunnel);
    }
    tunnels
}

/// RFC 4254, section 7.1: a name, an address, or all of them.
fn bind(text: &str) -> Result<String, Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    if text != "*" && (text.is_empty() || !text.bytes().all(legal)) {
        return Err(Complaint::new(
            format!("`{text}` is not an address to listen on"),
            "write localhost, * for all, or one of the server's addresses",
        ));
    }
    Ok(text.to_owned())
}

fn tunnel(key: &str, section: &Section<'_>) -> Option<PublishedTunnel> {
    let has_port = section.has("port");
    if section.has("bind") {
        section.complain("bind", Complaint::new("is for an ssh server, and there is no `via`", "leave it out"));
    }
    let hint = "say what to publish, such as 3000 or http://127.0.0.1:3000";
    let to = destination::destination(section, has_port, hint);
    let scheme = scheme(section, to.as_ref().map(|to| &to.target), has_port);
    let public = public_place(key, section, to.as_ref().map(|_| scheme));
    let headers = header_edits(section.section("headers"));
    let response_headers = header_edits(section.section("response_headers"));
    let proxy_protocol = section.word("proxy_protocol", &[("v2", true), ("off", false)]);
    let host_header = section.get("host_header", host_header);
    let verify = section.boolean("verify");
    let health = section.optional_section("health").map(health);
    let connect_timeout = section.get("connect_timeout", positive_duration);
    let request_timeout = section.get("request_timeout", positive_duration);
    let to = to?;
    let tunnel = PublishedTunnel {
        key: key.to_owned(),
        verify: verify.unwrap_or(!is_here(&to.target)),
        to: to.target,
        jump: to.jump,
        scheme,
        public: public?,
        bind: SSH_BIND.to_owned(),
        host_header,
        headers,
        response_headers,
        proxy_protocol: proxy_protocol.unwrap_or(false),
        health,
        connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        request_timeout,
    };
    check_kind(section, &tunnel);
    Some(tunnel)
}

/// What a URL says itself must not be said otherwise.
fn scheme(section: &Section<'_>, to: Option<&Target>, by_port: bool) -> TargetKind {
    let words =
        [TargetKind::Http, TargetKind::Https, TargetKind::H2c, TargetKind::Tcp].map(|kind| (kind.scheme(), kind));
    let given = section.word("scheme", &words);
    let Some(to) = to else { return given.unwrap_or(TargetKind::Http) };
    let said = scheme_of(to, by_port);
    if let (Target::Local(local), Some(given)) = (to, given.filter(|given| *given != said)) {
        let complaint = Complaint::new(
            format!("the target is {} already", said.scheme()),
            format!("write {}://{}, and leave scheme out", given.scheme(), local.authority()),
        );
        section.complain("scheme", complaint);
        return said;
    }
    given.unwrap_or(said)
}

fn public_place(key: &str, section: &Section<'_>, scheme: Option<TargetKind>) -> Option<PublicPlace> {
    let name = section.get("as", TunnelName::parse).map(PublicPlace::Name);
    let host = section.get("host", Hostname::parse).map(PublicPlace::Host);
    let port = section.number("port", 1..=u16::MAX).map(PublicPlace::Port);
    let given: Vec<&str> = ["as", "host", "port"].into_iter().filter(|key| section.holds(key)).collect();
    if let [first, second, ..] = given[..] {
        let complaint = Complaint::new(
            format!("there is `{first}` as well"),
            "a tunnel has one of `as`, `host` and `port`; write a second tunnel for another",
        );
        section.complain(second, complaint);
        return None;
    }
    if !given.is_empty() {
        return name.or(host).or(port);
    }
    if scheme == Some(TargetKind::Tcp) {
        section.missing("port", "a tcp target needs a public port, such as port: 15432");
        return None;
    }
    match TunnelName::parse(key) {
        Ok(name) => Some(PublicPlace::Name(name)),
        Err(error) => {
            let complaint = Complaint::new(
                format!("`{key}` cannot be the public name: {error}"),
                "rename it, or set `as`, `host` or `port`",
            );
            section.complain_here(complaint);
            None
        }
    }
}

/// What goes with requests does not go with byte pipes, and the other way round.
fn check_kind(section: &Section<'_>, tunnel: &PublishedTunnel) {
    let by_port = matches!(tunnel.public, PublicPlace::Port(_));
    let bytes = tunnel.scheme == TargetKind::Tcp;
    if bytes != by_port {
        let complaint = match &tunnel.to {
            _ if bytes => Complaint::new("a tcp target needs a public port", "set `port` instead of a name"),
            Target::Local(local) => Complaint::new(
                format!("a public port leads to a tcp target, not to {}", local.kind.scheme()),
                format!("write tcp://{}", local.authority()),
            ),
            Target::Kubernetes(_) | Target::Jump(_) | Target::Ssh(_) | Target::Forward(_) => Complaint::new(
                format!("a public port leads to a byte pipe, not to {}", tunnel.scheme.scheme()),
                "leave scheme out, or set `as` or `host` instead of `port`",
            ),
        };
        section.complain("to", complaint);
        return;
    }
    let misplaced: &[&str] =
        if bytes { &["host_header", "headers", "response_headers", "request_timeout"] } else { &["proxy_protocol"] };
    for key in misplaced.iter().filter(|key| section.holds(key)) {
        let kind = if bytes { "http" } else { "tcp" };
        section.complain(key, Complaint::new(format!("is for {kind} targets only"), "leave it out"));
    }
    if section.holds("verify") && tunnel.scheme != TargetKind::Https {
        section.complain("verify", Complaint::new("is for https targets only", "leave it out"));
    }
    let elsewhere = matches!(&tunnel.to, Target::Local(local) if !local.is_loopback());
    if !tunnel.verify && elsewhere {
        let complaint = Complaint::new(
            "the certificate of another machine must be verified",
            "leave it out, or reach the service through this machine",
        );
        section.complain("verify", complaint);
    }
}

pub(in crate::config) fn host_header(text: &str) -> Result<String, Complaint> {
    // Local services are known by addresses too, so this is looser than a visitor's Host.
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if text.is_empty() || !text.bytes().all(legal) {
        return Err(Complaint::new(
            format!("`{text}` cannot be a Host header"),
            "write a host, with a port if need be, such as shop.internal",
        ));
    }
    Ok(text.to_owned())
}

pub(in crate::config) fn header_edits(section: Section<'_>) -> HeaderEdits {
    let adds = section.section("add");
    let mut add = Vec::new();
    for (name, value) in adds.named_texts() {
        match header(name, &value) {
            Ok(header) => add.push(header),
            Err(complaint) => adds.complain(name, complaint),
        }
    }
    let remove = section.list("remove", header_name).unwrap_or_default();
    section.finish();
    HeaderEdits { add, remove }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Complaint> {
    let value = HeaderValue::from_str(value)
        .map_err(|_| Complaint::new("the value has characters that no header has", "use plain text on one line"))?;
    Ok((header_name(name)?, value))
}

fn header_name(text: &str) -> Result<HeaderName, Complaint> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        Complaint::new(
            format!("`{text}` cannot be the name of a header"),
            "use letters, digits and hyphens, such as X-Team",
        )
    })?;
    if name == http::header::HOST {
        return Err(Complaint::new("`host` is not changed here", "set host_header"));
    }
    if is_hop_by_hop(name.as_str()) || name == http::header::CONTENT_LENGTH {
        return Err(Complaint::new(
            format!("`{name}` belongs to the connection and cannot be changed"),
            "leave it out",
        ));
    }
    Ok(name)
}

fn health(section: Section<'_>) -> HealthCheck {
    let default = HealthSettings::default();
    let http = section.word("type", &[("tcp", false), ("http", true)]);
    let path = section.get("path", |text| {
        if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(text.to_owned());
        }
        Err(Complaint::new(format!("`{text}` is not a path"), "write it with its slash, such as /health"))
    });
    if http == Some(false) && path.is_some() {
        section.complain("path", Complaint::new("is for type http only", "set type: http"));
    }
    let probe = match (http, path) {
        (Some(false), _) | (None, None) => Probe::Tcp,
        (_, path) => Probe::Http { path: path.unwrap_or_else(|| "/".to_owned()) },
    };
    let settings = HealthSettings {
        interval: section.get("interval", positive_duration).unwrap_or(default.interval),
        timeout: section.get("timeout", positive_duration).unwrap_or(default.timeout),
        rise: section.number("rise", 1..=100).unwrap_or(default.rise),
        fall: section.number("fall", 1..=100).unwrap_or(default.fall),
    };
    section.finish();
    HealthCheck { probe, settings }
}

#[cfg(test)]
mod tests;
