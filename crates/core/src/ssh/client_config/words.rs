//! A line of `ssh_config`: its keyword and its words, quoted or not.

/// A line that says something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// In small letters.
    pub(super) keyword: String,
    /// As it is written.
    pub(super) written: String,
    /// Without their quotes, up to a comment.
    pub(super) words: Vec<String>,
    /// Everything behind the keyword, as it is.
    pub(super) rest: String,
}

/// The parts of a line; `None` when it says nothing.
pub(super) fn split(text: &str) -> Result<Option<Line>, String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let end = text.find(|letter: char| letter.is_ascii_whitespace() || letter == '=').unwrap_or(text.len());
    let (written, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Ok(Some(Line {
        keyword: written.trim_matches('"').to_ascii_lowercase(),
        written: written.to_owned(),
        words: words(rest)?,
        rest: rest.to_owned(),
    }))
}

fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                let escaped =
                    letters.next_if(|next| matches!(next, '"' | '\'' | '\\') || (quote.is_none() && *next == ' '));
                word.get_or_insert_default().push(escaped.unwrap_or(letter));
            }
            letter if quote == Some(letter) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            letter if quote.is_none() && letter.is_ascii_whitespace() => words.extend(word.take()),
            '#' if quote.is_none() && word.is_none() => break,
            letter => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err("a quote has no end".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// A time as `sshd_config(5)` writes it: `90`, `1m30s`, `2h`.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0_u64, None::<u64>);
    for letter in text.chars() {
        if let Some(digit) = letter.to_digit(10) {
            number = Some(number.unwrap_or_default().checked_mul(10)?.checked_add(u64::from(digit))?);
            continue;
        }
        let unit = match letter.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    if text.is_empty() { None } else { total.checked_add(number.unwrap_or_default()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_keyword_and_words() {
        for (text, keyword, expected) in [
            ("Host a  b", "host", vec!["a", "b"]),
            ("  Port=22 ", "port", vec!["22"]),
            ("Port = 22", "port", vec!["22"]),
            ("User\tme # I", "user", vec!["me"]),
            ("IdentityFile \"~/a b\" 'c d'", "identityfile", vec!["~/a b", "c d"]),
            (r#"User "a\"b\\" c\ d"#, "user", vec![r#"a"b\"#, "c d"]),
            ("User a#b", "user", vec!["a#b"]),
            ("User \"\"", "user", vec![""]),
        ] {
            let line = split(text).unwrap().unwrap();
            assert_eq!(
                (line.keyword.as_str(), line.words),
                (keyword, expected.iter().map(ToString::to_string).collect()),
                "{text}"
            );
        }
        assert_eq!(split(" # nothing"), Ok(None));
        assert_eq!(split(""), Ok(None));
        assert!(split("User \"me").is_err());
        assert_eq!(split("ProxyCommand=nc \"%h\" %p # x").unwrap().unwrap().rest, "nc \"%h\" %p # x");
    }

    #[test]
    fn times_have_units() {
        for (text, expected) in [
            ("90", Some(90)),
            ("1m30", Some(90)),
            ("1M30S", Some(90)),
            ("2h", Some(7200)),
            ("", None),
            ("x", None),
            ("m", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
