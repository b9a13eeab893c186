//! One connection through a Kubernetes target, which survives the pod's end before anything was answered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use runtime::connect::{BoxFuture, ConnectError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{PortStream, StreamFault};
use super::resolve::PodRef;
use super::target::KubeTargetShared;

/// Bytes kept to be sent again to another pod. A request fits; an upload does not, and is not repeated.
const REPLAY_MAX: usize = 64 * 1024;
/// Pods tried for one connection beyond the first.
const RETRIES: u8 = 3;

/// A byte stream to a pod of the target.
pub(crate) struct KubeStream {
    stream: PortStream,
    pod: PodRef,
    target: Arc<KubeTargetShared>,
    /// What was sent, until the first byte comes back: no application has seen it if the kubelet says that the pod
    /// is gone. `None`: too late.
    replay: Option<Vec<u8>>,
    retries: u8,
    finished: bool,
    redial: Option<BoxFuture<'static, Result<(PortStream, PodRef), ConnectError>>>,
    buffer: Vec<u8>,
    read: usize,
}

impl KubeStream {
    pub(crate) fn new(stream: PortStream, pod: PodRef, target: Arc<KubeTargetShared>) -> Self {
        Self {
            stream,
            pod,
            target,
            replay: Some(Vec::new()),
            retries: RETRIES,
            finished: false,
            redial: None,
            buffer: Vec::new(),
            read: 0,
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if let Some(redial) = &mut self.redial {
                let (stream, pod) = ready!(redial.as_mut().poll(cx)).map_err(io::Error::other)?;
                self.redial = None;
                (self.stream, self.pod) = (stream, pod);
                self.send_again(cx)?;
            }
            match ready!(self.stream.poll_take(cx, &mut self.buffer)) {
                Ok(more) => {
                    if self.replay.take().is_some() {
                        self.target.trust(&self.pod);
                    }
                    return Poll::Ready(Ok(more));
                }
                Err(fault) if self.may_retry(&fault) => {
                    tracing::debug!(pod = self.pod.name, %fault, "trying another pod");
                    self.target.suspect(&self.pod);
                    self.retries -= 1;
                    let target = Arc::clone(&self.target);
                    self.redial = Some(Box::pin(async move { target.open().await }));
                }
                Err(fault) => {
                    if fault.is_pod_gone() {
                        self.target.suspect(&self.pod);
                    }
                    return Poll::Ready(Err(fault.into_io()));
                }
            }
        }
    }

    /// Whether nothing that was sent can have reached an application.
    fn may_retry(&self, fault: &StreamFault) -> bool {
        let untouched = match (fault, &self.replay) {
            (StreamFault::Lost(_), Some(sent)) => sent.is_empty(),
            (fault, Some(_)) => fault.is_pod_gone(),
            (_, None) => false,
        };
        untouched && self.retries > 0
    }

    /// A fresh stream takes all of it: it is less than a stream's queue.
    fn send_again(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(sent) = self.replay.as_deref().filter(|sent| !sent.is_empty()) {
            match self.stream.poll_put(cx, sent) {
                Poll::Ready(Some(taken)) if taken == sent.len() => {}
                _ => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
        if self.finished {
            self.stream.hold_finish();
        }
        Ok(())
    }
}

impl AsyncRead for KubeStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
            if !ready!(self.poll_take(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
        let rest = &self.buffer[self.read..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        self.read += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for KubeStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.redial.is_some() {
            // Reading goes on with it, in the same task.
            return Poll::Pending;
        }
        match ready!(self.stream.poll_put(cx, buf)) {
            Some(taken) => {
                if let Some(sent) = &mut self.replay {
                    if sent.len() + taken > REPLAY_MAX {
                        self.replay = None;
                    } else {
                        sent.extend_from_slice(&buf[..taken]);
                    }
                }
                Poll::Ready(Ok(taken))
            }
            // Why, reading tells; it may even mend it.
            None if self.replay.is_some() && self.retries > 0 => Poll::Pending,
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        if self.redial.is_none() {
            self.stream.hold_finish();
        }
        Poll::Ready(Ok(()))
    }
}
