//! The WebSocket echo: the handshake, and the conversation after it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use runtime::Scope;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::answer::{self, Body};
use super::websocket_frame::{Decoder, Message, Opcode, encode};
use super::{base64, sha1};

/// What RFC 6455 appends to the key before hashing.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A peer that is silent this long is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(20);

/// Unanswered pings before the peer counts as gone.
const MAX_UNANSWERED: u32 = 3;

/// How long the peer may take to accept one answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Bytes read at a time.
const READ_SIZE: usize = 16 * 1024;

/// Close codes of RFC 6455.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;

/// The answer to a handshake: 101, or what is wrong with it.
pub(super) fn handshake(headers: &HeaderMap) -> Response<Body> {
    let wants = |name, token| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    if !wants(UPGRADE, "websocket") || !wants(CONNECTION, "upgrade") {
        let mut answer = answer::refuse(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket");
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        return answer;
    }
    if !wants(SEC_WEBSOCKET_VERSION, "13") {
        let mut answer = answer::refuse(StatusCode::BAD_REQUEST, "only version 13 is spoken here");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return answer;
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let Some(accept) = key.and_then(|key| HeaderValue::from_str(&accept_of(key)).ok()) else {
        return answer::refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing");
    };
    let mut answer = Response::new(Body::Whole(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answered = answer.headers_mut();
    answered.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answered.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answered.insert(SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

fn accept_of(key: &str) -> String {
    base64::encode(&sha1::digest(format!("{key}{MAGIC}").as_bytes()))
}

/// Sends every message back until one side ends it.
///
/// # Errors
/// When the connection breaks, or the peer stops reading.
pub(super) async fn echo<S>(mut stream: S, scope: &Scope) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; READ_SIZE];
    let mut silent = 0;
    loop {
        let read = tokio::select! {
            // The end first: a chatty peer must not put it off.
            biased;
            () = scope.drained() => return close(&mut stream, GOING_AWAY).await,
            read = timeout(PING_AFTER, stream.read(&mut buffer)) => read,
        };
        match read {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(count)) => {
                silent = 0;
                decoder.push(&buffer[..count]);
                if !answer_messages(&mut stream, &mut decoder).await? {
                    return Ok(());
                }
            }
            Ok(Err(error)) => return Err(error),
            Err(_) if silent == MAX_UNANSWERED => return close(&mut stream, GOING_AWAY).await,
            Err(_) => {
                silent += 1;
                send(&mut stream, Opcode::Ping, &[]).await?;
            }
        }
    }
}

/// Answers what is complete. `false` when that was the end of the conversation.
async fn answer_messages<S>(stream: &mut S, decoder: &mut Decoder) -> io::Result<bool>
where
    S: AsyncWrite + Unpin,
{
    loop {
        match decoder.next_message() {
            Ok(None) => return Ok(true),
            Ok(Some(Message::Text(text))) => send(stream, Opcode::Text, text.as_bytes()).await?,
            Ok(Some(Message::Binary(bytes))) => send(stream, Opcode::Binary, &bytes).await?,
            Ok(Some(Message::Ping(payload))) => send(stream, Opcode::Pong, &payload).await?,
            Ok(Some(Message::Pong)) => {}
            Ok(Some(Message::Close(code))) => {
                close(stream, code.unwrap_or(NORMAL)).await?;
                return Ok(false);
            }
            Err(fault) => {
                close(stream, fault.close_code()).await?;
                return Ok(false);
            }
        }
    }
}

async fn close<S: AsyncWrite + Unpin>(stream: &mut S, code: u16) -> io::Result<()> {
    send(stream, Opcode::Close, &code.to_be_bytes()).await?;
    stream.shutdown().await
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    encode(opcode, payload, &mut frame);
    let written = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    timeout(WRITE_DEADLINE, written).await?
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_handshake_of_rfc_6455_is_answered() {
        let request = headers(&[
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ]);
        let answer = handshake(&request);
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_handshake_is_refused_with_the_reason() {
        let status = |pairs: &[(&'static str, &'static str)]| handshake(&headers(pairs)).status();
        assert_eq!(status(&[]), StatusCode::UPGRADE_REQUIRED);
        let mut pairs = vec![("upgrade", "websocket"), ("connection", "upgrade")];
        assert_eq!(status(&pairs), StatusCode::BAD_REQUEST);
        pairs.push(("sec-websocket-version", "13"));
        assert_eq!(status(&pairs), StatusCode::BAD_REQUEST);
    }

    /// Masked with zeros, which leaves the payload as it is.
    fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("a short payload");
        let mut frame = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    }

    #[tokio::test]
    async fn messages_come_back_and_a_close_ends_it() {
        let (mut client, server) = duplex(1024);
        let scope = Scope::root();
        let talk = async {
            for frame in [client_frame(1, b"hi"), client_frame(9, b"?"), client_frame(8, &[3, 232])] {
                client.write_all(&frame).await.expect("the echo reads");
            }
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.expect("the echo closes");
            answers
        };
        let (ended, answers) = tokio::join!(echo(server, &scope), talk);
        ended.expect("an orderly end");
        assert_eq!(answers, b"\x81\x02hi\x8A\x01?\x88\x02\x03\xE8");
    }

    #[tokio::test]
    async fn a_broken_frame_is_answered_with_its_code() {
        let (mut client, server) = duplex(1024);
        let scope = Scope::root();
        let talk = async {
            client.write_all(&[0x81, 0x00]).await.expect("the echo reads");
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.expect("the echo closes");
            answers
        };
        let (ended, answers) = tokio::join!(echo(server, &scope), talk);
        ended.expect("an orderly end");
        assert_eq!(answers, b"\x88\x02\x03\xEA");
    }

    #[tokio::test]
    async fn a_drain_ends_the_conversation() {
        let (mut client, server) = duplex(1024);
        let scope = Scope::root();
        scope.drain();
        echo(server, &scope).await.expect("an orderly end");
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.expect("the echo closes");
        assert_eq!(answers, b"\x88\x02\x03\xE9");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_no_ping_is_gone() {
        let (mut client, server) = duplex(1024);
        let scope = Scope::root();
        echo(server, &scope).await.expect("an orderly end");
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.expect("the echo closes");
        assert_eq!(answers, b"\x89\x00\x89\x00\x89\x00\x88\x02\x03\xE9");
    }
}
