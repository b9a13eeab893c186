//! The request a local service gets, made from the parts the server sent.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Uri};
use mux::{Open, StreamKind};

use super::http::Failure;
use super::local::Local;
use crate::wire_http::read_headers;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Builds the head of the request.
///
/// The server has dropped what belongs to one connection only; it is dropped here again, because the local
/// service must not depend on the server's care.
pub(super) fn build(local: &Local, open: &Open, has_body: bool, h2: bool) -> Result<Parts, Failure> {
    let block = open.read_headers().map_err(|_| Failure::BAD_REQUEST)?;
    let mut headers = read_headers(block).map_err(|_| Failure::BAD_REQUEST)?;
    let upgrade = headers.remove(UPGRADE);
    let trailers = headers.remove(TE).is_some();
    for name in [CONNECTION, TRANSFER_ENCODING, EXPECT, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
    check_length(&mut headers, has_body)?;
    local.tunnel.request_headers.apply(&mut headers);
    if let Some(host) = local.host_value() {
        headers.insert(HOST, host.clone());
    }
    let target = PathAndQuery::from_maybe_shared(open.target.clone()).map_err(|_| Failure::BAD_REQUEST)?;
    if !open.target.starts_with(b"/") && &open.target[..] != b"*" {
        return Err(Failure::BAD_REQUEST);
    }
    let uri = if h2 { absolute(local, &mut headers, target)? } else { Uri::from(target) };
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if open.kind == StreamKind::Upgrade {
        headers.insert(UPGRADE, upgrade.ok_or(Failure::BAD_REQUEST)?);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if trailers && !h2 {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    let method = Method::from_bytes(&open.method).map_err(|_| Failure::BAD_REQUEST)?;
    if method == Method::CONNECT {
        return Err(Failure::BAD_REQUEST);
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.headers = headers;
    Ok(parts)
}

/// The length a request announces.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a request is gRPC, which needs HTTP/2 (its trailers and full duplex).
pub(super) fn is_grpc(open: &Open) -> bool {
    if &open.method[..] != b"POST" {
        return false;
    }
    let Ok(block) = open.read_headers() else {
        return false;
    };
    block
        .flatten()
        .find(|(name, _)| name.as_str() == "content-type")
        .and_then(|(_, value)| value.strip_prefix(b"application/grpc").map(<[u8]>::to_vec))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Whether sending a request twice does what sending it once does (RFC 9110 section 9.2.2).
pub(super) fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// One content-length or none, and none but 0 without a body.
fn check_length(headers: &mut HeaderMap, has_body: bool) -> Result<(), Failure> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(length), second) = (lengths.next(), lengths.next()) else {
        return Ok(());
    };
    let is_number = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if second.is_some() || !is_number {
        return Err(Failure::BAD_REQUEST);
    }
    if !has_body && length.as_bytes().iter().any(|digit| *digit != b'0') {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(())
}

/// HTTP/2 names the host in the target (RFC 9113 section 8.3.1).
fn absolute(local: &Local, headers: &mut HeaderMap, target: PathAndQuery) -> Result<Uri, Failure> {
    let host = headers.remove(HOST).ok_or(Failure::BAD_REQUEST)?;
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| Failure::BAD_REQUEST)?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(local.tunnel.protocol.scheme());
    parts.authority = Some(authority);
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map_err(|_| Failure::BAD_REQUEST)
}
