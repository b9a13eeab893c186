//! Which host a request is for (rule S8).
//!
//! There is exactly one answer or a refusal: a request that names two hosts in two places is how one tenant's
//! visitor reaches another tenant's tunnel.

use crate::diagnose::{Diagnose, Fault};
use crate::name::{Hostname, is_numeric};

/// A host with the port that was written beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host, lower-cased and without the trailing dot.
    pub host: Hostname,
    /// The port, when one was written.
    pub port: Option<u16>,
}

/// Why a request names no usable host. The answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// No host at all.
    #[error("the request has no host")]
    Missing,
    /// More than one Host header, even equal ones.
    #[error("the request has more than one host")]
    Duplicate,
    /// The target of the request and its Host header differ.
    #[error("the host of the request target and the host header differ")]
    Mismatch,
    /// An IP address where a name is needed.
    #[error("the host is an IP address")]
    Address,
    /// `user@` before the host.
    #[error("the host contains user information")]
    Userinfo,
    /// A byte outside ASCII.
    #[error("the host contains characters outside ASCII")]
    NotAscii,
    /// A port that is no number from 1 to 65535.
    #[error("the port of the host is wrong")]
    Port,
    /// Anything else that is no legal name.
    #[error("the host is not a legal name")]
    Name,
}

impl Diagnose for HostFault {
    fn fault(&self) -> Fault {
        match self {
            Self::Missing
            | Self::Duplicate
            | Self::Mismatch
            | Self::Address
            | Self::Userinfo
            | Self::NotAscii
            | Self::Port
            | Self::Name => Fault::Downstream,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Address => Some("open the tunnel by its host name, not by an address".to_owned()),
            Self::NotAscii => Some("write the name in its `xn--` form".to_owned()),
            Self::Missing | Self::Duplicate | Self::Mismatch | Self::Userinfo | Self::Port | Self::Name => None,
        }
    }
}

/// The one host a request is for.
///
/// `hosts` are the values of all Host headers, `uri_authority` what the request target names (the absolute form in
/// HTTP/1.1, `:authority` in HTTP/2). HTTP/1.x needs exactly one Host header; HTTP/2 either or both.
///
/// # Errors
/// When there is none or more than one, when two places disagree, or when it is no legal host name.
pub fn request_host(hosts: &[&[u8]], uri_authority: Option<&str>, version2: bool) -> Result<HostPort, HostFault> {
    let header = match hosts {
        [] => None,
        [one] => Some(parse_host(one)?),
        [_, _, ..] => return Err(HostFault::Duplicate),
    };
    let target = uri_authority.map(|text| parse_host(text.as_bytes())).transpose()?;
    match (header, target) {
        (None, Some(target)) if version2 => Ok(target),
        (None, _) => Err(HostFault::Missing),
        (Some(header), None) => Ok(header),
        (Some(header), Some(target)) if header == target => Ok(header),
        (Some(_), Some(_)) => Err(HostFault::Mismatch),
    }
}

/// Reads `host` or `host:port` as it stands in a Host header.
///
/// # Errors
/// When it is no legal host name with an optional port.
pub fn parse_host(value: &[u8]) -> Result<HostPort, HostFault> {
    let text = match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() => text,
        Ok(_) | Err(_) => return Err(HostFault::NotAscii),
    };
    if text.is_empty() {
        return Err(HostFault::Missing);
    }
    if text.contains('@') {
        return Err(HostFault::Userinfo);
    }
    if text.starts_with('[') {
        return Err(HostFault::Address);
    }
    let (host, port) = match text.split_once(':') {
        None => (text, None),
        // RFC 3986 permits an empty port; it means the default one.
        Some((host, "")) => (host, None),
        Some((_, port)) if port.contains(':') => return Err(HostFault::Address),
        Some((host, port)) => (host, Some(parse_port(port)?)),
    };
    let host = Hostname::parse(host).map_err(|_| name_fault(host))?;
    Ok(HostPort { host, port })
}

fn parse_port(text: &str) -> Result<u16, HostFault> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostFault::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(HostFault::Port),
        Ok(port) => Ok(port),
    }
}

