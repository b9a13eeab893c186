//! Lines of the table, from what is known.

use std::collections::HashMap;
use std::time::Duration;

use ::monitor::table::{Connection, Process, Remote, Table};
use serde_json::{Value, json};

use super::event;
use super::uses::{Entrances, Uses};
use super::view::View;
use crate::command::up::table::bytes;

/// What a line is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// A process.
    #[default]
    Process,
    /// A connection.
    Connection,
    /// A remote address with the port of a service.
    Remote,
}

impl By {
    /// In the order of the keys 1, 2, 3.
    pub(super) const ALL: [Self; 3] = [Self::Process, Self::Connection, Self::Remote];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "processes",
            Self::Connection => "connections",
            Self::Remote => "remotes",
        }
    }

    /// The titles of its columns.
    pub(super) const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Process => &[
                "PID", "COMMAND", "OPEN", "OPENED", "INCOMING", "FAILED", "RATE", "SENT", "RECEIVED", "RETRANS",
                "FORWARD", "PLACE",
            ],
            Self::Connection => &[
                "PID", "COMMAND", "LOCAL", "REMOTE", "WAY", "STATE", "AGE", "RATE", "SENT", "RECEIVED", "RTT",
                "RETRANS", "FORWARD",
            ],
            Self::Remote => &[
                "REMOTE", "PORT", "WAY", "OPEN", "OPENED", "FAILED", "RATE", "SENT", "RECEIVED", "RTT", "RETRANS",
                "FORWARD",
            ],
        }
    }
}

/// A cell: what is shown, and what it is sorted by when that is a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) number: Option<u64>,
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: None }
    }

    fn count(number: u64) -> Self {
        Self { text: number.to_string(), number: Some(number) }
    }

    fn bytes(number: u64) -> Self {
        Self { text: if number == 0 { "0".into() } else { bytes(number) }, number: Some(number) }
    }

    fn rate(number: u64) -> Self {
        let text = if number == 0 { "0".into() } else { format!("{}/s", bytes(number)) };
        Self { text, number: Some(number) }
    }

    fn time(time: Option<Duration>) -> Self {
        let number = time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        Self { text: time.map_or_else(|| "-".to_owned(), short), number: Some(number) }
    }
}

/// One line.
pub(super) type Row = Vec<Cell>;

/// All lines of a kind, in no order.
pub(super) fn rows(by: By, table: &Table, uses: &Uses) -> Vec<Row> {
    all(by, table, uses).map(|(row, _)| row).collect()
}

/// What a line is for programs, made when it is asked for.
type Told<'a> = Box<dyn Fn() -> Value + 'a>;

