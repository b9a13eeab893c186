//! The latest requests of the sample service, for its event stream.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// How many requests are remembered: more than anybody reads in a second.
const KEPT: usize = 32;

/// A request that was answered.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Answered {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) ms: f64,
}

/// The latest requests, numbered in the order of their answers.
#[derive(Default)]
pub(super) struct Recent {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    count: u64,
    kept: VecDeque<Answered>,
}

impl Recent {
    /// Remembers one more and forgets the oldest.
    pub(super) fn add(&self, answered: Answered) {
        let mut state = self.lock();
        state.count += 1;
        if state.kept.len() == KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back(answered);
    }

    /// How many there were in all, and those after the first `seen` that are still remembered.
    pub(super) fn since(&self, seen: u64) -> (u64, Vec<Answered>) {
        let state = self.lock();
        let new = usize::try_from(state.count.saturating_sub(seen)).unwrap_or(KEPT);
        let skipped = state.kept.len().saturating_sub(new);
        (state.count, state.kept.iter().skip(skipped).cloned().collect())
    }

    /// Two fields that are set one after the other: a panic between them does no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(path: &str) -> Answered {
        Answered { method: "GET".into(), path: path.into(), status: 200, ms: 1.0 }
    }

    fn paths(new: &[Answered]) -> Vec<&str> {
        new.iter().map(|one| one.path.as_str()).collect()
    }

    #[test]
    fn only_what_was_not_seen_is_told() {
        let recent = Recent::default();
        recent.add(answered("/a"));
        let (count, new) = recent.since(0);
        assert_eq!((count, paths(&new)), (1, vec!["/a"]));
        recent.add(answered("/b"));
        let (count, new) = recent.since(count);
        assert_eq!((count, paths(&new)), (2, vec!["/b"]));
        assert!(recent.since(count).1.is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let recent = Recent::default();
        for number in 0..KEPT + 10 {
            recent.add(answered(&format!("/{number}")));
        }
        let (count, new) = recent.since(0);
        assert_eq!(count, KEPT as u64 + 10);
        assert_eq!(new.len(), KEPT);
        assert_eq!(new[0].path, "/10");
    }
}
