//! One connection to the server: TCP, TLS, and the one exchange before a lane runs.

use std::sync::Arc;
use std::time::Duration;

use adit_core::diagnose::chain;
use mux::frame::{DATA_DEFAULT, FrameType, Limits, flags};
use mux::message::{self, AuthRequest, AuthResponse, Fault, Join, JoinResponse};
use runtime::TcpConnect;
use runtime::tls::{TlsError, in_words};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::error::AgentError;
use super::settings::AgentConfig;
use crate::handshake::{self, FrameReader, HandshakeFault};
use crate::lane::{TlsFault, TlsPipe};

/// Look-up and all addresses together.
const CONNECT: Duration = Duration::from_secs(10);
/// The TLS handshake.
const SECURE: Duration = Duration::from_secs(10);
/// The exchange of the first frames. A server that refuses takes its time to say so.
const EXCHANGE: Duration = Duration::from_secs(15);
/// What the server's agent port is when none is given.
const PORT: u16 = 8443;
/// Agreed on by ALPN.
const ALPN: &[u8] = b"adit/1";

/// Makes connections to one server.
pub(super) struct Dialer {
    pub(super) address: String,
    connect: TcpConnect,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Dialer {
    /// Reads what the trust in the server rests on; touches files.
    pub(super) fn new(address: &str, config: &AgentConfig) -> Result<Self, AgentError> {
        let (host, port) = split(address)?;
        let name = config.server_name.as_deref().unwrap_or(host);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| AgentError::Tls(TlsError::NotAName { name: name.to_owned() }))?;
        Ok(Self {
            address: format!("{host}:{port}"),
            connect: TcpConnect::new(host, port, CONNECT),
            tls: config.trust.client_config(&[ALPN])?,
            name,
        })
    }

    /// Begins a session.
    pub(super) async fn authenticate(
        &self,
        request: &AuthRequest,
    ) -> Result<(TlsPipe, FrameReader, AuthResponse), AgentError> {
        let (pipe, reader, payload) =
            self.exchange(FrameType::AuthRequest, request, FrameType::AuthResponse, 0).await?;
        let mut response: AuthResponse = message::decode(&payload).map_err(|error| self.failed(&error.into()))?;
        match response.error.take() {
            Some(fault) => Err(AgentError::Refused { fault: printable(&fault) }),
            None => Ok((pipe, reader, response)),
        }
    }

    /// Attaches a lane to a session.
    pub(super) async fn join(&self, join: &Join) -> Result<(TlsPipe, FrameReader), AgentError> {
        let (pipe, reader, payload) = self.exchange(FrameType::Join, join, FrameType::Join, flags::ACK).await?;
        let response: JoinResponse = message::decode(&payload).map_err(|error| self.failed(&error.into()))?;
        match response.error {
            Some(fault) => Err(AgentError::Refused { fault: printable(&fault) }),
            None => Ok((pipe, reader)),
        }
    }

    async fn exchange<T: serde::Serialize>(
        &self,
        kind: FrameType,
        question: &T,
        answer: FrameType,
        answer_flags: u8,
    ) -> Result<(TlsPipe, FrameReader, Vec<u8>), AgentError> {
        let mut pipe = self.secure().await?;
        let mut reader = FrameReader::new(Limits::Authenticated { data_cap: DATA_DEFAULT });
        let talk = async {
            handshake::send(&mut pipe, kind, 0, question).await?;
            let (header, payload) = reader.read(&mut pipe).await?;
            if header.kind != answer || header.flags & flags::ACK != answer_flags {
                return Err(HandshakeFault::OutOfTurn(header.kind));
            }
            Ok(payload)
        };
        match tokio::time::timeout(EXCHANGE, talk).await {
            Ok(Ok(payload)) => Ok((pipe, reader, payload)),
            Ok(Err(fault)) => Err(self.failed(&fault)),
            Err(_) => Err(self.conversation(format!("no answer within {EXCHANGE:?}"))),
        }
    }

