//! A small client of its own, and what it finds.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::spdy::{self, Control, tests::ClientHeaders};
use super::websocket;
use crate::cluster::{AuthMode, Cluster, ClusterOptions, PodSpec, ServerVersion};
use crate::origin::TcpOrigin;
use crate::raw::{self, Response};

mod exec;
mod faults;
mod port_forward;
mod upgrades;

/// Longest wait of a test.
const SOON: Duration = Duration::from_secs(10);
/// What nothing happens in.
const WHILE: Duration = Duration::from_millis(60);
/// The one-second rule, at a tenth.
const WAIT: Duration = Duration::from_millis(100);

const WEBSOCKET: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// A cluster without TLS with one pod `web`, whose port 7000 is a [`TcpOrigin`].
struct Site {
    cluster: Cluster,
    origin: TcpOrigin,
}

impl Site {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ClusterOptions)) -> Self {
        let mut options =
            ClusterOptions { tls: false, auth: AuthMode::None, half_close_wait: WAIT, ..ClusterOptions::default() };
        change(&mut options);
        let cluster = Cluster::start(options).await;
        let origin = TcpOrigin::start().await.unwrap();
        cluster.add_pod(PodSpec::new("default", "web").port("tcp", 7000).backend(7000, origin.addr()));
        Self { cluster, origin }
    }

    /// Asks for an upgrade of `…/pods/web/` and this.
    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> (Response, raw::Client<TcpStream>) {
        let mut client = raw::Client::connect(self.cluster.address()).await.unwrap();
        let target = format!("/api/v1/namespaces/default/pods/web/{target}");
        client.send(&raw::head(method, "localhost", &target, headers, None)).await.unwrap();
        let response =
            if method == "HEAD" { client.response_head(true).await } else { client.response_head(false).await };
        (response.unwrap(), client)
    }

    async fn spdy(&self, target: &str, protocol: &str) -> Peer {
        let headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocol)];
        self.peer("POST", target, &headers, false).await
    }

    async fn websocket(&self, target: &str, protocol: &str) -> Peer {
        let headers: Vec<_> = WEBSOCKET.into_iter().chain([("Sec-WebSocket-Protocol", protocol)]).collect();
        self.peer("GET", target, &headers, true).await
    }

    async fn forward(&self) -> Peer {
        self.spdy("portforward", "portforward.k8s.io").await
    }

    async fn tunnel(&self) -> Peer {
        self.websocket("portforward", "SPDY/3.1+portforward.k8s.io").await
    }

    async fn peer(&self, method: &str, target: &str, headers: &[(&str, &str)], websocket: bool) -> Peer {
        let (response, client) = self.ask(method, target, headers).await;
        assert_eq!(response.status, 101, "{response:?}");
        let (io, rest) = client.into_parts();
        Peer {
            io,
            raw: BytesMut::from(&rest[..]),
            spdy: BytesMut::new(),
            websocket,
            headers: ClientHeaders::new(),
            next: 1,
        }
    }
}

/// The client's end of an upgraded connection.
struct Peer {
    io: TcpStream,
    raw: BytesMut,
    spdy: BytesMut,
    websocket: bool,
    headers: ClientHeaders,
    next: u32,
}

