//! TLS that is handed on unread: bulk both ways, and new connections. See [`super::service`] for what is carried.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit::noise;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::Figure;
use super::stand::{Peer, Stand, micros};
use crate::asked::Options;
use crate::runtimes;

/// Bytes each way.
const BYTES: usize = 1 << 30;
/// Bytes of one call.
const CHUNK: usize = 256 << 10;
/// Clients that connect at the same time.
const CLIENTS: usize = 16;
/// A connection that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::higher("down: GiB per CPU second", 2).times(Peer::Haproxy, 0.8, 1.0),
    Figure::higher("up: GiB per CPU second", 2).times(Peer::Haproxy, 0.8, 1.0),
    Figure::higher("new connections per CPU second", 0).times(Peer::Haproxy, 0.8, 1.0),
    Figure::lower("down: CPU s/GiB", 3),
    Figure::lower("up: CPU s/GiB", 3),
    Figure::lower("CPU µs/connection", 1),
    Figure::higher("down: MB/s", 0),
    Figure::higher("up: MB/s", 0),
    Figure::higher("new connections/s", 0),
    Figure::lower("connections failed", 0),
];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let entrance = stand.tls(peer)?;
    let bytes = options.count(BYTES);
    let (mut per_second, mut cost, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for transfer in [down, up] {
        let (start, before) = (Instant::now(), entrance.cpu());
        transfer(stand, entrance.addr, bytes).map_err(|error| entrance.failed(&error))?;
        let (elapsed, cpu) = (start.elapsed(), entrance.cpu().saturating_sub(before));
        let gib = bytes as f64 / (1_u64 << 30) as f64;
        per_second.push(gib / cpu.as_secs_f64());
        cost.push(cpu.as_secs_f64() / gib);
        rates.push(bytes as f64 / 1e6 / elapsed.as_secs_f64());
    }
    let runtime = runtimes::single()?;
    let greeting: Arc<[u8]> = stand.greeting(b"p").into();
    let before = entrance.cpu();
    let (made, failed, elapsed) = runtime.block_on(connect(entrance.addr, &greeting, options.window(3000)));
    let cpu = entrance.cpu().saturating_sub(before);
    if made == 0 {
        return Err(entrance.failed(&"no connection was carried"));
    }
    per_second.push(made as f64 / cpu.as_secs_f64());
    cost.push(micros(cpu, made));
    rates.extend([made as f64 / elapsed.as_secs_f64(), failed as f64]);
    Ok([per_second, cost, rates].concat())
}

fn down(stand: &Stand, addr: SocketAddr, bytes: usize) -> io::Result<()> {
    let mut stream = stand.greet(addr, &wanted(b'd', bytes))?;
    let mut buffer = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => left = left.saturating_sub(got),
        }
    }
    Ok(())
}

fn up(stand: &Stand, addr: SocketAddr, bytes: usize) -> io::Result<()> {
    let mut stream = stand.greet(addr, &wanted(b'u', bytes))?;
    let chunk = noise::bytes(9, CHUNK);
    let mut left = bytes;
    while left > 0 {
        let most = left.min(CHUNK);
        stream.write_all(&chunk[..most])?;
        left -= most;
    }
    stream.read_exact(&mut [0])
}

fn wanted(verb: u8, bytes: usize) -> Vec<u8> {
    [&[verb][..], &(bytes as u64).to_be_bytes()].concat()
}

/// New connections, as fast as they end: how many ended well, how many did not, in what time.
async fn connect(addr: SocketAddr, greeting: &Arc<[u8]>, time: Duration) -> (u64, u64, Duration) {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let greeting = Arc::clone(greeting);
        clients.spawn(async move {
            let (mut made, mut failed) = (0, 0);
            while start.elapsed() < time {
                match tokio::time::timeout(DEADLINE, once(addr, &greeting)).await {
                    Ok(Ok(())) => made += 1,
                    Ok(Err(_)) | Err(_) => failed += 1,
                }
            }
            (made, failed)
        });
    }
    let all = clients.join_all().await;
    let sum = |sum: (u64, u64), one: &(u64, u64)| (sum.0 + one.0, sum.1 + one.1);
    let (made, failed) = all.iter().fold((0, 0), sum);
    (made, failed, start.elapsed())
}

async fn once(addr: SocketAddr, greeting: &[u8]) -> io::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(greeting).await?;
    stream.read_exact(&mut [0]).await?;
    // The service ends first, so that this side's ports are not used up by TIME_WAIT.
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
