//! One connection through a Kubernetes target, which survives the pod's end before anything was answered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use runtime::connect::{BoxFuture, ConnectError};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{PortStream, StreamFault};
use super::resolve::PodRef;
use super::target::KubeTargetShared;

/// Bytes kept to be sent again to another pod. A request fits; an upload does not, and is not repeated.
const REPLAY_MAX: usize = 64 * 1024;
/// The wait before a pod that was gone is tried again, when the API server names no other; it doubles.
const AGAIN_AFTER: Duration = Duration::from_millis(25);
/// How often it doubles.
const DOUBLINGS: u32 = 6;

/// A byte stream to a pod of the target.
///
/// Reading drives it: only the error stream tells whether a pod is gone, and that is read. A write that finds the
/// stream closed, or another pod being dialled, therefore waits for a reader to settle what became of the pod; an error at
/// once would end a connection that the next pod would have taken. So it has to be read while it is written, as
/// `splice` does; whoever only writes may wait for ever once the pod is gone before it answered.
pub(crate) struct KubeStream {
    stream: PortStream,
    pod: PodRef,
    target: Arc<KubeTargetShared>,
    /// How long it waits for a way to the API server once it is known that there is none.
    unreached: Duration,
    /// What was sent, until the first byte comes back: no application has seen it if the kubelet says that the pod
    /// is gone. `None`: too late.
    replay: Option<Vec<u8>>,
    /// Since when pods have been gone, and how many.
    gone: Option<(Instant, u32)>,
    finished: bool,
    redial: Option<BoxFuture<'static, Result<(PortStream, PodRef), ConnectError>>>,
    /// Who waits to write until reading has found out what became of the pod.
    writer: Option<Waker>,
    buffer: Vec<u8>,
    read: usize,
}

impl KubeStream {
    pub(crate) fn new(stream: PortStream, pod: PodRef, target: Arc<KubeTargetShared>, unreached: Duration) -> Self {
        Self {
            stream,
            pod,
            target,
            unreached,
            replay: Some(Vec::new()),
            gone: None,
            finished: false,
            redial: None,
            writer: None,
            buffer: Vec::new(),
            read: 0,
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let taken = ready!(self.poll_somewhere(cx));
        if taken.is_err() {
            self.replay = None;
        }
        self.wake_writer();
        Poll::Ready(taken)
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn poll_somewhere(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if let Some(redial) = &mut self.redial {
                let redialed = ready!(redial.as_mut().poll(cx));
                self.redial = None;
                (self.stream, self.pod) = redialed.map_err(io::Error::other)?;
                self.send_again(cx)?;
                self.wake_writer();
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
                    let (since, times) = self.gone.unwrap_or((Instant::now(), 0));
                    self.gone = Some((since, times + 1));
                    let wait = AGAIN_AFTER * 2_u32.pow(times.min(DOUBLINGS));
                    let (target, pod, unreached) = (Arc::clone(&self.target), self.pod.clone(), self.unreached);
                    self.redial = Some(if fault.is_pod_gone() {
                        self.target.suspect(&pod);
                        Box::pin(async move { target.open_instead(&pod, wait, unreached).await })
                    } else {
                        Box::pin(async move { target.open(unreached).await })
                    });
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
            (fault, Some(_)) => fault.is_pod_gone() || matches!(fault, StreamFault::Refused),
            (_, None) => false,
        };
        untouched && self.gone.is_none_or(|(since, _)| since.elapsed() < self.target.patience())
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

impl AsyncBufRead for KubeStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.read == this.buffer.len() {
            this.buffer.clear();
            this.read = 0;
            if !ready!(this.poll_take(cx))? {
                return Poll::Ready(Ok(&[]));
            }
        }
        Poll::Ready(Ok(&this.buffer[this.read..]))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.read = (self.read + amount).min(self.buffer.len());
    }
}

impl AsyncRead for KubeStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..n]);
        self.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for KubeStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.redial.is_some() {
            // Reading goes on with it.
            self.writer = Some(cx.waker().clone());
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
            None if self.replay.is_some() => {
                self.writer = Some(cx.waker().clone());
                Poll::Pending
            }
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