/// All lines of a kind with what they are for programs, in no order.
fn all<'a>(by: By, table: &'a Table, uses: &'a Uses) -> Box<dyn Iterator<Item = (Row, Told<'a>)> + 'a> {
    let now = ::monitor::agent::now();
    let entrances = uses.entrances(table);
    match by {
        By::Process => {
            let used = used(table, uses, &entrances);
            Box::new(table.processes().map(move |process| {
                let mut forwards = used.get(&process.id.pid).cloned().unwrap_or_default();
                forwards.sort_unstable();
                let row = of_process(process, &forwards);
                (row, Box::new(move || process_json(process, &forwards)) as Told<'a>)
            }))
        }
        By::Connection => Box::new(table.connections().map(move |one| {
            let forward = uses.of(&one.record, &entrances).map(str::to_owned);
            let row = of_connection(one, now, forward.as_deref());
            let value = move || event::connection(&one.record, one.place.as_deref(), forward.as_deref());
            (row, Box::new(value) as Told<'a>)
        })),
        By::Remote => Box::new(table.remotes().map(move |remote| {
            let forward = uses.of_remote(remote.id, &entrances).map(str::to_owned);
            let row = of_remote(remote, forward.as_deref());
            (row, Box::new(move || remote_json(remote, forward.as_deref())) as Told<'a>)
        })),
    }
}

/// The forwards that each process uses now.
fn used(table: &Table, uses: &Uses, entrances: &Entrances) -> HashMap<u32, Vec<String>> {
    let mut used: HashMap<u32, Vec<String>> = HashMap::new();
    if uses.is_empty() && entrances.is_empty() {
        return used;
    }
    for one in table.connections() {
        let (Some(owner), Some(name)) = (one.record.owner, uses.of(&one.record, entrances)) else { continue };
        let names = used.entry(owner.process.pid).or_default();
        if !names.iter().any(|have| have == name) {
            names.push(name.to_owned());
        }
    }
    used
}

fn of_process(process: &Process, forwards: &[String]) -> Row {
    let sums = &process.sums;
    vec![
        Cell::count(process.id.pid.into()),
        Cell::text(process.command.text()),
        Cell::count(process.open as u64),
        Cell::count(sums.opened),
        Cell::count(sums.incoming),
        Cell::count(sums.failed),
        Cell::rate(process.rate.both()),
        Cell::bytes(sums.sent),
        Cell::bytes(sums.received),
        Cell::count(sums.retransmits),
        Cell::text(forwards.join(",")),
        Cell::text(process.place.as_deref().unwrap_or_default()),
    ]
}

fn of_connection(one: &Connection, now: Duration, forward: Option<&str>) -> Row {
    let record = &one.record;
    let (pid, command) = record.owner.map_or_else(
        || (Cell { text: "-".into(), number: Some(0) }, "-".to_owned()),
        |owner| (Cell::count(owner.process.pid.into()), owner.command.text()),
    );
    let age = Cell::time((!record.seen_late).then(|| record.duration(now)));
    vec![
        pid,
        Cell::text(command),
        Cell::text(record.local.to_string()),
        Cell::text(record.remote.to_string()),
        Cell::text(if record.incoming { "in" } else { "out" }),
        Cell::text(record.state.as_str()),
        age,
        Cell::rate(one.rate.both()),
        Cell::bytes(record.sent),
        Cell::bytes(record.received),
        Cell::time(record.rtt),
        Cell::count(record.retransmits.into()),
        Cell::text(forward.unwrap_or_default()),
    ]
}

fn of_remote(remote: &Remote, forward: Option<&str>) -> Row {
    let (id, sums) = (remote.id, &remote.sums);
    vec![
        Cell::text(id.address.to_string()),
        Cell::count(id.port.into()),
        Cell::text(if id.incoming { "in" } else { "out" }),
        Cell::count(remote.open as u64),
        Cell::count(sums.opened + sums.incoming),
        Cell::count(sums.failed),
        Cell::rate(remote.rate.both()),
        Cell::bytes(sums.sent),
        Cell::bytes(sums.received),
        Cell::time(remote.rtt),
        Cell::count(sums.retransmits),
        Cell::text(forward.unwrap_or_default()),
    ]
}

/// All tables as one object, with stable names; chosen and ordered as the lines of the table are.
pub(super) fn json(table: &Table, uses: &Uses, view: &View, lines: Option<usize>) -> Value {
    let list = |by: By| {
        let mut all: Vec<_> = all(by, table, uses).filter(|(row, _)| view.fits(row)).collect();
        all.sort_by(|(a, _), (b, _)| view.compare(by, a, b));
        Value::from(all.iter().take(lines.unwrap_or(usize::MAX)).map(|(_, value)| value()).collect::<Vec<_>>())
    };
    json!({ "processes": list(By::Process), "connections": list(By::Connection), "remotes": list(By::Remote) })
}

fn process_json(process: &Process, forwards: &[String]) -> Value {
    let sums = &process.sums;
    json!({
        "pid": process.id.pid, "command": process.command.text(), "user": process.user,
        "place": process.place.as_deref(), "open": process.open, "opened": sums.opened, "incoming": sums.incoming,
        "failed": sums.failed, "closed": sums.closed, "sent": sums.sent, "received": sums.received,
        "sent_per_second": process.rate.sent, "received_per_second": process.rate.received,
        "retransmits": sums.retransmits, "forwards": forwards,
    })
}

fn remote_json(remote: &Remote, forward: Option<&str>) -> Value {
    let (id, sums) = (remote.id, &remote.sums);
    json!({
        "address": id.address.to_string(), "port": id.port, "netns": (id.netns != 0).then_some(id.netns), "direction": event::direction(id.incoming),
        "open": remote.open, "connections": sums.opened + sums.incoming, "failed": sums.failed,
        "sent": sums.sent, "received": sums.received, "retransmits": sums.retransmits,
        "rtt_us": remote.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        "forward": forward,
    })
}

/// A time in a few characters.
fn short(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..1_000_000 => format!("{:.1}ms", time.as_secs_f64() * 1e3),
        1_000_000..60_000_000 => format!("{:.0}s", time.as_secs_f64().floor()),
        60_000_000..3_600_000_000 => format!("{}m{:02}s", time.as_secs() / 60, time.as_secs() % 60),
        _ => format!("{}h{:02}m", time.as_secs() / 3600, time.as_secs() / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let times =
            [(80, "80us"), (1_500, "1.5ms"), (59_900_000, "59s"), (61_000_000, "1m01s"), (7_260_000_000, "2h01m")];
        for (micros, text) in times {
            assert_eq!(short(Duration::from_micros(micros)), text);
        }
    }
}
