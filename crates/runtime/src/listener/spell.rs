//! Something that fails again and again until it is over: what is told of it.

use std::time::{Duration, Instant};

/// At most one warning in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// A spell of failures.
#[derive(Debug, Default)]
pub(crate) struct Spell {
    warned: Option<Instant>,
    /// Failures that the next one who tells has to tell of.
    failed: u64,
    /// Whether somebody was told that it fails, and not yet that it is over.
    is_told: bool,
}

impl Spell {
    /// It has failed once more. `warn` is given how often it has since it was told of last, when that is due.
    pub(crate) fn failed(&mut self, now: Instant, warn: impl FnOnce(u64)) {
        self.failed += 1;
        if self.warned.is_some_and(|warned| now.saturating_duration_since(warned) < WARN_EVERY) {
            return;
        }
        (self.warned, self.is_told) = (Some(now), true);
        warn(std::mem::take(&mut self.failed));
    }

    /// It has not failed. `tell` is given how often it has since the warning, if there was one.
    pub(crate) fn over(&mut self, tell: impl FnOnce(u64)) {
        if std::mem::take(&mut self.is_told) {
            tell(std::mem::take(&mut self.failed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_is_told_at_its_beginning_once_a_minute_and_at_its_end() {
        let (mut spell, begun, mut told) = (Spell::default(), Instant::now(), Vec::new());
        spell.over(|_| unreachable!("nothing has failed"));
        for at in 0..2500 {
            spell.failed(begun + Duration::from_millis(50 * at), |failed| told.push(failed));
        }
        assert_eq!(told, [1, 1200, 1200], "in two minutes and a little");
        spell.over(|failed| told.push(failed));
        assert_eq!(told.pop(), Some(99));
        spell.over(|_| unreachable!("it is over once"));
    }

    #[test]
    fn spells_that_come_and_go_are_told_no_oftener() {
        let (mut spell, begun) = (Spell::default(), Instant::now());
        let (mut warned, mut over) = (Vec::new(), Vec::new());
        for at in 0..1300 {
            spell.failed(begun + Duration::from_millis(50 * at), |failed| warned.push(failed));
            spell.over(|failed| over.push(failed));
        }
        assert_eq!((warned, over), (vec![1, 1200], vec![0, 0]));
    }
}
