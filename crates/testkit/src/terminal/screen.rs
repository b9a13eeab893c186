//! What a terminal makes of what is written to it: as much of it as programs of ours use.

/// Characters in rows.
#[derive(Clone, Debug)]
pub struct Screen {
    columns: usize,
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// How often a line was broken because it was wider than the terminal.
    pub broken: usize,
    /// Whether the cursor is hidden.
    pub cursor_hidden: bool,
    /// Whether the screen is another one than that of the shell.
    pub alternate: bool,
    /// Whether a line that is too wide ends at the edge.
    pub keeps_lines: bool,
    /// Sequences that are not understood here.
    pub unknown: Vec<String>,
    /// Of a character or a sequence that has not come whole.
    rest: Vec<u8>,
}

impl Screen {
    /// An empty one.
    pub fn new(columns: usize, rows: usize) -> Self {
        Self {
            columns,
            rows: vec![Vec::new(); rows],
            row: 0,
            column: 0,
            broken: 0,
            cursor_hidden: false,
            alternate: false,
            keeps_lines: false,
            unknown: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Its lines, without blanks at their ends.
    pub fn lines(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The column the cursor is in; the first is 0.
    pub const fn column(&self) -> usize {
        self.column
    }

    /// Something is written.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let whole = match std::str::from_utf8(&rest) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default(),
        };
        let mut left = whole;
        while let Some(first) = left.chars().next() {
            let Some(length) = (if first == '\x1b' { self.sequence(left) } else { self.put(first) }) else { break };
            left = &left[length..];
        }
        self.rest = rest[whole.len() - left.len()..].to_vec();
    }

    /// One character; its length.
    fn put(&mut self, c: char) -> Option<usize> {
        match c {
            '\r' => self.column = 0,
            '\n' => self.down(),
            '\x08' => self.column = self.column.saturating_sub(1),
            c if c.is_control() => self.unknown.push(format!("{c:?}")),
            c => {
                if self.column >= self.columns {
                    self.broken += 1;
                    if self.keeps_lines {
                        self.column = self.columns - 1;
                    } else {
                        self.column = 0;
                        self.down();
                    }
                }
                let row = &mut self.rows[self.row];
                row.resize(row.len().max(self.column + 1), ' ');
                row[self.column] = c;
                self.column += 1;
            }
        }
        Some(c.len_utf8())
    }

    fn down(&mut self) {
        if self.row + 1 < self.rows.len() {
            self.row += 1;
        } else {
            self.rows.remove(0);
            self.rows.push(Vec::new());
        }
    }

    /// A sequence that begins with escape; its length, once it is whole.
    fn sequence(&mut self, text: &str) -> Option<usize> {
        let mut chars = text.char_indices().skip(1);
        let (_, kind) = chars.next()?;
        if kind != '[' {
            self.unknown.push(format!("escape {kind:?}"));
            return Some(1 + kind.len_utf8());
        }
        let (end, last) = chars.find(|(_, c)| ('@'..='~').contains(c))?;
        let parameters = &text[2..end];
        let count = parameters.parse::<usize>().unwrap_or(1);
        match (last, parameters) {
            ('A', _) => self.row = self.row.saturating_sub(count),
            ('K', "" | "0") => self.rows[self.row].truncate(self.column),
            ('J', "" | "0") => {
                self.rows[self.row].truncate(self.column);
                self.rows[self.row + 1..].iter_mut().for_each(Vec::clear);
            }
            ('J', "2") => self.rows.iter_mut().for_each(Vec::clear),
            ('H', "") => (self.row, self.column) = (0, 0),
            ('m', _) => {}
            ('h' | 'l', "?25") => self.cursor_hidden = last == 'l',
            ('h' | 'l', "?1049") => self.alternate = last == 'h',
            ('h' | 'l', "?7") => self.keeps_lines = last == 'l',
            _ => self.unknown.push(text[..=end].to_owned()),
        }
        Some(end + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_drawn_over_and_what_is_too_wide_is_broken() {
        let mut screen = Screen::new(5, 3);
        for byte in "one\r\ntwö\r\n\x1b[2A\x1b[JABCDE\r\n".bytes() {
            screen.write(&[byte]);
        }
        assert_eq!(screen.lines(), ["ABCDE", "", ""]);
        assert_eq!((screen.broken, screen.column()), (0, 0));
        screen.write(b"\x1b[Hx\x1b[K");
        assert_eq!(screen.lines(), ["x", "", ""]);
        screen.write(b"\x1b[2J\x1b[H");
        screen.write(b"\r\n\r\n123456\r\n7\r\n\x1b[7q");
        assert_eq!(screen.lines(), ["6", "7", ""]);
        assert_eq!((screen.broken, screen.unknown.as_slice()), (1, &["\x1b[7q".to_owned()][..]));
    }
}
