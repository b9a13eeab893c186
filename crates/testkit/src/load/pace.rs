//! Waits that end when they should: the runtime's own timer counts in milliseconds, too coarse for pacing.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer that is right to some tens of microseconds.
#[derive(Debug)]
pub struct Pace(AsyncFd<OwnedFd>);

impl Pace {
    /// Takes a timer from the kernel; needs a running reactor.
    #[expect(
        deprecated,
        reason = "its successor is unsafe for foreign descriptor types; an OwnedFd keeps the promise it asks for"
    )]
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(AsyncFd::new(timer)?))
    }

    /// Waits until `at`; returns at once when that is past.
    pub async fn until(&mut self, at: Instant) -> io::Result<()> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let spec = Itimerspec { it_interval: zero, it_value: value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &spec)?;
            self.0.readable().await?.clear_ready();
        }
    }

    /// Waits for `time`.
    pub async fn rest(&mut self, time: Duration) -> io::Result<()> {
        self.until(Instant::now() + time).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Pace;

    #[tokio::test]
    async fn a_short_wait_is_short() {
        let mut pace = Pace::new().unwrap();
        let mut quickest = Duration::MAX;
        for _ in 0..100 {
            let start = Instant::now();
            pace.rest(Duration::from_micros(100)).await.unwrap();
            assert!(start.elapsed() >= Duration::from_micros(100));
            quickest = quickest.min(start.elapsed());
        }
        // The runtime's timer would take a millisecond at the least; on a busy machine some waits are long.
        assert!(quickest < Duration::from_micros(900), "{quickest:?}");
    }
}
