//! Finds the end of a head, and bare line feeds on the way.

use memchr::memchr;

use super::HeadFault;

/// How far a head was looked at; it goes on where it stopped when more bytes come.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Where the line begins that is being looked at.
    line: usize,
    /// Up to where there is no line feed in that line.
    seen: usize,
    /// Whether the request line has gone by; before it, empty lines are skipped.
    begun: bool,
}

/// What a scan found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The head is not complete.
    More,
    /// The head has this many bytes.
    Complete(usize),
}

impl HeadScan {
    /// Looks at a head from its first byte; `buffer` holds all of it that has come.
    pub(super) fn run(&mut self, buffer: &[u8], most: usize) -> Result<Scan, HeadFault> {
        let window = &buffer[..buffer.len().min(most)];
        loop {
            self.check_first_byte(window)?;
            let Some(found) = memchr(b'\n', &window[self.seen..]) else {
                self.seen = window.len();
                break;
            };
            let end = self.seen + found;
            if end == self.line || window[end - 1] != b'\r' {
                return Err(HeadFault::BareLf);
            }
            let empty = end - 1 == self.line;
            if empty && self.begun {
                return Ok(Scan::Complete(end + 1));
            }
            self.begun |= !empty;
            self.line = end + 1;
            self.seen = end + 1;
        }
        if window.len() == most {
            return Err(HeadFault::TooLarge);
        }
        Ok(Scan::More)
    }

    /// What starts like no request at all is refused without waiting for a line: TLS on a plain port, for one.
    fn check_first_byte(&self, window: &[u8]) -> Result<(), HeadFault> {
        if self.begun {
            return Ok(());
        }
        match window.get(self.line) {
            None => Ok(()),
            Some(b'\r' | b'\n') => Ok(()),
            Some(byte) if is_token(*byte) => Ok(()),
            Some(_) => Err(HeadFault::RequestLine),
        }
    }
}

/// Whether a byte may be in a method or a header name (RFC 9110, 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Result<Scan, HeadFault> {
        HeadScan::default().run(text.as_bytes(), 100)
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        assert_eq!(scan("GET / HTTP/1.1\r\n\r\nrest"), Ok(Scan::Complete(18)));
        assert_eq!(scan("GET / HTTP/1.1\r\nA: b\r\n"), Ok(Scan::More));
        assert_eq!(scan(""), Ok(Scan::More));
    }

    #[test]
    fn empty_lines_before_a_head_belong_to_it() {
        assert_eq!(scan("\r\n\r\nG\r\n\r\n"), Ok(Scan::Complete(9)));
        assert_eq!(scan("\r\n\r\n"), Ok(Scan::More));
    }

    #[test]
    fn a_bare_line_feed_is_refused_where_it_stands() {
        assert_eq!(scan("GET / HTTP/1.1\n"), Err(HeadFault::BareLf));
        assert_eq!(scan("\n"), Err(HeadFault::BareLf));
        assert_eq!(scan("G\r\n\n"), Err(HeadFault::BareLf));
    }

    #[test]
    fn what_is_no_request_is_refused_at_its_first_byte() {
        assert_eq!(scan("\x16\x03\x01"), Err(HeadFault::RequestLine));
        assert_eq!(scan("\r\n "), Err(HeadFault::RequestLine));
    }

    #[test]
    fn a_head_may_be_as_long_as_permitted_and_no_longer() {
        let mut exact = "G".repeat(96);
        exact.push_str("\r\n\r\n");
        assert_eq!(scan(&exact), Ok(Scan::Complete(100)));
        assert_eq!(scan(&format!("G{exact}")), Err(HeadFault::TooLarge));
        assert_eq!(scan(&"G".repeat(100)), Err(HeadFault::TooLarge));
        assert_eq!(scan(&"G".repeat(99)), Ok(Scan::More));
    }

    #[test]
    fn a_scan_goes_on_where_it_stopped() {
        let text = b"GET / HTTP/1.1\r\nA: b\r\n\r\n";
        let mut scan = HeadScan::default();
        for end in 1..text.len() {
            assert_eq!(scan.run(&text[..end], 100), Ok(Scan::More));
        }
        assert_eq!(scan.run(text, 100), Ok(Scan::Complete(text.len())));
    }
}
