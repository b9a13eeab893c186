//! What strangers say, for terminals and logs.

use adit_core::printable::is_printable;

/// The longest text of a stranger that is passed on.
const WORDS_MAX: usize = 1000;

/// The same without what a terminal would obey, and not endless.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|letter| is_printable(*letter)).take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        assert_eq!(printable("Go\x1b]52;c;aGk=\x07 away\r\n\u{9b}31m\u{202e}!"), "Go]52;c;aGk= away31m!");
        assert_eq!(printable(&"x".repeat(5000)).len(), WORDS_MAX);
    }
}
