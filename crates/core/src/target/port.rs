//! A port by number or by name.

use std::fmt;
use std::num::NonZeroU16;

use crate::diagnose::{Diagnose, Fault};
use crate::name::LABEL_MAX;

/// A port of a service or a container.
///
/// A container's port name has up to 15 characters, but a service's has up to 63, so that is what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// By its number.
    Number(NonZeroU16),
    /// By its name: lower-case letters, digits and hyphens, one letter at least.
    Name(String),
}

impl PortRef {
    /// Parses a number from 1 to 65535 or a name.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        let fault = || PortError { text: text.to_owned() };
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Self::Number).map_err(|_| fault());
        }
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let whole = text.len() <= LABEL_MAX && text.bytes().all(legal) && text.bytes().any(|b| b.is_ascii_lowercase());
        if !whole || text.starts_with('-') || text.ends_with('-') {
            return Err(fault());
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// The number, when it is one.
    #[must_use]
    pub const fn number(&self) -> Option<u16> {
        match self {
            Self::Number(number) => Some(number.get()),
            Self::Name(_) => None,
        }
    }
}

/// A text that is neither the number nor the name of a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is neither the number nor the name of a port")]
pub struct PortError {
    /// What was written.
    pub text: String,
}

impl Diagnose for PortError {
    fn fault(&self) -> Fault {
        Fault::Usage
    }

    fn hint(&self) -> Option<String> {
        Some("write a number from 1 to 65535, or a port's name in lower case, such as http".to_owned())
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_names_are_told_apart() {
        assert_eq!(PortRef::parse("8080").unwrap().number(), Some(8080));
        for name in ["http", "h2c-grpc", "1a", "a--b", "tcp-postgresql-of-the-long-named"] {
            assert_eq!(PortRef::parse(name), Ok(PortRef::Name(name.into())));
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_a_hint() {
        let long = "a".repeat(64);
        for text in [
            "",
            "0",
            "65536",
            "99999999999999999999",
            "-",
            "-a",
            "a-",
            "1-2",
            "HTTP",
            "a_b",
            "a b",
            "80/tcp",
            "+80",
            &long,
        ] {
            let error = PortRef::parse(text).unwrap_err();
            assert_eq!((error.text.as_str(), error.fault()), (text, Fault::Usage));
            assert!(error.hint().is_some());
        }
    }

    proptest! {
        #[test]
        fn a_port_is_read_back_from_its_text(text in "[0-9a-z-]{1,6}") {
            if let Ok(port) = PortRef::parse(&text) {
                prop_assert_eq!(PortRef::parse(&port.to_string()), Ok(port));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = PortRef::parse(&text);
        }
    }
}
