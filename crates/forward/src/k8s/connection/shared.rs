//! What a connection's task and the handles of its streams share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use adit_core::forward::Reason;
use spdy::{OpenError, ReadState, ResetStatus};
use tokio::sync::Notify;

use super::machine::{Key, Machine, Told};
use super::stream::PortStream;

/// A stream whose local end is gone is read to its end, so that what was sent on it arrives; this long at the most.
const LINGER: Duration = Duration::from_secs(10);
/// Bytes after which a stream counts as bulk: new ones avoid its connection, as it may stop being read.
const BULK_AFTER: u64 = 1 << 20;

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ConnectionEnd {
    /// The connection failed or was closed.
    #[error("the connection to the API server ended: {0}")]
    Lost(String),
    /// Nothing was heard for too long.
    #[error("{0} went silent")]
    Silent(Arc<str>),
    /// The peer broke the protocol.
    #[error("the API server broke the protocol: {0}")]
    Violation(String),
    /// This side ended it.
    #[error("closed here")]
    Here,
}

impl ConnectionEnd {
    /// As the reason of a forward: but for an end of our own, all that leads to the cluster has the same trouble.
    fn reason(&self) -> Reason {
        let text: Arc<str> = self.to_string().into();
        match self {
            Self::Lost(_) | Self::Silent(_) | Self::Violation(_) => Reason { shared: Some(Arc::clone(&text)), text },
            Self::Here => Reason { text, shared: None },
        }
    }
}

/// The tasks that wait on a stream.
#[derive(Debug, Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

/// A pair whose local end is gone.
struct Lingering {
    data: Key,
    error: Key,
    until: Instant,
}

/// Which streams of a silent connection end, once the server answers elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cuts {
    /// None.
    None,
    /// Those that were never answered, and began after the server's last word here: it has hardly seen them.
    Unanswered,
    /// Also those that were answered before, and ask something after its last word: a request on a kept connection.
    Asked,
}

pub(super) struct Core {
    pub(super) machine: Machine,
    waiting: HashMap<Key, Wakers>,
    lingering: Vec<Lingering>,
    /// Wakes the connection's task.
    pub(super) task: Option<Waker>,
    /// The task has been woken for output and has not yet looked.
    pub(super) notified: bool,
    /// Reading stopped because a stream was full; whoever empties it wakes the task.
    pub(super) paused: bool,
    /// This side wants it ended once its output is sent.
    pub(super) closing: bool,
    /// The program ends: nobody waits for long.
    pub(super) hurry: bool,
    pub(super) over: Option<ConnectionEnd>,
    /// Since when something that was sent has waited for any answer, and when the server was asked for one.
    pub(super) unanswered: Option<Instant>,
    pub(super) asked: Option<Instant>,
    /// When the server last said something.
    heard: Instant,
    /// Which streams end, as the server answers elsewhere; see [`Connection::cut`].
    cuts: Cuts,
    discard: Vec<u8>,
}

/// What reading a stream gave.
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// Bytes are in the buffer.
    Data,
    /// The peer ended it.
    End,
    /// The peer reset it.
    Reset,
    /// The peer did not look at it.
    Refused,
    /// The whole connection is over.
    Lost(ConnectionEnd),
}

/// A connection, as its streams and its pool see it.
pub(crate) struct Connection {
    core: Mutex<Core>,
    /// Pairs in use, for choosing the least loaded connection without a lock.
    streams: AtomicU32,
    bulk: AtomicU32,
    /// Not being read, or not being taken from.
    stalled: AtomicBool,
    over: AtomicBool,
    /// The server was asked for a sign of life, and gave none.
    silent: AtomicBool,
    /// Told when `silent` changes.
    silence: Notify,
    /// The server, for messages.
    server: Arc<str>,
    /// To be closed when its last pair ends.
    retiring: AtomicBool,
    requests: AtomicU64,
    started: Instant,
    /// Milliseconds after `started` at which the server last said something.
    heard: AtomicU64,
    /// Milliseconds after `started` at which the last pair ended.
    idle_since: AtomicU64,
    number: u64,
}

