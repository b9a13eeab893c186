//! The live table: everything that is open, no wider and no longer than the terminal.

pub(super) mod shorten;

use std::fmt::Write as _;
use std::time::SystemTime;

use gateway::http::State;
use gateway::rows::Row;

use self::shorten::shortened;
use super::publish::TunnelRow;
use super::running::Snapshot;

/// What is said of one entrance, before it is made to fit.
struct Line {
    name: String,
    entrance: String,
    target: String,
    state: &'static str,
    streams: String,
    bytes: String,
    note: String,
}

/// The titles of the columns.
const TITLES: [&str; COLUMNS] = ["STATE", "STREAMS", "BYTES ↑ ↓", "NAME", "ENTRANCE", "TARGET"];
const COLUMNS: usize = 6;
/// The first columns are short and always whole.
const WHOLE: usize = 3;
/// The others share what is left: as long as there is so much for each the widest gives way; then, so much.
const LEAST: [[usize; COLUMNS - WHOLE]; 2] = [[14, 22, 12], [4, 4, 4]];
/// Before a target that has a line of its own.
const ARROW: &str = "    → ";
/// What is said of a row begins below the number of its streams.
const NOTE_INDENT: usize = 9;

/// Draws it: `height` lines at most; of what has no room the number is told. What has failed stays
/// longest, then what is in use, then what was lately.
pub(super) fn table(snapshot: &Snapshot, width: usize, height: usize, now: SystemTime) -> String {
    let mut lines: Vec<Line> = snapshot.rows.iter().map(|row| Line::of_row(row, now)).collect();
    lines.extend(snapshot.published.iter().map(Line::of_tunnel));
    let mut text = String::new();
    for line in head(snapshot, width) {
        put(&mut text, &line, width);
    }
    if lines.is_empty() {
        put(&mut text, "nothing else is configured", width);
        return text;
    }
    text.push('\n');
    // The titles are one more line.
    let room = height.saturating_sub(text.lines().count() + 1).max(1);
    let form = Form::of(&lines, width, room);
    let left_out = leave_out(&mut lines, form, width, room);
    draw(&mut text, &lines, form, width);
    if left_out > 0 {
        put(&mut text, &format!("and {left_out} more"), width);
    }
    text
}

/// How the rows are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A line each.
    Lines,
    /// The target has a line of its own, where it has more room.
    Pairs,
}

impl Form {
    /// A line each is best, if nothing has to be shortened for it. Long targets get a line of their own, if there are
    /// enough lines.
    fn of(lines: &[Line], width: usize, room: usize) -> Self {
        let fits = widths(&cells(lines), COLUMNS).iter().sum::<usize>() <= for_cells(width, COLUMNS);
        if !fits && long(lines, Self::Pairs, width) <= room { Self::Pairs } else { Self::Lines }
    }

    const fn columns(self) -> usize {
        match self {
            Self::Lines => COLUMNS,
            Self::Pairs => COLUMNS - 1,
        }
    }
}

/// Where the gateway is.
fn head(snapshot: &Snapshot, width: usize) -> Vec<String> {
    let Some(address) = snapshot.gateway.first() else { return Vec::new() };
    let scheme = snapshot.scheme();
    let mut text = format!("gateway  {scheme}://localhost:{}", address.port());
    if let Some(suffix) = &snapshot.dynamic {
        let _ = write!(text, "   and *.cx.{suffix}:{}", address.port());
    }
    wrapped(&text, width, NOTE_INDENT)
}

/// How many lines they take.
fn long(lines: &[Line], form: Form, width: usize) -> usize {
    lines.iter().map(|line| line.height(form, width)).sum()
}

/// Takes away those that have no room; their number.
fn leave_out(lines: &mut Vec<Line>, form: Form, width: usize, room: usize) -> usize {
    let all = lines.len();
    if long(lines, form, width) <= room {
        return 0;
    }
    lines.sort_by_key(Line::rank);
    // Their number is a line, too.
    let fits = lines.iter().scan(0, |sum, line| {
        *sum += line.height(form, width);
        Some(*sum)
    });
    let fit = fits.take_while(|sum| *sum < room).count();
    lines.truncate(fit.max(1));
    all - lines.len()
}

