//! What the sample service knows about a request, as JSON and as text.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderMap, Version};
use serde::Serialize;

/// One part of a request's way, and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Hop {
    /// What the part is, for people: "server → agent".
    pub(crate) name: String,
    /// How long it took, in milliseconds.
    pub(crate) ms: f64,
}

/// Tells the hops of a request by its id, as far as they are known when it is asked.
pub(crate) type HopSource = Arc<dyn Fn(&str) -> Vec<Hop> + Send + Sync>;

/// A request as it arrived.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Facts {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) http_version: &'static str,
    pub(super) headers: Vec<(String, String)>,
    /// Who handed the request over: the agent.
    pub(super) peer: String,
    /// Who sent it, as the forwarding headers say.
    pub(super) visitor: Option<String>,
    pub(super) received_at_ms: u64,
    pub(super) request_id: String,
    pub(super) hops: Vec<Hop>,
    pub(super) body_bytes: u64,
}

impl Facts {
    /// Takes down a request. `number` stands in for an id when it has none.
    pub(super) fn of(parts: &Parts, peer: SocketAddr, number: u64) -> Self {
        let header = |name: &str| text_of(&parts.headers, name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            http_version: version_text(parts.version),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            peer: peer.to_string(),
            visitor: header("x-forwarded-for").map(|list| first_of(&list)),
            received_at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            request_id: header("x-request-id").unwrap_or_else(|| format!("local-{number}")),
            hops: Vec::new(),
            body_bytes: 0,
        }
    }

    /// The host that was asked for.
    pub(super) fn host(&self) -> &str {
        self.header("x-forwarded-host").or_else(|| self.header("host")).unwrap_or("localhost")
    }

    /// The scheme that the visitor used.
    pub(super) fn scheme(&self) -> &str {
        match self.header("x-forwarded-proto") {
            Some("https") => "https",
            _ => "http",
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The page for a terminal.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::from("It works: this answer came through the tunnel.\n\n");
        let visitor = self.visitor.as_deref().unwrap_or("unknown");
        let _ = writeln!(text, "{} {} {}", self.method, self.path, self.http_version);
        let _ = writeln!(text, "visitor     {visitor}");
        let _ = writeln!(text, "handed over {}", self.peer);
        let _ = writeln!(text, "request id  {}", self.request_id);
        text.push_str("\nheaders as the local service received them:\n");
        for (name, value) in &self.headers {
            let _ = writeln!(text, "  {name}: {value}");
        }
        let _ = writeln!(
            text,
            "\nOpen {}://{}/ in a browser for more, or ask /api/inspect for JSON.",
            self.scheme(),
            self.host()
        );
        text
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn first_of(list: &str) -> String {
    list.split(',').next().unwrap_or(list).trim().to_owned()
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/?",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::Request;

    use super::*;

    /// The facts of a GET with these headers.
    pub(crate) fn facts(path: &str, headers: &[(&str, &str)]) -> Facts {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a legal request").into_parts();
        Facts::of(&parts, SocketAddr::from(([127, 0, 0, 1], 4000)), 7)
    }

    #[test]
    fn the_visitor_is_the_first_of_the_forwarded_addresses() {
        let facts = facts("/", &[("x-forwarded-for", "203.0.113.9, 10.0.0.1")]);
        assert_eq!(facts.visitor.as_deref(), Some("203.0.113.9"));
        assert_eq!(facts.peer, "127.0.0.1:4000");
    }

    #[test]
    fn the_forwarded_host_and_scheme_are_those_of_the_visitor() {
        let direct = facts("/", &[("host", "127.0.0.1:3000")]);
        assert_eq!((direct.scheme(), direct.host()), ("http", "127.0.0.1:3000"));
        let tunnelled = facts(
            "/",
            &[("host", "127.0.0.1:3000"), ("x-forwarded-host", "hello.localhost:8080"), ("x-forwarded-proto", "https")],
        );
        assert_eq!((tunnelled.scheme(), tunnelled.host()), ("https", "hello.localhost:8080"));
    }

    #[test]
    fn a_request_without_an_id_gets_one() {
        assert_eq!(facts("/", &[]).request_id, "local-7");
        assert_eq!(facts("/", &[("x-request-id", "abc")]).request_id, "abc");
    }

    #[test]
    fn the_text_shows_every_header() {
        let text = facts("/a?b=c", &[("host", "h"), ("x-one", "1")]).to_text();
        assert!(text.contains("GET /a?b=c HTTP/1.1\n"), "{text}");
        assert!(text.contains("  x-one: 1\n"), "{text}");
    }

    #[test]
    fn headers_are_pairs_in_json() {
        let json = serde_json::to_value(facts("/", &[("host", "h")])).expect("facts serialise");
        assert_eq!(json["headers"], serde_json::json!([["host", "h"]]));
        assert_eq!(json["http_version"], "HTTP/1.1");
    }
}
