//! Problems of a file, shown all together.

use std::fmt;

use crate::diagnose::{Diagnose, Fault};

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the user named it.
    pub file: String,
    /// Line, from 1; 0 when the mistake has no line, as a missing key.
    pub line: u32,
    /// Column, from 1; 0 when there is none.
    pub column: u32,
    /// The path of the key, such as `public.listen`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// All mistakes of a file, never empty when it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// One problem.
    #[must_use]
    pub fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// Several, in the order of the file.
    #[must_use]
    pub fn in_order(problems: Vec<Problem>) -> Self {
        let mut problems = Self(problems);
        problems.sort();
        problems
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Sorts by place; what has no place comes last.
    pub(crate) fn sort(&mut self) {
        self.0.sort_by_key(|p| (p.line == 0, p.line, p.column));
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl std::error::Error for Problems {}

impl Diagnose for Problem {
    fn fault(&self) -> Fault {
        Fault::Config
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// The hints stand beside their problems, so the whole has none of its own.
impl Diagnose for Problems {
    fn fault(&self) -> Fault {
        Fault::Config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: u32, column: u32, key: &str, hint: Option<&str>) -> Problem {
        Problem {
            file: "server.yaml".into(),
            line,
            column,
            key: key.into(),
            message: "is wrong".into(),
            hint: hint.map(Into::into),
        }
    }

    #[test]
    fn a_problem_is_shown_with_place_key_and_hint() {
        assert_eq!(
            problem(14, 11, "public.listen", Some("right it")).to_string(),
            "server.yaml:14:11: public.listen: is wrong\nhint: right it"
        );
        assert_eq!(problem(3, 0, "", None).to_string(), "server.yaml:3: is wrong");
        assert_eq!(problem(0, 0, "a", None).to_string(), "server.yaml: a: is wrong");
    }

    #[test]
    fn problems_are_shown_in_the_order_of_the_file() {
        let mut problems =
            Problems(vec![problem(0, 0, "missing", None), problem(9, 1, "late", None), problem(2, 5, "early", None)]);
        problems.sort();
        let keys: Vec<_> = problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["early", "late", "missing"]);
        assert_eq!(problems.to_string().lines().count(), 3);
        assert_eq!((problems.len(), problems.is_empty()), (3, false));
    }

    #[test]
    fn problems_are_config_faults() {
        let problems = Problems::one(problem(1, 1, "a", Some("b")));
        assert_eq!(problems.fault(), Fault::Config);
        assert_eq!(problems.0[0].fault(), Fault::Config);
        assert_eq!(Diagnose::hint(&problems.0[0]).as_deref(), Some("b"));
    }
}
