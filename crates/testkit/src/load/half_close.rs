//! Six ways two ends may end a TCP conversation one direction at a time; all of them work on a bare connection.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::echo::echo_whole;
use crate::noise;

/// Size of the cases that need more than a buffer's worth.
const LARGE: usize = 1 << 20;
/// How often a tally is asked for again while the origin is still reading.
const TALLY_PAUSE: Duration = Duration::from_millis(10);

/// Runs all six against a [`crate::origin::TcpOrigin`] at `addr`, each under `deadline`; says what failed and how.
pub async fn half_close(addr: SocketAddr, deadline: Duration) -> Vec<(&'static str, Result<(), String>)> {
    vec![
        ("echo_small", within(deadline, echo(addr, 1000)).await),
        ("echo_1m", within(deadline, echo(addr, 1 << 20)).await),
        ("echo_8m", within(deadline, echo(addr, 8 << 20)).await),
        ("sink_then_answer", within(deadline, sink_then_answer(addr)).await),
        ("server_first", within(deadline, server_first(addr)).await),
        ("client_first", within(deadline, client_first(addr)).await),
    ]
}

/// The client ends after its last byte and still gets everything back.
async fn echo(addr: SocketAddr, size: usize) -> io::Result<()> {
    let sent = noise::bytes(size as u64, size);
    let got = echo_whole(addr, &sent).await?;
    check(got == sent, || format!("{} of {size} bytes came back right", same(&sent, &got)))
}

/// The server answers only when it has seen the client's end.
async fn sink_then_answer(addr: SocketAddr) -> io::Result<()> {
    let mut stream = open(addr, "sink\n").await?;
    stream.write_all(&noise::bytes(5, LARGE)).await?;
    stream.shutdown().await?;
    let answer = rest(&mut stream).await?;
    check(answer == LARGE.to_string(), || format!("the answer after the end was {answer:?}"))
}

/// The server ends first; what the client sends after that still arrives.
async fn server_first(addr: SocketAddr) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let key = format!("first-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut stream = open(addr, &format!("first {key}\n")).await?;
    let hello = rest(&mut stream).await?;
    check(hello == "hello", || format!("the server's first words were {hello:?}"))?;
    stream.write_all(&noise::bytes(6, LARGE)).await?;
    stream.shutdown().await?;
    loop {
        let tally = rest(&mut open(addr, &format!("tally {key}\n")).await?).await?;
        match tally.split_once(' ') {
            Some(("open", _)) => tokio::time::sleep(TALLY_PAUSE).await,
            Some((_, count)) => {
                return check(count == LARGE.to_string(), || {
                    format!("{count} of {LARGE} bytes arrived after the server's end")
                });
            }
            None => return check(false, || format!("the tally was {tally:?}")),
        }
    }
}

/// The client has its answer and ends; the server sees it and ends too.
async fn client_first(addr: SocketAddr) -> io::Result<()> {
    let mut stream = open(addr, "echo\n").await?;
    let sent = noise::bytes(7, 1000);
    stream.write_all(&sent).await?;
    let mut got = vec![0; sent.len()];
    stream.read_exact(&mut got).await?;
    stream.shutdown().await?;
    let rest = rest(&mut stream).await?;
    check(got == sent && rest.is_empty(), || "the answer or the end was wrong".to_owned())
}

async fn open(addr: SocketAddr, command: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(command.as_bytes()).await?;
    Ok(stream)
}

async fn rest(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

async fn within(deadline: Duration, case: impl Future<Output = io::Result<()>>) -> Result<(), String> {
    match timeout(deadline, case).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("took too long".to_owned()),
    }
}

fn check(holds: bool, what: impl Fn() -> String) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(what())) }
}

fn same(one: &[u8], two: &[u8]) -> usize {
    one.iter().zip(two).take_while(|(one, two)| one == two).count()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::half_close;
    use crate::origin::TcpOrigin;

    #[tokio::test]
    async fn a_bare_connection_passes_all_six() {
        let origin = TcpOrigin::start().await.unwrap();
        let results = half_close(origin.addr(), Duration::from_secs(10)).await;
        assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
    }
}
