//! The path of a route, and the plain form in which paths are compared.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use memchr::memmem;

use crate::diagnose::{Diagnose, Fault};

/// The longest prefix. It bounds what one look-up of a hostile path costs.
const LENGTH_MAX: usize = 1024;

/// The beginning of a path in whole segments: `/api` is for `/api` and `/api/x`, not for `/apix`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix {
    /// Without the slash behind it; empty for `/`.
    plain: Box<[u8]>,
    text: Box<str>,
}

/// Why a text is no path of a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPrefixError {
    /// It does not begin with a slash.
    #[error("the path `{text}` does not begin with a slash")]
    Slash {
        /// What was written.
        text: String,
    },
    /// A query, a fragment, or parameters of a segment.
    #[error("the path `{text}` has a `{character}`")]
    Surplus {
        /// What was written.
        text: String,
        /// `?`, `#`, or `;`, which may be escaped.
        character: char,
    },
    /// `.` or `..`, nothing between two slashes, blanks, a broken percent escape.
    #[error("the path `{text}` is not in its plain form")]
    NotPlain {
        /// What was written.
        text: String,
    },
    /// Longer than a path needs to be.
    #[error("the path has {length} bytes; at most {most} are possible")]
    TooLong {
        /// How long it is.
        length: usize,
        /// How long it may be.
        most: usize,
    },
}

impl PathPrefix {
    /// Parses a path. A slash at its end makes no difference; `/` is for every path.
    ///
    /// # Errors
    /// When it does not begin with a slash, has a query, a fragment or parameters, or says a place in a roundabout way.
    pub fn parse(text: &str) -> Result<Self, PathPrefixError> {
        let own = || text.to_owned();
        if text.len() > LENGTH_MAX {
            return Err(PathPrefixError::TooLong { length: text.len(), most: LENGTH_MAX });
        }
        if let Some(character) = text.chars().find(|c| matches!(c, '?' | '#')) {
            return Err(PathPrefixError::Surplus { text: own(), character });
        }
        if !text.starts_with('/') {
            return Err(PathPrefixError::Slash { text: own() });
        }
        let plain = decode(text.as_bytes());
        if memchr::memchr(b';', &plain).is_some() {
            return Err(PathPrefixError::Surplus { text: own(), character: ';' });
        }
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
        if text.contains(odd) || !is_straight(&plain) || has_broken_escape(text.as_bytes()) {
            return Err(PathPrefixError::NotPlain { text: own() });
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        Ok(Self { plain: decode(text.as_bytes()).into(), text: if text.is_empty() { "/" } else { text }.into() })
    }

    /// The path as text, without a slash behind it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The form in which it is compared with [`Readings`].
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }
}

