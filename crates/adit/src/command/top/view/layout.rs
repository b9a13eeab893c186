//! Where columns stand. They keep their places while figures change: a width grows, and is given back only when
//! something else is shown.

use adit_core::printable;

use crate::command::top::rows::{By, Column, Row};

/// Columns that a narrow screen does without, in this order.
const LEAST: [&str; 16] = [
    "RETRANS", "PLACE", "RTT", "INCOMING", "STATE", "AGE", "FAILED", "RECEIVED", "SENT", "LOCAL", "WAY", "OPENED",
    "OPEN", "PID", "FORWARD", "COMMAND",
];
/// Between two columns.
const GAP: usize = 2;

/// What is kept from one drawing to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// Whether there were forwards: from then on they have their column.
    pub(super) forwards: bool,
    /// Whether ages have no column: of a table that is printed once, where nothing is known of any.
    pub(super) is_ageless: bool,
    /// Whether some age was known of what is shown.
    pub(super) ages: bool,
    /// How wide cells were, by column.
    pub(super) widths: Vec<usize>,
}

/// A table that is drawn.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) titles: String,
    pub(super) lines: Vec<String>,
    pub(super) widths: Vec<usize>,
    /// Columns for which there is no room.
    pub(super) hidden: Vec<&'static str>,
    /// Where the title of the column is that is sorted by, and its length.
    sorted: (usize, usize),
}

impl Drawn {
    /// The titles as a screen shows them: turned round, but for the one that is sorted by.
    pub(super) fn titles_marked(&self, width: usize) -> String {
        let (start, length) = self.sorted;
        let letters: Vec<char> = format!("{:<width$}", self.titles).chars().collect();
        let part = |from: usize, to: usize| letters[from.min(letters.len())..to.min(letters.len())].iter();
        let [before, sorted, after] = [(0, start), (start, start + length), (start + length, letters.len())]
            .map(|(from, to)| part(from, to.max(from)).collect::<String>());
        format!("\x1b[7m{before}\x1b[0;1m{sorted}\x1b[0;7m{after}\x1b[0m")
    }
}

impl Layout {
    /// Something else is shown.
    pub(super) fn forget(&mut self) {
        self.widths.clear();
        self.ages = false;
    }

    /// Draws titles and lines, no wider than there is room.
    pub(super) fn draw(&self, by: By, rows: &[&Row], sort: usize, width: usize) -> Drawn {
        let columns = by.columns();
        let cells: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| printable::part(&cell.text(), usize::MAX)).collect()).collect();
        let mut widths: Vec<usize> = columns.iter().map(|column| column.title.len()).collect();
        widths.iter_mut().zip(&self.widths).for_each(|(wide, before)| *wide = (*wide).max(*before));
        for row in &cells {
            widths.iter_mut().zip(row).for_each(|(wide, cell)| *wide = (*wide).max(cell.chars().count()));
        }
        let shown = self.choose(by, &widths, sort, width);
        // Nothing is hidden in a column of forwards while there are none.
        let is_hidden = |at: &usize| !shown.contains(at) && (self.forwards || columns[*at].title != "FORWARD");
        let hidden = (0..columns.len()).filter(is_hidden).map(|at| columns[at].title).collect();
        let places = spread(columns, &shown, &widths, width);
        let line = |text: &dyn Fn(usize) -> String| {
            let mut line = String::new();
            for (at, wide) in &places {
                let cell = printable::part(&text(*at), *wide);
                let cell = if is_number(columns[*at]) { format!("{cell:>wide$}") } else { format!("{cell:<wide$}") };
                line.push_str(&cell);
                line.push_str(&" ".repeat(GAP));
            }
            cut(line.trim_end(), width)
        };
        let titles = line(&|at| columns[at].title.to_owned());
        let lines = cells.iter().map(|row| line(&|at| row.get(at).cloned().unwrap_or_default())).collect();
        Drawn { titles, lines, sorted: sorted(columns, &places, sort), widths, hidden }
    }

    /// The columns for which there is room: those that say least go first, so that what a process is and which forward
    /// it uses stays longest. What is sorted by stays in any case.
    fn choose(&self, by: By, widths: &[usize], sort: usize, width: usize) -> Vec<usize> {
        let columns = by.columns();
        let mut shown: Vec<usize> = (0..columns.len()).collect();
        if self.is_ageless {
            shown.retain(|at| columns[*at].title != "AGE" || *at == sort);
        }
        let unused = [("FORWARD", self.forwards), ("AGE", self.ages)];
        let unused = unused.into_iter().filter_map(|(title, is_used)| (!is_used).then_some(title));
        // A line for a process says which.
        let least = LEAST.into_iter().filter(|title| by != By::Process || *title != "COMMAND");
        for title in unused.chain(least) {
            let wanted: usize = shown.iter().map(|at| tight(columns[*at], widths[*at]) + GAP).sum();
            if wanted <= width.saturating_add(GAP) {
                break;
            }
            shown.retain(|at| columns[*at].title != title || *at == sort);
        }
        shown
    }
}