fn draw(text: &mut String, lines: &[Line], form: Form, width: usize) {
    let (cells, columns) = (cells(lines), form.columns());
    let widths = narrowed(widths(&cells, columns), for_cells(width, columns));
    let names = |column: usize| cells.iter().skip(1).map(|row| row[column]).collect::<Vec<&str>>();
    let names: [Vec<&str>; COLUMNS] = std::array::from_fn(names);
    for (at, row) in cells.iter().enumerate() {
        let mut drawn = String::new();
        for ((cell, wide), others) in row.iter().zip(&widths).zip(&names) {
            let _ = write!(drawn, "{:<wide$}  ", shortened(cell, *wide, others));
        }
        put(text, drawn.trim_end(), width);
        let Some(line) = at.checked_sub(1).and_then(|at| lines.get(at)) else { continue };
        if form == Form::Pairs {
            let target =
                shortened(&line.target, for_text(width).saturating_sub(ARROW.chars().count()), &names[COLUMNS - 1]);
            put(text, &format!("{ARROW}{target}"), width);
        }
        line.below(width).iter().for_each(|line| put(text, line, width));
    }
}

/// The titles, then what is in the rows.
fn cells(lines: &[Line]) -> Vec<[&str; COLUMNS]> {
    std::iter::once(TITLES).chain(lines.iter().map(Line::cells)).collect()
}

/// A line of its own, no wider than the terminal.
fn put(text: &mut String, line: &str, width: usize) {
    text.extend(line.chars().take(for_text(width)));
    text.push('\n');
}

/// The last column stays free: some terminals break the line there.
const fn for_text(width: usize) -> usize {
    width.saturating_sub(1)
}

/// What is left for cells: there are two blanks between them.
const fn for_cells(width: usize, columns: usize) -> usize {
    for_text(width).saturating_sub(2 * (columns - 1))
}

/// A text as lines no wider than the terminal, those after the first behind `indent`. Nothing of it is left out: a word
/// that is longer than a line goes on in the next.
pub(super) fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let width = for_text(width).max(indent + 10);
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

/// How wide the first columns are if nothing is shortened.
fn widths(cells: &[[&str; COLUMNS]], columns: usize) -> Vec<usize> {
    let wide = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    (0..columns).map(wide).collect()
}

/// The same in less room: the widest give way first, the short ones not at all.
fn narrowed(mut widths: Vec<usize>, room: usize) -> Vec<usize> {
    for least in LEAST {
        while widths.iter().sum::<usize>() > room {
            let rest = widths.iter_mut().skip(WHOLE).zip(least).filter(|(wide, least)| **wide > *least);
            let Some((widest, _)) = rest.max_by_key(|(wide, _)| **wide) else { break };
            *widest -= 1;
        }
    }
    widths
}

impl Line {
    fn of_row(row: &Row, now: SystemTime) -> Self {
        let target = row.pod.as_ref().map_or_else(|| row.target.clone(), |pod| format!("{} ({pod})", row.target));
        let reason = row.reason.clone().filter(|_| row.state != State::Ready);
        let last = row.last_error.as_ref().map(|error| {
            let ago = now.duration_since(error.at).unwrap_or_default().as_secs();
            format!("{} ({ago} s ago)", error.text)
        });
        Self {
            name: row.name.clone(),
            // The name says it already, and the port stands above.
            entrance: if matches!(row.kind, "route" | "host") { "gateway".into() } else { row.entrance.clone() },
            target,
            state: row.state.as_str(),
            streams: row.streams.to_string(),
            bytes: format!("{} {}", bytes(row.bytes_in), bytes(row.bytes_out)),
            note: reason.or(last).unwrap_or_default(),
        }
    }

    fn of_tunnel(row: &TunnelRow) -> Self {
        Self {
            name: row.name.clone(),
            entrance: row.url.clone(),
            target: row.target.clone(),
            state: row.state(),
            streams: row.streams().to_string(),
            bytes: format!("{} {}", bytes(row.bytes_in), bytes(row.bytes_out)),
            note: row.reason().unwrap_or_default(),
        }
    }

    /// Where there is no room for all, the lowest stay: what something is said of, what is in use, what was lately.
    fn rank(&self) -> u8 {
        match self.state {
            _ if !self.note.is_empty() => 0,
            _ if self.streams != "0" => 1,
            "idle" | "unchecked" => 3,
            // What nobody uses becomes idle after a while.
            _ => 2,
        }
    }

