//! `jump://CONTEXT/NAMESPACE/KIND/NAME/HOST:PORT`: a host as a pod sees it.
//!
//! The host ends in the arguments of a command in the pod, so it is held to what hosts and addresses are made of
//! (rule S20): it cannot begin an option, end an argument of socat, or mean anything to a shell.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use super::kube::{KubeTargetError, after_scheme, context_of, namespace_of, selection_of, write_place};
use super::object::Selection;
use super::port::PortError;
use crate::name::{HOST_MAX, LABEL_MAX};

/// The form of the URL, for messages.
const FORM: &str = "jump://CONTEXT/NAMESPACE/KIND/NAME/HOST:PORT";

/// A host and a port that are reached by running socat or nc in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JumpTarget {
    /// The context of the kubeconfig; without it the current one.
    pub context: Option<String>,
    /// The namespace; without it the context's.
    pub namespace: Option<String>,
    /// Through which pods.
    pub via: Selection,
    /// The host behind them.
    pub host: JumpHost,
    /// Its port.
    pub port: NonZeroU16,
}

impl JumpTarget {
    /// Parses the URL. The parts before the host may have percent escapes; an empty context or namespace is the
    /// kubeconfig's.
    ///
    /// # Errors
    /// When a part is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, KubeTargetError> {
        let fault = || KubeTargetError::Form { text: text.to_owned(), form: FORM };
        let mut parts = after_scheme(text, "jump").ok_or_else(fault)?.splitn(5, '/');
        let mut part = || parts.next().ok_or_else(fault);
        let (context, namespace, kind, name, address) = (part()?, part()?, part()?, part()?, part()?);
        let (host, port) = split_address(address).ok_or_else(fault)?;
        Ok(Self {
            context: context_of(context)?,
            namespace: namespace_of(namespace)?,
            via: selection_of(kind, name)?,
            host: JumpHost::parse(host)?,
            port: parse_port(port)?,
        })
    }

    /// Host and port, with brackets where needed.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A host that may be named in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JumpHost {
    /// A name, lower-case; with its trailing dot, if it was written with one.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
}

impl JumpHost {
    /// Parses a name, an IPv4 address, or an IPv6 address with or without brackets.
    ///
    /// # Errors
    /// When it is none of them: an option, a zone, a number that a resolver would take for an address.
    pub fn parse(text: &str) -> Result<Self, KubeTargetError> {
        let fault = || KubeTargetError::Host { host: text.to_owned() };
        if let Some(inner) = text.strip_prefix('[') {
            return inner.strip_suffix(']').and_then(|v6| v6.parse().ok()).map(Self::V6).ok_or_else(fault);
        }
        match text.parse() {
            Ok(IpAddr::V4(address)) => Ok(Self::V4(address)),
            Ok(IpAddr::V6(address)) => Ok(Self::V6(address)),
            Err(_) if is_host_name(text) => Ok(Self::Name(text.to_ascii_lowercase())),
            Err(_) => Err(fault()),
        }
    }

    /// As an argument of its own: IPv6 without brackets.
    #[must_use]
    pub fn bare(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::V4(address) => address.to_string(),
            Self::V6(address) => address.to_string(),
        }
    }
}

/// With brackets around IPv6.
impl fmt::Display for JumpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for JumpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, "jump", self.context.as_deref(), self.namespace.as_deref())?;
        write!(f, "{}/{}:{}", self.via, self.host, self.port)
    }
}

/// Host and port. IPv6 needs its brackets here: without them its last group would pass for a port.
fn split_address(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    (host.starts_with('[') || !host.contains(':')).then_some((host, port))
}

fn parse_port(text: &str) -> Result<NonZeroU16, PortError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| PortError { text: text.to_owned() })
}

/// A name for a resolver: letters, digits, hyphens and underscores in labels that no hyphen begins or ends.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.len() <= HOST_MAX && name.split('.').all(is_label) && !is_number(last)
}

/// What the old resolvers read as an address or a part of one: `2130706433`, `0x7f000001`.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    let is_hex = hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    is_hex || label.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests;
