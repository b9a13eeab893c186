//! File names that say nothing, missing module docs, and files without a last newline.

use std::path::Path;

use super::Finding;
use super::files::File;

/// Names under which anything can be put, so that nothing is found again.
const BANNED_NAMES: [&str; 10] =
    ["util", "utils", "helper", "helpers", "common", "types", "manager", "managers", "misc", "mod"];

/// Reports what is wrong with the file as such.
pub(super) fn check(file: &File, found: &mut Vec<Finding>) {
    let Some(text) = file.text() else { return };
    if !text.is_empty() && !text.ends_with('\n') {
        let last = text.lines().count();
        found.push(Finding::new(&file.path, last, "the last line has no newline"));
    }
    if file.path.extension().is_some_and(|ending| ending == "rs") {
        check_name(&file.path, found);
        check_docs(&file.path, text, found);
    }
}

fn check_name(path: &Path, found: &mut Vec<Finding>) {
    for part in path.with_extension("").components() {
        let part = part.as_os_str().to_string_lossy();
        if part == "mod" {
            let text = "mod.rs: name the file after its module and put it beside the directory";
            found.push(Finding::new(path, 1, text));
        } else if BANNED_NAMES.contains(&part.as_ref()) {
            let text = format!("the name `{part}` says nothing: name it after what it holds");
            found.push(Finding::new(path, 1, text));
        }
    }
}

fn check_docs(path: &Path, text: &str, found: &mut Vec<Finding>) {
    // `tests.rs` is the tests of the module above it, and its name says so.
    if path.file_stem().is_some_and(|stem| stem == "tests") {
        return;
    }
    let documented = text
        .lines()
        .map(str::trim_start)
        .find(|line| !line.is_empty() && !line.starts_with("#!"))
        .is_some_and(|line| line.starts_with("//!"));
    if !documented {
        let text = "no module docs: begin the file with `//!` and what it is for";
        found.push(Finding::new(path, 1, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_file(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let file = File { path: path.into(), bytes: text.as_bytes().to_vec() };
        check(&file, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_documented_file_with_a_good_name_passes() {
        assert!(check_file("crates/mux/src/frame.rs", "//! Frames.\n").is_empty());
        assert!(check_file("crates/mux/src/lib.rs", "#![no_std]\n\n//! Mux.\n").is_empty());
        assert!(check_file("crates/mux/src/frame/tests.rs", "use super::*;\n").is_empty());
    }

    #[test]
    fn names_that_say_nothing_are_found_in_any_part_of_the_path() {
        for path in ["crates/mux/src/util.rs", "crates/mux/src/helpers/frame.rs"] {
            let found = check_file(path, "//! Docs.\n");
            assert_eq!(found.len(), 1, "{path}: {found:?}");
            assert!(found[0].contains("says nothing"), "{found:?}");
        }
    }

    #[test]
    fn mod_rs_is_found() {
        let found = check_file("crates/mux/src/frame/mod.rs", "//! Docs.\n");
        assert!(found[0].contains("mod.rs"), "{found:?}");
    }

    #[test]
    fn other_files_may_have_any_name() {
        assert!(check_file("docs/types.md", "Types\n").is_empty());
    }

    #[test]
    fn missing_module_docs_are_found() {
        let found = check_file("a.rs", "// Not docs.\nfn f() {}\n");
        assert_eq!(found, ["a.rs:1: no module docs: begin the file with `//!` and what it is for"]);
    }

    #[test]
    fn a_missing_last_newline_is_found_in_any_text_file() {
        assert_eq!(check_file("a.md", "one\ntwo"), ["a.md:2: the last line has no newline"]);
        assert!(check_file("empty.md", "").is_empty());
    }
}
