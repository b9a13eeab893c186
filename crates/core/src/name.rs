//! Names: what may be a host, a tunnel, a pattern in a grant, and what nobody gets (rule S7).
//!
//! The types are parsed once and legal for ever after: lower-cased, checked, without the trailing dot.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use crate::diagnose::{Diagnose, Fault};

mod pattern;
mod port_range;

pub use pattern::NamePattern;
pub use port_range::{PortRange, PortRangeError};

/// The longest DNS name, without the trailing dot.
pub const HOST_MAX: usize = 253;

/// The longest DNS label.
pub const LABEL_MAX: usize = 63;

/// Names nobody gets, because visitors or protocols give them a meaning of their own.
const RESERVED: &[&str] = &[
    "_acme-challenge",
    "_dmarc",
    "acme",
    "admin",
    "administrator",
    "agent",
    "agents",
    "api",
    "app-admin",
    "auth",
    "autoconfig",
    "autodiscover",
    "billing",
    "broadcasthost",
    "cdn",
    "console",
    "dashboard",
    "dns",
    "ftp",
    "health",
    "healthz",
    "host",
    "hostmaster",
    "imap",
    "internal",
    "isatap",
    "localdomain",
    "localhost",
    "login",
    "mail",
    "metrics",
    "mta-sts",
    "mx",
    "ns",
    "ns1",
    "ns2",
    "ns3",
    "ns4",
    "oauth",
    "pop",
    "pop3",
    "postmaster",
    "register",
    "root",
    "security",
    "server",
    "smtp",
    "ssh",
    "ssl",
    "sso",
    "static",
    "status",
    "support",
    "system",
    "tunnel",
    "vpn",
    "webmail",
    "webmaster",
    "wpad",
    "www",
];

/// Whether nobody may take this name as a tunnel (rule S7). Case does not matter.
///
/// A server's own extra names come from its config; this is the list that always holds.
#[must_use]
pub fn reserved(name: &str) -> bool {
    name.starts_with('_') || RESERVED.iter().any(|taken| taken.eq_ignore_ascii_case(name))
}

/// A legal DNS host name: lower-cased, without a trailing dot, no IP literal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(Box<str>);

