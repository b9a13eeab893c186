//! HTTP on a stream: header blocks, bodies and trailers, in both directions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, TE, UPGRADE};
use http_body::{Body, Frame, SizeHint};
use mux::headers::{AnswerHead, BlockError, BlockReader, BlockWriter, Timing};
use mux::lane::StreamError;
use mux::{ErrorCode, Incoming};

use crate::Stream;

/// What became of a body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The stream was reset by the other end, or its lane is gone.
    #[error("the stream ended early: {0}")]
    Reset(ErrorCode),
    /// The other end broke the order of heads, data and end.
    #[error("the other end broke the protocol")]
    Protocol,
}

impl From<StreamError> for BodyError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Reset(code) => Self::Reset(code),
            StreamError::Closed => Self::Reset(ErrorCode::Cancel),
        }
    }
}

/// Writes the end-to-end headers of `headers` into a block; false when they do not fit.
///
/// Hop-by-hop headers (RFC 9110 section 7.6.1, and those named by Connection) stay behind, but for
/// `te: trailers`, and for `upgrade` when `upgrade` says so.
pub(crate) fn put_headers(block: &mut BlockWriter, headers: &HeaderMap, upgrade: bool) -> bool {
    let named = adit_core::forwarded::named_by_connection(headers);
    headers.iter().all(|(name, value)| {
        let keep = if name == UPGRADE {
            upgrade
        } else if name == TE {
            value.as_bytes().eq_ignore_ascii_case(b"trailers")
        } else {
            !adit_core::forwarded::is_hop_by_hop(name.as_str()) && !named.contains(name)
        };
        !keep || block.pair(name.as_str(), value.as_bytes())
    })
}

/// Reads a block into a header map.
///
/// # Errors
/// The block, or a name or value in it, is illegal.
pub(crate) fn read_headers(block: BlockReader) -> Result<HeaderMap, BlockError> {
    let mut headers = HeaderMap::with_capacity(block.remaining());
    for pair in block {
        let (name, value) = pair?;
        let name = match name {
            mux::headers::Name::Static(name) => HeaderName::from_static(name),
            mux::headers::Name::Spelled(name) => HeaderName::from_bytes(&name).map_err(|_| BlockError::Name)?,
        };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| BlockError::Value)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Builds the block for an answer head; `None` when its headers do not fit a frame.
pub(crate) fn answer_block(status: u16, headers: &HeaderMap, timing: Timing, upgrade: bool) -> Option<Vec<u8>> {
    let mut block = AnswerHead::writer(status, timing);
    put_headers(&mut block, headers, upgrade)
        .then(|| block.finish())
        .filter(|b| b.len() <= mux::frame::CONTROL_CAP as usize)
}

/// Builds the block for trailers.
pub(crate) fn trailer_block(trailers: &HeaderMap) -> Option<Vec<u8>> {
    answer_block(0, trailers, Timing::default(), false)
}

/// The receiving side of a stream as a body. Dropped before its end, it cancels the stream.
pub(crate) struct StreamBody {
    stream: Arc<Stream>,
    /// Bytes announced by content-length and not yet received.
    announced: Option<u64>,
    done: bool,
    /// What ended it early; told once what came before has had its chance to be sent on.
    failed: Option<BodyError>,
    /// What was there already when the body was made.
    next: Option<Result<Incoming, StreamError>>,
    on_data: Option<Box<dyn BodyWatch>>,
}

/// Sees what passes through a body: counts it, delays it.
pub(crate) trait BodyWatch: Send + 'static {
    /// Asked before more is received; pending delays the credit for it.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Bytes have passed.
    fn passed(&mut self, bytes: usize);
    /// The body is over; `clean` says whether it came to its end.
    fn ended(&mut self, clean: bool);
}

