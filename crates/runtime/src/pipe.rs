//! TLS over a TCP socket, without buffers of its own while idle; for connections that carry many streams.
//!
//! rustls' unbuffered interface decrypts out of, and encrypts into, scratch memory shared by all pipes of a
//! thread; a pipe itself keeps only a record that arrived in part, or ciphertext that the socket did not take.
//! A pipe may also be plain TCP: an API server behind `kubectl proxy` is spoken to without TLS.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;

/// Read at once from a socket: several records, so that a busy lane needs few system calls.
const READ_CHUNK: usize = 128 * 1024;
/// A partial record at the most: 16 KiB, its header, tag and padding (RFC 8446 section 5.2).
const RECORD_MAX: usize = 16 * 1024 + 256 + 5;
/// Room for what [`Pipe::encrypt`] is given at once.
const WRITE_CHUNK: usize = 160 * 1024;
/// Ciphertext overhead of one record at the most.
const RECORD_OVERHEAD: usize = 64;
/// Handshake bytes a peer may make us keep.
const HANDSHAKE_MAX: usize = 64 * 1024;

thread_local! {
    static INCOMING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The TLS conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum PipeFault {
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer broke TLS, or its certificate was refused.
    #[error("TLS failed: {}", crate::tls::in_words(.0))]
    Tls(rustls::Error),
    /// A buffer was too small for TLS; a fault of ours.
    #[error("TLS could not write: {0}")]
    Buffer(&'static str),
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
}

impl From<rustls::Error> for PipeFault {
    /// No source: it is told in other words.
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    Plain,
}

/// What the TLS machine wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Ask it again.
    Again,
    /// More bytes from the peer.
    Blocked,
    /// The handshake is done, and all that was received has been handed out.
    Established,
    /// The peer said good-bye.
    PeerClosed,
}

/// TLS over a socket.
pub struct Pipe {
    tcp: TcpStream,
    side: Side,
    /// A record that arrived in part.
    partial: Vec<u8>,
    /// Ciphertext.
    outgoing: Outgoing,
    /// Bytes the socket has taken since the start.
    taken: u64,
    /// Plaintext that arrived together with the end of the handshake.
    early: Vec<u8>,
    peer_closed: bool,
}

impl Pipe {
    /// Accepts the server's side of a handshake.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self, PipeFault> {
        let side = Side::Server(UnbufferedServerConnection::new(config)?);
        Self::handshake(tcp, side).await
    }

    /// Begins the client's side of a handshake.
    pub async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, PipeFault> {
        let side = Side::Client(UnbufferedClientConnection::new(config, name)?);
        Self::handshake(tcp, side).await
    }

    /// A pipe without TLS.
    #[must_use]
    pub fn plain(tcp: TcpStream) -> Self {
        Self::over(tcp, Side::Plain)
    }

    fn over(tcp: TcpStream, side: Side) -> Self {
        Self {
            tcp,
            side,
            partial: Vec::new(),
            outgoing: Outgoing::default(),
            taken: 0,
            early: Vec::new(),
            peer_closed: false,
        }
    }

    async fn handshake(tcp: TcpStream, side: Side) -> Result<Self, PipeFault> {
        let mut pipe = Self::over(tcp, side);
        let mut incoming = Vec::new();
        loop {
            // A client may send data right behind its Finished: it must not be lost with the handshake.
            let mut early = std::mem::take(&mut pipe.early);
            let stepped = pipe.step(&mut incoming, &mut |plain| early.extend_from_slice(plain));
            pipe.early = early;
            let (used, step) = stepped?;
            incoming.drain(..used);
            match step {
                Step::Again => continue,
                Step::PeerClosed => return Err(PipeFault::Closed),
                Step::Established | Step::Blocked => {}
            }
            std::future::poll_fn(|cx| pipe.poll_flush(cx)).await?;
            if step == Step::Established {
                pipe.partial = incoming;
                return Ok(pipe);
            }
            if incoming.len() > HANDSHAKE_MAX {
                return Err(PipeFault::Buffer("the handshake is too long"));
            }
            pipe.tcp.readable().await?;
            match pipe.tcp.try_read_buf(&mut incoming) {
                Ok(0) => return Err(PipeFault::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what the socket has, at most about 128 KiB, and hands the plaintext to `sink`.
    ///
    /// Returns false once the peer has ended its direction.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, sink: &mut dyn FnMut(&[u8])) -> Poll<Result<bool, PipeFault>> {
        if !self.early.is_empty() {
            sink(&std::mem::take(&mut self.early));
            return Poll::Ready(Ok(!self.peer_closed));
        }
        if self.peer_closed {
            return Poll::Ready(Ok(false));
        }
        // A handshake may leave whole records behind, which no readiness will announce.
        if !self.partial.is_empty() && has_whole_record(&self.partial) {
            let mut kept = std::mem::take(&mut self.partial);
            let used = self.decrypt(&mut kept, sink)?;
            kept.drain(..used);
            self.partial = kept;
            if used > 0 || self.peer_closed {
                return Poll::Ready(Ok(!self.peer_closed));
            }
            // A handshake message in pieces (RFC 8446 section 5.1): nothing comes of it until the rest is there.
        }
        if self.partial.len() > RECORD_MAX {
            return Poll::Ready(Err(PipeFault::Buffer("a handshake message is too long")));
        }
        INCOMING.with_borrow_mut(|buffer| {
            buffer.resize(RECORD_MAX + READ_CHUNK, 0);
            let start = self.partial.len();
            buffer[..start].copy_from_slice(&self.partial);
            let got = loop {
                ready!(self.tcp.poll_read_ready(cx))?;
                match self.tcp.try_read(&mut buffer[start..start + READ_CHUNK]) {
                    Ok(got) => break got,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            };
            if got == 0 {
                self.peer_closed = true;
                return Poll::Ready(Ok(false));
            }
            let filled = &mut buffer[..start + got];
            if matches!(self.side, Side::Plain) {
                sink(filled);
                return Poll::Ready(Ok(true));
            }
            let used = self.decrypt(filled, sink)?;
            // The memory of an old partial record is given back: an idle lane keeps none.
            let rest = &filled[used..];
            if rest.is_empty() {
                self.partial = Vec::new();
            } else {
                self.partial.clear();
                self.partial.extend_from_slice(rest);
            }
            Poll::Ready(Ok(!self.peer_closed))
        })
    }

    /// Decrypts all whole records; returns how many bytes they took.
    fn decrypt(&mut self, incoming: &mut [u8], sink: &mut dyn FnMut(&[u8])) -> Result<usize, PipeFault> {
        let mut used = 0;
        loop {
            let (now, step) = self.step(&mut incoming[used..], sink)?;
            used += now;
            match step {
                Step::Again => {}
                Step::Blocked | Step::Established => return Ok(used),
                Step::PeerClosed => {
                    self.peer_closed = true;
                    return Ok(used);
                }
            }
        }
    }

    /// One step of the TLS machine; ciphertext it makes goes behind `outgoing`.
    fn step(&mut self, incoming: &mut [u8], sink: &mut dyn FnMut(&[u8])) -> Result<(usize, Step), PipeFault> {
        let outgoing = &mut self.outgoing;
        match &mut self.side {
            Side::Client(conn) => drive(conn.process_tls_records(incoming), outgoing, sink),
            Side::Server(conn) => drive(conn.process_tls_records(incoming), outgoing, sink),
            // Nothing is ever left over of what is not TLS.
            Side::Plain => Ok((0, Step::Established)),
        }
    }

    /// Encrypts `plain`, each piece of at most 16 KiB in a record of its own, behind what is still unsent.
    pub fn encrypt(&mut self, plain: &[u8]) -> Result<(), PipeFault> {
        debug_assert!(plain.len() <= WRITE_CHUNK, "callers encrypt a turn's worth at once");
        loop {
            let outgoing = &mut self.outgoing;
            let done = match &mut self.side {
                Side::Client(conn) => seal(conn.process_tls_records(&mut []), plain, outgoing)?,
                Side::Server(conn) => seal(conn.process_tls_records(&mut []), plain, outgoing)?,
                Side::Plain => {
                    outgoing.room(plain.len()).copy_from_slice(plain);
                    outgoing.end += plain.len();
                    true
                }
            };
            if done {
                return Ok(());
            }
        }
    }

    /// Bytes the socket has taken since the start, to tell a slow peer from one that does not read.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether ciphertext waits for the socket.
    pub fn has_unsent(&self) -> bool {
        self.outgoing.has_unsent()
    }

    /// Writes what is unsent.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeFault>> {
        while self.has_unsent() {
            match self.tcp.try_write(self.outgoing.unsent()) {
                Ok(n) => {
                    self.outgoing.sent += n;
                    self.taken += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.outgoing.clear();
        Poll::Ready(Ok(()))
    }

    /// Gives the output buffer's memory back; called when a pipe goes idle.
    pub fn shrink(&mut self) {
        if !self.has_unsent() {
            self.outgoing = Outgoing::default();
        }
    }

    /// Lends the pipe an output buffer, so that idle ones share a thread's one.
    pub fn lend(&mut self, buffer: &mut Vec<u8>) {
        if !self.has_unsent() {
            std::mem::swap(&mut self.outgoing.storage, buffer);
            self.outgoing.clear();
        }
    }

    /// Takes the lent buffer back, unless it still holds ciphertext.
    pub fn reclaim(&mut self, buffer: &mut Vec<u8>) {
        if !self.has_unsent() && buffer.capacity() == 0 {
            std::mem::swap(&mut self.outgoing.storage, buffer);
            self.outgoing.clear();
        }
    }
}

/// Ciphertext on its way: what the socket has not taken lies between `sent` and `end`. The storage keeps its length,
/// so that room for a record need not be cleared each time.
#[derive(Default)]
struct Outgoing {
    storage: Vec<u8>,
    sent: usize,
    end: usize,
}

impl Outgoing {
    fn has_unsent(&self) -> bool {
        self.sent < self.end
    }

    fn unsent(&self) -> &[u8] {
        &self.storage[self.sent..self.end]
    }

    fn clear(&mut self) {
        (self.sent, self.end) = (0, 0);
    }

    /// Room for so many bytes behind what is there; whoever fills it moves `end`.
    fn room(&mut self, wanted: usize) -> &mut [u8] {
        let needed = self.end + wanted;
        if self.storage.len() < needed {
            self.storage.resize(needed, 0);
        }
        &mut self.storage[self.end..needed]
    }
}

/// Whether the front of `bytes` is a whole TLS record (RFC 8446 section 5.1).
fn has_whole_record(bytes: &[u8]) -> bool {
    bytes.first_chunk::<5>().is_some_and(|head| bytes.len() >= 5 + usize::from(u16::from_be_bytes([head[3], head[4]])))
}

fn drive<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Outgoing,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<(usize, Step), PipeFault> {
    let mut discard = status.discard;
    let step = match status.state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                sink(record.payload);
            }
            Step::Again
        }
        ConnectionState::EncodeTlsData(mut data) => {
            encode_into(outgoing, |room| data.encode(room))?;
            Step::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            // What was encoded lies in `outgoing` and is sent in order, before anything else.
            data.done();
            Step::Again
        }
        ConnectionState::BlockedHandshake => Step::Blocked,
        ConnectionState::WriteTraffic(_) => Step::Established,
        ConnectionState::PeerClosed | ConnectionState::Closed => Step::PeerClosed,
        // Early data is off on both sides.
        _ => return Err(PipeFault::Buffer("unexpected TLS state")),
    };
    Ok((discard, step))
}

/// Encrypts when the machine is ready for it; false: ask it again.
fn seal<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &[u8],
    outgoing: &mut Outgoing,
) -> Result<bool, PipeFault> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            let records = plain.len() / (16 * 1024) + 1;
            let written = match traffic.encrypt(plain, outgoing.room(plain.len() + records * RECORD_OVERHEAD)) {
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    traffic.encrypt(plain, outgoing.room(required_size))
                }
                other => other,
            }
            .map_err(|_| PipeFault::Buffer("the traffic keys are used up"))?;
            outgoing.end += written;
            Ok(true)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            encode_into(outgoing, |room| data.encode(room))?;
            Ok(false)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(false)
        }
        ConnectionState::PeerClosed => Ok(false),
        _ => Err(PipeFault::Closed),
    }
}

fn encode_into(
    outgoing: &mut Outgoing,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), PipeFault> {
    let written = match encode(outgoing.room(4096)) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            encode(outgoing.room(required_size))
        }
        other => other,
    }
    .map_err(|_| PipeFault::Buffer("a handshake message could not be encoded"))?;
    outgoing.end += written;
    Ok(())
}
