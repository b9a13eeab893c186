//! Patterns with stars for names that have no common alphabet, such as those of contexts: `prod-*`, `*`, `team-?`.

use std::fmt;

use crate::diagnose::{Diagnose, Fault};

/// The longest pattern. Nobody types more, and matching costs length times length.
const LENGTH_MAX: usize = 256;

/// A pattern: `*` is any text, also none, `?` one character; everything else is itself, upper and lower case apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GlobPattern(String);

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Nothing was written.
    #[error("a pattern must not be empty")]
    Empty,
    /// It is too long.
    #[error("the pattern has more than {LENGTH_MAX} characters")]
    TooLong,
}

impl GlobPattern {
    /// Takes a pattern.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        match text.len() {
            0 => Err(GlobError::Empty),
            length if length > LENGTH_MAX => Err(GlobError::TooLong),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The one name that fits, if there is only one.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(self.0.as_str())
    }

    /// Whether a name fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.as_str(), name);
        // Where to go on when the text does not fit: behind the last star, with one more character given to it.
        let mut retry: Option<(&str, &str)> = None;
        loop {
            let mut ahead = pattern.chars();
            match (ahead.next(), rest.chars().next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    pattern = ahead.as_str();
                    retry = Some((pattern, rest));
                }
                (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                    pattern = ahead.as_str();
                    rest = &rest[found.len_utf8()..];
                }
                _ => {
                    let Some((after_star, from)) = retry else { return false };
                    let Some(given) = from.chars().next() else { return false };
                    rest = &from[given.len_utf8()..];
                    pattern = after_star;
                    retry = Some((after_star, rest));
                }
            }
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GlobPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Diagnose for GlobError {
    fn fault(&self) -> Fault {
        match self {
            Self::Empty | Self::TooLong => Fault::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty => Some("write a name, with * for any text: dev-*".to_owned()),
            Self::TooLong => Some("write a part of the name and *".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        GlobPattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_character() {
        for (pattern, name, fits) in [
            ("dev", "dev", true),
            ("dev", "Dev", false),
            ("dev", "dev-1", false),
            ("dev-*", "dev-", true),
            ("dev-*", "dev-eu-1", true),
            ("*", "", true),
            ("*prod*", "gke_acme_prod_1", true),
            ("*-a-*-b", "x-a-a-y-b-b", true),
            ("arn:aws:eks:*:cluster/?", "arn:aws:eks:eu:1:cluster/x", true),
            ("?", "é", true),
            ("?", "", false),
            ("a*b", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_a_hint() {
        for text in ["".to_owned(), "x".repeat(257)] {
            assert!(GlobPattern::parse(&text).unwrap_err().hint().is_some());
        }
    }

    proptest! {
        /// The definition itself, which takes exponential time.
        #[test]
        fn it_matches_as_the_definition_does(pattern in "[ab*?]{1,7}", name in "[ab]{0,7}") {
            fn plain(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => plain(rest, name) || !name.is_empty() && plain(pattern, &name[1..]),
                    ([b'?', p @ ..], [_, n @ ..]) => plain(p, n),
                    ([a, p @ ..], [b, n @ ..]) => a == b && plain(p, n),
                    _ => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &name), plain(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn many_stars_cost_no_time(stars in 1usize..120) {
            let pattern = "a*".repeat(stars);
            prop_assert!(!matches(&pattern, &("a".repeat(5000) + "b").replace('a', "c")));
            prop_assert!(matches(&pattern, &"a".repeat(5000)));
        }
    }
}
