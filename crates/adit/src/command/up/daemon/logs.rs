//! Reads the log files: the last lines, a span of time, what matches, and what comes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use adit_core::{printable, timestamp};
use serde_json::Value;

use super::place::Logs;
use super::rotating::{KEPT, aside};

/// How often a file that is followed is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(200);
/// Lines of one answer, unless told otherwise.
const LINES: usize = 100;
/// The most that is kept of older lines.
const LINES_MAX: usize = 1_000_000;
/// The most that a request may ask for: a daemon keeps them until they are sent.
const ASKED_MAX: usize = 10_000;
/// What happened just now is within so many bytes of the end of a log.
const TAIL: u64 = 1024 * 1024;
/// Lines of news that are taken at once.
const NEWS: usize = 1000;

/// Which lines are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) struct Wanted {
    /// Of this forward only; otherwise of everything.
    pub(in crate::command) name: Option<String>,
    /// The last ones.
    pub(in crate::command) lines: usize,
    /// From this time.
    pub(in crate::command) since: Option<SystemTime>,
    /// Up to this time.
    pub(in crate::command) until: Option<SystemTime>,
    /// Lines with this text, whatever its case.
    pub(in crate::command) grep: Option<String>,
    /// `warn` leaves out what is `info`.
    pub(in crate::command) warnings: bool,
    /// Go on with what comes.
    pub(in crate::command) follow: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { name: None, lines: LINES, since: None, until: None, grep: None, warnings: false, follow: false }
    }
}

