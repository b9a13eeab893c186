//! Just enough of a Cargo manifest: which crates it depends on, and on which line it says so.

/// What a dependency is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[dependencies]`, for any target.
    Normal,
    /// `[dev-dependencies]`.
    Dev,
    /// `[build-dependencies]`.
    Build,
}

/// One named dependency.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dependency {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) line: usize,
}

/// Reads the dependencies of a manifest.
pub(super) fn dependencies(text: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut section = None;
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or(header).trim();
            let (kind, named) = section_of(header);
            section = kind.filter(|_| named.is_none());
            if let (Some(kind), Some(name)) = (kind, named) {
                found.push(dependency(name, kind, line_number));
            }
        } else if let Some(kind) = section
            && let Some(name) = key_of(line)
        {
            found.push(dependency(name, kind, line_number));
        }
    }
    found
}

fn dependency(name: &str, kind: Kind, line: usize) -> Dependency {
    Dependency { name: name.to_owned(), kind, line }
}

/// The kind of a section, and the dependency it is about when it is `[dependencies.name]`.
fn section_of(header: &str) -> (Option<Kind>, Option<&str>) {
    let kinds = [("dev-dependencies", Kind::Dev), ("build-dependencies", Kind::Build), ("dependencies", Kind::Normal)];
    for (word, kind) in kinds {
        let Some(at) = header.find(word) else {
            continue;
        };
        let prefix = &header[..at];
        let for_a_target = prefix.starts_with("target.") && prefix.ends_with('.');
        if !for_a_target && !prefix.is_empty() {
            return (None, None);
        }
        return (Some(kind), header[at + word.len()..].strip_prefix('.'));
    }
    (None, None)
}

fn key_of(line: &str) -> Option<&str> {
    if line.starts_with('#') || !line.contains('=') {
        return None;
    }
    let end = line.find(|c: char| c == '.' || c == '=' || c.is_whitespace())?;
    let key = line[..end].trim_matches('"');
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!key.is_empty() && key.chars().all(legal)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(String, Kind)> {
        dependencies(text).into_iter().map(|dependency| (dependency.name, dependency.kind)).collect()
    }

    #[test]
    fn inline_tables_and_workspace_keys_are_read() {
        let text = "[package]\nname = \"x\"\n[dependencies]\n# tokio = 1\nbytes.workspace = true\nhttp = { version = \"1\" }\n[lints]\nworkspace = true\n";
        assert_eq!(names(text), [("bytes".into(), Kind::Normal), ("http".into(), Kind::Normal)]);
    }

    #[test]
    fn kinds_are_told_apart() {
        let text = "[dev-dependencies]\na = \"1\"\n[build-dependencies]\nb = \"1\"\n[target.'cfg(unix)'.dependencies]\nc = \"1\"\n";
        assert_eq!(names(text), [("a".into(), Kind::Dev), ("b".into(), Kind::Build), ("c".into(), Kind::Normal)]);
    }

    #[test]
    fn a_section_for_one_dependency_counts_once() {
        let text = "[dependencies.tokio]\nversion = \"1\"\nfeatures = []\n";
        assert_eq!(names(text), [("tokio".into(), Kind::Normal)]);
        assert_eq!(dependencies(text)[0].line, 1);
    }

    #[test]
    fn the_workspace_table_of_versions_is_no_dependency() {
        assert!(names("[workspace.dependencies]\ntokio = \"1\"\n").is_empty());
    }
}
