//! Standard error, written by a thread of its own where that is asked for: a reader that stands still holds up only this.
//! Unlike [`LineSink`](crate::lines::LineSink) it takes texts of several lines, and can be waited for while it lives.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

/// Bytes on their way to a reader: four times what a pipe has room for, and no more memory than can be spared for a reader
/// that never comes back. What comes then is dropped and counted until half of it is written. The count is a warning, which
/// has its room.
const BYTES: usize = 256 * 1024;

/// The thread's queue, once there is one.
static ASIDE: OnceLock<Arc<Queue>> = OnceLock::new();

/// From now on a thread of its own writes what goes to [`StandardError`], which never waits. The thread has the rights of
/// the one that calls this.
///
/// # Errors
/// When there is no thread to be had; then it goes on as before.
pub fn write_aside() -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    let kept = Arc::clone(&queue);
    // No task of a scope: a write to a reader that has stopped cannot be cancelled, and the end does not wait for it.
    std::thread::Builder::new().name("standard error".to_owned()).spawn(move || {
        let left_out =
            |count| tracing::warn!("{count} lines for standard error were dropped: they were not read in time");
        loop {
            // Nobody is there to be told of an error.
            kept.write_next(|text| drop(io::stderr().write_all(text)), left_out);
        }
    })?;
    // A second thread would have nothing to do.
    let _ = ASIDE.set(queue);
    Ok(())
}

/// Waits until everything that went to [`StandardError`] is written, but not for longer than this; whether it is. Without a
/// thread it always is.
pub fn flush(limit: Duration) -> bool {
    ASIDE.get().is_none_or(|queue| queue.flush(limit))
}

/// Standard error: itself, or the way to its thread. A line is to be written at once, as others may come between two writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardError;

impl Write for StandardError {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let Some(queue) = ASIDE.get() else { return io::stderr().write(text) };
        queue.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // The thread may stand in a write, where it holds the lock.
        if ASIDE.get().is_some() { Ok(()) } else { io::stderr().flush() }
    }
}

/// What is to be written.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    texts: VecDeque<Vec<u8>>,
    bytes: usize,
    /// One of them is being written, or the count after it.
    is_writing: bool,
    dropped: u64,
    /// The thread that says how many were dropped: what it puts has room.
    counts: Option<ThreadId>,
}

impl State {
    /// Whether there is room for so many bytes; a text for itself always has it.
    fn has_room(&self, bytes: usize) -> bool {
        let is_count = self.counts.is_some_and(|counts| counts == std::thread::current().id());
        is_count || (self.dropped == 0 && (self.texts.is_empty() || self.bytes + bytes <= BYTES))
    }
}

impl Queue {
    fn put(&self, text: &[u8]) {
        let mut state = self.state();
        if state.has_room(text.len()) {
            state.bytes += text.len();
            state.texts.push_back(text.to_vec());
        } else {
            state.dropped += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Writes one, once there is one; then says how many were dropped meanwhile, if there is room again.
    fn write_next(&self, write: impl FnOnce(&[u8]), left_out: impl FnOnce(u64)) {
        let is_empty = |state: &mut State| state.texts.is_empty();
        let mut state = self.changed.wait_while(self.state(), is_empty).unwrap_or_else(PoisonError::into_inner);
        let text = state.texts.pop_front().unwrap_or_default();
        state.bytes -= text.len();
        state.is_writing = true;
        drop(state);
        write(&text);
        self.tell_dropped(left_out);
        self.state().is_writing = false;
        self.changed.notify_all();
    }

    /// They are taken off the count when it is queued, so that nothing has come before it.
    fn tell_dropped(&self, left_out: impl FnOnce(u64)) {
        let mut state = self.state();
        let dropped = state.dropped;
        if dropped == 0 || state.bytes > BYTES / 2 {
            return;
        }
        state.counts = Some(std::thread::current().id());
        drop(state);
        left_out(dropped);
        let mut state = self.state();
        state.counts = None;
        state.dropped -= dropped;
    }

    fn flush(&self, limit: Duration) -> bool {
        let is_busy = |state: &mut State| state.is_writing || !state.texts.is_empty();
        let waited = self.changed.wait_timeout_while(self.state(), limit, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// Of this length, so that it is known how many there is room for.
    fn text(at: usize) -> Vec<u8> {
        format!("{at:1000}").into_bytes()
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted_and_the_end_waits_for_it_no_longer_than_it_may() {
        let queue = Queue::default();
        let written = Mutex::new(Vec::new());
        let (all, dropped) = (BYTES / 500, std::cell::Cell::new(0));
        queue.put(&text(0));
        assert!(!queue.flush(Duration::from_millis(1)), "nobody writes");
        // Whoever reads stands still in the middle of it.
        let stands = |first: &[u8]| {
            written.lock().unwrap().push(first.to_vec());
            (1..all).for_each(|at| queue.put(&text(at)));
        };
        let left_out = |count| {
            dropped.set(dropped.get() + count);
            queue.put(b"dropped");
        };
        queue.write_next(stands, left_out);
        while !queue.flush(Duration::ZERO) {
            queue.write_next(|text| written.lock().unwrap().push(text.to_vec()), left_out);
        }
        let written = written.into_inner().unwrap();
        let told = written.iter().filter(|text| *text == b"dropped").count();
        assert_eq!(told, 1, "all of them at once");
        assert_eq!(written.len() - told + usize::try_from(dropped.get()).unwrap(), all);
        assert!(written.iter().take(100).enumerate().all(|(at, one)| *one == text(at)), "in their order");
    }

    #[test]
    fn the_end_waits_for_what_is_being_written() {
        let queue = Queue::default();
        std::thread::scope(|threads| {
            (0..3).for_each(|at| queue.put(&text(at)));
            let last = threads.spawn(|| {
                let mut last = Vec::new();
                for _ in 0..3 {
                    queue.write_next(|text| last = text.to_vec(), |_| panic!("there is room for all"));
                }
                last
            });
            assert!(queue.flush(LONG), "all is written");
            assert_eq!(last.join().expect("it ends"), text(2));
        });
    }
}
