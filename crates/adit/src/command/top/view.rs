//! The live view: what is chosen, and its lines. Pure: keys and looks come in, lines go out.

use std::cmp::Ordering;

use ::monitor::source::{Counts, Way};
use ::monitor::table::Table;
use adit_core::printable;

use super::rows::{self, By, Row};
use super::uses::Uses;

/// Columns that a narrow screen does without, in this order.
const LEAST: [&str; 9] = ["RETRANS", "PLACE", "RTT", "INCOMING", "STATE", "AGE", "FAILED", "RECEIVED", "SENT"];

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Stay,
    Leave,
}

/// What is shown and how.
pub(super) struct View {
    by: By,
    /// The column that is sorted by, of each kind.
    sort: [usize; 3],
    reverse: bool,
    filter: String,
    /// While the filter is typed.
    typing: bool,
    paused: bool,
    rows: Vec<Row>,
    open: usize,
}

impl View {
    pub(super) fn new(by: By, filter: &str) -> Self {
        // By rate at first: what is busy is on top.
        let sort = By::ALL.map(|by| by.columns().iter().position(|title| *title == "RATE").unwrap_or_default());
        let filter = filter.to_owned();
        Self { by, sort, reverse: false, filter, typing: false, paused: false, rows: Vec::new(), open: 0 }
    }

    /// Sorts by a column of what is shown. The error has the names of all.
    pub(super) fn sort_by(&mut self, column: &str) -> Result<(), String> {
        let columns = self.by.columns();
        let found = columns.iter().position(|title| title.eq_ignore_ascii_case(column));
        let at = found.ok_or_else(|| columns.join(", ").to_lowercase())?;
        self.sort[self.by as usize] = at;
        Ok(())
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// Whether a line has the text that is asked for.
    pub(super) fn fits(&self, row: &Row) -> bool {
        let filter = self.filter.to_lowercase();
        filter.is_empty() || row.iter().any(|cell| cell.text.to_lowercase().contains(&filter))
    }

    /// The order of two lines of a kind.
    pub(super) fn compare(&self, by: By, a: &Row, b: &Row) -> Ordering {
        let order = compare(a, b, self.sort[by as usize]);
        if self.reverse { order.reverse() } else { order }
    }

    /// Whether there is nothing to be seen yet, as after a change to another kind.
    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Takes a new look.
    pub(super) fn look(&mut self, table: &Table, uses: &Uses) {
        self.rows = rows::rows(self.by, table, uses);
        self.open = table.connections().len();
    }

    /// Does what a key says.
    pub(super) fn handle_key(&mut self, key: u8) -> After {
        const CONTROL_C: u8 = 3;
        const ESCAPE: u8 = 27;
        const BACKSPACE: [u8; 2] = [8, 127];
        if key == CONTROL_C {
            return After::Leave;
        }
        if self.typing {
            match key {
                b'\r' | b'\n' => self.typing = false,
                ESCAPE => {
                    self.typing = false;
                    self.filter.clear();
                }
                key if BACKSPACE.contains(&key) => {
                    self.filter.pop();
                }
                b' '..=b'~' => self.filter.push(char::from(key)),
                _ => {}
            }
            return After::Stay;
        }
        let columns = self.by.columns().len();
        let sort = &mut self.sort[self.by as usize];
        match key {
            b'q' => return After::Leave,
            b'1'..=b'3' => self.show(By::ALL[usize::from(key - b'1')]),
            b'\t' => self.show(By::ALL[(self.by as usize + 1) % By::ALL.len()]),
            b'<' | b',' => *sort = (*sort + columns - 1) % columns,
            b'>' | b'.' => *sort = (*sort + 1) % columns,
            b'r' => self.reverse = !self.reverse,
            b'/' => {
                self.typing = true;
                self.filter.clear();
            }
            b'p' | b' ' => self.paused = !self.paused,
            _ => {}
        }
        After::Stay
    }

    fn show(&mut self, by: By) {
        if self.by != by {
            self.by = by;
            // Those of another kind; the next look brings the right ones.
            self.rows.clear();
            self.paused = false;
        }
    }

    /// The whole screen.
    pub(super) fn draw(&self, way: &Way, counts: &Counts, width: usize, height: usize) -> Vec<String> {
        let mut lines = vec![clip(&self.head(way, counts), width)];
        if let Some(reason) = &way.reason {
            lines.push(clip(&format!("polled only: {}", reason.message), width));
            lines.push(clip(&format!("hint: {}", reason.hint), width));
        }
        if !way.missing.is_empty() {
            lines.push(clip(&format!("not seen: {}", way.missing.join("; ")), width));
        }
        lines.push(String::new());
        let room = height.saturating_sub(lines.len() + 3);
        let mut table = self.table(width, room);
        if let Some(titles) = table.first_mut() {
            *titles = format!("\x1b[7m{titles:<width$}\x1b[0m");
        }
        lines.append(&mut table);
        lines.resize(height.saturating_sub(1).max(lines.len()), String::new());
        lines.push(clip(&self.foot(), width));
        lines
    }

    fn head(&self, way: &Way, counts: &Counts) -> String {
        let mut text = format!(
            "adit top  {}  {} open, {} opened, {} incoming, {} failed",
            way.source, self.open, counts.opened, counts.incoming, counts.failed
        );
        let lost = counts.events_lost + counts.map_full;
        if lost > 0 {
            text.push_str(&format!(", {lost} not seen for want of room"));
        }
        if self.paused {
            text.push_str("  PAUSED");
        }
        text
    }

    fn foot(&self) -> String {
        if self.typing {
            return format!("filter: {}_   Enter keeps it, Esc takes it away", self.filter);
        }
        let filter = if self.filter.is_empty() { String::new() } else { format!("filter: {}  ", self.filter) };
        format!("{filter}1 process  2 connection  3 remote  < > sort  r turn  / filter  p pause  q quit")
    }

    /// Titles and lines, no wider and no more than there is room for.
    pub(super) fn table(&self, width: usize, lines: usize) -> Vec<String> {
        let (columns, sort) = (self.by.columns(), self.sort[self.by as usize]);
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| self.fits(row)).collect();
        rows.sort_by(|a, b| self.compare(self.by, a, b));
        let all = rows.len();
        let shown = if all > lines { lines.saturating_sub(1) } else { all };
        rows.truncate(shown);
        let mut widths: Vec<usize> = columns.iter().map(|title| title.len() + 1).collect();
        for row in &rows {
            for (wide, cell) in widths.iter_mut().zip(*row) {
                *wide = (*wide).max(cell.text.chars().count());
            }
        }
        let shown_columns = choose(columns, &widths, sort, &rows, width);
        let mut drawn = Vec::with_capacity(rows.len() + 2);
        let titles = shown_columns.iter().map(|at| {
            let mark = if *at == sort { if self.reverse { "^" } else { "v" } } else { "" };
            (format!("{}{mark}", columns[*at]), *at)
        });
        drawn.push(self.line(titles, &widths, width));
        for row in rows {
            let cells = shown_columns.iter().filter_map(|at| Some((row.get(*at)?.text.clone(), *at)));
            drawn.push(self.line(cells, &widths, width));
        }
        if all > shown {
            drawn.push(clip(&format!("and {} more", all - shown), width));
        }
        if all == 0 {
            let none = if self.filter.is_empty() { "nothing yet" } else { "nothing fits the filter" };
            drawn.push(clip(&format!("{none}: {}", self.by.as_str()), width));
        }
        drawn
    }

