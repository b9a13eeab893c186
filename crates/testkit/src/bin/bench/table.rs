//! Figures as a markdown table on stdout and as JSON; notes on stderr.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// Words.
    Text(String),
    /// A number and how many decimals are shown.
    Number(f64, usize),
    /// Nothing was measured.
    Empty,
}

/// The lines of a table: a peer's name and its figures.
pub(crate) type Lines = Vec<(String, Vec<Cell>)>;

/// One row of the table: a line for each peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// Its title.
    pub(crate) title: String,
    /// Column names, the peer's first.
    pub(crate) columns: Vec<String>,
    /// Its lines.
    pub(crate) lines: Lines,
}

impl Cell {
    /// Microseconds of a duration.
    pub(crate) fn micros(duration: std::time::Duration) -> Self {
        Self::Number(duration.as_secs_f64() * 1e6, 0)
    }

    /// A count.
    pub(crate) fn count(count: u64) -> Self {
        Self::Number(count as f64, 0)
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number, _) => Some(*number),
            _ => None,
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number, _) => json!(number),
            Self::Empty => Value::Null,
        }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number, decimals) => write!(f, "{number:.decimals$}"),
            Self::Empty => f.write_str("–"),
        }
    }
}

impl Table {
    /// Adds a column: another one divided by what it is for `direct`.
    pub(crate) fn add_ratio(&mut self, column: usize) {
        let base = self.lines.iter().find(|(peer, _)| peer == "direct");
        let Some(base) = base.and_then(|(_, cells)| cells.get(column)?.number()).filter(|base| *base != 0.0) else {
            return;
        };
        self.columns.push(format!("{} ÷ direct", self.columns[column + 1]));
        for (_, cells) in &mut self.lines {
            let ratio = cells.get(column).and_then(Cell::number).map(|number| number / base);
            cells.push(ratio.map_or(Cell::Empty, |ratio| Cell::Number(ratio, 2)));
        }
    }

    /// The table as markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n\n| {} |\n|---|", self.title, self.columns.join(" | "));
        text.push_str(&"---:|".repeat(self.columns.len() - 1));
        text.push('\n');
        for (peer, cells) in &self.lines {
            let cells: Vec<String> = cells.iter().map(Cell::to_string).collect();
            text.push_str(&format!("| {peer} | {} |\n", cells.join(" | ")));
        }
        text
    }

    /// The table as JSON: an object a peer, keyed by column.
    pub(crate) fn json(&self) -> Value {
        let lines = self.lines.iter().map(|(peer, cells)| {
            let figures = self.columns.iter().skip(1).cloned().zip(cells.iter().map(Cell::json));
            (peer.clone(), Value::Object(figures.collect()))
        });
        json!({ "title": self.title, "peers": Value::Object(lines.collect()) })
    }
}

/// Writes the tables, each under its row's name, where the command line asked for it.
pub(crate) fn save(file: Option<&Path>, tables: &[(&str, Table)]) -> Result<(), String> {
    let Some(file) = file else { return Ok(()) };
    let json: serde_json::Map<_, _> = tables.iter().map(|(name, table)| ((*name).to_owned(), table.json())).collect();
    let text = serde_json::to_string_pretty(&json).map_err(|error| error.to_string())?;
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Prints what was measured.
pub(crate) fn print(text: &str) {
    // A reader that has gone needs no more tables.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

/// Prints how the run goes.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::{Cell, Table};

    #[test]
    fn a_table_is_markdown_and_json_with_ratios() {
        let mut table = Table {
            title: "t".to_owned(),
            columns: vec!["peer".to_owned(), "req/s".to_owned()],
            lines: vec![
                ("direct".to_owned(), vec![Cell::Number(200.0, 0)]),
                ("adit".to_owned(), vec![Cell::Number(50.0, 0)]),
                ("broken".to_owned(), vec![Cell::Text("failed".to_owned())]),
            ],
        };
        table.add_ratio(0);
        assert!(table.markdown().contains("| adit | 50 | 0.25 |"), "{}", table.markdown());
        assert!(table.markdown().contains("| broken | failed | – |"));
        assert_eq!(table.json()["peers"]["adit"]["req/s ÷ direct"], 0.25);
    }
}
