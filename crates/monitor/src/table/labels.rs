//! Sums by name, for so many names at most. What has no room goes under `other`, and so does a name that nothing was
//! heard of for a while: its room is for the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{OTHER, Sums};

/// A name that is not used for so long gives its room back, and its sums go to `other`.
const KEPT: Duration = Duration::from_secs(600);
/// When there is no room, one that is not used for so long must go at once: two looks of a scraper have seen it.
const IDLE: Duration = Duration::from_secs(60);
/// The part of the names that a user may have who is not the administrator: he can make as many names as he likes.
const OF_A_USER: usize = 4;

/// The names with their sums.
#[derive(Debug)]
pub(super) struct Labels {
    limit: usize,
    all: HashMap<Arc<str>, Label>,
    other: Arc<str>,
}

#[derive(Debug)]
struct Label {
    sums: Sums,
    /// Open connections that are counted here; as long as there are some it stays.
    open: usize,
    last: Duration,
    /// Who brought it, where his share is limited.
    user: Option<u32>,
}

impl Label {
    fn new(user: Option<u32>) -> Self {
        Self { sums: Sums::default(), open: 0, last: Duration::ZERO, user }
    }
}

impl Labels {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, all: HashMap::new(), other: OTHER.into() }
    }

    /// The name that is counted under: this one, or `other`. `user` is the one who brings it, where he may bring a part
    /// of all alone.
    pub(super) fn name(&mut self, now: Duration, name: &str, user: Option<u32>) -> Arc<str> {
        if let Some((known, _)) = self.all.get_key_value(name) {
            return Arc::clone(known);
        }
        let has_share = user.is_none() || self.of_user(user) < (self.limit / OF_A_USER).max(1);
        if !has_share || !self.make_room(now) {
            return Arc::clone(&self.other);
        }
        let name: Arc<str> = name.into();
        self.all.insert(Arc::clone(&name), Label { last: now, ..Label::new(user) });
        name
    }

    /// The sums under a name that [`Self::name`] gave.
    pub(super) fn sums(&mut self, now: Duration, name: &Arc<str>) -> &mut Sums {
        let label = self.all.entry(Arc::clone(name)).or_insert_with(|| Label::new(None));
        label.last = now;
        &mut label.sums
    }

    /// A connection begins to be counted under a name.
    pub(super) fn enter(&mut self, now: Duration, name: &Arc<str>) -> &mut Sums {
        let label = self.all.entry(Arc::clone(name)).or_insert_with(|| Label::new(None));
        label.open += 1;
        label.last = now;
        &mut label.sums
    }

    /// It is over.
    pub(super) fn leave(&mut self, now: Duration, name: &Arc<str>) {
        if let Some(label) = self.all.get_mut(name) {
            label.open = label.open.saturating_sub(1);
            label.last = now;
        }
    }

    /// Takes the room back of names that are not used any more.
    pub(super) fn expire(&mut self, now: Duration) {
        let is_old = |label: &Label| label.open == 0 && now.saturating_sub(label.last) >= KEPT;
        let old: Vec<Arc<str>> = self
            .all
            .iter()
            .filter(|(name, label)| ***name != *OTHER && is_old(label))
            .map(|(name, _)| name.clone())
            .collect();
        for name in old {
            self.fold(&name);
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Sums)> {
        self.all.iter().map(|(name, label)| (name, &label.sums))
    }

    /// Whether there is room for one more, if need be that of the one that is idle longest.
    fn make_room(&mut self, now: Duration) -> bool {
        let have = self.all.len() - usize::from(self.all.contains_key(OTHER));
        if have < self.limit {
            return true;
        }
        let idle = |(name, label): &(&Arc<str>, &Label)| {
            ***name != *OTHER && label.open == 0 && now.saturating_sub(label.last) >= IDLE
        };
        let oldest = self.all.iter().filter(idle).min_by_key(|(_, label)| label.last);
        let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) else { return false };
        self.fold(&oldest);
        true
    }

    fn of_user(&self, user: Option<u32>) -> usize {
        self.all.values().filter(|label| label.user == user).count()
    }

    /// No sum is lost: together they never fall.
    fn fold(&mut self, name: &str) {
        let Some(label) = self.all.remove(name) else { return };
        let other = self.all.entry(Arc::clone(&self.other)).or_insert_with(|| Label::new(None));
        other.sums.join(&label.sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn count(labels: &mut Labels, now: Duration, name: &str, user: Option<u32>) -> String {
        let name = labels.name(now, name, user);
        labels.sums(now, &name).opened += 1;
        name.to_string()
    }

    fn all(labels: &Labels) -> Vec<(String, u64)> {
        let mut all: Vec<_> = labels.iter().map(|(name, sums)| (name.to_string(), sums.opened)).collect();
        all.sort();
        all
    }

    #[test]
    fn names_that_are_not_used_any_more_give_their_room_back_and_no_count_is_lost() {
        let mut labels = Labels::new(2);
        assert_eq!(["a", "b", "c"].map(|name| count(&mut labels, SECOND, name, None)), ["a", "b", "other"]);
        count(&mut labels, SECOND * 50, "b", None);
        assert_eq!(count(&mut labels, SECOND * 62, "c", None), "c", "`a` was idle for a minute");
        assert_eq!(all(&labels), [("b".into(), 2), ("c".into(), 1), ("other".into(), 2)]);
        labels.expire(SECOND * 655);
        assert_eq!(all(&labels), [("c".into(), 1), ("other".into(), 4)]);
    }

    #[test]
    fn a_name_with_an_open_connection_keeps_its_room() {
        let mut labels = Labels::new(1);
        let name = labels.name(SECOND, "a", None);
        labels.enter(SECOND, &name).opened += 1;
        labels.expire(SECOND * 9_000);
        assert_eq!(count(&mut labels, SECOND * 9_000, "b", None), "other");
        labels.leave(SECOND * 9_000, &name);
        assert_eq!(count(&mut labels, SECOND * 9_100, "b", None), "b");
    }

    #[test]
    fn a_user_with_very_many_names_leaves_room_for_those_of_others() {
        let mut labels = Labels::new(256);
        let own = (0..300).filter(|at| count(&mut labels, SECOND, &format!("n{at}"), Some(65_534)) != "other").count();
        assert_eq!(own, 64);
        assert_eq!(count(&mut labels, SECOND, "nginx", Some(33)), "nginx");
        assert_eq!(count(&mut labels, SECOND, "sshd", None), "sshd");
    }
}