    /// One line. Names come from strangers, so whatever a terminal would obey is replaced here, too.
    fn line(&self, cells: impl Iterator<Item = (String, usize)>, widths: &[usize], width: usize) -> String {
        let mut text = String::new();
        for (cell, at) in cells {
            let (cell, wide) = (printable::part(&cell, usize::MAX), widths.get(at).copied().unwrap_or_default());
            if is_number(self.by, at) {
                text.push_str(&format!("{cell:>wide$}  "));
            } else {
                text.push_str(&format!("{cell:<wide$}  "));
            }
        }
        clip(text.trim_end(), width)
    }
}

/// The columns for which there is room: those that say least go first, so that what a process is and which forward it
/// uses stays. What is sorted by stays as well.
fn choose(columns: &[&str], widths: &[usize], sort: usize, rows: &[&Row], width: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let is_empty = |at: usize| rows.iter().all(|row| row.get(at).is_none_or(|cell| cell.text.is_empty()));
    let empty = ["FORWARD", "PLACE"]
        .into_iter()
        .filter(|title| columns.iter().position(|have| have == title).is_some_and(is_empty));
    for title in empty.chain(LEAST) {
        let wanted = shown.iter().map(|at| widths[*at] + 2).sum::<usize>().saturating_sub(2);
        if wanted <= width {
            break;
        }
        shown.retain(|at| columns[*at] != title || *at == sort);
    }
    shown
}

/// The greatest number first, texts from A; then by what else tells them apart.
fn compare(a: &Row, b: &Row, column: usize) -> Ordering {
    let by = |at: usize| match (a.get(at), b.get(at)) {
        (Some(a), Some(b)) => match (a.number, b.number) {
            (Some(a), Some(b)) => b.cmp(&a),
            _ => a.text.cmp(&b.text),
        },
        _ => Ordering::Equal,
    };
    (0..a.len()).map(by).fold(by(column), Ordering::then)
}

/// Numbers stand at the right of their column.
fn is_number(by: By, column: usize) -> bool {
    !matches!(by.columns().get(column), Some(&("COMMAND" | "LOCAL" | "REMOTE" | "WAY" | "STATE" | "FORWARD" | "PLACE")))
}

fn clip(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

#[cfg(test)]
mod tests;
