//! Keys from what a terminal sends: letters, and the sequences of those that are none. Pure: bytes in, keys out.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Letter(char),
    Enter,
    Escape,
    Backspace,
    /// Takes a whole line away: Ctrl-U.
    Clear,
    Tab,
    BackTab,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    /// Draws everything anew: Ctrl-L.
    Redraw,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-C, or the end of the terminal.
    Interrupt,
}

/// A sequence that is longer is none.
const LONGEST: usize = 16;

/// Bytes that are no whole key yet.
#[derive(Debug, Default)]
pub(super) struct Keys {
    rest: Vec<u8>,
}

impl Keys {
    /// Takes what was read; with nothing read for a moment, an escape that nothing followed is the key itself.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Key> {
        if bytes.is_empty() {
            let is_escape = self.rest == [ESCAPE];
            self.rest.clear();
            return if is_escape { vec![Key::Escape] } else { Vec::new() };
        }
        self.rest.extend_from_slice(bytes);
        let (mut keys, mut left) = (Vec::new(), self.rest.as_slice());
        while !left.is_empty() {
            let Some((length, key)) = first(left) else { break };
            keys.extend(key);
            left = &left[length..];
        }
        // What does not end is no sequence.
        let kept = if left.len() > LONGEST { Vec::new() } else { left.to_vec() };
        self.rest = kept;
        keys
    }
}

const ESCAPE: u8 = 27;

/// The first key and its length; `None` while it is not whole.
fn first(bytes: &[u8]) -> Option<(usize, Option<Key>)> {
    let one = |key| Some((1, Some(key)));
    match *bytes.first()? {
        3 | 4 => one(Key::Interrupt),
        8 | 127 => one(Key::Backspace),
        b'\t' => one(Key::Tab),
        b'\r' | b'\n' => one(Key::Enter),
        12 => one(Key::Redraw),
        21 => one(Key::Clear),
        26 => one(Key::Suspend),
        ESCAPE => sequence(bytes),
        first @ (b' '..=b'~') => one(Key::Letter(char::from(first))),
        first if first >= 0x80 => letter(bytes),
        _ => Some((1, None)),
    }
}

/// A letter of several bytes.
fn letter(bytes: &[u8]) -> Option<(usize, Option<Key>)> {
    let length = match bytes.first()? {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Some((1, None)),
    };
    let whole = bytes.get(..length)?;
    let letter = std::str::from_utf8(whole).ok().and_then(|text| text.chars().next());
    Some(letter.map_or((1, None), |letter| (length, Some(Key::Letter(letter)))))
}

/// What begins with an escape: `ESC [ A`, `ESC O A`, `ESC [ 5 ~`. With parameters (Shift, Ctrl) it is the same key.
fn sequence(bytes: &[u8]) -> Option<(usize, Option<Key>)> {
    match *bytes.get(1)? {
        b'O' => Some((3, named(*bytes.get(2)?))),
        b'[' => {
            let end = bytes.iter().skip(2).position(|byte| (b'@'..=b'~').contains(byte))? + 2;
            let number = bytes[2..end].split(|byte| *byte == b';').next().unwrap_or_default();
            let key = match (bytes[end], number) {
                (b'~', b"1" | b"7") => Some(Key::Home),
                (b'~', b"4" | b"8") => Some(Key::End),
                (b'~', b"5") => Some(Key::PageUp),
                (b'~', b"6") => Some(Key::PageDown),
                (last, _) => named(last),
            };
            Some((end + 1, key))
        }
        ESCAPE => Some((1, Some(Key::Escape))),
        // With Alt held down: not a command here, so it does nothing.
        _ => Some((2, None)),
    }
}

const fn named(last: u8) -> Option<Key> {
    Some(match last {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'F' => Key::End,
        b'H' => Key::Home,
        b'Z' => Key::BackTab,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_sequences_are_keys() {
        let keys = |bytes: &[u8]| Keys::default().read(bytes);
        assert_eq!(keys(b"a/\r"), [Key::Letter('a'), Key::Letter('/'), Key::Enter]);
        assert_eq!(keys("ü→".as_bytes()), [Key::Letter('ü'), Key::Letter('→')]);
        assert_eq!(keys(b"\x1b[A\x1bOB\x1b[5~\x1b[6;5~"), [Key::Up, Key::Down, Key::PageUp, Key::PageDown]);
        assert_eq!(keys(b"\x1b[H\x1b[4~\x1b[1~\x1bOF"), [Key::Home, Key::End, Key::Home, Key::End]);
        assert_eq!(keys(b"\x03\x7f\x15\t\x1b[Z"), [Key::Interrupt, Key::Backspace, Key::Clear, Key::Tab, Key::BackTab]);
        assert_eq!(keys(b"\x1a\x0c"), [Key::Suspend, Key::Redraw]);
        // A function key, Alt with a letter, and bytes that are nothing.
        assert_eq!(keys(b"\x1b[15~\x1bq\x01\xff"), []);
    }

    #[test]
    fn a_sequence_may_come_in_parts_and_an_escape_alone_is_a_key_once_nothing_follows() {
        let mut keys = Keys::default();
        assert_eq!((keys.read(b"\x1b"), keys.read(b"[")), (vec![], vec![]));
        assert_eq!(keys.read(b"Bx"), [Key::Down, Key::Letter('x')]);
        assert_eq!((keys.read(b"\x1b"), keys.read(b"")), (vec![], vec![Key::Escape]));
        assert_eq!((keys.read(&[0xc3]), keys.read(&[0xbc])), (vec![], vec![Key::Letter('ü')]));
        assert_eq!(keys.read(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
        assert_eq!((keys.read(b"\x1b[11111111111111111111"), keys.read(b"q")), (vec![], vec![Key::Letter('q')]));
    }
}