impl Diagnose for PathPrefixError {
    fn fault(&self) -> Fault {
        match self {
            Self::Slash { .. } | Self::Surplus { .. } | Self::NotPlain { .. } | Self::TooLong { .. } => Fault::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Slash { text } => Some(format!("write /{text}")),
            Self::Surplus { .. } => Some("leave it out: routes are told apart by the path alone".to_owned()),
            Self::NotPlain { .. } => {
                Some("write it as /api/v1, without `.`, `..`, `//` and blanks; a blank is %20".to_owned())
            }
            Self::TooLong { .. } => None,
        }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl FromStr for PathPrefix {
    type Err = PathPrefixError;

    fn from_str(text: &str) -> Result<Self, PathPrefixError> {
        Self::parse(text)
    }
}

/// What servers may understand a path to be. They differ in what they resolve, and a rule that is for one place must not
/// be got round by writing another. What is sent on is always the path as it came.
pub(super) struct Readings<'a> {
    /// Escapes resolved, and nothing else.
    pub(super) written: Cow<'a, [u8]>,
    /// What else it may be, only for a path that has something of these: with `.` and `..` resolved, with a backslash and
    /// an escaped slash as slashes and several slashes as one, without the parameters of its segments (`;` and what
    /// follows), as servers of Java have it.
    pub(super) resolved: Vec<Vec<u8>>,
}

impl<'a> Readings<'a> {
    pub(super) fn new(path: &'a str) -> Self {
        let written = decode(path.as_bytes());
        let mut resolved = Vec::new();
        if !is_straight(&written) || has_escaped_slash(path.as_bytes()) {
            resolved.extend([strict(&written), loose(&slashed(&written))]);
        }
        if memchr::memchr(b';', &written).is_some() {
            // Some take parameters off before they resolve escapes, so that an escaped `;` stays; some after that; and some
            // after the escaped slashes as well. Who does so resolves no dots as a rule, or all of them.
            let before = decode(&without_parameters(path.as_bytes())).into_owned();
            let after = without_parameters(&written);
            for bare in [before, after] {
                resolved.extend([strict(&bare), loose(&slashed(&bare)), bare]);
            }
            resolved.push(loose(&without_parameters(&slashed(&written))));
        }
        Self { written, resolved }
    }
}

/// As RFC 3986 §5.2.4 has it.
fn strict(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        match segment {
            b"." => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    joined(&segments)
}

/// As the most forgiving server has it, once all that may be a slash is one.
fn loose(slashed: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in slashed.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    joined(&segments)
}

/// With a slash for each backslash and each escaped slash.
fn slashed(path: &[u8]) -> Vec<u8> {
    let mut slashed = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let escaped_slash = escaped(rest) == Some(b'/');
        slashed.push(if escaped_slash || *first == b'\\' { b'/' } else { *first });
        rest = if escaped_slash { rest.get(3..).unwrap_or_default() } else { tail };
    }
    slashed
}

/// Each segment up to its first `;`.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let mut bare = Vec::with_capacity(path.len());
    for (at, segment) in path.split(|byte| *byte == b'/').enumerate() {
        if at > 0 {
            bare.push(b'/');
        }
        bare.extend(segment.iter().take_while(|byte| **byte != b';'));
    }
    bare
}

fn joined(segments: &[&[u8]]) -> Vec<u8> {
    segments.iter().flat_map(|segment| b"/".iter().chain(*segment)).copied().collect()
}

/// Whether every server understands it alike.
fn is_straight(path: &[u8]) -> bool {
    let dots = || memmem::find_iter(path, b"/.").any(|at| is_dots(path.get(at + 1..).unwrap_or_default()));
    memmem::find(path, b"//").is_none() && memchr::memchr(b'\\', path).is_none() && !dots()
}

/// Whether it begins with a segment of one dot or two.
fn is_dots(rest: &[u8]) -> bool {
    matches!(rest, b"." | b".." | [b'.', b'/', ..] | [b'.', b'.', b'/', ..])
}

/// Resolves escapes, but for that of the slash, which is a character of a segment. Broken ones stand for themselves.
fn decode(path: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', path).is_none() {
        return Cow::Borrowed(path);
    }
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        match escaped(rest) {
            Some(byte) if byte != b'/' => {
                plain.push(byte);
                rest = rest.get(3..).unwrap_or_default();
            }
            Some(_) | None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(plain)
}

/// The byte of an escape that stands here.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn has_escaped_slash(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| path.get(at..).and_then(escaped) == Some(b'/'))
}

