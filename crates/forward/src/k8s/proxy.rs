//! Proxies on the way to an API server: `proxy-url`, `HTTPS_PROXY`, `NO_PROXY`; HTTP CONNECT and SOCKS5.

use std::io;
use std::net::IpAddr;

use adit_core::cidr::Cidr;
use adit_core::diagnose::{Diagnose, Fault};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A proxy's answer to CONNECT at the most.
const ANSWER_MAX: usize = 8 * 1024;

/// Reads a proxy's URL.
pub(crate) fn parse(text: &str) -> Result<Uri, ProxyError> {
    // A bare host:port is an HTTP proxy, as curl and Go have it.
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = full.parse().map_err(|_| ProxyError::Unreadable)?;
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "socks5" | "socks5h" if has_plain_authority(&uri) => Ok(uri),
        "http" | "socks5" | "socks5h" => Err(ProxyError::Unreadable),
        _ => Err(ProxyError::Scheme { scheme }),
    }
}

/// Whether there is a host, and behind it nothing or a port: `http` takes any text there.
pub(crate) fn has_plain_authority(uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else { return false };
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = authority.host();
    !host.is_empty() && (place == host || authority.port_u16().is_some_and(|port| port > 0))
}

/// Host and port of a proxy.
pub(crate) fn address(proxy: &Uri) -> (String, u16) {
    let default = if proxy.scheme_str() == Some("http") { 80 } else { 1080 };
    (proxy.host().unwrap_or_default().to_owned(), proxy.port_u16().unwrap_or(default))
}

/// Asks the proxy at the other end of `tcp` for a way to `host:port`.
pub(crate) async fn ask(tcp: &mut TcpStream, proxy: &Uri, host: &str, port: u16) -> io::Result<()> {
    match proxy.scheme_str() {
        Some("http") => connect(tcp, proxy, host, port).await,
        _ => socks5(tcp, proxy, host, port).await,
    }
}

/// HTTP CONNECT (RFC 9110 section 9.3.6).
async fn connect(tcp: &mut TcpStream, proxy: &Uri, host: &str, port: u16) -> io::Result<()> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some((user, password)) = user_info(proxy) {
        request += &format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")));
    }
    request += "\r\n";
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte would be slow, but nothing may follow the head: the other side waits for our ClientHello.
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        if answer.len() > ANSWER_MAX || tcp.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::other("the proxy's answer ended early"));
        }
    }
    let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some("407") => Err(io::Error::other("the proxy asks for a user and a password (407)")),
        _ => Err(io::Error::other(format!("the proxy answered `{line}`"))),
    }
}

/// SOCKS5 (RFC 1928) with user and password (RFC 1929); the proxy resolves the name.
async fn socks5(tcp: &mut TcpStream, proxy: &Uri, host: &str, port: u16) -> io::Result<()> {
    let user = user_info(proxy);
    tcp.write_all(if user.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] }).await?;
    let mut method = [0; 2];
    tcp.read_exact(&mut method).await?;
    match (method, user) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => {
            let mut login = vec![1];
            for text in [user.as_bytes(), password.as_bytes()] {
                login.push(
                    u8::try_from(text.len()).map_err(|_| io::Error::other("the proxy's credentials are too long"))?,
                );
                login.extend_from_slice(text);
            }
            tcp.write_all(&login).await?;
            let mut answer = [0; 2];
            tcp.read_exact(&mut answer).await?;
            if answer[1] != 0 {
                return Err(io::Error::other("the proxy refused the user or the password"));
            }
        }
        _ => return Err(io::Error::other("the proxy speaks no SOCKS5, or asks for another kind of login")),
    }
    let mut request = vec![5, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            request.push(3);
            request.push(u8::try_from(host.len()).map_err(|_| io::Error::other("the host name is too long"))?);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    tcp.write_all(&request).await?;
    let mut head = [0; 4];
    tcp.read_exact(&mut head).await?;
    let rest = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(tcp.read_u8().await?),
        _ => return Err(io::Error::other("the proxy's answer is no SOCKS5")),
    };
    let mut bound = vec![0; rest + 2];
    tcp.read_exact(&mut bound).await?;
    match head[1] {
        0 => Ok(()),
        2 => Err(io::Error::other("the proxy does not allow it")),
        3 | 4 => Err(io::Error::other("the proxy found no way there")),
        5 => Err(io::ErrorKind::ConnectionRefused.into()),
        6 => Err(io::ErrorKind::TimedOut.into()),
        code => Err(io::Error::other(format!("the proxy failed with code {code}"))),
    }
}