/// What a client sees.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Reply(u32),
    Data(u32, Vec<u8>, bool),
    Reset(u32, u32),
    Ping(u32),
    GoAway,
    End,
}

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        if self.websocket {
            // An odd cut shows that messages are a byte stream.
            for piece in bytes.chunks(37.max(bytes.len() / 3)) {
                self.frame(0x82, piece).await;
            }
        } else {
            self.io.write_all(bytes).await.unwrap();
        }
    }

    /// One WebSocket frame; a mask of zeros leaves the bytes as they are.
    async fn frame(&mut self, first: u8, bytes: &[u8]) {
        let mut out = Vec::new();
        websocket::head(&mut out, first, bytes.len());
        out[1] |= 0x80;
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(bytes);
        self.io.write_all(&out).await.unwrap();
    }

    async fn syn(&mut self, fin: bool, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let frame = self.headers.syn(id, fin, headers);
        self.send(&frame).await;
        id
    }

    /// Opens a pair and takes its replies; the error stream's id and the data stream's.
    async fn pair(&mut self, port: &str, request: &str) -> (u32, u32) {
        let id = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
        let error = self.syn(false, &id("error")).await;
        let data = self.syn(false, &id("data")).await;
        self.data(error, b"", true).await;
        assert_eq!(self.seen().await, Seen::Reply(error));
        assert_eq!(self.seen().await, Seen::Reply(data));
        (error, data)
    }

    async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        let mut frame = spdy::data_head(id, bytes.len(), fin).to_vec();
        frame.extend_from_slice(bytes);
        self.send(&frame).await;
    }

    async fn control(&mut self, kind: Control, words: &[u32]) {
        let mut frame = Vec::new();
        spdy::control(&mut frame, kind, words);
        self.send(&frame).await;
    }

    /// The next frame.
    async fn seen(&mut self) -> Seen {
        timeout(SOON, self.look()).await.expect("a frame came in time")
    }

    /// That there is no next frame for a while.
    async fn sees_nothing(&mut self) {
        if let Ok(seen) = timeout(WHILE, self.look()).await {
            panic!("{seen:?}");
        }
    }

    /// All of a stream until its end or reset, other streams' frames dropped.
    async fn rest(&mut self, stream: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.seen().await {
                Seen::Data(id, bytes, fin) if id == stream => {
                    assert!(bytes.len() <= 32 << 10);
                    all.extend(bytes);
                    if fin {
                        return all;
                    }
                }
                Seen::Reset(id, _) if id == stream => return all,
                Seen::End => panic!("the connection ended after {} bytes", all.len()),
                _ => {}
            }
        }
    }

    /// Exactly so many bytes of a stream.
    async fn bytes(&mut self, stream: u32, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            match self.seen().await {
                Seen::Data(id, bytes, _) if id == stream => all.extend(bytes),
                seen => panic!("{seen:?}"),
            }
        }
        all
    }

    async fn look(&mut self) -> Seen {
        loop {
            if let Some(seen) = self.parse() {
                return seen;
            }
            if self.websocket {
                match self.message().await {
                    Some((0x8, _)) | None => return Seen::End,
                    Some((_, bytes)) => self.spdy.extend_from_slice(&bytes),
                }
            } else if !matches!(self.io.read_buf(&mut self.spdy).await, Ok(1..)) {
                return Seen::End;
            }
        }
    }

    /// The next WebSocket frame of the server: its opcode and payload; `None` at the connection's end.
    async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((header, length)) = server_frame(&self.raw)
                && self.raw.len() >= header + length
            {
                let opcode = self.raw[0] & 0x0F;
                self.raw.advance(header);
                return Some((opcode, self.raw.split_to(length).to_vec()));
            }
            if !matches!(self.io.read_buf(&mut self.raw).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// The next channel message in time.
    async fn channel(&mut self) -> Option<(u8, Vec<u8>)> {
        let (opcode, mut bytes) = timeout(SOON, self.message()).await.expect("a message came in time")?;
        if opcode == 0x8 {
            return Some((0x88, bytes));
        }
        let channel = bytes.remove(0);
        Some((channel, bytes))
    }

    fn parse(&mut self) -> Option<Seen> {
        let head = *self.spdy.first_chunk::<8>()?;
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if self.spdy.len() < 8 + length {
            return None;
        }
        self.spdy.advance(8);
        let mut body = self.spdy.split_to(length);
        Some(match word {
            0x8003_0002 => Seen::Reply(body.get_u32()),
            0x8003_0003 => Seen::Reset(body.get_u32(), body.get_u32()),
            0x8003_0006 => Seen::Ping(body.get_u32()),
            0x8003_0007 => Seen::GoAway,
            id => {
                assert!(id >> 31 == 0, "an unknown frame {id:x}");
                Seen::Data(id, body.to_vec(), head[4] & 1 != 0)
            }
        })
    }
}

/// Header and payload length of an unmasked frame.
fn server_frame(raw: &[u8]) -> Option<(usize, usize)> {
    match raw.get(1)? & 0x7F {
        126 => Some((4, usize::from(u16::from_be_bytes(*raw.get(2..)?.first_chunk()?)))),
        127 => Some((10, usize::try_from(u64::from_be_bytes(*raw.get(2..)?.first_chunk()?)).ok()?)),
        short => Some((2, usize::from(short))),
    }
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
