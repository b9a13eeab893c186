//! Files of other tools, turned into an `adit.yaml`.

use std::collections::BTreeSet;

use super::Problems;
use super::document::Written;

mod autotunnel;
mod comments;
mod localport;

/// What became of another tool's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The `adit.yaml` that does the same.
    pub yaml: String,
    /// What has no equivalent, or works otherwise.
    pub notes: Vec<String>,
}

/// Reads a file of autotunnel. `file` is its name, for messages.
///
/// # Errors
/// With every problem of the file at once: what autotunnel itself refuses.
pub fn autotunnel(text: &str, file: &str) -> Result<Imported, Problems> {
    autotunnel::import(text, file)
}

/// Reads a file of localport. `file` is its name, for messages.
///
/// # Errors
/// With every problem of the file at once: what localport itself refuses.
pub fn localport(text: &str, file: &str) -> Result<Imported, Problems> {
    localport::import(text, file)
}

/// Names for forwards that had only a port: each once.
#[derive(Debug, Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// The name wanted, or with the port behind it when it is taken.
    fn choose(&mut self, wanted: &str, port: u16) -> String {
        let numbered = (2u32..).map(|n| format!("{wanted}-{port}-{n}"));
        let mut names = [wanted.to_owned(), format!("{wanted}-{port}")].into_iter().chain(numbered);
        let free = names.find(|name| !self.0.contains(name)).unwrap_or_default();
        self.0.insert(free.clone());
        free
    }
}

/// Puts the file together: what it is, then the sections that have something in them.
fn assemble(header: Vec<String>, sections: Vec<(&str, Vec<String>, Written)>) -> String {
    let mut document = Written::map().with_comments("version", Written::bare(&1), header);
    for (key, comments, section) in sections {
        if !section.is_empty() {
            document = document.with_comments(key, section, comments);
        }
    }
    document.yaml()
}

#[cfg(test)]
mod tests;
