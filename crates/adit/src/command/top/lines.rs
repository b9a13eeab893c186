//! What happens to connections, as it happens: a line for each event, for people or for programs.

use std::time::{Duration, SystemTime};

use ::monitor::decode::{End, Record, Step};
use ::monitor::source::{Counts, Way};
use adit_core::{printable, timestamp};
use serde_json::json;

use super::event::{self, when};
use super::rows::{amount, short};
use super::view;
use crate::command::monitor::{lacks, way as source};
use crate::command::output::Line;

/// Which events are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Events {
    /// Connections that are over, and attempts that failed.
    Ends,
    /// Attempts that failed.
    Failed,
    /// Connections as they begin.
    Opened,
    /// Each step of each connection.
    All,
}

impl Events {
    /// Whether a step is one of them.
    pub(super) fn has(self, record: &Record) -> bool {
        match self {
            Self::Ends => record.is_end(),
            Self::Failed => matches!(record.ended, Some((_, End::Failed(_)))),
            // Who comes in has opened it elsewhere: here it begins when it is established. So it does for a poll, which sees it then.
            Self::Opened => match record.step {
                Step::Opened => true,
                Step::Established => record.incoming || record.established.is_none(),
                _ => false,
            },
            Self::All => true,
        }
    }

    /// Whether there can be something in a column, of some of them.
    fn has_use_for(self, title: &str) -> bool {
        match self {
            Self::Ends | Self::All => true,
            Self::Failed => !matches!(title, "SENT" | "RECEIVED" | "RTT"),
            Self::Opened => !matches!(title, "SENT" | "RECEIVED" | "DURATION" | "ERROR"),
        }
    }

    /// Whether steps before the end are among them.
    pub(super) const fn has_beginnings(self) -> bool {
        matches!(self, Self::Opened | Self::All)
    }
}

/// Words events, those that are wanted.
pub(super) struct Teller {
    wanted: Events,
    /// In lower case.
    filter: String,
    /// For people; without it for programs.
    lines: Option<Lines>,
}

impl Teller {
    /// For programs.
    pub(super) fn steps(wanted: Events, filter: &str) -> Self {
        Self { wanted, filter: filter.to_lowercase(), lines: None }
    }

    /// For people, in lines of so many columns at most.
    pub(super) fn lines(wanted: Events, filter: &str, width: usize, has_forwards: bool) -> Self {
        Self { lines: Some(Lines::new(wanted, width, has_forwards)), ..Self::steps(wanted, filter) }
    }

    /// What is said of lines that found no room.
    pub(super) fn left_out(&self) -> impl Fn(u64) -> Line + Send + 'static {
        let is_for_people = self.lines.is_some();
        move |count| {
            if is_for_people {
                Line::Say(format!("{count} lines were not printed: they came faster than they were read"))
            } else {
                Line::Data(json!({ "event": "left-out", "lines": count }).to_string())
            }
        }
    }

    /// What comes before the first event.
    pub(super) fn begin(&mut self, way: &Way) -> Vec<Line> {
        let Some(lines) = &mut self.lines else {
            return vec![Line::Data(json!({ "event": "started", "source": source(way) }).to_string())];
        };
        let hidden = lines.hidden();
        let narrow = format!("no room on this terminal for {}; a pipe or a file has all", hidden.join(", "));
        let notes = view::notes(way, &lacks(&Counts::default(), way));
        let said = notes.into_iter().chain((!hidden.is_empty()).then_some(narrow)).map(Line::Say);
        said.chain([Line::Data(lines.titles())]).collect()
    }

    /// The line of a step, when it is wanted.
    pub(super) fn line(&mut self, record: &Record, place: Option<&str>, forward: Option<&str>) -> Option<Line> {
        if !self.wanted.has(record) {
            return None;
        }
        // A filter looks at the same for people and for programs.
        let value = (self.lines.is_none() || !self.filter.is_empty()).then(|| event::value(record, place, forward));
        if value.as_ref().is_some_and(|value| !event::has(value, &self.filter)) {
            return None;
        }
        match (&mut self.lines, value) {
            (Some(lines), _) => Some(Line::Data(lines.step(record, forward))),
            (None, value) => value.map(|value| Line::Data(value.to_string())),
        }
    }
}

