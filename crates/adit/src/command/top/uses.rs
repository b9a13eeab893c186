//! Which forward or tunnel a connection uses: of the daemon by what it tells, of other processes of adit by what they
//! accept.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ::monitor::decode::Record;
use ::monitor::table::{RemoteId, Table};
use serde_json::Value;

/// What our programs are called.
const PROGRAM: &str = "adit";

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses {
    /// Entrances of the daemon, with the names of what they lead to.
    forwards: HashMap<SocketAddr, String>,
    /// What the daemon's tunnels lead to here, with their names.
    tunnels: HashMap<SocketAddr, String>,
    daemon: Option<u32>,
    /// The network namespace of all of that. An address in another one is another one.
    netns: Option<u32>,
}

impl Uses {
    /// From what the daemon says of itself.
    pub(super) fn of_daemon(status: &Value) -> Self {
        let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
        let addresses = |value: &Value| array(value).iter().filter_map(|one| one.as_str()?.parse().ok()).collect();
        let mut forwards: HashMap<SocketAddr, String> = HashMap::new();
        let gateway: Vec<SocketAddr> = addresses(&status["gateway"]["addresses"]);
        forwards.extend(gateway.into_iter().map(|address| (address, "gateway".to_owned())));
        for one in array(&status["services"]) {
            let entrances: Vec<SocketAddr> = addresses(&one["entrances"]);
            forwards.extend(entrances.into_iter().map(|address| (address, name(&one))));
        }
        let mut tunnels = HashMap::new();
        for one in array(&status["published"]) {
            let targets = targets(one["target"].as_str().unwrap_or_default());
            tunnels.extend(targets.into_iter().map(|address| (address, format!("tunnel {}", name(&one)))));
        }
        let daemon = status["daemon"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        Self { forwards, tunnels, daemon, netns: own_netns() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.forwards.is_empty() && self.tunnels.is_empty()
    }

    /// Where other processes of adit accept connections now: one that runs in a terminal has nobody who could be asked.
    pub(super) fn entrances(&self, table: &Table) -> HashMap<SocketAddr, String> {
        let mut entrances = HashMap::new();
        for record in table.connections().map(|one| &one.record).filter(|record| record.incoming) {
            let Some(owner) = record.owner.filter(|owner| Some(owner.process.pid) != self.daemon) else { continue };
            if owner.command.text() == PROGRAM {
                entrances.entry(record.local).or_insert_with(|| format!("{PROGRAM} {}", owner.process.pid));
            }
        }
        entrances
    }

    /// The forward or tunnel that a connection uses, or that it came in by.
    pub(super) fn of<'a>(&'a self, record: &Record, entrances: &'a HashMap<SocketAddr, String>) -> Option<&'a str> {
        if record.netns != 0 && self.netns.is_some_and(|netns| netns != record.netns) {
            return None;
        }
        let is_daemons = record.owner.is_some_and(|owner| Some(owner.process.pid) == self.daemon);
        if is_daemons && !record.incoming {
            return self.tunnels.get(&record.remote).map(String::as_str);
        }
        let entrance = if record.incoming { record.local } else { record.remote };
        self.at(entrance).or_else(|| entrances.get(&entrance).map(String::as_str))
    }

    /// The forward at this address.
    pub(super) fn of_remote(&self, id: RemoteId) -> Option<&str> {
        if id.incoming { None } else { self.at(SocketAddr::new(id.address, id.port)) }
    }

    /// An entrance at all addresses is at each.
    fn at(&self, entrance: SocketAddr) -> Option<&str> {
        let found = self.forwards.get(&entrance).or_else(|| {
            let is_here = entrance.ip().is_loopback();
            let mut open = self.forwards.iter().filter(|(address, _)| address.ip().is_unspecified() && is_here);
            open.find(|(address, _)| address.port() == entrance.port()).map(|(_, name)| name)
        });
        found.map(String::as_str)
    }
}

/// The addresses of a tunnel's target, when it is a plain one: `127.0.0.1:3000`, `http://localhost:3000/`.
fn targets(target: &str) -> Vec<SocketAddr> {
    let place = target.split_once("://").map_or(target, |(_, rest)| rest);
    let place = place.split('/').next().unwrap_or_default();
    if let Ok(address) = place.parse() {
        return vec![address];
    }
    let Some((host, Ok(port))) = place.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) else {
        return Vec::new();
    };
    let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if host == "localhost" { loopbacks.map(|ip| SocketAddr::new(ip, port)).to_vec() } else { Vec::new() }
}

/// The number of this process's network namespace.
fn own_netns() -> Option<u32> {
    let link = std::fs::read_link("/proc/self/ns/net").ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_entrance_at_all_addresses_is_found_by_those_who_use_it_here() {
        let uses = Uses::of_daemon(&json!({
            "daemon": { "pid": 7 },
            "services": [
                { "name": "db", "entrances": ["127.0.0.1:5432"] }, { "name": "web", "entrances": ["0.0.0.0:80"] },
            ],
            "gateway": { "addresses": ["127.0.0.1:8000"] },
        }));
        for (text, name) in [
            ("127.0.0.1:5432", Some("db")),
            ("127.0.0.1:80", Some("web")),
            ("127.0.0.1:8000", Some("gateway")),
            ("192.0.2.1:80", None),
        ] {
            assert_eq!(uses.at(address(text)), name, "{text}");
        }
        let to = |text: &str, incoming| {
            let address = address(text);
            uses.of_remote(RemoteId { address: address.ip(), port: address.port(), incoming })
        };
        assert_eq!((to("127.0.0.1:5432", false), to("127.0.0.1:5432", true)), (Some("db"), None));
    }

    #[test]
    fn a_target_of_a_tunnel_is_known_when_it_is_a_plain_address() {
        assert_eq!(targets("http://127.0.0.1:3000/x"), [address("127.0.0.1:3000")]);
        assert_eq!(targets("localhost:3000"), [address("127.0.0.1:3000"), address("[::1]:3000")]);
        for other in ["k8s://a/b/service/c:80", "db", "", "localhost:http"] {
            assert!(targets(other).is_empty(), "{other}");
        }
    }
}
