//! The task that drives one connection: socket ↔ TLS ↔ machine.
//!
//! A turn, in this order: (1) read what the socket has, within a bound and only while no stream is full; (2) tell
//! waiting tasks; (3) do what timers ask for; (4) let the tasks just woken run first, so that what they send shares
//! a record; (5) write within a bound. The reading side never waits for the writing side.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use runtime::pipe::Pipe;
use spdy::Health;
use tokio::time::{Sleep, sleep_until};

use super::machine::MachineError;
use super::shared::{Connection, ConnectionEnd, Core};
use crate::error::words;
use crate::k8s::dial::fault_as_io;

/// Reads of about 128 KiB a turn; then others have their turn.
const READS_A_TURN: usize = 2;
/// Plaintext gathered under one lock, in pieces of [`PIECE`], and sent with one system call.
const GATHER: usize = 128 * 1024;
/// What a WebSocket message carries at the most.
const PIECE: usize = 60 * 1024;
/// Gathers a turn.
const GATHERS_A_TURN: usize = 2;
/// Bytes of output that the socket has not taken for this long mark the connection as stalled.
const STALLED_AFTER: Duration = Duration::from_millis(100);
/// Something was sent, and nothing has come for so long: the server is asked for a sign of life.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How long it may take to give one before new streams go elsewhere.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// At the program's end, streams whose client is gone get this long to end by themselves.
const HURRY: Duration = Duration::from_millis(150);
/// A connection that is to end gets this long to say so.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Scratch memory of a thread, lent to whichever connection has its turn.
#[derive(Default)]
struct Scratch {
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Drives one connection until it ends. A future for [`runtime::Scope::spawn`].
pub(crate) struct ConnectionTask {
    pipe: Pipe,
    shared: Arc<Connection>,
    /// What came right behind the upgrade's head.
    early: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
    deferred: bool,
    wakers: Vec<Waker>,
    /// Since when the socket has taken nothing, and what it had taken by then.
    blocked: Option<(Instant, u64)>,
    closing_since: Option<Instant>,
    bye_since: Option<Instant>,
    /// The peer sends nothing more.
    read_closed: bool,
    /// This turn's reading ended at a full stream: whoever emptied it meanwhile found nobody to wake.
    stopped: bool,
    /// The good-bye is among the output.
    said_bye: bool,
    /// The peer takes nothing more; what it said before that is still read.
    broken: Option<ConnectionEnd>,
    ended: bool,
}

/// Whether the task has more to do without being woken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

impl ConnectionTask {
    pub(crate) fn new(pipe: Pipe, early: Vec<u8>, shared: Arc<Connection>) -> Self {
        let timer_at = shared.lock().machine.poll_timeout();
        Self {
            pipe,
            shared,
            early,
            timer: Box::pin(sleep_until(timer_at.into())),
            timer_at,
            deferred: false,
            wakers: Vec::new(),
            blocked: None,
            closing_since: None,
            bye_since: None,
            read_closed: false,
            stopped: false,
            said_bye: false,
            broken: None,
            ended: false,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Again, ConnectionEnd> {
        if self.shared.is_over() {
            // Given up by its pool.
            return Err(self.shared.silent_end());
        }
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            feed(&self.shared, &early, &mut self.wakers).map_err(violation)?;
            self.wake_all();
        }
        let read = self.read(cx);
        if let Some(end) = self.broken.clone() {
            return self.last_words(cx, &read, end);
        }
        let mut again = read?;
        let now = Instant::now();
        self.timers(cx, now)?;
        let has_output = {
            let mut core = self.shared.lock();
            core.notified = true;
            core.machine.has_output() || core.closing
        };
        if has_output && !self.deferred && !self.pipe.has_unsent() {
            self.deferred = true;
            return Ok(Again::Yes);
        }
        self.deferred = false;
        match self.write(cx, now) {
            Ok(Again::No) => {}
            Ok(Again::Yes) => again = Again::Yes,
            Err(end) => {
                self.broken = Some(end);
                return Ok(Again::Yes);
            }
        }
        self.watch_output(cx, now)?;
        self.watch_closing(cx, now);
        self.watch_answers(cx, now);
        if again == Again::No {
            let mut core = self.shared.lock();
            if core.machine.is_closed() && !core.machine.has_output() && !self.pipe.has_unsent() {
                return Err(ConnectionEnd::Lost("closed by the server".into()));
            }
            // Handles wake the task from here on; what they left meanwhile is seen at once.
            core.notified = false;
            core.task = Some(cx.waker().clone());
            let emptied = self.stopped && !self.read_closed && core.machine.wants_input();
            if emptied || !self.pipe.has_unsent() && core.machine.has_output() {
                again = Again::Yes;
            }
        }
        Ok(again)
    }

    /// Reads what the server said before it hung up: why a command failed comes right before that.
    fn last_words(
        &mut self,
        cx: &mut Context<'_>,
        read: &Result<Again, ConnectionEnd>,
        end: ConnectionEnd,
    ) -> Result<Again, ConnectionEnd> {
        match read {
            Ok(again) if !self.read_closed => {
                self.timers(cx, Instant::now())?;
                // Whoever empties a full stream wakes the task; output is of no use any more.
                let mut core = self.shared.lock();
                core.notified = true;
                core.task = Some(cx.waker().clone());
                let emptied = self.stopped && core.machine.wants_input();
                Ok(if emptied { Again::Yes } else { *again })
            }
            _ => Err(end),
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<Again, ConnectionEnd> {
        self.stopped = false;
        for _ in 0..READS_A_TURN {
            if self.read_closed {
                return Ok(Again::No);
            }
            let paused = {
                let mut core = self.shared.lock();
                core.paused = !core.machine.wants_input();
                core.paused
            };
            if paused {
                self.stopped = true;
                self.shared.set_stalled(true);
                return Ok(Again::No);
            }
            if self.blocked.is_none() {
                self.shared.set_stalled(false);
            }
            let (shared, wakers) = (&self.shared, &mut self.wakers);
            let mut fault = None;
            let read = self.pipe.poll_read(cx, &mut |plain| {
                if fault.is_none() {
                    fault = feed(shared, plain, wakers).err();
                }
            });
            self.wake_all();
            if let Some(error) = fault {
                return Err(violation(error));
            }
            match read {
                Poll::Pending => return Ok(Again::No),
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => {
                    self.read_closed = true;
                    let mut core = self.shared.lock();
                    core.machine.end();
                    Connection::collect(&mut core, Instant::now(), &mut self.wakers);
                    drop(core);
                    self.wake_all();
                }
                Poll::Ready(Err(error)) => return Err(ConnectionEnd::Lost(words(&fault_as_io(error)))),
            }
        }
        Ok(Again::Yes)
    }

    fn wake_all(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn timers(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), ConnectionEnd> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let mut core = self.shared.lock();
            if core.machine.handle_timeout(now) == Health::Dead {
                return Err(self.shared.silent_end());
            }
            core.drain_lingering(now);
            self.timer_at = core.machine.poll_timeout().min(Connection::linger_until(&core).unwrap_or(now + FAR));
            drop(core);
            // At least a little ahead, so that a clock that lags behind the timer cannot spin here.
            let at = self.timer_at.max(now + Duration::from_millis(1));
            self.timer.as_mut().reset(at.into());
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Again, ConnectionEnd> {
        let lost = |fault| ConnectionEnd::Lost(words(&fault_as_io(fault)));
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..GATHERS_A_TURN {
                if self.pipe.has_unsent() {
                    match self.pipe.poll_flush(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Err(lost(error)),
                        Poll::Pending => return Ok(Again::No),
                    }
                }
                scratch.plain.clear();
                let mut core = self.shared.lock();
                let mut gathered = 0;
                while gathered + PIECE <= GATHER {
                    match core.machine.poll_transmit(&mut scratch.plain, PIECE) {
                        // Behind all that was queued: a good-bye that came before it would cut it off.
                        0 if core.closing && (core.is_settled() || self.is_late(&core, now)) && !self.said_bye => {
                            core.machine.close();
                            self.said_bye = true;
                        }
                        0 => break,
                        more => gathered += more,
                    }
                }
                // Sending made room: writers that wait for it are woken.
                Connection::collect(&mut core, now, &mut self.wakers);
                let closing = self.said_bye;
                if gathered > 0 {
                    core.unanswered.get_or_insert(now);
                }
                drop(core);
                self.wake_all();
                if gathered == 0 {
                    self.pipe.shrink();
                    return if closing { Err(ConnectionEnd::Here) } else { Ok(Again::No) };
                }
                self.pipe.lend(&mut scratch.cipher);
                self.pipe.encrypt(&scratch.plain).map_err(lost)?;
                let flushed = self.pipe.poll_flush(cx);
                self.pipe.reclaim(&mut scratch.cipher);
                match flushed {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Err(lost(error)),
                    Poll::Pending => return Ok(Again::No),
                }
            }
            Ok(Again::Yes)
        })
    }

    /// Whether lingering streams had their time: that of a program that ends is short.
    fn is_late(&self, core: &Core, now: Instant) -> bool {
        core.hurry && self.closing_since.is_some_and(|since| now >= since + HURRY)
    }

    /// Sees to it that a connection whose last streams linger at the program's end does not wait for them for long.
    fn watch_closing(&mut self, cx: &mut Context<'_>, now: Instant) {
        let hurried = {
            let core = self.shared.lock();
            core.closing && core.hurry && !self.said_bye
        };
        if hurried {
            let by = *self.closing_since.get_or_insert(now) + HURRY;
            self.call_at(cx, by);
        }
    }

    /// Marks the connection when the server does not answer: by itself a dead one is silent for as long as nobody
    /// asks, and whoever asks first would wait for it in vain.
    fn watch_answers(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut core = self.shared.lock();
        if !core.machine.can_ask() || self.blocked.is_some() {
            // That nothing comes, or is taken, has another reason. One that was silent before stays so, and since then.
            if !self.shared.is_silent() {
                (core.unanswered, core.asked) = (None, None);
            }
            return;
        }
        let Some(since) = core.unanswered else { return };
        if core.asked.is_none() && now >= since + ASK_AFTER {
            core.asked = Some(now);
            core.machine.ask(now);
        }
        let by = core.asked.map_or(since + ASK_AFTER, |asked| asked + SILENT_AFTER);
        drop(core);
        if now < by {
            self.call_at(cx, by);
        } else {
            self.shared.note_silent();
        }
    }

    fn call_at(&mut self, cx: &mut Context<'_>, by: Instant) {
        if by < self.timer_at {
            self.timer_at = by;
            self.timer.as_mut().reset(by.into());
            // Registers for the new time; it is not due yet.
            let _ = self.timer.as_mut().poll(cx);
        }
    }

    /// Marks the connection when the server takes nothing: an upload that nobody reads holds up all others, and
    /// new streams go elsewhere.
    fn watch_output(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), ConnectionEnd> {
        if !self.pipe.has_unsent() {
            self.blocked = None;
            return Ok(());
        }
        let taken = self.pipe.taken();
        let since = match self.blocked {
            Some((since, before)) if before == taken => since,
            _ => now,
        };
        self.blocked = Some((since, taken));
        let mut by = since + STALLED_AFTER;
        if now >= by {
            self.shared.set_stalled(true);
            by = now + STALLED_AFTER;
        }
        if self.said_bye {
            let end = *self.bye_since.get_or_insert(now) + CLOSE_PATIENCE;
            if now >= end {
                return Err(ConnectionEnd::Here);
            }
            by = by.min(end);
        }
        self.call_at(cx, by);
        Ok(())
    }
}

/// No deadline at all, in effect.
const FAR: Duration = Duration::from_secs(3600);

impl Future for ConnectionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.turn(cx) {
            Ok(Again::No) => Poll::Pending,
            Ok(Again::Yes) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(end) => {
                self.ended = true;
                tracing::debug!(connection = self.shared.number(), %end, "a connection to the API server ended");
                self.shared.end(end);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        // An aborted task must not leave its streams waiting for ever.
        if !self.ended {
            self.shared.end(ConnectionEnd::Here);
        }
    }
}

/// Feeds plaintext to the machine.
fn feed(shared: &Connection, plain: &[u8], wakers: &mut Vec<Waker>) -> Result<(), MachineError> {
    let mut core = shared.lock();
    let now = Instant::now();
    shared.note_heard(&mut core, now);
    core.machine.handle_input(now, plain)?;
    Connection::collect(&mut core, now, wakers);
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn violation(error: MachineError) -> ConnectionEnd {
    ConnectionEnd::Violation(error.to_string())
}
