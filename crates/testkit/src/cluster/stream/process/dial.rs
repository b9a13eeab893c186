//! How a program in a pod reaches a host, and both directions of what it then copies.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Process;
use crate::cluster::stream::inside::Host;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    Refused(IpAddr),
    TimedOut(IpAddr),
    NoRoute(IpAddr),
    Unknown,
}

impl Unreachable {
    /// The address that was tried and the system's words; `None` for a name nobody knows.
    pub(super) fn reason(self) -> Option<(IpAddr, &'static str)> {
        match self {
            Self::Refused(ip) => Some((ip, "Connection refused")),
            Self::TimedOut(ip) => Some((ip, "Connection timed out")),
            Self::NoRoute(ip) => Some((ip, "No route to host")),
            Self::Unknown => None,
        }
    }
}

/// Connects as a process in the pod does.
pub(super) async fn connect(
    process: &Process,
    host: &str,
    port: u16,
    wait: Option<Duration>,
) -> Result<Arc<TcpStream>, Unreachable> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let literal = host.parse::<IpAddr>().ok();
    let key = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let inside = process.shared.faults.streams.inside();
    let (ns, pod) = (&process.target.namespace, &process.target.pod);
    let shown = literal.unwrap_or(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)));
    let own = host.eq_ignore_ascii_case("localhost") || literal.is_some_and(|ip| ip.is_loopback());
    let found = match inside.host(ns, pod, &key) {
        Some(found) => found,
        None if own => process.shared.backend(ns, pod, port).map_or(Host::Refused, Host::At),
        None if literal.is_some() => return Err(Unreachable::NoRoute(shown)),
        None => Host::Unknown,
    };
    let address = match found {
        Host::At(address) => address,
        Host::Refused => {
            let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
            return Err(Unreachable::Refused(if own { literal.unwrap_or(localhost) } else { shown }));
        }
        Host::TimesOut => {
            let limit = inside.connect_timeout();
            sleep(wait.map_or(limit, |wait| wait.min(limit))).await;
            return Err(Unreachable::TimedOut(shown));
        }
        Host::Unknown => return Err(Unreachable::Unknown),
    };
    let limit = wait.unwrap_or_else(|| inside.connect_timeout());
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => {
            // Best effort: a socket that is already dead refuses the option.
            let _ = socket.set_nodelay(true);
            Ok(Arc::new(socket))
        }
        Ok(Err(_)) => Err(Unreachable::Refused(literal.unwrap_or(address.ip()))),
        Err(_) => Err(Unreachable::TimedOut(literal.unwrap_or(address.ip()))),
    }
}

/// Copies stdin into the socket until its end.
pub(super) async fn up(process: &Process, socket: &Arc<TcpStream>) -> io::Result<()> {
    process.stdin.drain(socket).await
}

/// Ends the direction to the host.
pub(super) fn half_close(socket: &TcpStream) {
    // Best effort: the host may have reset the connection already.
    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Write);
}

/// Copies the socket to stdout until its end, or until nothing came for `idle`. May be dropped and called again.
pub(super) async fn down(process: &Process, socket: &TcpStream, idle: Option<Duration>) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        match idle {
            None => socket.readable().await?,
            Some(idle) => match timeout(idle, socket.readable()).await {
                Ok(ready) => ready?,
                Err(_) => return Ok(()),
            },
        }
        process.console.room().await?;
        match process.console.copy(socket, &mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
}
