//! A switch in every client connection, under its TLS: open, silent, or cut with a reset.
//!
//! It is under everything, so that it also reaches connections that were upgraded and handed on.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::locked;
use crate::task;

const OPEN: u8 = 0;
const SILENT: u8 = 1;
const CUT: u8 = 2;

/// The switches of all connections of a cluster.
#[derive(Debug, Default)]
pub(super) struct Gates {
    gates: Mutex<Vec<Weak<Gate>>>,
}

/// The switch of one connection.
#[derive(Debug, Default)]
struct Gate {
    state: AtomicU8,
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

/// A connection with its switch.
#[derive(Debug)]
pub(super) struct Gated {
    io: TcpStream,
    gate: Arc<Gate>,
}

impl Gates {
    /// Puts a switch into a connection.
    pub(super) fn guard(&self, io: TcpStream) -> Gated {
        let gate = Arc::new(Gate::default());
        let mut gates = locked(&self.gates);
        if gates.len() == gates.capacity() {
            gates.retain(|gate| gate.strong_count() > 0);
        }
        gates.push(Arc::downgrade(&gate));
        Gated { io, gate }
    }

    /// Resets all connections.
    pub(super) fn cut(&self) {
        self.switch(CUT);
    }

    /// Lets all connections stand as they are, neither read nor written any more.
    pub(super) fn silence(&self) {
        self.switch(SILENT);
    }

    /// Lets silent connections go on.
    pub(super) fn open_again(&self) {
        self.switch(OPEN);
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        locked(&self.gates).iter().filter(|gate| gate.strong_count() > 0).count()
    }

    fn switch(&self, state: u8) {
        let gates: Vec<Arc<Gate>> = locked(&self.gates).iter().filter_map(Weak::upgrade).collect();
        gates.iter().for_each(|gate| gate.switch(state));
    }
}

impl Gate {
    fn switch(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
        let wakers = [locked(&self.reader).take(), locked(&self.writer).take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Gated {
    /// Resets this connection alone with the next use of it.
    pub(super) fn cutter(&self) -> impl Fn() + Send + use<> {
        let gate = Arc::clone(&self.gate);
        move || gate.switch(CUT)
    }

    /// What the switch says; `Ready` lets the operation happen.
    fn pass(&self, waker: &Mutex<Option<Waker>>, context: &Context<'_>) -> Poll<io::Result<()>> {
        match self.gate.state.load(Ordering::SeqCst) {
            OPEN => Poll::Ready(Ok(())),
            SILENT => {
                self.wait(waker, context);
                match self.gate.state.load(Ordering::SeqCst) {
                    SILENT => Poll::Pending,
                    _ => self.pass(waker, context),
                }
            }
            _ => {
                task::reset_on_close(&self.io);
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }

    /// Waits for the connection and for its switch.
    fn pending<T>(&self, waker: &Mutex<Option<Waker>>, context: &Context<'_>) -> Poll<io::Result<T>> {
        self.wait(waker, context);
        // The switch may have moved between the look at it and the waker's registration.
        if self.gate.state.load(Ordering::SeqCst) == CUT {
            std::task::ready!(self.pass(waker, context))?;
        }
        Poll::Pending
    }

    fn wait(&self, waker: &Mutex<Option<Waker>>, context: &Context<'_>) {
        let mut waker = locked(waker);
        match waker.as_mut() {
            Some(known) => known.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }

    /// Does a write and remembers who waits for it.
    fn write<T>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.get_mut();
        std::task::ready!(this.pass(&this.gate.writer, context))?;
        let done = write(Pin::new(&mut this.io), context);
        if done.is_pending() {
            return this.pending(&this.gate.writer, context);
        }
        done
    }
}

impl AsyncRead for Gated {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.pass(&this.gate.reader, context))?;
        let done = Pin::new(&mut this.io).poll_read(context, buffer);
        if done.is_pending() {
            return this.pending(&this.gate.reader, context);
        }
        done
    }
}

impl AsyncWrite for Gated {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |io, context| io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |io, context| io.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |io, context| io.poll_shutdown(context))
    }
}
