//! The framing of chunked bodies, byte by byte except for the data.
//!
//! Stricter than RFC 9112 asks: a size is digits only, a line ends in CR LF, and extensions and trailers are bounded.

use super::scan::is_token;

/// Bytes of extensions in one size line. Nobody uses them but attackers.
const EXTENSION_MAX: u32 = 256;

/// Bytes of all trailers.
const TRAILERS_MAX: u32 = 8 * 1024;

/// Digits of a size; more would not fit 64 bits.
const DIGITS_MAX: u32 = 16;

/// Where in a chunked body the next byte belongs.
#[derive(Debug)]
pub(super) struct ChunkReader {
    at: At,
    /// Size of the present chunk, then what is left of it.
    left: u64,
    /// Bytes counted against the bound of the present place.
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// What became of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// This many of them are good.
    pub(super) passed: usize,
    /// The body is complete.
    pub(super) done: bool,
    /// The byte after the good ones is at fault.
    pub(super) fault: bool,
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self { at: At::Size, left: 0, count: 0 }
    }
}

impl ChunkReader {
    /// Follows bytes until they end, the body ends, or a fault.
    pub(super) fn run(&mut self, bytes: &[u8]) -> Run {
        let mut passed = 0;
        while passed < bytes.len() && self.at != At::Done {
            if self.at == At::Data {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let used = left.min(bytes.len() - passed);
                self.skip_data(used as u64);
                passed += used;
                continue;
            }
            if self.step(bytes[passed]).is_none() {
                return Run { passed, done: false, fault: true };
            }
            passed += 1;
        }
        Run { passed, done: self.at == At::Done, fault: false }
    }

    /// Counts data bytes.
    fn skip_data(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        if self.at == At::Data && self.left == 0 {
            self.at = At::DataCr;
        }
    }

    /// One byte of framing; `None` is a fault.
    fn step(&mut self, byte: u8) -> Option<()> {
        self.at = match (self.at, byte) {
            (At::Size, b'\r') if self.count > 0 => At::SizeLf,
            (At::Size, b';') if self.count > 0 => {
                self.count = 0;
                At::Extension
            }
            (At::Size, digit) => {
                let value = char::from(digit).to_digit(16)?;
                self.count += 1;
                if self.count > DIGITS_MAX {
                    return None;
                }
                self.left = self.left << 4 | u64::from(value);
                At::Size
            }
            (At::Extension, b'\r') => At::SizeLf,
            (At::Extension, byte) => self.counted(byte, EXTENSION_MAX, At::Extension)?,
            (At::SizeLf, b'\n') => {
                self.count = 0;
                if self.left == 0 { At::Trailer } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::Trailer, b'\r') => At::EndLf,
            (At::Trailer | At::TrailerName, byte) if is_token(byte) => {
                self.counted(byte, TRAILERS_MAX, At::TrailerName)?
            }
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, byte) => self.counted(byte, TRAILERS_MAX, At::TrailerValue)?,
            (At::TrailerLf, b'\n') => At::Trailer,
            (At::EndLf, b'\n') => At::Done,
            _ => return None,
        };
        Some(())
    }

    /// A byte of free text: visible, a space or a tab, within its bound.
    fn counted(&mut self, byte: u8, most: u32, next: At) -> Option<At> {
        self.count += 1;
        let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        (text && self.count <= most).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(body: &str) -> Run {
        ChunkReader::default().run(body.as_bytes())
    }

    fn good(body: &str) {
        let expected = Run { passed: body.len(), done: true, fault: false };
        assert_eq!(run(body), expected, "{body:?}");
        assert_eq!(run(&format!("{body}GET")), expected, "{body:?} and more");
    }

    fn bad(body: &str, at: usize) {
        let found = run(body);
        assert!(found.fault, "{body:?}");
        assert_eq!(found.passed, at, "{body:?}");
    }

    #[test]
    fn chunks_extensions_and_trailers_are_followed_to_their_end() {
        good("0\r\n\r\n");
        good("5\r\nhello\r\n0\r\n\r\n");
        good("A\r\n0123456789\r\n00a\r\n0123456789\r\n000\r\n\r\n");
        good("5;name=\"value\"\r\nhello\r\n0\r\n\r\n");
        good("0\r\nX-Sum: 1\r\nY:\r\n\r\n");
        good("2\r\n\r\n\r\n0\r\n\r\n");
    }

    #[test]
    fn a_size_is_digits_only_and_ends_in_cr_lf() {
        bad("\r\n", 0);
        bad(" 5\r\n", 0);
        bad("5 \r\n", 1);
        bad("0x5\r\n", 1);
        bad("-1\r\n", 0);
        bad("+1\r\n", 0);
        bad("5\n", 1);
        bad("5\r5", 2);
        bad(";x\r\n", 0);
        bad("10000000000000000\r\n", 16);
        bad("00000000000000005\r\n", 16);
    }

    #[test]
    fn data_is_as_long_as_announced() {
        bad("5\r\nhello!\r\n", 8);
        bad("5\r\nhell\r\n0\r\n", 8);
        bad("1\r\na\n", 4);
    }

    #[test]
    fn extensions_and_trailers_are_bounded_and_plain() {
        bad(&format!("1;{}\r\n", "x".repeat(300)), 2 + 256);
        bad(&format!("0\r\nA: {}\r\n\r\n", "x".repeat(9000)), 3 + 2 + 8191);
        bad("1;x\ny\r\n", 3);
        bad("1;\0", 2);
        bad("0\r\n A: b\r\n", 3);
        bad("0\r\nA : b\r\n", 4);
        bad("0\r\n: b\r\n", 3);
        bad("0\r\nA\r\n", 4);
        bad("0\r\nA: b\n", 7);
        bad("0\r\n\rX", 4);
    }
}