/// A column of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Column {
    title: &'static str,
    /// So wide at least; a cell that needs more has it. So have all lines after it, where there is room.
    wide: usize,
    is_figure: bool,
}

const fn text(title: &'static str, wide: usize) -> Column {
    Column { title, wide, is_figure: false }
}

const fn figure(title: &'static str, wide: usize) -> Column {
    Column { title, wide, is_figure: true }
}

/// As wide as what is in them mostly is at most: a command has 15 bytes, an address of IPv4 with its port 21.
const COLUMNS: [Column; 13] = [
    text("TIME", 24),
    text("EVENT", 7),
    figure("PID", 7),
    text("COMMAND", 15),
    text("WAY", 3),
    text("LOCAL", 21),
    text("REMOTE", 21),
    figure("SENT", 5),
    figure("RECEIVED", 8),
    figure("DURATION", 8),
    figure("RTT", 7),
    text(ERROR, WIDE_ERROR),
    text(FORWARD, 7),
];
/// The column that only some have something in.
const FORWARD: &str = "FORWARD";
const ERROR: &str = "ERROR";
/// The longest name of a step that is no end.
const STEP: usize = 11;
/// The time of day alone, for a terminal that has no room for the date.
const TIME_OF_DAY: usize = 13;
/// As wide as 127.0.0.1 with its port: addresses begin with that where there is no room for the longest.
const ADDRESS: usize = 15;
/// What a narrow terminal does without, in this order. Forwards go before all of them while there are none, then the date. The
/// error of an attempt stands in the place of the event then. At 80 columns there is what tcplife shows.
const LEAST: [&str; 10] = ["RTT", ERROR, "LOCAL", "TIME", "RECEIVED", "SENT", "DURATION", "PID", "WAY", "COMMAND"];
/// As wide as most names of errors.
const WIDE_ERROR: usize = 12;

/// Makes the lines; knows how wide each column is by now.
pub(super) struct Lines {
    columns: Vec<Column>,
    has_date: bool,
    events: Events,
    /// So wide all of them may become.
    width: usize,
}

impl Lines {
    /// For a terminal of so many columns; there is no limit for a pipe and a file. Forwards have their column to the last where
    /// there are some.
    pub(super) fn new(events: Events, width: usize, has_forwards: bool) -> Self {
        let mut columns: Vec<Column> = COLUMNS.into_iter().filter(|column| events.has_use_for(column.title)).collect();
        if events.has_beginnings() {
            columns[1].wide = STEP;
        }
        if !has_forwards && whole(&columns) > width {
            columns.retain(|column| column.title != FORWARD);
        }
        let has_date = whole(&columns) <= width;
        if !has_date {
            columns[0].wide = TIME_OF_DAY;
        }
        if whole(&columns) > width {
            let addresses = columns.iter_mut().filter(|column| matches!(column.title, "LOCAL" | "REMOTE"));
            addresses.for_each(|column| column.wide = ADDRESS);
        }
        for title in LEAST {
            if whole(&columns) <= width {
                break;
            }
            let before = columns.len();
            columns.retain(|column| column.title != title);
            if title == ERROR && columns.len() < before {
                let event = columns.iter_mut().find(|column| column.title == "EVENT");
                event.into_iter().for_each(|column| column.wide = WIDE_ERROR);
            }
        }
        Self { columns, has_date, events, width }
    }

    /// The titles.
    pub(super) fn titles(&mut self) -> String {
        self.line(|title| title.to_owned())
    }

