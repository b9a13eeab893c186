//! The heads that pass: a client's as the upstream gets it, an upstream's as the client gets it.

use adit_core::forwarded::drop_hop_by_hop;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, StatusCode, Uri, Version};

use super::{Connection, Problem, forwarding};
use crate::upstream::{Upstream, UpstreamScheme};

/// How a request is to be carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carriage {
    /// By HTTP/2.
    pub(crate) h2: bool,
    /// It has a body.
    pub(crate) body: bool,
    /// It asks for an upgrade.
    pub(crate) upgrade: bool,
}

/// Makes a client's head into the upstream's. `host` is what the client asked for, as it is written in a Host header.
pub(crate) fn rewrite(
    connection: &Connection,
    upstream: &Upstream,
    head: &mut Parts,
    host: &str,
    carriage: Carriage,
) -> Result<(), Problem> {
    head.extensions.clear();
    let headers = &mut head.headers;
    let token = headers.get(UPGRADE).filter(|_| carriage.upgrade).cloned();
    let trailers = wants_trailers(headers);
    drop_hop_by_hop(headers);
    headers.remove(EXPECT);
    if !upstream.is_open() {
        headers.remove(AUTHORIZATION);
    }
    check_length(headers)?;
    if head.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    forwarding::apply(connection, host, headers);
    match &upstream.host_header {
        Some(value) => drop(headers.insert(HOST, value.clone())),
        // As a rule it is there already, as it is to be.
        None if is_only_host(headers, host) => {}
        None => {
            let value = HeaderValue::from_str(host).map_err(|_| Problem::bad("its host is not one"))?;
            headers.insert(HOST, value);
        }
    }
    upstream.headers.apply(headers);
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if carriage.h2 {
        head.uri = absolute(upstream, headers, target)?;
        head.version = Version::HTTP_2;
    } else {
        if head.uri.authority().is_some() || head.uri.path().is_empty() {
            head.uri = Uri::from(target);
        }
        head.version = Version::HTTP_11;
        // hyper leaves out a body of unknown length of methods that have none as a rule.
        if carriage.body && !headers.contains_key(CONTENT_LENGTH) {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if let Some(token) = token {
        headers.insert(UPGRADE, token);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if trailers && !carriage.h2 {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Whether a head has this host, and no other.
fn is_only_host(headers: &HeaderMap, host: &str) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    hosts.next().is_some_and(|value| value == host) && hosts.next().is_none()
}

/// Holds an upstream's head to one reading, and changes it as the route wants.
pub(crate) fn check_answer(upstream: &Upstream, headers: &mut HeaderMap, status: StatusCode) -> Result<(), Problem> {
    let token = headers.remove(UPGRADE).filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
    // RFC 9112 section 6.3: chunked wins, and a length beside it must not travel on.
    if headers.contains_key(TRANSFER_ENCODING) || status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    drop_hop_by_hop(headers);
    if let Some(token) = token {
        headers.insert(UPGRADE, token);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    check_length(headers).map_err(|_| Problem::BadAnswer { target: upstream.target() })?;
    upstream.response_headers.apply(headers);
    Ok(())
}

/// Whether a request is gRPC, which needs HTTP/2 (its trailers and full duplex).
pub(crate) fn is_grpc(head: &Parts) -> bool {
    head.version == Version::HTTP_2 && head.method == Method::POST && has_grpc_type(&head.headers)
}

/// Whether a body is gRPC's: a conversation, with pauses of any length.
pub(crate) fn has_grpc_type(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'-')))
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case("trailers")))
    })
}

/// One content-length or none.
fn check_length(headers: &HeaderMap) -> Result<(), Problem> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let legal = !length.is_empty() && length.len() < 20 && length.as_bytes().iter().all(u8::is_ascii_digit);
    if legal && lengths.next().is_none() { Ok(()) } else { Err(Problem::bad("its content-length is not one number")) }
}

/// HTTP/2 may take a cookie header apart (RFC 9113 section 8.2.3); servers look at the first alone.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.by_ref().take(2).count() < 2 {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// HTTP/2 names the host in the target (RFC 9113 section 8.3.1).
fn absolute(upstream: &Upstream, headers: &mut HeaderMap, target: PathAndQuery) -> Result<Uri, Problem> {
    let refused = || Problem::bad("its host is not one");
    let host = headers.remove(HOST).ok_or_else(refused)?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(match upstream.scheme {
        UpstreamScheme::Https => http::uri::Scheme::HTTPS,
        UpstreamScheme::Http | UpstreamScheme::H2c => http::uri::Scheme::HTTP,
    });
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| refused())?);
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map_err(|_| refused())
}

