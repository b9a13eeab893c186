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
    /// A socket that nobody can accept from; closed.
    Other(String),
    /// No socket at all, or one of an unknown kind; closed.
    NoSocket(String),
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
        Ok(None) | Err(_) if close_socket(all, index) => Passed::Other(name),
        Ok(None) | Err(_) => {
            close(all, index);
            Passed::NoSocket(name)
        }
    }
}

/// Closes a socket of another kind, which every child would inherit; whether it was one.
fn close_socket(all: &mut ListenFd, index: usize) -> bool {
    let family = i32::from(AddressFamily::UNIX.as_raw());
    let kind = SocketType::SEQPACKET.as_raw().cast_signed();
    matches!(all.take_udp_socket(index), Ok(Some(_)))
        || matches!(all.take_unix_datagram(index), Ok(Some(_)))
        || matches!(all.take_custom::<OwnedFd>(index, family, kind, "seqpacket socket"), Ok(Some(_)))
}

/// Closes whatever it is, such as a file of a unit with `OpenFile=`: it would stay open in every child, and what it is on
/// could not be unmounted.
fn close(all: &mut ListenFd, index: usize) {
    if let Ok(Some(descriptor)) = all.take_raw_fd(index)
        && let Err(error) = nix::unistd::close(descriptor)
    {
        tracing::debug!(descriptor, %error, "what was handed over cannot be closed");
    }
}

/// Whether it takes connections: a unit with `Accept=yes` hands over one that is connected.
fn listens(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_what_takes_connections_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listens(&listener) && !listens(&connected));
    }

    /// A socket as input, handed over by a shell as a service manager does it: for itself unless it is told another.
    const HAND_OVER: &str = "exec 3<&0 </dev/null; LISTEN_PID=${FOR-$$} LISTEN_FDS=1 exec \"$@\"";
    /// For how many sockets [`takes_as_many_as_it_is_told`] looks.
    const EXPECTED: &str = "EXPECTED_SOCKETS";

    #[test]
    fn what_is_meant_for_another_process_is_not_taken() {
        let itself = std::env::current_exe().unwrap();
        for (meant_for, taken) in [(None, "1"), (Some("1"), "0"), (Some(""), "0"), (Some("nonsense"), "0")] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", HAND_OVER, "sh"]).arg(&itself).env(EXPECTED, taken);
            command.args(["--exact", "activation::tests::takes_as_many_as_it_is_told"]);
            command.stdin(OwnedFd::from(listener)).env_remove("LISTEN_FDNAMES").env_remove("FOR");
            meant_for.map(|process| command.env("FOR", process));
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{meant_for:?}: {said}");
        }
    }

    /// The file that [`a_file_is_closed_when_it_is_told`] is handed.
    const HANDED: &str = "HANDED_FILE";

    #[test]
    fn what_is_no_socket_is_closed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", HAND_OVER, "sh"]).arg(std::env::current_exe().unwrap()).env(HANDED, file.path());
        command.args(["--exact", "activation::tests::a_file_is_closed_when_it_is_told"]);
        command.stdin(file.reopen().unwrap()).env("LISTEN_FDNAMES", "odd").env_remove("FOR");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    /// Also run by [`what_is_no_socket_is_closed`], in a process of its own.
    #[test]
    fn a_file_is_closed_when_it_is_told() {
        let Some(path) = std::env::var_os(HANDED) else { return };
        let open = || {
            let all = std::fs::read_dir("/proc/self/fd").unwrap();
            all.filter(|entry| {
                entry.as_ref().is_ok_and(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to == path))
            })
            .count()
        };
        assert_eq!(open(), 1);
        let taken = take();
        assert!(matches!(taken.as_slice(), [Passed::NoSocket(name)] if name == "odd"), "{taken:?}");
        assert_eq!(open(), 0);
    }

    /// Also run by [`what_is_meant_for_another_process_is_not_taken`], in processes of their own.
    #[test]
    fn takes_as_many_as_it_is_told() {
        let expected = std::env::var(EXPECTED).unwrap_or_else(|_| "0".to_owned());
        let taken = take();
        assert_eq!(taken.len().to_string(), expected);
        assert!(taken.iter().all(|passed| matches!(passed, Passed::Tcp(name, _) if name == UNNAMED)), "{taken:?}");
        assert!(take().is_empty(), "a second call finds nothing");
    }
}
