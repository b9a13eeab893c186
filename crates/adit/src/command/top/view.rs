//! The live view: what is chosen, and its lines. Pure: keys and looks come in, lines go out.

mod help;
mod layout;

use std::cmp::Ordering;
use std::time::Duration;

use ::monitor::source::Way;
use adit_core::printable;

use self::layout::{Layout, clip, shortened};
use super::keys::Key;
use super::look::Look;
use super::rows::{self, By, Cell, Row, short};
use crate::command::monitor::lacks;

/// A screen of fewer lines has none to spare: for notes, or to be empty.
const ROOMY: usize = 14;
/// Of a screen's lines one in so many may have notes.
const NOTES: usize = 6;

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Stay,
    /// It goes on after a pause: what is shown is old.
    GoOn,
    /// All of the screen is drawn anew.
    Redraw,
    /// The shell has its turn.
    Suspend,
    Leave,
    /// The same, by Ctrl-C.
    Interrupted,
}

/// What is shown and how.
pub(super) struct View {
    by: By,
    /// The column that is sorted by, of each kind.
    sort: [usize; 3],
    /// Whether it is turned round, of each kind.
    reverse: [bool; 3],
    filter: String,
    /// While the filter is typed: what it was before.
    typing: Option<String>,
    paused: bool,
    /// When the view began, since the system started.
    begun: Duration,
    look: Option<Look>,
    /// All lines of the kind that is shown, and those of them that fit, in their order.
    rows: Vec<Row>,
    order: Vec<usize>,
    /// What a filter looks at, of each line; made when there is one.
    texts: Vec<String>,
    /// Whether lines are to be chosen and ordered anew: once for all keys of a moment.
    is_stale: bool,
    /// The first line that is shown, and how many there was room for.
    first: usize,
    page: usize,
    layout: Layout,
    /// While the page of help is shown: its first line.
    help: Option<usize>,
    /// What else is to be said.
    notes: Vec<String>,
}

impl View {
    pub(super) fn new(by: By, filter: &str, begun: Duration) -> Self {
        // By rate at first: what is busy is on top.
        let sort = By::ALL.map(|by| by.columns().iter().position(|one| one.title == "RATE").unwrap_or_default());
        Self {
            by,
            sort,
            reverse: [false; 3],
            filter: filter.to_owned(),
            typing: None,
            paused: false,
            begun,
            look: None,
            rows: Vec::new(),
            order: Vec::new(),
            texts: Vec::new(),
            is_stale: false,
            first: 0,
            page: 1,
            layout: Layout::default(),
            help: None,
            notes: Vec::new(),
        }
    }

    /// Sorts by a column of what is shown. The error has the names of all.
    pub(super) fn sort_by(&mut self, column: &str) -> Result<(), String> {
        let found = self.by.columns().iter().position(|one| one.title.eq_ignore_ascii_case(column));
        self.sort[self.by as usize] = found.ok_or_else(|| self.by.names())?;
        Ok(())
    }

    /// Says something beside what is seen.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// Whether a line has the text that is asked for.
    pub(super) fn fits(&self, by: By, row: &Row) -> bool {
        self.filter.is_empty() || searched(by, row).contains(&self.filter.to_lowercase())
    }

    /// The order of two lines of a kind; what is alike, by the other columns.
    pub(super) fn compare(&self, by: By, a: &Row, b: &Row) -> Ordering {
        let column = self.sort[by as usize];
        let at = |at: usize| match (a.get(at), b.get(at)) {
            (Some(a), Some(b)) => a.compare(b),
            _ => Ordering::Equal,
        };
        let order = at(column);
        // What is not known is last in both directions.
        let is_known = |row: &Row| row.get(column).is_some_and(|cell| !cell.is_unknown());
        let order = if self.reverse[by as usize] && is_known(a) && is_known(b) { order.reverse() } else { order };
        order.then_with(|| (0..a.len()).map(at).find(|order| order.is_ne()).unwrap_or(Ordering::Equal))
    }

