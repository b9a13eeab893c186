//! What strangers say, for terminals and logs.

use adit_core::printable::is_printable;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest text of a stranger that is passed on.
const WORDS_MAX: usize = 1000;
/// What is kept of a line that a program says: more than is passed on of it, as some of it may not be printable.
const LINE_MAX: usize = 4 * 1024;

/// The same without what a terminal would obey, and not endless.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|letter| is_printable(*letter)).take(WORDS_MAX).collect()
}

/// Hands over each line that a program says until it says no more, whatever its bytes are: whoever stops reading ends the
/// program with its next word. Of a long line only the begin is kept.
pub(crate) async fn each_line(mut said: impl AsyncRead + Unpin, mut heard: impl FnMut(&str)) {
    let (mut line, mut piece) = (Vec::new(), vec![0; LINE_MAX]);
    let mut tell = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line);
        heard(text.strip_suffix('\r').unwrap_or(&text));
        line.clear();
    };
    while let Ok(read @ 1..) = said.read(&mut piece).await {
        for part in piece[..read].split_inclusive(|byte| *byte == b'\n') {
            let words = part.strip_suffix(b"\n");
            let kept = words.unwrap_or(part);
            line.extend_from_slice(&kept[..kept.len().min(LINE_MAX - line.len())]);
            if words.is_some() {
                tell(&mut line);
            }
        }
    }
    if !line.is_empty() {
        tell(&mut line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_heard_to_its_end_whatever_bytes_it_says_and_long_lines_are_cut() {
        let mut said = b"one\r\n\xff two\n\n".to_vec();
        said.extend(std::iter::repeat_n(b'x', 100_000));
        said.extend_from_slice(b"\nlast");
        let mut lines = Vec::new();
        each_line(said.as_slice(), |line| lines.push(line.to_owned())).await;
        let long = "x".repeat(LINE_MAX);
        assert_eq!(lines, ["one", "\u{fffd} two", "", &long, "last"]);
    }

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        assert_eq!(printable("Go\x1b]52;c;aGk=\x07 away\r\n\u{9b}31m\u{202e}!"), "Go]52;c;aGk= away31m!");
        assert_eq!(printable(&"x".repeat(5000)).len(), WORDS_MAX);
    }
}
