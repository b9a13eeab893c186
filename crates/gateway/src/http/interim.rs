//! Interim answers (1xx) of an upstream on their way to the client: 103 Early Hints above all (RFC 8297).

use std::sync::Arc;

use http::{Extensions, HeaderMap, Request, StatusCode};

use super::{Connection, request};
use crate::upstream::Upstream;

/// What makes hyper tell of interim answers to a request; they are sent on to its client, who must speak HTTP/1.1.
///
/// 100 is none of them: it is for whoever asked for it, and that is between hyper and the client, as a request goes on
/// without its `Expect`. 101 is a last answer.
pub(super) fn forwarding(upstream: &Arc<Upstream>, connection: &Arc<Connection>) -> Extensions {
    let (upstream, connection) = (Arc::clone(upstream), Arc::clone(connection));
    connection.findings.begin_interim();
    let mut carrier = Request::new(());
    hyper::ext::on_informational(&mut carrier, move |answer| {
        if let Some(head) = encode(&upstream, answer.status(), answer.headers()) {
            connection.findings.add_interim(&head);
        }
    });
    carrier.into_parts().0.extensions
}

fn encode(upstream: &Upstream, status: StatusCode, headers: &HeaderMap) -> Option<Vec<u8>> {
    if status == StatusCode::CONTINUE || status == StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    let mut headers = headers.clone();
    request::check_answer(upstream, &mut headers, status).ok()?;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in &headers {
        for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(piece);
        }
    }
    head.extend_from_slice(b"\r\n");
    Some(head)
}
