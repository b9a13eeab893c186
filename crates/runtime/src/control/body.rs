//! Bodies of answers that grow while they are read: logs and events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Lines on their way to one reader; with more of them the sender has to wait or give up.
const LINES: usize = 256;

/// Text that is whole, or lines that come as they come.
#[derive(Debug)]
pub enum Lines {
    /// All of it; `None` when it was taken.
    Whole(Option<Bytes>),
    /// As they come.
    Coming(mpsc::Receiver<Bytes>),
}

/// Sends lines.
pub type LinesSender = mpsc::Sender<Bytes>;

impl Lines {
    /// A body that is there already.
    #[must_use]
    pub fn whole(body: impl Into<Bytes>) -> Self {
        Self::Whole(Some(body.into()))
    }

    /// A body whose lines are sent later; it ends with its sender.
    #[must_use]
    pub fn channel() -> (LinesSender, Self) {
        let (sender, receiver) = mpsc::channel(LINES);
        (sender, Self::Coming(receiver))
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Coming(lines) => lines.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Coming(_) => SizeHint::default(),
        }
    }
}
