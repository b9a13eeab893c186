//! `Connect`: "open me a byte stream to the target as it is right now", and the direct ways to do it.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use adit_core::diagnose::{Diagnose, Fault};
use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{ServerTrust, TlsError, in_words, in_words_of_io, unverified_client_config};

mod tcp;

pub use tcp::TcpConnect;

/// A boxed future, as [`Connect`] returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens byte streams to one target. Nothing above it knows what kind of target it is.
pub trait Connect: Send + Sync + 'static {
    /// Opens one stream. Has a deadline of its own; dropping the future gives up.
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>>;

    /// The target as a user would write it, for messages.
    fn describe(&self) -> String;
}

impl<C: Connect + ?Sized> Connect for Arc<C> {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        (**self).connect()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }
}

/// What any byte stream can do: both directions, and shutdown as half-close.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A [`Duplex`] that has its bytes already, so that they need not be copied once more to be read.
pub trait BufferedDuplex: AsyncBufRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncBufRead + AsyncWrite + Send + Unpin + 'static> BufferedDuplex for T {}

/// A [`Duplex`] that carries another stream's bytes in its own way: what is underneath stays in reach.
pub trait Layer: Duplex {
    /// The stream underneath.
    fn under(&self) -> &Io;
}

/// An open byte stream; the common kinds are reached without a virtual call.
pub enum Io {
    /// A plain TCP connection.
    Tcp(TcpStream),
    /// TLS over any of the others.
    Tls(Box<TlsStream<Self>>),
    /// A stream within a session that keeps what arrived.
    Buffered(Box<dyn BufferedDuplex>),
    /// Anything else: a pipe.
    Other(Box<dyn Duplex>),
    /// Any of them, with something that lasts as long.
    With(Box<Self>, Box<dyn Send>),
    /// Any of them, with something between.
    Over(Box<dyn Layer>),
}

impl Io {
    /// Wraps a stream that has a buffer of its own.
    pub fn buffered<D: BufferedDuplex>(stream: D) -> Self {
        Self::Buffered(Box::new(stream))
    }

    /// Wraps any stream.
    pub fn other<D: Duplex>(stream: D) -> Self {
        Self::Other(Box::new(stream))
    }

    /// Wraps a stream that has another one underneath.
    pub fn over<L: Layer>(stream: L) -> Self {
        Self::Over(Box::new(stream))
    }

    /// The same stream; `kept` is dropped with it.
    #[must_use]
    pub fn with(self, kept: impl Send + 'static) -> Self {
        Self::With(Box::new(self), Box::new(kept))
    }

