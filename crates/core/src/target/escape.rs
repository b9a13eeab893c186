//! Percent escapes in the parts of a URL.

use std::borrow::Cow;
use std::fmt;

/// A part of a URL with its escapes resolved; `None` when one is broken or what results is no UTF-8.
pub(super) fn decode(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains('%') {
        return Some(Cow::Borrowed(part));
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        bytes.push(hex(*high)? << 4 | hex(*low)?);
        rest = tail;
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Writes a text as part of a URL: what is neither letter, digit nor one of `-._~=,` is escaped.
pub(super) struct Encoded<'a>(pub(super) &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~=,".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_resolved() {
        assert_eq!(decode("arn%3Aaws%3Aeks%2fprod").as_deref(), Some("arn:aws:eks/prod"));
        assert_eq!(decode("me@corp:1").as_deref(), Some("me@corp:1"));
        assert_eq!(decode("%C3%A9").as_deref(), Some("é"));
    }

    #[test]
    fn broken_escapes_are_refused() {
        for part in ["%", "%2", "a%2", "%zz", "%+1", "%FF", "%%41"] {
            assert_eq!(decode(part), None, "{part}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_read_back_from_its_escapes(text in any::<String>()) {
            let encoded = Encoded(&text).to_string();
            prop_assert!(encoded.is_ascii() && !encoded.contains(['/', ':', '@', '?', '#', ' ']));
            let decoded = decode(&encoded);
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[%0-9a-fé]{0,12}") {
            let _ = decode(&text);
        }
    }
}