/// How wide each column is: as its cells need it, then as it is at its best, as long as there is room.
fn spread(columns: &[Column], shown: &[usize], widths: &[usize], width: usize) -> Vec<(usize, usize)> {
    let mut places: Vec<(usize, usize)> = shown.iter().map(|at| (*at, tight(columns[*at], widths[*at]))).collect();
    let taken: usize = places.iter().map(|(_, wide)| wide + GAP).sum();
    let mut room = width.saturating_add(GAP).saturating_sub(taken);
    for (at, wide) in &mut places {
        let more = columns[*at].wide.max(widths[*at]).saturating_sub(*wide).min(room);
        *wide += more;
        room -= more;
    }
    places
}

/// The least room of a column: names that are long may be shortened.
fn tight(column: Column, seen: usize) -> usize {
    match column.title {
        "PLACE" => seen.min(12),
        "FORWARD" => seen.min(16),
        _ => seen,
    }
}

/// Where the title of a column begins, and its length.
fn sorted(columns: &[Column], places: &[(usize, usize)], sort: usize) -> (usize, usize) {
    let mut start = 0;
    for (at, wide) in places {
        let title = columns[*at].title.len();
        if *at == sort {
            return (if is_number(columns[*at]) { start + wide.saturating_sub(title) } else { start }, title);
        }
        start += wide + GAP;
    }
    (0, 0)
}

/// Numbers stand at the right of their column.
fn is_number(column: Column) -> bool {
    column.is_figure() || matches!(column.title, "PID" | "PORT")
}

/// The same with a mark where something is left out: a number is not to be read as a shorter one.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    format!("{}…", clip(text, width.saturating_sub(1)))
}

pub(super) fn clip(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// A text in lines no wider than there is room, broken between words; all but the first are set in.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    const INDENT: &str = "  ";
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        let have = line.chars().count();
        if have > INDENT.len() && have + 1 + word.chars().count() > width {
            lines.push(clip(&line, width));
            line = INDENT.to_owned();
        }
        if !line.trim().is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(clip(&line, width));
    lines
}

/// Texts in so many lines at most: the longest are cut, with a mark and with where the rest is to be had.
pub(super) fn shortened(texts: &[String], width: usize, most: usize) -> Vec<String> {
    const MORE: &str = "… (? shows all)";
    let mut all: Vec<Vec<String>> = texts.iter().map(|text| wrap(text, width)).collect();
    let count = |all: &[Vec<String>]| all.iter().map(Vec::len).sum::<usize>();
    while count(&all) > most {
        // Of those that are alike the last one: what is said first matters most.
        let Some(longest) = all.iter_mut().max_by_key(|lines| lines.len()) else { break };
        if longest.len() == 1 {
            all.pop();
            continue;
        }
        longest.pop();
        let Some(last) = longest.last_mut() else { break };
        let kept = clip(last, width.saturating_sub(MORE.chars().count())).trim_end().trim_end_matches('…').to_owned();
        *last = clip(&format!("{kept}{MORE}"), width);
    }
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::top::rows::Cell;

    #[test]
    fn a_text_is_broken_between_words_and_set_in() {
        assert_eq!(wrap("not seen: one thing; another", 14), ["not seen: one", "  thing;", "  another"]);
        assert_eq!(wrap("a-very-long-word b", 6), ["a-very", "  b"]);
        assert_eq!(wrap("", 10), [""]);
    }

    #[test]
    fn what_is_cut_off_a_line_leaves_a_mark() {
        assert_eq!(cut("10.0.0.1:8080", 13), "10.0.0.1:8080");
        assert_eq!(cut("10.0.0.1:8080", 11), "10.0.0.1:8…");
        let rows: Vec<Row> = vec![By::Remote.columns().iter().map(|_| Cell::Count(123_456_789)).collect()];
        let drawn = Layout::default().draw(By::Remote, &rows.iter().collect::<Vec<_>>(), 0, 20);
        assert!(drawn.lines[0].ends_with('…') && drawn.lines[0].chars().count() == 20, "{drawn:#?}");
    }

    #[test]
    fn notes_that_are_too_long_are_cut_with_a_mark_and_each_keeps_a_line() {
        let texts = ["short".to_owned(), "word ".repeat(40), "other ".repeat(12)];
        let lines = shortened(&texts, 40, 4);
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[0] == "short" && lines[1].starts_with("word") && lines[3].starts_with("other"), "{lines:#?}");
        assert!(lines.iter().filter(|line| line.ends_with("… (? shows all)")).count() >= 1, "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:#?}");
        assert_eq!(shortened(&texts[..1], 40, 4), ["short"]);
        assert_eq!(shortened(&texts, 40, 2).len(), 2);
    }
}
