//! What a new `adit.yaml` changes, so that a reload touches nothing else.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::publish::PublishedTunnel;
use super::{
    AgentFile, DaemonConfig, Defaults, ForwardConfig, GatewayConfig, KubernetesConfig, PublishConfig, RouteConfig,
};

/// What leads from one file to another.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigDiff {
    /// How clusters are reached, when that changed: then every forward into one does.
    pub kubernetes: Option<KubernetesConfig>,
    /// The defaults, when they changed. What that means for a forward is among the changed forwards.
    pub defaults: Option<Defaults>,
    /// Forwards.
    pub forwards: ListDiff<ForwardConfig>,
    /// What the gateway does beside its routes.
    pub gateway: SectionDiff<GatewayConfig>,
    /// Its routes.
    pub routes: ListDiff<RouteConfig>,
    /// What is published beside the tunnels: the server, the token, the session.
    pub publish: SectionDiff<PublishConfig>,
    /// The tunnels.
    pub tunnels: ListDiff<PublishedTunnel>,
    /// What holds for the daemon itself, when that changed.
    pub daemon: Option<DaemonConfig>,
    /// Listeners to bind and to close.
    pub ports: PortDiff,
}

impl ConfigDiff {
    /// Whether both files say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kubernetes.is_none()
            && self.defaults.is_none()
            && self.daemon.is_none()
            && self.gateway == SectionDiff::Same
            && self.publish == SectionDiff::Same
            && self.forwards.is_empty()
            && self.routes.is_empty()
            && self.tunnels.is_empty()
    }

    /// What the old file becomes.
    #[must_use]
    pub fn apply(&self, old: &AgentFile) -> AgentFile {
        let routes = old.gateway.as_ref().map_or(&[][..], |gateway| &gateway.routes);
        let tunnels = old.publish.as_ref().map_or(&[][..], |publish| &publish.tunnels);
        let gateway = self
            .gateway
            .apply(old.gateway.as_ref())
            .map(|gateway| GatewayConfig { routes: self.routes.apply(routes, route_key), ..gateway });
        let publish = self
            .publish
            .apply(old.publish.as_ref())
            .map(|publish| PublishConfig { tunnels: self.tunnels.apply(tunnels, tunnel_key), ..publish });
        AgentFile {
            kubernetes: self.kubernetes.clone().unwrap_or_else(|| old.kubernetes.clone()),
            defaults: self.defaults.clone().unwrap_or_else(|| old.defaults.clone()),
            forwards: self.forwards.apply(&old.forwards, forward_key),
            gateway,
            publish,
            daemon: self.daemon.clone().unwrap_or_else(|| old.daemon.clone()),
        }
    }
}

impl AgentFile {
    /// What has to be done to get from this file to a new one.
    #[must_use]
    pub fn diff(&self, new: &Self) -> ConfigDiff {
        let routes = |file: &Self| file.gateway.as_ref().map_or_else(Vec::new, |gateway| gateway.routes.clone());
        let tunnels = |file: &Self| file.publish.as_ref().map_or_else(Vec::new, |publish| publish.tunnels.clone());
        ConfigDiff {
            kubernetes: (self.kubernetes != new.kubernetes).then(|| new.kubernetes.clone()),
            defaults: (self.defaults != new.defaults).then(|| new.defaults.clone()),
            forwards: ListDiff::between(&self.forwards, &new.forwards, forward_key),
            gateway: SectionDiff::between(gateway_alone(self), gateway_alone(new)),
            routes: ListDiff::between(&routes(self), &routes(new), route_key),
            publish: SectionDiff::between(publish_alone(self), publish_alone(new)),
            tunnels: ListDiff::between(&tunnels(self), &tunnels(new), tunnel_key),
            daemon: (self.daemon != new.daemon).then(|| new.daemon.clone()),
            ports: PortDiff::between(&ports_of(self), &ports_of(new)),
        }
    }
}

/// What changed in a list of things with names.
#[derive(Clone, Debug, PartialEq)]
pub struct ListDiff<T> {
    /// New ones.
    pub added: Vec<T>,
    /// Those that stay under their name and say something else now.
    pub changed: Vec<T>,
    /// The names of those that go.
    pub removed: Vec<String>,
    /// All names in their new order, when that is not the old one with the new ones behind.
    pub order: Option<Vec<String>>,
}

