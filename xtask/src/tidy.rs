//! Checks that no lint can make. Every finding of every check is reported, each with its file and line.

use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::Outcome;

mod borders;
mod files;
mod machine;
mod manifest;
mod names;
mod pages;
mod shape;
mod source;
mod words;

/// One thing to put right.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: PathBuf,
    line: usize,
    text: String,
}

impl Finding {
    fn new(path: &Path, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// Runs all checks on the repository at `root`.
pub(crate) fn run(root: &Path) -> Outcome {
    let files = match files::read_tree(root) {
        Ok(files) => files,
        Err(error) => {
            return Outcome { good: false, text: format!("tidy: the tree could not be read: {error}\n") };
        }
    };
    report(files.len(), &findings(root, &files))
}

fn findings(root: &Path, files: &[files::File]) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in files {
        names::check(file, &mut found);
        machine::check(file, &mut found);
        if let Some(source) = file.rust() {
            shape::check(&file.path, &source, &mut found);
            words::check(&file.path, &source, &mut found);
            borders::check_source(&file.path, &source, &mut found);
        }
        borders::check_manifest(file, &mut found);
        pages::check(root, file, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn report(checked: usize, found: &[Finding]) -> Outcome {
    let mut text = String::new();
    for finding in found {
        let _ = writeln!(text, "{finding}");
    }
    let _ = match found.len() {
        0 => writeln!(text, "tidy: {checked} files, nothing to put right"),
        1 => writeln!(text, "tidy: 1 finding in {checked} files"),
        many => writeln!(text, "tidy: {many} findings in {checked} files"),
    };
    Outcome { good: found.is_empty(), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_findings_are_reported_with_file_and_line() {
        let found = [Finding::new(Path::new("a.rs"), 3, "too long"), Finding::new(Path::new("b.rs"), 1, "no docs")];
        let outcome = report(7, &found);
        assert!(!outcome.good);
        assert_eq!(outcome.text, "a.rs:3: too long\nb.rs:1: no docs\ntidy: 2 findings in 7 files\n");
    }

    #[test]
    fn a_clean_tree_is_good() {
        let outcome = report(7, &[]);
        assert!(outcome.good);
        assert_eq!(outcome.text, "tidy: 7 files, nothing to put right\n");
    }

    #[test]
    fn the_checks_see_a_file_from_all_sides() {
        let file = files::File {
            path: PathBuf::from("crates/mux/src/helpers.rs"),
            bytes: b"fn f() { let _ = Instant::now(); todo!() }".to_vec(),
        };
        let texts: Vec<String> = findings(Path::new("."), &[file]).iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 5, "{texts:#?}");
    }
}
