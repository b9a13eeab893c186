//! Where keys stand in a file, for problems that only who may open other files can find.

use super::Problem;
use super::reader::place_of;
use super::tree::{self, Node, Value};

/// A file that was parsed without a problem, asked for its places.
pub struct Places {
    file: String,
    root: Option<Node>,
}

impl Places {
    /// Reads the places of a file.
    #[must_use]
    pub fn read(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), root: tree::read(file, text).ok().map(|(node, _)| node) }
    }

    /// A problem of the key that `keys` lead to, at its value or at the nearest that is there.
    #[must_use]
    pub fn problem(&self, keys: &[&str], message: impl Into<String>, hint: Option<String>) -> Problem {
        let place = match self.root.as_ref().map(|root| &root.value) {
            Some(Value::Map(entries)) => place_of(entries, keys).unwrap_or_default(),
            _ => tree::Place::default(),
        };
        Problem {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            key: keys.join("."),
            message: message.into(),
            hint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_or_the_nearest_above_it() {
        let places = Places::read("adit.yaml", "a:\n  b: { c: 1 }\n");
        let place = |keys: &[&str]| {
            let problem = places.problem(keys, "x", None);
            (problem.line, problem.column)
        };
        assert_eq!(place(&["a", "b", "c"]), (2, 11));
        assert_eq!(place(&["a", "b", "d"]), (2, 6));
        assert_eq!(place(&["z"]), (0, 0));
        assert_eq!(places.problem(&["a", "b"], "x", None).to_string(), "adit.yaml:2:6: a.b: x");
    }
}
