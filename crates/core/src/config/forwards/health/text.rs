//! Texts of a probe: what variables hold may be secret.

use std::fmt;
use std::ops::Deref;

/// A text, and the same for everybody to read: there what variables hold is hidden. It shows nowhere by itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProbeText {
    text: String,
    shown: String,
}

impl ProbeText {
    /// `shown` is the text with what variables hold hidden.
    pub(super) fn new(text: String, shown: Option<String>) -> Self {
        Self { shown: shown.unwrap_or_else(|| text.clone()), text }
    }

    /// What somebody else said, with this one hidden where it is repeated.
    #[must_use]
    pub fn hide_in(&self, said: &str) -> String {
        if self.text == self.shown || self.text.is_empty() {
            said.to_owned()
        } else {
            said.replace(&self.text, &self.shown)
        }
    }

    /// For everybody to read.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl Deref for ProbeText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<&str> for ProbeText {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned(), None)
    }
}

impl fmt::Debug for ProbeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.fmt(f)
    }
}
