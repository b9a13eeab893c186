//! A Rust source text with its comments and literals blanked out, so that words in it are code.
//!
//! This is no parser. It knows just enough of the language, namely comments, strings and
//! characters, to match braces and to find words without being fooled by a quoted one.

/// Stands for a byte inside a string or character literal. It is no white space, so a line of a
/// long literal still counts as a line of code, and it is no part of any word.
const LITERAL: u8 = 1;

/// A source text and its blanked twin of the same length.
pub(super) struct Source {
    raw: String,
    code: String,
    line_starts: Vec<usize>,
}

impl Source {
    /// Blanks the comments and literals of `raw`.
    pub(super) fn new(raw: &str) -> Self {
        let mut line_starts = vec![0];
        line_starts.extend(raw.match_indices('\n').map(|(at, _)| at + 1));
        Self { raw: raw.to_owned(), code: Blanker::new(raw.as_bytes()).run(), line_starts }
    }

    /// The text as written.
    pub(super) fn raw(&self) -> &str {
        &self.raw
    }

    /// The text with comments as spaces and literals as marks.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// The line number, from 1, of a byte.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Where `word` stands as a whole word, or as a whole path when it contains `::`.
    pub(super) fn find_word<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = self.code.as_bytes();
        self.code
            .match_indices(word)
            .filter(move |(at, _)| {
                let before = at.checked_sub(1).map(|i| bytes[i]);
                let after = bytes.get(at + word.len()).copied();
                let ends_in_word = word.bytes().next_back().is_some_and(is_word_byte);
                let goes_on = ends_in_word && after.is_some_and(is_word_byte);
                !goes_on && !before.is_some_and(is_word_byte)
            })
            .map(|(at, _)| at)
    }

    /// The offset of the item's body from `from` on: its `{` and the matching `}`. `None` for an
    /// item that ends in `;`.
    pub(super) fn body_after(&self, from: usize) -> Option<(usize, usize)> {
        let bytes = self.code.as_bytes();
        let mut depth = 0_usize;
        for (at, byte) in bytes.iter().enumerate().skip(from) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.saturating_sub(1),
                b'{' if depth == 0 => return Some((at, self.closing_brace(at))),
                b';' if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// The `}` that matches the `{` at `open`; the end of the text if there is none.
    fn closing_brace(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (at, byte) in self.code.bytes().enumerate().skip(open) {
            match byte {
                b'{' => depth += 1,
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return at;
                    }
                }
                _ => {}
            }
        }
        self.code.len()
    }

    /// Byte ranges of the items under `#[cfg(test)]`.
    pub(super) fn test_ranges(&self) -> Vec<(usize, usize)> {
        let mut ranges = Vec::new();
        for marker in ["#[cfg(test)]", "#[cfg(all(test"] {
            for (at, _) in self.code.match_indices(marker) {
                let after = self.after_attributes(at);
                let end = match self.body_after(after) {
                    Some((_, close)) => close,
                    None => self.code[after..].find(';').map_or(after, |i| after + i),
                };
                ranges.push((at, end));
            }
        }
        ranges
    }

    /// Skips the attributes that stand before an item, beginning with the one at `from`.
    fn after_attributes(&self, from: usize) -> usize {
        let mut at = from;
        loop {
            let rest = &self.code[at..];
            let blank = rest.len() - rest.trim_start().len();
            if !rest[blank..].starts_with('#') {
                return at + blank;
            }
            let Some(close) = closing_bracket(&rest[blank..]) else {
                return self.code.len();
            };
            at += blank + close + 1;
        }
    }
}

/// The `]` that matches the first `[` of `text`.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' if depth == 1 => return Some(at),
            b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Walks over a source text once and writes its blanked twin.
struct Blanker<'a> {
    input: &'a [u8],
    at: usize,
    output: Vec<u8>,
}

impl<'a> Blanker<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0, output: Vec::with_capacity(input.len()) }
    }

    fn run(mut self) -> String {
        while let Some(byte) = self.peek(0) {
            match byte {
                b'/' if self.peek(1) == Some(b'/') => self.line_comment(),
                b'/' if self.peek(1) == Some(b'*') => self.block_comment(),
                b'"' => self.string(),
                b'r' if !self.in_word() && self.raw_hashes().is_some() => self.raw_string(),
                b'\'' => self.quote(),
                _ => self.keep(1),
            }
        }
        // Blanked bytes are ASCII and kept ones are copied whole, so this loses nothing.
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.input.get(self.at + ahead).copied()
    }

    /// Whether the current byte continues a word. `br"` and `cr"` are literals, `for"` is not.
    fn in_word(&self) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map(|i| self.input[i]);
        let prefix = matches!(before(1), Some(b'b' | b'c'));
        let back = if prefix { 2 } else { 1 };
        before(back).is_some_and(is_word_byte)
    }

    fn keep(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(byte) = self.peek(0) {
                self.output.push(byte);
                self.at += 1;
            }
        }
    }

    fn blank(&mut self, with: u8) {
        if let Some(byte) = self.peek(0) {
            self.output.push(if byte == b'\n' { byte } else { with });
            self.at += 1;
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|byte| byte != b'\n') {
            self.blank(b' ');
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.input.len() {
            let pair = (self.peek(0), self.peek(1));
            if pair == (Some(b'/'), Some(b'*')) {
                depth += 1;
                self.blank(b' ');
            } else if pair == (Some(b'*'), Some(b'/')) {
                depth -= 1;
                self.blank(b' ');
            }
            self.blank(b' ');
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.keep(1);
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' => return self.keep(1),
                b'\\' => {
                    self.blank(LITERAL);
                    self.blank(LITERAL);
                }
                _ => self.blank(LITERAL),
            }
        }
    }

    /// The number of hashes when a raw string starts here. `r#name` is a word, not a string.
    fn raw_hashes(&self) -> Option<usize> {
        let mut hashes = 0;
        while self.peek(1 + hashes) == Some(b'#') {
            hashes += 1;
        }
        (self.peek(1 + hashes) == Some(b'"')).then_some(hashes)
    }

    fn raw_string(&mut self) {
        let hashes = self.raw_hashes().unwrap_or(0);
        self.keep(2 + hashes);
        while let Some(byte) = self.peek(0) {
            let closes = byte == b'"' && (1..=hashes).all(|i| self.peek(i) == Some(b'#'));
            if closes {
                return self.keep(1 + hashes);
            }
            self.blank(LITERAL);
        }
    }

    /// A character literal, or the tick of a lifetime.
    fn quote(&mut self) {
        let Some(first) = self.peek(1) else {
            return self.keep(1);
        };
        if first == b'\\' {
            self.keep(1);
            self.blank(LITERAL);
            self.blank(LITERAL);
            while self.peek(0).is_some_and(|byte| byte != b'\'') {
                self.blank(LITERAL);
            }
            return self.keep(1);
        }
        let width = utf8_width(first);
        if self.peek(1 + width) != Some(b'\'') {
            return self.keep(1);
        }
        self.keep(1);
        for _ in 0..width {
            self.blank(LITERAL);
        }
        self.keep(1);
    }
}

