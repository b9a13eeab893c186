//! Values that may be variables: `${NAME}` and `${NAME:default}` are kept as they are.

use std::time::Duration;

use crate::config::document::Written;
use crate::config::reader::{Complaint, Section};
use crate::config::unit::show_duration;

/// A value, or a text with variables that is known only when the file is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given<T> {
    Value(T),
    Variable(String),
}

impl<T> Given<T> {
    pub(super) const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Variable(_) => None,
        }
    }

    /// As it is written; `value` writes what is known.
    pub(super) fn written(&self, value: impl FnOnce(&T) -> Written) -> Written {
        match self {
            Self::Value(known) => value(known),
            Self::Variable(text) => Written::Template(text.clone()),
        }
    }
}

impl<T: ToString> Given<T> {
    /// As a part of a longer text, in which variables may stand.
    pub(super) fn part(&self) -> String {
        match self {
            Self::Value(known) => known.to_string().replace("${", "$${"),
            Self::Variable(text) => text.clone(),
        }
    }
}

impl Given<Duration> {
    /// Our durations have units.
    pub(super) fn time(&self) -> Written {
        match self {
            Self::Value(wait) => Written::Text(show_duration(*wait)),
            Self::Variable(text) => Written::Template(format!("{text}s")),
        }
    }
}

/// A value by its parser, unless there is a variable in it.
pub(super) fn given<T>(
    section: &Section<'_>,
    key: &'static str,
    parse: impl FnOnce(&str) -> Result<T, Complaint>,
) -> Option<Given<T>> {
    section.get(key, |text| match template(text) {
        Some(template) => Ok(Given::Variable(template)),
        None => parse(text).map(Given::Value),
    })
}

/// The same for one that must be there.
pub(super) fn required<T>(
    section: &Section<'_>,
    key: &'static str,
    hint: &str,
    parse: impl FnOnce(&str) -> Result<T, Complaint>,
) -> Option<Given<T>> {
    if !section.has(key) {
        section.missing(key, hint);
        return None;
    }
    given(section, key, parse)
}

/// The text with its variables as ours, when there are any.
pub(super) fn template(text: &str) -> Option<String> {
    let mut out = String::new();
    let (mut rest, mut found) = (text, false);
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let is_variable = name_in(from).is_some();
        found |= is_variable;
        out.push_str(if is_variable { "${" } else { "$${" });
        rest = &from[2..];
    }
    found.then(|| out + rest)
}

/// The variables that a file cannot do without.
pub(super) fn needed(text: &str) -> Vec<&str> {
    let starts = text.match_indices("${").map(|(at, _)| &text[at..]);
    starts.filter_map(name_in).filter(|(_, has_default)| !has_default).map(|(name, _)| name).collect()
}

/// The name of the variable that begins here, and whether it has a default.
fn name_in(text: &str) -> Option<(&str, bool)> {
    let body = text.strip_prefix("${")?;
    let body = &body[..body.find('}')?];
    let name = body.split(':').next().unwrap_or(body);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let legal = starts_well && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    legal.then_some((name, name.len() < body.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_kept_and_what_only_looks_like_one_is_escaped() {
        assert_eq!(template("${A}-${B:x}").as_deref(), Some("${A}-${B:x}"));
        assert_eq!(template("${A}${b.c}${").as_deref(), Some("${A}$${b.c}$${"));
        assert_eq!((template("$A ${"), template("${1}")), (None, None));
        assert_eq!(needed("${A} ${B:} ${C:d} ${D}"), ["A", "D"]);
    }
}
