//! `${VAR}`, `${VAR:-default}` and `${VAR:default}` in values.
//!
//! Substitution happens after parsing, so the content of a variable can never change the structure of the file.

use super::Environment;

/// Why a value cannot be substituted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SubstituteError {
    /// The variable is not set and has no default.
    Unset(String),
    /// `${` without `}`.
    Open,
    /// A name that no variable has.
    Name(String),
}

/// Puts variables into a text. `$${` stands for `${` itself; a `$` elsewhere is a `$`.
pub(crate) fn substitute(text: &str, env: Environment<'_>) -> Result<String, SubstituteError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let body = &from[2..];
        let end = body.find('}').ok_or(SubstituteError::Open)?;
        out.push_str(&value_of(&body[..end], env)?);
        rest = &body[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(body: &str, env: Environment<'_>) -> Result<String, SubstituteError> {
    let (name, default) = match body.split_once(':') {
        None => (body, None),
        Some((name, default)) => (name, Some(default.strip_prefix('-').unwrap_or(default))),
    };
    if !is_name(name) {
        return Err(SubstituteError::Name(name.to_owned()));
    }
    // As in a shell, `:` makes the default stand in for an empty variable, too.
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(SubstituteError::Unset(name.to_owned())),
    }
}

fn is_name(name: &str) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}: [".to_owned()),
            _ => None,
        }
    }

    fn sub(text: &str) -> Result<String, SubstituteError> {
        substitute(text, &env)
    }

    #[test]
    fn variables_and_their_defaults_are_put_in() {
        assert_eq!(sub("tcp://${HOST}:1").unwrap(), "tcp://db:1");
        assert_eq!(sub("${NONE:-3000}").unwrap(), "3000");
        assert_eq!(sub("${NONE:3000}").unwrap(), "3000");
        assert_eq!(sub("${HOST:-x}${HOST}").unwrap(), "dbdb");
        assert_eq!(sub("${NONE:-}").unwrap(), "");
        assert_eq!(sub("${NONE:-http://h:1}").unwrap(), "http://h:1");
    }

    #[test]
    fn an_empty_variable_counts_as_set_only_without_a_default() {
        assert_eq!(sub("a${EMPTY}b").unwrap(), "ab");
        assert_eq!(sub("${EMPTY:-x}").unwrap(), "x");
    }

    #[test]
    fn a_dollar_elsewhere_is_a_dollar() {
        assert_eq!(sub("$5 and $HOME $").unwrap(), "$5 and $HOME $");
        assert_eq!(sub("$${HOST}").unwrap(), "${HOST}");
    }

    #[test]
    fn what_a_variable_holds_is_not_substituted_again() {
        assert_eq!(sub("${TRICK}").unwrap(), "${HOST}: [");
    }

    #[test]
    fn what_cannot_be_substituted_is_said() {
        assert_eq!(sub("${NONE}"), Err(SubstituteError::Unset("NONE".into())));
        assert_eq!(sub("${HOST"), Err(SubstituteError::Open));
        assert_eq!(sub("${}"), Err(SubstituteError::Name(String::new())));
        assert_eq!(sub("${1A}"), Err(SubstituteError::Name("1A".into())));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[${}:A-C\\-é]{0,20}") {
            let _ = sub(&text);
        }

        #[test]
        fn text_without_dollars_stays_as_it_is(text in "[^$]{0,20}") {
            prop_assert_eq!(sub(&text), Ok(text));
        }
    }
}