impl Connection {
    pub(crate) fn new(machine: Machine, number: u64, server: &str) -> Arc<Self> {
        let core = Core {
            machine,
            waiting: HashMap::new(),
            lingering: Vec::new(),
            task: None,
            notified: false,
            paused: false,
            closing: false,
            hurry: false,
            over: None,
            unanswered: None,
            asked: None,
            heard: Instant::now(),
            cuts: Cuts::None,
            discard: Vec::new(),
        };
        Arc::new(Self {
            core: Mutex::new(core),
            streams: AtomicU32::new(0),
            bulk: AtomicU32::new(0),
            stalled: AtomicBool::new(false),
            over: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            silence: Notify::new(),
            server: server.into(),
            retiring: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            started: Instant::now(),
            heard: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            number,
        })
    }

    /// Tells connections apart in logs and in the pool.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic under this lock is caught by the scope; the machine is only torn down afterwards.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pairs in use.
    pub(crate) fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether one of its streams has carried much.
    pub(crate) fn is_bulk(&self) -> bool {
        self.bulk.load(Ordering::Relaxed) > 0
    }

    /// Whether a stream holds up the others.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Whether the server was asked for a sign of life and gives none.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Waits until the server falls silent or speaks again.
    pub(crate) async fn silence_changed(&self) {
        self.silence.notified().await;
    }

    /// Sees whether the server answers; see [`Connection::has_answered_since`].
    pub(crate) fn ask(&self) {
        self.change(|core| core.machine.ask(Instant::now()));
    }