    /// The protocol agreed on by ALPN, when this is TLS.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Self::With(stream, _) => stream.alpn(),
            Self::Over(stream) => stream.under().alpn(),
            Self::Tcp(_) | Self::Buffered(_) | Self::Other(_) => None,
        }
    }

    /// The TCP connection underneath, when there is one.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => stream.get_ref().0.tcp(),
            Self::With(stream, _) => stream.tcp(),
            Self::Over(stream) => stream.under().tcp(),
            Self::Buffered(_) | Self::Other(_) => None,
        }
    }

    /// The TCP connection that this is, with nothing between: its bytes are the stream's.
    #[must_use]
    pub fn plain_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::With(stream, _) => stream.plain_tcp(),
            Self::Tls(_) | Self::Buffered(_) | Self::Other(_) | Self::Over(_) => None,
        }
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Io::Tcp",
            Self::Tls(_) => "Io::Tls",
            Self::Buffered(_) => "Io::Buffered",
            Self::Other(_) => "Io::Other",
            Self::With(stream, _) => return stream.fmt(f),
            Self::Over(stream) => return stream.under().fmt(f),
        })
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Buffered(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Other(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::With(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Over(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Buffered(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Other(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::With(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Over(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Buffered(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Other(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::With(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Over(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Buffered(stream) => stream.is_write_vectored(),
            Self::Other(stream) => stream.is_write_vectored(),
            Self::With(stream, _) => stream.is_write_vectored(),
            Self::Over(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Buffered(stream) => Pin::new(stream).poll_flush(cx),
            Self::Other(stream) => Pin::new(stream).poll_flush(cx),
            Self::With(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Over(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Buffered(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Other(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::With(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Over(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// TLS over another connector.
pub struct TlsConnect<C> {
    under: C,
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    timeout: Duration,
}

impl<C: Connect> TlsConnect<C> {
    /// TLS over `under`, to a server that calls itself `server_name`. `timeout` is for the handshake.
    ///
    /// # Errors
    /// When the name is neither a DNS name nor an address.
    pub fn new(under: C, server_name: &str, config: Arc<ClientConfig>, timeout: Duration) -> Result<Self, TlsError> {
        Ok(Self { under, config, server_name: crate::tls::server_name(server_name)?, timeout })
    }

    /// The same to a server that may show any certificate: where a user said so, for this one target.
    ///
    /// # Errors
    /// When the name is neither a DNS name nor an address.
    pub fn unverified(under: C, server_name: &str, alpn: &[&[u8]], timeout: Duration) -> Result<Self, TlsError> {
        Self::new(under, server_name, unverified_client_config(alpn)?, timeout)
    }

    async fn open(&self) -> Result<Io, ConnectError> {
        let stream = self.under.connect().await?;
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(self.server_name.clone(), stream);
        match tokio::time::timeout(self.timeout, handshake).await {
            Ok(Ok(stream)) => Ok(Io::Tls(Box::new(stream))),
            Ok(Err(source)) => Err(ConnectError::tls(self.describe(), source)),
            Err(_) => Err(ConnectError::Timeout { target: self.describe(), after: self.timeout }),
        }
    }
}

impl TlsConnect<TcpConnect> {
    /// An `https://host:port` target, verified by the system's roots; or not verified, which is for services on
    /// this machine only: they show whatever certificate they have.
    ///
    /// # Errors
    /// [`TlsError`] when the roots cannot be read or the host is no name.
    pub fn to_service(
        host: &str,
        port: u16,
        timeout: Duration,
        alpn: &[&[u8]],
        verify: bool,
    ) -> Result<Self, TlsError> {
        let config = if !verify && crate::socket::is_loopback_host(host) {
            unverified_client_config(alpn)?
        } else {
            ServerTrust::Roots.client_config(alpn)?
        };
        Self::new(TcpConnect::new(host, port, timeout), host, config, timeout)
    }
}

impl<C: Connect> Connect for TlsConnect<C> {
    fn connect(&self) -> BoxFuture<'_, Result<Io, ConnectError>> {
        Box::pin(self.open())
    }

    fn describe(&self) -> String {
        self.under.describe()
    }
}

impl<C: Connect> fmt::Debug for TlsConnect<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsConnect({})", self.describe())
    }
}

/// Why no stream to the target could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there.
    #[error("{target} refused the connection")]
    Refused {
        /// The target as a user would write it.
        target: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{target} did not answer within {after:?}")]
    Timeout {
        /// The target as a user would write it.
        target: String,
        /// The deadline.
        after: Duration,
    },
    /// The host name has no address.
    #[error("the host name of {target} could not be resolved")]
    Resolve {
        /// The target as a user would write it.
        target: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No way there, or the connection broke while it was made.
    #[error("{target} cannot be reached")]
    Unreachable {
        /// The target as a user would write it.
        target: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// This machine has no descriptors or local ports left.
    #[error("out of descriptors or local ports for a connection to {target}")]
    Exhausted {
        /// The target as a user would write it.
        target: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The peer's certificate is not the one we trust.
    #[error("the certificate of {target} is not trusted: {}", in_words(why))]
    Certificate {
        /// The target as a user would write it.
        target: String,
        /// What the verifier said. It is told in other words, so it is no source.
        why: rustls::Error,
    },
    /// TLS failed in another way, for example because the peer does not speak it.
    #[error("{}", tls_failed(target, why))]
    Tls {
        /// The target as a user would write it.
        target: String,
        /// What the TLS library said. It is told in other words, so it is no source.
        why: io::Error,
    },
    /// The target exists but cannot take a connection now; for connectors that are not plain TCP.
    #[error("{target} is not available: {reason}")]
    Unavailable {
        /// The target as a user would write it.
        target: String,
        /// Why, in lower case.
        reason: String,
        /// What to do, if anybody knows.
        hint: Option<String>,
    },
    /// It carries as much as it may; for connectors that are not plain TCP.
    #[error("{target} is not available: it carries {most} {}, its limit", if *most == 1 { "connection" } else { "connections" })]
    Full {
        /// The target as a user would write it.
        target: String,
        /// How many connections.
        most: usize,
    },
    /// There is no such target, as far as those know who were asked; for connectors that are not plain TCP.
    #[error("{target} is not there: {reason}")]
    Missing {
        /// The target as a user would write it.
        target: String,
        /// Why, in lower case.
        reason: String,
        /// What to do, if anybody knows.
        hint: Option<String>,
        /// What is not there.
        part: MissingPart,
        /// What is there instead of that part and could be meant, nearest first.
        near: Vec<String>,
    },
    /// The target was started and waited for; for connectors that are not plain TCP.
    #[error("{target} is not ready: {}", with_wait(reason, *after))]
    NotReady {
        /// The target as a user would write it.
        target: String,
        /// The deadline.
        after: Duration,
        /// What is waited for, in lower case.
        reason: String,
        /// What to do, if anybody knows.
        hint: Option<String>,
    },
}

/// Which part of a target is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingPart {
    /// What has the name.
    Name,
    /// Where that would be.
    Namespace,
    /// Its port.
    Port,
}

impl ConnectError {
    /// Sorts an error of `connect(2)` to `target`.
    #[must_use]
    pub fn from_io(target: String, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::CONNREFUSED) => Self::Refused { target, source },
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL | Errno::AGAIN) => {
                Self::Exhausted { target, source }
            }
            _ => Self::Unreachable { target, source },
        }
    }

    /// Sorts an error of a TLS handshake with `target`.
    #[must_use]
    pub fn tls(target: String, source: io::Error) -> Self {
        let certificate = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match certificate {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                let why = certificate.cloned().expect("matched just above");
                Self::Certificate { target, why }
            }
            _ => Self::Tls { target, why: source },
        }
    }

    /// The same error, of a target under another name.
    #[must_use]
    pub fn towards(self, target: String) -> Self {
        match self {
            Self::Refused { source, .. } => Self::Refused { target, source },
            Self::Timeout { after, .. } => Self::Timeout { target, after },
            Self::Resolve { source, .. } => Self::Resolve { target, source },
            Self::Unreachable { source, .. } => Self::Unreachable { target, source },
            Self::Exhausted { source, .. } => Self::Exhausted { target, source },
            Self::Certificate { why, .. } => Self::Certificate { target, why },
            Self::Tls { why, .. } => Self::Tls { target, why },
            Self::Unavailable { reason, hint, .. } => Self::Unavailable { target, reason, hint },
            Self::Full { most, .. } => Self::Full { target, most },
            Self::Missing { reason, hint, part, near, .. } => Self::Missing { target, reason, hint, part, near },
            Self::NotReady { after, reason, hint, .. } => Self::NotReady { target, after, reason, hint },
        }
    }

    /// Whether the target was too slow, as opposed to not there.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::NotReady { .. })
    }

    /// The target as a user would write it.
    #[must_use]
    pub fn target(&self) -> &str {
        match self {
            Self::Refused { target, .. }
            | Self::Timeout { target, .. }
            | Self::Resolve { target, .. }
            | Self::Unreachable { target, .. }
            | Self::Exhausted { target, .. }
            | Self::Certificate { target, .. }
            | Self::Tls { target, .. }
            | Self::Unavailable { target, .. }
            | Self::Full { target, .. }
            | Self::Missing { target, .. }
            | Self::NotReady { target, .. } => target,
        }
    }
}

impl Diagnose for ConnectError {
    fn fault(&self) -> Fault {
        match self {
            Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Resolve { .. }
            | Self::Unreachable { .. }
            | Self::Certificate { .. }
            | Self::Tls { .. }
            | Self::Unavailable { .. }
            | Self::Missing { .. }
            | Self::NotReady { .. } => Fault::Upstream,
            Self::Full { .. } => Fault::Quota,
            Self::Exhausted { .. } => Fault::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { target, .. } => format!("start the service, or check that it listens on {target}"),
            Self::Timeout { .. } => "check that the address is right and no firewall is in between".into(),
            Self::Resolve { target, .. } if target.starts_with("ssh://") => {
                "check the spelling of the host name; the ssh server looks it up, not this machine".into()
            }
            Self::Resolve { .. } => "check the spelling of the host name and this machine's name servers".into(),
            Self::Unreachable { .. } => "check the address and this machine's network".into(),
            Self::Exhausted { .. } => {
                "raise the limit of open files (ulimit -n), or lower the number of connections".into()
            }
            Self::Certificate { .. } => {
                "give the certificate authority's file, or pin the server's fingerprint, if this is the server you mean"
                    .into()
            }
            Self::Tls { why, .. } if speaks_no_tls(why) => {
                "write http:// for https:// in the target, leave out `.https` in the host or `scheme: https` in the route, or \
                 name the port that speaks TLS"
                    .into()
            }
            Self::Tls { .. } => "check that this port speaks TLS".into(),
            Self::Full { .. } => "close one of them, or raise `limits.connections` of the forward".into(),
            Self::Unavailable { hint, .. } | Self::Missing { hint, .. } => return hint.clone(),
            Self::NotReady { hint: Some(hint), .. } => format!("{hint}; the next request tries again"),
            Self::NotReady { hint: None, .. } => "the next request tries again".into(),
        };
        Some(hint)
    }
}

fn tls_failed(target: &str, why: &io::Error) -> String {
    if speaks_no_tls(why) {
        format!("the service at {target} does not speak TLS")
    } else {
        format!("TLS with {target} failed: {}", in_words_of_io(why))
    }
}

/// Before the time that was waited, at the end of a text.
const WAITED: &str = "waited ";

/// A reason with the time that was waited for it to go.
#[must_use]
pub fn with_wait(reason: &str, after: Duration) -> String {
    format!("{reason} ({WAITED}{})", rounded(after))
}

/// A text without the times that were waited: with them the same reason would be another one each time.
#[must_use]
pub fn without_waits(text: &str) -> String {
    let opening = format!(" ({WAITED}");
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, behind)) = rest.split_once(&opening) {
        plain.push_str(before);
        rest = behind.split_once(')').map_or("", |(_, behind)| behind);
    }
    plain.push_str(rest);
    plain
}

/// A time as people say it: whole seconds, below ten of them tenths.
fn rounded(time: Duration) -> String {
    let step = match time.as_millis() {
        10_000.. => 1_000,
        100.. => 100,
        _ => 1,
    };
    let steps = (time.as_micros() + step * 500) / (step * 1_000);
    format!("{:?}", Duration::from_millis(u64::try_from(steps * step).unwrap_or(u64::MAX)))
}

/// Whether the answer to a ClientHello was nothing of TLS.
#[must_use]
pub fn speaks_no_tls(source: &io::Error) -> bool {
    let error = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpListener;

    use super::*;

    const TARGET: &str = "127.0.0.1:1";

    fn sorted(errno: Errno) -> ConnectError {
        ConnectError::from_io(TARGET.into(), errno.into())
    }

    #[test]
    fn system_errors_are_sorted_by_what_they_mean() {
        assert!(matches!(sorted(Errno::CONNREFUSED), ConnectError::Refused { .. }));
        assert!(!adit_core::diagnose::chain(&sorted(Errno::CONNREFUSED)).contains("os error"), "it is said once");
        assert!(matches!(sorted(Errno::MFILE), ConnectError::Exhausted { .. }));
        assert!(matches!(sorted(Errno::ADDRNOTAVAIL), ConnectError::Exhausted { .. }));
        assert!(matches!(sorted(Errno::HOSTUNREACH), ConnectError::Unreachable { .. }));
    }

    #[test]
    fn only_our_own_shortage_is_not_the_targets_fault() {
        assert_eq!(sorted(Errno::MFILE).fault(), Fault::Internal);
        assert_eq!(sorted(Errno::CONNREFUSED).fault(), Fault::Upstream);
        assert_eq!(sorted(Errno::CONNREFUSED).target(), TARGET);
        assert!(sorted(Errno::CONNREFUSED).hint().unwrap().contains(TARGET));
    }

    #[test]
    fn an_answer_that_is_no_tls_is_told_as_such() {
        let error = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let error = ConnectError::tls(TARGET.into(), io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(error.to_string(), "the service at 127.0.0.1:1 does not speak TLS");
        assert!(error.hint().unwrap().contains("scheme: https"));
        let other = ConnectError::tls(TARGET.into(), io::Error::other("x"));
        assert_eq!(other.to_string(), "TLS with 127.0.0.1:1 failed: x");
        assert_eq!(adit_core::diagnose::chain(&error), error.to_string(), "the library's own word is not told");
    }

    #[test]
    fn a_time_that_was_waited_is_rounded_and_is_no_part_of_the_reason() {
        let error = |millis| ConnectError::NotReady {
            target: TARGET.into(),
            after: Duration::from_millis(millis) + Duration::from_nanos(214_672),
            reason: "no answer".into(),
            hint: None,
        };
        for (millis, told) in
            [(20_013, "20s"), (3_049, "3s"), (3_050, "3.1s"), (9_999, "10s"), (250, "300ms"), (7, "7ms")]
        {
            let text = error(millis).to_string();
            assert_eq!(text, format!("{TARGET} is not ready: no answer (waited {told})"));
            assert_eq!(with_wait("no answer", Duration::from_millis(millis)), format!("no answer (waited {told})"));
            assert_eq!(without_waits(&text), format!("{TARGET} is not ready: no answer"));
        }
        assert_eq!(without_waits("a (waited 1s), b (c) (waited 2s)."), "a, b (c).");
        assert_eq!(without_waits("a (waited"), "a (waited");
    }

    #[tokio::test]
    async fn shutdown_closes_one_direction_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        let mut io = Io::Tcp(client);
        io.write_all(b"question").await.unwrap();
        io.shutdown().await.unwrap();
        let mut question = String::new();
        served.read_to_string(&mut question).await.unwrap();
        served.write_all(b"answer").await.unwrap();
        drop(served);
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    }

    #[tokio::test]
    async fn any_stream_can_be_an_io() {
        let (near, mut far) = duplex(64);
        let mut io = Io::other(near);
        io.write_all(b"x").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
        assert!(io.alpn().is_none() && io.tcp().is_none());
    }
}
