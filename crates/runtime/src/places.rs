//! The places at a port. When all of them are taken, whoever has shown no right to be there gives way to
//! the next one, the oldest first: silence costs nothing, and would keep everybody else away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// As many places as there may be conversations at the same time.
#[derive(Clone, Debug)]
pub struct Places {
    most: usize,
    seats: Arc<Mutex<Seats>>,
}

#[derive(Debug, Default)]
struct Seats {
    /// The number of the next one, or of one that is new again.
    next: u64,
    taken: BTreeMap<u64, Seat>,
}

#[derive(Debug)]
struct Seat {
    standing: Standing,
    told: Arc<Notify>,
}

/// What is known of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has said nothing of use since then.
    Idle { since: u64 },
    /// Its place is its own.
    Kept,
    /// Its place was given to somebody else; it has not gone yet.
    Leaving,
}

impl Places {
    /// So many places.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, seats: Arc::default() }
    }

    /// A place for a client that has just come; `None` when those who may stay have all of them.
    #[must_use]
    pub fn take(&self) -> Option<Place> {
        let mut seats = self.seats();
        // Whoever is told to go is gone in a moment, or asks for something in it and stays: with their successors they are no more than twice as many.
        if seats.taken.len() >= self.most.saturating_mul(2) {
            return None;
        }
        let leaving = seats.taken.values().filter(|seat| seat.standing == Standing::Leaving).count();
        if seats.taken.len() - leaving >= self.most {
            let oldest = seats.taken.values_mut().filter_map(|seat| match seat.standing {
                Standing::Idle { since } => Some((since, seat)),
                Standing::Kept | Standing::Leaving => None,
            });
            let (_, seat) = oldest.min_by_key(|(since, _)| *since)?;
            seat.standing = Standing::Leaving;
            seat.told.notify_one();
        }
        let (number, told) = (seats.number(), Arc::new(Notify::new()));
        seats.taken.insert(number, Seat { standing: Standing::Idle { since: number }, told: Arc::clone(&told) });
        Some(Place { number, told, seats: Arc::clone(&self.seats) })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// The place of one client, free again on drop.
#[derive(Debug)]
pub struct Place {
    number: u64,
    told: Arc<Notify>,
    seats: Arc<Mutex<Seats>>,
}

impl Place {
    /// The client may be here: nobody takes its place, also if it was just told to go.
    pub fn keep(&self) {
        self.stand(|_| Standing::Kept);
    }

    /// The same for as long as a request is answered. After it the client is the newest of those who have said nothing.
    #[must_use]
    pub fn keep_for_now(&self) -> impl Drop + use<'_> {
        self.keep();
        Answering(self)
    }

    /// The client has taken something of what it was sent: it is the newest of those who have said nothing, also if it was
    /// just told to go. A place that is its own stays so.
    pub fn renew(&self) {
        let mut seats = self.seats();
        let since = seats.number();
        if let Some(seat) = seats.taken.get_mut(&self.number).filter(|seat| seat.standing != Standing::Kept) {
            seat.standing = Standing::Idle { since };
        }
    }

    /// Ready when the place is somebody else's.
    pub async fn given_away(&self) {
        loop {
            self.told.notified().await;
            if self.seats().taken.get(&self.number).is_none_or(|seat| seat.standing == Standing::Leaving) {
                return;
            }
        }
    }

    fn stand(&self, standing: impl FnOnce(&mut Seats) -> Standing) {
        let mut seats = self.seats();
        let standing = standing(&mut seats);
        if let Some(seat) = seats.taken.get_mut(&self.number) {
            seat.standing = standing;
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seats().taken.remove(&self.number);
    }
}

struct Answering<'a>(&'a Place);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.stand(|seats| Standing::Idle { since: seats.number() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_told(place: &Place) -> bool {
        place.seats().taken[&place.number].standing == Standing::Leaving
    }

    #[test]
    fn the_oldest_who_has_shown_no_right_gives_way() {
        let places = Places::new(3);
        let all: Vec<Place> = (0..3).map(|_| places.take().unwrap()).collect();
        all[0].keep();
        drop(all[1].keep_for_now());
        let next = places.take().unwrap();
        assert_eq!([is_told(&all[0]), is_told(&all[1]), is_told(&all[2])], [false, false, true]);
        let after = places.take().unwrap();
        assert!(is_told(&all[1]) && !is_told(&next), "one that was answered is as new as its answer");
        drop(all);
        assert!(places.take().is_some() && !is_told(&next) && !is_told(&after), "a place that is free is taken first");
    }

    #[test]
    fn who_takes_what_it_is_sent_is_newer_than_those_who_came_after_it() {
        let places = Places::new(2);
        let (first, second) = (places.take().unwrap(), places.take().unwrap());
        first.renew();
        let _third = places.take().unwrap();
        assert!(is_told(&second) && !is_told(&first));
        first.keep();
        first.renew();
        assert_eq!(first.seats().taken[&first.number].standing, Standing::Kept);
    }

    #[test]
    fn those_who_may_stay_give_way_to_nobody() {
        let places = Places::new(2);
        let (first, second) = (places.take().unwrap(), places.take().unwrap());
        let answering = first.keep_for_now();
        second.keep();
        assert!(places.take().is_none());
        drop(answering);
        assert!(places.take().is_some() && is_told(&first));
    }

    #[test]
    fn however_many_come_before_the_first_has_gone_they_are_bounded() {
        let places = Places::new(4);
        let all: Vec<Place> = std::iter::from_fn(|| places.take()).take(100).collect();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn those_who_ask_for_something_as_they_are_told_to_go_are_bounded_as_well() {
        let places = Places::new(4);
        let mut all: Vec<Place> = Vec::new();
        for _ in 0..100 {
            all.extend(places.take());
            all.iter().for_each(|place| drop(place.keep_for_now()));
        }
        assert_eq!(all.len(), 8);
    }

    #[tokio::test]
    async fn whoever_shows_the_token_before_it_has_gone_stays() {
        let places = Places::new(1);
        let first = places.take().unwrap();
        let _second = places.take().unwrap();
        first.keep();
        let gone = std::pin::pin!(first.given_away());
        assert!(futures_now(gone).is_none());
    }

    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
