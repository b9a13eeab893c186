//! What of one stream arrived and waits for its reader.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use russh::{ChannelMsg, ChannelReadHalf};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::budget::Account;
use super::link::Limits;

/// A stream with so many bytes unread is behind: others are not put beside it.
const BEHIND: isize = 1024 * 1024;

/// What of one stream arrived and was not read.
pub(crate) struct Flow {
    /// The same in the sum of all streams.
    account: Account,
    begun: Instant,
    /// When something was read last, or there was something to read again, in milliseconds after the begin.
    read: AtomicU64,
    /// Something of it was read.
    touched: AtomicBool,
    /// Below zero for a moment: russh hands on the bytes before they are counted, and a fast reader has them by then.
    unread: AtomicIsize,
    pieces: AtomicIsize,
    room: Notify,
    queue: Mutex<Queue>,
    /// Who waits to write: russh does not tell them that the connection has ended.
    writer: Mutex<Option<Waker>>,
    closed: AtomicBool,
    /// Its owner has it: until then it is kept for them, though it may have ended.
    handed_out: AtomicBool,
    /// The server has ended it, or we have: nothing of it comes any more.
    over: AtomicBool,
    cut: OnceLock<Cut>,
}

/// Why we ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It held up the others for too long.
    Unread,
    /// The server sends by it what no such stream has, and nothing counts that.
    Foreign,
    /// Its connection shows no life, and another one to the server does.
    Silent,
}

impl Cut {
    fn error(self) -> io::Error {
        let reason = match self {
            Self::Unread => "nobody read the stream, and it held up others",
            Self::Foreign => "the ssh server sent what no forwarded stream has",
            Self::Silent => "the ssh connection does not answer any more",
        };
        io::Error::new(io::ErrorKind::ConnectionReset, reason)
    }
}

/// russh's queue of one stream. It is here and not in the stream, so that it can be thrown away while nobody reads.
#[derive(Default)]
struct Queue {
    read: Option<ChannelReadHalf>,
    reader: Option<Waker>,
}

impl Flow {
    pub(super) fn new(account: Account) -> Self {
        Self {
            account,
            begun: Instant::now(),
            read: AtomicU64::new(0),
            touched: AtomicBool::new(false),
            unread: AtomicIsize::new(0),
            pieces: AtomicIsize::new(0),
            room: Notify::new(),
            queue: Mutex::default(),
            writer: Mutex::default(),
            closed: AtomicBool::new(false),
            handed_out: AtomicBool::new(false),
            over: AtomicBool::new(false),
            cut: OnceLock::new(),
        }
    }

    pub(super) fn arrived(&self, bytes: usize) {
        self.account.arrived(signed(bytes));
        if self.unread.fetch_add(signed(bytes), Ordering::AcqRel) <= 0 {
            self.read.store(self.age(), Ordering::Relaxed);
        }
        self.pieces.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn taken(&self, bytes: usize) {
        self.account.taken(signed(bytes));
        self.unread.fetch_sub(signed(bytes), Ordering::AcqRel);
        self.read.store(self.age(), Ordering::Relaxed);
        self.touched.store(true, Ordering::Relaxed);
        self.room.notify_one();
    }

    /// Told when its reader has taken something.
    pub(super) const fn room(&self) -> &Notify {
        &self.room
    }

    /// Told when others gave something back.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.account.freed()
    }

    /// Whether anything of it was ever read.
    pub(super) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    fn age(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long there was something to read and nothing was read.
    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.age().saturating_sub(self.read.load(Ordering::Relaxed)))
    }

    pub(super) fn unread(&self) -> isize {
        self.unread.load(Ordering::Acquire)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What arrives is taken with [`Flow::poll_message`].
    pub(crate) fn hold(&self, read: ChannelReadHalf) {
        self.handed_out.store(true, Ordering::SeqCst);
        let mut queue = self.queue();
        // It may have been cut before it was handed out.
        queue.read = self.cut.get().is_none().then_some(read);
    }

    /// The next message of the stream; `None` when there will be none.
    pub(crate) fn poll_message(&self, cx: &mut Context<'_>) -> Poll<Option<ChannelMsg>> {
        let mut queue = self.queue();
        let Some(read) = &mut queue.read else { return Poll::Ready(None) };
        // A message that was not taken stays in the queue when the future is dropped.
        let message = pin!(read.wait()).poll(cx);
        match &message {
            Poll::Pending => queue.reader = Some(cx.waker().clone()),
            Poll::Ready(Some(message)) if is_counted(message) => {
                self.pieces.fetch_sub(1, Ordering::AcqRel);
                self.account.took_piece();
                self.room.notify_one();
            }
            Poll::Ready(_) => {}
        }
        message
    }

    /// Nobody reads it any more; what waits is thrown away.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let (read, reader) = {
            let mut queue = self.queue();
            (queue.read.take(), queue.reader.take())
        };
        drop(read);
        self.account.close();
        self.room.notify_one();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ends it: its reader and its writer are told.
    pub(super) fn cut(&self, why: Cut) {
        // The first reason is the one.
        let _ = self.cut.set(why);
        self.close();
        self.wake_writer();
    }

    /// Remembers who waits to write.
    pub(crate) fn wait_to_write(&self, waker: &Waker) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    pub(super) fn wake_writer(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// What its reader and its writer are told when it was cut.
    pub(crate) fn cut_error(&self) -> Option<io::Error> {
        self.cut.get().map(|why| why.error())
    }

    /// Nothing of it comes any more; whether that is new.
    pub(super) fn end(&self) -> bool {
        !self.over.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn is_handed_out(&self) -> bool {
        self.handed_out.load(Ordering::SeqCst)
    }

    /// Whether nobody reads it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether it has as much as any stream may have.
    fn has_its_most(&self, limits: &Limits) -> bool {
        self.unread() >= limits.unread || self.pieces.load(Ordering::Acquire) >= limits.pieces
    }

    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        (self.has_its_most(limits) || self.account.is_spent()) && !self.closed.load(Ordering::Acquire)
    }

    /// Whether another piece may come. Where there is none in the sum, what is read makes room for as much: a slow reader
    /// need not read all that it has first.
    pub(super) fn has_room(&self, limits: &Limits, level: isize) -> bool {
        !self.is_full(limits) || !self.has_its_most(limits) && self.unread() <= level
    }

    /// By what it has itself: that others have used up the sum is nothing against it.
    pub(super) fn is_behind(&self) -> bool {
        self.unread() > BEHIND
    }

    /// Whether it is full, and nothing of it was read for so long.
    pub(super) fn is_stuck(&self, limits: &Limits) -> bool {
        self.is_full(limits) && self.idle() >= limits.stuck
    }
}

/// Whether it takes a place in a stream's queue that was counted when it came: of the others each stream has one.
const fn is_counted(message: &ChannelMsg) -> bool {
    !matches!(message, ChannelMsg::Open { .. } | ChannelMsg::Eof | ChannelMsg::Close)
}

/// A piece is never so long that this matters.
pub(super) fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    #[test]
    fn bytes_that_are_read_before_they_are_counted_do_not_stay_in_the_count() {
        let limits = Limits { unread: 100, ..Limits::default() };
        let flow = Flow::new(Budget::new(limits.total).account());
        for _ in 0..1000 {
            flow.taken(64);
            flow.arrived(64);
        }
        assert_eq!(flow.unread.load(Ordering::Relaxed), 0);
        assert!(!flow.is_full(&limits));
        flow.arrived(100);
        assert!(flow.is_full(&limits));
    }
}
