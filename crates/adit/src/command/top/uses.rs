//! Which forward or tunnel a connection uses: of the daemon by what it tells, of other processes of adit by what they
//! accept.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ::monitor::decode::Record;
use ::monitor::table::{Connection, RemoteId};
use serde_json::Value;

/// What our programs are called.
const PROGRAM: &str = "adit";

/// Entrances of other processes that are remembered while a stream runs; then it begins anew.
const REMEMBERED: usize = 1_024;

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

/// Where other processes of adit accept connections: one that runs in a terminal has nobody who could be asked. By the
/// network namespace, too: the same address in another one is another entrance.
#[derive(Clone, Debug, Default)]
pub(super) struct Entrances(HashMap<(u32, SocketAddr), String>);

impl Entrances {
    /// Learns from a connection that somebody has accepted.
    pub(super) fn note(&mut self, record: &Record, uses: &Uses) {
        let Some(owner) = record.owner.filter(|_| record.incoming) else { return };
        let entrance = (record.netns, record.local);
        if owner.command.text() != PROGRAM || Some(owner.process.pid) == uses.daemon {
            // It may have been one's that has gone.
            self.0.remove(&entrance);
            return;
        }
        if self.0.contains_key(&entrance) {
            return;
        }
        if !std::fs::read(format!("/proc/{}/cmdline", owner.process.pid)).map_or(true, |line| has_forwards(&line)) {
            return;
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(entrance, format!("{PROGRAM} {}", owner.process.pid));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn at(&self, netns: u32, entrance: SocketAddr) -> Option<&str> {
        self.0.get(&(netns, entrance)).map(String::as_str)
    }
}

/// Whether a program of ours with this command line has entrances to something else: who scrapes a monitor uses no forward.
fn has_forwards(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let takes_a_value: [&[u8]; 5] = [b"-f", b"--config", b"-o", b"--output", b"--log-format"];
    while let Some(word) = words.next() {
        if takes_a_value.contains(&word) {
            words.next();
        } else if !word.starts_with(b"-") {
            return !matches!(word, b"monitor" | b"top" | b"server");
        }
    }
    true
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
        // It may run in another namespace than this program: its socket is a file, and can be reached all the same.
        let netns = daemon.and_then(|pid| netns_of(&pid.to_string())).or_else(|| netns_of("self"));
        Self { forwards, tunnels, daemon, netns }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.forwards.is_empty() && self.tunnels.is_empty()
    }

    /// Where other processes of adit accept connections now.
    pub(super) fn entrances<'a>(&self, all: impl Iterator<Item = &'a Connection>) -> Entrances {
        let mut entrances = Entrances::default();
        all.for_each(|one| entrances.note(&one.record, self));
        entrances
    }

    /// The forward or tunnel that a connection uses, or that it came in by.
    pub(super) fn of<'a>(&'a self, record: &Record, entrances: &'a Entrances) -> Option<&'a str> {
        let is_here = self.is_here(record.netns);
        let is_daemons = record.owner.is_some_and(|owner| Some(owner.process.pid) == self.daemon);
        if is_daemons && !record.incoming {
            return self.tunnels.get(&record.remote).filter(|_| is_here).map(String::as_str);
        }
        let entrance = if record.incoming { record.local } else { record.remote };
        // What came in did so by an address of this machine, whichever it is.
        self.at(entrance, record.incoming).filter(|_| is_here).or_else(|| entrances.at(record.netns, entrance))
    }

    /// The forwards that those use who came in and are still there: a remote has no address of the entrance, its connections do.
    pub(super) fn incoming<'a>(&'a self, all: &[Connection], entrances: &'a Entrances) -> HashMap<RemoteId, &'a str> {
        let incoming = all.iter().map(|one| &one.record).filter(|record| record.incoming);
        incoming.filter_map(|record| Some((RemoteId::of(record), self.of(record, entrances)?))).collect()
    }

    /// The forward at this address, or by which this address came in. When its connections are over that is known of loopback
    /// alone: there it is the same address.
    pub(super) fn of_remote<'a>(&'a self, id: RemoteId, entrances: &'a Entrances) -> Option<&'a str> {
        if id.incoming && !id.address.is_loopback() {
            return None;
        }
        let entrance = SocketAddr::new(id.address, id.port);
        // Of addresses that are the same for all namespaces those here are meant.
        let netns = if id.netns == 0 { self.netns.unwrap_or_default() } else { id.netns };
        let of_others = || entrances.at(netns, entrance).or_else(|| entrances.at(0, entrance));
        self.at(entrance, id.incoming).filter(|_| self.is_here(id.netns)).or_else(of_others)
    }

    /// Whether a namespace is the one of the daemon; a poll sees no other and does not tell.
    fn is_here(&self, netns: u32) -> bool {
        netns == 0 || self.netns.is_none_or(|own| own == netns)
    }