    /// What there is no room for.
    pub(super) fn hidden(&self) -> Vec<&'static str> {
        let all = COLUMNS.iter().map(|column| column.title).filter(|title| self.events.has_use_for(title));
        // An error has its place all the same.
        all.filter(|title| !self.shows(title) && *title != ERROR).collect()
    }

    /// A step of a connection. The first one of a forward brings its column, with titles of their own.
    pub(super) fn step(&mut self, record: &Record, forward: Option<&str>) -> String {
        let mut text = String::new();
        if forward.is_some() && !self.shows(FORWARD) {
            *self = Self::new(self.events, self.width, true);
            text = format!("{}\n", self.titles());
        }
        let has_date = self.has_date;
        // Of an attempt: what else went wrong has a name of its own.
        let failed = record.ended.map(|(_, end)| end).filter(|end| matches!(end, End::Failed(_)) && !self.shows(ERROR));
        let error = failed.and_then(End::error).filter(|name| name.starts_with('E')).map(str::to_owned);
        text + &self.line(|title| match (title, &error) {
            ("EVENT", Some(error)) => error.clone(),
            _ => cell(title, record, forward, has_date),
        })
    }

    fn shows(&self, title: &str) -> bool {
        self.columns.iter().any(|column| column.title == title)
    }

    fn line(&mut self, cell: impl Fn(&str) -> String) -> String {
        let mut line = String::new();
        let (mut room, mut over) = (self.width.saturating_sub(whole(&self.columns)), 0_usize);
        for column in &mut self.columns {
            let text = printable::part(&cell(column.title), usize::MAX);
            let length = text.chars().count();
            // Where there is room the column has it from now on; else this line alone is moved, as far as need be.
            let more = Some(length.saturating_sub(column.wide)).filter(|more| *more <= room).unwrap_or_default();
            (column.wide, room) = (column.wide + more, room - more);
            let wide = column.wide.saturating_sub(over);
            let text = if column.is_figure { format!("{text:>wide$} ") } else { format!("{text:<wide$} ") };
            over = (over + length.max(wide)).saturating_sub(column.wide);
            line.push_str(&text);
        }
        line.trim_end().to_owned()
    }
}

/// How wide a line of these is.
fn whole(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.wide + 1).sum::<usize>().saturating_sub(1)
}

/// What is in a column. `–` is what is not known, and what there is not.
fn cell(title: &str, record: &Record, forward: Option<&str>, has_date: bool) -> String {
    let end = record.ended.map(|(_, end)| end);
    let owner = record.owner;
    let known = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    match title {
        "TIME" => time(when(record), has_date),
        "EVENT" => end.map_or(record.step.as_str(), End::as_str).to_owned(),
        "PID" => known(owner.map(|owner| owner.process.pid.to_string())),
        "COMMAND" => known(owner.map(|owner| owner.command.text())),
        "WAY" => if record.incoming { "in" } else { "out" }.to_owned(),
        // The port is chosen while it connects.
        "LOCAL" => known((record.local.port() != 0).then(|| record.local.to_string())),
        "REMOTE" => record.remote.to_string(),
        "SENT" => known(end.map(|_| amount(record.sent))),
        "RECEIVED" => known(end.map(|_| amount(record.received))),
        "DURATION" => known(end.filter(|_| !record.seen_late).map(|_| short(record.duration(Duration::ZERO)))),
        "RTT" => known(record.rtt.map(short)),
        "ERROR" => known(end.and_then(End::error).map(str::to_owned)),
        _ => known(forward.map(str::to_owned)),
    }
}

/// As the daemon's log has it: UTC. Without its date what is left says so by its Z.
fn time(at: SystemTime, has_date: bool) -> String {
    let whole = timestamp::format(at);
    if has_date { whole } else { whole.split_once('T').map_or(whole.clone(), |(_, time)| time.to_owned()) }
}

#[cfg(test)]
mod tests {
    use ::monitor::agent::now;
    use ::monitor::decode::{Command, ConnectionId, OwnedBy, Owner, ProcessId, State};

    use super::*;

