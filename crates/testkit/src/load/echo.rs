//! Bytes out and the same bytes back: small ones for latency, large ones for truth.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::histogram::Histogram;
use super::pace::Pace;
use crate::noise;
use crate::task::Group;

/// An echo that takes longer is an error.
const DEADLINE: Duration = Duration::from_secs(30);

/// Echoes `size` bytes over one stream for `duration`, resting `gap` in between, and returns the round-trip times.
pub async fn ping(addr: SocketAddr, size: usize, gap: Duration, duration: Duration) -> io::Result<Histogram> {
    let mut stream = open(addr).await?;
    let mut pace = Pace::new()?;
    let sent = noise::bytes(3, size);
    let mut got = vec![0; size];
    let mut histogram = Histogram::default();
    let start = Instant::now();
    while start.elapsed() < duration {
        let began = Instant::now();
        stream.write_all(&sent).await?;
        timeout(DEADLINE, stream.read_exact(&mut got)).await.map_err(|_| late())??;
        histogram.record(began.elapsed());
        if got != sent {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the echo differs"));
        }
        pace.rest(gap).await?;
    }
    Ok(histogram)
}

/// Sends all of `sent`, half-closes, and returns what came back until the end.
pub async fn echo_whole(addr: SocketAddr, sent: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = open(addr).await?;
    let (mut from, mut to) = stream.split();
    let send = async {
        to.write_all(sent).await?;
        to.shutdown().await
    };
    let receive = async {
        let mut got = Vec::with_capacity(sent.len());
        from.read_to_end(&mut got).await?;
        Ok(got)
    };
    let both = async { tokio::try_join!(send, receive) };
    timeout(DEADLINE, both).await.map_err(|_| late())?.map(|((), got)| got)
}

/// Sends `streams` × `size` bytes of different noise through echo at the same time; returns how many came back equal.
pub async fn noise_echo(addr: SocketAddr, streams: usize, size: usize) -> usize {
    let mut echoes = Group::new();
    for seed in 0..streams {
        echoes.spawn(async move {
            let sent = noise::bytes(1000 + seed as u64, size);
            echo_whole(addr, &sent).await.is_ok_and(|got| got == sent)
        });
    }
    let mut equal = 0;
    while let Some(echo) = echoes.next().await {
        equal += usize::from(echo.is_ok_and(|same| same));
    }
    equal
}

async fn open(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(b"echo\n").await?;
    Ok(stream)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the echo took too long")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{noise_echo, ping};
    use crate::origin::TcpOrigin;

    #[tokio::test]
    async fn pings_are_counted() {
        let origin = TcpOrigin::start().await.unwrap();
        let times = ping(origin.addr(), 64, Duration::from_micros(200), Duration::from_millis(100)).await.unwrap();
        assert!(times.count() > 10, "{}", times.count());
    }

    #[tokio::test]
    async fn noise_comes_back_equal() {
        let origin = TcpOrigin::start().await.unwrap();
        assert_eq!(noise_echo(origin.addr(), 4, 1 << 20).await, 4);
    }
}
