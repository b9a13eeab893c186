//! The page of help: keys, what the columns mean, and how connections are seen.

use ::monitor::source::Way;

use super::layout::wrap;
use super::notes;
use crate::command::top::rows::By;

const KEYS: [(&str, &str); 9] = [
    ("1 2 3, Tab", "processes, connections, remotes"),
    ("< >, ← →", "the column to sort by: the greatest first, names from A; what is not known is last"),
    ("r", "the other way round"),
    (
        "/",
        "show only lines with a text in a column that is no figure: a name, an address, a port, a number of a process; Enter keeps it, and Esc takes it back then, too",
    ),
    ("p, Space", "pause: all of it stays as it is, in each view, order and filter, until you press it again"),
    ("↑ ↓ PgUp PgDn Home End", "move through the lines; also k j g G"),
    ("?", "this page"),
    ("Ctrl-Z", "suspend: the shell has the terminal until you type fg there"),
    ("q, Ctrl-C", "leave; the exit code is 0 with q and 130 with Ctrl-C"),
];

/// All lines of it.
pub(super) fn page(by: By, way: &Way, more: &[String], width: usize) -> Vec<String> {
    let mut lines = vec!["Keys".to_owned()];
    for (key, meaning) in KEYS {
        lines.extend(wrap(&format!("{key}: {meaning}"), width));
    }
    lines.push(String::new());
    lines.push(format!("Columns of {}", by.as_str()));
    for column in by.columns() {
        lines.extend(wrap(&format!("{}: {}", column.title, column.meaning), width));
    }
    lines.push("–: not known here".to_owned());
    lines.extend(wrap("K M G T: 1024 bytes (KiB), 1024 of those (MiB), and so on; rounded to the nearest", width));
    lines.push(String::new());
    lines.push("How it is seen".to_owned());
    for part in way.parts.iter().filter(|part| part.refused.is_none()) {
        lines.extend(wrap(&format!("{}: {}", part.purpose, part.way), width));
    }
    for note in notes(way, more) {
        lines.extend(wrap(&note, width));
    }
    lines
}
