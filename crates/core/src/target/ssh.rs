//! `ssh://[USER@]HOST[:PORT]/DESTHOST:DESTPORT`: a host as a machine sees it that is logged in to over SSH.
//!
//! HOST may be an alias of `~/.ssh/config`. It ends in the arguments of `ssh`, so it is held to what hosts and aliases are
//! made of: it cannot begin an option or mean anything to a shell.

use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use super::jump::JumpHost;
use crate::diagnose::{Diagnose, Fault};

/// The form of the URL, for messages.
const FORM: &str = "ssh://[USER@]HOST[:PORT]/DESTHOST:DESTPORT";

/// The longest name of a user, a host or an alias.
const NAME_MAX: usize = 255;

/// A host and a port that are reached through an SSH server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshTarget {
    /// The server that is logged in to.
    pub server: SshServer,
    /// The host as that server sees it.
    pub host: JumpHost,
    /// Its port.
    pub port: NonZeroU16,
}

/// A server that is logged in to, and how. Two that are equal share their connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshServer {
    /// Who logs in; without it as `~/.ssh/config` says, or who runs adit.
    pub user: Option<String>,
    /// A host name, an address without brackets, or an alias of `~/.ssh/config`.
    pub host: String,
    /// The port of SSH there; without it as `~/.ssh/config` says, or 22.
    pub port: Option<NonZeroU16>,
    /// What a URL has no room for.
    pub options: Box<SshOptions>,
}

/// How an SSH server is logged in to, beyond what its URL and `~/.ssh/config` say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SshOptions {
    /// The private key to log in with; others are not tried then.
    pub key: Option<PathBuf>,
    /// The file with the key's passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// The file that is read instead of `~/.ssh/config`.
    pub config: Option<PathBuf>,
    /// The file with the host keys, instead of those that are configured.
    pub known_hosts: Option<PathBuf>,
    /// Servers on the way, as `ProxyJump` has them.
    pub jump: Option<String>,
    /// From one keep-alive to the next.
    pub keepalive: Option<Duration>,
    /// How long connecting and logging in may take.
    pub connect_timeout: Option<Duration>,
    /// Who speaks SSH.
    pub backend: SshBackend,
}

/// Who speaks SSH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SshBackend {
    /// We, unless the settings need what only OpenSSH can do.
    #[default]
    Auto,
    /// We.
    Native,
    /// A child process `ssh`.
    OpenSsh,
}

impl SshBackend {
    /// The words of a configuration.
    pub const WORDS: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("native", Self::Native), ("openssh", Self::OpenSsh)];

    /// As it is written in a file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::OpenSsh => "openssh",
        }
    }
}

impl SshTarget {
    /// Parses the URL.
    ///
    /// # Errors
    /// When a part is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, SshTargetError> {
        let fault = || SshTargetError::Form { text: without_password(text) };
        let rest = super::kube::after_scheme(text, "ssh").ok_or_else(fault)?;
        let (server, destination) = rest.split_once('/').ok_or_else(fault)?;
        let server = SshServer::parse(server)?;
        let (host, port) = destination.rsplit_once(':').ok_or_else(fault)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(fault());
        }
        Ok(Self { server, host: destination_host(host)?, port: port_number(port)? })
    }

    /// Host and port of the destination, with brackets where needed.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl SshServer {
    /// Parses `[USER@]HOST[:PORT]`, an element of `ProxyJump` too.
    ///
    /// # Errors
    /// When a part is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, SshTargetError> {
        let (user, address) = match text.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, text),
        };
        let user = user.map(checked_user).transpose()?;
        let fault = || SshTargetError::Host { host: address.to_owned() };
        let (host, port) = match address.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or_else(fault)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| fault())?;
                (host, (!after.is_empty()).then(|| after.strip_prefix(':').ok_or_else(fault)).transpose()?)
            }
            None => match address.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => return Err(fault()),
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = port.map(port_number).transpose()?;
        Ok(Self { user, host: checked_host(host)?, port, options: Box::default() })
    }

    /// The same with other options.
    #[must_use]
    pub fn with(self, options: SshOptions) -> Self {
        Self { options: Box::new(options), ..self }
    }
}

/// Which part of an `ssh://` URL is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshTargetError {
    /// Parts are missing.
    #[error("`{text}` is not of the form {FORM}")]
    Form {
        /// What was written, without a password.
        text: String,
    },
    /// No user is called so.
    #[error("`{user}` cannot be the name of a user")]
    User {
        /// What was written.
        user: String,
    },
    /// A password stands in the URL.
    #[error("a password cannot be part of an ssh:// URL")]
    Password,
    /// It is neither a host nor an alias.
    #[error("`{host}` is neither a host name, an address nor an alias")]
    Host {
        /// What was written.
        host: String,
    },
    /// It is no port.
    #[error("`{port}` is not the number of a port")]
    Port {
        /// What was written.
        port: String,
    },
}

