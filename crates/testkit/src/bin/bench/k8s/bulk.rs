//! One large download and one large upload, each of a known length.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::noise;

use super::client::{Stand, Who};
use super::figures::Figure;
use super::load;
use super::options::Options;

/// Bytes down.
const DOWN: usize = 1 << 30;
/// Bytes up.
const UP: usize = 512 << 20;
/// Bytes of one call.
const CHUNK: usize = 256 << 10;
/// Longest pause within a transfer.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("down: client CPU, s/GiB", 2).times(0.4, 0.2),
    Figure::higher("down: MiB/s", 0).times(1.1, 1.3),
    Figure::lower("up: client CPU, s/GiB", 2).times(0.4, 0.2),
    Figure::higher("up: MiB/s", 0).times(1.2, 1.3),
    Figure::lower("resident at most, MiB", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, who: Who, options: &Options) -> Result<Vec<f64>, String> {
    let forward = stand.forward(who, "web")?;
    let mut values = Vec::new();
    let ways = [(down as fn(SocketAddr, usize) -> io::Result<()>, forward.raw, DOWN), (up, forward.web, UP)];
    for (transfer, addr, bytes) in ways {
        let bytes = options.count(bytes);
        let (start, cpu) = (Instant::now(), forward.cpu());
        transfer(addr, bytes).map_err(|error| format!("{error}; its output:\n{}", forward.output()))?;
        let (elapsed, cpu) = (start.elapsed(), forward.cpu().saturating_sub(cpu));
        values.push(cpu.as_secs_f64() * (1_u64 << 30) as f64 / bytes as f64);
        values.push(bytes as f64 / f64::from(1 << 20) / elapsed.as_secs_f64());
    }
    values.push(forward.usage().peak as f64 / f64::from(1 << 20));
    Ok(values)
}

/// Takes so many bytes from the TCP service.
pub(crate) fn down(raw: SocketAddr, bytes: usize) -> io::Result<()> {
    let mut stream = load::open(raw, DEADLINE)?;
    stream.write_all(format!("source {bytes}\n").as_bytes())?;
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

/// Gives so many bytes to the HTTP service, whose answer says that all has arrived without the client's end of file, which no forward can carry.
pub(crate) fn up(web: SocketAddr, bytes: usize) -> io::Result<()> {
    let mut stream = load::open(web, DEADLINE)?;
    let head = format!("POST /sink HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let chunk = noise::bytes(9, CHUNK);
    let mut left = bytes;
    while left > 0 {
        let most = left.min(CHUNK);
        stream.write_all(&chunk[..most])?;
        left -= most;
    }
    let (mut answer, end) = (Vec::new(), bytes.to_string());
    let mut buffer = [0; 1024];
    while !answer.ends_with(end.as_bytes()) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::other(format!("the answer was {:?}", String::from_utf8_lossy(&answer)))),
            got => answer.extend_from_slice(&buffer[..got]),
        }
    }
    Ok(())
}
