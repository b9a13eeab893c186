//! Written pages: the paths that they name and the files that they link to must exist.

use std::path::Path;

use super::Finding;
use super::files::File;

/// Pages that speak of the tree, so that a path in back quotes means a file here and now.
const ABOUT_THE_TREE: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "STYLE.md"];

/// First parts of a path that say that it is one of ours.
const OWN_DIRECTORIES: [&str; 7] = ["crates/", "docs/", "xtask/", "fuzz/", ".ci/", ".cargo/", "deploy/"];

/// Reports paths and links that lead nowhere.
pub(super) fn check(root: &Path, file: &File, found: &mut Vec<Finding>) {
    let Some(text) = file.text() else { return };
    if file.path.extension().is_none_or(|ending| ending != "md") {
        return;
    }
    let about_the_tree = ABOUT_THE_TREE.iter().any(|page| file.path == Path::new(page));
    let base = file.path.parent().unwrap_or(Path::new(""));
    for (index, line) in prose_lines(text) {
        for link in links(line) {
            if !root.join(base).join(link).exists() {
                let text = format!("the link to `{link}` leads nowhere");
                found.push(Finding::new(&file.path, index + 1, text));
            }
        }
        for path in code_spans(line).filter(|_| about_the_tree).filter_map(own_path) {
            if !root.join(path).exists() {
                let text = format!("names `{path}`, which does not exist");
                found.push(Finding::new(&file.path, index + 1, text));
            }
        }
    }
}

/// The lines outside fenced blocks.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Targets of the links on a line that are files: no addresses, and without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, mark)| {
        let rest = &line[at + mark.len()..];
        let target = rest[..rest.find(')')?].split('#').next()?.trim();
        let elsewhere = target.contains("://") || target.starts_with("mailto:");
        (!target.is_empty() && !elsewhere).then_some(target)
    })
}

fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The span as a path of this repository, if it looks like one.
fn own_path(span: &str) -> Option<&str> {
    if span.contains(|c: char| c.is_whitespace() || "*{<$…".contains(c)) || span.contains("::") {
        return None;
    }
    let path = span.trim_start_matches("./").trim_end_matches('/');
    let in_tree = OWN_DIRECTORIES.iter().any(|start| span.trim_start_matches("./").starts_with(start));
    let at_root = !path.contains('/')
        && [".md", ".toml"].iter().any(|ending| path.ends_with(ending) && path.len() > ending.len());
    (in_tree || at_root).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn check_page(name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let file = File { path: name.into(), bytes: text.as_bytes().to_vec() };
        check(own_root(), &file, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_to_a_missing_file_is_found() {
        let text = "see [this](src/main.rs#top), [that](src/nowhere.rs)\nand [site](https://example.com/x)\n";
        assert_eq!(check_page("any.md", text), ["any.md:1: the link to `src/nowhere.rs` leads nowhere"]);
    }

    #[test]
    fn a_named_path_that_does_not_exist_is_found_on_pages_about_the_tree() {
        let text = "first\nin `crates/nowhere/src/lib.rs` and `Cargo.toml`\n";
        assert_eq!(
            check_page("ARCHITECTURE.md", text),
            ["ARCHITECTURE.md:2: names `crates/nowhere/src/lib.rs`, which does not exist"]
        );
        assert!(check_page("docs/guide/any.md", text).is_empty());
    }

    #[test]
    fn fenced_blocks_are_left_alone() {
        assert!(check_page("ARCHITECTURE.md", "```text\n`crates/nowhere`\n```\n").is_empty());
    }

    #[test]
    fn only_what_looks_like_our_path_is_one() {
        assert_eq!(own_path("crates/mux/"), Some("crates/mux"));
        assert_eq!(own_path("./docs/guide"), Some("docs/guide"));
        assert_eq!(own_path("deny.toml"), Some("deny.toml"));
        for span in ["text/html", "cargo xtask tidy", "crates/*", "std::fs", "server.yaml", ".md"] {
            assert_eq!(own_path(span), None, "{span}");
        }
    }
}
