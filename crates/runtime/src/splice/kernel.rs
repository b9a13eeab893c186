//! Much data from one TCP connection to another without a copy: the kernel hands its pages on, through a pipe.
//!
//! Two calls with a pipe in between cost more than two copies of a small message, so it is for directions that are seen
//! to carry much ([`Direction::by_kernel`]). A pipe belongs to a direction only while bytes are in it: an idle pair has
//! none. It takes two descriptors, and receivers that take nothing keep theirs: so there are only so many, and when half
//! of them are in use those are emptied whose receivers wait.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{BYTES_A_TURN, Cut, Direction};
use crate::socket::pipes_at_most;

/// Moved at once, and so what a pair whose receiver is slow holds at most.
const AT_ONCE: usize = 256 * 1024;
/// Empty pipes that a thread keeps; making one takes three system calls and some pages.
const SPARE: usize = 4;
/// A direction whose reads are smaller than this again and again is better off with copies.
const SMALL: usize = 16 * 1024;
const SMALL_READS: u8 = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Pipes of the process, the spare ones as well.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A place among them.
struct Place;

impl Place {
    /// `None` when there are as many as there may be.
    fn take() -> Option<Self> {
        let most = pipes_at_most();
        COUNT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1))
            .ok()
            .map(|_| Self)
    }

    /// Whether so many are taken that none is to be held for long.
    fn are_scarce() -> bool {
        COUNT.load(Ordering::Relaxed) > pipes_at_most() / 2
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pipe, and how many bytes are in it.
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    holds: usize,
    _place: Place,
}

impl Pipe {
    /// An empty one; `None` when there is none to have.
    fn take() -> Option<Self> {
        PIPES.with_borrow_mut(Vec::pop).or_else(|| {
            let place = Place::take()?;
            let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // Best effort: a user may have many pipes already, and a smaller one works too.
            let _ = fcntl_setpipe_size(&into, AT_ONCE);
            Some(Self { out, into, holds: 0, _place: place })
        })
    }

    /// What is in it becomes what the direction keeps, for copies to go on with until it is seen to carry much again.
    fn empty_into(&mut self, direction: &mut Direction) -> io::Result<()> {
        let mut rest = vec![0; self.holds];
        let mut filled = 0;
        while filled < rest.len() {
            match rustix::io::read(&self.out, &mut rest[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.holds = 0;
        (direction.kept, direction.sent, direction.large) = (rest, 0, 0);
        Ok(())
    }

    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if self.holds == 0 && pipes.len() < SPARE {
                pipes.push(self);
            }
        });
    }
}

/// One direction, as far as it goes without waiting. At its end, or when copying is better, the direction is
/// [`Direction::by_kernel`] no more, and whoever asked goes on with copies.
pub(super) fn carry(
    from: &TcpStream,
    to: &TcpStream,
    direction: &mut Direction,
    cx: &mut Context<'_>,
    from_failed: fn(io::Error) -> Cut,
    to_failed: fn(io::Error) -> Cut,
) -> Poll<Result<(), Cut>> {
    let until = direction.bytes + BYTES_A_TURN;
    let Some(mut pipe) = direction.pipe.take().or_else(Pipe::take) else {
        direction.large = 0;
        cx.waker().wake_by_ref();
        return Poll::Pending;
    };
    let mut moved = move_on(&mut pipe, from, to, direction, until, cx, step);
    // The receiver waits, perhaps for ever; copies go on with it when it takes something.
    if pipe.holds > 0
        && moved.is_pending()
        && Place::are_scarce()
        && let Err(error) = pipe.empty_into(direction)
    {
        moved = Poll::Ready(Err(Side::To(error)));
    }
    if pipe.holds > 0 {
        direction.pipe = Some(pipe);
    } else {
        pipe.give_back();
    }
    match ready!(moved) {
        Ok(()) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Err(Side::From(error)) => Poll::Ready(Err(from_failed(error))),
        Err(Side::To(error)) => Poll::Ready(Err(to_failed(error))),
    }
}

enum Side {
    From(io::Error),
    To(io::Error),
}

/// Moves at most so many bytes from one to the other.
type Step = fn(BorrowedFd<'_>, BorrowedFd<'_>, usize) -> io::Result<usize>;

