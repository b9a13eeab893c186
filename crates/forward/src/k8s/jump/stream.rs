//! One connection through a jump: a command's input and output as a byte stream whose end is never silently false.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::super::exec::{Exec, ExecEnd};
use super::super::resolve::PodRef;
use super::JumpShared;
use super::fault::{JumpFault, Way};

/// After the output's end comes the status, if the command has ended. While the other direction is open it has
/// not: the host's end is passed on when this is over.
const SETTLE: Duration = Duration::from_millis(50);
/// The same when nothing has come: then it is most likely a connection that was refused.
const SETTLE_EMPTY: Duration = Duration::from_secs(1);
/// The same when our half has ended too: then the command ends, and an end without its status is none.
const SETTLE_ENDED: Duration = Duration::from_secs(10);

/// A byte stream to a host behind a pod.
pub(super) struct JumpStream {
    exec: Exec,
    way: Arc<Way>,
    pod: PodRef,
    shared: Arc<JumpShared>,
    buffer: Vec<u8>,
    read: usize,
    /// Something has come.
    carried: bool,
    /// Our half has ended.
    finished: bool,
    state: State,
    /// Whoever wrote to a command that takes no more; what it is to hear comes from the other direction.
    writer: Option<Waker>,
    reader: Option<Waker>,
}

enum State {
    Open,
    /// The output has ended; whether well is not known yet.
    Settling(Pin<Box<Sleep>>),
    /// The output has ended.
    Over(Option<JumpFault>),
}

impl JumpStream {
    pub(super) fn new(exec: Exec, way: Arc<Way>, pod: PodRef, shared: Arc<JumpShared>) -> Self {
        Self {
            exec,
            way,
            pod,
            shared,
            buffer: Vec::new(),
            read: 0,
            carried: false,
            finished: false,
            state: State::Open,
            writer: None,
            reader: None,
        }
    }

    /// Fills the empty buffer; false at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match &mut self.state {
                State::Open => {
                    self.buffer.clear();
                    self.read = 0;
                    if ready!(self.exec.poll_out(cx, &mut self.buffer)) {
                        self.carried = true;
                        return Poll::Ready(Ok(true));
                    }
                    let wait = match (self.finished, self.carried) {
                        (true, _) => SETTLE_ENDED,
                        (false, true) => SETTLE,
                        (false, false) => SETTLE_EMPTY,
                    };
                    self.state = State::Settling(Box::pin(sleep(wait)));
                }
                State::Settling(timer) => {
                    let fault = match self.exec.poll_end(cx) {
                        Poll::Ready(end) => self.judge(&end),
                        Poll::Pending => {
                            ready!(timer.as_mut().poll(cx));
                            if self.finished {
                                self.judge(&ExecEnd::NoStatus("no status came".to_owned()))
                            } else {
                                JumpFault::said(&self.way, self.exec.stderr())
                            }
                        }
                    };
                    self.settle(fault);
                }
                State::Over(None) => return Poll::Ready(Ok(false)),
                State::Over(Some(fault)) => return Poll::Ready(Err(fault.clone().into_io())),
            }
        }
    }

    fn judge(&self, end: &ExecEnd) -> Option<JumpFault> {
        let fault = JumpFault::of(&self.way, end, self.exec.stderr())?;
        tracing::debug!(pod = self.pod.name, host = self.way.host, %fault, "a jump ended badly");
        match &fault {
            // It was there when it was looked for: the container is another one now.
            JumpFault::NotStarted { .. } => self.shared.forget(&self.pod),
            JumpFault::Cut { .. } if !self.carried => self.shared.suspect(&self.pod),
            _ => {}
        }
        Some(fault)
    }

    fn settle(&mut self, fault: Option<JumpFault>) {
        self.state = State::Over(fault);
        for waker in [self.writer.take(), self.reader.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// The command takes no more input: the reason is how it ended, which may still be on its way.
    fn poll_why(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let State::Over(fault) = &self.state {
            let fault = fault.clone();
            return Poll::Ready(fault.map_or_else(|| io::ErrorKind::BrokenPipe.into(), JumpFault::into_io));
        }
        match self.exec.poll_end(cx) {
            Poll::Ready(end) => {
                let fault = self.judge(&end);
                // Output that is still there is read first.
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
                Poll::Ready(fault.map_or_else(|| io::ErrorKind::BrokenPipe.into(), JumpFault::into_io))
            }
            Poll::Pending => {
                self.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for JumpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read == this.buffer.len() {
            match this.poll_fill(cx) {
                Poll::Ready(more) => {
                    if !more? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Pending => {
                    // The writer's waiting for the status takes the place of this one's.
                    this.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        let rest = &this.buffer[this.read..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        this.read += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for JumpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.exec.poll_in(cx, buf)) {
            Some(taken) => Poll::Ready(Ok(taken)),
            None => Poll::Ready(Err(ready!(self.poll_why(cx)))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Goes through at once: unlike a port-forward, exec has a true half-close.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        self.exec.finish();
        Poll::Ready(Ok(()))
    }
}
