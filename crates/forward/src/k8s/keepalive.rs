//! One light call to each cluster in use, now and then: no firewall forgets the way there, and credentials that have ended
//! are renewed before somebody waits for them. It also finds a connection that is dead while nobody asks for anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::api::Api;

/// When a cluster is to be asked next. All sessions of a context share one, and each looks at it: the first asks for all.
pub(crate) struct KeepAlive {
    every: Option<Duration>,
    last: Mutex<Instant>,
}

impl KeepAlive {
    /// `None` is never.
    pub(crate) fn new(every: Option<Duration>) -> Self {
        Self { every, last: Mutex::new(Instant::now()) }
    }

    /// Asks as long as it is polled; to be so while a session is there. That begins with questions of its own, which
    /// count.
    pub(crate) async fn run(&self, api: &Api) {
        let Some(every) = self.every else { return };
        *self.last() = Instant::now();
        loop {
            let last = *self.last();
            tokio::time::sleep_until(last + every).await;
            if self.takes_turn(last) {
                match api.version().await {
                    Ok(_) => tracing::trace!(context = api.context(), "the cluster is there"),
                    // Whoever needs it says so.
                    Err(error) => tracing::debug!(context = api.context(), %error, "the cluster gives no sign of life"),
                }
            }
        }
    }

    /// Whether nobody has asked since `last`; then whoever calls does.
    fn takes_turn(&self, last: Instant) -> bool {
        let mut now = self.last();
        let is_ours = *now == last;
        if is_ours {
            *now = Instant::now();
        }
        is_ours
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_that_wait_for_the_same_moment_one_asks() {
        let shared = KeepAlive::new(Some(Duration::from_secs(240)));
        let last = *shared.last();
        tokio::time::advance(Duration::from_secs(240)).await;
        let turns = (0..50).filter(|_| shared.takes_turn(last)).count();
        assert_eq!((turns, *shared.last()), (1, Instant::now()));
    }
}
