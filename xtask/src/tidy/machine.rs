//! Traces of one machine in committed files: paths under a home directory, package registries.

use super::Finding;
use super::files::File;

/// Directories that exist on one machine only. Put together here, so that this file passes.
const PLACES: [&str; 4] =
    [concat!("/", "work", "/"), concat!("/", "root", "/"), concat!("/", "home", "/"), concat!("/", "tmp/plan", "/")];

/// The home directory of nobody, for tests and examples.
const EXAMPLE: &str = concat!("/", "home", "/me");

/// The one registry that a lock file may name.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Reports every line that names a place or a registry of one machine.
pub(super) fn check(file: &File, found: &mut Vec<Finding>) {
    let Some(text) = file.text() else { return };
    for (index, line) in text.lines().enumerate() {
        for place in PLACES {
            if names_place(line, place) {
                let text = format!("names `{place}`, a place on one machine");
                found.push(Finding::new(&file.path, index + 1, text));
            }
        }
        if names_registry(line) {
            let text = "names a package registry other than crates.io";
            found.push(Finding::new(&file.path, index + 1, text));
        }
    }
}

/// A path counts from its root only: `https://example.com/home/` is no home directory.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let inside = before.is_some_and(|c| c.is_alphanumeric() || "._-/*}".contains(c));
        !inside && !line[at..].starts_with(EXAMPLE)
    })
}

fn names_registry(line: &str) -> bool {
    let other_source = line.match_indices(concat!("registry", "+")).any(|(at, _)| !line[at..].starts_with(REGISTRY));
    let replaced = line.trim_start().starts_with(concat!("replace", "-with"));
    other_source || replaced || line.contains(concat!("sparse", "+http"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        let file = File { path: "a.toml".into(), bytes: text.as_bytes().to_vec() };
        check(&file, &mut found);
        found.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn places_on_one_machine_are_found() {
        let text = format!("ok\ncd {}main\n", PLACES[0]);
        assert_eq!(lines_of(&text), [2]);
        assert_eq!(lines_of(&format!("path = \"{}anna\"\n", PLACES[2])), [1]);
        assert!(lines_of(&format!("path = \"{EXAMPLE}/token\"\n")).is_empty());
    }

    #[test]
    fn a_url_path_is_no_place() {
        assert!(lines_of(&format!("https://example.com{}x\n", PLACES[2])).is_empty());
    }

    #[test]
    fn only_the_public_registry_may_be_named() {
        assert!(lines_of(&format!("source = \"{REGISTRY}\"\n")).is_empty());
        let other = concat!("source = \"registry", "+https://crates.example/index\"\n");
        assert_eq!(lines_of(other), [1]);
        assert_eq!(lines_of(concat!("replace", "-with = \"mirror\"\n")), [1]);
    }
}
