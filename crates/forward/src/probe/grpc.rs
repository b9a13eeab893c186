//! gRPC's health service: `grpc.health.v1.Health/Check`.

use std::future::Future as _;

use adit_core::config::forwards::{GrpcProbe, ProbeText};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;

use super::http::AGENT;
use super::wire::{Head, shown};
use super::{Asking, ProbeError};

const WANTED: &str = "gRPC";
/// Headers of an answer at the most.
const HEADERS_MAX: u32 = 16 * 1024;
/// An answer has a single number.
const ANSWER_MAX: usize = 4096;

pub(super) async fn ask(asking: &Asking<'_>, probe: &GrpcProbe) -> Result<String, ProbeError> {
    let (io, head) = asking.open(probe.tls.as_ref(), &[b"h2"]).await?;
    asking.doing.begin("beginning HTTP/2");
    let mut builder = h2::client::Builder::new();
    builder.max_header_list_size(HEADERS_MAX).enable_push(false);
    let (sender, connection) = builder.handshake::<_, Bytes>(io).await.map_err(|error| failed(&head, &error))?;
    let scheme = if probe.tls.is_some() { "https" } else { "http" };
    let host = probe.host_header.as_deref().unwrap_or(asking.host);
    let request = http::Request::post(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", AGENT)
        .body(())
        .map_err(|_| ProbeError::Setup { reason: format!("`{host}` is not a host") })?;
    asking.doing.begin("waiting for its answer");
    let call = call(sender, request, &probe.service, &head);
    tokio::pin!(call, connection);
    let mut over = false;
    // One task does both: the connection is moved on by whoever waits for the call.
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(result) = call.as_mut().poll(cx) {
            return std::task::Poll::Ready(result);
        }
        if !over && connection.as_mut().poll(cx).is_ready() {
            over = true;
        }
        call.as_mut().poll(cx)
    })
    .await
}

async fn call(
    sender: h2::client::SendRequest<Bytes>,
    request: http::Request<()>,
    service: &ProbeText,
    head: &Head,
) -> Result<String, ProbeError> {
    let mut sender = sender.ready().await.map_err(|error| failed(head, &error))?;
    let (answer, mut body) = sender.send_request(request, false).map_err(|error| failed(head, &error))?;
    body.send_data(question(service), true).map_err(|error| failed(head, &error))?;
    let response = answer.await.map_err(|error| failed(head, &error))?;
    let (parts, mut body) = response.into_parts();
    if parts.status != http::StatusCode::OK {
        return Err(ProbeError::Refused { message: format!("it answered {} to a gRPC call", parts.status) });
    }
    // Without a body the trailers are among the headers.
    refusal(&parts.headers, service.shown())?;
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| failed(head, &error))?;
        if message.len() + data.len() > ANSWER_MAX {
            return Err(malformed("it is too long"));
        }
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
    }
    if let Some(trailers) = body.trailers().await.map_err(|error| failed(head, &error))? {
        refusal(&trailers, service.shown())?;
    }
    match serving(&message) {
        Some(1) => Ok("it is serving".to_owned()),
        Some(2) => Err(ProbeError::Refused { message: format!("{} is not serving", named(service.shown())) }),
        Some(3) => Err(ProbeError::Refused { message: format!("it knows no service `{}`", service.shown()) }),
        Some(_) => Err(ProbeError::Refused { message: format!("it does not know how {} is", named(service.shown())) }),
        None => Err(malformed("there is no health in it")),
    }
}

fn failed(head: &Head, error: &h2::Error) -> ProbeError {
    match head.stranger(WANTED) {
        // What answers an HTTP/2 preface with HTTP speaks the older one.
        Some(ProbeError::Protocol { found: "HTTP", wanted }) => ProbeError::Protocol { found: "HTTP/1", wanted },
        Some(ProbeError::Protocol { found, wanted }) if found != "HTTP/2" => ProbeError::Protocol { found, wanted },
        _ if error.is_io() => head.closed("waiting for its answer"),
        _ => ProbeError::Malformed { wanted: WANTED, what: error.to_string() },
    }
}

fn malformed(what: &str) -> ProbeError {
    ProbeError::Malformed { wanted: WANTED, what: what.to_owned() }
}

fn named(service: &str) -> String {
    if service.is_empty() { "the server".to_owned() } else { format!("`{service}`") }
}

/// The call's message: a prefix with its length, and the service as field 1.
fn question(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            field.put_u8(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        field.put_u8(u8::try_from(length).unwrap_or_default());
        field.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
    message.put_slice(&field);
    message.freeze()
}

/// The status in an answer; one that is left out is 0.
fn serving(message: &[u8]) -> Option<u8> {
    let (prefix, field) = message.split_at_checked(5)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length) != Ok(field.len()) {
        return None;
    }
    match field {
        [] => Some(0),
        [0x08, status] if *status < 0x80 => Some(*status),
        _ => None,
    }
}

fn refusal(headers: &HeaderMap, service: &str) -> Result<(), ProbeError> {
    let Some(code) = headers.get("grpc-status").map(http::HeaderValue::as_bytes) else { return Ok(()) };
    let message = match code {
        b"0" => return Ok(()),
        b"5" => format!("it knows no service `{service}`"),
        b"12" => "it has no health service (grpc.health.v1.Health)".to_owned(),
        code => {
            let said = headers.get("grpc-message").map(|said| shown(said.as_bytes(), &[])).unwrap_or_default();
            let said = if said.is_empty() { said } else { format!(": {said}") };
            format!("it refused the call with gRPC status {}{said}", shown(code, &[]))
        }
    };
    Err(ProbeError::Refused { message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_its_length_before_it() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn an_answer_is_a_single_number() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 0x08, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}
