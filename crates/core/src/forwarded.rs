//! What the local service learns of the visitor: forwarding headers (rule S10, RFC 7239) and hop-by-hop headers.
//!
//! Whatever a visitor sends under these names is dropped, unless the peer is a proxy that the operator trusts.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};

/// The headers that are set, in the order of [`Forwarding::headers`].
pub const NAMES: [&str; 6] =
    ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip", "forwarded"];

/// Headers that end at the next hop (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// How the request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// The peer of the connection.
    pub peer: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// The host the visitor asked for, with its port if one was written.
    pub host: &'a str,
    /// Whether it came over TLS.
    pub https: bool,
    /// The port of the listener.
    pub port: u16,
}

/// What a request says about the hops before, read from its headers.
///
/// Where a header comes several times, `for_` and `forwarded` keep all values and the others the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// `X-Forwarded-For`.
    pub for_: Option<String>,
    /// `X-Forwarded-Host`.
    pub host: Option<String>,
    /// `X-Forwarded-Proto`.
    pub proto: Option<String>,
    /// `X-Forwarded-Port`.
    pub port: Option<String>,
    /// `X-Real-IP`.
    pub real_ip: Option<String>,
    /// `Forwarded`.
    pub forwarded: Option<String>,
}

impl Claimed {
    /// Reads the headers of a request. Values that are not plain text do not count.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let all = |name: &str| joined(headers, name);
        let last = |name: &str| {
            let value = headers.get_all(name).iter().next_back()?;
            plain(value).map(str::to_owned)
        };
        Self {
            for_: all("x-forwarded-for"),
            host: last("x-forwarded-host"),
            proto: last("x-forwarded-proto"),
            port: last("x-forwarded-port"),
            real_ip: last("x-real-ip"),
            forwarded: all("forwarded"),
        }
    }
}

/// The values that the local service gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    values: [String; 6],
}

impl Forwarding {
    /// The values for a request. What it claims counts only when its peer is trusted.
    #[must_use]
    pub fn new(arrival: &Arrival<'_>, claimed: &Claimed) -> Self {
        let nothing = Claimed::default();
        let claimed = if arrival.trusted { claimed } else { &nothing };
        let peer = arrival.peer.to_canonical();
        let proto = proto(arrival, claimed);
        let host = claimed
            .host
            .as_deref()
            .and_then(last_item)
            .filter(|host| crate::authority::parse_host(host.as_bytes()).is_ok())
            .unwrap_or(arrival.host);
        let claimed_port = claimed.port.as_deref().and_then(last_item);
        let port = match claimed_port.and_then(|port| port.parse::<u16>().ok()) {
            Some(port) if port > 0 => port,
            // A proxy that says which protocol it spoke, but no port, means the usual one.
            _ if claimed.proto.is_some() && proto == "https" => 443,
            _ if claimed.proto.is_some() => 80,
            _ => arrival.port,
        };
        let real_ip = claimed.real_ip.as_deref().and_then(address_of);
        let first = claimed.for_.as_deref().and_then(|list| address_of(list.split(',').next()?));
        Self {
            values: [
                appended(claimed.for_.as_deref(), &peer.to_string()),
                host.to_owned(),
                proto.to_owned(),
                port.to_string(),
                real_ip.or(first).unwrap_or(peer).to_string(),
                appended(claimed.forwarded.as_deref(), &element(peer, host, proto)),
            ],
        }
    }

    /// Names and values.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        NAMES.into_iter().zip(self.values.iter().map(String::as_str))
    }

    /// Replaces whatever is there by these values, also what only looks like them.
    pub fn apply(self, headers: &mut HeaderMap) {
        drop_lookalikes(headers);
        for (name, value) in NAMES.into_iter().zip(self.values) {
            match HeaderValue::try_from(value) {
                Ok(value) => {
                    headers.insert(HeaderName::from_static(name), value);
                }
                // Nothing is better than what the visitor claimed.
                Err(_) => {
                    headers.remove(name);
                }
            }
        }
    }
}