impl Hostname {
    /// Parses a host name; one trailing dot is stripped and letters are lower-cased.
    ///
    /// # Errors
    /// When it is no legal DNS name of letters, digits and hyphens, or is an IP address.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > HOST_MAX {
            return Err(NameError::TooLong { length: name.len(), most: HOST_MAX });
        }
        let mut last = "";
        for label in name.split('.') {
            check_label(label)?;
            last = label;
        }
        if is_numeric(last) {
            return Err(NameError::Address);
        }
        Ok(Self(lower(name)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part in front of `.base`, when this is a name directly or deeper under `base`.
    ///
    /// `a.b.example.com` under `example.com` is `a.b`; `example.com` itself is `None`.
    #[must_use]
    pub fn under(&self, base: &Self) -> Option<&str> {
        self.0.strip_suffix(base.as_str())?.strip_suffix('.')
    }
}

/// The name of a tunnel: one DNS label, lower-cased; it becomes the subdomain.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelName(Box<str>);

impl TunnelName {
    /// Parses a name; letters are lower-cased. Whether it is [`reserved`] is not looked at.
    ///
    /// # Errors
    /// When it is no legal DNS label.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains('.') {
            return Err(NameError::NotOneLabel);
        }
        check_label(text)?;
        Ok(Self(lower(text)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The public host of the tunnel under a base domain.
    ///
    /// # Errors
    /// When both together are longer than a DNS name may be.
    pub fn host(&self, base: &Hostname) -> Result<Hostname, NameError> {
        Hostname::parse(&format!("{self}.{base}"))
    }
}

/// Why a text is no legal name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there, or nothing between two dots.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than DNS permits.
    #[error("the name has {length} characters; at most {most} are possible")]
    TooLong {
        /// How long it is.
        length: usize,
        /// How long it may be.
        most: usize,
    },
    /// A character that no host name has.
    #[error("`{character}` must not be in a name")]
    Character {
        /// The first such character.
        character: char,
    },
    /// A label that starts or ends with a hyphen.
    #[error("a name must not start or end with a hyphen")]
    Hyphen,
    /// An IP address instead of a name.
    #[error("an IP address is not a name")]
    Address,
    /// Dots in a name that must be one label.
    #[error("the name of a tunnel must not contain a dot")]
    NotOneLabel,
    /// More than one star in a pattern.
    #[error("a pattern may contain one `*`")]
    Stars,
}

impl Diagnose for NameError {
    fn fault(&self) -> Fault {
        match self {
            Self::Empty
            | Self::TooLong { .. }
            | Self::Character { .. }
            | Self::Hyphen
            | Self::Address
            | Self::NotOneLabel
            | Self::Stars => Fault::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::TooLong { .. } | Self::Stars => None,
            Self::Character { .. } | Self::Hyphen => {
                Some("use letters, digits and hyphens, such as `my-app`".to_owned())
            }
            Self::Address => Some("use a host name, such as app.localhost".to_owned()),
            Self::NotOneLabel => Some("a full name of your own is a custom host: set `host` instead".to_owned()),
        }
    }
}

macro_rules! text_traits {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

text_traits!(Hostname, TunnelName);

fn check_label(label: &str) -> Result<(), NameError> {
    let bytes = label.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(NameError::Empty);
    };
    if let Some(character) = label.chars().find(|c| !is_label_char(*c)) {
        return Err(NameError::Character { character });
    }
    if *first == b'-' || *last == b'-' {
        return Err(NameError::Hyphen);
    }
    if bytes.len() > LABEL_MAX {
        return Err(NameError::TooLong { length: bytes.len(), most: LABEL_MAX });
    }
    Ok(())
}

const fn is_label_char(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-'
}

/// Whether a last label makes the whole an IPv4 address for browsers: digits only, or hexadecimal.
pub(crate) fn is_numeric(label: &str) -> bool {
    if label.is_empty() {
        return false;
    }
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"))
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || label.bytes().all(|b| b.is_ascii_digit())
}

fn lower(text: &str) -> Box<str> {
    let mut text: Box<str> = text.into();
    text.make_ascii_lowercase();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    #[test]
    fn a_host_name_is_lower_cased_and_loses_one_trailing_dot() {
        assert_eq!(host("App1.Example.COM.").as_str(), "app1.example.com");
        assert_eq!(host("localhost").as_str(), "localhost");
        assert_eq!(Hostname::parse("a.."), Err(NameError::Empty));
    }

    #[test]
    fn what_is_no_host_name_is_refused_with_its_reason() {
        assert_eq!(Hostname::parse(""), Err(NameError::Empty));
        assert_eq!(Hostname::parse("."), Err(NameError::Empty));
        assert_eq!(Hostname::parse("a..b"), Err(NameError::Empty));
        assert_eq!(Hostname::parse("-a.b"), Err(NameError::Hyphen));
        assert_eq!(Hostname::parse("a-.b"), Err(NameError::Hyphen));
        assert_eq!(Hostname::parse("a_b.c"), Err(NameError::Character { character: '_' }));
        assert_eq!(Hostname::parse("bücher.example"), Err(NameError::Character { character: 'ü' }));
        assert_eq!(
            Hostname::parse(&format!("{}.com", "a".repeat(64))),
            Err(NameError::TooLong { length: 64, most: 63 })
        );
        assert_eq!(Hostname::parse(&["abcdefg"; 32].join(".")), Err(NameError::TooLong { length: 255, most: 253 }));
    }

    #[test]
    fn an_address_is_no_host_name() {
        for text in ["127.0.0.1", "1", "10.1", "0x7f.1", "a.0x7f", "2130706433", "1.2.3.4."] {
            assert_eq!(Hostname::parse(text), Err(NameError::Address), "{text}");
        }
        assert_eq!(host("1.example").as_str(), "1.example");
        assert_eq!(host("0xyz").as_str(), "0xyz");
    }

    #[test]
    fn the_part_under_a_base_domain_is_found_only_at_a_dot() {
        let base = host("example.com");
        assert_eq!(host("app.example.com").under(&base), Some("app"));
        assert_eq!(host("a.b.example.com").under(&base), Some("a.b"));
        assert_eq!(host("example.com").under(&base), None);
        assert_eq!(host("badexample.com").under(&base), None);
        assert_eq!(host("other.org").under(&base), None);
    }

    #[test]
    fn a_tunnel_name_is_one_label() {
        assert_eq!(TunnelName::parse("App-1").unwrap().as_str(), "app-1");
        assert_eq!(TunnelName::parse("a.b"), Err(NameError::NotOneLabel));
        assert_eq!(TunnelName::parse("a."), Err(NameError::NotOneLabel));
        assert_eq!(TunnelName::parse(""), Err(NameError::Empty));
        assert_eq!(TunnelName::parse("a b"), Err(NameError::Character { character: ' ' }));
        assert_eq!(TunnelName::parse("123").unwrap().as_str(), "123");
    }

    #[test]
    fn a_tunnel_has_its_host_under_the_base_domain() {
        let name = TunnelName::parse("app1").unwrap();
        assert_eq!(name.host(&host("localhost")), Ok(host("app1.localhost")));
        let long = host(&["abcdefg"; 31].join("."));
        let name = TunnelName::parse("application-1").unwrap();
        assert!(matches!(name.host(&long), Err(NameError::TooLong { .. })));
    }

    #[test]
    fn s7_names_that_nobody_gets_are_reserved() {
        for name in [
            "www",
            "api",
            "admin",
            "dashboard",
            "mail",
            "smtp",
            "imap",
            "pop",
            "ftp",
            "ns1",
            "ns2",
            "_acme-challenge",
            "localhost",
            "status",
            "health",
            "metrics",
            "WWW",
            "_anything",
        ] {
            assert!(reserved(name), "{name}");
        }
        for name in ["app1", "www2", "myapi", "n"] {
            assert!(!reserved(name), "{name}");
        }
    }

    #[test]
    fn the_reserved_list_is_sorted_and_without_repeats() {
        assert!(RESERVED.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn names_go_through_json_and_illegal_ones_do_not() {
        let name: TunnelName = serde_json::from_str(r#""App1""#).unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), r#""app1""#);
        assert!(serde_json::from_str::<Hostname>(r#""a b""#).is_err());
        assert_eq!(format!("{name:?}"), r#""app1""#);
    }

    #[test]
    fn each_name_error_is_a_usage_fault_and_most_say_what_to_do() {
        assert_eq!(NameError::Hyphen.fault(), Fault::Usage);
        assert!(NameError::Hyphen.hint().unwrap().contains("my-app"));
        assert!(NameError::NotOneLabel.hint().unwrap().contains("host"));
        assert!(NameError::Empty.hint().is_none());
    }

    proptest! {
        #[test]
        fn parsing_a_parsed_name_changes_nothing(text in "[a-zA-Z0-9.-]{0,80}") {
            if let Ok(name) = Hostname::parse(&text) {
                prop_assert_eq!(Hostname::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.as_str().bytes().all(|b| !b.is_ascii_uppercase()));
                prop_assert!(!name.as_str().ends_with('.'));
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>()) {
            let _ = Hostname::parse(&text);
            let _ = TunnelName::parse(&text);
            let _ = NamePattern::parse(&text);
            let _ = PortRange::parse(&text);
            let _ = reserved(&text);
        }

        #[test]
        fn every_legal_label_is_a_tunnel_name(text in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?") {
            prop_assert_eq!(TunnelName::parse(&text).map(|n| n.to_string()), Ok(text));
        }
    }

    #[test]
    fn names_look_themselves_up_by_their_text() {
        let routes: std::collections::HashMap<Hostname, u8> = [(host("A.b"), 1)].into();
        assert_eq!(routes.get("a.b"), Some(&1));
        assert_eq!(routes.get("A.b"), None);
        let name: TunnelName = "App".parse().unwrap();
        assert_eq!(name.as_ref(), "app");
    }

    proptest! {
        #[test]
        fn a_tunnel_lies_under_its_base_domain(name in "[a-z]{1,8}", base in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}") {
            let base = host(&base);
            let full = TunnelName::parse(&name).unwrap().host(&base).unwrap();
            prop_assert_eq!(full.under(&base), Some(name.as_str()));
            prop_assert_eq!(base.under(&full), None);
        }

        #[test]
        fn a_host_is_legal_exactly_when_each_label_is(labels in proptest::collection::vec("[a-z0-9_-]{0,4}", 1..4)) {
            let legal = |label: &String| {
                let edges = !label.starts_with('-') && !label.ends_with('-');
                !label.is_empty() && !label.contains('_') && edges
            };
            let numeric = labels.last().is_some_and(|last| is_numeric(last));
            // A last empty label is the trailing dot, and it is forgiven.
            let labels_looked_at = match labels.split_last() {
                Some((last, rest)) if last.is_empty() && !rest.is_empty() => rest,
                _ => &labels,
            };
            let numeric = numeric || labels_looked_at.last().is_some_and(|last| is_numeric(last));
            let expected = labels_looked_at.iter().all(legal) && !numeric;
            prop_assert_eq!(Hostname::parse(&labels.join(".")).is_ok(), expected);
        }
    }
}