fn utf8_width(first: u8) -> usize {
    match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(raw: &str) -> String {
        Source::new(raw).code().replace(char::from(LITERAL), ".")
    }

    #[test]
    fn the_blanked_twin_has_the_same_length_and_lines() {
        let raw = "fn f() { // ä comment\n  \"ü\"; /* a\n b */ 'é' }\n";
        let source = Source::new(raw);
        assert_eq!(source.code().len(), raw.len());
        assert_eq!(source.code().lines().count(), raw.lines().count());
    }

    #[test]
    fn comments_become_spaces() {
        assert_eq!(code("a // b { \"\nc"), "a         \nc");
        assert_eq!(code("a /* b /* { */ } */ c"), format!("a{}c", " ".repeat(19)));
    }

    #[test]
    fn strings_become_marks_and_keep_their_quotes() {
        assert_eq!(code(r#"f("a{\"b")"#), r#"f(".....")"#);
        assert_eq!(code(r##"f(r#"a"{"#)"##), r##"f(r#"..."#)"##);
        assert_eq!(code(r#"b"{" br"{" c"{""#), r#"b"." br"." c".""#);
    }

    #[test]
    fn a_comment_mark_in_a_string_is_no_comment() {
        assert_eq!(code(r#""http://a" b"#), r#"".........." b"#.replacen("..", "", 1));
    }

    #[test]
    fn characters_are_told_from_lifetimes() {
        assert_eq!(code("'{' b'}' '\\'' '\\u{7d}' 'é'"), "'.' b'.' '..' '......' '..'");
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        assert_eq!(code("'\"' x"), "'.' x");
    }

    #[test]
    fn a_raw_identifier_is_a_word() {
        assert_eq!(code("r#type \"x\""), "r#type \".\"");
    }

    #[test]
    fn a_word_that_ends_in_r_does_not_start_a_raw_string() {
        assert_eq!(code("for\"a\\\"b\""), "for\"....\"");
    }

    #[test]
    fn unfinished_literals_do_not_hang_the_scanner() {
        for raw in ["\"a", "/* a", "'", "'\\", "r#\"a", "b'"] {
            assert_eq!(Source::new(raw).code().len(), raw.len(), "{raw}");
        }
    }

    #[test]
    fn words_are_found_whole_and_only_in_code() {
        let source =
            Source::new("tokio::spawn(x); // tokio::spawn\nmytokio::spawn; tokio::spawn_blocking; \"tokio::spawn\"");
        let found: Vec<usize> = source.find_word("tokio::spawn").collect();
        assert_eq!(found, [0]);
    }

    #[test]
    fn a_macro_is_found_whatever_follows_its_mark() {
        let source = Source::new("todo!(); eprintln!(\"\"); println![]");
        assert_eq!(source.find_word("todo!").count(), 1);
        assert_eq!(source.find_word("println!").count(), 1);
    }

    #[test]
    fn bodies_are_matched_over_types_with_semicolons() {
        let source = Source::new("fn f(a: [u8; 4]) -> [u8; 2] { { } } fn g();");
        let (open, close) = source.body_after(0).expect("f has a body");
        assert_eq!(&source.raw()[open..=close], "{ { } }");
        assert_eq!(source.body_after(close + 1), None);
    }

    #[test]
    fn test_items_are_ranges() {
        let raw = "fn f() {}\n#[cfg(test)]\n#[expect(a, reason = \"]{\")]\nmod tests { fn g() {} }\nfn h() {}";
        let source = Source::new(raw);
        let ranges = source.test_ranges();
        assert_eq!(ranges.len(), 1);
        let (from, to) = ranges[0];
        assert!(raw[from..=to].ends_with("mod tests { fn g() {} }"));
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_a_short_range() {
        let raw = "#[cfg(test)]\nmod tests;\nfn h() {}";
        let (from, to) = Source::new(raw).test_ranges()[0];
        assert_eq!(&raw[from..=to], "#[cfg(test)]\nmod tests;");
    }

    #[test]
    fn lines_count_from_one() {
        let source = Source::new("a\nb\nc");
        assert_eq!([0, 1, 2, 4].map(|offset| source.line_of(offset)), [1, 1, 2, 3]);
    }
}
