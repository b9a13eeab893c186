//! `${VAR}`, `${VAR:-default}` and `${VAR:default}` in values.
//!
//! Substitution happens after parsing, so the content of a variable can never change the structure of the file.

use std::cell::RefCell;

use super::Environment;

/// The shortest value of a variable that is looked for in every text.
const QUOTED_MIN: usize = 4;

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

/// What is said about a value, with the names of variables where it quotes what they hold: it may be a secret, and what is
/// said is shown to everybody who can read the index or a log. `written` is the value as it stands in the file.
pub(crate) fn without_values(said: &str, written: &str, env: Environment<'_>) -> String {
    let held = RefCell::new(Vec::new());
    let noted = |name: &str| {
        let value = env(name)?;
        held.borrow_mut().push((name.to_owned(), value.clone()));
        Some(value)
    };
    let Ok(whole) = substitute(written, &noted) else { return said.to_owned() };
    let mut held = held.into_inner();
    if held.is_empty() {
        return said.to_owned();
    }
    let (whole, written) = (whole.trim(), written.trim());
    let mut said = said.replace(&format!("`{whole}`"), &format!("`{written}`"));
    held.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    for (name, value) in held {
        // A short one may be a part of any word.
        if value.trim().len() >= QUOTED_MIN {
            said = said.replace(value.trim(), &format!("${{{name}}}"));
        }
    }
    // Parsers quote parts of a value, some of them in lower case.
    let (whole, written) = (whole.to_lowercase(), written.to_lowercase());
    let is_held = |part: &str| {
        let part = part.to_lowercase();
        !part.is_empty() && whole.contains(&part) && !written.contains(&part)
    };
    let parts = said.split('`').enumerate();
    let shown: Vec<&str> = parts.map(|(at, part)| if at % 2 == 1 && is_held(part) { "…" } else { part }).collect();
    shown.join("`")
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

    #[test]
    fn what_is_said_of_a_value_does_not_tell_what_its_variables_hold() {
        let env = |name: &str| match name {
            "TOKEN" => Some("Hunter9,swordfish".to_owned()),
            "PORT" => Some("99".to_owned()),
            _ => None,
        };
        for (said, written, shown) in [
            ("`x Hunter9,swordfish` cannot be a Host header", "x ${TOKEN}", "`x ${TOKEN}` cannot be a Host header"),
            ("Hunter9,swordfish is out of range", "${TOKEN}", "${TOKEN} is out of range"),
            ("write /Hunter9,swordfish", " ${TOKEN} ", "write /${TOKEN}"),
            (
                "`swordfish` is no name; `hunter9` neither, `/x` is",
                "/x/${TOKEN}",
                "`…` is no name; `…` neither, `/x` is",
            ),
            ("`99` is no port of `a`", "${PORT}", "`${PORT}` is no port of `a`"),
            ("at most 99 are possible", "${PORT}", "at most 99 are possible"),
            ("`x` is known, `y` is not", "${NONE:-x}", "`x` is known, `y` is not"),
            ("`Hunter9` is known", "plain", "`Hunter9` is known"),
        ] {
            assert_eq!(without_values(said, written, &env), shown);
        }
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
