//! Answers of the sample service: bodies, and the headers that go with them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use hyper::body::{Body as _, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;

/// Bytes of a made-up download that are given out at a time.
const PIECE: usize = 64 * 1024;

/// What made-up downloads consist of: the letters, over and over.
const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// A body of the sample service.
pub(crate) enum Body {
    /// All of it is there.
    Whole(Bytes),
    /// Made while it is read.
    Letters {
        /// Bytes still to be given out.
        left: u64,
        /// One piece of the pattern, shared by all reads.
        piece: Bytes,
    },
    /// As it comes; it ends when the sender is gone.
    Events(mpsc::Receiver<Bytes>),
}

impl Body {
    /// A body of `length` letters.
    pub(super) fn letters(length: u64) -> Self {
        // A whole number of alphabets, so that pieces fit together.
        let whole = PIECE / LETTERS.len() * LETTERS.len();
        let piece: Vec<u8> = LETTERS.iter().copied().cycle().take(whole).collect();
        Self::Letters { left: length, piece: piece.into() }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            Self::Letters { left, piece } => {
                let length = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= length as u64;
                (length > 0).then(|| piece.slice(..length))
            }
            Self::Events(events) => std::task::ready!(events.poll_recv(cx)),
        };
        Poll::Ready(data.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Letters { left, .. } => SizeHint::with_exact(*left),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// An answer with a body and its type; its length is set too, so that HEAD tells it.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let length = body.size_hint().exact();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    answer
}

/// A text answer of some type.
pub(super) fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    with_type(status, kind, Body::Whole(text.into()))
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Our values are plain structs with string keys, which always serialise.
    let text = serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec());
    self::text(status, "application/json", text)
}

/// A refusal, as JSON.
pub(super) fn refuse(status: StatusCode, reason: &str) -> Response<Body> {
    json(status, &serde_json::json!({ "error": reason }))
}

/// The refusal of a method.
pub(super) fn refuse_method(allowed: &Method) -> Response<Body> {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allowed} here"));
    if let Ok(value) = HeaderValue::from_str(allowed.as_str()) {
        answer.headers_mut().insert(ALLOW, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn read(body: Body) -> Bytes {
        body.collect().await.expect("bodies do not fail").to_bytes()
    }

    #[tokio::test]
    async fn letters_go_on_over_the_pieces() {
        let length = PIECE as u64 * 2 + 5;
        let body = read(Body::letters(length)).await;
        assert_eq!(body.len() as u64, length);
        assert!(body.iter().zip(LETTERS.iter().cycle()).all(|(a, b)| a == b));
    }

    #[tokio::test]
    async fn an_empty_body_ends_at_once() {
        assert!(Body::letters(0).is_end_stream());
        assert!(read(Body::letters(0)).await.is_empty());
        assert!(read(Body::Whole(Bytes::new())).await.is_empty());
    }

    #[tokio::test]
    async fn events_end_with_their_sender() {
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(Bytes::from_static(b"one")).expect("there is room");
        drop(sender);
        assert_eq!(read(Body::Events(receiver)).await, "one");
    }

    #[test]
    fn a_refused_method_names_the_right_one() {
        let answer = refuse_method(&Method::POST);
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()[ALLOW], "POST");
    }
}
