//! Plain TCP: every address of the host is tried, a slow one does not hold up the next.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until};

use super::{BoxFuture, Connect, ConnectError, Io};
use crate::socket;

/// How long one address may keep silent before the next is tried beside it (RFC 8305 says 250 ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// A host with more addresses than this has the rest ignored: the deadline would pass anyway.
const ADDRESSES_MAX: usize = 16;

/// Opens TCP connections to one host and port.
#[derive(Clone, Debug)]
pub struct TcpConnect {
    host: String,
    port: u16,
    timeout: Duration,
}

impl TcpConnect {
    /// Connects to `host` (a name, or an address with or without brackets); `timeout` covers the
    /// look-up and all addresses together.
    #[must_use]
    pub fn new(host: &str, port: u16, timeout: Duration) -> Self {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Self { host: bare.unwrap_or(host).to_owned(), port, timeout }
    }

    /// Opens one connection.
    ///
    /// # Errors
    /// [`ConnectError`], of the most telling of the addresses that were tried.
    pub async fn open(&self) -> Result<TcpStream, ConnectError> {
        let Ok(result) = tokio::time::timeout(self.timeout, self.try_all()).await else {
            return Err(ConnectError::Timeout { target: self.describe(), after: self.timeout });
        };
        result
    }

    async fn try_all(&self) -> Result<TcpStream, ConnectError> {
        let addresses =
            self.resolve().await.map_err(|source| ConnectError::Resolve { target: self.describe(), source })?;
        race(&addresses).await.map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::TIMEDOUT) => ConnectError::Timeout { target: self.describe(), after: self.timeout },
            _ => ConnectError::from_io(self.describe(), source),
        })
    }

    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        if socket::is_loopback_host(&self.host) {
            // A service may listen on one family only; no need to ask a resolver either.
            let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Ok(both.map(|ip| SocketAddr::new(ip, self.port)).to_vec());
        }
        let found: Vec<_> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(alternate_families(found))
    }
}

impl Connect for TcpConnect {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(async { self.open().await.map(Io::Tcp) })
    }

    fn describe(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The first connection to succeed. The next address gets its turn when the latest attempt failed
/// or was silent for [`NEXT_ADDRESS_AFTER`].
async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return connect_one(*only).await;
    }
    let mut waiting = addresses.iter().copied();
    let mut attempts: Vec<BoxFuture<'static, io::Result<TcpStream>>> = Vec::new();
    let mut worst: Option<io::Error> = None;
    let next_turn = sleep_until(Instant::now());
    tokio::pin!(next_turn);
    poll_fn(|cx| {
        loop {
            let mut failed = false;
            let mut at = 0;
            while at < attempts.len() {
                match attempts[at].as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok(stream)),
                    Poll::Ready(Err(error)) => {
                        drop(attempts.remove(at));
                        failed = true;
                        worst = Some(more_telling(worst.take(), error));
                    }
                    Poll::Pending => at += 1,
                }
            }
            let due = failed || attempts.is_empty() || next_turn.as_mut().poll(cx).is_ready();
            if !due {
                return Poll::Pending;
            }
            match waiting.next() {
                Some(address) => {
                    attempts.push(Box::pin(connect_one(address)));
                    next_turn.as_mut().reset(Instant::now() + NEXT_ADDRESS_AFTER);
                }
                None if attempts.is_empty() => {
                    let error = worst.take();
                    return Poll::Ready(Err(error.unwrap_or_else(|| io::ErrorKind::NotFound.into())));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

async fn connect_one(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Err(error) = socket::tune_towards(&socket, address.ip()) {
        tracing::debug!(%address, %error, "socket options not set");
    }
    socket.connect(address).await
}

/// "Refused" says more than "no route to the other family's address".
fn more_telling(known: Option<io::Error>, new: io::Error) -> io::Error {
    let rank = |error: &io::Error| match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => 3,
        Some(Errno::TIMEDOUT) => 2,
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::NETUNREACH) => 0,
        _ => 1,
    };
    match known {
        Some(known) if rank(&known) >= rank(&new) => known,
        _ => new,
    }
}

/// The families in turn, the resolver's favourite first.
fn alternate_families(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (favoured, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut ordered = Vec::new();
    for address in favoured {
        ordered.push(address);
        ordered.extend(other.next());
    }
    ordered.extend(other);
    ordered.truncate(ADDRESSES_MAX);
    ordered
}

#[cfg(test)]
mod tests {
    use adit_core::diagnose::Diagnose;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// An address nobody listens on, nor can as long as the socket is there.
    fn closed() -> (TcpSocket, SocketAddr) {
        let held = TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = held.local_addr().unwrap();
        (held, address)
    }

    #[tokio::test]
    async fn a_stream_to_the_target_carries_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut io = TcpConnect::new("127.0.0.1", port, DEADLINE).connect().await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        io.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        served.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        assert!(io.tcp().unwrap().nodelay().unwrap());
    }

    #[tokio::test]
    async fn localhost_reaches_a_service_on_either_family() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind).await else {
                continue; // a machine without IPv6
            };
            let port = listener.local_addr().unwrap().port();
            TcpConnect::new("localhost", port, DEADLINE).open().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_named() {
        let (_held, address) = closed();
        let port = address.port();
        for host in ["127.0.0.1", "localhost"] {
            let error = TcpConnect::new(host, port, DEADLINE).open().await.unwrap_err();
            assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
            assert_eq!(error.to_string(), format!("{host}:{port} refused the connection"));
            assert!(error.hint().is_some());
        }
    }

    #[tokio::test]
    async fn a_full_backlog_ends_in_a_time_out() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let port = listener.local_addr().unwrap().port();
        let patience = Duration::from_millis(100);
        let connect = TcpConnect::new("127.0.0.1", port, patience);
        let mut held = Vec::new();
        let error = loop {
            assert!(held.len() < 64, "the backlog of one never fills");
            match connect.open().await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert!(error.is_timeout(), "{error:?}");
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hold_up_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let (_held, dead) = closed();
        let stream = race(&[dead, dead, alive]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        let error = race(&[dead, dead]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn brackets_are_for_messages_only() {
        let connect = TcpConnect::new("[::1]", 80, DEADLINE);
        assert_eq!(connect.host, "::1");
        assert_eq!(connect.describe(), "[::1]:80");
    }

    #[test]
    fn families_alternate_and_the_resolvers_favourite_leads() {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        assert_eq!(alternate_families(found), parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
    }

    #[test]
    fn a_refusal_is_reported_rather_than_a_missing_family() {
        let worst = more_telling(Some(Errno::NETUNREACH.into()), Errno::CONNREFUSED.into());
        assert_eq!(worst.kind(), io::ErrorKind::ConnectionRefused);
        let worst = more_telling(Some(worst), Errno::AFNOSUPPORT.into());
        assert_eq!(worst.kind(), io::ErrorKind::ConnectionRefused);
    }
}