    fn record(step: Step, incoming: bool, end: Option<End>) -> Record {
        let opened = now().saturating_sub(Duration::from_secs(5));
        let owner = Owner {
            process: ProcessId { pid: 4711, start: 1 },
            command: Command::new("cu\x1b[2Jrl"),
            user: None,
            cgroup: 0,
            by: OwnedBy::Connect,
        };
        Record {
            id: ConnectionId::new(1, u64::try_from(opened.as_nanos()).unwrap()),
            step,
            local: ([127, 0, 0, 1], 40_000).into(),
            remote: ([10, 0, 0, 1], 443).into(),
            incoming,
            seen_late: false,
            gone: false,
            owner: Some(owner),
            netns: 0,
            state: State::Established,
            established: (step != Step::Opened).then(|| opened + Duration::from_millis(1)),
            ended: end.map(|end| (opened + Duration::from_millis(1_500), end)),
            sent: 5_000,
            received: 0,
            rtt: None,
            min_rtt: None,
            retransmits: 0,
        }
    }

    #[test]
    fn a_choice_has_what_its_name_says_and_each_connection_begins_once() {
        let opened = record(Step::Opened, false, None);
        let established = record(Step::Established, false, None);
        let came_in = record(Step::Established, true, None);
        let polled = Record { established: None, ..established };
        let over = record(Step::Ended, false, Some(End::Closed));
        let failed = record(Step::Ended, false, Some(End::Failed(111)));
        let all = [opened, established, came_in, polled, over, failed];
        let chosen = |events: Events| all.each_ref().map(|record| events.has(record));
        assert_eq!(chosen(Events::Ends), [false, false, false, false, true, true]);
        assert_eq!(chosen(Events::Failed), [false, false, false, false, false, true]);
        assert_eq!(chosen(Events::Opened), [true, false, true, true, false, false]);
        assert_eq!(chosen(Events::All), [true; 6]);
    }

    #[test]
    fn lines_stand_below_their_titles_with_whole_addresses_and_harmless_names() {
        let mut lines = Lines::new(Events::Ends, usize::MAX, false);
        let titles = lines.titles();
        let line = lines.step(&record(Step::Ended, false, Some(End::Failed(111))), Some("web\x1b"));
        for (title, text) in
            [("COMMAND", "cu"), ("REMOTE", "10.0.0.1:443 "), ("ERROR", "ECONNREFUSED "), ("FORWARD", "web")]
        {
            let at = titles.find(title).unwrap();
            let found: String = line.chars().skip(at).collect();
            assert!(found.starts_with(text), "{titles}\n{line}");
        }
        assert!(line.contains(" failed ") && line.contains(" 4.9K ") && line.contains(" 1.5s "), "{line}");
        assert!(!line.contains('\x1b'), "{line}");
        // A longer address moves what is after it, from then on.
        let remote = "[2001:db8:1111:2222:3333:4444:5555:6666]:443".parse().unwrap();
        let long = lines.step(&Record { remote, ..record(Step::Ended, false, Some(End::Closed)) }, Some("web"));
        let next = lines.step(&record(Step::Ended, false, Some(End::Closed)), Some("web"));
        assert!(long.contains("[2001:db8:1111:2222:3333:4444:5555:6666]:443 "), "{long}");
        let place = |line: &str| line.chars().collect::<Vec<_>>().len();
        assert_eq!(place(&long), place(&next), "{long}\n{next}");
    }

