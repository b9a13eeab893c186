//! The tunnel protocol spoken by hand, so that it can be spoken wrongly.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use mux::Open;
use mux::frame::{FrameType, flags, put_frame};
use mux::headers::{AnswerHead, Timing};
use mux::message::{self, AuthRequest, AuthResponse, Join, JoinResponse, Opaque, Register, Registered, TunnelSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use testkit::cert::trust_anything;
use testkit::raw;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{DEADLINE, Server};

/// The code of an Error frame, and its text.
pub(crate) type End = Option<(mux::ErrorCode, String)>;

/// One frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn is(&self, kind: FrameType) -> bool {
        self.kind == kind.to_wire()
    }

    /// The code of a Close with RST.
    pub(crate) fn reset_code(&self) -> Option<mux::ErrorCode> {
        let code = <[u8; 2]>::try_from(self.payload.as_slice()).ok()?;
        let is_reset = self.is(FrameType::Close) && self.flags & flags::RST != 0;
        is_reset.then(|| mux::ErrorCode::from_wire(u16::from_be_bytes(code)))
    }
}

/// One lane, from either end.
pub(crate) struct Wire<S> {
    pub(crate) io: S,
}

impl Wire<TlsStream<TcpStream>> {
    /// A TLS connection to a server's port for agents.
    pub(crate) async fn connect(server: SocketAddr) -> io::Result<Self> {
        Ok(Self { io: raw::tls(server, "localhost", trust_anything(&[])).await? })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Sends these bytes.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        })
        .await
    }

    /// Sends one frame.
    pub(crate) async fn send(&mut self, kind: FrameType, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::new();
        put_frame(&mut frame, kind, flags, stream, payload);
        self.raw(&frame).await
    }

    /// Sends one frame of the session.
    pub(crate) async fn tell<T: Serialize>(&mut self, kind: FrameType, flags: u8, message: &T) -> io::Result<()> {
        self.send(kind, flags, 0, &message::encode(message)).await
    }

    /// The next frame.
    pub(crate) async fn read(&mut self) -> io::Result<Frame> {
        within(async {
            let mut header = [0; 12];
            self.io.read_exact(&mut header).await?;
            let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let mut payload = vec![0; number(8) as usize];
            self.io.read_exact(&mut payload).await?;
            Ok(Frame { kind: header[1], flags: header[2], stream: number(4), payload })
        })
        .await
    }

    /// The next frame of this kind; others are passed over, but for the end of the lane.
    pub(crate) async fn until(&mut self, kind: FrameType) -> io::Result<Frame> {
        loop {
            let frame = self.read().await?;
            if frame.is(kind) {
                return Ok(frame);
            }
            if frame.is(FrameType::Error) {
                return Err(io::Error::other(format!("the lane was ended: {:?}", end_of(&frame))));
            }
        }
    }

    /// The next message of this kind.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self, kind: FrameType) -> io::Result<T> {
        let frame = self.until(kind).await?;
        serde_json::from_slice(&frame.payload).map_err(io::Error::other)
    }

    /// Reads to the end of the lane and returns what its Error frame said, if there was one.
    pub(crate) async fn end(&mut self) -> End {
        let mut end = None;
        loop {
            match self.read().await {
                Ok(frame) if frame.is(FrameType::Error) => end = end_of(&frame),
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "the lane did not end");
                    return end;
                }
            }
        }
    }

    /// Reads to the end of the lane, and expects an Error frame with this code.
    pub(crate) async fn ends_with(&mut self, code: mux::ErrorCode) {
        let end = self.end().await;
        assert_eq!(end.as_ref().map(|(code, _)| *code), Some(code), "{end:?}");
    }

    /// Waits for a stream the server opens.
    pub(crate) async fn opened(&mut self) -> (u32, Open) {
        let frame = self.until(FrameType::Open).await.expect("an Open");
        (frame.stream, Open::decode(frame.payload.into()).expect("a legal Open"))
    }

    /// Waits until a stream is reset, and returns the code.
    pub(crate) async fn reset_of(&mut self, stream: u32) -> mux::ErrorCode {
        loop {
            let frame = self.until(FrameType::Close).await.expect("a Close");
            if frame.stream == stream
                && let Some(code) = frame.reset_code()
            {
                return code;
            }
        }
    }

    /// Answers a stream with a head made by hand.
    pub(crate) async fn answer(
        &mut self,
        stream: u32,
        status: u16,
        headers: &[(&str, &str)],
        end: bool,
    ) -> io::Result<()> {
        let mut block = AnswerHead::writer(status, Timing::default());
        for (name, value) in headers {
            assert!(block.pair(name, value.as_bytes()));
        }
        let end = if end { flags::END } else { 0 };
        self.send(FrameType::Data, flags::HEADERS | end, stream, &block.finish()).await
    }

    /// Answers a stream with a body.
    pub(crate) async fn answer_text(&mut self, stream: u32, text: &str) -> io::Result<()> {
        self.answer(stream, 200, &[("content-length", &text.len().to_string())], false).await?;
        self.send(FrameType::Data, flags::END, stream, text.as_bytes()).await
    }
}

