//! The hello itself, out of its records: a machine that skips what nobody needs and holds a field while it is cut.

use super::{ClientHello, ClientHelloError, HEADER_LENGTH, READ_MAX};
use crate::name::{HOST_MAX, Hostname};

/// More extensions than any client sends, so that looking for repeated ones stays cheap.
const EXTENSIONS_MAX: usize = 256;

const CLIENT_HELLO: usize = 1;
/// Type and length of a handshake message.
const PREFIX_LENGTH: usize = 4;
const VERSION_AND_RANDOM: usize = 2 + 32;
const SESSION_ID_MAX: usize = 32;

const SERVER_NAME: usize = 0;

/// The kind of a server name that is a host name; there is no other yet.
const HOST_NAME: u8 = 0;

/// Reads one handshake message, fragment by fragment.
#[derive(Debug)]
pub(super) struct Message {
    step: Step,
    /// How many bytes of the message are still to come.
    left: usize,
    /// How many of them are skipped next.
    skip: usize,
    /// How many behind those are the field that `step` reads.
    want: usize,
    /// What of the field is there.
    field: Vec<u8>,
    seen: Vec<usize>,
    hello: ClientHello,
}

/// What the next field is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Prefix,
    SessionIdLength,
    CipherSuitesLength,
    CompressionsLength,
    ExtensionsLength,
    ExtensionPrefix,
    ServerName,
    End,
}

impl Message {
    /// Takes a fragment; gives the hello with the last byte of the message. Not to be called again after that.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<Option<ClientHello>, ClientHelloError> {
        while self.gather(&mut bytes) {
            if matches!(self.step, Step::End) {
                return Ok(Some(std::mem::take(&mut self.hello)));
            }
            let mut field = std::mem::take(&mut self.field);
            self.advance(&field)?;
            field.clear();
            self.field = field;
        }
        Ok(None)
    }

    /// Skips and collects; whether the field is whole.
    fn gather(&mut self, bytes: &mut &[u8]) -> bool {
        let (skipped, rest) = bytes.split_at(self.skip.min(bytes.len()));
        self.skip -= skipped.len();
        if self.skip > 0 {
            self.left -= skipped.len();
            *bytes = rest;
            return false;
        }
        let (taken, rest) = rest.split_at((self.want - self.field.len()).min(rest.len()));
        self.field.extend_from_slice(taken);
        self.left -= skipped.len() + taken.len();
        *bytes = rest;
        self.field.len() == self.want
    }

    fn advance(&mut self, field: &[u8]) -> Result<(), ClientHelloError> {
        match self.step {
            Step::Prefix => self.begin(number(field)),
            Step::SessionIdLength => match number(field) {
                length if length > SESSION_ID_MAX => malformed("its session id is too long"),
                length => self.expect(Step::CipherSuitesLength, length, 2, "its session id is cut short"),
            },
            Step::CipherSuitesLength => match number(field) {
                length if length == 0 || length % 2 == 1 => malformed("its list of ciphers has a wrong length"),
                length => self.expect(Step::CompressionsLength, length, 1, "its list of ciphers is cut short"),
            },
            Step::CompressionsLength => match number(field) {
                0 => malformed("its list of compressions is empty"),
                // Before TLS 1.2 a hello may have no extensions at all.
                length if length == self.left => self.expect(Step::End, length, 0, ""),
                length => self.expect(Step::ExtensionsLength, length, 2, "its list of compressions is cut short"),
            },
            Step::ExtensionsLength if number(field) != self.left => {
                malformed("its list of extensions does not end where the message does")
            }
            Step::ExtensionsLength => self.next_extension(0),
            Step::ExtensionPrefix => self.extension(number(field) >> 16, number(field) & 0xffff),
            Step::ServerName => {
                self.hello.server_name = server_name(field)?;
                self.next_extension(0)
            }
            Step::End => Ok(()),
        }
    }

    fn begin(&mut self, prefix: usize) -> Result<(), ClientHelloError> {
        if prefix >> 24 != CLIENT_HELLO {
            return Err(ClientHelloError::NotAHello { found: "another message of the handshake" });
        }
        self.left = prefix & 0x00ff_ffff;
        if HEADER_LENGTH + PREFIX_LENGTH + self.left > READ_MAX {
            return Err(ClientHelloError::TooLong { most: READ_MAX });
        }
        self.expect(Step::SessionIdLength, VERSION_AND_RANDOM, 1, "it ends within its random bytes")
    }

    fn extension(&mut self, kind: usize, length: usize) -> Result<(), ClientHelloError> {
        if length > self.left {
            return malformed("an extension is longer than their list");
        }
        if self.seen.contains(&kind) {
            return malformed("an extension is there twice");
        }
        if self.seen.len() == EXTENSIONS_MAX {
            return malformed("it has more than 256 extensions");
        }
        self.seen.push(kind);
        match kind {
            SERVER_NAME => self.expect(Step::ServerName, 0, length, ""),
            _ => self.next_extension(length),
        }
    }

    fn next_extension(&mut self, skip: usize) -> Result<(), ClientHelloError> {
        if skip == self.left {
            return self.expect(Step::End, skip, 0, "");
        }
        self.expect(Step::ExtensionPrefix, skip, 4, "an extension is cut short")
    }

    /// Sets what comes next, unless the message is over before it is.
    fn expect(
        &mut self,
        step: Step,
        skip: usize,
        want: usize,
        otherwise: &'static str,
    ) -> Result<(), ClientHelloError> {
        if skip + want > self.left {
            return malformed(otherwise);
        }
        (self.step, self.skip, self.want) = (step, skip, want);
        Ok(())
    }
}

impl Default for Message {
    fn default() -> Self {
        Self {
            step: Step::Prefix,
            left: PREFIX_LENGTH,
            skip: 0,
            want: PREFIX_LENGTH,
            field: Vec::new(),
            seen: Vec::new(),
            hello: ClientHello::default(),
        }
    }
}

fn server_name(data: &[u8]) -> Result<Option<Hostname>, ClientHelloError> {
    let Some(mut list) = whole_list(data) else {
        return malformed("its list of server names has a wrong length");
    };
    let mut found = None;
    while let [kind, rest @ ..] = list {
        // Kinds to come begin with a length of 16 bits too (RFC 6066 §3).
        let Some((name, rest)) = prefixed::<2>(rest) else {
            return malformed("a server name is longer than their list");
        };
        list = rest;
        if *kind == HOST_NAME && found.replace(name).is_some() {
            return malformed("it has two server names");
        }
    }
    found.map(host_name).transpose()
}

fn host_name(name: &[u8]) -> Result<Hostname, ClientHelloError> {
    if name.is_empty() {
        return malformed("its server name is empty");
    }
    let text = String::from_utf8_lossy(name);
    Hostname::parse(&text)
        .map_err(|error| ClientHelloError::ServerName { name: text.chars().take(HOST_MAX).collect(), error })
}

/// A list behind its length of 16 bits that is all there is, and not empty.
fn whole_list(data: &[u8]) -> Option<&[u8]> {
    match prefixed::<2>(data)? {
        (list @ [_, ..], []) => Some(list),
        _ => None,
    }
}

/// What stands behind a length of `WIDTH` bytes, and the rest.
fn prefixed<const WIDTH: usize>(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_at_checked(WIDTH)?;
    rest.split_at_checked(number(length))
}

/// Up to four bytes as a number, the highest first.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn malformed<T>(what: &'static str) -> Result<T, ClientHelloError> {
    Err(ClientHelloError::Malformed { what })
}
