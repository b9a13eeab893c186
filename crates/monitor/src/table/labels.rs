//! Sums by name, for so many names at most. What has no room goes under `other`. When the room is needed, a name that
//! nothing was heard of for a while gives its own to the next one. Its sums go with it: whoever reads them has counted
//! them under the name already, and would count them twice if `other` took them over.

use std::sync::Arc;
use std::time::Duration;

use super::{OTHER, Sums, UNKNOWN};
use crate::hash::HashMap;

/// When there is no room, a name that is not used for so long must go: two looks of a scraper have seen it.
const IDLE: Duration = Duration::from_secs(60);
/// The part of the names that a user may have who is not the administrator: he can make as many names as he likes.
const OF_A_USER: usize = 4;

/// The names with their sums.
#[derive(Debug)]
pub(super) struct Labels {
    limit: usize,
    all: HashMap<Arc<str>, Label>,
    other: Arc<str>,
    unknown: Arc<str>,
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
        Self { limit, all: HashMap::default(), other: OTHER.into(), unknown: UNKNOWN.into() }
    }

    /// The name that is counted under: this one, or `other`. `user` is the one who brings it, where he may bring a part
    /// of all alone.
    pub(super) fn name(&mut self, now: Duration, name: &str, user: Option<u32>) -> Arc<str> {
        if let Some((known, _)) = self.all.get_key_value(name) {
            return Arc::clone(known);
        }
        if !self.make_room(now, user) {
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

    /// The name of what has none. Like `other` it takes nobody's room.
    pub(super) fn unknown(&self) -> Arc<str> {
        Arc::clone(&self.unknown)
    }

    pub(super) fn unknown_sums(&mut self, now: Duration) -> &mut Sums {
        let name = self.unknown();
        self.sums(now, &name)
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

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Sums)> {
        self.all.iter().map(|(name, label)| (name, &label.sums))
    }

    /// Whether there is room for one more, if need be that of the one that is idle longest: of the same user, when his
    /// share is full.
    fn make_room(&mut self, now: Duration, user: Option<u32>) -> bool {
        let is_share_full = user.is_some() && self.of_user(user) >= (self.limit / OF_A_USER).max(1);
        let have = self.all.keys().filter(|name| is_own(name)).count();
        if have < self.limit && !is_share_full {
            return true;
        }
        let may_go = |(name, label): &(&Arc<str>, &Label)| {
            let is_idle = label.open == 0 && now.saturating_sub(label.last) >= IDLE;
            is_own(name) && is_idle && (!is_share_full || label.user == user)
        };
        let oldest = self.all.iter().filter(may_go).min_by_key(|(_, label)| label.last);
        let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) else { return false };
        self.all.remove(&oldest);
        true
    }

    fn of_user(&self, user: Option<u32>) -> usize {
        self.all.values().filter(|label| label.user == user).count()
    }
}

/// Whether it is the name of something, which has a room.
fn is_own(name: &str) -> bool {
    name != OTHER && name != UNKNOWN
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
    fn a_name_keeps_its_sums_as_long_as_nobody_needs_its_room_and_they_are_never_counted_again_under_other() {
        let mut labels = Labels::new(2);
        assert_eq!(["a", "b", "c"].map(|name| count(&mut labels, SECOND, name, None)), ["a", "b", "other"]);
        assert_eq!(count(&mut labels, SECOND * 9_000, "b", None), "b");
        assert_eq!(all(&labels), [("a".into(), 1), ("b".into(), 2), ("other".into(), 1)], "`a` was idle for hours");
        assert_eq!(count(&mut labels, SECOND * 9_000, "c", None), "c", "now its room is needed");
        assert_eq!(all(&labels), [("b".into(), 2), ("c".into(), 1), ("other".into(), 1)]);
        assert_eq!(count(&mut labels, SECOND * 9_059, "a", None), "other", "the others are not idle for a minute");
        assert_eq!(count(&mut labels, SECOND * 9_060, "a", None), "a");
    }

    #[test]
    fn a_name_with_an_open_connection_keeps_its_room() {
        let mut labels = Labels::new(1);
        let name = labels.name(SECOND, "a", None);
        labels.enter(SECOND, &name).opened += 1;
        assert_eq!(count(&mut labels, SECOND * 9_000, "b", None), "other");
        labels.leave(SECOND * 9_000, &name);
        assert_eq!(count(&mut labels, SECOND * 9_100, "b", None), "b");
    }

    #[test]
    fn what_has_no_name_takes_nobodys_room_and_stays() {
        let mut labels = Labels::new(1);
        labels.unknown_sums(SECOND).opened += 1;
        assert_eq!(["a", "b"].map(|name| count(&mut labels, SECOND, name, None)), ["a", "other"]);
        assert_eq!(count(&mut labels, SECOND * 9_000, "b", None), "b");
        assert_eq!(all(&labels), [("b".into(), 1), ("other".into(), 1), ("unknown".into(), 1)]);
    }

    #[test]
    fn a_user_with_very_many_names_leaves_room_for_those_of_others() {
        let mut labels = Labels::new(256);
        let own = (0..300).filter(|at| count(&mut labels, SECOND, &format!("n{at}"), Some(65_534)) != "other").count();
        assert_eq!(own, 64);
        assert_eq!(count(&mut labels, SECOND, "nginx", Some(33)), "nginx");
        assert_eq!(count(&mut labels, SECOND, "sshd", None), "sshd");
        // The share is full: a new name of his takes the room of an old one of his, and of nobody else.
        assert_eq!(count(&mut labels, SECOND * 30, "n300", Some(65_534)), "other");
        assert_eq!(count(&mut labels, SECOND * 90, "n300", Some(65_534)), "n300");
        let left = all(&labels);
        assert_eq!(left.iter().filter(|(name, _)| name.starts_with('n')).count(), 65, "64 of his, and nginx");
        assert!(["nginx", "sshd"].iter().all(|name| left.contains(&((*name).into(), 1))), "{left:?}");
    }
}
