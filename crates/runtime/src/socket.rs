//! Socket options every long-lived TCP connection of ours gets, and the descriptor limit.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};

/// How much unsent data the kernel takes before a socket stops being writable. Small, so that the
/// fair writer of a lane decides late what goes next; large enough to keep a fast link busy.
#[cfg(target_os = "linux")]
const UNSENT_LIMIT: u32 = 128 * 1024;

/// A silent peer is asked after this long whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// The pause between unanswered questions, and how many of them end the connection.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// Descriptors that clients do not get: a quarter of all, within these bounds. The least is for connections to API
/// servers, files that are read again, and what a credential plugin needs.
const RESERVE: usize = 16;
const RESERVE_MOST: usize = 4096;
/// Of what the reserve has above its least, pipes between connections get such a part; each has two descriptors.
#[cfg(target_os = "linux")]
const PIPES_PART: usize = 4;
#[cfg(target_os = "linux")]
const PIPE: usize = 2;
/// Descriptors of one client: its own connection, and the one to a target that has an address.
const CLIENT: usize = 2;
/// Clients that there are at the most.
const PLACES_MOST: usize = 1 << 20;

/// Sends small writes at once, keeps little unsent data in the kernel and notices dead peers.
///
/// Connections accepted by a [`crate::BoundListener`] have these options already: on Linux they
/// are inherited from the listening socket, which saves the calls per connection.
///
/// # Errors
/// What the kernel says; the connection is usable all the same.
pub fn tune<S: AsFd>(socket: &S) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_LIMIT)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&keepalive)
}

/// The part of [`tune`] that matters towards `peer`: a peer on this machine needs no keepalive.
///
/// # Errors
/// What the kernel says; the connection is usable all the same.
pub fn tune_towards<S: AsFd>(socket: &S, peer: IpAddr) -> io::Result<()> {
    if peer.is_loopback() { SockRef::from(socket).set_tcp_nodelay(true) } else { tune(socket) }
}

/// Whether `host`, as a user writes it, can only mean this machine.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        || bare.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// Raises the soft limit of open descriptors to the hard one and returns the limit now in force
/// (`None`: no limit). A process that may not is left as it was.
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open descriptors stays as it was");
            limit.current
        }
    }
}

/// How many clients at a time this process has descriptors for, beside what is open now, a reserve, and what each of its
/// `listeners` takes: the sockets of one client, and its own a second time, for a process that takes over. A crowd that
/// took them all would keep the first of it from being served.
#[must_use]
pub fn places_for_clients(listeners: usize) -> usize {
    // A process sees its own descriptors there; where it does not, the reserve is all there is.
    let open = std::fs::read_dir("/dev/fd").map_or(0, Iterator::count);
    places(descriptor_limit(), open, listeners)
}

/// What one more listener costs of [`places_for_clients`], its own socket included.
pub const PLACES_OF_A_LISTENER: usize = 2;

/// How many clients have room in any case.
pub const PLACES_LEAST: usize = 4;

/// How many pipes this process may have for bytes on their way.
#[cfg(target_os = "linux")]
pub(crate) fn pipes_at_most() -> usize {
    pipes(descriptor_limit())
}

#[cfg(target_os = "linux")]
fn pipes(limit: usize) -> usize {
    (reserve(limit) - RESERVE) / PIPES_PART / PIPE
}

fn places(limit: usize, open: usize, listeners: usize) -> usize {
    let left = limit.saturating_sub(open).saturating_sub(reserve(limit)).saturating_sub(listeners);
    (left / CLIENT).saturating_sub(listeners).clamp(PLACES_LEAST, PLACES_MOST)
}

fn reserve(limit: usize) -> usize {
    (limit / 4).clamp(RESERVE, RESERVE_MOST)
}

fn descriptor_limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_a_reserve_and_are_never_locked_out() {
        assert_eq!(places(64, 20, 0), 14);
        assert_eq!(places(64, 20, 4), 8);
        assert_eq!(places(1024, 24, 2), 369);
        assert_eq!(places(20, 30, 9), PLACES_LEAST);
        assert_eq!(places(usize::MAX, 0, 1), PLACES_MOST);
        assert!(places_for_clients(1) >= PLACES_LEAST);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pipes_leave_most_of_the_reserve_and_its_least_whole() {
        assert_eq!([64, 1024, 20_000, usize::MAX].map(pipes), [0, 30, 510, 510]);
        for limit in 0..5000 {
            let left = reserve(limit) - PIPE * pipes(limit);
            assert!(left >= RESERVE && left * PIPES_PART >= reserve(limit) * 3, "{limit}");
        }
    }

    #[test]
    fn a_tuned_socket_has_the_options() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        tune(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_LIMIT);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
    }

    #[test]
    fn towards_this_machine_only_the_delay_goes() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        tune_towards(&stream, stream.peer_addr().unwrap().ip()).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(!socket.keepalive().unwrap());
    }

    #[test]
    fn only_names_and_addresses_of_this_machine_count_as_loopback() {
        for host in ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1", "::", "0.0.0.0", "example.com", ""] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn the_descriptor_limit_is_the_hard_one_afterwards() {
        let limit = raise_descriptor_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, limit);
    }
}
