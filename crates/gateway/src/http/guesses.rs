//! Wrong passwords, slowed down: guessing them must not be as fast as the machine.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The debt for a second wrong password; the first costs nothing, as people mistype. Each further one costs twice what
/// the one before did.
const PAUSE: Duration = Duration::from_millis(500);
/// No debt is larger: whoever knows the password and shares the address of one who guesses waits along.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// A wrong password is forgotten so long after its debt is over.
const MEMORY: Duration = Duration::from_secs(60);
/// Addresses that are remembered. When there are more, the others count as one.
const ADDRESSES: usize = 4096;
/// Those others; no client has this address.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Who gave wrong passwords.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    debts: Mutex<HashMap<IpAddr, Debt>>,
}

/// What came of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Wrong,
    /// It was not looked at: the client has a debt for so long.
    Later(Duration),
}

#[derive(Debug)]
struct Debt {
    /// What the next wrong password costs.
    next: Duration,
    /// Until then no password is looked at.
    until: Instant,
}

impl Debt {
    fn is_remembered(&self, now: Instant) -> bool {
        now < self.until + MEMORY
    }
}

impl Guesses {
    /// Looks at a client's password, unless it has a debt from wrong ones: an answer that is only late could be given
    /// up early, and would not slow down guesses side by side.
    pub(crate) fn check(&self, client: IpAddr, now: Instant, is_right: impl FnOnce() -> bool) -> Verdict {
        // Looked at under the lock, so that of guesses side by side one is.
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        let client = network(client);
        let known = debts.get(&client).filter(|debt| debt.is_remembered(now)).is_some();
        let client = if known || debts.len() < ADDRESSES { client } else { OTHERS };
        if let Some(debt) = debts.get(&client).filter(|debt| now < debt.until) {
            return Verdict::Later(debt.until - now);
        }
        if is_right() {
            // A debt stays: who knows one route's password may be guessing another's.
            return Verdict::Right;
        }
        if !known && debts.len() >= ADDRESSES {
            debts.retain(|_, debt| debt.is_remembered(now));
        }
        let debt = debts.entry(client).or_insert(Debt { next: Duration::ZERO, until: now });
        if !debt.is_remembered(now) {
            debt.next = Duration::ZERO;
        }
        debt.until = now + debt.next;
        debt.next = (debt.next * 2).clamp(PAUSE, PAUSE_MAX);
        Verdict::Wrong
    }
}

/// Whoever has an IPv6 address has as a rule the 64 bits behind its network's.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn wrong(guesses: &Guesses, client: IpAddr, now: Instant) -> Verdict {
        guesses.check(client, now, || false)
    }

    #[test]
    fn the_first_wrong_password_costs_nothing_and_the_following_ever_more() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let mut now = start;
        assert_eq!(wrong(&guesses, client(1), now), Verdict::Wrong);
        for cost in [1, 2, 4, 8, 8, 8] {
            assert_eq!(wrong(&guesses, client(1), now), Verdict::Wrong);
            let debt = PAUSE * cost;
            assert_eq!(guesses.check(client(1), now, || panic!("looked at")), Verdict::Later(debt));
            now += debt;
        }
        assert_eq!(wrong(&guesses, client(2), now), Verdict::Wrong, "another client");
        assert_eq!(guesses.check(client(1), now, || true), Verdict::Right);
        now += MEMORY;
        for _ in 0..2 {
            assert_eq!(wrong(&guesses, client(1), now), Verdict::Wrong, "it is forgotten");
        }
    }

    #[test]
    fn guesses_side_by_side_are_looked_at_one_after_the_other() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let looked = std::sync::atomic::AtomicU32::new(0);
        let guess = || {
            for _ in 0..100 {
                guesses.check(client(1), now, || {
                    looked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    false
                });
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(guess))));
        assert_eq!(looked.into_inner(), 2);
    }

    #[test]
    fn an_address_of_the_same_network_is_the_same_client() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let guess = |address: &str| wrong(&guesses, address.parse().unwrap(), now);
        assert_eq!([guess("2001:db8::1"), guess("2001:db8::2")], [Verdict::Wrong; 2]);
        assert_eq!(guess("2001:db8::3"), Verdict::Later(PAUSE));
        assert_eq!(guess("2001:db8:0:1::2"), Verdict::Wrong);
    }

    #[test]
    fn more_addresses_than_are_remembered_count_as_one() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for number in 1..=u32::try_from(ADDRESSES).unwrap() {
            assert_eq!(wrong(&guesses, client(number), now), Verdict::Wrong);
        }
        let other = |number: u32| wrong(&guesses, client((1 << 24) + number), now);
        assert_eq!([other(0), other(1)], [Verdict::Wrong; 2]);
        assert_eq!(other(2), Verdict::Later(PAUSE));
        assert_eq!(guesses.debts.lock().unwrap().len(), ADDRESSES + 1);
        let later = now + MEMORY + PAUSE;
        assert_eq!(wrong(&guesses, client(1 << 24), later), Verdict::Wrong);
        assert_eq!(guesses.debts.lock().unwrap().len(), 1);
    }
}
