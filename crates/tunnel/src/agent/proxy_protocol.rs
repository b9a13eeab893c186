//! PROXY protocol version 2: tells a TCP service who the visitor is.
//!
//! The layout is that of the specification's section 2.2: signature, version and command, family and
//! protocol, length, then both addresses and both ports.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, the connection is relayed for somebody.
const PROXIED: u8 = 0x21;
/// Version 2, the connection is the proxy's own: the service uses the socket's addresses.
const LOCAL: u8 = 0x20;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

/// The header for a connection from `visitor` to `entrance`.
pub(super) fn header(visitor: Option<SocketAddr>, entrance: Option<SocketAddr>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let (Some(visitor), Some(entrance)) = (visitor, entrance) else {
        out.extend_from_slice(&[LOCAL, 0, 0, 0]);
        return out;
    };
    match (visitor.ip().to_canonical(), entrance.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[PROXIED, TCP_V4, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[PROXIED, TCP_V6, 0, 36]);
            out.extend_from_slice(&sixteen(from));
            out.extend_from_slice(&sixteen(to));
        }
    }
    out.extend_from_slice(&visitor.port().to_be_bytes());
    out.extend_from_slice(&entrance.port().to_be_bytes());
    out
}

/// Families that differ meet in the larger one, the smaller address mapped (RFC 4291 section 2.5.5.2).
fn sixteen(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(visitor: &str, entrance: &str) -> String {
        let bytes = header(visitor.parse().ok(), entrance.parse().ok());
        crate::handshake::hex(&bytes[12..])
    }

    #[test]
    fn both_families_are_written_as_the_specification_says() {
        assert_eq!(hex("192.0.2.7:4711", "198.51.100.1:15432"), "2111000cc0000207c63364011267".to_owned() + "3c48");
        assert_eq!(
            hex("[2001:db8::7]:4711", "[2001:db8::1]:443"),
            "21210024".to_owned()
                + "20010db8000000000000000000000007"
                + "20010db8000000000000000000000001"
                + "126701bb"
        );
    }

    #[test]
    fn mixed_families_are_mapped_and_mapped_ones_are_shortened() {
        assert!(hex("192.0.2.7:1", "[2001:db8::1]:2").starts_with("2121002400000000000000000000ffffc0000207"));
        assert!(hex("[::ffff:192.0.2.7]:1", "192.0.2.1:2").starts_with("2111000cc0000207"));
    }

    #[test]
    fn an_unknown_visitor_leaves_the_service_with_the_sockets_addresses() {
        assert_eq!(hex("", "192.0.2.1:2"), "20000000");
    }
}
