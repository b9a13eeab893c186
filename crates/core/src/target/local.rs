//! What a user may expose: a local port or the address of a plain, HTTP or HTTPS service.

use std::fmt;

use super::TargetError;

/// Where a bare port is looked for.
const LOOPBACK: &str = "127.0.0.1";

/// A service that an agent publishes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalTarget {
    /// How to speak to it.
    pub kind: TargetKind,
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// Its port, never zero.
    pub port: u16,
}

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// HTTP/1.1 in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP/2 in the clear, by prior knowledge.
    H2c,
    /// A byte pipe.
    Tcp,
}

impl LocalTarget {
    /// Parses what a user wrote. A bare port or `host:port` is HTTP, or a byte pipe when `public_port` says
    /// that a public TCP port is asked for.
    ///
    /// # Errors
    /// When it is none of the known forms, or one that is not part of this version.
    pub fn parse(text: &str, public_port: bool) -> Result<Self, TargetError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        if let Some(scheme) = special_scheme(text) {
            return Err(TargetError::Later { scheme });
        }
        let (kind, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (TargetKind::of_scheme(scheme)?, without_slash(rest, text)?),
            None if public_port => (TargetKind::Tcp, text),
            None => (TargetKind::Http, text),
        };
        let url = text.contains("://");
        let (host, port) = host_and_port(rest, url.then_some(kind), text)?;
        Ok(Self { kind, host, port })
    }

    /// The address as `host:port`, with brackets where needed.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether the host is surely this machine: `localhost`, a name under it, or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => {
                let host = self.host.to_ascii_lowercase();
                host == "localhost" || host.ends_with(".localhost")
            }
        }
    }
}

impl TargetKind {
    /// The scheme in a URL.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::Tcp => "tcp",
        }
    }

    /// Whether requests are spoken, not bytes.
    #[must_use]
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }

    const fn default_port(self) -> Option<u16> {
        match self {
            Self::Http | Self::H2c => Some(80),
            Self::Https => Some(443),
            Self::Tcp => None,
        }
    }

    fn of_scheme(scheme: &str) -> Result<Self, TargetError> {
        let kinds = [Self::Http, Self::Https, Self::H2c, Self::Tcp];
        kinds
            .into_iter()
            .find(|kind| kind.scheme().eq_ignore_ascii_case(scheme))
            .ok_or_else(|| TargetError::Scheme { scheme: scheme.to_owned() })
    }
}

impl fmt::Display for LocalTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.authority())
    }
}

/// The scheme of a kind of target that is no plain address.
pub(super) fn special_scheme(text: &str) -> Option<&'static str> {
    let (scheme, rest) = text.split_once(':')?;
    // `ssh:22` is a host and a port; `forward:NAME` has no slashes by design.
    let known = ["k8s", "ssh", "jump", "forward"].into_iter().find(|known| known.eq_ignore_ascii_case(scheme))?;
    let is_port = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    (!is_port).then_some(known)
}

fn without_slash<'a>(rest: &'a str, text: &str) -> Result<&'a str, TargetError> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(TargetError::Surplus { text: without_userinfo(text) });
    }
    Ok(rest)
}

/// The text with `user:password@` taken out, because errors are shown and logged.
fn without_userinfo(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if start + 3 <= end => {
            format!("{}…{}", &text[..start + 3], &text[end..])
        }
        _ => text.to_owned(),
    }
}

fn host_and_port(rest: &str, url: Option<TargetKind>, text: &str) -> Result<(String, u16), TargetError> {
    if url.is_none() && !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) {
        return Ok((LOOPBACK.to_owned(), parse_port(rest, text)?));
    }
    let (host, port) = split_port(rest, text)?;
    let port = match (port, url.and_then(TargetKind::default_port)) {
        (Some(port), _) => parse_port(port, text)?,
        (None, Some(port)) => port,
        (None, None) => return Err(port_error(text)),
    };
    match host {
        "" if url.is_none() => Ok((LOOPBACK.to_owned(), port)),
        host => Ok((checked_host(host, text)?, port)),
    }
}

fn split_port<'a>(rest: &'a str, text: &str) -> Result<(&'a str, Option<&'a str>), TargetError> {
    if let Some(inner) = rest.strip_prefix('[') {
        let (host, after) = inner.split_once(']').ok_or_else(|| host_error(text))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(host_error(text));
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(host_error(text)),
        };
    }
    match rest.rsplit_once(':') {
        // An IPv6 address without brackets: its last group is not a port.
        Some((host, _)) if host.contains(':') => Err(host_error(text)),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((rest, None)),
    }
}

fn checked_host(host: &str, text: &str) -> Result<String, TargetError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || host.starts_with('-') || !host.bytes().all(legal) {
        return Err(host_error(text));
    }
    Ok(host.to_owned())
}

fn parse_port(port: &str, text: &str) -> Result<u16, TargetError> {
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(port_error(text));
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(port_error(text)),
        Ok(port) => Ok(port),
    }
}

fn host_error(text: &str) -> TargetError {
    TargetError::Host { text: text.to_owned() }
}

