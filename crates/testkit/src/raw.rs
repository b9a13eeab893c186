//! A small HTTP/1.1 client that sends exactly the bytes it is told to, for tests of what servers do with them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wire::{Framing, Wire, fields, invalid, lines};

/// No wait of this client is longer, so that a broken server fails a test instead of hanging it.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// One HTTP/1.1 connection.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    wire: Wire<S>,
    framing: Framing,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status of the final answer.
    pub status: u16,
    /// Its first line, without the line end.
    pub line: String,
    /// Its header fields, names as they were sent.
    pub headers: Vec<(String, String)>,
    /// Its body, without framing.
    pub body: Vec<u8>,
    /// The trailer fields after a chunked body.
    pub trailers: Vec<(String, String)>,
    /// The statuses of the 1xx answers before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// The value of the first field called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        value(&self.headers, name)
    }

    /// The value of the first trailer field called `name`, in any case.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        value(&self.trailers, name)
    }

    /// The body as text, whatever it holds.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client<TcpStream> {
    /// Connects without TLS.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = within(TcpStream::connect(addr)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        crate::task::reset_on_close(&self.wire.io);
    }
}

impl Client<TlsStream<TcpStream>> {
    /// Connects with TLS; ALPN and trust are as `config` says.
    pub async fn connect_tls(addr: SocketAddr, server_name: &str, config: rustls::ClientConfig) -> io::Result<Self> {
        Ok(Self::new(tls(addr, server_name, config).await?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Speaks over a stream that is already there.
    pub fn new(io: S) -> Self {
        Self { wire: Wire::new(io), framing: Framing::Ended }
    }

    /// Sends these bytes and nothing else.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(async {
            self.wire.io.write_all(bytes).await?;
            self.wire.io.flush().await
        })
        .await
    }

    /// Ends the sending direction and leaves the other one open.
    pub async fn finish(&mut self) -> io::Result<()> {
        within(self.wire.io.shutdown()).await
    }

    /// Sends one request (Host and Content-Length are added) and reads the whole answer.
    pub async fn request(
        &mut self,
        method: &str,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut bytes = head(method, host, target, headers, Some(body.len()));
        bytes.extend_from_slice(body);
        self.send(&bytes).await?;
        self.response(method == "HEAD").await
    }

    /// Sends a GET and reads the whole answer.
    pub async fn get(&mut self, host: &str, target: &str) -> io::Result<Response> {
        self.send(&head("GET", host, target, &[], None)).await?;
        self.response(false).await
    }

    /// Reads one whole answer; `bodiless` when the request was HEAD.
    pub async fn response(&mut self, bodiless: bool) -> io::Result<Response> {
        let mut response = self.response_head(bodiless).await?;
        while let Some(piece) = self.piece().await? {
            response.body.extend_from_slice(&piece);
        }
        response.trailers = std::mem::take(&mut self.wire.trailers);
        Ok(response)
    }

    /// Reads the answer up to its head, past any 1xx; the body is left for [`Client::piece`].
    pub async fn response_head(&mut self, bodiless: bool) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let mut response = self.any_head(bodiless).await?;
            if response.status >= 200 || response.status == 101 {
                response.interim = interim;
                return Ok(response);
            }
            interim.push(response.status);
        }
    }

    /// Reads the next head, a 1xx one too.
    pub async fn any_head(&mut self, bodiless: bool) -> io::Result<Response> {
        let head = within(self.wire.head()).await?;
        let head =
            head.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended before its answer"))?;
        let response = parse(&head)?;
        self.framing = framing(&response, bodiless)?;
        Ok(response)
    }

    /// The next piece of the body as it arrives; `None` at its end.
    pub async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        within(self.wire.piece(&mut self.framing)).await
    }

    /// The trailer fields read so far.
    pub fn trailers(&self) -> &[(String, String)] {
        &self.wire.trailers
    }

    /// Everything until the peer ends, framing and all.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut out = self.wire.buffer.split().to_vec();
        within(self.wire.io.read_to_end(&mut out)).await?;
        Ok(out)
    }

    /// Exactly `length` bytes, framing and all (after an upgrade).
    pub async fn exactly(&mut self, length: usize) -> io::Result<Bytes> {
        within(self.wire.exactly(length)).await
    }

    /// The stream, and what was read from it beyond the last message.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.wire.io, self.wire.buffer.freeze())
    }
}

/// The head of a request, ending in its empty line.
pub fn head(method: &str, host: &str, target: &str, headers: &[(&str, &str)], length: Option<usize>) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length {
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// One GET on its own connection.
pub async fn get(addr: SocketAddr, host: &str, target: &str) -> io::Result<Response> {
    Client::connect(addr).await?.get(host, target).await
}

/// One request on its own connection.
pub async fn request(
    addr: SocketAddr,
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    Client::connect(addr).await?.request(method, host, target, headers, body).await
}

/// Sends `bytes` and returns all that comes back until the peer ends (a reset after some bytes counts as an end).
pub async fn exchange(addr: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = within(TcpStream::connect(addr)).await?;
    // A server may answer and close before it has read all; what it said still counts.
    let _ = within(stream.write_all(bytes)).await;
    let mut out = Vec::new();
    match within(stream.read_to_end(&mut out)).await {
        Err(error) if out.is_empty() => Err(error),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
        _ => Ok(out),
    }
}

/// A TLS connection to `addr`.
pub async fn tls(
    addr: SocketAddr,
    server_name: &str,
    config: rustls::ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(server_name.to_owned()).map_err(|_| invalid("not a server name"))?;
    let stream = within(TcpStream::connect(addr)).await?;
    stream.set_nodelay(true)?;
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// `future`, or a time-out error after [`DEADLINE`].
async fn within<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer took too long")))
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn parse(head: &[u8]) -> io::Result<Response> {
    let line = lines(head).next().ok_or_else(|| invalid("an empty head"))?;
    let line = String::from_utf8_lossy(line).into_owned();
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| invalid("the answer does not start like HTTP/1"))?;
    Ok(Response { status, line, headers: fields(head), ..Response::default() })
}

fn framing(response: &Response, bodiless: bool) -> io::Result<Framing> {
    let status = response.status;
    if bodiless || status < 200 || status == 204 || status == 304 {
        return Ok(Framing::Ended);
    }
    if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(Framing::Chunked(None));
    }
    match response.header("content-length") {
        Some(length) => length.parse().map(Framing::Length).map_err(|_| invalid("a Content-Length is not a number")),
        None => Ok(Framing::ToEnd),
    }
}
