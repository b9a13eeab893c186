//! Listening sockets that a service manager hands to this process (`sd_listen_fds(3)`).

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketType};

/// The name of a socket whose unit gives it none.
const UNNAMED: &str = "unknown";

/// One socket, by what it is.
#[derive(Debug)]
pub enum Passed {
    /// A TCP port with its name.
    Tcp(String, TcpListener),
    /// A Unix socket with its name.
    Unix(String, UnixListener),
    /// Something that nobody can accept from.
    Other(String),
}

/// What was handed to this process, in order. A second call finds nothing. To be called before there are threads: it
/// takes `LISTEN_PID` and `LISTEN_FDS` out of the environment, so that no child believes that they are meant for it;
/// `LISTEN_FDNAMES` stays, and says nothing without them.
#[must_use]
pub fn take() -> Vec<Passed> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    // Without its process id it may be meant for another one, as for whoever started this one.
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Vec::new();
    }
    let names = variable("LISTEN_FDNAMES");
    let names: Vec<&str> = names.split(':').collect();
    let mut all = ListenFd::from_env();
    let name = |index: usize| names.get(index).filter(|name| !name.is_empty()).map_or(UNNAMED, |name| name);
    (0..all.len()).map(|index| passed(&mut all, index, name(index).to_owned())).collect()
}

fn passed(all: &mut ListenFd, index: usize, name: String) -> Passed {
    if let Ok(Some(listener)) = all.take_unix_listener(index) {
        return if listens(&listener) { Passed::Unix(name, listener) } else { Passed::Other(name) };
    }
    match all.take_tcp_listener(index) {
        Ok(Some(listener)) if listens(&listener) => Passed::Tcp(name, listener),
        Ok(Some(_)) => Passed::Other(name),
        Ok(None) | Err(_) => {
            close(all, index);
            Passed::Other(name)
        }
    }
}

/// Closes a socket of another kind, which every child would inherit. What is no socket at all stays open: a unit has to
/// ask for that with `OpenFile=`.
fn close(all: &mut ListenFd, index: usize) {
    let family = i32::from(AddressFamily::UNIX.as_raw());
    let kind = SocketType::SEQPACKET.as_raw().cast_signed();
    drop(all.take_udp_socket(index));
    drop(all.take_unix_datagram(index));
    drop(all.take_custom::<OwnedFd>(index, family, kind, "seqpacket socket"));
}

/// Whether it takes connections: a unit with `Accept=yes` hands over one that is connected.
fn listens(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_connections_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listens(&listener) && !listens(&connected));
    }

    #[test]
    fn what_is_meant_for_nobody_is_not_taken() {
        assert!(take().is_empty());
    }
}