    /// An entrance at all addresses is at each of this machine: at those of loopback, and at those that somebody came in by.
    fn at(&self, entrance: SocketAddr, is_ours: bool) -> Option<&str> {
        let found = self.forwards.get(&entrance).or_else(|| {
            let is_here = is_ours || entrance.ip().is_loopback();
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

/// The number of a process's network namespace, `self` for our own; it may be that it is not to be seen.
pub(super) fn netns_of(process: &str) -> Option<u32> {
    let link = std::fs::read_link(format!("/proc/{process}/ns/net")).ok()?;
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
    fn a_monitor_is_no_forward() {
        assert!(has_forwards(b"adit\0forward\0monitor\0\x38\x30\0"));
        assert!(has_forwards(b"adit\0-o\0json\0up\0"));
        assert!(has_forwards(b""), "of one that has gone nothing is known");
        assert!(!has_forwards(b"adit\0-o\0json\0monitor\0--metrics\0:1\0"));
        assert!(!has_forwards(b"/usr/bin/adit\0--config=x\0server\0"));
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
            assert_eq!(uses.at(address(text), false), name, "{text}");
        }
        assert_eq!(uses.at(address("192.0.2.1:80"), true), Some("web"), "somebody came in by it, so it is ours");
        let to = |text: &str, incoming| {
            let address = address(text);
            let id = RemoteId { address: address.ip(), port: address.port(), incoming, netns: 0 };
            uses.of_remote(id, &Entrances::default()).map(str::to_owned)
        };
        let both = [false, true].map(|incoming| to("127.0.0.1:5432", incoming));
        assert_eq!(both.each_ref().map(Option::as_deref), [Some("db"), Some("db")]);
        assert_eq!(to("192.0.2.9:80", true), None, "which of our addresses that was is not known");
    }

    /// A connection of a process of this number and name, from or to 127.0.0.1:5432, in a network namespace.
    fn record(command: &str, pid: u32, incoming: bool, netns: u32) -> Record {
        let mut bytes = [0_u8; ::monitor::decode::RECORD];
        bytes[64..68].copy_from_slice(&pid.to_ne_bytes());
        bytes[72..72 + command.len()].copy_from_slice(command.as_bytes());
        bytes[104..108].copy_from_slice(&netns.to_ne_bytes());
        let mut record = ::monitor::decode::record(&with_ends(bytes)).unwrap();
        record.incoming = incoming;
        let (entrance, client) = (address("127.0.0.1:5432"), address("127.0.0.1:40000"));
        (record.local, record.remote) = if incoming { (entrance, client) } else { (client, entrance) };
        record
    }

    /// A family, a state and a kind that there are.
    fn with_ends(mut bytes: [u8; ::monitor::decode::RECORD]) -> [u8; ::monitor::decode::RECORD] {
        (bytes[154], bytes[36], bytes[158]) = (2, 1, 5);
        bytes
    }

    #[test]
    fn the_same_address_in_another_network_namespace_is_another_entrance() {
        let uses = Uses {
            forwards: [(address("127.0.0.1:5432"), "db".to_owned())].into(),
            daemon: Some(7),
            netns: Some(5),
            ..Uses::default()
        };
        let mut entrances = Entrances::default();
        assert_eq!(uses.of(&record("psql", 9, false, 5), &entrances), Some("db"));
        assert_eq!(uses.of(&record("psql", 9, false, 6), &entrances), None);
        // An adit of a container has the same address there, and is not the one here.
        entrances.note(&record("adit", 8, true, 6), &uses);
        assert_eq!(uses.of(&record("psql", 9, false, 5), &entrances), Some("db"));
        assert_eq!(uses.of(&record("psql", 9, false, 6), &entrances), Some("adit 8"));
        assert_eq!(uses.of(&record("psql", 9, false, 7), &entrances), None);
        let other = Uses { forwards: HashMap::new(), ..uses.clone() };
        assert_eq!(other.of(&record("psql", 9, false, 5), &entrances), None, "nobody is there in this one");
        let to = |netns| RemoteId { address: address("127.0.0.1:1").ip(), port: 5432, incoming: false, netns };
        let names: Vec<_> = [5, 6, 7].map(|netns| uses.of_remote(to(netns), &entrances)).to_vec();
        assert_eq!(names, [Some("db"), Some("adit 8"), None]);
    }

    #[test]
    fn a_remote_that_came_in_by_a_forward_is_told_with_it() {
        let uses = Uses {
            forwards: [(address("0.0.0.0:5432"), "db".to_owned())].into(),
            daemon: Some(7),
            netns: Some(5),
            ..Uses::default()
        };
        let mut came_in = record("adit", 7, true, 5);
        (came_in.local, came_in.remote) = (address("192.0.2.1:5432"), address("192.0.2.9:40000"));
        let other = Record { id: ::monitor::decode::ConnectionId::new(2, 1), ..record("nginx", 9, true, 6) };
        let mut table = ::monitor::table::Table::default();
        table.handle_record(std::time::Duration::from_secs(1), &came_in, None);
        table.handle_record(std::time::Duration::from_secs(1), &other, None);
        let connections: Vec<Connection> = table.connections().cloned().collect();
        let entrances = Entrances::default();
        let incoming = uses.incoming(&connections, &entrances);
        let named: Vec<_> = incoming.iter().map(|(id, name)| (id.address.to_string(), *name)).collect();
        assert_eq!(named, [("192.0.2.9".to_owned(), "db")], "the other one is of another namespace");
    }

    #[test]
    fn an_entrance_is_forgotten_when_another_program_accepts_there() {
        let uses = Uses { daemon: Some(7), ..Uses::default() };
        let mut entrances = Entrances::default();
        entrances.note(&record("adit", 8, true, 5), &uses);
        assert_eq!(uses.of(&record("psql", 9, false, 5), &entrances), Some("adit 8"));
        entrances.note(&record("adit", 7, true, 5), &uses);
        assert!(entrances.is_empty(), "that is the daemon, which tells its names itself");
        entrances.note(&record("adit", 8, true, 5), &uses);
        entrances.note(&record("nginx", 10, true, 5), &uses);
        assert_eq!(uses.of(&record("psql", 9, false, 5), &entrances), None);
        for port in 0..=REMEMBERED {
            let mut one = record("adit", 8, true, 5);
            one.local.set_port(u16::try_from(port).unwrap());
            entrances.note(&one, &uses);
        }
        assert!(entrances.0.len() <= REMEMBERED);
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
