//! Wrong passwords, slowed down: guessing them must not be as fast as the machine.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two answers that a password was wrong, per address; the first comes at once, as people mistype.
const PAUSE: Duration = Duration::from_millis(500);
/// No answer waits longer, however many guesses come at the same time: each holds a connection.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A wrong password is forgotten after this.
const MEMORY: Duration = Duration::from_secs(60);
/// Addresses that are remembered. When there are more, all guesses wait as if each were a second one.
const ADDRESSES: usize = 4096;

/// Who gave wrong passwords.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    /// When the last answer to an address was due.
    answered: Mutex<HashMap<IpAddr, Instant>>,
}

impl Guesses {
    /// A client gave a wrong password: how long its answer has to wait, if at all.
    pub(crate) fn wrong(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let client = network(client);
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = answered.get_mut(&client).filter(|last| now < **last + MEMORY) {
            let at = (*last + PAUSE).clamp(now, now + PAUSE_MAX);
            *last = at;
            return (at > now).then(|| at - now);
        }
        if answered.len() >= ADDRESSES {
            answered.retain(|_, last| now < *last + MEMORY);
        }
        if answered.len() >= ADDRESSES {
            return Some(PAUSE);
        }
        answered.insert(client, now);
        None
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

    #[test]
    fn the_first_wrong_password_costs_nothing_and_those_at_the_same_time_wait_for_one_another() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        assert_eq!(guesses.wrong(client(1), now), None);
        assert_eq!(guesses.wrong(client(1), now), Some(PAUSE));
        assert_eq!(guesses.wrong(client(1), now), Some(PAUSE * 2));
        assert_eq!(guesses.wrong(client(2), now), None);
        for _ in 0..1000 {
            assert!(guesses.wrong(client(1), now) <= Some(PAUSE_MAX));
        }
        assert_eq!(guesses.wrong(client(1), now + PAUSE_MAX + MEMORY), None, "it is forgotten");
    }

    #[test]
    fn an_address_of_the_same_network_is_the_same_client() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        assert_eq!(guesses.wrong("2001:db8::1".parse().unwrap(), now), None);
        assert_eq!(guesses.wrong("2001:db8::2".parse().unwrap(), now), Some(PAUSE));
        assert_eq!(guesses.wrong("2001:db8:0:1::2".parse().unwrap(), now), None);
    }

    #[test]
    fn more_addresses_than_are_remembered_all_wait() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for number in 0..u32::try_from(ADDRESSES).unwrap() {
            assert_eq!(guesses.wrong(client(number), now), None);
        }
        assert_eq!(guesses.wrong(client(1 << 24), now), Some(PAUSE));
        assert_eq!(guesses.wrong(client(1 << 24), now + MEMORY), None);
    }
}
