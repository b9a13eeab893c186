//! What a stream carries while somebody looks.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::stand::{Stand, end};
use super::{Figure, Peer, told};
use crate::asked::Options;
use crate::k8s::figures::median;

/// Windows with him who looks, in a round.
const PAIRS: usize = 6;
/// Milliseconds of a window.
const WINDOW: u64 = 400;
/// Bytes of a read and a write.
const PIECE: usize = 256 * 1024;

/// What is measured.
pub(super) const FIGURES: &[Figure] =
    &[Figure::higher("without, GB/s", 2), Figure::higher("with, % of that", 2).values(99.0, 99.8)];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(told)?;
    let mut client = TcpStream::connect(listener.local_addr().map_err(told)?).map_err(told)?;
    let mut served = listener.accept().map_err(told)?.0;
    let reader = std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while served.read(&mut piece).is_ok_and(|got| got > 0) {}
    });
    let window = options.window(WINDOW);
    let (mut without, mut parts) = (Vec::new(), Vec::new());
    carried(&mut client, window)?;
    let mut before = carried(&mut client, window)?;
    for _ in 0..options.count(PAIRS) {
        let watcher = stand.watcher(peer)?;
        let with = carried(&mut client, window)?;
        end(&watcher)?;
        let after = carried(&mut client, window)?;
        parts.push(with / before.midpoint(after) * 100.0);
        without.push(before.midpoint(after));
        before = after;
    }
    drop(client);
    reader.join().map_err(|_| "the reader has failed".to_owned())?;
    Ok([without, parts].map(|all| median(all).unwrap_or(f64::NAN)).to_vec())
}

/// Gigabytes a second.
fn carried(client: &mut TcpStream, window: Duration) -> Result<f64, String> {
    let piece = vec![1; PIECE];
    let (start, mut bytes) = (Instant::now(), 0_usize);
    while start.elapsed() < window {
        client.write_all(&piece).map_err(told)?;
        bytes += piece.len();
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64() / 1e9)
}