    async fn secure(&self) -> Result<TlsPipe, AgentError> {
        let tcp = self.connect.open().await.map_err(|source| AgentError::Unreachable { source })?;
        let handshake = TlsPipe::connect(tcp, Arc::clone(&self.tls), self.name.clone());
        match tokio::time::timeout(SECURE, handshake).await {
            Ok(Ok(pipe)) => Ok(pipe),
            Ok(Err(fault)) => Err(self.failed(&fault.into())),
            Err(_) => Err(self.conversation(format!("no tls handshake within {SECURE:?}"))),
        }
    }

    fn failed(&self, fault: &HandshakeFault) -> AgentError {
        if let HandshakeFault::Tls(TlsFault::Tls(error @ rustls::Error::InvalidCertificate(_))) = fault {
            let reason = in_words(error);
            return AgentError::Untrusted { server: self.address.clone(), reason };
        }
        self.conversation(chain(fault))
    }

    fn conversation(&self, reason: String) -> AgentError {
        AgentError::Conversation { server: self.address.clone(), reason }
    }
}

/// Splits `host:port`; the port may be left out.
fn split(address: &str) -> Result<(&str, u16), AgentError> {
    let fault = || AgentError::Address { text: address.to_owned() };
    let bracket = address.rfind(']');
    let colon = address.rfind(':').filter(|colon| bracket.is_none_or(|bracket| *colon > bracket));
    let (host, port) = match colon {
        // Two colons and no brackets: an IPv6 address by itself.
        Some(colon) if bracket.is_none() && address[..colon].contains(':') => (address, PORT),
        Some(colon) => (&address[..colon], address[colon + 1..].parse().map_err(|_| fault())?),
        None => (address, PORT),
    };
    let legal = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]%".contains(&b));
    if legal && port != 0 { Ok((host, port)) } else { Err(fault()) }
}

/// Whether two addresses name one host, whatever the port.
pub(super) fn is_same_host(one: &str, other: &str) -> bool {
    match (split(one), split(other)) {
        (Ok((one, _)), Ok((other, _))) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}

/// Checks an address without connecting.
pub(super) fn check(address: &str) -> Result<(), AgentError> {
    split(address).map(|_| ())
}

/// What a server says goes to a terminal: without control characters, and not for ever.
pub(super) fn printable(fault: &Fault) -> Fault {
    Fault {
        code: clean(&fault.code, 64),
        message: clean(&fault.message, 500),
        hint: clean(&fault.hint, 500),
        retry_after_ms: fault.retry_after_ms,
    }
}

/// Text without control characters, cut to `longest` characters.
pub(super) fn clean(text: &str, longest: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_perhaps_a_port() {
        assert_eq!(split("tunnel.example.com:9443").unwrap(), ("tunnel.example.com", 9443));
        assert_eq!(split("tunnel.example.com").unwrap(), ("tunnel.example.com", 8443));
        assert_eq!(split("[::1]:9443").unwrap(), ("[::1]", 9443));
        assert_eq!(split("[::1]").unwrap(), ("[::1]", 8443));
        assert_eq!(split("::1").unwrap(), ("::1", 8443));
        for bad in ["", ":8443", "host:", "host:0", "host:99999", "a b:1", "https://host:1", "host/x"] {
            assert!(matches!(split(bad), Err(AgentError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn s14_another_host_is_another_host() {
        assert!(is_same_host("tunnel.example.com:9443", "Tunnel.Example.com:8443"));
        assert!(!is_same_host("10.0.0.1:22", "tunnel.example.com:8443"));
        assert!(!is_same_host("tunnel.example.com.evil:8443", "tunnel.example.com:8443"));
        assert!(!is_same_host("", "tunnel.example.com:8443"));
    }

    #[test]
    fn what_a_server_says_cannot_reach_the_terminal_raw() {
        let fault = printable(&Fault { code: "x".into(), message: "a\x1b[2Jb\n".into(), ..Fault::default() });
        assert_eq!(fault.message, "a[2Jb");
        assert_eq!(clean(&"y".repeat(1000), 500).len(), 500);
    }
}