/// Ready when the turn is over, or this way of carrying is.
fn move_on(
    pipe: &mut Pipe,
    from: &TcpStream,
    to: &TcpStream,
    direction: &mut Direction,
    until: u64,
    cx: &mut Context<'_>,
    step: Step,
) -> Poll<Result<(), Side>> {
    while direction.bytes < until {
        while pipe.holds > 0 {
            ready!(to.poll_write_ready(cx)).map_err(Side::To)?;
            // A reader that has gone is an error here, not a signal: Rust programs ignore SIGPIPE.
            match to.try_io(Interest::WRITABLE, || step(pipe.out.as_fd(), to.as_fd(), pipe.holds)) {
                Ok(0) => return Poll::Ready(Err(Side::To(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    pipe.holds -= n.min(pipe.holds);
                    direction.bytes += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_unsupported(&error) => {
                    direction.tcp = false;
                    return Poll::Ready(pipe.empty_into(direction).map_err(Side::To));
                }
                Err(error) => return Poll::Ready(Err(Side::To(error))),
            }
        }
        if direction.ended || !direction.by_kernel() {
            direction.large = 0;
            return Poll::Ready(Ok(()));
        }
        ready!(from.poll_read_ready(cx)).map_err(Side::From)?;
        // The pipe is empty: what would block is the socket.
        match from.try_io(Interest::READABLE, || step(from.as_fd(), pipe.into.as_fd(), AT_ONCE)) {
            Ok(0) => direction.ended = true,
            Ok(n) => {
                pipe.holds = n;
                direction.note_moved(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if is_unsupported(&error) => {
                direction.tcp = false;
                return Poll::Ready(Ok(()));
            }
            Err(error) => return Poll::Ready(Err(Side::From(error))),
        }
    }
    Poll::Ready(Ok(()))
}

/// A kernel may lack the call, be told to refuse it, or not have it for these sockets (kTLS, MPTCP, other systems' ones
/// below gVisor): copies work everywhere.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

fn step(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}

impl Direction {
    fn note_moved(&mut self, bytes: usize) {
        self.small = if bytes < SMALL { self.small + 1 } else { 0 };
        if self.small == SMALL_READS {
            (self.small, self.large) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Waker;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    thread_local! {
        static STEPS: Cell<u32> = const { Cell::new(0) };
    }

    /// Bytes get into the pipe, and not out of it.
    fn half_supported(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        STEPS.set(STEPS.get() + 1);
        if STEPS.get() == 1 { step(from, to, most) } else { Err(Errno::INVAL.into()) }
    }

    fn unsupported(_: BorrowedFd<'_>, _: BorrowedFd<'_>, _: usize) -> io::Result<usize> {
        Err(Errno::NOSYS.into())
    }

    async fn carried(step: Step) -> (Direction, Pipe, TcpStream, TcpStream) {
        let ((mut client, from), (to, far)) = (pair().await, pair().await);
        client.write_all(b"not to be lost").await.unwrap();
        from.readable().await.unwrap();
        to.writable().await.unwrap();
        let mut direction = Direction { tcp: true, large: super::super::LARGE_READS, ..Direction::default() };
        let mut pipe = Pipe::take().unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        let moved = move_on(&mut pipe, &from, &to, &mut direction, 1 << 20, cx, step);
        assert!(matches!(moved, Poll::Ready(Ok(()))));
        assert!(!direction.by_kernel());
        (direction, pipe, from, far)
    }

    #[tokio::test]
    async fn what_was_moved_already_when_the_kernel_refuses_is_kept_for_copies() {
        let (direction, pipe, _from, _far) = carried(half_supported).await;
        assert_eq!(pipe.holds, 0);
        assert_eq!(direction.kept, b"not to be lost");
    }

    /// A direction whose receiver takes nothing, once it waits.
    async fn stalled() -> (Direction, [TcpStream; 4]) {
        let ((mut client, from), (to, far)) = (pair().await, pair().await);
        let mut direction = Direction { tcp: true, large: super::super::LARGE_READS, ..Direction::default() };
        let work = std::future::poll_fn(|cx| -> Poll<()> {
            if direction.by_kernel() {
                assert!(carry(&from, &to, &mut direction, cx, Cut::Client, Cut::Target).is_pending());
            }
            Poll::Pending
        });
        let piece = vec![7; 1 << 20];
        let write = async {
            // Until both sockets' buffers are full.
            while tokio::time::timeout(Duration::from_millis(200), client.write_all(&piece)).await.is_ok() {}
        };
        tokio::select! {
            biased;
            () = work => {}
            () = write => {}
        }
        assert!(direction.pipe.is_some() || direction.has_kept());
        (direction, [client, from, to, far])
    }

    #[tokio::test]
    async fn receivers_that_take_nothing_have_pipes_only_while_there_are_enough() {
        let most = pipes_at_most();
        assert!(most >= 2, "a machine with so few descriptors has no pipes");
        let (direction, _ends) = stalled().await;
        assert!(direction.pipe.is_some(), "it is the only one");
        let mut others: Vec<Pipe> = std::iter::from_fn(Pipe::take).collect();
        assert_eq!(others.len() + 1, most);
        others.truncate(most / 2);
        let (mut direction, ends) = stalled().await;
        assert!(direction.pipe.is_none() && direction.has_kept());
        direction.sent = direction.kept.len();
        assert!(!direction.by_kernel(), "once it is taken no other pipe is");
        drop((others, ends));
        PIPES.with_borrow_mut(Vec::clear);
        assert_eq!(COUNT.load(Ordering::Relaxed), 1, "the first one has its own");
    }

    #[tokio::test]
    async fn where_the_kernel_cannot_carry_nothing_is_taken_off_the_socket() {
        let (direction, _pipe, mut from, _far) = carried(unsupported).await;
        assert!(direction.kept.is_empty());
        let mut read = [0; 14];
        from.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"not to be lost");
    }
}
