//! The host of a route: a name, or all names below one.

use std::fmt;
use std::str::FromStr;

use crate::diagnose::{Diagnose, Fault};
use crate::name::{Hostname, NameError};

/// Which hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One host.
    Exact(Hostname),
    /// `*.apps.localhost`: every host with one or more labels in front of this name, but not the name itself.
    Wildcard(Hostname),
}

/// Why a text is no host of a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// A star somewhere else than alone in front.
    #[error("`{text}` has a star where none can be")]
    Star {
        /// What was written.
        text: String,
    },
    /// It is no host name.
    #[error("`{text}` is no host name")]
    Name {
        /// What was written.
        text: String,
        /// Why not.
        #[source]
        error: NameError,
    },
}

impl HostPattern {
    /// Parses a host name, or `*.` and a host name. Letters are lower-cased, one trailing dot is stripped.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        let (name, wildcard) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        if name.contains('*') {
            return Err(HostPatternError::Star { text: text.to_owned() });
        }
        let fault = |error| HostPatternError::Name { text: text.to_owned(), error };
        let name = Hostname::parse(name).map_err(fault)?;
        Ok(if wildcard { Self::Wildcard(name) } else { Self::Exact(name) })
    }

    /// Whether a host, lower-case and without port and trailing dot, is one of these.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.as_str() == host,
            Self::Wildcard(name) => {
                let front = host.strip_suffix(name.as_str()).and_then(|front| front.strip_suffix('.'));
                front.is_some_and(|front| !front.is_empty())
            }
        }
    }
}

impl Diagnose for HostPatternError {
    fn fault(&self) -> Fault {
        match self {
            Self::Star { .. } => Fault::Usage,
            Self::Name { error, .. } => error.fault(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Star { .. } => Some("a star stands for whole labels in front, such as *.apps.localhost".to_owned()),
            Self::Name { error: NameError::Character { character: ':' }, .. } => {
                Some("leave out the port: a route is for every port that the gateway listens on".to_owned())
            }
            Self::Name { error, .. } => error.hint(),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Wildcard(name) => write!(f, "*.{name}"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_and_wildcards_are_told_apart_and_lower_cased() {
        let name = |text: &str| Hostname::parse(text).unwrap();
        assert_eq!(HostPattern::parse("Argo.Localhost."), Ok(HostPattern::Exact(name("argo.localhost"))));
        assert_eq!(HostPattern::parse("*.Apps.localhost"), Ok(HostPattern::Wildcard(name("apps.localhost"))));
        assert_eq!(HostPattern::parse("*.apps.localhost").unwrap().to_string(), "*.apps.localhost");
    }

    #[test]
    fn a_star_stands_alone_in_front_or_the_hint_says_where() {
        for text in ["*", "a*.b", "*a.b", "a.*.b", "*.*.b", "**.b", "a.*"] {
            let error = HostPattern::parse(text).unwrap_err();
            assert_eq!(error, HostPatternError::Star { text: text.to_owned() });
            assert!(error.hint().unwrap().contains("*.apps.localhost"));
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_a_way_out() {
        for (text, hint) in
            [("10.0.0.1", "host name"), ("a_b.localhost", "hyphens"), ("a.localhost:8989", "leave out the port")]
        {
            let error = HostPattern::parse(text).unwrap_err();
            assert_eq!(error.fault(), Fault::Usage);
            assert!(error.hint().unwrap().contains(hint), "{text}: {error:?}");
        }
        assert!(HostPattern::parse("").is_err() && HostPattern::parse("*.").is_err());
    }

    #[test]
    fn a_wildcard_matches_below_its_name_at_any_depth_and_never_itself() {
        let pattern = HostPattern::parse("*.apps.localhost").unwrap();
        assert!(pattern.matches("a.apps.localhost") && pattern.matches("a.b.apps.localhost"));
        for host in ["apps.localhost", ".apps.localhost", "xapps.localhost", "localhost", ""] {
            assert!(!pattern.matches(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_is_read_back_from_its_text(text in "(\\*\\.)?[a-zA-Z0-9.*-]{0,20}") {
            if let Ok(pattern) = HostPattern::parse(&text) {
                prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), host in any::<String>()) {
            let _ = HostPattern::parse(&text).map(|pattern| pattern.matches(&host));
        }
    }
}