    /// Whether there was nothing to be seen yet.
    pub(super) fn is_bare(&self) -> bool {
        self.look.as_ref().is_none_or(|look| look.connections.is_empty() && look.processes.is_empty())
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Takes a new look. What a pause holds stays.
    pub(super) fn look(&mut self, look: Look) {
        if !self.paused || self.look.is_none() {
            self.layout.forwards |= !look.uses.is_empty();
            self.look = Some(look);
            self.make_rows();
        }
    }

    /// The lines of what is known, of the kind that is shown.
    fn make_rows(&mut self) {
        self.rows = self.look.as_ref().map(|look| rows::rows(self.by, look)).unwrap_or_default();
        let forward = self.by.columns().iter().position(|one| one.title == "FORWARD");
        let uses = |row: &Row| forward.and_then(|at| row.get(at)).is_some_and(|cell| !cell.is_empty());
        self.layout.forwards |= self.rows.iter().any(uses);
        self.texts.clear();
        self.is_stale = true;
    }

    /// Chooses and orders lines anew, when that is due.
    fn arrange(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        if !self.filter.is_empty() && self.texts.len() != self.rows.len() {
            self.texts = self.rows.iter().map(|row| searched(self.by, row)).collect();
        }
        let filter = self.filter.to_lowercase();
        let fits = |at: &usize| filter.is_empty() || self.texts.get(*at).is_some_and(|text| text.contains(&filter));
        let mut order: Vec<usize> = (0..self.rows.len()).filter(fits).collect();
        order.sort_by(|a, b| self.compare(self.by, &self.rows[*a], &self.rows[*b]));
        self.order = order;
    }

    /// Does what a key says.
    pub(super) fn handle_key(&mut self, key: Key) -> After {
        match key {
            Key::Interrupt => return After::Interrupted,
            Key::Redraw => return After::Redraw,
            Key::Suspend => return After::Suspend,
            _ => {}
        }
        if self.typing.is_some() {
            self.type_filter(key);
            return After::Stay;
        }
        if let Some(first) = self.help {
            let page = self.page.max(1);
            self.help = match key {
                Key::Letter('q' | '?' | 'h') | Key::Escape | Key::Enter => None,
                _ => Some(moved(key, first, page, usize::MAX).unwrap_or(first)),
            };
            return After::Stay;
        }
        self.command(key)
    }

    fn command(&mut self, key: Key) -> After {
        let columns = self.by.columns().len();
        let sort = &mut self.sort[self.by as usize];
        match key {
            Key::Letter('q') => return After::Leave,
            Key::Letter('?' | 'h') => self.help = Some(0),
            Key::Letter(digit @ '1'..='3') => self.show(By::ALL[digit as usize - '1' as usize]),
            Key::Tab => self.show(By::ALL[(self.by as usize + 1) % By::ALL.len()]),
            Key::BackTab => self.show(By::ALL[(self.by as usize + By::ALL.len() - 1) % By::ALL.len()]),
            Key::Letter('<' | ',') | Key::Left => {
                *sort = (*sort + columns - 1) % columns;
                self.resort();
            }
            Key::Letter('>' | '.') | Key::Right => {
                *sort = (*sort + 1) % columns;
                self.resort();
            }
            Key::Letter('r') => {
                self.reverse[self.by as usize] ^= true;
                self.resort();
            }
            // What was typed and kept is taken back, too.
            Key::Escape if !self.filter.is_empty() => {
                self.filter.clear();
                self.refilter();
            }
            Key::Letter('/') => self.typing = Some(std::mem::take(&mut self.filter)),
            Key::Letter('p' | ' ') => {
                self.paused = !self.paused;
                return if self.paused { After::Stay } else { After::GoOn };
            }
            key => {
                self.arrange();
                let last = self.order.len().saturating_sub(self.page);
                self.first = moved(key, self.first, self.page, last).unwrap_or(self.first);
            }
        }
        if self.typing.is_some() {
            self.refilter();
        }
        After::Stay
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Enter => self.typing = None,
            // As it was before.
            Key::Escape => self.filter = self.typing.take().unwrap_or_default(),
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Clear => self.filter.clear(),
            Key::Letter(letter) => self.filter.push(letter),
            _ => return,
        }
        self.refilter();
    }

    fn refilter(&mut self) {
        self.first = 0;
        self.layout.forget();
        self.is_stale = true;
    }

    /// Where one was in the list is of no meaning in another order.
    fn resort(&mut self) {
        self.first = 0;
        self.is_stale = true;
    }

    fn show(&mut self, by: By) {
        if self.by != by {
            self.by = by;
            self.first = 0;
            self.layout.forget();
            self.make_rows();
        }
    }

