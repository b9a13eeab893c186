//! Which upgrades are accepted, by version, and how each is answered.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Method, Response, StatusCode};

use super::faults::{StreamFaults, Transport};
use super::{Kind, StreamTarget};
use crate::cluster::ServerVersion;
use crate::cluster::reply::{self, Body, Refusal};
use crate::ws::accept_key;

/// The subprotocol of SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

const EXEC_SPDY: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const EXEC_CHANNELS: [&str; 4] =
    ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
const EXEC_V5: [&str; 2] = ["v5.channel.k8s.io", "v5.base64.channel.k8s.io"];
const PORT_CHANNELS: [&str; 2] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// What an accepted connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) transport: Transport,
    pub(super) protocol: String,
}

impl Accepted {
    /// Whether the channels are in text.
    pub(super) fn base64(&self) -> bool {
        self.protocol.contains("base64.")
    }

    /// The protocol's version: 5 can end stdin on a channel, 4 has a JSON status.
    pub(super) fn version(&self) -> u8 {
        let digit = self.protocol.strip_prefix('v').and_then(|rest| rest.bytes().next());
        digit.map_or(1, |digit| digit.wrapping_sub(b'0'))
    }

    /// The 101.
    pub(super) fn response(&self, headers: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(reply::whole(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let answer = response.headers_mut();
        answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let protocol = HeaderValue::from_str(&self.protocol).unwrap_or(HeaderValue::from_static(""));
        if self.transport == Transport::Spdy {
            answer.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            answer.insert(STREAM_PROTOCOL, protocol);
            return response;
        }
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
        // A digest in base64 is a legal value.
        if let Ok(key) = HeaderValue::from_str(&accept_key(key)) {
            answer.insert(SEC_WEBSOCKET_ACCEPT, key);
        }
        if !self.protocol.is_empty() {
            answer.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// Decides about one request.
pub(super) fn decide(
    version: ServerVersion,
    faults: &StreamFaults,
    target: &StreamTarget,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Accepted, Box<Response<Body>>> {
    if let Some((status, body)) = faults.refusal() {
        return Err(refused(status, body));
    }
    let decided = match upgrade(headers) {
        Some(Upgrade::Spdy) => spdy(target, method, headers),
        Some(Upgrade::WebSocket) => websocket(version, target, method, headers),
        None => Err(Box::new(Refusal::bad_request("Upgrade request required").response())),
    };
    match decided {
        Ok(accepted) => match faults.forced(accepted.transport) {
            Some(status) => Err(refused(status, String::new())),
            None => Ok(accepted),
        },
        Err(refusal) => Err(refusal),
    }
}

enum Upgrade {
    Spdy,
    WebSocket,
}

fn upgrade(headers: &HeaderMap) -> Option<Upgrade> {
    let connection = words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let upgrade = headers.get(UPGRADE)?.to_str().ok().filter(|_| connection)?;
    match () {
        () if upgrade.eq_ignore_ascii_case("websocket") => Some(Upgrade::WebSocket),
        () if upgrade.to_ascii_lowercase().starts_with("spdy/3.1") => Some(Upgrade::Spdy),
        () => None,
    }
}

fn spdy(target: &StreamTarget, method: &Method, headers: &HeaderMap) -> Result<Accepted, Box<Response<Body>>> {
    if method != Method::GET && method != Method::POST {
        return Err(Box::new(Refusal::no_method().response()));
    }
    streams_asked_for(target)?;
    let known: &[&str] = match target.kind {
        Kind::PortForward => &[PORT_FORWARD],
        Kind::Exec => &EXEC_SPDY,
    };
    let asked: Vec<&str> = words(headers, &STREAM_PROTOCOL).collect();
    if asked.is_empty() {
        let text = "unable to upgrade: X-Stream-Protocol-Version is required\n";
        return Err(Box::new(reply::text(StatusCode::BAD_REQUEST, text)));
    }
    if let Some(protocol) = asked.iter().find(|protocol| known.contains(protocol)) {
        return Ok(Accepted { transport: Transport::Spdy, protocol: (*protocol).to_owned() });
    }
    let text = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]\n",
        asked.join(" "),
        known.join(" ")
    );
    let mut response = reply::text(StatusCode::FORBIDDEN, text);
    for protocol in known {
        response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
    }
    Err(Box::new(response))
}

fn websocket(
    version: ServerVersion,
    target: &StreamTarget,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Accepted, Box<Response<Body>>> {
    if method != Method::GET {
        return Err(match version {
            ServerVersion::V1_28 => refused(400, "Bad Request\n".to_owned()),
            _ => Box::new(Refusal::no_method().response()),
        });
    }
    let asked: Vec<&str> = words(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let accept = |transport, protocol: &str| Ok(Accepted { transport, protocol: protocol.to_owned() });
    let unwraps = version > ServerVersion::V1_28;
    let first = |known: &[&[&str]]| asked.iter().copied().find(|asked| known.iter().any(|some| some.contains(asked)));
    match target.kind {
        Kind::PortForward => {
            if unwraps && asked.contains(&TUNNEL) {
                return accept(Transport::Tunnel, TUNNEL);
            }
            if ports(target)?.is_empty() {
                return Err(refused(400, "query parameter \"port\" is required\n".to_owned()));
            }
            match first(&[&PORT_CHANNELS]) {
                Some(protocol) => accept(Transport::Channels, protocol),
                None if asked.is_empty() => accept(Transport::Channels, ""),
                None => Err(refused(403, String::new())),
            }
        }
        Kind::Exec => {
            streams_asked_for(target)?;
            let v5: &[&str] = if unwraps { &EXEC_V5 } else { &[] };
            match first(&[v5, &EXEC_CHANNELS]) {
                Some(protocol) => accept(Transport::Channels, protocol),
                None if asked.is_empty() => accept(Transport::Channels, ""),
                None => Err(refused(403, String::new())),
            }
        }
    }
}

/// The ports of the query, for the channels.
pub(super) fn ports(target: &StreamTarget) -> Result<Vec<u16>, Box<Response<Body>>> {
    let values = target.query.iter().filter(|(name, _)| name == "ports" || name == "port").map(|(_, value)| value);
    let parse = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    values
        .flat_map(|value| value.split(','))
        .filter(|text| !text.is_empty())
        .map(|text| parse(text).ok_or_else(|| refused(400, format!("invalid port {text:?}\n"))))
        .collect()
}

fn streams_asked_for(target: &StreamTarget) -> Result<(), Box<Response<Body>>> {
    let asked = |name: &str| super::flag(target, name);
    if target.kind == Kind::Exec && !["stdin", "stdout", "stderr"].into_iter().any(asked) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Box::new(Refusal::bad_request(text).response()));
    }
    Ok(())
}

fn words<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> + use<'h> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn refused(status: u16, body: String) -> Box<Response<Body>> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    if body.is_empty() {
        let mut response = Response::new(reply::whole(Bytes::new()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        return Box::new(response);
    }
    Box::new(reply::text(status, body))
}
