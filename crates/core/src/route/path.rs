//! The path of a route, and the plain form in which paths are compared.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use memchr::memmem;

use crate::diagnose::{Diagnose, Fault};

/// The longest prefix. It bounds what one look-up of a hostile path costs.
const LENGTH_MAX: usize = 1024;
/// How much is read of one path in all its readings. It bounds what a path costs that has nothing but letters which servers
/// read differently; what people write has a few of them, and takes a few kilobytes.
const READ_AT_MOST: usize = 1 << 20;

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
    /// What else it may be, only for a path that has something of these: `.` and `..`, several slashes, a backslash, an
    /// escaped slash, parameters of segments (`;` and what follows). Each may be resolved or stand for itself.
    pub(super) resolved: HashSet<Vec<u8>>,
    /// There are more than anyone needs: nobody knows what it is.
    pub(super) too_many: bool,
}

impl<'a> Readings<'a> {
    pub(super) fn new(path: &'a str) -> Self {
        let written = decode(path.as_bytes());
        if is_straight(&written) && memchr::memchr(b';', &written).is_none() && !has_escaped_slash(path.as_bytes()) {
            return Self { written, resolved: HashSet::new(), too_many: false };
        }
        // Whoever reads it may do so before escapes are resolved, after, or first and once more: what splits an address up
        // (`new URL`, a proxy in front) knows a few escapes, and the program behind it resolves them all.
        let (mut before, mut after) = (Found::default(), Found::default());
        before.read(path.as_bytes(), Stage::Escaped);
        for path in &before.readings {
            after.read(&decode(path), Stage::Decoded);
        }
        let too_many = before.is_full() || after.is_full();
        let mut resolved = after.readings;
        resolved.remove(&*written);
        Self { written, resolved, too_many }
    }
}

/// Whether escapes are resolved when a path is read.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Escaped,
    Decoded,
}

/// Readings of a path, each once.
#[derive(Default)]
struct Found {
    readings: HashSet<Vec<u8>>,
    /// What they took.
    bytes: usize,
}

impl Found {
    fn is_full(&self) -> bool {
        self.bytes > READ_AT_MOST
    }

    /// Adds what a path is to one server or another.
    fn read(&mut self, path: &[u8], stage: Stage) {
        let backslash = memchr::memchr(b'\\', path).is_some();
        // Before escapes are resolved that of a slash is none.
        let escaped = stage == Stage::Decoded && has_escaped_slash(path);
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        let ways = ways.into_iter().filter(|way| (backslash || !way.0) && (escaped || !way.1));
        for (backslash, escaped) in ways {
            let slashed = |path: &[u8]| slashed(path, backslash, escaped);
            // Parameters end with the segment, whatever ends that for who takes them off.
            if memchr::memchr(b';', path).is_some() {
                self.resolve(&slashed(&without_parameters(path)), stage);
                self.resolve(&without_parameters(&slashed(path)), stage);
            }
            self.resolve(&slashed(path), stage);
        }
    }

    /// Adds a path as it is, and with dots resolved and slashes merged, in every order of it.
    fn resolve(&mut self, path: &[u8], stage: Stage) {
        let dots = if stage == Stage::Escaped { &[Dots::Plain, Dots::Escaped][..] } else { &[Dots::Plain] };
        self.add(path.len(), || path.to_vec());
        self.add(path.len(), || resolve(path, true, Dots::Kept));
        for dots in dots {
            self.add(path.len(), || resolve(path, false, *dots));
            self.add(path.len(), || resolve(path, true, *dots));
            self.add(path.len(), || resolve(&resolve(path, false, *dots), true, Dots::Kept));
        }
    }

    fn add(&mut self, bytes: usize, reading: impl FnOnce() -> Vec<u8>) {
        self.bytes = self.bytes.saturating_add(bytes);
        if !self.is_full() {
            self.readings.insert(reading());
        }
    }
}

/// What `.` and `..` are.
#[derive(Clone, Copy, PartialEq)]
enum Dots {
    /// Names as any other.
    Kept,
    /// Resolved, as RFC 3986 §5.2.4 has it.
    Plain,
    /// Resolved, `%2e` as well.
    Escaped,
}

fn resolve(path: &[u8], merged: bool, dots: Dots) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/') {
        let plain = if dots == Dots::Escaped { decode(segment) } else { Cow::Borrowed(segment) };
        match &*plain {
            b"" if merged => {}
            b"." if dots != Dots::Kept => {}
            b".." if dots != Dots::Kept => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    segments.iter().flat_map(|segment| b"/".iter().chain(*segment)).copied().collect()
}

/// With a slash for each backslash, and for each escaped slash.
fn slashed(path: &[u8], backslash: bool, escaped_slash: bool) -> Vec<u8> {
    let mut slashed = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let escaped = escaped_slash && escaped(rest) == Some(b'/');
        slashed.push(if escaped || backslash && *first == b'\\' { b'/' } else { *first });
        rest = if escaped { rest.get(3..).unwrap_or_default() } else { tail };
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
            let Readings { written, resolved, .. } = Readings::new(path);
            for reading in [strictly.as_bytes(), loosely.as_bytes()] {
                assert!(*written == *reading || resolved.contains(reading), "{path}: {resolved:?}");
            }
        }
    }

    #[test]
    fn what_one_server_resolves_may_stand_for_itself_at_the_next() {
        for (path, among) in [
            // `new URL` of Node: backslashes are slashes, dots are resolved, slashes are not merged.
            ("/admin\\\\..\\secret", "/admin/secret"),
            ("/admin\\b%5c..\\..\\x", "/admin/x"),
            // And then the escapes, as `decodeURIComponent` does.
            ("/x/../admin%2f../secret", "/admin/../secret"),
            // nginx: slashes are merged, a backslash is a letter.
            ("//admin/x\\..\\..", "/admin/x\\..\\.."),
            ("//admin/x%5c..%5c..", "/admin/x\\..\\.."),
            // nginx with `merge_slashes off`.
            ("/admin%2f%2f../secret", "/admin/secret"),
            // Envoy: dots first, then slashes.
            ("/x/..//admin//../secret", "/admin/secret"),
            ("/x/../admin/%2e%2e/y", "/admin/../y"),
        ] {
            let resolved = Readings::new(path).resolved;
            assert!(resolved.contains(among.as_bytes()), "{path}: {among} among {resolved:?}");
        }
    }

    #[test]
    fn what_a_path_costs_is_bounded() {
        assert!(!Readings::new(&"/a/..;b\\c%2f%5c%3b%2e".repeat(20)).too_many);
        assert!(!Readings::new(&"//a".repeat(8000)).too_many);
        let path = "/a/..;b\\c%2f%5c%3b%2e".repeat(3000);
        let readings = Readings::new(&path);
        assert!(readings.too_many);
        assert!(readings.resolved.iter().map(Vec::len).sum::<usize>() <= READ_AT_MOST);
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
            assert!(resolved.contains(among.as_bytes()), "{path}: {among} among {resolved:?}");
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
        fn no_text_makes_it_panic(text in any::<String>(), path in any::<String>()) {
            let _ = (PathPrefix::parse(&text), Readings::new(&path));
        }
    }
}
