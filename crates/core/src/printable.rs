//! Text of strangers on a terminal.

/// Whether a terminal only shows a letter: it does not obey it, and what follows is shown in its order.
#[must_use]
pub fn is_printable(letter: char) -> bool {
    !letter.is_control() && !matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
}
