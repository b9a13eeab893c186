//! Label selectors: `app=web,tier!=cache,env in (dev,test),!old`.

use super::KubeTargetError;
use super::object::check_object_name;

/// The longest name or value of a label.
const LABEL_MAX: usize = 63;

/// The longest selector: more would not fit the line of a request.
const SELECTOR_MAX: usize = 4096;

/// Checks a label selector and writes it in one form: `=` for `==`, no space but around `in` and `notin`.
///
/// # Errors
/// When it is none, or is empty and would choose every pod.
pub fn check(text: &str) -> Result<String, KubeTargetError> {
    let fault = || KubeTargetError::Selector { selector: text.to_owned() };
    if text.len() > SELECTOR_MAX {
        return Err(fault());
    }
    let requirements: Option<Vec<String>> = split(text).map(requirement).collect();
    requirements.map(|all| all.join(",")).ok_or_else(fault)
}

/// The requirements: what stands between commas outside of parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
}

fn requirement(text: &str) -> Option<String> {
    if let Some(key) = text.strip_prefix('!') {
        return Some(format!("!{}", key_of(key)?));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Some(format!("{}!={}", key_of(key)?, value_of(value)?));
    }
    if let Some((key, value)) = text.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return Some(format!("{}={}", key_of(key)?, value_of(value)?));
    }
    match text.split_once('(') {
        Some((start, values)) => set(start, values.strip_suffix(')')?),
        None => key_of(text).map(str::to_owned),
    }
}

fn set(start: &str, values: &str) -> Option<String> {
    let (key, operator) = start.trim_end().rsplit_once(char::is_whitespace)?;
    if !matches!(operator, "in" | "notin") {
        return None;
    }
    let values: Option<Vec<&str>> = values.split(',').map(value_of).collect();
    Some(format!("{} {operator} ({})", key_of(key)?, values?.join(",")))
}

fn key_of(text: &str) -> Option<&str> {
    let key = text.trim();
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_is_right = prefix.is_none_or(|prefix| check_object_name(prefix).is_ok());
    (prefix_is_right && is_qualified(name)).then_some(key)
}

fn value_of(text: &str) -> Option<&str> {
    let value = text.trim();
    (value.is_empty() || is_qualified(value)).then_some(value)
}

fn is_qualified(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    name.len() <= LABEL_MAX && name.bytes().all(legal) && edge(name.bytes().next()) && edge(name.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_forms_of_requirements_are_understood() {
        for (text, canonical) in [
            ("app=web", "app=web"),
            ("app==web, tier != cache", "app=web,tier!=cache"),
            ("app.kubernetes.io/name=web", "app.kubernetes.io/name=web"),
            ("env in (dev, test),!old", "env in (dev,test),!old"),
            ("env  notin  (prod)", "env notin (prod)"),
            ("env in(a)", "env in (a)"),
            ("app=", "app="),
            ("app", "app"),
            ("a in (,b)", "a in (,b)"),
        ] {
            assert_eq!(check(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        let long = format!("a={}", "b".repeat(64));
        for text in [
            "",
            ",",
            "a=b,",
            "=b",
            "a=b=c",
            "a>1",
            "a in",
            "a in (",
            "a in b",
            "in (a)",
            "a of (b)",
            "a=b c",
            "-a=b",
            "a=-b",
            "A B=c",
            "X/a/b=c",
            "a=b&limit=1",
            "a=b#",
            "a in (b))",
            "a in (b)c",
            &long,
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&"a,".repeat(3000)).is_err());
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(text in "(!|[a-c]|/|=|==|!=| in \\(|,|\\)| ){0,12}") {
            if let Ok(canonical) = check(&text) {
                prop_assert_eq!(check(&canonical), Ok(canonical));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = check(&text);
        }
    }
}
