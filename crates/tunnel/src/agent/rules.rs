//! Headers a user adds to, or removes from, requests and answers.

use adit_core::diagnose::{Diagnose, Fault};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Names that frame a message or belong to one connection: a rule about them would break it.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// What to change in a set of headers: first remove, then set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    remove: Vec<HeaderName>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRules {
    /// Checks rules as a user wrote them. A header that is added replaces those of the same name.
    ///
    /// # Errors
    /// [`HeaderRuleError`] names the rule at fault.
    pub fn parse<'a>(
        add: impl IntoIterator<Item = (&'a str, &'a str)>,
        remove: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, HeaderRuleError> {
        let remove = remove.into_iter().map(rule_name).collect::<Result<_, _>>()?;
        let add = add
            .into_iter()
            .map(|(name, value)| {
                let value =
                    HeaderValue::from_str(value).map_err(|_| HeaderRuleError::Value { name: name.to_owned() })?;
                Ok((rule_name(name)?, value))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { remove, add })
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Applies the rules.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.add {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Why a header rule cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRuleError {
    /// Not the name of a header.
    #[error("`{name}` is not a header name")]
    Name {
        /// What was written.
        name: String,
    },
    /// A name that no rule may touch.
    #[error("`{name}` cannot be changed by a rule")]
    Framing {
        /// What was written.
        name: String,
    },
    /// A value with line breaks or other control characters.
    #[error("the value for `{name}` has characters that no header has")]
    Value {
        /// The header's name.
        name: String,
    },
}

impl Diagnose for HeaderRuleError {
    fn fault(&self) -> Fault {
        match self {
            Self::Name { .. } | Self::Framing { .. } | Self::Value { .. } => Fault::Config,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Framing { name } if name.eq_ignore_ascii_case("host") => {
                Some("use host_header to change the host the service sees".into())
            }
            Self::Framing { .. } | Self::Name { .. } | Self::Value { .. } => None,
        }
    }
}

fn rule_name(name: &str) -> Result<HeaderName, HeaderRuleError> {
    let parsed: HeaderName = name.parse().map_err(|_| HeaderRuleError::Name { name: name.to_owned() })?;
    if FRAMING.contains(&parsed.as_str()) {
        return Err(HeaderRuleError::Framing { name: name.to_owned() });
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_remove_first_and_then_set() {
        let rules = HeaderRules::parse([("X-Env", "dev"), ("cookie", "only")], ["Cookie", "X-Debug"]).unwrap();
        let mut headers = HeaderMap::new();
        headers.append("cookie", HeaderValue::from_static("a"));
        headers.append("cookie", HeaderValue::from_static("b"));
        headers.append("x-debug", HeaderValue::from_static("1"));
        headers.append("accept", HeaderValue::from_static("*/*"));
        rules.apply(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["cookie"], "only");
        assert_eq!(headers["x-env"], "dev");
        assert_eq!(headers["accept"], "*/*");
    }

    #[test]
    fn headers_that_frame_a_message_cannot_be_changed() {
        for name in ["Host", "content-length", "Transfer-Encoding", "connection", "Upgrade"] {
            let error = HeaderRules::parse([(name, "x")], []).unwrap_err();
            assert_eq!(error, HeaderRuleError::Framing { name: name.to_owned() });
            assert!(HeaderRules::parse([], [name]).is_err());
        }
        assert!(HeaderRules::parse([("host", "x")], []).unwrap_err().hint().unwrap().contains("host_header"));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert!(HeaderRules::parse([("x y", "1")], []).is_err());
        assert_eq!(
            HeaderRules::parse([("x", "a\r\nb: c")], []).unwrap_err(),
            HeaderRuleError::Value { name: "x".into() }
        );
        assert!(HeaderRules::parse([], []).unwrap().is_empty());
    }
}
