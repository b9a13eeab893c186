//! HTTP/1.1 upgrades towards an API server, without an HTTP library in between: what follows the head is ours.

use std::time::Duration;

use runtime::pipe::{Pipe, PipeFault};
use serde::Deserialize;

use super::api::{Api, ApiError, Session};
use super::dial::fault_as_io;

/// From sending the head to the end of the answer's head. A kubelet that is slow takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The answer's head at the most.
const HEAD_MAX: usize = 64 * 1024;
/// Of a refusal's body, this much is read.
const BODY_MAX: usize = 16 * 1024;
/// How long a refusal's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(3);
/// Header fields of an answer at the most.
const HEADERS_MAX: usize = 64;

/// A connection that left HTTP.
pub(crate) struct Upgraded {
    pub(crate) pipe: Pipe,
    /// What the server sent right behind its head.
    pub(crate) early: Vec<u8>,
    /// The subprotocol it chose.
    pub(crate) protocol: Option<String>,
}

/// How an upgrade failed.
#[derive(Debug)]
pub(crate) enum UpgradeError {
    /// The server answered, but not with 101.
    Refused {
        /// The HTTP status.
        code: u16,
        /// `reason` of the Status object, if it was one.
        reason: String,
        /// What it said.
        message: String,
    },
    /// There was no way to ask, or no answer in time.
    Failed(ApiError),
    /// The connection was made, and ended instead of an answer: a proxy on the way may not know this upgrade.
    Dropped(ApiError),
}

impl From<UpgradeError> for ApiError {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::Refused { code, reason, message } => Self::of_status(code, &reason, &message),
            UpgradeError::Failed(error) | UpgradeError::Dropped(error) => error,
        }
    }
}

impl UpgradeError {
    /// Whether the server itself said that it does not take this upgrade, as opposed to a bad moment of it or of the
    /// network.
    pub(crate) fn is_verdict(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code == 101 || (400..500).contains(code) || *code == 501,
            Self::Failed(_) | Self::Dropped(_) => false,
        }
    }

    /// Whether asking the same once more would end the same.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Failed(error) => error.is_answer(),
            Self::Dropped(_) => false,
        }
    }
}

/// What is asked for.
pub(crate) struct Upgrade<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// `websocket` or `SPDY/3.1`.
    pub(crate) to: &'a str,
    /// Further header fields.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// The header field in which the server names the subprotocol.
    pub(crate) protocol_header: &'a str,
}

/// Asks for an upgrade; after a 401 once more with fresh credentials.
pub(crate) async fn upgrade(api: &Api, wanted: &Upgrade<'_>) -> Result<Upgraded, UpgradeError> {
    let session = api.session();
    let ahead = match api.take_ahead() {
        Some(ahead) => ahead.await.ok(),
        None => None,
    };
    let result = match ahead {
        Some(pipe) => match over(&session, wanted, pipe).await {
            // It was made before anybody needed it: the server may have hung up since.
            Err(UpgradeError::Failed(ApiError::Unreachable { .. }) | UpgradeError::Dropped(_)) => {
                once(&session, wanted).await
            }
            result => result,
        },
        None => once(&session, wanted).await,
    };
    match result {
        Err(UpgradeError::Refused { code: 401, .. }) => {
            let renewed = api.renew(&session).await.map_err(UpgradeError::Failed)?;
            once(&renewed, wanted).await
        }
        result => result,
    }
}

async fn once(session: &Session, wanted: &Upgrade<'_>) -> Result<Upgraded, UpgradeError> {
    let dialed = session.dialer.pipe().await;
    let pipe = dialed.map_err(|error| UpgradeError::Failed(ApiError::unreachable(&error)))?;
    over(session, wanted, pipe).await
}