impl<T: Clone + PartialEq> ListDiff<T> {
    /// Whether nothing changed, not even the order.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty() && self.order.is_none()
    }

    fn between(old: &[T], new: &[T], key: fn(&T) -> &str) -> Self {
        let before: HashMap<&str, &T> = old.iter().map(|item| (key(item), item)).collect();
        let after: HashSet<&str> = new.iter().map(key).collect();
        let mut diff = Self { added: Vec::new(), changed: Vec::new(), removed: Vec::new(), order: None };
        for item in new {
            match before.get(key(item)) {
                None => diff.added.push(item.clone()),
                Some(old) if *old != item => diff.changed.push(item.clone()),
                Some(_) => {}
            }
        }
        diff.removed = old.iter().map(key).filter(|name| !after.contains(name)).map(str::to_owned).collect();
        let kept = old.iter().map(key).filter(|name| after.contains(name));
        let usual = kept.chain(diff.added.iter().map(key));
        if !usual.eq(new.iter().map(key)) {
            diff.order = Some(new.iter().map(|item| key(item).to_owned()).collect());
        }
        diff
    }

    fn apply(&self, old: &[T], key: fn(&T) -> &str) -> Vec<T> {
        let changed: HashMap<&str, &T> = self.changed.iter().map(|item| (key(item), item)).collect();
        let removed: HashSet<&str> = self.removed.iter().map(String::as_str).collect();
        let kept = old.iter().filter(|item| !removed.contains(key(item)));
        let kept = kept.map(|item| *changed.get(key(item)).unwrap_or(&item));
        let items: Vec<&T> = kept.chain(&self.added).collect();
        let Some(order) = &self.order else { return items.into_iter().cloned().collect() };
        let by_name: HashMap<&str, &T> = items.into_iter().map(|item| (key(item), item)).collect();
        order.iter().filter_map(|name| by_name.get(name.as_str()).copied().cloned()).collect()
    }
}

/// What became of a section that may be left out.
#[derive(Clone, Debug, PartialEq)]
pub enum SectionDiff<T> {
    /// It says the same, or is in neither file.
    Same,
    /// It is not there any more.
    Gone,
    /// It is new, or says something else.
    Set(Box<T>),
}

impl<T: Clone + PartialEq> SectionDiff<T> {
    fn between(old: Option<T>, new: Option<T>) -> Self {
        match (old, new) {
            (None, None) => Self::Same,
            (Some(old), Some(new)) if old == new => Self::Same,
            (_, Some(new)) => Self::Set(Box::new(new)),
            (Some(_), None) => Self::Gone,
        }
    }

    fn apply(&self, old: Option<&T>) -> Option<T> {
        match self {
            Self::Same => old.cloned(),
            Self::Gone => None,
            Self::Set(new) => Some((**new).clone()),
        }
    }
}

/// What changed in the listeners. One that changes its owner is in both lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortDiff {
    /// To be bound.
    pub added: Vec<ListenPort>,
    /// To be closed.
    pub removed: Vec<ListenPort>,
}

/// A listener that a file asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenPort {
    /// For whom.
    pub owner: PortOwner,
    /// Where.
    pub address: SocketAddr,
}

/// Whose listener it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortOwner {
    /// The gateway's, for HTTP and TLS.
    Gateway,
    /// A forward's, by its name.
    Forward(String),
}

impl PortDiff {
    fn between(old: &[ListenPort], new: &[ListenPort]) -> Self {
        let (before, after): (HashSet<_>, HashSet<_>) = (old.iter().collect(), new.iter().collect());
        let without = |list: &[ListenPort], other: &HashSet<&ListenPort>| {
            list.iter().filter(|port| !other.contains(port)).cloned().collect()
        };
        Self { added: without(new, &before), removed: without(old, &after) }
    }
}

/// Every listener that the file asks for.
#[must_use]
pub fn ports_of(file: &AgentFile) -> Vec<ListenPort> {
    let gateway = file.gateway.iter().flat_map(|gateway| &gateway.listen);
    let gateway = gateway.map(|address| ListenPort { owner: PortOwner::Gateway, address: *address });
    let forwards = file.forwards.iter().filter(|forward| forward.enabled);
    let forwards = forwards.flat_map(|forward| {
        let port =
            |address: &SocketAddr| ListenPort { owner: PortOwner::Forward(forward.name.clone()), address: *address };
        forward.listen.iter().map(port)
    });
    gateway.chain(forwards).collect()
}

fn gateway_alone(file: &AgentFile) -> Option<GatewayConfig> {
    file.gateway.as_ref().map(|gateway| GatewayConfig { routes: Vec::new(), ..gateway.clone() })
}

fn publish_alone(file: &AgentFile) -> Option<PublishConfig> {
    file.publish.as_ref().map(|publish| PublishConfig { tunnels: Vec::new(), ..publish.clone() })
}

fn forward_key(forward: &ForwardConfig) -> &str {
    &forward.name
}

fn route_key(route: &RouteConfig) -> &str {
    &route.key
}

fn tunnel_key(tunnel: &PublishedTunnel) -> &str {
    &tunnel.key
}

#[cfg(test)]
pub(super) mod tests;