    #[test]
    fn a_narrow_terminal_keeps_who_where_and_why() {
        let mut lines = Lines::new(Events::Ends, 80, false);
        let (titles, line) = (lines.titles(), lines.step(&record(Step::Ended, false, Some(End::Failed(111))), None));
        assert!(line.chars().count() <= 80 && titles.len() <= 80, "{titles}\n{line}");
        assert_eq!(lines.hidden(), ["TIME", "LOCAL", "RTT", "FORWARD"]);
        assert!(line.starts_with("ECONNREFUSED    4711 cu"), "{line}");
        for (width, left) in [
            (120, "TIME EVENT PID COMMAND WAY LOCAL REMOTE SENT RECEIVED DURATION ERROR"),
            (100, "TIME EVENT PID COMMAND WAY REMOTE SENT RECEIVED DURATION"),
            (80, "EVENT PID COMMAND WAY REMOTE SENT RECEIVED DURATION"),
            (72, "EVENT PID COMMAND WAY REMOTE SENT DURATION"),
            (60, "EVENT PID COMMAND WAY REMOTE"),
            (45, "EVENT COMMAND REMOTE"),
            (40, "EVENT REMOTE"),
        ] {
            let mut lines = Lines::new(Events::Ends, width, false);
            let titles = lines.titles();
            assert_eq!(titles.split_whitespace().collect::<Vec<_>>().join(" "), left, "{width}");
            assert!(lines.step(&record(Step::Ended, false, Some(End::Failed(111))), None).chars().count() <= width);
        }
        assert!(Lines::new(Events::All, usize::MAX, false).hidden().is_empty());
        assert_eq!(Lines::new(Events::Ends, 120, true).hidden(), ["RTT"], "a forward that is used is told");
        let whole =
            |events| Lines::new(events, usize::MAX, true).titles().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(whole(Events::Opened), "TIME EVENT PID COMMAND WAY LOCAL REMOTE RTT FORWARD");
        assert_eq!(whole(Events::Failed), "TIME EVENT PID COMMAND WAY LOCAL REMOTE DURATION ERROR FORWARD");
        // One more column than the date has room for.
        let titles = Lines::new(Events::Ends, 150, false).titles();
        assert!(titles.starts_with("TIME                     EVENT") && !titles.contains(FORWARD), "{titles}");
    }

    #[test]
    fn the_first_forward_brings_its_column_with_titles() {
        let mut lines = Lines::new(Events::Ends, 120, false);
        assert!(!lines.titles().contains(FORWARD));
        let ended = record(Step::Ended, false, Some(End::Closed));
        let without = lines.step(&ended, None);
        let first = lines.step(&ended, Some("db"));
        let (titles, line) = first.split_once('\n').expect("titles");
        assert!(titles.ends_with(FORWARD) && line.ends_with("db") && line.chars().count() <= 120, "{first}");
        assert!(!without.contains('\n') && !lines.step(&ended, Some("db")).contains('\n'));
        let mut wide = Lines::new(Events::Ends, usize::MAX, false);
        assert!(!wide.step(&ended, Some("db")).contains('\n'), "it is there from the beginning");
    }

    #[test]
    fn on_a_terminal_a_long_address_moves_its_own_line_alone() {
        let mut lines = Lines::new(Events::Ends, 80, false);
        let titles = lines.titles();
        let usual = lines.step(&record(Step::Ended, false, Some(End::Failed(111))), None);
        let remote = "[2001:db8:1111:2222:3333:4444:5555:6666]:443".parse().unwrap();
        let long = lines.step(&Record { remote, ..record(Step::Ended, false, Some(End::Failed(111))) }, None);
        assert!(long.contains(":6666]:443 4.9K "), "{long}");
        assert_eq!(lines.step(&record(Step::Ended, false, Some(End::Failed(111))), None), usual);
        // What is after it stands in its place again as soon as there is room.
        let mut lines = Lines::new(Events::Ends, 120, false);
        lines.titles();
        let local = "192.168.100.200:54321".parse().unwrap();
        let moved = lines.step(&Record { local, ..record(Step::Ended, false, Some(End::Failed(111))) }, None);
        let place = |line: &str| line.split("1.5s").next().unwrap_or_default().chars().count();
        let usual = lines.step(&record(Step::Ended, false, Some(End::Failed(111))), None);
        assert!(moved.chars().count() <= 120 && usual.chars().count() <= 120, "{titles}\n{moved}\n{usual}");
        assert_eq!(place(&moved), place(&usual), "{moved}\n{usual}");
    }

    #[test]
    fn what_is_not_over_has_no_figures_and_what_is_older_no_age() {
        let mut lines = Lines::new(Events::All, usize::MAX, false);
        let opened = lines.step(&record(Step::Opened, false, None), None);
        assert!(opened.contains(" opened ") && !opened.contains("4.9K"), "{opened}");
        let late = Record { seen_late: true, ..record(Step::Ended, true, Some(End::Reset)) };
        let late = lines.step(&late, None);
        assert!(late.contains(" reset ") && late.contains(" ECONNRESET ") && !late.contains(" 1.5s "), "{late}");
    }
}