    /// The whole screen.
    pub(super) fn draw(&mut self, way: &Way, width: usize, height: usize) -> Vec<String> {
        if let Some(first) = self.help {
            return self.draw_help(first, way, width, height);
        }
        self.arrange();
        let is_roomy = height >= ROOMY;
        let mut lines = vec![String::new()];
        if is_roomy {
            lines.push(clip(&self.counts(way), width));
            let lacking = self.lacking(way);
            // Where programs see how connections end, what they do not see is little; else it is what one has to know.
            let is_little = way.source == "ebpf" && !way.sees_attempts_alone() && lacking.is_empty();
            let most = if is_little { 1 } else { (height / NOTES).max(2) };
            lines.extend(shortened(&notes(way, &lacking), width, most));
            lines.push(String::new());
        }
        self.page = height.saturating_sub(lines.len() + 2).max(1);
        self.first = self.first.min(self.order.len().saturating_sub(self.page));
        let sort = self.sort[self.by as usize];
        let shown: Vec<&Row> = self.shown(self.first, self.page);
        let measured = if shown.is_empty() { self.unfiltered() } else { shown };
        let ages = self.layout.ages || self.has_ages(&measured);
        let drawn = Layout { ages, ..self.layout.clone() }.draw(self.by, &measured, sort, width);
        let seen = if way.source == "ebpf" { "seen by eBPF" } else { "seen by polling" };
        lines[0] = clip(&with_hidden(&self.title(), seen, &drawn.hidden, width), width);
        if self.paused {
            lines[0] = lines[0].replacen("PAUSED", "\x1b[7mPAUSED\x1b[0m", 1);
        }
        lines.push(drawn.titles_marked(width));
        lines.extend(drawn.lines.into_iter().take(self.order.len()));
        (self.layout.widths, self.layout.ages) = (drawn.widths, ages);
        if self.order.is_empty() {
            lines.push(clip(&self.none(), width));
        }
        if is_roomy && self.is_nobodys() {
            lines.push(clip("whose they are is not known: 2 shows the connections, 3 where they go", width));
        }
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(self.foot(width));
        lines
    }

    /// Whether there is no process that is known.
    fn is_nobodys(&self) -> bool {
        let all = self.order.iter().map(|at| &self.rows[*at]);
        self.by == By::Process && self.order.len() == 1 && all.flatten().next().is_some_and(Cell::is_unknown)
    }

    /// The lines that are seen.
    fn shown(&self, first: usize, most: usize) -> Vec<&Row> {
        self.order.iter().skip(first).take(most).map(|at| &self.rows[*at]).collect()
    }

    /// Whether the age of one of these is known, or they have none at all.
    fn has_ages(&self, rows: &[&Row]) -> bool {
        let age = self.by.columns().iter().position(|one| one.title == "AGE");
        age.is_none_or(|at| rows.iter().any(|row| row.get(at).is_some_and(|cell| !cell.is_unknown())))
    }

    /// The first lines that are seen without a filter: where nothing fits it, columns stand as they would then.
    fn unfiltered(&self) -> Vec<&Row> {
        let mut all: Vec<&Row> = self.rows.iter().collect();
        all.sort_by(|a, b| self.compare(self.by, a, b));
        all.truncate(self.page);
        all
    }

    fn title(&self) -> String {
        let columns = self.by.columns();
        let column = columns.get(self.sort[self.by as usize]).map_or("", |one| one.title);
        let turned = if self.reverse[self.by as usize] { ", turned round" } else { "" };
        let paused = if self.paused { " PAUSED (p goes on)" } else { "" };
        let filter = match &*self.filter {
            "" => String::new(),
            filter => format!(", with \"{}\"", printable::part(filter, 40)),
        };
        format!("adit top{paused}: {} by {column}{turned}{filter}", self.by.as_str())
    }

    /// What is to be said beside what is seen, with what had no room.
    fn lacking(&self, way: &Way) -> Vec<String> {
        let Some(look) = &self.look else { return self.notes.clone() };
        let mut notes = lacks(&look.counts, way);
        let count = look.overflow.connections + look.overflow.processes + look.overflow.remotes;
        if count > 0 {
            notes.push(format!("{count} connections, processes or remotes found no line here: its tables are full"));
        }
        notes.extend_from_slice(&self.notes);
        notes
    }

