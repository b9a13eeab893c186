//! The live table: everything that is open, as wide as the terminal allows.

use std::fmt::Write as _;
use std::time::SystemTime;

use gateway::http::State;
use gateway::rows::Row;

use super::publish::TunnelRow;
use super::running::Snapshot;

/// What one line says, before it is made to fit.
struct Line {
    name: String,
    entrance: String,
    target: String,
    state: String,
    streams: String,
    bytes: String,
    note: String,
}

/// The titles of the columns.
const TITLES: [&str; 6] = ["NAME", "ENTRANCE", "TARGET", "STATE", "STREAMS", "BYTES ↑ ↓"];
/// No column but the last is wider, so that one long name does not push the others off the screen.
const WIDEST: usize = 44;
/// Rows at most: the rest is a number.
const ROWS: usize = 40;

/// Draws it.
pub(super) fn table(snapshot: &Snapshot, width: usize, now: SystemTime) -> String {
    let mut lines: Vec<Line> = snapshot.rows.iter().map(|row| of_row(row, now)).collect();
    lines.extend(snapshot.published.iter().map(of_tunnel));
    let mut text = String::new();
    for address in &snapshot.gateway {
        let _ = write!(text, "gateway  http://localhost:{}", address.port());
        if let Some(suffix) = &snapshot.dynamic {
            let _ = write!(text, "   and *.cx.{suffix}:{}", address.port());
        }
        text.push('\n');
        break;
    }
    if lines.is_empty() {
        text.push_str("nothing else is configured\n");
        return text;
    }
    let left_out = lines.len().saturating_sub(ROWS);
    lines.truncate(ROWS);
    let cells: Vec<[&str; 6]> = std::iter::once(TITLES).chain(lines.iter().map(Line::cells)).collect();
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(WIDEST))
        .collect();
    text.push('\n');
    let notes = std::iter::once("").chain(lines.iter().map(|line| line.note.as_str()));
    for (row, note) in cells.iter().zip(notes) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{:<width$}  ", shortened(cell, *width));
        }
        line.push_str(note);
        let line: String = line.trim_end().chars().take(width.saturating_sub(1)).collect();
        text.push_str(&line);
        text.push('\n');
    }
    if left_out > 0 {
        let _ = writeln!(text, "and {left_out} more");
    }
    text
}

impl Line {
    fn cells(&self) -> [&str; 6] {
        [&self.name, &self.entrance, &self.target, &self.state, &self.streams, &self.bytes]
    }
}

fn of_row(row: &Row, now: SystemTime) -> Line {
    let target = row.pod.as_ref().map_or_else(|| row.target.clone(), |pod| format!("{} ({pod})", row.target));
    let reason = row.reason.clone().filter(|_| row.state != State::Ready);
    let last = row.last_error.as_ref().map(|(at, text)| {
        let ago = now.duration_since(*at).unwrap_or_default().as_secs();
        format!("{text} ({ago} s ago)")
    });
    Line {
        name: row.name.clone(),
        entrance: row.entrance.clone(),
        target,
        state: row.state.as_str().to_owned(),
        streams: row.streams.to_string(),
        bytes: format!("{} {}", bytes(row.bytes_in), bytes(row.bytes_out)),
        note: reason.or(last).unwrap_or_default(),
    }
}

fn of_tunnel(row: &TunnelRow) -> Line {
    let online = row.note.is_empty();
    Line {
        name: row.name.clone(),
        entrance: row.url.clone(),
        target: row.target.clone(),
        state: if online { "online".into() } else { "offline".into() },
        streams: row.requests.to_string(),
        bytes: format!("{} {}", bytes(row.bytes_in), bytes(row.bytes_out)),
        note: row.note.clone(),
    }
}

/// The middle is left out of what is too long: begin and end tell names apart.
fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width || width < 3 {
        return text.chars().take(width).collect();
    }
    let (head, tail) = ((width - 1) / 2, width - 1 - (width - 1) / 2);
    text.chars().take(head).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

/// A number of bytes as a person reads it, in powers of 1024.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let mut unit = 0;
    let mut whole = count;
    let mut rest = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    match (unit, whole) {
        (0, _) => format!("{whole}{}", UNITS[0]),
        (_, 0..10) => format!("{whole}.{rest}{}", UNITS[unit]),
        _ => format!("{whole}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        for (count, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5K"), (10 << 20, "10M"), (5 << 30, "5.0G")] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16777215T");
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shortened("k8s://prod/shop/service/web:80", 11), "k8s:/…eb:80");
        assert_eq!(shortened("short", 11), "short");
    }
}
