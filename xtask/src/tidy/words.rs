//! Words that must not stand in committed Rust.

use std::path::Path;

use super::Finding;
use super::source::Source;

/// Each with what to do instead.
const BANNED_WORDS: [(&str, &str); 5] = [
    ("#[allow", "use #[expect(lint, reason = \"…\")]"),
    ("#![allow", "use #![expect(lint, reason = \"…\")]"),
    ("todo!", "finish it, or open an issue and return an error"),
    ("unimplemented!", "finish it, or open an issue and return an error"),
    ("dbg!", "remove it"),
];

/// Reports every banned word, tests included.
pub(super) fn check(path: &Path, source: &Source, found: &mut Vec<Finding>) {
    for (word, instead) in BANNED_WORDS {
        for at in source.find_word(word) {
            let text = format!("`{word}`: {instead}");
            found.push(Finding::new(path, source.line_of(at), text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_words_are_found_in_code_only() {
        let raw = "// todo!\n#[allow(dead_code)]\nfn f() {\n  let _ = \"dbg!\";\n  todo!()\n}\n";
        let mut found = Vec::new();
        check(Path::new("a.rs"), &Source::new(raw), &mut found);
        let lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 5]);
    }
}
