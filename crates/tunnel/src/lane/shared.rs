//! What a lane's task and the handles of its streams share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Instant;

use mux::lane::OpenStreamError;
use mux::message::GoAway;
use mux::{ErrorCode, Event, FrameType, Lane, Open};

use super::Stream;

/// The tasks that wait on a stream.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    pub(crate) read: Option<Waker>,
    pub(crate) write: Option<Waker>,
    pub(crate) reset: Option<Waker>,
}

impl Wakers {
    pub(super) fn take_all(&mut self) -> [Option<Waker>; 3] {
        [self.read.take(), self.write.take(), self.reset.take()]
    }
}

/// Why a lane ended.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LaneEnd {
    /// The connection failed or was closed.
    #[error("the connection ended: {0}")]
    Connection(String),
    /// Nothing was heard for too long.
    #[error("the peer went silent")]
    Silent,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
    /// The peer ended it.
    #[error("the peer ended the lane: {0}: {1}")]
    ByPeer(ErrorCode, String),
    /// This side ended it.
    #[error("ended here: {0}")]
    Here(ErrorCode),
}

/// What the layer above does with what a lane receives. Called from the lane's task: must not block.
pub(crate) trait LaneHandler: Send + Sync + 'static {
    /// The peer opened a stream.
    fn opened(&self, stream: Stream, open: Open);
    /// A frame of the session arrived.
    fn control(&self, lane: &Arc<LaneShared>, kind: FrameType, flags: u8, payload: Vec<u8>);
    /// The peer takes no new streams.
    fn go_away(&self, lane: &Arc<LaneShared>, message: GoAway);
    /// The lane is over.
    fn ended(&self, lane: &Arc<LaneShared>, end: LaneEnd);
}

pub(crate) struct Core {
    pub(crate) machine: Lane<Wakers>,
    /// Wakes the lane's task.
    pub(crate) task: Option<Waker>,
    /// The task has been woken for output and has not yet looked.
    pub(crate) notified: bool,
    /// This side wants the lane ended once its output is sent.
    pub(crate) closing: Option<ErrorCode>,
    /// The lane is over: nothing will be sent or received any more.
    pub(crate) over: bool,
}

impl Core {
    /// Wakes the lane's task if there is something to send and it does not know.
    pub(crate) fn nudge(&mut self) -> Option<Waker> {
        if self.notified || !(self.machine.has_output() || self.closing.is_some()) {
            return None;
        }
        self.notified = true;
        self.task.take()
    }
}

/// A lane, as its streams and its session see it.
pub(crate) struct LaneShared {
    core: Mutex<Core>,
    /// Streams open, for choosing the less loaded lane without a lock.
    streams: AtomicU32,
    /// Streams that have carried more than 1 MiB.
    bulk: AtomicU32,
    number: u32,
}

impl LaneShared {
    pub(crate) fn new(machine: Lane<Wakers>, number: u32) -> Arc<Self> {
        let core = Core { machine, task: None, notified: false, closing: None, over: false };
        Arc::new(Self { core: Mutex::new(core), streams: AtomicU32::new(0), bulk: AtomicU32::new(0), number })
    }

    /// Tells lanes of a session apart in logs.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic under this lock is caught by the scope; the lane's state is still consistent
        // enough to be torn down, which is all that happens to it afterwards.
        self.core.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs `change` on the machine and wakes the task when that left output.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut Lane<Wakers>, Instant) -> R) -> R {
        let mut core = self.lock();
        let result = change(&mut core.machine, Instant::now());
        let waker = core.nudge();
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// How loaded the lane is: lower is better; one with a bulk stream loses to any without.
    pub(crate) fn load(&self) -> u32 {
        let streams = self.streams.load(Ordering::Relaxed);
        let bulk = self.bulk.load(Ordering::Relaxed);
        streams.saturating_add(bulk.saturating_mul(10_000))
    }

    /// Opens a stream.
    pub(crate) fn open(self: &Arc<Self>, open: Open, end: bool) -> Result<Stream, OpenStreamError> {
        let mut core = self.lock();
        if core.over || core.closing.is_some() {
            return Err(OpenStreamError::GoingAway);
        }
        let key = core.machine.open(Instant::now(), open, end, Wakers::default())?;
        let waker = core.nudge();
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(Stream::new(Arc::clone(self), key))
    }

    /// Sends a frame of the session.
    pub(crate) fn send_control(&self, kind: FrameType, flags: u8, payload: &[u8]) {
        self.with(|lane, _| lane.send_control(kind, flags, payload));
    }

    /// Sends GoAway: no new streams from here on.
    pub(crate) fn go_away(&self, message: GoAway) {
        self.with(|lane, _| lane.go_away(message));
    }

    /// Ends the lane, telling the peer why; streams that still run are lost.
    pub(crate) fn close(&self, code: ErrorCode, text: &str) {
        let mut core = self.lock();
        if core.closing.is_none() {
            core.machine.close(code, text);
            core.closing = Some(code);
        }
        let waker = core.nudge();
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn count_stream(&self, open: bool) {
        if open {
            self.streams.fetch_add(1, Ordering::Relaxed);
        } else {
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_bulk(&self, open: bool) {
        if open {
            self.bulk.fetch_add(1, Ordering::Relaxed);
        } else {
            self.bulk.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Hands out what the machine has to tell: wakes tasks, calls the handler.
    pub(super) fn dispatch(self: &Arc<Self>, handler: &dyn LaneHandler) -> Option<LaneEnd> {
        loop {
            let mut core = self.lock();
            let event = core.machine.poll_event()?;
            let mut wakers = [None, None, None];
            match &event {
                Event::Readable(key) => {
                    wakers[0] = core.machine.data_mut(*key).and_then(|w| w.read.take());
                }
                Event::Writable(key) => {
                    wakers[1] = core.machine.data_mut(*key).and_then(|w| w.write.take());
                }
                Event::Reset(key, _) => {
                    wakers = core.machine.data_mut(*key).map(Wakers::take_all).unwrap_or_default();
                }
                _ => {}
            }
            drop(core);
            wakers.into_iter().flatten().for_each(Waker::wake);
            match event {
                Event::Opened(key, open) => handler.opened(Stream::new(Arc::clone(self), key), open),
                Event::Control(kind, flags, payload) => handler.control(self, kind, flags, payload),
                Event::GoAway(message) => handler.go_away(self, message),
                Event::Closed(code, text) => return Some(LaneEnd::ByPeer(code, text)),
                Event::Readable(_) | Event::Writable(_) | Event::Reset(..) => {}
            }
        }
    }

    /// The lane is over: everybody who waits on one of its streams is woken, and sees so.
    pub(super) fn end(&self) {
        let mut core = self.lock();
        core.over = true;
        let wakers: Vec<Waker> = core.machine.drain_data().flat_map(|mut w| w.take_all()).flatten().collect();
        drop(core);
        wakers.into_iter().for_each(Waker::wake);
    }
}
