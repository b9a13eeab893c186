//! Places for clients, as there are descriptors for them.

use std::sync::Arc;

use runtime::socket::{PLACES_LEAST, PLACES_OF_A_LISTENER, places_for_clients};
use tokio::sync::Semaphore;

/// The places of all entrances.
pub(crate) struct Places {
    free: Arc<Semaphore>,
    all: usize,
    /// For so many entrances they were counted; each one more costs some.
    entrances: usize,
    /// Taken out for those.
    withheld: usize,
}

impl Places {
    /// As many as there are descriptors for, now and with so many entrances, which are bound.
    pub(crate) fn count(entrances: usize) -> Self {
        Self::new(places_for_clients(entrances), entrances)
    }

    fn new(all: usize, entrances: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(all)), all, entrances, withheld: 0 }
    }

    /// The places, to take one of.
    pub(crate) const fn free(&self) -> &Arc<Semaphore> {
        &self.free
    }

    /// There are so many entrances from now on. Of a crowd that has all places nobody has to go: then the next change
    /// takes what this one could not.
    pub(crate) fn are_for(&mut self, entrances: usize) {
        let cost = entrances.saturating_sub(self.entrances) * PLACES_OF_A_LISTENER;
        let withheld = cost.min(self.all.saturating_sub(PLACES_LEAST));
        if withheld > self.withheld {
            self.withheld += self.free.forget_permits(withheld - self.withheld);
        } else {
            self.free.add_permits(self.withheld - withheld);
            self.withheld = withheld;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entrance_that_is_added_costs_places_and_gives_them_back() {
        let mut places = Places::new(20, 3);
        let now = |places: &mut Places, entrances| {
            places.are_for(entrances);
            places.free.available_permits()
        };
        assert_eq!([3, 5, 4, 1, 100, 3].map(|entrances| now(&mut places, entrances)), [20, 16, 18, 20, 4, 20]);
    }

    #[test]
    fn what_a_crowd_has_is_taken_once_it_is_back() {
        let mut places = Places::new(10, 1);
        let crowd = places.free.clone().try_acquire_many_owned(9).unwrap();
        places.are_for(3);
        assert_eq!(places.free.available_permits(), 0);
        drop(crowd);
        places.are_for(3);
        assert_eq!(places.free.available_permits(), 6);
    }
}
