//! Who has a port, as a listener or for a connection of its own: read from `/proc`, as far as this user may.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The state `LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The process that has a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its short name.
    pub name: Box<str>,
    /// Its program file, when this user may see it.
    pub program: Option<PathBuf>,
    /// Nobody listens there: the port is its end of a connection to this address. The system gives such ports out.
    pub connection: Option<Box<SocketAddr>>,
}

/// A socket that stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    inode: u64,
    /// The other end, when it is no listener.
    peer: Option<SocketAddr>,
}

impl Holder {
    /// Looks for the listener that stands in the way of `address`, or else for the connection that does.
    pub(super) fn of(address: SocketAddr) -> Option<Self> {
        let all: Vec<Socket> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .flat_map(|table| sockets_at(&table, address))
            .collect();
        // A server has connections at its port, too.
        let listens = all.iter().any(|socket| socket.peer.is_none());
        let sockets: Vec<Socket> = all.into_iter().filter(|socket| socket.peer.is_none() == listens).collect();
        if sockets.is_empty() {
            return None;
        }
        let mut processes = fs::read_dir("/proc").ok()?.flatten();
        processes.find_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let socket = socket_of(&process.path(), &sockets)?;
            Some(Self { connection: socket.peer.map(Box::new), ..Self::read(pid, &process.path()) })
        })
    }

    fn read(pid: u32, process: &Path) -> Self {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let program = fs::read_link(process.join("exe")).ok();
        Self { pid, name: name.trim().into(), program, connection: None }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "a process" } else { &*self.name };
        write!(f, "{name} (pid {}", self.pid)?;
        // One program may have many names: the path of another name would only confuse.
        let is_named = |program: &&PathBuf| {
            // The system keeps the first 15 bytes of a command.
            let file = program.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
            self.name.is_empty()
                || file == self.name.as_bytes()
                || self.name.len() == 15 && file.starts_with(self.name.as_bytes())
        };
        if let Some(program) = self.program.as_ref().filter(is_named) {
            write!(f, ", {}", program.display())?;
        }
        f.write_str(")")?;
        match &self.connection {
            Some(peer) => write!(f, " for its connection to {peer}"),
            None => Ok(()),
        }
    }
}

/// The sockets in `table` whose own end is `address` or a wildcard that covers it.
fn sockets_at(table: &str, address: SocketAddr) -> Vec<Socket> {
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let found = parse_address(fields.nth(1)?)?;
        let peer = parse_address(fields.next()?)?;
        let state = fields.next()?;
        let inode = fields.nth(5)?.parse().ok()?;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let socket = Socket { inode, peer: (state != LISTEN).then_some(peer) };
        (found.port() == address.port() && overlaps(found.ip(), address.ip())).then_some(socket)
    };
    table.lines().skip(1).filter_map(socket).collect()
}

fn overlaps(held: IpAddr, wanted: IpAddr) -> bool {
    held.is_unspecified() || wanted.is_unspecified() || held.to_canonical() == wanted.to_canonical()
}

/// `0100007F:1F90`: the address as 32-bit words in this machine's byte order, the port as a number.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The one of the sockets that a process has.
fn socket_of(process: &Path, sockets: &[Socket]) -> Option<Socket> {
    fs::read_dir(process.join("fd")).ok()?.flatten().find_map(|descriptor| {
        let link = fs::read_link(descriptor.path()).ok()?;
        let inode: u64 = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        sockets.iter().find(|socket| socket.inode == inode).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1538 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_table_gives_listening_sockets_of_the_address_and_of_wildcards() {
        let inodes = |address: &str| {
            let all = sockets_at(TABLE, address.parse().unwrap());
            let listeners = all.into_iter().filter(|socket| socket.peer.is_none());
            listeners.map(|socket| socket.inode).collect::<Vec<_>>()
        };
        assert_eq!(inodes("127.0.0.1:5432"), [4711]);
        assert_eq!(inodes("0.0.0.0:5432"), [4711]);
        assert_eq!(inodes("10.0.0.1:5432"), [0; 0]);
        assert_eq!(inodes("127.0.0.1:8080"), [4713]);
        assert_eq!(inodes("127.0.0.1:81"), [0; 0]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ipv6_addresses_are_read_word_by_word() {
        let found = parse_address("00000000000000000000000001000000:0050").unwrap();
        let (ip, port) = (found.ip(), found.port());
        assert_eq!((ip, port), ("::1".parse().unwrap(), 80));
    }

    #[test]
    fn whoever_has_a_port_for_a_connection_of_its_own_is_named_with_the_connection() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let holder = Holder::of(client.local_addr().unwrap()).expect("somebody has it");
        let peer = server.local_addr().ok().map(Box::new);
        assert_eq!((holder.pid, &holder.connection), (std::process::id(), &peer));
        assert!(holder.to_string().ends_with(&format!("for its connection to {}", server.local_addr().unwrap())));
        // A server's own connections are not why its port is taken.
        let (_accepted, _) = server.accept().unwrap();
        assert_eq!(Holder::of(server.local_addr().unwrap()).unwrap().connection, None);
    }

    #[test]
    fn damaged_lines_are_skipped() {
        for line in ["", "x", "0100007F", "0100007F:zz", "01:0050", "é100007F:0050"] {
            assert_eq!(parse_address(line), None, "{line}");
        }
    }

    #[test]
    fn a_holder_reads_as_in_the_interface_page() {
        let program = Some("/usr/lib/postgresql/15/bin/postgres".into());
        let mut holder = Holder { pid: 812, name: "postgres".into(), program, connection: None };
        assert_eq!(holder.to_string(), "postgres (pid 812, /usr/lib/postgresql/15/bin/postgres)");
        holder.program = Some("/usr/bin/redis-check-rdb".into());
        assert_eq!(holder.to_string(), "postgres (pid 812)", "another name of the same program");
        (holder.name, holder.program) = ("a-program-of-lo".into(), Some("/bin/a-program-of-long-name".into()));
        assert_eq!(holder.to_string(), "a-program-of-lo (pid 812, /bin/a-program-of-long-name)", "15 bytes are kept");
        holder.name = "postgres".into();
        holder.program = None;
        assert_eq!(holder.to_string(), "postgres (pid 812)");
        holder.connection = Some(Box::new("10.0.0.7:443".parse().unwrap()));
        assert_eq!(holder.to_string(), "postgres (pid 812) for its connection to 10.0.0.7:443");
    }
}