    /// Since when the server has been silent.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        self.is_silent().then(|| self.lock().asked).flatten()
    }

    /// Whether the server said something on this connection after that time.
    pub(crate) fn has_answered_since(&self, time: Instant) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        heard > 0 && self.started + Duration::from_millis(heard) > time
    }

    /// The server answers elsewhere: these streams end now. The others stay: the connection may come back.
    pub(crate) fn cut(&self, cuts: Cuts) {
        let mut core = self.lock();
        if !self.is_silent() || core.cuts >= cuts {
            return;
        }
        core.cuts = cuts;
        let wakers: Vec<Waker> = core.waiting.values_mut().filter_map(|waiting| waiting.read.take()).collect();
        drop(core);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How a stream ends now, if it does: whether it was ever answered, and when the first bytes since the last answer
    /// were written to it, if any.
    pub(super) fn cut_of(&self, answered: bool, asked: Option<Instant>) -> Option<ConnectionEnd> {
        let core = self.lock();
        let asked_in_vain = asked.map(|asked| asked > core.heard);
        let cut = match core.cuts {
            Cuts::None => false,
            Cuts::Unanswered => !answered && asked_in_vain.unwrap_or(true),
            Cuts::Asked => asked_in_vain.unwrap_or(!answered),
        };
        cut.then(|| self.silent_end())
    }

    /// The server is well, and this connection is dead: its streams end now.
    pub(crate) fn give_up(&self) {
        let end = self.silent_end();
        self.end(end);
        let task = self.lock().task.take();
        wake(task);
    }

    pub(super) fn silent_end(&self) -> ConnectionEnd {
        ConnectionEnd::Silent(Arc::clone(&self.server))
    }

    /// The server said something.
    pub(super) fn note_heard(&self, core: &mut Core, now: Instant) {
        (core.unanswered, core.asked) = (None, None);
        (core.heard, core.cuts) = (now, Cuts::None);
        let at = now.saturating_duration_since(self.started).as_millis();
        // At least one, as zero is the connection's beginning.
        self.heard.store(u64::try_from(at).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        if self.silent.swap(false, Ordering::Relaxed) {
            self.silence.notify_one();
        }
    }

    pub(super) fn note_silent(&self) {
        if !self.silent.swap(true, Ordering::Relaxed) {
            self.silence.notify_one();
        }
    }

    /// Whether it is over or about to be.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// How it ended, once it did.
    pub(crate) fn ended(&self) -> Option<Reason> {
        self.lock().over.as_ref().map(ConnectionEnd::reason)
    }

    /// Whether new pairs can be opened on it.
    pub(crate) fn takes_streams(&self) -> bool {
        let core = self.lock();
        core.over.is_none() && !core.closing && core.machine.takes_streams() && !self.retiring.load(Ordering::Relaxed)
    }

    /// How long it has had no pair; zero while it has one.
    pub(crate) fn idle(&self) -> Duration {
        if self.streams() > 0 {
            return Duration::ZERO;
        }
        self.started.elapsed().saturating_sub(Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }

    /// Opens the two streams of a port, in the order every server takes: error stream, data stream, then the end
    /// of our half of the error stream.
    pub(crate) fn open_pair(self: &Arc<Self>, port: u16) -> Result<PortStream, OpenError> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed).to_string();
        let port = port.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
        let mut core = self.lock();
        if core.over.is_some() || core.closing {
            return Err(OpenError::GoingAway);
        }
        let error = core.machine.open(&headers("error"))?;
        let data = match core.machine.open(&headers("data")) {
            Ok(data) => data,
            Err(fault) => {
                core.machine.reset(error);
                return Err(fault);
            }
        };
        core.machine.finish(error);
        let pair = self.pair(data, error);
        let waker = core.nudge();
        drop(core);
        wake(waker);
        Ok(pair)
    }

    /// Opens one stream.
    pub(crate) fn open_stream(&self, headers: &[(&str, &str)]) -> Result<Key, OpenError> {
        let mut core = self.lock();
        if core.over.is_some() || core.closing {
            return Err(OpenError::GoingAway);
        }
        let key = core.machine.open(headers)?;
        let waker = core.nudge();
        drop(core);
        wake(waker);
        Ok(key)
    }

    /// The pair of streams `data` and `error`.
    pub(crate) fn pair(self: &Arc<Self>, data: Key, error: Key) -> PortStream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        PortStream::new(Arc::clone(self), data, error)
    }

    /// Reads a stream into an empty buffer.
    pub(crate) fn poll_read(&self, cx: &Context<'_>, key: Key, into: &mut Vec<u8>) -> Poll<ReadOutcome> {
        let mut core = self.lock();
        let state = core.machine.read(key, into);
        let outcome = match state {
            ReadState::Data => ReadOutcome::Data,
            ReadState::Finished => ReadOutcome::End,
            ReadState::Reset(ResetStatus::RefusedStream) => ReadOutcome::Refused,
            ReadState::Reset(_) => ReadOutcome::Reset,
            ReadState::Gone | ReadState::Pending => match &core.over {
                Some(end) => ReadOutcome::Lost(end.clone()),
                None if state == ReadState::Gone => ReadOutcome::Reset,
                None => {
                    register(&mut core.waiting.entry(key).or_default().read, cx);
                    return Poll::Pending;
                }
            },
        };
        // Whoever empties a full stream lets the connection be read again.
        let waker = if core.paused && core.machine.wants_input() {
            core.paused = false;
            core.notified = true;
            core.task.take()
        } else {
            None
        };
        drop(core);
        wake(waker);
        Poll::Ready(outcome)
    }

    /// Queues bytes; at least one is taken. `None`: the stream takes no more.
    pub(crate) fn poll_write(&self, cx: &Context<'_>, key: Key, bytes: &[u8]) -> Poll<Option<usize>> {
        let mut core = self.lock();
        if core.over.is_some() {
            return Poll::Ready(None);
        }
        match core.machine.write(key, bytes) {
            None => Poll::Ready(None),
            Some(0) if !bytes.is_empty() => {
                register(&mut core.waiting.entry(key).or_default().write, cx);
                Poll::Pending
            }
            Some(taken) => {
                let waker = core.nudge();
                drop(core);
                wake(waker);
                Poll::Ready(Some(taken))
            }
        }
    }

    /// Ends our half of a stream behind what is queued.
    pub(crate) fn finish(&self, key: Key) {
        self.change(|core| core.machine.finish(key));
    }

    /// Gives a pair up: at once, or after its end when both halves may still have something to do.
    pub(super) fn release_pair(&self, data: Key, error: Key, linger: bool, carried: u64) {
        let now = Instant::now();
        self.change(|core| {
            core.waiting.remove(&data);
            core.waiting.remove(&error);
            if linger && core.over.is_none() {
                core.machine.finish(data);
                core.lingering.push(Lingering { data, error, until: now + LINGER });
                core.drain_lingering(now);
            } else {
                core.machine.reset(data);
                core.machine.release(error);
            }
            // A connection of the channel protocols serves one stream only.
            if matches!(data, Key::Channel(_)) {
                core.closing = true;
            }
        });
        if carried >= BULK_AFTER {
            self.bulk.fetch_sub(1, Ordering::Relaxed);
        }
        self.idle_since.store(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.streams.fetch_sub(1, Ordering::Relaxed) == 1 && self.retiring.load(Ordering::Relaxed) {
            self.close();
        }
    }

    /// Counts what a stream carried; `before` is what it had carried until then.
    pub(super) fn count(&self, before: u64, more: usize) {
        if before < BULK_AFTER && before + more as u64 >= BULK_AFTER {
            self.bulk.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the connection once what is queued is sent.
    pub(crate) fn close(&self) {
        self.change(|core| core.closing = true);
    }

    /// Ends the connection as soon as no stream uses it; it takes no new ones.
    pub(crate) fn close_when_idle(&self) {
        self.retiring.store(true, Ordering::Relaxed);
        // Under the lock: a pair that is being opened is counted before it is let go.
        self.change(|core| core.closing |= self.streams() == 0);
    }

    /// The program ends, and with it this connection as soon as it may; see [`Connection::close_when_idle`].
    pub(crate) fn hurry(&self) {
        self.change(|core| core.hurry = true);
    }

    fn change(&self, change: impl FnOnce(&mut Core)) {
        let mut core = self.lock();
        change(&mut core);
        let waker = if core.paused && core.machine.wants_input() {
            core.paused = false;
            core.notified = true;
            core.task.take()
        } else {
            core.nudge()
        };
        drop(core);
        wake(waker);
    }

    /// Takes what the machine has to tell: the tasks to be woken. `wakers` is empty before.
    pub(super) fn collect(core: &mut Core, now: Instant, wakers: &mut Vec<Waker>) {
        while let Some(told) = core.machine.poll_event() {
            match told {
                Told::Readable(key) => match core.waiting.get_mut(&key) {
                    Some(waiting) => wakers.extend(waiting.read.take()),
                    None if !core.lingering.is_empty() => core.drain_lingering(now),
                    None => {}
                },
                Told::Writable(key) => wakers.extend(core.waiting.get_mut(&key).and_then(|w| w.write.take())),
            }
        }
    }

    /// When lingering streams are given up.
    pub(super) fn linger_until(core: &Core) -> Option<Instant> {
        core.lingering.first().map(|lingering| lingering.until)
    }

    /// The connection is over: everybody who waits on one of its streams is woken, and sees so.
    pub(super) fn end(&self, end: ConnectionEnd) {
        self.over.store(true, Ordering::Relaxed);
        let mut core = self.lock();
        core.over.get_or_insert(end);
        core.lingering.clear();
        let wakers: Vec<Waker> =
            core.waiting.drain().flat_map(|(_, waiting)| [waiting.read, waiting.write]).flatten().collect();
        drop(core);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Core {
    /// Wakes the connection's task if there is something to send and it does not know.
    fn nudge(&mut self) -> Option<Waker> {
        if self.notified || !(self.machine.has_output() || self.closing) {
            return None;
        }
        self.notified = true;
        self.task.take()
    }

    /// Whether no stream whose local end is gone still has something to say.
    pub(super) fn is_settled(&self) -> bool {
        self.lingering.is_empty()
    }

    /// Reads and drops what lingering streams received; forgets those that ended or took too long.
    pub(super) fn drain_lingering(&mut self, now: Instant) {
        let Self { machine, lingering, discard, .. } = self;
        lingering.retain(|pair| {
            loop {
                discard.clear();
                match machine.read(pair.data, discard) {
                    ReadState::Data => {}
                    ReadState::Pending if now < pair.until => return true,
                    ReadState::Pending => {
                        machine.reset(pair.data);
                        break;
                    }
                    ReadState::Finished | ReadState::Reset(_) | ReadState::Gone => break,
                }
            }
            machine.release(pair.data);
            machine.release(pair.error);
            false
        });
        if discard.capacity() > 64 * 1024 {
            *discard = Vec::new();
        }
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
