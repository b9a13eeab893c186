//! What a complete head says: its framing, or its fault.

use std::mem::MaybeUninit;

use http::HeaderMap;
use http::header::{CONNECTION, UPGRADE};

use super::scan::is_token;
use super::{HEADERS_MAX, HeadFault, HeadLimits};

/// Which protocols a connection may be upgraded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeRule {
    /// Any one protocol.
    Any,
    /// `websocket` and these.
    Listed(Vec<String>),
}

impl UpgradeRule {
    fn permits(&self, protocol: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(names) => {
                protocol.eq_ignore_ascii_case("websocket")
                    || names.iter().any(|name| name.eq_ignore_ascii_case(protocol))
            }
        }
    }
}

/// How a request goes on after its head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) body: Body,
    pub(super) upgrade: bool,
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
}

impl Verdict {
    /// Judges a head with its empty line.
    pub(super) fn of(head: &[u8], limits: &HeadLimits) -> Result<Self, HeadFault> {
        let mut storage = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(head, &mut storage[..limits.headers]);
        match parsed {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            // The two must agree on the end; if ever they do not, the head is not to be trusted.
            Ok(_) => return Err(HeadFault::Header),
            Err(error) => return Err(fault_of(error, head)),
        }
        let method = request.method.unwrap_or_default();
        check_target(method, request.path.unwrap_or_default())?;
        let version10 = request.version == Some(0);
        let found = Found::of(request.headers)?;
        let body = found.body(version10)?;
        let upgrade = found.upgrade(version10, &limits.upgrades)?;
        if upgrade && !matches!(body, Body::None | Body::Length(0)) {
            return Err(HeadFault::UpgradeWithBody);
        }
        Ok(Self { body, upgrade })
    }
}

/// The protocol that a request asks to be upgraded to, by the guard's rules: for whoever answers the request.
///
/// `h2c` does not count, nor does an `Upgrade` that `Connection` does not name.
#[must_use]
pub fn upgrade_protocol(headers: &HeaderMap) -> Option<&str> {
    let names_it = headers.get_all(CONNECTION).iter().any(|value| has_token(value.as_bytes(), "upgrade"));
    let protocol = headers.get(UPGRADE)?.to_str().ok()?.trim();
    (names_it && !protocol.eq_ignore_ascii_case("h2c")).then_some(protocol)
}

/// The headers that decide, as they were found.
#[derive(Default)]
struct Found<'a> {
    hosts: usize,
    length: Option<&'a [u8]>,
    length_repeated: bool,
    encoding: Option<&'a [u8]>,
    encoding_repeated: bool,
    upgrade: Option<&'a [u8]>,
    upgrade_repeated: bool,
    connection_upgrade: bool,
}

impl<'a> Found<'a> {
    fn of(headers: &[httparse::Header<'a>]) -> Result<Self, HeadFault> {
        let mut found = Self::default();
        for header in headers {
            // Lengths first: nearly every header is told apart by its length alone.
            match header.name.len() {
                4 if is(header, "host") => found.hosts += 1,
                7 if is(header, "upgrade") => {
                    found.upgrade_repeated |= found.upgrade.replace(header.value).is_some();
                }
                10 if is(header, "connection") => {
                    found.connection_upgrade |= has_token(header.value, "upgrade");
                }
                14 if is(header, "content-length") => {
                    found.length_repeated |= found.length.replace(header.value).is_some();
                }
                17 if is(header, "transfer-encoding") => {
                    found.encoding_repeated |= found.encoding.replace(header.value).is_some();
                }
                _ => {}
            }
        }
        match found.hosts {
            0 => Err(HeadFault::HostMissing),
            1 => Ok(found),
            _ => Err(HeadFault::HostRepeated),
        }
    }

    fn body(&self, version10: bool) -> Result<Body, HeadFault> {
        match (self.length, self.encoding) {
            (None, None) => Ok(Body::None),
            (Some(_), _) if self.length_repeated => Err(HeadFault::LengthRepeated),
            (Some(length), None) => number(length).map(Body::Length).ok_or(HeadFault::Length),
            (Some(_), Some(_)) => Err(HeadFault::LengthAndEncoding),
            (None, Some(_)) if version10 => Err(HeadFault::EncodingInVersion10),
            (None, Some(_)) if self.encoding_repeated => Err(HeadFault::Encoding),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Body::Chunked),
            (None, Some(coding)) if is_one_coding(coding) => Err(HeadFault::UnknownEncoding),
            (None, Some(_)) => Err(HeadFault::Encoding),
        }
    }

