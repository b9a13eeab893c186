//! What only the file as a whole can tell: references between sections, and ports that two of them want.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::AgentFile;
use super::reader::{Complaint, Section};
use crate::near;
use crate::target::Target;

/// Who refers to what, with the keys that lead there.
type Reference<'a> = (Vec<&'a str>, &'a Target);

pub(super) fn whole(root: &Section<'_>, file: &AgentFile) {
    let names = root.section("forwards").names();
    let known: HashSet<&str> = names.iter().copied().collect();
    for (keys, target) in references(file) {
        if let Target::Forward(name) = target
            && !known.contains(name.as_str())
        {
            root.complain_at(&keys, unknown_forward(name, &names));
        }
    }
    jumps(root, file);
    cycles(root, file);
    ports(root, file);
}

/// Every target of the file, with the keys of its `to`.
pub(super) fn references(file: &AgentFile) -> Vec<Reference<'_>> {
    let forwards = file.forwards.iter().map(|f| (vec!["forwards", f.name.as_str(), "to"], &f.to));
    let routes = file.gateway.iter().flat_map(|gateway| &gateway.routes);
    let routes = routes.map(|route| (vec!["gateway", "routes", route.key.as_str(), "to"], &route.to));
    let tunnels = file.publish.iter().flat_map(|publish| &publish.tunnels);
    let tunnels = tunnels.map(|tunnel| (vec!["publish", "tunnels", tunnel.key.as_str(), "to"], &tunnel.to));
    forwards.chain(routes).chain(tunnels).collect()
}

fn unknown_forward(name: &str, names: &[&str]) -> Complaint {
    let known = match names {
        [] => "the file has none".to_owned(),
        _ => format!("has: {}", some_of(names)),
    };
    let hint = match near::nearest(name, names.iter().copied()) {
        Some(meant) => format!("did you mean `forward:{meant}`?"),
        None => format!("add `{name}` to forwards, or name one that is there"),
    };
    Complaint::new(format!("there is no forward `{name}` ({known})"), hint)
}

/// Routes and tunnels with one jump URL share the way there, so they cannot want it made in two ways.
fn jumps(root: &Section<'_>, file: &AgentFile) {
    let routes = file.gateway.iter().flat_map(|gateway| &gateway.routes);
    let routes = routes.map(|route| (["gateway", "routes", route.key.as_str(), "to"], &route.to, &route.jump));
    let tunnels = file.publish.iter().flat_map(|publish| &publish.tunnels);
    let tunnels = tunnels.map(|tunnel| (["publish", "tunnels", tunnel.key.as_str(), "to"], &tunnel.to, &tunnel.jump));
    let mut seen = HashMap::new();
    for (keys, target, jump) in routes.chain(tunnels) {
        if matches!(target, Target::Jump(_)) && *seen.entry(target).or_insert(jump) != jump {
            let message = format!("{target} is written above with another container or pod to create");
            let hint = "write it once, in the section forwards, and lead both to forward:NAME";
            root.complain_at(&keys, Complaint::new(message, hint));
        }
    }
}

/// The first of the names; a file may have hundreds.
fn some_of(names: &[&str]) -> String {
    const MOST: usize = 8;
    let shown = names.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown}, …") } else { shown }
}

/// Forwards that lead to themselves, each circle told once.
fn cycles(root: &Section<'_>, file: &AgentFile) {
    let next = file.forwards.iter().filter_map(|forward| match &forward.to {
        Target::Forward(next) => Some((forward.name.as_str(), next.as_str())),
        Target::Kubernetes(_) | Target::Jump(_) | Target::Ssh(_) | Target::Local(_) => None,
    });
    let next: HashMap<&str, &str> = next.collect();
    let mut told: Vec<&str> = Vec::new();
    for forward in &file.forwards {
        let mut way = vec![forward.name.as_str()];
        while let Some(&name) = way.last().and_then(|last| next.get(last)) {
            if name == forward.name {
                if !told.contains(&name) {
                    told.extend(&way);
                    way.push(name);
                    let message = format!("the forward leads to itself: {}", way.join(" → "));
                    let complaint = Complaint::new(message, "let one of them lead to a target of another kind");
                    root.complain_at(&["forwards", &forward.name, "to"], complaint);
                }
                break;
            }
            if way.contains(&name) {
                break;
            }
            way.push(name);
        }
    }
}

/// Listeners that cannot both be bound.
fn ports(root: &Section<'_>, file: &AgentFile) {
    let mut taken: Vec<(SocketAddr, Vec<&str>)> = Vec::new();
    let mut wanted: Vec<(SocketAddr, Vec<&str>)> = Vec::new();
    if let Some(gateway) = &file.gateway {
        let routes = gateway.listen.iter().map(|address| (*address, vec!["gateway", "listen"]));
        wanted.extend(routes);
    }
    if let Some(address) = file.publish.as_ref().and_then(|publish| publish.metrics) {
        wanted.push((address, vec!["publish", "metrics"]));
    }
    wanted.extend(file.daemon.listen.map(|address| (address, vec!["daemon", "listen"])));
    wanted.extend(file.daemon.metrics.map(|address| (address, vec!["daemon", "metrics"])));
    for forward in file.forwards.iter().filter(|forward| forward.enabled) {
        wanted.extend(forward.listen.iter().map(|address| (*address, vec!["forwards", &forward.name, "listen"])));
    }
    for (address, keys) in wanted {
        if let Some((_, owner)) = taken.iter().find(|(other, _)| collide(*other, address)) {
            let owner = owner.join(".");
            let complaint = if owner == keys.join(".") {
                Complaint::new(format!("{address} is there twice"), "leave one of the two out")
            } else {
                Complaint::new(format!("{address} is taken by {owner}"), "give one of them another port")
            };
            root.complain_at(&keys, complaint);
            continue;
        }
        taken.push((address, keys));
    }
}

/// Whether two listeners want the same port of the same address. Port 0 is any free one.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap =
        a.ip() == b.ip() || a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() == b.port() && a.port() != 0 && overlap
}