impl StreamBody {
    /// A body of what the stream receives from here on.
    ///
    /// A stream that has ended already makes an empty body, and says so at once: gRPC's answers without a body
    /// need their END on the head itself (HTTP/2's trailers-only form).
    pub(crate) fn new(stream: Arc<Stream>, announced: Option<u64>, on_data: Option<Box<dyn BodyWatch>>) -> Self {
        let next = match stream.poll_recv(&Context::from_waker(Waker::noop())) {
            Poll::Ready(item) => Some(item),
            Poll::Pending => None,
        };
        let ended = matches!(next, Some(Ok(Incoming::End)));
        let mut body = Self { stream, announced, done: false, failed: None, next, on_data };
        if ended && announced.is_none_or(|left| left == 0) {
            body.end(true);
        }
        body
    }

    fn end(&mut self, clean: bool) {
        self.done = true;
        if let Some(mut watch) = self.on_data.take() {
            watch.ended(clean);
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(this.failed.take().map(Err));
        }
        if let Some(watch) = &mut this.on_data {
            std::task::ready!(watch.poll_ready(cx));
        }
        let item = match this.next.take() {
            Some(item) => item,
            None => std::task::ready!(this.stream.poll_recv(cx)),
        };
        let outcome = match item {
            Ok(Incoming::Data(bytes)) => {
                if let Some(left) = &mut this.announced {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                if let Some(watch) = &mut this.on_data {
                    watch.passed(bytes.len());
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            // An end before all that was announced must not pass for the whole.
            Ok(Incoming::End) if this.announced.is_some_and(|left| left > 0) => Some(Err(BodyError::Protocol)),
            Ok(Incoming::End) => None,
            Ok(Incoming::Head(block)) => Some(
                AnswerHead::read(block)
                    .ok()
                    .filter(|head| head.status == 0)
                    .and_then(|head| read_headers(head.headers).ok())
                    .map(Frame::trailers)
                    .ok_or(BodyError::Protocol),
            ),
            Err(error) => Some(Err(error.into())),
        };
        this.end(matches!(outcome, None | Some(Ok(_))));
        match outcome {
            // hyper drops what it has not flushed when a body fails, and flushes when one has nothing for it.
            Some(Err(error)) => {
                this.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.failed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Whoever got all that was announced need not wait for the end to be said.
        let whole = self.announced == Some(0);
        self.end(whole);
        if !whole {
            self.stream.reset(ErrorCode::Cancel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).fold(
            HeaderMap::new(),
            |mut map, (n, v)| {
                map.append(n, v);
                map
            },
        )
    }

    fn through(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
        let block = answer_block(200, headers, Timing::default(), upgrade).unwrap();
        read_headers(AnswerHead::read(block.into()).unwrap().headers).unwrap()
    }

    #[test]
    fn end_to_end_headers_pass_and_hop_by_hop_headers_stay() {
        let got = through(
            &map(&[
                ("connection", "x-private, keep-alive"),
                ("keep-alive", "5"),
                ("x-private", "1"),
                ("transfer-encoding", "chunked"),
                ("te", "trailers"),
                ("upgrade", "websocket"),
                ("set-cookie", "a"),
                ("set-cookie", "b"),
                ("content-length", "5"),
            ]),
            false,
        );
        assert_eq!(got, map(&[("te", "trailers"), ("set-cookie", "a"), ("set-cookie", "b"), ("content-length", "5")]));
    }

    #[test]
    fn an_upgrade_keeps_its_token() {
        let got = through(&map(&[("connection", "upgrade"), ("upgrade", "websocket")]), true);
        assert_eq!(got, map(&[("upgrade", "websocket")]));
    }

    #[test]
    fn headers_that_do_not_fit_are_refused_rather_than_cut() {
        let mut headers = HeaderMap::new();
        headers.insert("x-large", HeaderValue::from_bytes(&vec![b'a'; 60_000]).unwrap());
        headers.insert("x-too", HeaderValue::from_bytes(&vec![b'a'; 10_000]).unwrap());
        assert!(answer_block(200, &headers, Timing::default(), false).is_none());
    }
}