/// The visitor's address: the peer, or what trusted proxies say, read from the near end.
///
/// The first address from the right that is no trusted proxy is the visitor; what stands left of it may be invented.
#[must_use]
pub fn visitor_address(peer: IpAddr, forwarded_for: Option<&str>, trusted: &dyn Fn(IpAddr) -> bool) -> IpAddr {
    let mut visitor = peer.to_canonical();
    for item in forwarded_for.unwrap_or_default().rsplit(',') {
        if !trusted(visitor) {
            break;
        }
        match address_of(item) {
            Some(address) => visitor = address,
            None => break,
        }
    }
    visitor
}

/// Whether a header ends at the next hop. Case does not matter.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The headers that `Connection` names: they end at the next hop, too.
///
/// Those that a request lives by are not among them, or a visitor could take out what proxies have put in:
/// `Connection: x-forwarded-for` is a known way around an address check.
#[must_use]
pub fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !is_end_to_end(name))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect()
}

/// Takes out all headers that end at this hop.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    // Most heads have none, and a look at their names costs less than eight searches.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(&name.as_str())) {
        return;
    }
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Takes out headers whose names differ from those above, or from those that frame a message, by `_` in the place of `-`:
/// CGI (RFC 3875, 4.1.18), WSGI and PHP make one variable of both, and a visitor's word would stand beside ours.
pub fn drop_lookalikes(headers: &mut HeaderMap) {
    // Most heads have none.
    if !headers.keys().any(|name| name.as_str().contains('_')) {
        return;
    }
    let alike: Vec<HeaderName> = headers.keys().filter(|name| is_lookalike(name.as_str())).cloned().collect();
    for name in alike {
        headers.remove(name);
    }
}

fn is_lookalike(name: &str) -> bool {
    const FRAMING: [&str; 2] = ["content-length", "content-type"];
    let mut known = NAMES.iter().chain(&HOP_BY_HOP).chain(&FRAMING);
    let alike = |known: &str| known.len() == name.len() && known.bytes().eq(name.bytes().map(dashed));
    name.contains('_') && known.any(|known| alike(known))
}

const fn dashed(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// Headers that `Connection` cannot take out: without them a request changes its meaning or its owner.
fn is_end_to_end(name: &str) -> bool {
    let fixed = ["host", "content-length", "content-type", "authorization", "cookie"];
    let all = fixed.iter().chain(&NAMES);
    all.into_iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut all: Option<String> = None;
    for text in headers.get_all(name).iter().filter_map(plain) {
        match &mut all {
            None => all = Some(text.to_owned()),
            Some(all) => {
                all.push_str(", ");
                all.push_str(text);
            }
        }
    }
    all
}

fn plain(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

fn last_item(list: &str) -> Option<&str> {
    list.rsplit(',').map(str::trim).find(|item| !item.is_empty())
}

fn appended(before: Option<&str>, item: &str) -> String {
    match before {
        None => item.to_owned(),
        Some(before) => format!("{before}, {item}"),
    }
}

fn proto(arrival: &Arrival<'_>, claimed: &Claimed) -> &'static str {
    let claimed = claimed.proto.as_deref().and_then(last_item);
    match claimed.map(str::to_ascii_lowercase).as_deref() {
        Some("https" | "wss") => "https",
        Some("http" | "ws") => "http",
        Some(_) | None if arrival.https => "https",
        Some(_) | None => "http",
    }
}

/// An address as it stands in a list: bare, with a port, in brackets, in quotes.
fn address_of(item: &str) -> Option<IpAddr> {
    let item = item.trim().trim_matches('"');
    let address = match item.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => match item.parse::<SocketAddr>() {
            Ok(address) => address.ip(),
            Err(_) => item.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

/// One element of `Forwarded`: what is no token is quoted, and so is every IPv6 address.
fn element(peer: IpAddr, host: &str, proto: &str) -> String {
    let mut text = String::with_capacity(48 + host.len());
    let written = match peer {
        IpAddr::V4(v4) => write!(text, "for={v4}"),
        IpAddr::V6(v6) => write!(text, "for=\"[{v6}]\""),
    };
    debug_assert!(written.is_ok(), "a string takes all text");
    text.push_str(";host=");
    push_quoted(&mut text, host);
    text.push_str(";proto=");
    text.push_str(proto);
    text
}

fn push_quoted(text: &mut String, value: &str) {
    let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if !value.is_empty() && value.bytes().all(token) {
        text.push_str(value);
        return;
    }
    text.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

#[cfg(test)]
mod tests;
