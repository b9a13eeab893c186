//! The bytes of one stream on their way from the client into the pod.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::cluster::locked;

/// How much of one stream may wait before the whole connection is no longer read, as on a real node, where the
/// buffers of all hops together hold about this much.
const ROOM: usize = 12 << 20;

/// A queue that one connection fills and one task empties.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    filled: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// The client has ended its side.
    ended: bool,
    /// It did that with a reset: nothing may be sent on the stream any more.
    reset: bool,
    /// Nobody empties it any more: what comes is dropped.
    dead: bool,
    /// Where the bytes go at once when none wait.
    socket: Option<Arc<TcpStream>>,
    broken: Option<io::ErrorKind>,
}

/// How far a flush came.
enum Flushed {
    All,
    Blocked,
    End,
}

impl Inbox {
    /// Takes bytes; false when the connection must wait for [`Inbox::room`] before the next ones.
    pub(super) fn push(&self, mut bytes: Bytes) -> bool {
        let mut state = locked(&self.state);
        if state.dead || state.ended || bytes.is_empty() {
            return true;
        }
        if state.chunks.is_empty()
            && let Some(socket) = &state.socket
        {
            match socket.try_write(&bytes) {
                Ok(written) if written == bytes.len() => return true,
                Ok(written) => bytes.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    state.break_off(error.kind());
                    self.filled.notify_one();
                    return true;
                }
            }
        }
        state.bytes += bytes.len();
        state.chunks.push_back(bytes);
        let room = state.bytes < ROOM;
        drop(state);
        self.filled.notify_one();
        room
    }

    /// The client's side has ended.
    pub(super) fn end(&self) {
        locked(&self.state).ended = true;
        self.filled.notify_one();
    }

    /// The client has reset the stream. To the one who copies that looks like the end.
    pub(super) fn reset(&self) {
        locked(&self.state).reset = true;
        self.end();
    }

    pub(super) fn was_reset(&self) -> bool {
        locked(&self.state).reset
    }

    /// Nobody reads any more.
    pub(super) fn close(&self) {
        let mut state = locked(&self.state);
        state.dead = true;
        state.chunks.clear();
        state.socket = None;
        state.bytes = 0;
        drop(state);
        self.drained.notify_one();
    }

    /// Waits until there is room again.
    pub(super) async fn room(&self) {
        loop {
            if locked(&self.state).bytes < ROOM {
                return;
            }
            self.drained.notified().await;
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = locked(&self.state);
                if let Some(bytes) = state.chunks.pop_front() {
                    state.bytes -= bytes.len();
                    drop(state);
                    self.drained.notify_one();
                    return Some(bytes);
                }
                if state.ended || state.dead {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Writes everything into `socket` until the client's side has ended.
    pub(super) async fn drain(&self, socket: &Arc<TcpStream>) -> io::Result<()> {
        locked(&self.state).socket = Some(Arc::clone(socket));
        loop {
            match self.flush(socket)? {
                Flushed::End => return Ok(()),
                Flushed::Blocked => socket.writable().await?,
                Flushed::All => self.filled.notified().await,
            }
        }
    }

    fn flush(&self, socket: &TcpStream) -> io::Result<Flushed> {
        let mut state = locked(&self.state);
        if let Some(kind) = state.broken {
            return Err(kind.into());
        }
        while let Some(mut bytes) = state.chunks.pop_front() {
            state.bytes -= bytes.len();
            match socket.try_write(&bytes) {
                Ok(written) if written == bytes.len() => continue,
                Ok(written) => bytes.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    state.break_off(error.kind());
                    self.drained.notify_one();
                    return Err(error);
                }
            }
            state.bytes += bytes.len();
            state.chunks.push_front(bytes);
            if state.bytes < ROOM {
                self.drained.notify_one();
            }
            return Ok(Flushed::Blocked);
        }
        self.drained.notify_one();
        Ok(if state.ended || state.dead { Flushed::End } else { Flushed::All })
    }
}

impl State {
    fn break_off(&mut self, kind: io::ErrorKind) {
        self.broken = Some(kind);
        self.dead = true;
        self.socket = None;
        self.chunks.clear();
        self.bytes = 0;
    }
}
