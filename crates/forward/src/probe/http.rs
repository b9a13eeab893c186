//! A request whose status, and perhaps content, decides.

use adit_core::config::forwards::{HttpProbe, StatusRange};
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use runtime::upstream::UpstreamConnection;

use super::{Asking, ProbeError};

/// Content is looked for in this much of an answer.
const CONTENT_MAX: usize = 1024 * 1024;

/// How probes call themselves.
pub(super) const AGENT: &str = concat!("adit-health/", env!("CARGO_PKG_VERSION"));

pub(super) async fn ask(asking: &Asking<'_>, probe: &HttpProbe) -> Result<String, ProbeError> {
    let wanted = if probe.tls.is_some() { "HTTP over TLS" } else { "HTTP" };
    let (io, head) = asking.open(probe.tls.as_ref(), &[b"http/1.1"]).await?;
    let host = probe.host_header.as_deref().unwrap_or(asking.host);
    let mut request = http::Request::builder()
        .method(probe.method.clone())
        .uri(&probe.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header("accept", "*/*");
    if let Some(headers) = request.headers_mut() {
        for (name, value) in &probe.headers {
            headers.insert(name.clone(), value.clone());
        }
    }
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| ProbeError::Setup { reason: error.to_string() })?;
    asking.doing.begin("waiting for its answer");
    let failed = |error: &hyper::Error| {
        if error.is_parse() || error.is_parse_too_large() {
            return head.wrong(wanted, crate::error::chain(error));
        }
        head.stranger(wanted).unwrap_or_else(|| head.closed("waiting for its answer"))
    };
    let mut connection = UpstreamConnection::begin(io).await.map_err(|error| failed(&error))?;
    let response = connection.send(request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    // What variables hold is hidden, and queries may hold keys, too.
    let path = probe.shown_path.split('?').next().unwrap_or_default();
    let said = format!("{} {path} answered {status}", probe.method);
    if !probe.accepts(status.as_u16()) {
        let message = if probe.status.is_empty() { said } else { format!("{said}; expected {}", expected(probe)) };
        return Err(ProbeError::Refused { message });
    }
    if let Some(content) = &probe.content {
        asking.doing.begin("reading its answer");
        if !connection.drive(contains(response.into_body(), content.as_bytes())).await? {
            let message = format!("{} {path} does not say `{}`", probe.method, content.shown());
            return Err(ProbeError::Refused { message });
        }
    }
    Ok(said)
}

/// The statuses that are good, as in the file.
fn expected(probe: &HttpProbe) -> String {
    probe.status.iter().map(StatusRange::to_string).collect::<Vec<_>>().join(", ")
}

async fn contains(mut body: Incoming, wanted: &[u8]) -> Result<bool, ProbeError> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ProbeError::Closed { doing: "reading its answer" })?;
        let Some(data) = frame.data_ref() else { continue };
        // What spans two frames is found, too.
        let from = kept.len().saturating_sub(wanted.len());
        let room = CONTENT_MAX - kept.len();
        kept.extend_from_slice(&data[..room.min(data.len())]);
        if kept[from..].windows(wanted.len().max(1)).any(|window| window == wanted) {
            return Ok(true);
        }
        if kept.len() == CONTENT_MAX {
            break;
        }
    }
    Ok(false)
}