/// User and password of a URL, percent-decoded.
fn user_info(proxy: &Uri) -> Option<(String, String)> {
    let (info, _) = proxy.authority()?.as_str().rsplit_once('@')?;
    let (user, password) = info.split_once(':').unwrap_or((info, ""));
    Some((decode(user), decode(password)))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `NO_PROXY`: names, domains, addresses, networks, each with an optional port; `*` for all.
#[derive(Debug, Default)]
pub(crate) struct NoProxy(Vec<String>);

impl NoProxy {
    pub(crate) fn parse(list: &str) -> Self {
        Self(list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).collect())
    }

    /// Whether `host` is reached without a proxy.
    pub(crate) fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        self.0.iter().any(|entry| {
            if entry == "*" {
                return true;
            }
            if let (Some(address), Ok(network)) = (address, Cidr::parse(entry)) {
                return network.contains(address);
            }
            let name = match entry.rsplit_once(':') {
                Some((name, text)) if !name.contains(':') => {
                    if text.parse() != Ok(port) {
                        return false;
                    }
                    name
                }
                _ => entry.as_str(),
            };
            let domain = name.trim_start_matches("*.").trim_start_matches('.');
            host == domain || host.strip_suffix(domain).is_some_and(|front| front.ends_with('.'))
        })
    }
}

/// Why a proxy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It is no URL.
    #[error("its address is no URL")]
    Unreadable,
    /// A kind of proxy we do not speak.
    #[error("`{scheme}` proxies are not supported")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
}

impl Diagnose for ProxyError {
    fn fault(&self) -> Fault {
        match self {
            Self::Unreadable | Self::Scheme { .. } => Fault::Config,
        }
    }

    fn hint(&self) -> Option<String> {
        Some("write http://HOST:PORT or socks5://HOST:PORT in `proxy-url` or HTTPS_PROXY".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_knows_names_domains_addresses_and_networks() {
        let list = NoProxy::parse("localhost, .corp.example, 10.0.0.0/8,api.example:6443, ::1");
        for (host, port, covered) in [
            ("localhost", 1, true),
            ("a.corp.example", 1, true),
            ("corp.example", 1, true),
            ("notcorp.example", 1, false),
            ("10.9.8.7", 1, true),
            ("11.9.8.7", 1, false),
            ("api.example", 6443, true),
            ("api.example", 443, false),
            ("[::1]", 1, true),
        ] {
            assert_eq!(list.covers(host, port), covered, "{host}:{port}");
        }
        assert!(NoProxy::parse("*").covers("anything", 1));
        assert!(!NoProxy::parse("").covers("anything", 1));
    }

    #[test]
    fn urls_of_proxies_are_read() {
        assert_eq!(address(&parse("proxy:3128").unwrap()), ("proxy".into(), 3128));
        assert_eq!(address(&parse("socks5://p").unwrap()), ("p".into(), 1080));
        assert!(matches!(parse("https://p:1"), Err(ProxyError::Scheme { .. })));
        assert!(matches!(parse("http://"), Err(ProxyError::Unreadable)));
        let proxy = parse("http://me:p%40ss@p:1").unwrap();
        assert_eq!(user_info(&proxy), Some(("me".into(), "p@ss".into())));
    }
}
