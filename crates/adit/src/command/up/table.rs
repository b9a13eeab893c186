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
const TITLES: [&str; 6] = ["STATE", "STREAMS", "BYTES ↑ ↓", "NAME", "ENTRANCE", "TARGET"];
/// The first columns are short and always whole; the others share what is left, and these are the least they get.
const LEAST: [usize; 3] = [14, 14, 20];

/// What is said of a row begins below the number of its streams.
const NOTE_INDENT: usize = 9;

/// Draws it.
/// `height` lines at most; of what has no room the number is told, and what has failed comes first.
pub(super) fn table(snapshot: &Snapshot, width: usize, height: usize, now: SystemTime) -> String {
    let mut lines: Vec<Line> = snapshot.rows.iter().map(|row| of_row(row, now)).collect();
    lines.extend(snapshot.published.iter().map(of_tunnel));
    let mut text = String::new();
    if let Some(address) = snapshot.gateway.first() {
        let _ = write!(text, "gateway  http://localhost:{}", address.port());
        if let Some(suffix) = &snapshot.dynamic {
            let _ = write!(text, "   and *.cx.{suffix}:{}", address.port());
        }
        text.push('\n');
    }
    if lines.is_empty() {
        text.push_str("nothing else is configured\n");
        return text;
    }
    // The gateway's line, an empty one, the titles, and the number of those left out.
    let room = height.saturating_sub(4).max(1);
    let long = |lines: &[Line]| lines.iter().map(|line| line.height(width)).sum::<usize>();
    if long(&lines) > room {
        lines.sort_by_key(|line| line.note.is_empty());
    }
    let all = lines.len();
    while lines.len() > 1 && long(&lines) > room {
        lines.pop();
    }
    let left_out = all - lines.len();
    let cells: Vec<[&str; 6]> = std::iter::once(TITLES).chain(lines.iter().map(Line::cells)).collect();
    let widths = widths(&cells, width);
    text.push('\n');
    let notes = std::iter::once("").chain(lines.iter().map(|line| line.note.as_str()));
    for (row, note) in cells.iter().zip(notes) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{:<width$}  ", shortened(cell, *width));
        }
        put(&mut text, line.trim_end(), width);
        if !note.is_empty() {
            note_lines(note, width).iter().for_each(|line| put(&mut text, line, width));
        }
    }
    if left_out > 0 {
        let _ = writeln!(text, "and {left_out} more");
    }
    text
}

/// A line of its own, no wider than the terminal.
fn put(text: &mut String, line: &str, width: usize) {
    text.extend(line.chars().take(width.saturating_sub(1)));
    text.push('\n');
}

/// What is said of a row, below it.
fn note_lines(note: &str, width: usize) -> Vec<String> {
    if note.is_empty() { Vec::new() } else { wrapped(&format!("{:NOTE_INDENT$}{note}", ""), width, NOTE_INDENT) }
}

/// A text as lines no wider than the terminal, those after the first behind `indent`. Nothing of it is left out: a word
/// that is longer than a line goes on in the next.
pub(super) fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    // The last column stays free: some terminals break the line there.
    let width = width.saturating_sub(1).max(indent + 10);
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width {
        let begin = rest.iter().position(|c| *c != ' ').unwrap_or(0);
        let blank = (begin + 1..=width).rev().find(|at| rest[*at] == ' ').filter(|at| *at > indent);
        let end = blank.unwrap_or(width);
        lines.push(rest[..end].iter().collect::<String>().trim_end().to_owned());
        let next = rest[end..].iter().skip_while(|c| **c == ' ');
        rest = std::iter::repeat_n(' ', indent).chain(next.copied()).collect();
    }
    lines.push(rest.into_iter().collect());
    lines
}

/// How wide the columns are: as what is in them, as long as the terminal has room; then the widest give way first.
fn widths(cells: &[[&str; 6]], width: usize) -> [usize; 6] {
    let mut widths = [0; 6];
    for (column, wide) in widths.iter_mut().enumerate() {
        *wide = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    }
    let room = width.saturating_sub(1 + 2 * (widths.len() - 1));
    while widths.iter().sum::<usize>() > room {
        let (_, rest) = widths.split_at_mut(3);
        let gives = |(at, wide): &(usize, &mut usize)| **wide > LEAST[*at];
        let Some((_, widest)) = rest.iter_mut().enumerate().filter(gives).max_by_key(|(_, wide)| **wide) else { break };
        *widest -= 1;
    }
    widths
}

impl Line {
    fn height(&self, width: usize) -> usize {
        1 + note_lines(&self.note, width).len()
    }

    fn cells(&self) -> [&str; 6] {
        [&self.state, &self.streams, &self.bytes, &self.name, &self.entrance, &self.target]
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
        // The name says it already, and the port stands above.
        entrance: if matches!(row.kind, "route" | "host") { "gateway".into() } else { row.entrance.clone() },
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
        note: if online { row.trouble.clone() } else { row.note.clone() },
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
    fn the_table_fits_the_terminal_and_the_widest_columns_give_way() {
        let cells =
            [["ready", "0", "0B 0B", "a-name", "127.0.0.1:5432", "k8s://a/very/long/target/of/some/cluster:80"]];
        assert_eq!(widths(&cells, 200), [5, 1, 5, 6, 14, 43]);
        let narrow = widths(&cells, 70);
        assert_eq!(narrow[..5], [5, 1, 5, 6, 14]);
        assert_eq!(narrow.iter().sum::<usize>() + 10, 69);
        assert_eq!(widths(&cells, 20)[5], 20, "what is least stays");
    }

    #[test]
    fn what_is_said_is_told_in_full_over_as_many_lines_as_it_takes() {
        let text = "12:00:00  web: the cluster cannot be reached: connection refused";
        let lines = wrapped(text, 30, 10);
        assert_eq!(
            lines,
            ["12:00:00  web: the cluster", "          cannot be reached:", "          connection refused"]
        );
        let long = format!("12:00:00  {}", "x".repeat(45));
        let lines = wrapped(&long, 30, 10);
        assert!(lines.iter().all(|line| line.chars().count() < 30), "{lines:?}");
        assert_eq!(lines.concat().matches('x').count(), 45);
        for width in [0, 1, 11, 80] {
            let all = wrapped(&long, width, 10).concat();
            assert_eq!(all.matches('x').count(), 45, "{width}");
        }
        assert_eq!(wrapped("", 80, 10), [""]);
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shortened("k8s://prod/shop/service/web:80", 11), "k8s:/…eb:80");
        assert_eq!(shortened("short", 11), "short");
    }
}