fn has_broken_escape(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| path.get(at..).and_then(escaped).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slash_at_the_end_is_no_part_of_it() {
        assert_eq!(PathPrefix::parse("/api/"), PathPrefix::parse("/api"));
        assert_eq!(PathPrefix::parse("/api/").unwrap().to_string(), "/api");
        assert_eq!(PathPrefix::parse("/").unwrap().to_string(), "/");
    }

    #[test]
    fn a_straight_path_has_one_reading_and_is_not_copied() {
        for path in ["/", "/a/b/", "/.well-known/x", "/a..b/...", "", "*", "/a,b=c"] {
            let readings = Readings::new(path);
            assert!(matches!(readings.written, Cow::Borrowed(_)) && readings.resolved.is_empty(), "{path}");
        }
        assert_eq!(&*Readings::new("/%61%20b").written, b"/a b");
        assert!(Readings::new("/%61%20b").resolved.is_empty());
    }

    #[test]
    fn what_servers_read_differently_has_all_its_readings() {
        for (path, strictly, loosely) in [
            ("/x/../b", "/b", "/b"),
            ("/x/%2e%2E/b", "/b", "/b"),
            ("//b", "//b", "/b"),
            ("/a//../b", "/a/b", "/b"),
            ("/a%2f..%2Fb", "/a%2f..%2Fb", "/b"),
            ("/a\\b", "/a\\b", "/a/b"),
            ("/a%5cb", "/a\\b", "/a/b"),
            ("/../..", "", ""),
        ] {
            assert_eq!(Readings::new(path).resolved, [strictly.as_bytes(), loosely.as_bytes()], "{path}");
        }
    }

    #[test]
    fn a_path_with_parameters_is_read_without_them_too_in_every_order() {
        for (path, among) in [
            ("/b;x=1", "/b"),
            ("/b;x=1/c", "/b/c"),
            ("/b%3Bx/c", "/b/c"),
            ("/x/..;/b", "/b"),
            ("/x/..;y=z/b", "/b"),
            ("/x/%2e%2e%3b/b", "/b"),
            ("/x/..;%2fb", "/b"),
            ("/x;%2f..%2f..%2fb", "/x"),
            ("/x;\\..\\b", "/x"),
            ("/b;/../c", "/b/../c"),
            ("/b/c/..%3b/..;/..;/d", "/b/d"),
            ("/x//..;/..;/b", "/b"),
            ("/;a=b/c", "//c"),
            ("/;a=b/c", "/c"),
        ] {
            let resolved = Readings::new(path).resolved;
            assert!(resolved.iter().any(|reading| reading == among.as_bytes()), "{path}: {among} among {resolved:?}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_a_hint() {
        for text in [
            "", "api", "/a?b", "/a#b", "/a;b", "/a%3bb", "/..", "/a/../b", "/a//b", "/./a", "/a b", "/%2e%2e", "/%zz",
            "/a\\b", "//",
        ] {
            let error = PathPrefix::parse(text).unwrap_err();
            assert_eq!(error.fault(), Fault::Usage, "{text}");
            assert!(error.hint().is_some(), "{text}");
        }
        assert_eq!(PathPrefix::parse("api").unwrap_err().hint().as_deref(), Some("write /api"));
        assert!(matches!(PathPrefix::parse(&"/a".repeat(513)), Err(PathPrefixError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn a_prefix_is_read_back_from_its_text_and_matches_itself(text in "/[a-c/.%2e?]{0,8}") {
            if let Ok(prefix) = PathPrefix::parse(&text) {
                let readings = Readings::new(prefix.as_str());
                prop_assert!(readings.resolved.is_empty());
                prop_assert_eq!(readings.written.strip_suffix(b"/").unwrap_or(&readings.written), prefix.plain());
                prop_assert_eq!(PathPrefix::parse(prefix.as_str()), Ok(prefix));
            }
        }

        #[test]
        fn what_is_resolved_has_no_dots_left(path in "/[/.%2eF\\\\a]{0,24}") {
            let [strict, loose] = &*Readings::new(&path).resolved else { return Ok(()) };
            for segment in strict.split(|byte| *byte == b'/').chain(loose.split(|byte| *byte == b'/').skip(1)) {
                prop_assert!(!matches!(segment, b"." | b".."), "{path}");
            }
            prop_assert!(is_straight(loose) && !has_escaped_slash(loose), "{path}");
        }

        #[test]
        fn what_a_server_of_java_would_serve_is_among_the_readings(path in "(/([ab.]{1,2}|%2e)?((;|%3b)[ab=]?)?){1,6}") {
            let readings = Readings::new(&path);
            // Parameters off, escapes, slashes, dots; each `;` as it is written or escaped as well.
            for bare in [decode(&without_parameters(path.as_bytes())).into_owned(), without_parameters(&readings.written)] {
                let served = loose(&bare);
                let found = served == *readings.written || readings.resolved.contains(&served);
                prop_assert!(found || !readings.written.contains(&b';') && is_straight(&readings.written), "{path}");
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), path in any::<String>()) {
            let _ = (PathPrefix::parse(&text), Readings::new(&path));
        }
    }
}
