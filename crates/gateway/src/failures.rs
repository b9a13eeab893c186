//! What went wrong last where something comes in, and whether it has worked since.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// The last thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: SystemTime,
    /// What, in one line.
    pub text: String,
    /// Since when everything that was tried has failed; `None` when something has worked since.
    pub since: Option<SystemTime>,
}

/// Remembers it.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Looked at by each success, so without a lock.
    failing: AtomicBool,
    last: Mutex<Option<LastError>>,
}

impl Failures {
    /// Something went wrong.
    pub(crate) fn note(&self, text: String) {
        let at = SystemTime::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let since = last.as_ref().and_then(|last| last.since).unwrap_or(at);
        *last = Some(LastError { at, text, since: Some(since) });
        self.failing.store(true, Ordering::Release);
    }

    /// Something worked.
    pub(crate) fn worked(&self) {
        if !self.failing.load(Ordering::Acquire) {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &mut *last {
            last.since = None;
        }
        self.failing.store(false, Ordering::Release);
    }

    /// What went wrong last.
    pub(crate) fn last(&self) -> Option<LastError> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The later of two; what fails in one way may work in another.
pub(crate) fn later(one: Option<LastError>, other: Option<LastError>) -> Option<LastError> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.at >= other.at { one } else { other }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_does_so_since_the_first_failure_after_it_worked() {
        let failures = Failures::default();
        failures.note("one".into());
        let first = failures.last().unwrap();
        failures.note("two".into());
        let second = failures.last().unwrap();
        assert_eq!((second.text.as_str(), second.since), ("two", Some(first.at)));
        failures.worked();
        assert_eq!(failures.last().unwrap().since, None);
        failures.note("three".into());
        let third = failures.last().unwrap();
        assert_eq!(third.since, Some(third.at));
    }
}
