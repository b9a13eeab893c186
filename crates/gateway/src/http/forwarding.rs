//! The forwarding headers of a connection's requests. They depend on the connection and the host alone, unless a
//! trusted proxy is in front, so they are made once.

use std::net::IpAddr;

use adit_core::forwarded::{Arrival, Claimed, Forwarding, NAMES, drop_lookalikes, visitor_address};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Connection, Scheme};

/// The values for the host asked for last.
#[derive(Default)]
pub(crate) struct ForwardingCache {
    host: String,
    values: Vec<(HeaderName, HeaderValue)>,
}

/// Replaces whatever a client says of where it comes from by what we know (S10).
pub(crate) fn apply(connection: &Connection, host: &str, headers: &mut HeaderMap) {
    if connection.is_trusted() {
        return behind_proxy(connection, host, headers);
    }
    let mut cache = connection.forwarding.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if cache.host != host || cache.values.is_empty() {
        let forwarding = Forwarding::new(&arrival(connection, host, false), &Claimed::default());
        let value = |(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?));
        cache.values = forwarding.headers().filter_map(value).collect();
        host.clone_into(&mut cache.host);
    }
    drop_lookalikes(headers);
    // They need room once, not twice.
    headers.reserve(cache.values.len());
    for (name, value) in &cache.values {
        headers.insert(name.clone(), value.clone());
    }
    if cache.values.len() < NAMES.len() {
        // A value that could not be said: nothing is better than what the client claimed.
        for name in NAMES.into_iter().filter(|name| !cache.values.iter().any(|(known, _)| known == name)) {
            headers.remove(name);
        }
    }
}

fn behind_proxy(connection: &Connection, host: &str, headers: &mut HeaderMap) {
    let claimed = Claimed::of(headers);
    // In the proxies' list only what trusted ones wrote counts.
    let visitor = claimed.for_.is_some().then(|| visitor(connection, &claimed));
    Forwarding::new(&arrival(connection, host, true), &claimed).apply(headers);
    if let Some(Ok(value)) = visitor.map(|visitor| HeaderValue::from_str(&visitor.to_string())) {
        headers.insert("x-real-ip", value);
    }
}

/// Who asks: the other end, or whoever trusted proxies say.
pub(crate) fn client(connection: &Connection, headers: &HeaderMap) -> IpAddr {
    let claimed = if connection.is_trusted() { Claimed::of(headers) } else { Claimed::default() };
    visitor(connection, &claimed)
}

fn visitor(connection: &Connection, claimed: &Claimed) -> IpAddr {
    let trusted = |ip| connection.site.trusted_proxies.contain(ip);
    visitor_address(connection.arrival.peer.ip(), claimed.for_.as_deref(), &trusted)
}

fn arrival<'a>(connection: &Connection, host: &'a str, trusted: bool) -> Arrival<'a> {
    let arrival = &connection.arrival;
    Arrival {
        peer: arrival.peer.ip(),
        trusted,
        host,
        https: arrival.scheme == Scheme::Https,
        port: arrival.local.port(),
    }
}