async fn over(session: &Session, wanted: &Upgrade<'_>, mut pipe: Pipe) -> Result<Upgraded, UpgradeError> {
    let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", wanted.to)];
    headers.extend_from_slice(wanted.headers);
    if wanted.method == "POST" {
        headers.push(("Content-Length", "0"));
    }
    let head = session.upgrade_head(wanted.method, wanted.path, &headers).await.map_err(UpgradeError::Failed)?;
    let server = session.dialer.describe();
    let lost = |fault: PipeFault| {
        UpgradeError::Dropped(ApiError::Unreachable {
            server: server.clone(),
            reason: crate::error::words(&fault_as_io(fault)),
            fault: adit_core::diagnose::Fault::Upstream,
            hint: None,
            silent: false,
        })
    };
    pipe.encrypt(&head).map_err(lost)?;
    let mut received = Vec::new();
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, async {
        std::future::poll_fn(|cx| pipe.poll_flush(cx)).await?;
        loop {
            if let Some(end) = head_end(&received) {
                return Ok(Some(end));
            }
            if received.len() > HEAD_MAX {
                return Ok(None);
            }
            if !read_more(&mut pipe, &mut received).await? {
                // A short command's whole life may come with the head, its connection's end included.
                return Ok(head_end(&received));
            }
        }
    })
    .await;
    let end = match answered {
        Err(_) => {
            let after = ANSWER_TIMEOUT;
            return Err(UpgradeError::Failed(ApiError::Timeout { server: server.clone(), after }));
        }
        Ok(Err(fault)) => return Err(lost(fault)),
        Ok(Ok(None)) => return Err(lost(PipeFault::Closed)),
        Ok(Ok(Some(end))) => end,
    };
    let mut body = received.split_off(end);
    let answer = parse_head(&received, wanted.protocol_header).ok_or_else(|| {
        UpgradeError::Failed(ApiError::Decode {
            what: "the answer to an upgrade".into(),
            reason: "it is no HTTP/1.1".into(),
        })
    })?;
    if answer.code == 101 {
        return Ok(Upgraded { pipe, early: body, protocol: answer.protocol });
    }
    // Best effort: a body that does not come is not worth an error of its own.
    let reading = async {
        while body.len() < BODY_MAX && !body_is_whole(&answer, &body) {
            if !read_more(&mut pipe, &mut body).await? {
                break;
            }
        }
        Ok::<_, PipeFault>(())
    };
    let _ = tokio::time::timeout(BODY_TIMEOUT, reading).await;
    let body = if answer.chunked { unchunk(&body) } else { body };
    Err(refused(&answer, &body))
}

async fn read_more(pipe: &mut Pipe, into: &mut Vec<u8>) -> Result<bool, PipeFault> {
    std::future::poll_fn(|cx| pipe.poll_read(cx, &mut |plain| into.extend_from_slice(plain))).await
}

fn head_end(received: &[u8]) -> Option<usize> {
    received.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

struct Answer {
    code: u16,
    phrase: String,
    length: Option<usize>,
    chunked: bool,
    protocol: Option<String>,
}

fn parse_head(head: &[u8], protocol_header: &str) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok()?;
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    Some(Answer {
        code: response.code?,
        phrase: response.reason.unwrap_or_default().to_owned(),
        length: value("content-length").and_then(|text| text.parse().ok()),
        chunked: value("transfer-encoding").is_some_and(|text| text.to_ascii_lowercase().ends_with("chunked")),
        protocol: value(protocol_header).map(str::to_owned),
    })
}

fn body_is_whole(answer: &Answer, body: &[u8]) -> bool {
    match answer.length {
        Some(length) => body.len() >= length,
        None => answer.chunked && body.ends_with(b"0\r\n\r\n"),
    }
}

/// The content of a chunked body (RFC 9112 section 7.1), as far as it goes.
fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(at) = body.windows(2).position(|two| two == b"\r\n") {
        let digits = std::str::from_utf8(&body[..at]).unwrap_or_default();
        let size = usize::from_str_radix(digits.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        let rest = &body[at + 2..];
        let taken = size.min(rest.len());
        content.extend_from_slice(&rest[..taken]);
        if size == 0 || taken < size {
            break;
        }
        body = rest.get(size + 2..).unwrap_or_default();
    }
    content
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

fn refused(answer: &Answer, body: &[u8]) -> UpgradeError {
    let (reason, message) = match serde_json::from_slice::<Status>(body) {
        Ok(status) => (status.reason, status.message),
        Err(_) => (String::new(), String::from_utf8_lossy(body).trim().chars().take(500).collect()),
    };
    let message = if message.is_empty() { answer.phrase.clone() } else { message };
    UpgradeError::Refused { code: answer.code, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_chunked_bodies_are_read() {
        let head = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nX-P: v4\r\n\r\n";
        let answer = parse_head(head, "x-p").unwrap();
        assert_eq!((answer.code, answer.chunked, answer.protocol.as_deref()), (403, true, Some("v4")));
        assert_eq!(unchunk(b"4\r\nabcd\r\n2;x=y\r\nef\r\n0\r\n\r\n"), b"abcdef");
        assert_eq!(unchunk(b"ff\r\nab"), b"ab");
        assert!(body_is_whole(&answer, b"0\r\n\r\n"));
    }

    #[test]
    fn a_refusal_carries_the_status_objects_words() {
        let answer = Answer { code: 404, phrase: "Not Found".into(), length: None, chunked: false, protocol: None };
        let UpgradeError::Refused { reason, message, .. } =
            refused(&answer, br#"{"kind":"Status","reason":"NotFound","message":"pods \"x\" not found"}"#)
        else {
            panic!("not refused");
        };
        assert_eq!((reason.as_str(), message.as_str()), ("NotFound", "pods \"x\" not found"));
        let UpgradeError::Refused { message, .. } = refused(&answer, b"") else { panic!("not refused") };
        assert_eq!(message, "Not Found");
    }
}