    fn counts(&self, way: &Way) -> String {
        let Some(look) = &self.look else { return "looking".to_owned() };
        let counts = &look.counts;
        let watched = look.at.saturating_sub(self.begun).max(Duration::from_secs(1));
        let known = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| count.to_string());
        let [opened, incoming, _, failed, _] = counts.seen(way).map(|(_, count)| known(count));
        let open = look.connections.len();
        let watched = match watched.as_secs() {
            seconds @ 0..60 => format!("{seconds}s"),
            _ => short(watched),
        };
        // A filter chooses lines: these figures are not of what it chose.
        let whole = if self.filter.is_empty() { "" } else { "of the whole machine: " };
        format!("{whole}{open} open; in {watched}: {opened} opened, {incoming} incoming, {failed} failed")
    }

    /// What is said where there is no line.
    fn none(&self) -> String {
        if self.filter.is_empty() {
            return match self.by {
                By::Connection => "no connection is open now".to_owned(),
                by => format!("no {} yet", by.as_str()),
            };
        }
        format!("nothing fits the filter \"{}\"", printable::part(&self.filter, 40))
    }

    fn foot(&self, width: usize) -> String {
        if self.typing.is_some() {
            let filter = printable::part(&self.filter, usize::MAX);
            return clip(&format!("filter: {filter}_   Enter keeps it, Esc takes it back"), width);
        }
        let all = self.order.len();
        if all <= self.page {
            return keys(width);
        }
        let last = (self.first + self.page).min(all);
        let place = format!("{}–{last} of {all}, {} hidden", self.first + 1, all - (last - self.first));
        let room = width.saturating_sub(place.chars().count() + 2);
        clip(&format!("{:<room$}  {place}", keys(room)), width)
    }

    /// Titles and lines for a reader that is no screen: so many lines at most.
    pub(super) fn table(&mut self, width: usize, lines: usize) -> Vec<String> {
        self.arrange();
        let ages = self.has_ages(&self.shown(0, lines));
        self.layout.is_ageless = !self.order.is_empty() && !ages;
        self.layout.ages = ages;
        let shown: Vec<&Row> = self.shown(0, lines);
        let hidden = self.order.len() - shown.len();
        let drawn = self.layout.draw(self.by, &shown, self.sort[self.by as usize], width);
        let mut table = vec![drawn.titles];
        table.extend(drawn.lines);
        if hidden > 0 {
            table.push(clip(&format!("and {hidden} more"), width));
        }
        if self.order.is_empty() {
            table.push(clip(&self.none(), width));
        }
        table
    }

    fn draw_help(&mut self, first: usize, way: &Way, width: usize, height: usize) -> Vec<String> {
        let all = help::page(self.by, way, &self.lacking(way), width);
        self.page = height.saturating_sub(1).max(1);
        let first = first.min(all.len().saturating_sub(self.page));
        self.help = Some(first);
        let mut lines: Vec<String> = all.into_iter().skip(first).take(self.page).collect();
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(clip("q or Esc goes back; ↓ ↑ PgDn PgUp move", width));
        lines
    }
}

/// The first line with the columns for which there is no room: by their names, or how many they are, if need be in the place of
/// how it is seen.
fn with_hidden(title: &str, seen: &str, hidden: &[&str], width: usize) -> String {
    let whole = format!("{title}; {seen}");
    let columns = if hidden.len() == 1 { "column" } else { "columns" };
    let count = format!("{} {columns} hidden", hidden.len());
    let shorter = [
        format!("{whole}; no room for {}", hidden.join(", ")),
        format!("{whole}; {count}"),
        format!("{title}; {count}"),
    ];
    match hidden.len() {
        0 => whole,
        hidden => shorter
            .into_iter()
            .find(|line| line.chars().count() <= width)
            .unwrap_or_else(|| format!("{title}; {hidden} hidden")),
    }
}

/// What is to be said of the way: what it does not see, and what would help.
pub(super) fn notes(way: &Way, more: &[String]) -> Vec<String> {
    let mut notes = more.to_vec();
    if !way.missing.is_empty() {
        notes.push(format!("not seen: {}", way.missing.join("; ")));
    }
    if let Some(reason) = &way.reason {
        notes.push(format!("polling, as {}", reason.message));
        notes.push(format!("hint: {}", reason.hint));
    }
    notes
}

/// The keys, as many as there is room for.
fn keys(room: usize) -> String {
    const KEYS: [&str; 6] = ["1 2 3 view", "? help", "q quit", "/ filter", "p pause", "< > sort"];
    const ORDER: [usize; 6] = [0, 5, 3, 4, 1, 2];
    let wide = |count: usize| KEYS[..count].iter().map(|key| key.len() + 2).sum::<usize>().saturating_sub(2);
    let count = (0..=KEYS.len()).rev().find(|count| wide(*count) <= room).unwrap_or_default();
    let shown: Vec<&str> = ORDER.into_iter().filter(|at| *at < count).map(|at| KEYS[at]).collect();
    shown.join("  ")
}

/// What a filter looks at: all cells but figures, also those for which there is no column on the screen.
fn searched(by: By, row: &Row) -> String {
    let cells = by.columns().iter().zip(row).filter(|(column, _)| !column.is_figure());
    let mut text = cells.map(|(_, cell)| cell.text().to_lowercase()).collect::<Vec<_>>().join("\n");
    // A remote with its port, as an address is written elsewhere: who types `:443` means that.
    if let (By::Remote, [Cell::Ip(ip, _), Cell::Count(port), ..]) = (by, row.as_slice()) {
        let written = if ip.is_ipv6() { format!("\n[{ip}]:{port}") } else { format!("\n{ip}:{port}") };
        text.push_str(&written);
    }
    text
}

/// Where a key moves to in a list; `None` when it moves nothing.
fn moved(key: Key, first: usize, page: usize, last: usize) -> Option<usize> {
    let step = page.saturating_sub(1).max(1);
    Some(match key {
        Key::Up | Key::Letter('k') => first.saturating_sub(1),
        Key::Down | Key::Letter('j') => first.saturating_add(1).min(last),
        Key::PageUp => first.saturating_sub(step),
        Key::PageDown => first.saturating_add(step).min(last),
        Key::Home | Key::Letter('g') => 0,
        Key::End | Key::Letter('G') => last,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
