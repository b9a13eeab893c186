//! Reading within bounds, and knowing a wrong protocol when it is seen.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use adit_core::secret::Secret;
use runtime::connect::Io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::{Doing, ProbeError};
use crate::k8s::connection::StreamFault;

/// As much of a stream's beginning as tells one protocol from another.
const HEAD_MAX: usize = 32;
/// How long the rest of an answer that is not understood may take: only its beginning is wanted.
const MORE: Duration = Duration::from_millis(100);
/// The longest text of a server that is passed on.
const TEXT_MAX: usize = 300;

/// The first bytes that came on a stream, and why it was cut when that was said.
#[derive(Clone, Default)]
pub(super) struct Head(Arc<Mutex<Vec<u8>>>, Arc<OnceLock<(String, bool)>>);

impl Head {
    fn note(&self, bytes: &[u8]) {
        let mut head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = HEAD_MAX.saturating_sub(head.len());
        head.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    /// That it ended too early, with the stream's own reason when there is one.
    pub(super) fn closed(&self, doing: &'static str) -> ProbeError {
        match self.1.get().cloned() {
            Some((reason, refused)) => ProbeError::Cut { reason, refused },
            None => ProbeError::Closed { doing },
        }
    }

    fn note_end(&self, error: &io::Error) {
        if let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamFault>()) {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            let _ = self.1.set((fault.to_string(), refused));
        }
    }

    /// What is spoken there, when that is known and is not what was expected.
    pub(super) fn stranger(&self, wanted: &'static str) -> Option<ProbeError> {
        let head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = guess(&head).filter(|found| !wanted.starts_with(found))?;
        Some(ProbeError::Protocol { found, wanted })
    }

    /// Why an answer is of no use: another protocol if it is known, else `what`.
    pub(super) fn wrong(&self, wanted: &'static str, what: impl Into<String>) -> ProbeError {
        self.stranger(wanted).unwrap_or_else(|| ProbeError::Malformed { wanted, what: what.into() })
    }
}

/// What a server speaks, by the first bytes it sent.
fn guess(head: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 14] = [
        (b"HTTP/", "HTTP"),
        (b"SSH-", "SSH"),
        (&[0x15, 0x03], "TLS"),
        (&[0x16, 0x03], "TLS"),
        (b"+PONG", "Redis"),
        (b"-ERR ", "Redis"),
        (b"-NOAUTH ", "Redis"),
        (b"-DENIED ", "Redis"),
        (b"-WRONGPASS ", "Redis"),
        (b"220", "SMTP or FTP"),
        (b"AMQP", "AMQP"),
        (b"RFB ", "VNC"),
        (b"* OK", "IMAP"),
        (b"EFATAL", "PostgreSQL"),
    ];
    if let Some((_, name)) = STARTS.iter().find(|(start, _)| head.starts_with(start)) {
        return Some(name);
    }
    match head {
        // A greeting or an error, alone in the first packet.
        [_, _, 0, 0, 0x0a | 0xff, ..] => Some("MySQL"),
        [b'R', 0, 0, 0, _, 0, 0, 0, _, ..] | [b'E', 0, 0, _, _, b'S', ..] => Some("PostgreSQL"),
        // Settings of a connection, which come first.
        [0, 0, _, 4, 0, 0, 0, 0, 0, ..] => Some("HTTP/2"),
        _ => None,
    }
}

/// A stream whose first bytes are noted.
pub(super) struct Noted {
    io: Io,
    head: Head,
}

impl Noted {
    pub(super) fn over(io: Io) -> (Io, Head) {
        let head = Head::default();
        (Io::other(Self { io, head: head.clone() }), head)
    }
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.head.note(&buf.filled()[before..]);
        if let Poll::Ready(Err(error)) = &polled {
            self.head.note_end(error);
        }
        polled
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A stream that is read by hand.
pub(super) struct Wire<'a> {
    io: Io,
    head: Head,
    wanted: &'static str,
    doing: &'a Doing,
}

impl<'a> Wire<'a> {
    pub(super) const fn new(io: Io, head: Head, wanted: &'static str, doing: &'a Doing) -> Self {
        Self { io, head, wanted, doing }
    }