impl Diagnose for SshTargetError {
    fn fault(&self) -> Fault {
        match self {
            Self::Form { .. } | Self::User { .. } | Self::Password | Self::Host { .. } | Self::Port { .. } => {
                Fault::Usage
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Form { .. } => {
                "DESTHOST:DESTPORT is where the server shall connect to: ssh://me@bastion/db.internal:5432"
            }
            Self::User { .. } => "write letters, digits, dots, hyphens and underscores",
            Self::Password => "put it into a file and name it with password_file, or set ADIT_SSH_PASSWORD",
            Self::Host { .. } => {
                "write a host name, an IPv4 address, an IPv6 address in brackets, or a Host of ~/.ssh/config"
            }
            Self::Port { .. } => "write a number from 1 to 65535",
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for SshServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh://{}/{}:{}", self.server, self.host, self.port)
    }
}

/// The host behind the server.
///
/// # Errors
/// When it is none.
pub fn destination_host(text: &str) -> Result<JumpHost, SshTargetError> {
    JumpHost::parse(text).map_err(|_| SshTargetError::Host { host: text.to_owned() })
}

/// A user's name, as it may be given to `ssh`.
///
/// # Errors
/// When no user is called so.
pub fn checked_user(user: &str) -> Result<String, SshTargetError> {
    if user.contains(':') {
        return Err(SshTargetError::Password);
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-+@\\$=".contains(&b);
    let starts_well = user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !starts_well || user.len() > NAME_MAX || !user.bytes().all(legal) {
        return Err(SshTargetError::User { user: user.to_owned() });
    }
    Ok(user.to_owned())
}

/// A host, an address without brackets or an alias, as it may be given to `ssh`.
///
/// # Errors
/// When it is none.
pub fn checked_host(host: &str) -> Result<String, SshTargetError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let starts_well = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    if !is_v6 && (!starts_well || host.len() > NAME_MAX || !host.bytes().all(legal)) {
        return Err(SshTargetError::Host { host: host.to_owned() });
    }
    Ok(host.to_owned())
}

fn port_number(text: &str) -> Result<NonZeroU16, SshTargetError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| SshTargetError::Port { port: text.to_owned() })
}

/// The text with `user:password@` taken out, because errors are shown and logged.
fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if start + 3 <= end && text[start + 3..end].contains(':') => {
            format!("{}…{}", &text[..start + 3], &text[end..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, SshTargetError> {
        SshTarget::parse(text).map(|target| target.to_string())
    }

    #[test]
    fn user_and_port_may_be_left_out() {
        for text in [
            "ssh://bastion/db:5432",
            "ssh://me@bastion/db.internal:5432",
            "ssh://me@corp.example@bastion:2222/10.0.0.1:80",
            "ssh://[::1]:22/[fe80::1]:80",
            "ssh://bastion/localhost:80",
        ] {
            assert_eq!(parse(text).as_deref(), Ok(text));
        }
        let target = SshTarget::parse("ssh://me@bastion:2222/db:5432").unwrap();
        assert_eq!(target.server.user.as_deref(), Some("me"));
        assert_eq!((target.server.host.as_str(), target.server.port.map(NonZeroU16::get)), ("bastion", Some(2222)));
        assert_eq!(target.authority(), "db:5432");
    }

    #[test]
    fn what_is_no_ssh_target_is_refused_with_its_reason() {
        for text in ["ssh://bastion", "ssh://bastion/", "ssh://bastion/db", "ssh://bastion/::1:80", "tcp://b/db:1"] {
            assert!(matches!(parse(text), Err(SshTargetError::Form { .. })), "{text}");
        }
        for text in ["ssh:///db:1", "ssh://-oProxyCommand=x/db:1", "ssh://a b/db:1", "ssh://a;b/db:1", "ssh://b/-x:1"] {
            assert!(matches!(parse(text), Err(SshTargetError::Host { .. })), "{text}");
        }
        for text in ["ssh://b:0/db:1", "ssh://b:/db:1", "ssh://b/db:0", "ssh://b/db:x", "ssh://b:70000/db:1"] {
            assert!(matches!(parse(text), Err(SshTargetError::Port { .. })), "{text}");
        }
        for text in ["ssh://@b/db:1", "ssh://-l@b/db:1", "ssh://a b@b/db:1"] {
            assert!(matches!(parse(text), Err(SshTargetError::User { .. })), "{text}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let error = parse("ssh://me:hunter2@bastion/db:5432").unwrap_err();
        assert_eq!(error, SshTargetError::Password);
        let error = parse("ssh://me:hunter2@bastion").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "ssh://[a-z@:/\\[\\]0-9é]{0,20}") {
            if let Ok(target) = SshTarget::parse(&text) {
                prop_assert_eq!(SshTarget::parse(&target.to_string()), Ok(target));
            }
        }
    }
}
