//! The files of the repository, read once.

use std::path::{Path, PathBuf};

use super::source::Source;

/// Directories that hold nothing a person wrote.
const SKIPPED_DIRECTORIES: [&str; 5] = ["target", ".git", "corpus", "artifacts", "coverage"];

/// Endings of files that tools leave behind and git ignores.
const SKIPPED_ENDINGS: [&str; 2] = ["profraw", "orig"];

/// How much of a file is looked at to tell text from other things.
const SNIFFED: usize = 8 * 1024;

/// One file, with its path from the root.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

impl File {
    /// The content, unless it is not text.
    pub(super) fn text(&self) -> Option<&str> {
        let start = &self.bytes[..self.bytes.len().min(SNIFFED)];
        if start.contains(&0) {
            return None;
        }
        std::str::from_utf8(&self.bytes).ok()
    }

    /// The content as Rust source, if it is that.
    pub(super) fn rust(&self) -> Option<Source> {
        if self.path.extension()? != "rs" {
            return None;
        }
        self.text().map(Source::new)
    }
}

/// Reads every file below `root` in the order of their paths.
pub(super) fn read_tree(root: &Path) -> std::io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() && !is_skipped_directory(&path) {
                open.push(path);
            } else if kind.is_file() && !is_skipped_file(&path) {
                let bytes = std::fs::read(&path)?;
                let path = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
                files.push(File { path, bytes });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn is_skipped_directory(path: &Path) -> bool {
    path.file_name().is_some_and(|name| SKIPPED_DIRECTORIES.iter().any(|skipped| name == *skipped))
}

fn is_skipped_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| SKIPPED_ENDINGS.iter().any(|skipped| ending == *skipped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: &[u8]) -> File {
        File { path: path.into(), bytes: bytes.to_vec() }
    }

    #[test]
    fn a_file_with_a_zero_byte_is_not_text() {
        assert!(file("a.png", b"\x89PNG\0").text().is_none());
        assert_eq!(file("a.md", b"words").text(), Some("words"));
    }

    #[test]
    fn only_rs_files_are_rust() {
        assert!(file("a.rs", b"fn f() {}").rust().is_some());
        assert!(file("a.md", b"fn f() {}").rust().is_none());
    }

    #[test]
    fn build_output_is_skipped() {
        assert!(is_skipped_directory(Path::new("fuzz/target")));
        assert!(!is_skipped_directory(Path::new("crates/mux")));
        assert!(is_skipped_file(Path::new("default.profraw")));
    }
}