/// An agent that does what a test wants.
pub(crate) struct RawAgent {
    pub(crate) wire: Wire<TlsStream<TcpStream>>,
    pub(crate) welcome: AuthResponse,
}

impl RawAgent {
    /// Authenticates with a new token of account `acme`.
    pub(crate) async fn start(server: &Server) -> Self {
        Self::with_token(server, &server.token("acme"), "raw").await.expect("the token is good")
    }

    /// Authenticates; the error is the server's word.
    pub(crate) async fn with_token(server: &Server, token: &str, agent_id: &str) -> Result<Self, String> {
        let mut wire = Wire::connect(server.agents).await.expect("the server accepts");
        wire.tell(FrameType::AuthRequest, 0, &request(token, agent_id)).await.expect("a frame is sent");
        let welcome: AuthResponse = wire.hear(FrameType::AuthResponse).await.map_err(|error| error.to_string())?;
        match welcome.error {
            Some(fault) => Err(fault.code),
            None => Ok(Self { wire, welcome }),
        }
    }

    /// Publishes one tunnel; the error is the server's word.
    pub(crate) async fn register(&mut self, spec: TunnelSpec) -> Result<String, String> {
        let wanted = spec.id;
        self.wire.tell(FrameType::Register, 0, &Register { tunnels: vec![spec] }).await.map_err(|e| e.to_string())?;
        let answer: Registered = self.wire.hear(FrameType::Register).await.map_err(|e| e.to_string())?;
        let result = answer.tunnels.into_iter().next().ok_or("an empty answer")?;
        assert_eq!(result.id, wanted);
        match result.error {
            Some(fault) => Err(fault.code),
            None => Ok(result.url),
        }
    }

    /// Publishes an HTTP tunnel of this name under number 1.
    pub(crate) async fn publish(&mut self, name: &str) -> Result<String, String> {
        self.register(http(1, name)).await
    }

    /// An agent that has published `name`.
    pub(crate) async fn publishing(server: &Server, name: &str) -> Self {
        let mut agent = Self::start(server).await;
        agent.publish(name).await.expect("the name is free");
        agent
    }

    /// A Join for its session.
    pub(crate) fn join(&self, nonce: &str) -> Join {
        let proof = join_proof(self.welcome.resume_secret.expose(), &self.welcome.session, nonce);
        Join { session: self.welcome.session.clone(), proof: Opaque::new(proof), nonce: nonce.to_owned() }
    }
}

/// Asks to join, and returns the lane or the server's word.
pub(crate) async fn try_join(server: &Server, join: &Join) -> Result<Wire<TlsStream<TcpStream>>, String> {
    let mut wire = Wire::connect(server.agents).await.expect("the server accepts");
    wire.tell(FrameType::Join, 0, join).await.expect("a frame is sent");
    let answer: JoinResponse = wire.hear(FrameType::Join).await.map_err(|error| error.to_string())?;
    match answer.error {
        Some(fault) => Err(fault.code),
        None => Ok(wire),
    }
}

/// A request for authentication like an honest agent's.
pub(crate) fn request(token: &str, agent_id: &str) -> AuthRequest {
    AuthRequest {
        token: Opaque::new(token),
        agent_id: agent_id.to_owned(),
        instance: "0011223344556677".into(),
        software: "attacker".into(),
        data_cap: 16_384,
        window: 65_536,
        lanes: 2,
        ..AuthRequest::default()
    }
}

/// An HTTP tunnel wanted.
pub(crate) fn http(id: u32, name: &str) -> TunnelSpec {
    TunnelSpec { id, name: name.to_owned(), healthy: true, ..TunnelSpec::default() }
}

/// Nothing of an answer but its head's bytes.
pub(crate) fn header_block(pairs: &[(&str, &str)]) -> Bytes {
    let mut block = Open::header_writer();
    for (name, value) in pairs {
        assert!(block.pair(name, value.as_bytes()));
    }
    block.finish().into()
}

fn end_of(frame: &Frame) -> End {
    let code = frame.payload.first_chunk::<2>().map(|code| mux::ErrorCode::from_wire(u16::from_be_bytes(*code)))?;
    Some((code, String::from_utf8_lossy(frame.payload.get(3..).unwrap_or_default()).into_owned()))
}

/// HMAC-SHA256 by the resume secret over session and nonce, as `docs/reference/protocol.md` has it.
pub(crate) fn join_proof(secret: &str, session: &str, nonce: &str) -> String {
    let text = [b"adit join v1\0", session.as_bytes(), b"\0", nonce.as_bytes()].concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), &text);
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn within<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The share of one processor a process uses while nothing should happen.
pub(crate) async fn idle_load(process: &testkit::process::Process) -> f64 {
    let span = Duration::from_millis(600);
    let before = process.usage().cpu;
    // Not a wait for anything: the span the measurement is over.
    tokio::time::sleep(span).await;
    process.usage().cpu.saturating_sub(before).as_secs_f64() / span.as_secs_f64()
}
