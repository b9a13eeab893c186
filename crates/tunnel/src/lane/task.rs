//! The task that drives one lane: socket ↔ TLS ↔ machine.
//!
//! A turn, in this order: (1) read what the socket has, within a bound; (2) tell waiting tasks; (3) do what
//! timers ask for; (4) let the tasks just woken run first, so that their answers share a record; (5) write
//! within a bound. The reading side never waits for the writing side.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mux::frame::{DATA_CAP, Limits};
use mux::{Decoder, ErrorCode, Health};
use tokio::time::{Sleep, sleep_until};

use super::{LaneEnd, LaneHandler, LaneShared, TlsFault, TlsPipe};

/// Reads of about 128 KiB a turn; then others have their turn.
const READS_A_TURN: usize = 2;
/// Records gathered under one lock.
const RECORDS_A_GATHER: usize = 4;
/// Gathers a turn: 256 KiB.
const GATHERS_A_TURN: usize = 4;
/// Plaintext of one record; frames are packed so that none straddles two.
const RECORD: usize = 16 * 1024;

/// A peer that takes not a byte for this long does not read any more, whatever it sends.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// A lane that is to end gets this long to say why.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Scratch memory of a thread, lent to whichever lane has its turn.
#[derive(Default)]
struct Scratch {
    plain: Vec<u8>,
    cipher: Vec<u8>,
    ends: Vec<usize>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Drives one lane until it ends. A future for [`runtime::Scope::spawn`].
pub(crate) struct LaneTask {
    pipe: TlsPipe,
    shared: Arc<LaneShared>,
    handler: Arc<dyn LaneHandler>,
    decoder: Decoder,
    /// Plaintext that came with the handshake.
    backlog: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
    /// Output is there; the tasks woken in this turn run before it is gathered.
    deferred: bool,
    /// Since when the socket has taken nothing, and what it had taken by then.
    stalled: Option<(Instant, u64)>,
    closing_since: Option<Instant>,
    ended: bool,
}

impl LaneTask {
    /// A task for an authenticated connection; decoder and backlog are what the handshake left.
    pub(crate) fn new(
        pipe: TlsPipe,
        shared: Arc<LaneShared>,
        handler: Arc<dyn LaneHandler>,
        (mut decoder, backlog): (Decoder, Vec<u8>),
        data_cap: u32,
    ) -> Self {
        decoder.set_limits(Limits::Authenticated { data_cap: data_cap.min(DATA_CAP) });
        let timer_at = shared.lock().machine.poll_timeout();
        let timer = Box::pin(sleep_until(timer_at.into()));
        Self {
            pipe,
            shared,
            handler,
            decoder,
            backlog,
            timer,
            timer_at,
            deferred: false,
            stalled: None,
            closing_since: None,
            ended: false,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Again, LaneEnd> {
        if !self.backlog.is_empty() {
            let backlog = std::mem::take(&mut self.backlog);
            if let Err(violation) = feed(&self.shared, &mut self.decoder, &backlog) {
                self.close_now(cx, &violation);
                return Err(LaneEnd::Violation(violation.1));
            }
        }
        let mut again = self.read(cx)?;
        let now = Instant::now();
        self.timers(cx, now)?;
        let has_output = {
            let mut core = self.shared.lock();
            core.machine.ask_round_trip(now);
            core.notified = true;
            core.machine.has_output() || core.closing.is_some()
        };
        if has_output && !self.deferred && !self.pipe.has_unsent() {
            self.deferred = true;
            return Ok(Again::Yes);
        }
        self.deferred = false;
        if self.write(cx, now)? == Again::Yes {
            again = Again::Yes;
        }
        self.hold_to_reading(cx, now)?;
        if again == Again::No {
            let mut core = self.shared.lock();
            // Handles wake the task from here on; what they left meanwhile is seen at once.
            core.notified = false;
            core.task = Some(cx.waker().clone());
            if !self.pipe.has_unsent() && core.machine.has_output() {
                again = Again::Yes;
            }
        }
        Ok(again)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<Again, LaneEnd> {
        let Self { pipe, shared, decoder, handler, .. } = self;
        for _ in 0..READS_A_TURN {
            let mut fault = None;
            let read = pipe.poll_read(cx, &mut |plain| {
                if fault.is_none() {
                    fault = feed(shared, decoder, plain).err();
                }
            });
            let told = shared.dispatch(&**handler);
            if let Some(violation) = fault {
                self.close_now(cx, &violation);
                return Err(LaneEnd::Violation(violation.1));
            }
            if let Some(end) = told {
                return Err(end);
            }
            match read {
                Poll::Pending => return Ok(Again::No),
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Err(LaneEnd::Connection("closed by the peer".into())),
                Poll::Ready(Err(error)) => return Err(ended_by(&error)),
            }
        }
        Ok(Again::Yes)
    }

    /// Ends the lane when its peer does not read: what waits to be sent, and a close, must not wait for ever.
    fn hold_to_reading(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), LaneEnd> {
        if !self.pipe.has_unsent() {
            self.stalled = None;
            return Ok(());
        }
        let taken = self.pipe.taken();
        let since = match self.stalled {
            Some((since, before)) if before == taken => since,
            _ => now,
        };
        self.stalled = Some((since, taken));
        let closing = self.shared.lock().closing;
        let mut by = since + WRITE_PATIENCE;
        if let Some(code) = closing {
            by = by.min(*self.closing_since.get_or_insert(now) + CLOSE_PATIENCE);
            if now >= by {
                return Err(LaneEnd::Here(code));
            }
        }
        if now >= by {
            return Err(LaneEnd::Connection("the peer does not read".into()));
        }
        if by < self.timer_at {
            self.timer_at = by;
            self.timer.as_mut().reset(by.into());
            // Registers for the new time; it is not due yet.
            let _ = self.timer.as_mut().poll(cx);
        }
        Ok(())
    }

    fn timers(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), LaneEnd> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let mut core = self.shared.lock();
            if core.machine.handle_timeout(now) == Health::Dead {
                return Err(LaneEnd::Silent);
            }
            self.timer_at = core.machine.poll_timeout();
            drop(core);
            // At least a little ahead, so that a clock that lags behind the timer cannot spin here.
            let at = self.timer_at.max(now + Duration::from_millis(1));
            self.timer.as_mut().reset(at.into());
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Again, LaneEnd> {
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..GATHERS_A_TURN {
                if self.pipe.has_unsent() {
                    match self.pipe.poll_flush(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Err(ended_by(&error)),
                        Poll::Pending => return Ok(Again::No),
                    }
                }
                if !self.gather(scratch, now) {
                    let closing = self.shared.lock().closing;
                    if let Some(code) = closing {
                        return Err(LaneEnd::Here(code));
                    }
                    self.pipe.shrink();
                    return Ok(Again::No);
                }
                self.pipe.lend(&mut scratch.cipher);
                let mut from = 0;
                for end in scratch.ends.drain(..) {
                    self.pipe.encrypt(&scratch.plain[from..end]).map_err(|error| ended_by(&error))?;
                    from = end;
                }
                let flushed = self.pipe.poll_flush(cx);
                self.pipe.reclaim(&mut scratch.cipher);
                // Sending made room: writers that wait for it are woken.
                self.shared.dispatch(&*self.handler);
                match flushed {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Err(ended_by(&error)),
                    Poll::Pending => return Ok(Again::No),
                }
            }
            Ok(Again::Yes)
        })
    }

    /// Collects records' worth of frames under one lock; false when there is nothing to send.
    fn gather(&self, scratch: &mut Scratch, now: Instant) -> bool {
        scratch.plain.clear();
        scratch.ends.clear();
        let mut core = self.shared.lock();
        let mut record = Vec::new();
        std::mem::swap(&mut record, &mut scratch.plain);
        for _ in 0..RECORDS_A_GATHER {
            let limit = record.len() + RECORD;
            if core.machine.poll_transmit(now, &mut record, limit) == 0 {
                break;
            }
            scratch.ends.push(record.len());
        }
        std::mem::swap(&mut record, &mut scratch.plain);
        !scratch.ends.is_empty()
    }

    /// Tells the peer what it broke, as far as the socket takes it at once.
    fn close_now(&mut self, cx: &mut Context<'_>, violation: &(ErrorCode, String)) {
        let mut plain = Vec::new();
        {
            let mut core = self.shared.lock();
            core.machine.close(violation.0, &violation.1);
            core.machine.poll_transmit(Instant::now(), &mut plain, RECORD);
        }
        if self.pipe.encrypt(&plain).is_ok() {
            let _ = self.pipe.poll_flush(cx);
        }
    }
}

/// Whether the task has more to do without being woken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

impl Future for LaneTask {
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
                self.shared.end();
                self.handler.ended(&self.shared, end);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for LaneTask {
    fn drop(&mut self) {
        // An aborted task must not leave its streams waiting for ever.
        if !self.ended {
            self.shared.end();
            self.handler.ended(&self.shared, LaneEnd::Here(ErrorCode::Cancel));
        }
    }
}

/// Feeds plaintext to the machine.
fn feed(shared: &LaneShared, decoder: &mut Decoder, mut plain: &[u8]) -> Result<(), (ErrorCode, String)> {
    let mut core = shared.lock();
    let now = Instant::now();
    loop {
        let handled = decoder
            .next(&mut plain, |header, payload| core.machine.handle_frame(now, header, payload))
            .map_err(|error| (ErrorCode::Protocol, error.to_string()))?;
        match handled {
            Some(Ok(())) => {}
            Some(Err(violation)) => return Err((violation.code(), violation.to_string())),
            None => return Ok(()),
        }
    }
}

fn ended_by(error: &TlsFault) -> LaneEnd {
    use std::error::Error as _;
    let text = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    LaneEnd::Connection(text)
}
