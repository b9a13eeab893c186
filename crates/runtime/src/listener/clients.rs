//! Which processes of this machine hold connections to a port of ours: read from `/proc`, as far as this user may.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;

use super::holder::parse_address;

/// The state `ESTABLISHED` in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";
/// As much of a program's name is kept.
const COMMAND_MAX: usize = 100;

/// A process that is connected to a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalClient {
    /// The port that it is connected to.
    pub port: SocketAddr,
    /// Its own end.
    pub address: SocketAddr,
    /// Its process id; `None` when it belongs to another user.
    pub pid: Option<u32>,
    /// Its program. Not its arguments: there may be a password among them.
    pub command: Option<String>,
}

/// The local clients of these listening addresses.
#[must_use]
pub fn local_clients(ports: &[SocketAddr]) -> Vec<LocalClient> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok());
    let found: Vec<(u64, LocalClient)> = tables.flat_map(|table| clients_in(&table, ports)).collect();
    if found.is_empty() {
        return Vec::new();
    }
    let owners = owners(&found.iter().map(|(inode, _)| *inode).collect::<Vec<_>>());
    let named = found.into_iter().map(|(inode, client)| {
        let pid = owners.get(&inode).copied();
        LocalClient { pid, command: pid.and_then(command), ..client }
    });
    named.collect()
}

/// Ends whose other end is one of the ports.
fn clients_in(table: &str, ports: &[SocketAddr]) -> Vec<(u64, LocalClient)> {
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let local = parse_address(fields.nth(1)?)?;
        let remote = parse_address(fields.next()?)?;
        let state = fields.next()?;
        let inode = fields.nth(5)?.parse().ok()?;
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let port = ports.iter().find(|port| {
            port.port() == remote.port() && (port.ip().is_unspecified() || port.ip().to_canonical() == remote.ip())
        })?;
        let address = SocketAddr::new(local.ip().to_canonical(), local.port());
        (state == ESTABLISHED).then_some((inode, LocalClient { port: *port, address, pid: None, command: None }))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// The processes that have these sockets.
fn owners(inodes: &[u64]) -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(link) = fs::read_link(descriptor.path()) else { continue };
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                owners.insert(inode, pid);
            }
        }
        if owners.len() == inodes.len() {
            break;
        }
    }
    owners
}

fn command(pid: u32) -> Option<String> {
    program(&fs::read(format!("/proc/{pid}/cmdline")).ok()?)
}

/// The program's name at the beginning of a command line. Some write all they say of themselves into the first word.
fn program(line: &[u8]) -> Option<String> {
    let first = line.split(|byte| *byte == 0 || byte.is_ascii_whitespace()).next()?;
    let name = first.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty())?;
    let clean = String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(COMMAND_MAX).collect::<String>();
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn of_a_command_line_the_program_alone_is_told() {
        let of = |line: &[u8]| program(line).unwrap();
        assert_eq!(of(b"/usr/bin/redis-cli\0-a\0sesame\0"), "redis-cli");
        assert_eq!(of(b"postgres: me secret 127.0.0.1(4711) idle"), "postgres:");
        assert_eq!(program(b""), None);
    }

    #[test]
    fn a_client_is_named_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        assert!(local_clients(&[port]).is_empty(), "nobody yet");
        let client = TcpStream::connect(port).unwrap();
        let found = local_clients(&[port]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].port, found[0].address), (port, client.local_addr().unwrap()));
        assert_eq!(found[0].pid, Some(std::process::id()));
        assert!(found[0].command.as_deref().is_some_and(|command| !command.is_empty()));
    }
}