fn port_error(text: &str) -> TargetError {
    TargetError::Port { text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{Diagnose, Fault};
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, TargetError> {
        LocalTarget::parse(text, false).map(|target| target.to_string())
    }

    #[test]
    fn a_bare_port_is_http_on_loopback() {
        assert_eq!(parse("3000").unwrap(), "http://127.0.0.1:3000");
        assert_eq!(parse(":3000").unwrap(), "http://127.0.0.1:3000");
        assert_eq!(parse("web:3000").unwrap(), "http://web:3000");
    }

    #[test]
    fn a_bare_port_is_a_byte_pipe_when_a_public_port_is_asked_for() {
        let target = LocalTarget::parse("5432", true).unwrap();
        assert_eq!(target.to_string(), "tcp://127.0.0.1:5432");
        let target = LocalTarget::parse("http://db:80", true).unwrap();
        assert_eq!(target.kind, TargetKind::Http);
    }

    #[test]
    fn urls_of_all_four_kinds_are_understood() {
        assert_eq!(parse("http://h:1/").unwrap(), "http://h:1");
        assert_eq!(parse("https://h").unwrap(), "https://h:443");
        assert_eq!(parse("H2C://h").unwrap(), "h2c://h:80");
        assert_eq!(parse("tcp://10.0.0.5:5432").unwrap(), "tcp://10.0.0.5:5432");
        assert_eq!(parse("http://[::1]:3000").unwrap(), "http://[::1]:3000");
        assert_eq!(parse("[::1]:3000").unwrap(), "http://[::1]:3000");
    }

    #[test]
    fn targets_of_later_versions_are_recognised_and_refused() {
        for (text, scheme) in [
            ("k8s://prod/db/service/pg:5432", "k8s"),
            ("ssh://me@bastion/db:5432", "ssh"),
            ("jump://a/b/pod/c/h:1", "jump"),
            ("forward:grafana", "forward"),
        ] {
            let error = LocalTarget::parse(text, false).unwrap_err();
            assert_eq!(error, TargetError::Later { scheme });
            assert!(error.to_string().ends_with("targets are not part of this version"));
            assert!(error.hint().is_some());
        }
        assert_eq!(parse("ssh:22").unwrap(), "http://ssh:22");
    }

    #[test]
    fn what_is_no_target_is_refused_with_its_reason() {
        assert_eq!(parse(""), Err(TargetError::Empty));
        assert!(matches!(parse("ftp://h:21"), Err(TargetError::Scheme { .. })));
        for text in ["tcp://:80", "http://-x:1", "a b:3", "::1:80", "[::1", "[x]:1", "http://a:b:1"] {
            assert!(matches!(parse(text), Err(TargetError::Host { .. })), "{text}");
        }
        for text in ["0", "70000", "tcp://h", "h:", "h:x", "localhost", "http://h:0"] {
            assert!(matches!(parse(text), Err(TargetError::Port { .. })), "{text}");
        }
        for text in ["http://h/path", "http://h?q", "http://h#f"] {
            assert!(matches!(parse(text), Err(TargetError::Surplus { .. })), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated_in_the_error() {
        let error = parse("http://me:hunter2@h:1").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn loopback_hosts_are_known_as_such() {
        for text in ["3000", "localhost:1", "a.localhost:1", "[::1]:1", "127.8.8.8:1"] {
            assert!(LocalTarget::parse(text, false).unwrap().is_loopback(), "{text}");
        }
        assert!(!LocalTarget::parse("10.0.0.1:1", false).unwrap().is_loopback());
        assert!(!LocalTarget::parse("notlocalhost:1", false).unwrap().is_loopback());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), public in any::<bool>()) {
            let _ = LocalTarget::parse(&text, public);
        }

        #[test]
        fn a_target_is_read_back_from_its_text(
            scheme in "http|https|h2c|tcp", host in "[a-z][a-z0-9.]{0,9}|::1|10\\.0\\.0\\.1", port in 1u16..
        ) {
            let host_text = if host.contains(':') { format!("[{host}]") } else { host };
            let text = format!("{scheme}://{host_text}:{port}");
            let target = LocalTarget::parse(&text, false).unwrap();
            prop_assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn kinds_know_their_schemes() {
        assert!(TargetKind::H2c.is_http() && TargetKind::Https.is_http() && !TargetKind::Tcp.is_http());
        assert_eq!(TargetKind::of_scheme("HTTPS"), Ok(TargetKind::Https));
    }

    #[test]
    fn every_refusal_is_a_usage_fault_with_a_hint() {
        for text in ["", "k8s://a", "ftp://a:1", "tcp://:1", "http://h:0", "http://h/p"] {
            let error = LocalTarget::parse(text, false).unwrap_err();
            assert_eq!(error.fault(), Fault::Usage, "{text}");
            assert!(error.hint().is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_a_host_a_port_and_nothing_else(text in "[a-z0-9.:/\\[\\]@?#-]{0,14}") {
            if let Ok(target) = LocalTarget::parse(&text, false) {
                prop_assert!(target.port > 0 && !target.host.is_empty());
                prop_assert!(!target.host.contains(['/', '@', '?', '#', '[', ']']));
                prop_assert_eq!(LocalTarget::parse(&target.to_string(), false), Ok(target));
            }
        }
    }
}