    fn upgrade(&self, version10: bool, rule: &UpgradeRule) -> Result<bool, HeadFault> {
        let Some(value) = self.upgrade else {
            return Ok(false);
        };
        // HTTP/1.0 has no upgrades, and one that `Connection` does not name is meant for another hop.
        if version10 || !self.connection_upgrade {
            return Ok(false);
        }
        if self.upgrade_repeated {
            return Err(HeadFault::Upgrade);
        }
        // curl and Java offer h2c with every request; staying with HTTP/1.1 is a legal answer to that.
        if value.eq_ignore_ascii_case(b"h2c") {
            return Ok(false);
        }
        let protocol = std::str::from_utf8(value).map_err(|_| HeadFault::Upgrade)?;
        let name_and_version = protocol.split('/').count() <= 2;
        let legal = protocol.split('/').all(|part| !part.is_empty() && part.bytes().all(is_token));
        if !name_and_version || !legal || !rule.permits(protocol) {
            return Err(HeadFault::Upgrade);
        }
        Ok(true)
    }
}

fn is(header: &httparse::Header<'_>, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

/// Whether a list such as `keep-alive, Upgrade` has a word.
fn has_token(list: &[u8], word: &str) -> bool {
    list.split(|b| *b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Digits only: no sign, no space, no list.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether this is one coding other than `chunked`, which is a feature we lack; all else is an attempt.
fn is_one_coding(coding: &[u8]) -> bool {
    let known: [&[u8]; 6] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"br"];
    known.iter().any(|name| coding.eq_ignore_ascii_case(name))
}

fn check_target(method: &str, target: &str) -> Result<(), HeadFault> {
    if method == "CONNECT" {
        return Err(HeadFault::Connect);
    }
    let absolute = || {
        let scheme = |prefix: &str| target.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        scheme("http://") || scheme("https://")
    };
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") || absolute() {
        return Ok(());
    }
    Err(HeadFault::RequestLine)
}

/// Names the fault that the parser met. Only refused heads come here, so it may take its time.
fn fault_of(error: httparse::Error, head: &[u8]) -> HeadFault {
    if error == httparse::Error::TooManyHeaders {
        return HeadFault::TooManyHeaders;
    }
    if head.contains(&0) {
        return HeadFault::Nul;
    }
    let bare_cr = |pair: &[u8]| pair[0] == b'\r' && pair[1] != b'\n';
    if head.windows(2).any(bare_cr) {
        return HeadFault::BareCr;
    }
    let mut lines = head
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|line| line.is_empty());
    let request_line = lines.next().unwrap_or_default();
    match error {
        _ if request_line.split(|b| *b == b' ').count() != 3 => HeadFault::RequestLine,
        httparse::Error::Version if has_version(request_line) => HeadFault::Version,
        httparse::Error::Version | httparse::Error::Token => HeadFault::RequestLine,
        _ => lines.take_while(|line| !line.is_empty()).find_map(line_fault).unwrap_or(HeadFault::Header),
    }
}

/// Whether the line ends in something like `HTTP/3.0`.
fn has_version(request_line: &[u8]) -> bool {
    let last = request_line.rsplit(|b| *b == b' ').next().unwrap_or_default();
    let Some(digits) = last.strip_prefix(b"HTTP/") else {
        return false;
    };
    !digits.is_empty() && digits.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

fn line_fault(line: &[u8]) -> Option<HeadFault> {
    match line {
        [b' ' | b'\t', ..] => return Some(HeadFault::Folded),
        [b':', ..] => return Some(HeadFault::EmptyName),
        _ => {}
    }
    let name = line.split(|b| *b == b':').next().unwrap_or_default();
    if name.len() < line.len() && name.trim_ascii_end().len() < name.len() {
        return Some(HeadFault::SpaceBeforeColon);
    }
    (!name.iter().all(|b| is_token(*b))).then_some(HeadFault::Header)
}
