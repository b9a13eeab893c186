//! How many clients of one source may have ended their direction while they wait for answers (S4): most of those that
//! look so have left, and each holds a place at whoever answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_core::cidr::Cidr;

/// Counts them, by source: an IPv4 address, or the 64 bits that a network of IPv6 begins with.
#[derive(Debug)]
pub struct HalfClosedPlaces {
    most: usize,
    taken: Mutex<HashMap<Cidr, usize>>,
}

impl HalfClosedPlaces {
    /// So many for each source.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Those of one source.
    #[must_use]
    pub fn of(self: &Arc<Self>, source: IpAddr) -> HalfClosedSource {
        HalfClosedSource { places: Arc::clone(self), source: Cidr::source_prefix(source.to_canonical()) }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Cidr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The places of one source.
#[derive(Debug)]
pub struct HalfClosedSource {
    places: Arc<HalfClosedPlaces>,
    source: Cidr,
}

impl HalfClosedSource {
    /// One of them, if there is one.
    pub(super) fn take(&self) -> Option<HalfClosedPlace> {
        let mut taken = self.places.taken();
        let count = taken.entry(self.source).or_default();
        if *count >= self.places.most {
            return None;
        }
        *count += 1;
        Some(HalfClosedPlace { places: Arc::clone(&self.places), source: self.source })
    }
}

/// A place, until this is dropped.
#[derive(Debug)]
pub(super) struct HalfClosedPlace {
    places: Arc<HalfClosedPlaces>,
    source: Cidr,
}

impl Drop for HalfClosedPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_places_and_what_is_given_back_is_free() {
        let places = HalfClosedPlaces::new(2);
        let of = |text: &str| places.of(text.parse().unwrap());
        let mine = [of("192.0.2.1").take(), of("::ffff:192.0.2.1").take()];
        assert!(mine.iter().all(Option::is_some) && of("192.0.2.1").take().is_none());
        assert!(of("192.0.2.2").take().is_some());
        drop(mine);
        let again = of("192.0.2.1").take();
        assert!(again.is_some());
        let network = [of("2001:db8::1").take(), of("2001:db8::2").take(), of("2001:db8::3").take()];
        assert_eq!(network.map(|place| place.is_some()), [true, true, false]);
        drop(again);
        assert!(places.taken().is_empty());
    }
}
