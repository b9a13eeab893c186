//! The first bytes of a connection: TLS or not, and for TLS the whole ClientHello.

use std::io;
use std::time::Duration;

use adit_core::client_hello::{ClientHelloError, ClientHelloReader, FIRST_BYTE, Progress};
use adit_core::name::Hostname;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The first byte of an SSL 2.0 hello: a two-byte length, RFC 5246 appendix E.2.
const SSL2: u8 = 0x80;
/// Browsers open connections ahead of their use; one that stays silent for longer is closed.
const SILENCE: Duration = Duration::from_secs(60);
/// From the first byte to the end of the ClientHello.
const WHOLE_HELLO: Duration = Duration::from_secs(10);
/// Read at once. Most hellos fit.
const CHUNK: usize = 4096;

/// What a connection starts with.
#[derive(Debug)]
pub(crate) enum Opening {
    /// Not TLS; nothing has been read.
    Plain,
    /// TLS, with all bytes that were read, which the one who gets the connection must see first.
    Tls {
        /// The host that is asked for, if one is.
        name: Option<Hostname>,
        /// The bytes of it, and what came with them.
        bytes: Vec<u8>,
    },
    /// The same, asking for something that is no host name, as `my_app.localhost` is none. Somebody may have mistyped it.
    Misnamed {
        /// What it asks for.
        name: String,
        /// The bytes so far.
        bytes: Vec<u8>,
    },
}

/// Why there is no opening.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningError {
    /// The client left, or its connection failed, or it said nothing.
    #[error("the client went away")]
    Gone(#[source] io::Error),
    /// It was too slow.
    #[error("the client was silent")]
    Silent,
    /// It sent something like TLS that is none.
    #[error("no tls hello")]
    Hello(#[source] ClientHelloError),
}

/// Looks at how a connection starts.
pub(crate) async fn opening(client: &TcpStream) -> Result<Opening, OpeningError> {
    let mut first = [0];
    let peeked = timeout(SILENCE, client.peek(&mut first)).await.map_err(|_| OpeningError::Silent)?;
    match peeked.map_err(OpeningError::Gone)? {
        0 => Err(OpeningError::Gone(io::ErrorKind::UnexpectedEof.into())),
        _ if matches!(first[0], FIRST_BYTE | SSL2..) => {
            timeout(WHOLE_HELLO, read_hello(client)).await.map_err(|_| OpeningError::Silent)?
        }
        _ => Ok(Opening::Plain),
    }
}

async fn read_hello(client: &TcpStream) -> Result<Opening, OpeningError> {
    let mut reader = ClientHelloReader::default();
    let mut bytes = Vec::new();
    loop {
        client.readable().await.map_err(OpeningError::Gone)?;
        let before = bytes.len();
        bytes.reserve(CHUNK);
        match client.try_read_buf(&mut bytes) {
            Ok(0) => return Err(OpeningError::Gone(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(OpeningError::Gone(error)),
        }
        match reader.push(&bytes[before..]) {
            Ok(Progress::More) => {}
            Ok(Progress::Done(hello)) => return Ok(Opening::Tls { name: hello.server_name, bytes }),
            Err(ClientHelloError::ServerName { name, .. }) => return Ok(Opening::Misnamed { name, bytes }),
            Err(error) => return Err(OpeningError::Hello(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// How a client that sends this, and then nothing, is taken, and after how many seconds of the halted clock.
    async fn taken(sent: &[u8]) -> (Result<Opening, OpeningError>, u64) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(sent).await.unwrap();
        let begun = tokio::time::Instant::now();
        (opening(&server).await, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_sends_a_byte_or_stops_in_its_hello_is_let_go() {
        let (never, after) = taken(b"").await;
        assert!(matches!(never, Err(OpeningError::Silent)), "{never:?}");
        assert_eq!(after, SILENCE.as_secs());
        let (half, after) = taken(&[FIRST_BYTE, 3, 1, 2, 0, 1]).await;
        assert!(matches!(half, Err(OpeningError::Silent)), "{half:?}");
        assert_eq!(after, WHOLE_HELLO.as_secs());
        let (plain, after) = taken(b"G").await;
        assert!(matches!(plain, Ok(Opening::Plain)) && after == 0, "{plain:?}");
    }
}
