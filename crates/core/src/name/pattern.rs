//! Patterns of tunnel names in grants: `app1`, `app*`, `*`, `*-dev`.

use std::fmt;
use std::str::FromStr;

use super::NameError;

/// A pattern with at most one star; the star stands for any text, also none.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NamePattern {
    text: Box<str>,
    star: Option<usize>,
}

impl NamePattern {
    /// Parses a pattern of letters, digits, hyphens, dots (for hosts) and one star; lower-cases it.
    ///
    /// # Errors
    /// When it is empty, has several stars or a character that no name has.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*');
        if let Some(character) = text.chars().find(|c| !legal(*c)) {
            return Err(NameError::Character { character });
        }
        if text.bytes().filter(|b| *b == b'*').count() > 1 {
            return Err(NameError::Stars);
        }
        Ok(Self { star: text.find('*'), text: super::lower(text) })
    }

    /// Whether a name fits. Names are lower-case, as [`super::TunnelName`] and [`super::Hostname`] hold them.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some(star) = self.star else {
            return *self.text == *name;
        };
        let (head, tail) = (&self.text[..star], &self.text[star + 1..]);
        name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl serde::Serialize for NamePattern {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for NamePattern {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(pattern: &str, name: &str) -> bool {
        NamePattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_pattern_without_a_star_fits_exactly_one_name() {
        assert!(fits("app1", "app1"));
        assert!(fits("APP1", "app1"));
        assert!(!fits("app1", "app12"));
        assert!(!fits("app1", "app"));
    }

    #[test]
    fn the_star_stands_for_any_text_at_any_place() {
        assert!(fits("*", "anything"));
        assert!(fits("app*", "app"));
        assert!(fits("app*", "app-7"));
        assert!(!fits("app*", "ap"));
        assert!(fits("*-dev", "shop-dev"));
        assert!(!fits("*-dev", "shop-prod"));
        assert!(fits("a*z", "abcz"));
    }

    #[test]
    fn head_and_tail_of_a_pattern_never_overlap() {
        assert!(!fits("aba*ba", "aba"));
        assert!(fits("aba*ba", "ababa"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert_eq!(NamePattern::parse(""), Err(NameError::Empty));
        assert_eq!(NamePattern::parse("a*b*"), Err(NameError::Stars));
        assert_eq!(NamePattern::parse("a?"), Err(NameError::Character { character: '?' }));
    }

    proptest! {
        #[test]
        fn a_pattern_fits_every_filling_of_its_star(
            head in "[a-z0-9-]{0,6}", middle in "[a-z0-9-]{0,6}", tail in "[a-z0-9-]{0,6}"
        ) {
            let pattern = NamePattern::parse(&format!("{head}*{tail}")).unwrap();
            let name = format!("{head}{middle}{tail}");
            prop_assert!(pattern.matches(&name));
        }
    }
}
