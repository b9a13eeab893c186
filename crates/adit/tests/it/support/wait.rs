//! Waiting for conditions under a deadline.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long any step of a test may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// What happens "at once" may take this long on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(3);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The first value `look` finds; panics with `what` when there is none within `deadline`.
pub(crate) async fn eventually<T, F>(deadline: Duration, what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Ok(Some(found)) = tokio::time::timeout_at(end.into(), look()).await {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The result of `future`; panics with `what` when it takes longer than [`DEADLINE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
