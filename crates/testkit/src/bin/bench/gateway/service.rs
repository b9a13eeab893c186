//! `bench hello`: a service behind a server name, in a process of its own. It reads a ClientHello and then speaks a
//! little protocol of its own in the clear: what the proxies hand on unread need not be encrypted, and encryption would
//! only take CPU from what is measured.
//!
//! | after the hello | what it does |
//! |---|---|
//! | `p` | sends one byte and ends, as does the client |
//! | `e` | sends every byte back |
//! | `d` and a length of 8 bytes | sends so many bytes |
//! | `u` and a length of 8 bytes | reads so many bytes, then sends one |

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use testkit::noise;
use testkit::process::{Process, raise_descriptor_limit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::runtimes;

/// How long the child may take to say where it listens.
const READY: Duration = Duration::from_secs(10);
/// Bytes of one call.
const CHUNK: usize = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// The child process, seen from the bench.
#[derive(Debug)]
pub(crate) struct HelloService {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    _process: Process,
}

impl HelloService {
    /// Starts this binary again as the service.
    pub(crate) fn start() -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let process = Process::start(Command::new(this).arg("hello")).map_err(|error| error.to_string())?;
        let line = process.wait_line(READY, |line| line.starts_with("hello ")).map_err(|error| error.to_string())?;
        let addr = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok(Self { addr: addr.ok_or_else(|| format!("the service said {line:?}"))?, _process: process })
    }
}

/// The child's own main: serves until its stdin ends.
pub(crate) fn run() -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    raise_descriptor_limit().map_err(told)?;
    let runtime = runtimes::apart(2)?;
    let addr = runtime.block_on(start()).map_err(told)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "hello {addr}").and_then(|()| stdout.flush()).map_err(told)?;
    io::stdin().read_to_end(&mut Vec::new()).map_err(told)?;
    Ok(())
}

/// Serves on a free port, in tasks of the runtime it is called in.
async fn start() -> io::Result<SocketAddr> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(BACKLOG)?;
    let addr = listener.local_addr()?;
    tokio::spawn(accept(listener));
    Ok(addr)
}

async fn accept(listener: TcpListener) {
    loop {
        // Out of descriptors: the load is wrong, and its errors say so.
        let Ok((stream, _)) = listener.accept().await else { return };
        // How a client leaves is its own business.
        tokio::spawn(async move { serve(stream).await.unwrap_or_default() });
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut record = [0; 5];
    stream.read_exact(&mut record).await?;
    let mut hello = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
    stream.read_exact(&mut hello).await?;
    match stream.read_u8().await? {
        b'p' => {
            stream.write_all(b"p").await?;
            stream.shutdown().await?;
            stream.read(&mut [0]).await.map(drop)
        }
        b'e' => echo(stream).await,
        b'd' => source(stream).await,
        b'u' => sink(stream).await,
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    // A few hundred of these are held open: small ones.
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            got => stream.write_all(&buffer[..got]).await?,
        }
    }
}

async fn source(mut stream: TcpStream) -> io::Result<()> {
    let mut left = stream.read_u64().await?;
    let bytes = noise::bytes(2, CHUNK);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        left -= stream.write(&bytes[..most]).await? as u64;
    }
    stream.shutdown().await?;
    stream.read(&mut [0]).await.map(drop)
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut left = stream.read_u64().await?;
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => left = left.saturating_sub(got as u64),
        }
    }
    stream.write_all(b"u").await?;
    stream.read(&mut [0]).await.map(drop)
}

/// A ClientHello for `name`, as rustls makes it: real, with all extensions of today.
pub(crate) fn client_hello(name: &'static str) -> Result<Vec<u8>, String> {
    let config = Arc::new(testkit::cert::trust_anything(&["h2", "http/1.1"]));
    let name = rustls::pki_types::ServerName::try_from(name).map_err(|error| error.to_string())?;
    let mut client = rustls::ClientConnection::new(config, name).map_err(|error| error.to_string())?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello).map_err(|error| error.to_string())?;
    Ok(hello)
}
