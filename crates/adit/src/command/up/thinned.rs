//! A file that is cut off may still be one: before most of what runs is let go, the file is left alone for a while.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use runtime::scope::Scope;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::running::{Change, Running};
use super::source::Source;

/// How long the file stays as it is before most is let go.
const QUIET: Duration = Duration::from_secs(3);
/// What is said of that meanwhile.
pub(super) const WAITS: &str =
    "the file takes away most of what runs: it is put in force when it has stayed as it is for 3 s";
/// A file that is written all the time is taken after this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the file is to be put in force: at once, but where most of what runs would be gone. `false`: the scope drains.
pub(super) async fn settled<F: Future<Output = bool>>(
    scope: &Scope,
    changes: &mut watch::Receiver<u64>,
    mut takes_most: impl FnMut() -> F,
) -> bool {
    let patience = Instant::now() + PATIENCE;
    while Instant::now() < patience && takes_most().await {
        tokio::select! {
            biased;
            () = scope.drained() => return false,
            changed = timeout(QUIET, changes.changed()) => if !matches!(changed, Ok(Ok(()))) { return true },
        }
    }
    true
}

/// Whether most of what runs would be gone with the file as it is now. Of a mistake in it the reload tells.
pub(super) fn takes_most(source: &Source, running: &Mutex<Running>) -> bool {
    let Ok(read) = source.read() else { return false };
    let running = running.lock().unwrap_or_else(PoisonError::into_inner);
    Change::between(running.file(), &read.file).most_gone().is_some()
}

/// That so many of so many are gone.
pub(super) fn in_words((gone, before): (usize, usize)) -> String {
    format!("most is gone from the file: {gone} of {before} forwards, routes and tunnels are removed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long is waited while the file, by how often it was looked at, takes most or not; it changes after a second each.
    async fn waited(verdicts: &[bool]) -> Duration {
        let (scope, begun) = (Scope::root(), Instant::now());
        let (changed, mut changes) = watch::channel(0);
        let mut left = verdicts.iter();
        let changing = async {
            for _ in 1..verdicts.len() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                changed.send_modify(|ticks| *ticks += 1);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            settled = settled(&scope, &mut changes, || std::future::ready(*left.next().expect("no more looks than changes"))) => assert!(settled),
            () = changing => {}
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_file_that_takes_most_is_waited_for_until_it_stays_or_is_whole() {
        assert_eq!(waited(&[false]).await, Duration::ZERO);
        assert_eq!(waited(&[true]).await, QUIET);
        assert_eq!(waited(&[true, true]).await, Duration::from_secs(1) + QUIET, "anew from each change");
        assert_eq!(waited(&[true, false]).await, Duration::from_secs(1), "it is whole");
        assert_eq!(waited(&[true; 60]).await, PATIENCE);
    }

    #[test]
    fn how_long_is_waited_is_said() {
        assert!(WAITS.ends_with(&format!(" {} s", QUIET.as_secs())));
    }

    #[tokio::test]
    async fn the_end_is_not_waited_for() {
        let (scope, (_changed, mut changes)) = (Scope::root(), watch::channel(0));
        scope.drain();
        assert!(!settled(&scope, &mut changes, || std::future::ready(true)).await);
    }

    #[test]
    fn most_is_more_than_half_and_not_one_alone() {
        let names = |count: usize| (0..count).map(|at| format!("forward f{at}")).collect::<Vec<_>>();
        let gone = |removed, unchanged, added| {
            Change { removed: names(removed), unchanged, added: names(added), ..Change::default() }.most_gone()
        };
        assert_eq!(gone(9, 3, 0), Some((9, 12)));
        assert_eq!(gone(2, 0, 0), Some((2, 2)));
        assert_eq!(gone(2, 2, 0), None, "half is left");
        assert_eq!(gone(1, 0, 0), None, "one alone");
        assert_eq!(gone(9, 3, 9), None, "they have other names now");
    }
}
