//! Who listens on a port: read from `/proc`, as far as this user may.

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
    pub name: String,
    /// Its program file, when this user may see it.
    pub program: Option<PathBuf>,
}

impl Holder {
    /// Looks for the listener that stands in the way of `address`.
    pub(super) fn of(address: SocketAddr) -> Option<Self> {
        let inodes: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .flat_map(|table| listening_inodes(&table, address))
            .collect();
        if inodes.is_empty() {
            return None;
        }
        let mut processes = fs::read_dir("/proc").ok()?.flatten();
        processes.find_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            has_socket(&process.path(), &inodes).then(|| Self::read(pid, &process.path()))
        })
    }

    fn read(pid: u32, process: &Path) -> Self {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        Self { pid, name: name.trim().to_owned(), program: fs::read_link(process.join("exe")).ok() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "a process" } else { &self.name };
        write!(f, "{name} (pid {}", self.pid)?;
        if let Some(program) = &self.program {
            write!(f, ", {}", program.display())?;
        }
        f.write_str(")")
    }
}

/// The inodes of the sockets in `table` that listen on `address` or on a wildcard that covers it.
fn listening_inodes(table: &str, address: SocketAddr) -> Vec<u64> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = fields.nth(1)?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?.parse().ok()?;
            let found = parse_address(local)?;
            (state == LISTEN && found.port() == address.port() && overlaps(found.ip(), address.ip())).then_some(inode)
        })
        .collect()
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

fn has_socket(process: &Path, inodes: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path())
            .ok()
            .and_then(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
            .is_some_and(|inode: u64| inodes.contains(&inode))
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
        let inodes = |address: &str| listening_inodes(TABLE, address.parse().unwrap());
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
    fn damaged_lines_are_skipped() {
        for line in ["", "x", "0100007F", "0100007F:zz", "01:0050", "é100007F:0050"] {
            assert_eq!(parse_address(line), None, "{line}");
        }
    }

    #[test]
    fn a_holder_reads_as_in_the_interface_page() {
        let mut holder =
            Holder { pid: 812, name: "postgres".into(), program: Some("/usr/lib/postgresql/15/bin/postgres".into()) };
        assert_eq!(holder.to_string(), "postgres (pid 812, /usr/lib/postgresql/15/bin/postgres)");
        holder.program = None;
        assert_eq!(holder.to_string(), "postgres (pid 812)");
    }
}
