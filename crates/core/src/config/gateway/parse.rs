//! From the tree to a [`GatewayConfig`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Allow, GatewayConfig, GatewayTls, RouteConfig, loopbacks, route};
use crate::cidr::Cidr;
use crate::config::forwards::{Defaults, idle_timeout};
use crate::config::reader::{Complaint, Section, listen_address};
use crate::glob::GlobPattern;
use crate::name::{Hostname, LABEL_MAX};
use crate::route::{HostPattern, PathPrefix};

pub(in crate::config) fn gateway(section: Section<'_>, defaults: &Defaults) -> GatewayConfig {
    let base = GatewayConfig::default();
    let tls = section.word("tls", &[("passthrough", GatewayTls::Passthrough), ("local", GatewayTls::Local)]);
    let tls = tls.unwrap_or_default();
    let config = GatewayConfig {
        listen: section.list("listen", listen).map_or(base.listen, |all| all.into_iter().flatten().collect()),
        dynamic_host: section.get("dynamic_host", dynamic_host).unwrap_or(base.dynamic_host),
        aliases: aliases(&section.section("aliases")),
        allow: allow(section.section("allow")),
        idle_timeout: section.get("idle_timeout", idle_timeout).unwrap_or(defaults.idle_timeout),
        tls,
        trusted_proxies: section.list("trusted_proxies", Cidr::parse).unwrap_or_default(),
        routes: routes(&section.section("routes"), tls),
    };
    if config.listen.is_empty() {
        let complaint = Complaint::new("there is no address", "write 127.0.0.1:8989, or leave the key out");
        section.complain("listen", complaint);
    }
    section.finish();
    config
}

/// A port alone is that port of both loopback addresses.
fn listen(text: &str) -> Result<Vec<SocketAddr>, Complaint> {
    if !text.contains(':') {
        return Ok(loopbacks(listen_address(text, IpAddr::V4(Ipv4Addr::LOCALHOST))?.port()));
    }
    listen_address(text, IpAddr::V4(Ipv4Addr::LOCALHOST)).map(|address| vec![address])
}

fn dynamic_host(text: &str) -> Result<Option<Hostname>, Complaint> {
    // YAML's words for it.
    if ["", "off", "no", "none", "false"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Ok(None);
    }
    Hostname::parse(text).map(Some).map_err(|error| Complaint {
        message: error.to_string(),
        hint: Some("write a host name, such as k8s.localhost, or off".to_owned()),
    })
}

fn aliases(section: &Section<'_>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (label, context) in section.named_texts() {
        let folded = label.to_ascii_lowercase();
        if let Err(complaint) = check_alias(label) {
            section.complain(label, complaint);
        } else if context.trim().is_empty() {
            section.complain(label, Complaint::new("must not be empty", "write the name of a context"));
        } else if found.iter().any(|(other, _)| *other == folded) {
            section.complain(label, Complaint::new("is there twice: hosts have no upper case", "rename one of them"));
        } else {
            found.push((folded, context.trim().to_owned()));
        }
    }
    found
}

/// One label, as it stands for a context in a host.
fn check_alias(label: &str) -> Result<(), Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let ends_well = !label.starts_with('-') && !label.ends_with('-');
    if !label.is_empty() && label.len() <= LABEL_MAX && label.bytes().all(legal) && ends_well {
        return Ok(());
    }
    Err(Complaint::new(
        format!("`{label}` cannot stand for a context in a host"),
        "use one label of letters, digits and hyphens, such as prod-eu",
    ))
}

fn allow(section: Section<'_>) -> Allow {
    let allow = Allow {
        contexts: section.list("contexts", GlobPattern::parse).unwrap_or_default(),
        namespaces: section.list("namespaces", GlobPattern::parse).unwrap_or_default(),
    };
    // A list that was emptied would otherwise permit all of what it once limited.
    for (key, patterns) in [("contexts", &allow.contexts), ("namespaces", &allow.namespaces)] {
        if section.holds(key) && patterns.is_empty() {
            section.complain(key, Complaint::new("permits nothing", "name what is permitted, or leave the key out"));
        }
    }
    section.finish();
    allow
}

fn routes(section: &Section<'_>, tls: GatewayTls) -> Vec<RouteConfig> {
    let mut routes: Vec<RouteConfig> = Vec::new();
    let mut places: HashMap<(HostPattern, Option<PathPrefix>), &str> = HashMap::new();
    for (key, entry) in section.named_sections() {
        let Some(found) = route::route(key, &entry, tls) else {
            entry.finish();
            continue;
        };
        let place = (found.host.clone(), found.path.clone());
        if let Some(other) = places.insert(place, key) {
            entry.complain_here(Complaint::new(
                format!("the route `{other}` is for the same host and path"),
                "keep one of the two, or give one a path: host/path",
            ));
        }
        entry.finish();
        routes.push(found);
    }
    routes
}
