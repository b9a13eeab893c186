//! Frames before a lane runs: authentication and Join, one question and one answer.

use aws_lc_rs::hmac;
use mux::frame::{FrameType, HeaderError, Limits, put_frame};
use mux::message::{self, MessageError};
use mux::{Decoder, Header};
use serde::Serialize;

use crate::lane::{TlsFault, TlsPipe};

/// The exchange before a lane runs failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeFault {
    /// TLS or the socket failed.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The peer does not speak this protocol.
    #[error("the peer does not speak the tunnel protocol")]
    Frame(#[from] HeaderError),
    /// A message could not be read.
    #[error("the peer's answer cannot be read")]
    Message(#[from] MessageError),
    /// Another frame than the one due.
    #[error("the peer sent a {0:?} frame out of turn")]
    OutOfTurn(FrameType),
    /// The peer closed the connection instead of answering.
    #[error("the peer closed the connection before it answered")]
    Closed,
}

/// Sends one frame of the session.
pub(crate) async fn send<T: Serialize>(
    pipe: &mut TlsPipe,
    kind: FrameType,
    flags: u8,
    message: &T,
) -> Result<(), HandshakeFault> {
    let mut frame = Vec::new();
    put_frame(&mut frame, kind, flags, 0, &message::encode(message));
    pipe.encrypt(&frame)?;
    std::future::poll_fn(|cx| pipe.poll_flush(cx)).await?;
    Ok(())
}

/// A decoder and the plaintext that arrived beyond the one frame asked for.
#[derive(Debug)]
pub(crate) struct FrameReader {
    decoder: Decoder,
    backlog: Vec<u8>,
}

impl FrameReader {
    /// Holds the peer to `limits`.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { decoder: Decoder::new(limits), backlog: Vec::new() }
    }

    /// Reads one frame.
    pub(crate) async fn read(&mut self, pipe: &mut TlsPipe) -> Result<(Header, Vec<u8>), HandshakeFault> {
        loop {
            let mut input = self.backlog.as_slice();
            let frame = self.decoder.next(&mut input, |header, payload| (header, payload.to_vec()))?;
            let left = input.len();
            self.backlog.drain(..self.backlog.len() - left);
            if let Some(frame) = frame {
                return Ok(frame);
            }
            let backlog = &mut self.backlog;
            let open =
                std::future::poll_fn(|cx| pipe.poll_read(cx, &mut |plain| backlog.extend_from_slice(plain))).await?;
            if !open && self.backlog.is_empty() {
                return Err(HandshakeFault::Closed);
            }
        }
    }

    /// Hands over to a lane: the decoder, and plaintext it has not seen.
    pub(crate) fn into_parts(self) -> (Decoder, Vec<u8>) {
        (self.decoder, self.backlog)
    }
}

/// The proof of a Join: HMAC-SHA256 by the session's resume secret, in hex.
///
/// The nonce is never accepted twice in a session, and the whole exchange runs inside TLS.
pub(crate) fn join_proof(resume_secret: &str, session: &str, nonce: &str) -> String {
    hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, resume_secret.as_bytes()), &join_text(session, nonce)).as_ref())
}

/// Checks a Join's proof in constant time.
pub(crate) fn join_proof_holds(resume_secret: &str, session: &str, nonce: &str, proof: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, resume_secret.as_bytes());
    unhex(proof).is_some_and(|tag| hmac::verify(&key, &join_text(session, nonce), &tag).is_ok())
}

fn join_text(session: &str, nonce: &str) -> Vec<u8> {
    [b"adit join v1\0", session.as_bytes(), b"\0", nonce.as_bytes()].concat()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_own_session_nonce_and_secret_only() {
        let proof = join_proof("secret", "s1", "n1");
        assert!(join_proof_holds("secret", "s1", "n1", &proof));
        assert!(!join_proof_holds("secret", "s1", "n2", &proof));
        assert!(!join_proof_holds("secret", "s2", "n1", &proof));
        assert!(!join_proof_holds("other", "s1", "n1", &proof));
        assert!(!join_proof_holds("secret", "s1", "n1", "zz"));
        assert!(!join_proof_holds("secret", "s1", "n1", ""));
    }

    #[test]
    fn hex_survives_its_way_back() {
        assert_eq!(unhex(&hex(&[0, 15, 255])), Some(vec![0, 15, 255]));
    }
}