    /// The stream itself, to speak TLS on it.
    pub(super) fn into_parts(self) -> (Io, Head) {
        (self.io, self.head)
    }

    /// What is waited for from here on.
    pub(super) fn begin(&self, doing: &'static str) {
        self.doing.begin(doing);
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), ProbeError> {
        let sent = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        match sent.await {
            Ok(()) => Ok(()),
            // It may have said why before it closed.
            Err(_) => match self.puzzled("it takes nothing").await {
                ProbeError::Malformed { .. } => Err(self.closed()),
                other => Err(other),
            },
        }
    }

    pub(super) async fn array<const N: usize>(&mut self) -> Result<[u8; N], ProbeError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    pub(super) async fn byte(&mut self) -> Result<u8, ProbeError> {
        self.array::<1>().await.map(|[byte]| byte)
    }

    /// `length` bytes; the caller has compared it with a cap.
    pub(super) async fn bytes(&mut self, length: usize) -> Result<Vec<u8>, ProbeError> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// A line without its end.
    pub(super) async fn line(&mut self, max: usize) -> Result<Vec<u8>, ProbeError> {
        let mut line = Vec::new();
        loop {
            match self.byte().await? {
                b'\n' => {
                    if line.last() == Some(&b'\r') {
                        line.pop();
                    }
                    return Ok(line);
                }
                _ if line.len() == max => return Err(self.puzzled("a line without an end").await),
                byte => line.push(byte),
            }
        }
    }

    /// Why the answer is of no use; reads on a little, as the next bytes may tell what is spoken there.
    pub(super) async fn puzzled(&mut self, what: impl Into<String>) -> ProbeError {
        let mut more = [0; HEAD_MAX];
        let _ = tokio::time::timeout(MORE, self.io.read_exact(&mut more)).await;
        self.head.wrong(self.wanted, what)
    }

    fn closed(&self) -> ProbeError {
        let doing = self.doing.now();
        self.head.stranger(self.wanted).unwrap_or_else(|| self.head.closed(doing))
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ProbeError> {
        // Each way in which a connection ends too early is the same to the reader.
        self.io.read_exact(bytes).await.map(drop).map_err(|_| self.closed())
    }
}

/// A server's text as one short line, without the secrets that it may repeat.
pub(super) fn shown(text: &[u8], secrets: &[Option<&Secret<String>>]) -> String {
    let mut text = String::from_utf8_lossy(text).into_owned();
    for secret in secrets.iter().flatten().map(|secret| secret.expose()).filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), "[redacted]");
    }
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_MAX).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_spoken_is_known_by_its_beginning() {
        for (head, name) in [
            (&b"HTTP/1.1 400 Bad Request"[..], "HTTP"),
            (b"SSH-2.0-OpenSSH_9.2p1", "SSH"),
            (b"\x15\x03\x01\x00\x02\x02\x16", "TLS"),
            (b"J\0\0\0\x0a8.0.36\0", "MySQL"),
            (b"-ERR unknown command", "Redis"),
            (b"R\0\0\0\x08\0\0\0\0", "PostgreSQL"),
            (b"E\0\0\0\x60SFATAL\0", "PostgreSQL"),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", "HTTP/2"),
            (b"220 mail.example.com ESMTP", "SMTP or FTP"),
        ] {
            assert_eq!(guess(head), Some(name), "{head:?}");
        }
        assert_eq!(guess(b""), None);
        assert_eq!(guess(b"hello"), None);
    }

    #[test]
    fn s6_a_server_that_repeats_the_password_does_not_get_it_into_a_text() {
        let secret = Secret::new("hunter2".to_owned());
        let text = shown(b"no such user\r\n app/hunter2 \x1b[31m", &[Some(&secret), None]);
        assert_eq!(text, "no such user   app/[redacted]  [31m");
        assert_eq!(shown(&[b'a'; 5000], &[]).len(), TEXT_MAX);
    }

    proptest! {
        #[test]
        fn no_beginning_makes_it_panic(head in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = guess(&head);
            let noted = Head::default();
            noted.note(&head);
            let _ = noted.wrong("Kafka", "x");
        }
    }
}