impl Wanted {
    /// Reads the query of a request.
    pub(super) fn from_query(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let value = percent_decode(value);
            match key {
                "name" => wanted.name = Some(value),
                "lines" => {
                    let lines = value.parse().ok().filter(|lines| *lines <= ASKED_MAX);
                    wanted.lines = lines.ok_or_else(|| format!("`{value}` is no number of lines up to {ASKED_MAX}"))?;
                }
                "since" => wanted.since = Some(moment(&value)?),
                "until" => wanted.until = Some(end_of(&value)?),
                "grep" => wanted.grep = Some(value),
                "level" => match value.as_str() {
                    "warn" => wanted.warnings = true,
                    "info" => wanted.warnings = false,
                    _ => return Err(format!("`{value}` is no level: write info or warn")),
                },
                "follow" => match value.as_str() {
                    "true" | "1" => wanted.follow = true,
                    "false" | "0" => wanted.follow = false,
                    _ => return Err(format!("`{value}` is neither true nor false")),
                },
                other => return Err(format!("there is no parameter `{other}`")),
            }
        }
        Ok(wanted)
    }

    fn takes(&self, line: &str) -> bool {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { return false };
        let at = entry["time"].as_str().and_then(parse_time);
        let in_time = self.since.is_none_or(|since| at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| at.is_some_and(|at| at <= until));
        in_time
            && (!self.warnings || entry["level"] != "info")
            && self.grep.as_ref().is_none_or(|grep| line.to_lowercase().contains(&grep.to_lowercase()))
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// A time as RFC 3339, the beginning of a day, or how long ago: `90s`, `5m`, `2h`, `1d`.
pub(in crate::command) fn moment(text: &str) -> Result<SystemTime, String> {
    moment_or(text, "T00:00:00Z")
}

/// The same; of a day its end.
pub(in crate::command) fn end_of(text: &str) -> Result<SystemTime, String> {
    moment_or(text, "T23:59:59Z")
}

fn moment_or(text: &str, of_day: &str) -> Result<SystemTime, String> {
    let now = SystemTime::now();
    let day = || parse_time(&format!("{text}{of_day}"));
    if let Some(at) = parse_time(text).or_else(day).or_else(|| of_late(text, of_day, now)) {
        return Ok(at);
    }
    let ago = adit_core::config::unit::parse_duration(text.strip_suffix(" ago").unwrap_or(text)).ok();
    ago.and_then(|ago| now.checked_sub(ago)).ok_or_else(|| {
        format!("`{text}` is no time: write 5m, 2h, 1d, 16:00, yesterday, 2026-01-31, or 2026-01-31T08:00:00Z (UTC)")
    })
}

/// `today`, `yesterday`, and a time of day, which is the last one that has passed.
fn of_late(text: &str, of_day: &str, now: SystemTime) -> Option<SystemTime> {
    let date = |at: SystemTime| timestamp::format(at).split_once('T').map(|(date, _)| date.to_owned());
    let yesterday = now.checked_sub(DAY)?;
    match text {
        "today" => return parse_time(&format!("{}{of_day}", date(now)?)),
        "yesterday" => return parse_time(&format!("{}{of_day}", date(yesterday)?)),
        _ => {}
    }
    let seconds = if text.len() == "16:00".len() { ":00" } else { "" };
    let on = |day: SystemTime| parse_time(&format!("{}T{text}{seconds}Z", date(day)?));
    on(now).map(|at| if at > now { on(yesterday).unwrap_or(at) } else { at })
}

/// RFC 3339 in UTC; fractions of a second are left out.
fn parse_time(text: &str) -> Option<SystemTime> {
    let whole = match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text.to_owned(),
    };
    timestamp::parse(&whole)
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match escaped {
            Some(value) => {
                bytes.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            None => bytes.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads lines of one log.
pub(in crate::command) struct Reader {
    path: PathBuf,
    wanted: Wanted,
    open: Option<BufReader<File>>,
    begun: bool,
    /// The beginning of a line whose end is not written yet.
    part: Vec<u8>,
}

impl Reader {
    pub(super) fn new(logs: &Logs, wanted: Wanted) -> Self {
        let path = path(logs, wanted.name.as_deref());
        Self { path, wanted, open: None, begun: false, part: Vec::new() }
    }

    pub(in crate::command) const fn follows(&self) -> bool {
        self.wanted.follow
    }

    /// The next lines: first those that are there, then the news.
    pub(in crate::command) fn next_lines(&mut self) -> Vec<String> {
        if self.begun {
            return self.news();
        }
        self.begun = true;
        let most = self.wanted.lines.min(LINES_MAX);
        let mut last: VecDeque<String> = VecDeque::new();
        let files = (1..=KEPT).rev().map(|number| aside(&self.path, number)).chain([self.path.clone()]);
        for path in files {
            let Ok(file) = File::open(&path) else { continue };
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if !line.ends_with(b"\n") {
                    break;
                }
                let text = String::from_utf8_lossy(&line);
                if most > 0 && self.wanted.takes(text.trim_end()) {
                    if last.len() == most {
                        last.pop_front();
                    }
                    last.push_back(text.trim_end().to_owned());
                }
                line.clear();
            }
            if path == self.path {
                self.open = Some(reader);
                // What is not whole yet is read on.
                self.part = line;
            }
        }
        last.into()
    }

    fn news(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        // What was put aside is read to its end first, however many looks that takes.
        if self.read_on(&mut lines) && self.was_replaced() && self.read_on(&mut lines) {
            self.part.clear();
            self.open = File::open(&self.path).ok().map(BufReader::new);
            self.read_on(&mut lines);
        }
        lines
    }

    /// Whether it has come to the end.
    fn read_on(&mut self, lines: &mut Vec<String>) -> bool {
        let Some(reader) = &mut self.open else { return true };
        while lines.len() < NEWS {
            if !reader.read_until(b'\n', &mut self.part).is_ok_and(|read| read > 0) || !self.part.ends_with(b"\n") {
                return true;
            }
            let line = std::mem::take(&mut self.part);
            // A disk that was full may have cut a line within a letter.
            let line = String::from_utf8_lossy(&line);
            if self.wanted.takes(line.trim_end()) {
                lines.push(line.trim_end().to_owned());
            }
        }
        false
    }

    /// Whether another file has this name now.
    fn was_replaced(&mut self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(now) = std::fs::metadata(&self.path) else { return false };
        let Some(reader) = &mut self.open else { return true };
        let Ok(ours) = reader.get_ref().metadata() else { return true };
        let position = reader.stream_position().unwrap_or(0);
        if position > ours.len() {
            // It was cut: from the beginning again.
            let _ = reader.seek(SeekFrom::Start(0));
        }
        (now.dev(), now.ino()) != (ours.dev(), ours.ino())
    }
}

/// What a daemon that has just ended has cut off, by its process id; nothing when its log does not say.
pub(in crate::command) fn cut_off(logs: &Logs, pid: u32) -> Vec<String> {
    let path = logs.daemon();
    // It may have been put aside since: another daemon may run.
    let files = [path.clone(), aside(&path, 1)];
    let ended = files.iter().filter_map(|path| tail(path).ok()).find_map(|text| {
        let text = String::from_utf8_lossy(&text).into_owned();
        let ends = text.lines().rev().filter(|line| line.contains("\"event\":\"ended\""));
        let mut ends = ends.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        // A process that was replaced may end later than the one that replaced it.
        ends.find(|entry| entry["pid"] == pid)
    });
    let ended = ended.unwrap_or_default();
    ended["cut"].as_array().into_iter().flatten().filter_map(|cut| cut.as_str().map(str::to_owned)).collect()
}

/// The end of a file, which may begin within a line.
fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(text)
}

/// The logs that are of no forward.
const OTHERS: [&str; 2] = ["daemon", "audit"];

/// Where a log is. A forward that has the name of another log goes before it.
pub(in crate::command) fn path(logs: &Logs, name: Option<&str>) -> PathBuf {
    match name {
        Some("daemon") if !logs.forward("daemon").exists() => logs.daemon(),
        Some("audit") if !logs.forward("audit").exists() => logs.audit(),
        Some(name) => logs.forward(name),
        None => logs.daemon(),
    }
}

/// The logs that there are: of no forward, then of forwards.
pub(in crate::command) fn names(logs: &Logs) -> Vec<String> {
    let forwards = forwards(logs);
    let others = OTHERS.into_iter().filter(|name| !forwards.iter().any(|forward| forward == name));
    let others = others.filter(|name| path(logs, Some(name)).exists()).map(str::to_owned);
    others.chain(forwards.iter().cloned()).collect()
}

/// The forwards that have a log.
fn forwards(logs: &Logs) -> Vec<String> {
    let of = |path: &Path| Some(path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned());
    let entries = std::fs::read_dir(logs.directory().join("forwards")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| of(&entry.path())).collect();
    names.sort();
    names
}

/// An entry as people read it: time, level when it matters, text.
pub(in crate::command) fn for_people(line: &str) -> String {
    let Ok(entry) = serde_json::from_str::<Value>(line) else { return printable::lines(line) };
    let time = entry["time"].as_str().unwrap_or_default();
    let level = if entry["level"] == "warn" { "  WARN " } else { "  " };
    // What belongs to an entry is seen to: each one begins with its time.
    // What has changed in the file has no text.
    let changes = || entry.get("changes").map(Value::to_string).unwrap_or_default();
    let text = entry["text"].as_str().map_or_else(changes, str::to_owned).replace('\n', "\n    ");
    printable::lines(&format!("{time}{level} {text}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::place::Place;
    use super::*;

    fn line(seconds: u64, level: &str, text: &str) -> String {
        let at = timestamp::format(timestamp::from_unix(1_700_000_000 + seconds));
        format!(r#"{{"time":"{at}","level":"{level}","event":"x","text":"{text}"}}"#)
    }

    fn logs() -> (tempfile::TempDir, Logs) {
        let directory = tempfile::tempdir().unwrap();
        let logs = Place { runtime: directory.path().into(), state: directory.path().into() }.logs();
        std::fs::create_dir_all(logs.directory().join("forwards")).unwrap();
        (directory, logs)
    }

    #[test]
    fn the_further_lines_of_an_entry_are_seen_to_be_its_own() {
        let text = for_people(&line(0, "warn", r"it fails\nhint: try\nerror: no"));
        assert!(text.ends_with("Z  WARN  it fails\n    hint: try\n    error: no"), "{text}");
    }

    #[test]
    fn a_time_of_day_is_the_last_one_that_has_passed() {
        let now = timestamp::parse("2026-11-27T12:30:00Z").unwrap();
        let of = |text: &str| of_late(text, "T00:00:00Z", now).map(timestamp::format);
        let at = |text: &str| timestamp::parse(text).map(timestamp::format);
        assert_eq!(of("12:00"), at("2026-11-27T12:00:00Z"));
        assert_eq!(of("16:00:30"), at("2026-11-26T16:00:30Z"), "yesterday's");
        assert_eq!(of("yesterday"), at("2026-11-26T00:00:00Z"));
        assert_eq!(of("today"), at("2026-11-27T00:00:00Z"));
        assert_eq!((of("25:00"), of("noon")), (None, None));
        assert!(moment("10m ago").is_ok() && moment("10 apples ago").is_err());
    }

    #[test]
    fn what_a_server_said_does_not_command_the_terminal() {
        for text in [line(1, "info", "it said \\u001b[2J"), "cut off \u{1b}[2J".to_owned()] {
            let shown = for_people(&text);
            assert!(shown.contains(" [2J") && !shown.contains('\u{1b}'), "{shown:?}");
        }
    }

    #[test]
    fn the_last_lines_are_read_across_files_that_were_put_aside() {
        let (_directory, logs) = logs();
        let path = logs.daemon();
        std::fs::write(aside(&path, 1), format!("{}\n{}\n", line(0, "info", "one"), line(1, "warn", "two"))).unwrap();
        std::fs::write(&path, format!("{}\n{}", line(2, "info", "three"), "{\"half")).unwrap();
        let read = |wanted| Reader::new(&logs, wanted).next_lines().len();
        assert_eq!(read(Wanted::default()), 3);
        assert_eq!(read(Wanted { lines: 2, ..Wanted::default() }), 2);
        assert_eq!(read(Wanted { warnings: true, ..Wanted::default() }), 1);
        assert_eq!(read(Wanted { grep: Some("THREE".into()), ..Wanted::default() }), 1);
        let since = Some(timestamp::from_unix(1_700_000_001));
        assert_eq!(read(Wanted { since, ..Wanted::default() }), 2);
        assert_eq!(read(Wanted { until: since, ..Wanted::default() }), 2);
    }

    #[test]
    fn what_a_daemon_has_cut_off_is_found_though_another_one_ended_after_it() {
        let (_directory, logs) = logs();
        let ended = |pid: u32, cut: &str| format!(r#"{{"event":"ended","text":"ended","pid":{pid},"cut":["{cut}"]}}"#);
        let mut text = format!("{}\n", ended(7, "an earlier one"));
        text.push_str(&format!("{}\n", line(0, "info", &"x".repeat(900))).repeat(2000));
        text.push_str(&format!("{}\n{}\n{}\n", ended(7, "web"), ended(8, "db"), line(1, "info", "more")));
        std::fs::write(logs.daemon(), &text).unwrap();
        assert_eq!((cut_off(&logs, 7), cut_off(&logs, 8)), (vec!["web".to_owned()], vec!["db".to_owned()]));
        assert!(cut_off(&logs, 9).is_empty());
        // It was put aside in between.
        std::fs::rename(logs.daemon(), aside(&logs.daemon(), 1)).unwrap();
        std::fs::write(logs.daemon(), format!("{}\n", line(2, "info", "another one"))).unwrap();
        assert_eq!(cut_off(&logs, 8), ["db"]);
    }

    #[test]
    fn what_is_followed_goes_on_in_the_next_file() {
        let (_directory, logs) = logs();
        let path = logs.daemon();
        std::fs::write(&path, format!("{}\n", line(0, "info", "one"))).unwrap();
        let mut reader = Reader::new(&logs, Wanted { follow: true, ..Wanted::default() });
        assert_eq!(reader.next_lines().len(), 1);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        writeln!(file, "{}", line(1, "info", "two")).unwrap();
        assert_eq!(reader.next_lines().len(), 1);
        writeln!(file, "{}", line(2, "info", "three")).unwrap();
        std::fs::rename(&path, aside(&path, 1)).unwrap();
        std::fs::write(&path, format!("{}\n", line(3, "info", "four"))).unwrap();
        assert_eq!(reader.next_lines().len(), 2, "the rest of the old file and the new one");
        assert!(reader.next_lines().is_empty());
    }

    #[test]
    fn a_line_that_was_cut_within_a_letter_hides_no_others() {
        let (_directory, logs) = logs();
        let path = logs.daemon();
        let mut bytes = format!("{}\n", line(0, "info", "one")).into_bytes();
        bytes.extend(b"{\"text\":\"\xc3\n");
        bytes.extend(format!("{}\n", line(1, "info", "two")).into_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = Reader::new(&logs, Wanted { follow: true, ..Wanted::default() });
        assert_eq!(reader.next_lines().len(), 2);
        bytes.extend(b"\xc3\n");
        bytes.extend(format!("{}\n", line(2, "info", "three")).into_bytes());
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(reader.next_lines().len(), 1);
    }

    #[test]
    fn a_burst_before_a_file_is_put_aside_is_read_whole() {
        let (_directory, logs) = logs();
        let path = logs.daemon();
        std::fs::write(&path, "").unwrap();
        let mut reader = Reader::new(&logs, Wanted { follow: true, ..Wanted::default() });
        assert!(reader.next_lines().is_empty());
        let burst: String = (0..2500).map(|at| format!("{}\n", line(at, "info", "burst"))).collect();
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(burst.as_bytes()).unwrap();
        std::fs::rename(&path, aside(&path, 1)).unwrap();
        std::fs::write(&path, format!("{}\n", line(9999, "info", "next"))).unwrap();
        let read: usize = (0..5).map(|_| reader.next_lines().len()).sum();
        assert_eq!(read, 2501);
    }

    #[test]
    fn a_line_whose_beginning_was_there_at_first_is_read_whole() {
        let (_directory, logs) = logs();
        let path = logs.daemon();
        let whole = line(0, "info", "halves");
        std::fs::write(&path, &whole[..20]).unwrap();
        let mut reader = Reader::new(&logs, Wanted { follow: true, ..Wanted::default() });
        assert!(reader.next_lines().is_empty());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        writeln!(file, "{}", &whole[20..]).unwrap();
        assert_eq!(reader.next_lines(), [whole]);
    }

    #[test]
    fn queries_and_times_are_read() {
        let wanted = Wanted::from_query("name=a%2Fb&lines=5&follow=true&level=warn").unwrap();
        assert_eq!(
            (wanted.name.as_deref(), wanted.lines, wanted.follow, wanted.warnings),
            (Some("a/b"), 5, true, true)
        );
        assert!(Wanted::from_query("nmae=x").is_err());
        assert!(Wanted::from_query("since=soon").is_err());
        assert!(Wanted::from_query("level=loud").is_err() && Wanted::from_query("follow=maybe").is_err());
        assert!(Wanted::from_query("lines=10000").is_ok() && Wanted::from_query("lines=10001").is_err());
        assert!(moment("2h").unwrap() < SystemTime::now());
        assert_eq!(moment("2023-11-14").unwrap(), timestamp::from_unix(1_699_920_000));
        assert_eq!(end_of("2023-11-14").unwrap(), timestamp::from_unix(1_700_006_399));
        assert_eq!(moment("2023-11-14T22:13:20Z").unwrap(), timestamp::from_unix(1_700_000_000));
    }
}