fn name_fault(host: &str) -> HostFault {
    let bare = host.strip_suffix('.').unwrap_or(host);
    if bare.rsplit('.').next().is_some_and(is_numeric) { HostFault::Address } else { HostFault::Name }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            None => write!(f, "{}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(host: &str) -> Result<String, HostFault> {
        request_host(&[host.as_bytes()], None, false).map(|found| found.to_string())
    }

    #[test]
    fn s8_one_host_is_lower_cased_and_loses_dot_and_port() {
        let found = request_host(&[b"App1.LOCALHOST.:8080"], None, false).unwrap();
        assert_eq!(found.host.as_str(), "app1.localhost");
        assert_eq!(found.port, Some(8080));
        assert_eq!(one("app1.localhost:"), Ok("app1.localhost".into()));
    }

    #[test]
    fn s8_a_missing_or_repeated_host_is_refused() {
        assert_eq!(request_host(&[], None, false), Err(HostFault::Missing));
        assert_eq!(request_host(&[b""], None, false), Err(HostFault::Missing));
        assert_eq!(request_host(&[b"a.b", b"a.b"], None, false), Err(HostFault::Duplicate));
        assert_eq!(request_host(&[b"a.b", b"a.b"], Some("a.b"), true), Err(HostFault::Duplicate));
    }

    #[test]
    fn s8_the_absolute_form_needs_an_equal_host_header() {
        assert!(request_host(&[b"a.b"], Some("A.B."), false).is_ok());
        assert_eq!(request_host(&[b"a.b"], Some("c.d"), false), Err(HostFault::Mismatch));
        assert_eq!(request_host(&[b"a.b:81"], Some("a.b:82"), false), Err(HostFault::Mismatch));
        assert_eq!(request_host(&[], Some("a.b"), false), Err(HostFault::Missing));
    }

    #[test]
    fn s8_version_2_takes_authority_or_host_and_refuses_a_conflict() {
        assert!(request_host(&[], Some("a.b"), true).is_ok());
        assert!(request_host(&[b"a.b"], None, true).is_ok());
        assert!(request_host(&[b"a.b"], Some("a.b"), true).is_ok());
        assert_eq!(request_host(&[b"a.b"], Some("x.b"), true), Err(HostFault::Mismatch));
        assert_eq!(request_host(&[], None, true), Err(HostFault::Missing));
    }

    #[test]
    fn s8_addresses_are_a_fault_of_their_own() {
        for text in ["127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80", "::1", "0x7f.1", "1.2.3.4."] {
            assert_eq!(one(text), Err(HostFault::Address), "{text}");
        }
    }

    #[test]
    fn s8_userinfo_other_scripts_bad_ports_and_bad_names_are_refused() {
        assert_eq!(one("user@a.b"), Err(HostFault::Userinfo));
        assert_eq!(one("bücher.example"), Err(HostFault::NotAscii));
        assert_eq!(parse_host(b"a\xff"), Err(HostFault::NotAscii));
        for text in ["a.b:0", "a.b:x", "a.b:65536", "a.b:+1", "a.b: 1"] {
            assert_eq!(one(text), Err(HostFault::Port), "{text}");
        }
        for text in [".", "a..b", "a b", "a/b", "a_b", "a\tb", "-a", "a%41"] {
            assert_eq!(one(text), Err(HostFault::Name), "{text}");
        }
    }

    #[test]
    fn every_host_fault_is_the_visitors() {
        assert_eq!(HostFault::Mismatch.fault(), Fault::Downstream);
        assert!(HostFault::Address.hint().is_some());
        assert!(HostFault::Missing.hint().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_host(&bytes);
        }

        #[test]
        fn a_host_is_read_back_from_its_text(host in "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,5}){0,3}", port in proptest::option::of(1u16..)) {
            let text = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
            let found = parse_host(text.as_bytes()).unwrap();
            prop_assert_eq!(found.to_string(), text);
        }
    }

    #[test]
    fn s8_tricks_with_two_hosts_find_no_gap() {
        // Each of these was a way past some server's check of the host.
        for text in [
            "a.b,c.d",
            "a.b c.d",
            "a.b\tc.d",
            "a.b#c.d",
            "a.b?c.d",
            "a.b\\c.d",
            "a.b/c.d",
            "a.b@c.d",
            "a.b:80@c.d",
            "a.b:80:90",
            "http://a.b",
            "//a.b",
            "a.b%00.c.d",
            "a.b\0",
            "a.b\r\nX: y",
            "*.a.b",
            "a.b..",
            ".a.b",
            "a.b;c",
            "localhost'",
            "\"a.b\"",
            "[a.b]",
            "a.b:80 ",
            " a.b",
            "a.b:80/",
        ] {
            assert!(one(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_host_header_is_checked_even_where_the_target_names_the_host() {
        assert_eq!(request_host(&[b"user@a.b"], Some("a.b"), true), Err(HostFault::Userinfo));
        assert_eq!(request_host(&[b"a.b"], Some("1.2.3.4"), false), Err(HostFault::Address));
        assert_eq!(request_host(&[b""], Some("a.b"), true), Err(HostFault::Missing));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_legal_host(
            hosts in proptest::collection::vec("[a-cA-C.:@\\[\\]0-9 -]{0,8}", 0..3),
            target in proptest::option::of("[a-cA-C.:@0-9-]{0,8}"), version2 in any::<bool>()
        ) {
            let bytes: Vec<&[u8]> = hosts.iter().map(String::as_bytes).collect();
            if let Ok(found) = request_host(&bytes, target.as_deref(), version2) {
                prop_assert!(hosts.len() <= 1);
                prop_assert!(version2 || hosts.len() == 1);
                let same = |text: &str| parse_host(text.as_bytes()) == Ok(found.clone());
                prop_assert!(hosts.iter().map(String::as_str).all(same));
                prop_assert!(target.as_deref().is_none_or(same));
                prop_assert!(found.host.as_str().parse::<std::net::IpAddr>().is_err());
            }
        }
    }
}
