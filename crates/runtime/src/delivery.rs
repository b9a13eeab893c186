//! Whether what a TCP connection sends arrives, as far as this machine's system knows.
//!
//! A peer that says nothing may be busy, or the way to it may be dead. Of a program that is busy or stands still the system
//! beside it acknowledges all the same.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

/// So often in a row something was sent again before the way counts as dead: twice is a moment on a bad one.
const AGAIN: u32 = 3;
/// The kernel waits for an acknowledgement, to send it once more.
const RETRANSMITS: &str = "01";

/// The two ends of a TCP connection, by which the system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    local: SocketAddr,
    peer: SocketAddr,
}

impl Ends {
    /// Those of a connection.
    ///
    /// # Errors
    /// When it has none any more.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self { local: stream.local_addr()?, peer: stream.peer_addr()? })
    }

    /// Whether nothing of what is sent arrives: it was sent again and again, and not even the peer's system has said that it
    /// has it. Reads a line for each connection of this machine, so it may take a moment. Systems that do not tell are
    /// believed to deliver.
    #[must_use]
    pub fn are_cut_off(self) -> bool {
        let table = if self.local.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
        self.are_cut_off_by(&fs::read_to_string(table).unwrap_or_default())
    }

    fn are_cut_off_by(self, table: &str) -> bool {
        let ours = format!("{} {} ", in_kernels_words(self.local), in_kernels_words(self.peer));
        let Some(rest) = table.lines().find_map(|line| line.split_once(&ours)) else { return false };
        // The state, what waits to be sent and to be read, the timer, how often it was sent again.
        let mut fields = rest.1.split_ascii_whitespace().skip(2);
        let timer = fields.next().and_then(|timer| timer.split_once(':')).map(|(kind, _)| kind);
        let again = fields.next().and_then(|count| u32::from_str_radix(count, 16).ok());
        timer == Some(RETRANSMITS) && again >= Some(AGAIN)
    }
}

/// The address in words of 32 bits as they stand in memory, and the port.
fn in_kernels_words(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) => word(ip.octets()),
        IpAddr::V6(ip) => ip.octets().as_chunks().0.iter().copied().map(word).collect(),
    };
    format!("{ip}:{:04X}", address.port())
}

fn word(octets: [u8; 4]) -> String {
    format!("{:08X}", u32::from_ne_bytes(octets))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn table(timer: &str, again: &str) -> String {
        let (ours, theirs) = ("127.0.0.1:40000".parse().unwrap(), "10.0.0.1:22".parse().unwrap());
        let (ours, theirs) = (in_kernels_words(ours), in_kernels_words(theirs));
        format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
             \x20  0: {ours} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
             \x20  1: {ours} {theirs} 01 00000024:00000000 {timer}:00000014 {again}     0\n"
        )
    }

    #[test]
    fn a_way_is_dead_when_what_was_sent_is_sent_again_and_again() {
        let ends = Ends { local: "127.0.0.1:40000".parse().unwrap(), peer: "10.0.0.1:22".parse().unwrap() };
        assert!(ends.are_cut_off_by(&table("01", "00000003")) && ends.are_cut_off_by(&table("01", "0000000A")));
        assert!(!ends.are_cut_off_by(&table("01", "00000002")), "for a moment");
        assert!(!ends.are_cut_off_by(&table("04", "00000005")), "it is full, and says so");
        assert!(!ends.are_cut_off_by(&table("00", "00000000")) && !ends.are_cut_off_by(""));
        let other = Ends { peer: "10.0.0.2:22".parse().unwrap(), ..ends };
        assert!(!other.are_cut_off_by(&table("01", "00000003")));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_is_in_the_systems_table_by_its_ends() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind).await else {
                continue; // a machine without IPv6
            };
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let ends = Ends::of(&stream).unwrap();
            let table =
                fs::read_to_string(if bind.contains('[') { "/proc/net/tcp6" } else { "/proc/net/tcp" }).unwrap();
            let ours = format!("{} {} ", in_kernels_words(ends.local), in_kernels_words(ends.peer));
            assert!(table.contains(&ours), "{ours} in {table}");
            assert!(!ends.are_cut_off());
        }
    }
}