    fn height(&self, form: Form, width: usize) -> usize {
        let own = if form == Form::Pairs { 2 } else { 1 };
        own + self.below(width).len()
    }

    /// What is said of it below its line.
    fn below(&self, width: usize) -> Vec<String> {
        match self.note.as_str() {
            "" => Vec::new(),
            note => wrapped(&format!("{:NOTE_INDENT$}{note}", ""), width, NOTE_INDENT),
        }
    }

    fn cells(&self) -> [&str; COLUMNS] {
        [self.state, &self.streams, &self.bytes, &self.name, &self.entrance, &self.target]
    }
}

/// A number of bytes as a person reads it: in powers of 1024, rounded to the nearest.
pub(in crate::command) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["K", "M", "G", "T"];
    if count < 1024 {
        return format!("{count}B");
    }
    let count = u128::from(count);
    let mut size = 1024;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be rounded to 1024 of a unit is one of the next.
    while (count + size / 2) / size >= 1024
        && let Some(next) = units.next()
    {
        (size, unit) = (size * 1024, next);
    }
    match (count * 10 + size / 2) / size {
        tenths @ 0..100 => format!("{}.{}{unit}", tenths / 10, tenths % 10),
        _ => format!("{}{unit}", (count + size / 2) / size),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        for (count, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5K"), (10 << 20, "10M"), (5 << 30, "5.0G")] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16777216T");
    }

    #[test]
    fn bytes_are_rounded_to_the_nearest() {
        let mib = |tenths: u64| (tenths << 20) / 10;
        for (count, text) in [
            (1024, "1.0K"),
            (2_002_780, "1.9M"),
            (mib(199), "20M"),
            (mib(99) + mib(1) * 6 / 10, "10M"),
            (100_000_000, "95M"),
            (100_139_008, "96M"),
            ((1 << 20) - 1, "1.0M"),
            ((1 << 40) - 1, "1.0T"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    pub(in super::super) fn snapshot(rows: Vec<Row>) -> Snapshot {
        Snapshot {
            rows,
            gateway: vec!["127.0.0.1:8989".parse().unwrap()],
            secure: false,
            exposed: Vec::new(),
            dynamic: Some("k8s.localhost".into()),
            published: Vec::new(),
        }
    }

    pub(in super::super) fn row(name: &str, entrance: &str, target: &str) -> Row {
        Row {
            name: name.into(),
            kind: "port",
            echoes: false,
            entrance: entrance.into(),
            target: target.into(),
            pod: None,
            state: State::Ready,
            took: None,
            reason: None,
            hint: None,
            outage: None,
            health: None,
            streams: 3,
            opened: 4,
            bytes_in: 1_047_552,
            bytes_out: 1_047_552,
            last_error: None,
        }
    }

    fn long_rows(count: usize) -> Vec<Row> {
        let row = |n: usize| {
            let name = format!("orders-database-of-the-team-payments-{n}-in-production");
            let target = format!("k8s://gke_company_europe-west4_production/payments-{n}/service/orders:5432");
            Row { state: State::Unchecked, ..row(&name, &format!("127.0.0.1:{}", 15_000 + n), &target) }
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn a_gateway_that_ends_tls_is_shown_by_the_address_that_browsers_are_given() {
        let secure = Snapshot { secure: true, ..snapshot(Vec::new()) };
        assert!(table(&secure, 80, 8, SystemTime::now()).contains("gateway  https://localhost:8989 "));
        assert!(table(&snapshot(Vec::new()), 80, 8, SystemTime::now()).contains("gateway  http://localhost:8989 "));
    }

    #[test]
    fn nothing_is_wider_or_longer_than_the_terminal_and_no_two_rows_are_called_the_same() {
        for width in [20, 60, 79, 80, 81, 100, 120, 200] {
            for height in [8, 22, 38] {
                for count in [1, 3, 9, 40] {
                    let text = table(&snapshot(long_rows(count)), width, height, SystemTime::now());
                    let which = format!("{width}×{height}, {count} rows:\n{text}");
                    assert!(text.lines().all(|line| line.chars().count() < width), "{which}");
                    assert!(text.lines().count() <= height || width < 60, "{which}");
                    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("unchecked")).collect();
                    let mut different = rows.clone();
                    different.sort_unstable();
                    different.dedup();
                    assert!(width < 60 || rows.len() == different.len(), "{which}");
                }
            }
        }
    }

    #[test]
    fn on_eighty_columns_all_of_each_target_is_there_as_long_as_there_are_lines_for_it() {
        let text = table(&snapshot(long_rows(4)), 80, 22, SystemTime::now());
        for n in 0..4 {
            let target = format!("k8s://gke_company_europe-west4_production/payments-{n}/service/orders:5432");
            assert!(text.lines().any(|line| line == format!("{ARROW}{target}")), "{text}");
            assert!(text.contains(&format!("127.0.0.1:{}", 15_000 + n)), "{text}");
        }
        let text = table(&snapshot(long_rows(18)), 80, 22, SystemTime::now());
        assert_eq!(text.lines().filter(|line| line.starts_with("unchecked")).count(), 18, "a line each:\n{text}");
    }

    #[test]
    fn what_fits_is_a_line_each_and_the_very_last_character_is_there() {
        let rows = vec![row("db", "127.0.0.1:5432", "tcp://127.0.0.1:65432")];
        let whole = table(&snapshot(rows), 200, 22, SystemTime::now());
        let line = whole.lines().find(|line| line.starts_with("ready")).unwrap().to_owned();
        let length = line.chars().count();
        let rows = vec![row("db", "127.0.0.1:5432", "tcp://127.0.0.1:65432")];
        let text = table(&snapshot(rows), length + 1, 22, SystemTime::now());
        assert!(text.lines().any(|other| other == line), "{text}");
    }

    #[test]
    fn what_has_no_room_is_counted_and_what_has_failed_stays() {
        let mut rows = long_rows(30);
        rows[29].state = State::Failed;
        rows[29].reason = Some("the API server of context dev refused the connection".into());
        let text = table(&snapshot(rows), 120, 12, SystemTime::now());
        assert!(text.contains("failed") && text.contains("refused the connection"), "{text}");
        assert!(text.lines().count() <= 12 && text.lines().last().unwrap().starts_with("and "), "{text}");
    }

    #[test]
    fn what_is_in_use_stays_before_what_is_not() {
        let mut rows = long_rows(30);
        rows.iter_mut().for_each(|row| row.streams = 0);
        rows[0].state = State::Idle;
        rows[27].state = State::Ready;
        rows[28].state = State::Ready;
        rows[28].streams = 1;
        rows[29].state = State::Failed;
        rows[29].reason = Some("it is away".into());
        let text = table(&snapshot(rows), 120, 8, SystemTime::now());
        let states = text.lines().skip(3).filter_map(|line| line.split_whitespace().next());
        assert_eq!(states.collect::<Vec<_>>(), ["failed", "it", "ready", "ready", "and"], "{text}");
        assert!(text.lines().any(|line| line.starts_with("ready") && line.contains("ready   1 ")), "{text}");
    }

    #[test]
    fn thousands_that_have_failed_are_drawn_in_no_time() {
        let mut rows = long_rows(3_000);
        for row in &mut rows {
            row.state = State::Failed;
            row.reason = Some("the API server of context dev refused the connection. ".repeat(4));
        }
        let begun = std::time::Instant::now();
        let text = table(&snapshot(rows), 80, 24, SystemTime::now());
        assert!(text.lines().count() <= 24 && text.contains("and 29"), "{text}");
        // A row at a time it would be a minute; it is drawn four times a second.
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_tunnel_whose_target_cannot_be_reached_is_failing() {
        let line = |note: &str, trouble: &str| {
            let mut row = TunnelRow::default();
            (row.note, row.trouble) = (note.into(), trouble.into());
            row.state()
        };
        assert_eq!([line("", ""), line("", "refused"), line("waiting", "refused")], ["online", "failing", "offline"]);
    }

    #[test]
    fn the_widest_columns_give_way() {
        let cells =
            [["ready", "0", "0B 0B", "a-name", "127.0.0.1:5432", "k8s://a/very/long/target/of/some/cluster:80"]];
        let whole = widths(&cells, COLUMNS);
        assert_eq!(whole, [5, 1, 5, 6, 14, 43]);
        assert_eq!(narrowed(whole.clone(), 59), [5, 1, 5, 6, 14, 28]);
        assert_eq!(narrowed(whole, 20), [5, 1, 5, 4, 4, 4], "what is least stays");
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
}
