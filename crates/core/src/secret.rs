//! Values that must never be shown (rule S6).

use std::fmt;

/// A value whose content no `Debug`, `Display` or serializer shows. It costs nothing.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it. Searching for `expose` finds all of them.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value, given up.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Shows that there is something, and nothing of it: types that hold a secret may derive `Debug`.
impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_a_secret_does_not_show_itself() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "only its Debug text is looked at")]
        struct Holder {
            token: Secret<String>,
        }
        let holder = Holder { token: Secret::new("hunter2".to_owned()) };
        assert_eq!(format!("{holder:?}"), "Holder { token: [redacted] }");
        assert!(!format!("{holder:#?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_is_the_size_of_its_value_and_gives_it_back() {
        assert_eq!(size_of::<Secret<u64>>(), size_of::<u64>());
        let secret = Secret::from(7u8);
        assert_eq!(*secret.expose(), 7);
        assert_eq!(secret.into_exposed(), 7);
    }
}
