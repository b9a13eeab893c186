//! Ranges of public TCP ports: `15000-15999` or one port.

use std::fmt;
use std::str::FromStr;

use crate::diagnose::{Diagnose, Fault};

/// An inclusive range of ports, none of them zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// A range from its ends, when neither is zero and they are in order.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last {
            return None;
        }
        Some(Self { first, last })
    }

    /// Parses `FIRST-LAST` or one port.
    ///
    /// # Errors
    /// When an end is no port from 1 to 65535, or they are the wrong way round.
    pub fn parse(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        Self::new(first, last).ok_or(PortRangeError::Backwards { first, last })
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether a port lies in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether another range lies in this one altogether.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The ports, lowest first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u16> + Clone {
        self.first..=self.last
    }
}

/// Why a text is no port range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// An end that is no port.
    #[error("`{text}` is not a port from 1 to 65535")]
    Port {
        /// What stands there.
        text: String,
    },
    /// The first port is above the last.
    #[error("the range {first}-{last} runs backwards")]
    Backwards {
        /// The first port given.
        first: u16,
        /// The last port given.
        last: u16,
    },
}

impl Diagnose for PortRangeError {
    fn fault(&self) -> Fault {
        match self {
            Self::Port { .. } | Self::Backwards { .. } => Fault::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Port { .. } => Some("write one port or a range, such as 15000-15999".to_owned()),
            Self::Backwards { first, last } => Some(format!("did you mean {last}-{first}?")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        Self::parse(text)
    }
}

impl serde::Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PortRange {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn port(text: &str) -> Result<u16, PortRangeError> {
    let digits = text.trim();
    let fault = || PortRangeError::Port { text: digits.to_owned() };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault());
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(fault()),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_is_written_as_two_ports_or_one() {
        let range = PortRange::parse("15000-15999").unwrap();
        assert_eq!((range.first(), range.last()), (15000, 15999));
        assert_eq!(range.to_string(), "15000-15999");
        let one = PortRange::parse("15432").unwrap();
        assert_eq!(one.to_string(), "15432");
        assert_eq!(one.iter().collect::<Vec<_>>(), [15432]);
    }

    #[test]
    fn both_ends_belong_to_the_range() {
        let range = PortRange::parse("10-12").unwrap();
        assert!(range.contains(10) && range.contains(12));
        assert!(!range.contains(9) && !range.contains(13));
        assert_eq!(range.iter().collect::<Vec<_>>(), [10, 11, 12]);
    }

    #[test]
    fn a_range_covers_what_lies_within() {
        let range = PortRange::parse("10-20").unwrap();
        assert!(range.covers(PortRange::parse("10-20").unwrap()));
        assert!(range.covers(PortRange::parse("15").unwrap()));
        assert!(!range.covers(PortRange::parse("15-21").unwrap()));
    }

    #[test]
    fn zero_backwards_and_signed_ports_are_refused() {
        for text in ["0", "0-5", "70000", "", "-", "5-", "+5", "a-b", "1-2-3"] {
            let error = PortRange::parse(text).unwrap_err();
            assert!(matches!(error, PortRangeError::Port { .. }), "{text}");
        }
        let error = PortRange::parse("9-5").unwrap_err();
        assert_eq!(error, PortRangeError::Backwards { first: 9, last: 5 });
        assert_eq!(error.hint().as_deref(), Some("did you mean 5-9?"));
    }

    proptest! {
        #[test]
        fn a_range_is_read_back_from_its_text(first in 1u16.., more in 0u16..) {
            let range = PortRange::new(first, first.saturating_add(more)).unwrap();
            prop_assert_eq!(PortRange::parse(&range.to_string()), Ok(range));
        }
    }
}