/// Whether a browser says that a page of another site makes this request, and not its user by following a link
/// (Fetch Metadata, W3C). Pages under `localhost` are no strangers, though each is a site of its own.
pub(super) fn is_foreign<B>(request: &Request<B>) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_known = |origin: &str| is_local_origin(origin) || is_own_origin(origin, request);
    match header("sec-fetch-site") {
        Some("cross-site") => {
            let followed = header("sec-fetch-mode") == Some("navigate") && request.method().is_safe();
            !followed && !header("origin").is_some_and(is_known)
        }
        Some(_) => false,
        // Not said to hosts that a browser does not trust, nor by old ones; an origin comes with what changes something.
        None => {
            let changes = !request.method().is_safe() || request.headers().contains_key(UPGRADE);
            changes && header("origin").is_some_and(|origin| !is_known(origin))
        }
    }
}

/// Whether this request is its user's own, or of a page of the host that is asked, as far as browsers say. For what
/// costs something a link does not count either: any page can open it, in a frame or a window.
pub(super) fn is_of_own_page<B>(request: &Request<B>) -> bool {
    match request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None => !is_foreign(request),
        Some(site) => matches!(site, b"none" | b"same-origin"),
    }
}

/// Whether an origin is the host that is asked.
fn is_own_origin<B>(origin: &str, request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    origin.split_once("://").is_some_and(|(_, own)| host.is_some_and(|host| own.eq_ignore_ascii_case(host)))
}

/// Whether an origin is a page of this machine: `http://a.localhost:3000`.
fn is_local_origin(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        is_foreign(&request.body(()).unwrap())
    }

    #[test]
    fn a_page_of_another_site_is_told_from_a_user_and_from_pages_of_this_machine() {
        let cross = ("sec-fetch-site", "cross-site");
        let mode = |mode| ("sec-fetch-mode", mode);
        assert!(!foreign("POST", &[]), "no browser");
        let evil = ("origin", "https://evil.example");
        assert!(
            foreign("POST", &[evil]) && foreign("GET", &[evil, ("upgrade", "websocket")]),
            "a browser that says no more"
        );
        assert!(!foreign("GET", &[evil]) && !foreign("POST", &[("origin", "http://x.test:1"), ("host", "X.test:1")]));
        assert!(!foreign("POST", &[("sec-fetch-site", "same-origin")]));
        assert!(!foreign("GET", &[cross, mode("navigate")]), "a link");
        assert!(foreign("POST", &[cross, mode("navigate"), ("origin", "https://evil.example")]), "a form");
        assert!(foreign("GET", &[cross, mode("no-cors")]), "a picture");
        assert!(foreign("GET", &[cross, mode("websocket"), ("origin", "https://evil.example")]));
        for origin in ["http://a.localhost:3000", "http://localhost", "http://127.0.0.1:1", "http://[::1]:3000"] {
            assert!(!foreign("POST", &[cross, mode("cors"), ("origin", origin)]), "{origin}");
        }
        for origin in ["null", "http://localhost.evil.example", "http://evillocalhost", ""] {
            assert!(foreign("POST", &[cross, mode("cors"), ("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn a_link_of_another_site_is_not_its_users_own_request() {
        let own = |site: &str| {
            let request = Request::get("/").header("sec-fetch-mode", "navigate").header("sec-fetch-site", site);
            is_of_own_page(&request.body(()).unwrap())
        };
        assert!(own("none") && own("same-origin"));
        assert!(!own("cross-site") && !own("same-site") && !own("what else"));
        assert!(is_of_own_page(&Request::get("/").body(()).unwrap()), "no browser");
    }

    #[test]
    fn a_cookie_header_that_http2_took_apart_is_put_together() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=3"] {
            headers.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn two_lengths_or_no_number_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("5"));
        assert!(check_length(&headers).is_ok());
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("5"));
        assert!(check_length(&headers).is_err());
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("+5"));
        assert!(check_length(&headers).is_err());
    }
}
