//! A small WebSocket end (RFC 6455) for either role, over any byte stream.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::noise::Noise;
use crate::raw;
use crate::wire::{Wire, invalid};

mod handshake;

pub use handshake::accept_key;

/// No wait of this end is longer, so that a broken peer fails a test instead of hanging it.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest message this end accepts.
const MESSAGE_CAP: usize = 64 << 20;
/// The key this client sends; its answer is known from the RFC.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// A ping; answered by this end before it is returned.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// The peer's close with its code, if it gave one; answered before it is returned.
    Close(Option<u16>),
}

/// One end of a WebSocket.
#[derive(Debug)]
pub struct WebSocket<S = TcpStream> {
    wire: Wire<S>,
    mask: Option<Noise>,
    closing: bool,
}

impl WebSocket<TcpStream> {
    /// Connects to `ws://host/target` at `addr`.
    pub async fn connect(addr: SocketAddr, host: &str, target: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Self::upgrade(stream, host, target).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Does the client's handshake over `io`; an answer other than 101 is an error that names its status.
    pub async fn upgrade(io: S, host: &str, target: &str) -> io::Result<Self> {
        let mut client = raw::Client::new(io);
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        client.send(&raw::head("GET", host, target, &headers, None)).await?;
        let answer = client.response_head(false).await?;
        if answer.status != 101 {
            return Err(io::Error::other(format!("the upgrade was answered with {}", answer.line)));
        }
        if answer.header("sec-websocket-accept") != Some(accept_key(KEY).as_str()) {
            return Err(invalid("the upgrade was answered with a wrong accept key"));
        }
        let (io, rest) = client.into_parts();
        let mut wire = Wire::new(io);
        wire.buffer.extend_from_slice(&rest);
        Ok(Self { wire, mask: Some(Noise::new(1)), closing: false })
    }

    /// The server's end, after its handshake.
    pub(crate) fn accepted(wire: Wire<S>) -> Self {
        Self { wire, mask: None, closing: false }
    }

    /// Sends a text.
    pub async fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.send(Message::Text(text.to_owned())).await
    }

    /// Sends one message in one frame.
    pub async fn send(&mut self, message: Message) -> io::Result<()> {
        let (opcode, payload) = match message {
            Message::Text(text) => (0x1, text.into_bytes()),
            Message::Binary(bytes) => (0x2, bytes),
            Message::Close(code) => {
                self.closing = true;
                (0x8, code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default())
            }
            Message::Ping(bytes) => (0x9, bytes),
            Message::Pong(bytes) => (0xA, bytes),
        };
        self.frame(opcode, payload).await
    }

    /// The next message; `None` when the peer's stream has ended.
    pub async fn receive(&mut self) -> io::Result<Option<Message>> {
        timeout(DEADLINE, self.receive_patiently())
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no WebSocket message came")))
    }

    /// The next message, however long it takes.
    pub async fn receive_patiently(&mut self) -> io::Result<Option<Message>> {
        let mut text = false;
        let mut whole = Vec::new();
        loop {
            if self.wire.buffer.is_empty() && self.wire.fill(4096).await? == 0 {
                return Ok(None);
            }
            let (last, opcode, payload) = self.read_frame().await?;
            match opcode {
                0x0..=0x2 => {
                    text |= opcode == 0x1;
                    whole.extend_from_slice(&payload);
                    if whole.len() > MESSAGE_CAP {
                        return Err(invalid("a WebSocket message is too large"));
                    }
                    if last {
                        return finished(text, whole).map(Some);
                    }
                }
                0x8 => return self.closed(&payload).await.map(Some),
                0x9 => {
                    self.frame(0xA, payload.clone()).await?;
                    return Ok(Some(Message::Ping(payload)));
                }
                0xA => return Ok(Some(Message::Pong(payload))),
                _ => return Err(invalid("an unknown WebSocket opcode")),
            }
        }
    }

    /// Closes in order: sends a close, waits for the peer's.
    pub async fn close(mut self) -> io::Result<()> {
        self.send(Message::Close(Some(1000))).await?;
        while let Some(message) = self.receive().await? {
            if matches!(message, Message::Close(_)) {
                break;
            }
        }
        Ok(())
    }

    async fn closed(&mut self, payload: &[u8]) -> io::Result<Message> {
        let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
        if !self.closing {
            self.closing = true;
            self.frame(0x8, payload.to_vec()).await?;
        }
        Ok(Message::Close(code))
    }

    async fn frame(&mut self, opcode: u8, mut payload: Vec<u8>) -> io::Result<()> {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut out = vec![0x80 | opcode];
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(short), _) if short < 126 => out.push(masked | short),
            (_, Ok(medium)) => {
                out.push(masked | 126);
                out.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        if let Some(noise) = &mut self.mask {
            let mut key = [0; 4];
            noise.fill(&mut key);
            out.extend_from_slice(&key);
            mask(&mut payload, key);
        }
        out.extend_from_slice(&payload);
        self.wire.io.write_all(&out).await?;
        self.wire.io.flush().await
    }

    async fn read_frame(&mut self) -> io::Result<(bool, u8, Vec<u8>)> {
        let start = self.wire.exactly(2).await?;
        let (first, second) = (start[0], start[1]);
        let length = match second & 0x7F {
            126 => u64::from(u16::from_be_bytes(self.array().await?)),
            127 => u64::from_be_bytes(self.array().await?),
            short => u64::from(short),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= MESSAGE_CAP);
        let length = length.ok_or_else(|| invalid("a WebSocket frame is too large"))?;
        let key: Option<[u8; 4]> = if second & 0x80 == 0 { None } else { Some(self.array().await?) };
        let mut payload = self.wire.exactly(length).await?.to_vec();
        if let Some(key) = key {
            mask(&mut payload, key);
        }
        Ok((first & 0x80 != 0, first & 0x0F, payload))
    }

    async fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self.wire.exactly(N).await?;
        bytes[..].try_into().map_err(|_| invalid("a short WebSocket frame"))
    }
}

fn finished(text: bool, whole: Vec<u8>) -> io::Result<Message> {
    if !text {
        return Ok(Message::Binary(whole));
    }
    String::from_utf8(whole).map(Message::Text).map_err(|_| invalid("a WebSocket text is not UTF-8"))
}

fn mask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
