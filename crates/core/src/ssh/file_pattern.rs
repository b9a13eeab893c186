//! Patterns for one part of a path, as `Include` of an `ssh_config` has them, by the rules of the `glob(3)` that
//! OpenSSH brings along: a bracket is negated by `!`, and by nothing else.

use std::ops::RangeInclusive;

/// The longest pattern: a name of a file has at most 255 bytes, and a bracket may say much of one of them.
const LENGTH_MAX: usize = 1024;

/// A pattern for a name: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`, `[[:digit:]]`; a backslash takes the meaning of what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any text, also none.
    Star,
    /// Any one character.
    One,
    /// This one.
    Is(char),
    /// One of these, or none of them.
    Of { members: Vec<Member>, negated: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    Range(RangeInclusive<char>),
    Class(Class),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Alnum,
    Alpha,
    Blank,
    Cntrl,
    Digit,
    Graph,
    Lower,
    Print,
    Punct,
    Space,
    Upper,
    Xdigit,
}

impl FilePattern {
    /// `None` for what is the name itself, or too long for one: nothing in it has a meaning.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LENGTH_MAX || !text.contains(['*', '?', '[', '\\']) {
            return None;
        }
        let all: Vec<char> = text.chars().collect();
        let (mut rest, mut parts) = (all.as_slice(), Vec::new());
        while let [first, after @ ..] = rest {
            let (part, after) = match (first, after) {
                ('*', _) => (Part::Star, after),
                ('?', _) => (Part::One, after),
                ('\\', [next, after @ ..]) => (Part::Is(*next), after),
                // Without its end it is a character as any other.
                ('[', _) => bracket(after).unwrap_or((Part::Is('['), after)),
                (other, _) => (Part::Is(*other), after),
            };
            parts.push(part);
            rest = after;
        }
        Some(Self { parts })
    }

    /// Whether a name fits. The dot of a hidden one has to be written.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if name.starts_with('.') && self.parts.first() != Some(&Part::Is('.')) {
            return false;
        }
        let name: Vec<char> = name.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where to go on when the text does not fit: behind the last star, with one more character given to it.
        let mut retry = None;
        loop {
            match (self.parts.get(part), name.get(at)) {
                (None, None) => return true,
                (Some(Part::Star), _) => {
                    part += 1;
                    retry = Some((part, at));
                }
                (Some(one), Some(found)) if one.takes(*found) => (part, at) = (part + 1, at + 1),
                _ => match retry {
                    Some((after_star, from)) if from < name.len() => {
                        (part, at) = (after_star, from + 1);
                        retry = Some((after_star, at));
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl Part {
    fn takes(&self, found: char) -> bool {
        match self {
            Self::Star => false,
            Self::One => true,
            Self::Is(wanted) => *wanted == found,
            Self::Of { members, negated } => members.iter().any(|member| member.takes(found)) != *negated,
        }
    }
}

impl Member {
    fn takes(&self, found: char) -> bool {
        match self {
            Self::Range(range) => range.contains(&found),
            Self::Class(class) => class.takes(found),
        }
    }
}

impl Class {
    const ALL: [(&'static str, Self); 12] = [
        ("alnum", Self::Alnum),
        ("alpha", Self::Alpha),
        ("blank", Self::Blank),
        ("cntrl", Self::Cntrl),
        ("digit", Self::Digit),
        ("graph", Self::Graph),
        ("lower", Self::Lower),
        ("print", Self::Print),
        ("punct", Self::Punct),
        ("space", Self::Space),
        ("upper", Self::Upper),
        ("xdigit", Self::Xdigit),
    ];

    fn takes(self, found: char) -> bool {
        match self {
            Self::Alnum => found.is_alphanumeric(),
            Self::Alpha => found.is_alphabetic(),
            Self::Blank => matches!(found, ' ' | '\t'),
            Self::Cntrl => found.is_control(),
            Self::Digit => found.is_ascii_digit(),
            Self::Graph => !found.is_control() && !found.is_whitespace(),
            Self::Lower => found.is_lowercase(),
            Self::Print => !found.is_control(),
            Self::Punct => found.is_ascii_punctuation(),
            Self::Space => found.is_whitespace(),
            Self::Upper => found.is_uppercase(),
            Self::Xdigit => found.is_ascii_hexdigit(),
        }
    }
}

/// What is between the brackets, and what is behind them; `None` without an end.
fn bracket(text: &[char]) -> Option<(Part, &[char])> {
    let (negated, mut rest) = match text {
        ['!', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut members = Vec::new();
    loop {
        // A bracket that comes first is one of them.
        if let (false, [']', after @ ..]) = (members.is_empty(), rest) {
            return Some((Part::Of { members, negated }, after));
        }
        if let Some((class, after)) = class(rest) {
            members.push(Member::Class(class));
            rest = after;
            continue;
        }
        let (from, after) = one(rest)?;
        let (to, after) = match after {
            ['-', end, ..] if *end != ']' => one(&after[1..])?,
            _ => (from, after),
        };
        members.push(Member::Range(from..=to));
        rest = after;
    }
}

/// One character of a bracket.
fn one(text: &[char]) -> Option<(char, &[char])> {
    match text {
        ['\\', next, rest @ ..] | [next, rest @ ..] => Some((*next, rest)),
        [] => None,
    }
}

/// A class such as `[:digit:]`. One that does not exist is characters as any others.
fn class(text: &[char]) -> Option<(Class, &[char])> {
    let ['[', ':', rest @ ..] = text else { return None };
    let end = rest.windows(2).position(|two| two == [':', ']'])?;
    let (name, after) = (rest.get(..end)?, rest.get(end + 2..)?);
    let (_, class) = Class::ALL.into_iter().find(|(known, _)| known.chars().eq(name.iter().copied()))?;
    Some((class, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pattern_fits_as_glob_has_it() {
        for (pattern, name, fits) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", false),
            (".*", ".hidden", true),
            ("[.]x", ".x", false),
            ("?x", ".x", false),
            ("[ab].conf", "b.conf", true),
            ("[ab].conf", "c.conf", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a]x", "bx", true),
            ("[^a]x", "ax", true),
            ("[^a]x", "^x", true),
            ("[^a]x", "bx", false),
            ("[]x]y", "]y", true),
            ("[!]]y", "]y", false),
            ("[a-]", "-", true),
            ("[-a]", "-", true),
            ("[[:digit:]][[:digit:]]-*", "10-work", true),
            ("[[:digit:][:upper:]]", "x", false),
            ("[![:lower:]]", "X", true),
            ("[[:nosuch:]]", "n", false),
            ("[[:nosuch:]]", "n]", true),
            ("[ab", "[ab", true),
            ("[ab", "a", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[\\]]", "]", true),
            ("[\\a-\\c]", "b", true),
            ("*[0-9]*", "x7y", true),
            ("[é-ü]", "ö", true),
            ("[z-a]", "m", false),
        ] {
            let fit = FilePattern::parse(pattern).is_some_and(|known| known.matches(name));
            assert_eq!(fit, fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_plain_name_is_no_pattern() {
        assert_eq!(FilePattern::parse("config"), None);
        assert_eq!(FilePattern::parse(&"*".repeat(LENGTH_MAX + 1)), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(pattern in "[a\\[\\]!^:\\\\*?.-]{0,12}", name in "[a\\[\\]!^:\\\\*?.-]{0,8}") {
            if let Some(known) = FilePattern::parse(&pattern) {
                let _ = known.matches(&name);
            }
        }

        #[test]
        fn many_stars_cost_no_time(stars in 1usize..400) {
            let known = FilePattern::parse(&"a*".repeat(stars)).unwrap();
            prop_assert!(!known.matches(&"c".repeat(5000)));
            prop_assert!(known.matches(&"a".repeat(5000)));
        }
    }
}
