//! The comments of a file, found by the lines they stand before.

use std::collections::BTreeMap;

/// Comments that were not taken yet, by line.
pub(super) struct Comments(BTreeMap<u32, Comment>);

struct Comment {
    text: String,
    /// Whether nothing else is on the line.
    alone: bool,
}

impl Comments {
    pub(super) fn read(text: &str) -> Self {
        let mut found = BTreeMap::new();
        for (line, number) in text.lines().zip(1u32..) {
            if let Some(at) = start(line) {
                let comment = line[at + 1..].trim_end();
                let text = comment.strip_prefix(' ').unwrap_or(comment).to_owned();
                found.insert(number, Comment { text, alone: line[..at].trim().is_empty() });
            }
        }
        Self(found)
    }

    /// Takes the comments that belong to a key: those directly above its line, and one behind it.
    pub(super) fn take(&mut self, line: u32) -> Vec<String> {
        let mut taken = Vec::new();
        let mut above = line;
        while let Some(number) = above.checked_sub(1).filter(|number| self.0.get(number).is_some_and(|c| c.alone)) {
            taken.extend(self.0.remove(&number).map(|comment| comment.text));
            above = number;
        }
        taken.reverse();
        if self.0.get(&line).is_some_and(|comment| !comment.alone) {
            taken.extend(self.0.remove(&line).map(|comment| comment.text));
        }
        taken
    }

    /// Takes what stands at the top of the file, before its first key, with an empty line behind it.
    pub(super) fn take_header(&mut self, first_key: u32) -> Vec<String> {
        let lines: Vec<u32> = self.0.range(..first_key).map(|(line, _)| *line).collect();
        lines.into_iter().filter_map(|line| self.0.remove(&line)).map(|comment| comment.text).collect()
    }

    /// The lines whose comments nobody took.
    pub(super) fn left(&self) -> Vec<u32> {
        self.0.keys().copied().collect()
    }
}

/// Where a comment begins: a `#` at the start or after white space, and not within quotes.
fn start(line: &str) -> Option<usize> {
    let mut quote = None;
    let mut before = ' ';
    for (at, character) in line.char_indices() {
        match quote {
            Some(open) if character == open && before != '\\' => quote = None,
            Some(_) => {}
            None if character == '#' && before.is_whitespace() => return Some(at),
            // A quote within a word is a letter.
            None if matches!(character, '"' | '\'') && !before.is_alphanumeric() => quote = Some(character),
            None => {}
        }
        before = character;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_belongs_to_the_key_below_it_or_before_it() {
        let text = "# top\n\n# of a\n# and more\na: 1 # behind a\nb: '# none' # behind b\n# at the end\n";
        let mut comments = Comments::read(text);
        assert_eq!(comments.take(5), ["of a", "and more", "behind a"]);
        assert_eq!(comments.take(6), ["behind b"]);
        assert_eq!(comments.take_header(5), ["top"]);
        assert_eq!(comments.left(), [7]);
    }

    #[test]
    fn a_hash_within_a_word_or_quotes_begins_none() {
        for line in ["a: b#c", "a: \"x # y\"", "a: '#'", "a: \"q\\\" # z\""] {
            assert_eq!(start(line), None, "{line}");
        }
        assert_eq!(start("it's: x # y"), Some(8));
    }
}
