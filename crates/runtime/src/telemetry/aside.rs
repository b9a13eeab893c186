//! Standard error, written by a thread of its own where that is asked for: a reader that stands still holds up only this.
//! Unlike [`LineSink`](crate::lines::LineSink) it takes texts of several lines, and can be waited for while it lives.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Texts on their way to a reader. With more of them they are dropped and counted; the count is a warning when there is room
/// again.
const TEXTS: usize = 1024;

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
        io::stderr().flush()
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
    /// One of them is being written, or the count after it.
    is_writing: bool,
    dropped: u64,
}

impl Queue {
    fn put(&self, text: &[u8]) {
        let mut state = self.state();
        if state.texts.len() < TEXTS {
            state.texts.push_back(text.to_vec());
        } else {
            state.dropped += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Writes one, once there is one; then says how many were dropped meanwhile.
    fn write_next(&self, write: impl FnOnce(&[u8]), left_out: impl FnOnce(u64)) {
        let is_empty = |state: &mut State| state.texts.is_empty();
        let mut state = self.changed.wait_while(self.state(), is_empty).unwrap_or_else(PoisonError::into_inner);
        let text = state.texts.pop_front().unwrap_or_default();
        state.is_writing = true;
        drop(state);
        write(&text);
        let dropped = std::mem::take(&mut self.state().dropped);
        if dropped > 0 {
            left_out(dropped);
        }
        self.state().is_writing = false;
        self.changed.notify_all();
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

    #[test]
    fn what_nobody_reads_is_dropped_and_counted_and_the_end_waits_for_it_no_longer_than_it_may() {
        let queue = Queue::default();
        for at in 0..TEXTS + 3 {
            queue.put(at.to_string().as_bytes());
        }
        assert!(!queue.flush(Duration::from_millis(1)), "nobody writes");
        let mut written = Vec::new();
        queue.write_next(|text| written = text.to_vec(), |count| queue.put(format!("{count} dropped").as_bytes()));
        assert_eq!(written, b"0", "in their order");
        std::thread::scope(|threads| {
            let last = threads.spawn(|| {
                let mut last = Vec::new();
                for _ in 0..TEXTS {
                    queue.write_next(|text| last = text.to_vec(), |_| panic!("there is room for all"));
                }
                last
            });
            assert!(queue.flush(LONG), "all is written");
            assert_eq!(last.join().expect("it ends"), b"3 dropped");
        });
    }
}
