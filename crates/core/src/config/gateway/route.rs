//! From the tree to a [`RouteConfig`].

use super::{BasicAuth, GatewayTls, PasswordSource, RouteConfig, UpstreamScheme, UpstreamTls};
use crate::config::destination;
use crate::config::publish::parse::{header_edits, host_header};
use crate::config::reader::{Complaint, Section, positive_duration};
use crate::name::Hostname;
use crate::route::{HostPattern, PathPrefix};
use crate::secret::Secret;
use crate::target::{Target, TargetKind};

/// The words for `scheme`.
const SCHEMES: [(&str, UpstreamScheme); 3] =
    [("http", UpstreamScheme::Http), ("https", UpstreamScheme::Https), ("h2c", UpstreamScheme::H2c)];

/// Reads one route; the caller finishes the section.
pub(super) fn route(key: &str, section: &Section<'_>, gateway: GatewayTls) -> Option<RouteConfig> {
    let place = host_and_path(key, section);
    let hint = "say where it leads, such as k8s://CONTEXT/NAMESPACE/service/NAME:PORT or forward:NAME";
    let to = destination::destination(section, false, hint);
    let scheme = scheme(section, to.as_ref().map(|to| &to.target));
    let (tls, terminate) = tls(section);
    let host_header = section.get("host_header", host_header);
    let headers = header_edits(section.section("headers"));
    let response_headers = header_edits(section.section("response_headers"));
    let basic_auth = section.optional_section("basic_auth").map(basic_auth);
    let timeout = section.get("timeout", positive_duration);
    if tls != UpstreamTls::default() && scheme != UpstreamScheme::Https {
        section.complain("tls", Complaint::new("verification is for https services only", "set scheme: https"));
    }
    let within = basic_auth.is_some()
        || host_header.is_some()
        || timeout.is_some()
        || !(headers.is_empty() && response_headers.is_empty());
    let passes = scheme == UpstreamScheme::Https || to.as_ref().is_some_and(|to| is_byte_pipe(&to.target));
    if terminate == Some(false) && within && passes {
        section.complain("tls", Complaint::new(
            "TLS that passes through cannot be looked into, so basic_auth, headers, host_header and timeout would not hold",
            "set tls: terminate, or leave them out",
        ));
    }
    // What is asked for within a request can only be done where its TLS ends.
    let within = within && passes;
    let ((host, path), to) = (place?, to?);
    Some(RouteConfig {
        key: key.to_owned(),
        host,
        path,
        to: to.target,
        jump: to.jump,
        scheme,
        tls,
        terminate: terminate.unwrap_or(gateway == GatewayTls::Local || within),
        host_header,
        headers,
        response_headers,
        basic_auth: basic_auth.flatten(),
        timeout,
    })
}

/// Whether a target is one whose bytes are nobody's business, so that its TLS may be the service's own.
pub(super) fn is_byte_pipe(target: &Target) -> bool {
    matches!(target, Target::Local(local) if local.kind == TargetKind::Tcp)
}

/// `host`, `*.host` or either with a path.
fn host_and_path(key: &str, section: &Section<'_>) -> Option<(HostPattern, Option<PathPrefix>)> {
    let (host, path) = match key.find('/') {
        Some(at) => (&key[..at], Some(&key[at..])),
        None => (key, None),
    };
    if let Some((scheme, rest)) = key.split_once("://") {
        let place = rest.trim_end_matches('/');
        let (host, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
        let host = without_port(host);
        section.complain_here(Complaint::new(
            format!("`{key}` is a URL, and a route is for a host"),
            format!("leave out {scheme}:// and the port: {host}{path}"),
        ));
        return None;
    }
    if host.contains(':') {
        let complaint =
            Complaint::new(format!("`{host}` has a port"), "leave it out: a route holds for all ports of the gateway");
        section.complain_here(complaint);
        return None;
    }
    let pattern = HostPattern::parse(host).map_err(|error| section.complain_here(error)).ok();
    // `host/` is all of the host.
    let prefix = path.filter(|path| *path != "/").map(PathPrefix::parse).transpose();
    let prefix = prefix.map_err(|error| section.complain_here(error)).ok();
    Some((pattern?, prefix?))
}

/// The colons of an IPv6 address are within its brackets.
fn without_port(host: &str) -> &str {
    let after = host.find(']').unwrap_or(0);
    host[after..].rfind(':').map_or(host, |at| &host[..after + at])
}

/// What the target says itself must not be said otherwise.
fn scheme(section: &Section<'_>, to: Option<&Target>) -> UpstreamScheme {
    let given = section.word("scheme", &SCHEMES);
    let Some(Target::Local(local)) = to else { return given.unwrap_or_default() };
    let said = match local.kind {
        TargetKind::Http => UpstreamScheme::Http,
        TargetKind::Https => UpstreamScheme::Https,
        TargetKind::H2c => UpstreamScheme::H2c,
        TargetKind::Tcp => return given.unwrap_or_default(),
    };
    if let Some(given) = given.filter(|given| *given != said) {
        let complaint = Complaint::new(
            format!("the target is {} already", said.as_str()),
            format!("write {}://{}, and leave scheme out", given.as_str(), local.authority()),
        );
        section.complain("scheme", complaint);
    }
    said
}

/// A word for what is done with the visitor's TLS, or a map for both sides.
fn tls(section: &Section<'_>) -> (UpstreamTls, Option<bool>) {
    const WORDS: [(&str, bool); 2] = [("terminate", true), ("passthrough", false)];
    if !section.is_map("tls") {
        return (UpstreamTls::default(), section.word("tls", &WORDS));
    }
    let map = section.section("tls");
    let terminate = map.word("mode", &WORDS);
    let tls = UpstreamTls {
        verify: map.boolean("verify").unwrap_or(true),
        ca: map.path("ca"),
        server_name: map.get("server_name", Hostname::parse),
    };
    if !tls.verify && tls.ca.is_some() {
        map.complain("ca", Complaint::new("is of no use without verification", "leave verify out"));
    }
    map.finish();
    (tls, terminate)
}

fn basic_auth(section: Section<'_>) -> Option<BasicAuth> {
    let user = section.require("user", "write the user's name", |text| match text.is_empty() || text.contains(':') {
        true => Err(Complaint::new(format!("`{text}` cannot be a user"), "use a name without a colon")),
        false => Ok(text.to_owned()),
    });
    let value = section.text("password").map(|text| PasswordSource::Value(Secret::new(text)));
    let file = section.path("password_file").map(PasswordSource::File);
    match (section.holds("password"), section.holds("password_file")) {
        (true, true) => {
            section.complain("password_file", Complaint::new("there is a password as well", "keep one of the two"));
        }
        (false, false) => section.missing("password", "write password: \"${PASSWORD}\" or password_file: FILE"),
        (true, false) | (false, true) => {}
    }
    section.finish();
    Some(BasicAuth { user: user?, password: value.or(file)? })
}
