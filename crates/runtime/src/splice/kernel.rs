//! Much data from one TCP connection to another without a copy: the kernel hands its pages on, through a pipe.
//!
//! Two calls with a pipe in between cost more than two copies of a small message, so it is for directions that are seen
//! to carry much ([`Direction::by_kernel`]). A pipe belongs to a direction only while bytes are in it: an idle pair has
//! none.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{BYTES_A_TURN, Cut, Direction};

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

/// A pipe, and how many bytes are in it.
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    holds: usize,
}

impl Pipe {
    /// An empty one; `None` when the system has none to give.
    fn take() -> Option<Self> {
        PIPES.with_borrow_mut(Vec::pop).or_else(|| {
            let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // Best effort: a user may have many pipes already, and a smaller one works too.
            let _ = fcntl_setpipe_size(&into, AT_ONCE);
            Some(Self { out, into, holds: 0 })
        })
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
    let moved = move_on(&mut pipe, from, to, direction, until, cx);
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

/// Ready when the turn is over, or this way of carrying is.
fn move_on(
    pipe: &mut Pipe,
    from: &TcpStream,
    to: &TcpStream,
    direction: &mut Direction,
    until: u64,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Side>> {
    while direction.bytes < until {
        while pipe.holds > 0 {
            ready!(to.poll_write_ready(cx)).map_err(Side::To)?;
            // A reader that has gone is an error here, not a signal: Rust programs ignore SIGPIPE.
            match to.try_io(Interest::WRITABLE, || step(&pipe.out, to, pipe.holds)) {
                Ok(0) => return Poll::Ready(Err(Side::To(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    pipe.holds -= n.min(pipe.holds);
                    direction.bytes += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Side::To(error))),
            }
        }
        if direction.ended || !direction.by_kernel() {
            direction.large = 0;
            return Poll::Ready(Ok(()));
        }
        ready!(from.poll_read_ready(cx)).map_err(Side::From)?;
        // The pipe is empty: what would block is the socket.
        match from.try_io(Interest::READABLE, || step(from, &pipe.into, AT_ONCE)) {
            Ok(0) => direction.ended = true,
            Ok(n) => {
                pipe.holds = n;
                direction.note_moved(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(Side::From(error))),
        }
    }
    Poll::Ready(Ok(()))
}

fn step(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
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
