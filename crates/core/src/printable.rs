//! Text of strangers on a terminal.

/// Whether a terminal only shows a letter: it does not obey it, and what follows is shown in its order.
#[must_use]
pub fn is_printable(letter: char) -> bool {
    !letter.is_control() && !is_unseen(letter)
}

/// Marks that turn the order of what follows, break lines, or are not seen at all, so that two names look alike. Those
/// that join letters stay: some scripts need them.
const fn is_unseen(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text as a part of a line, of at most so many letters; what a terminal would obey is replaced, not left out, so that
/// it is seen that there was something.
#[must_use]
pub fn part(text: &str, most: usize) -> String {
    let mut letters = text.chars().map(|letter| if is_printable(letter) { letter } else { '\u{fffd}' });
    let mut part: String = letters.by_ref().take(most).collect();
    if letters.next().is_some() {
        part.pop();
        part.push('…');
    }
    part
}

/// A text of several lines with a space in the place of whatever a terminal would obey.
#[must_use]
pub fn lines(text: &str) -> String {
    text.chars().map(|letter| if letter == '\n' || is_printable(letter) { letter } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_lines_and_loses_what_a_terminal_would_obey() {
        assert_eq!(lines("a\tb\r\nc\x1b[2J\u{85}d→ü"), "a b \nc [2J d→ü");
    }

    #[test]
    fn a_part_of_a_line_shows_that_something_was_replaced_or_is_longer() {
        assert_eq!(
            part("r6\x1b[31m\x07\u{9b}\u{202e}\u{200f}x", 20),
            "r6\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}\u{fffd}x"
        );
        assert_eq!((part("abcd", 4).as_str(), part("abcde", 4).as_str(), part("", 0).as_str()), ("abcd", "abc…", ""));
    }
}
