//! Which network this machine is in, as far as routes and addresses tell: when that changes, what was connected may be
//! dead without anybody having said so.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Addresses that no one has (RFC 5737, RFC 3849): only the route to them is looked up, nothing is sent.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The way out of this machine. Bridges and containers that come and go do not change it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Network {
    /// Our addresses on the way out.
    sources: Vec<IpAddr>,
    /// Interfaces and gateways of the default routes.
    routes: Vec<String>,
}

impl Network {
    /// As it is now. Costs three system calls and one small file.
    #[must_use]
    pub fn now() -> Self {
        let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
        Self { sources: ELSEWHERE.into_iter().filter_map(source).collect(), routes: default_routes(&table) }
    }

    /// Whether there is a way out at all.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.sources.is_empty()
    }
}

impl FromIterator<IpAddr> for Network {
    /// One that is known by our addresses on the way out alone.
    fn from_iter<T: IntoIterator<Item = IpAddr>>(sources: T) -> Self {
        Self { sources: sources.into_iter().collect(), routes: Vec::new() }
    }
}

/// The address that the kernel would send from.
fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // Of a datagram socket this only sets the peer: no packet is sent.
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// `/proc/net/route`: interface, destination, gateway; a destination of zeros is the default.
fn default_routes(table: &str) -> Vec<String> {
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (interface, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
        (destination == "00000000").then(|| format!("{interface} {gateway}"))
    };
    let mut routes: Vec<String> = table.lines().skip(1).filter_map(row).collect();
    routes.sort();
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
";

    #[test]
    fn only_default_routes_count() {
        assert_eq!(default_routes(TABLE), ["wlan0 0101A8C0"]);
        assert!(default_routes("").is_empty());
    }

    #[test]
    fn the_network_is_the_same_when_nothing_happens() {
        assert_eq!(Network::now(), Network::now());
    }
}
