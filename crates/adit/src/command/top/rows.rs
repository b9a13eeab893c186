//! Lines of the table, from what was known at a moment.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::monitor::decode::Command;
use ::monitor::table::{Connection, Process, Rate, Remote, Sums};
use serde_json::{Value, json};

use super::event;
use super::look::Look;
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

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// So wide at least, so that nothing moves for every figure.
    pub(super) wide: usize,
    pub(super) meaning: &'static str,
}

const fn column(title: &'static str, wide: usize, meaning: &'static str) -> Column {
    Column { title, wide, meaning }
}

const PID: Column = column("PID", 7, "number of the process; – is nobody that is known");
const COMMAND: Column = column("COMMAND", 12, "name of the process");
const OPEN: Column = column("OPEN", 5, "connections that are open now");
const OPENED: Column = column("OPENED", 6, "connections asked for from here, since adit top began");
const INCOMING: Column = column("INCOMING", 8, "connections that others asked for, since adit top began");
const FAILED: Column = column("FAILED", 6, "connections that never came to be, since adit top began");
const RATE: Column = column("RATE", 7, "bytes a second now, both ways");
const SENT: Column = column(
    "SENT",
    5,
    "all bytes sent by its connections: those open now, from their beginning, and those over since adit top began",
);
const SENT_OF_ONE: Column = column("SENT", 5, "all bytes sent, from its beginning");
const RECEIVED: Column = column("RECEIVED", 8, "all bytes received, counted as those sent");
const RETRANS: Column = column("RETRANS", 7, "packets sent again, counted as the bytes");
const RTT: Column = column("RTT", 7, "smoothed round-trip time");
const FORWARD: Column = column(
    "FORWARD",
    7,
    "forward or tunnel of adit that is used; while there are none it is the first to go where room is short",
);
const PORT: Column = column("PORT", 5, "port of the service: there, or here when they came in");
const WAY: Column = column("WAY", 3, "out: asked for here; in: asked for there");

const OF_PROCESSES: [Column; 12] = [
    PID,
    COMMAND,
    OPEN,
    OPENED,
    INCOMING,
    FAILED,
    RATE,
    SENT,
    RECEIVED,
    RETRANS,
    FORWARD,
    column("PLACE", 5, "pod, container or unit of the process; host is none of them"),
];
const OF_CONNECTIONS: [Column; 13] = [
    PID,
    COMMAND,
    column("LOCAL", 15, "address here"),
    column("REMOTE", 15, "address there"),
    WAY,
    column("STATE", 11, "as TCP names it"),
    column("AGE", 6, "time since it was opened; – when it is older than adit top"),
    RATE,
    SENT_OF_ONE,
    RECEIVED,
    RTT,
    RETRANS,
    FORWARD,
];
const OF_REMOTES: [Column; 12] = [
    column(
        "REMOTE",
        15,
        "address there; of another network namespace than this one with %, and its number as lsns has it",
    ),
    PORT,
    WAY,
    OPEN,
    column("OPENED", 6, "connections that began, either way, since adit top began"),
    FAILED,
    RATE,
    SENT,
    RECEIVED,
    RTT,
    RETRANS,
    FORWARD,
];

impl Column {
    /// A figure: how many, how much or how long. The others say who and where, and are what a filter looks at.
    pub(super) fn is_figure(self) -> bool {
        !matches!(self.title, "PID" | "COMMAND" | "LOCAL" | "REMOTE" | "PORT" | "WAY" | "STATE" | "FORWARD" | "PLACE")
    }
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

    /// Its columns.
    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Process => &OF_PROCESSES,
            Self::Connection => &OF_CONNECTIONS,
            Self::Remote => &OF_REMOTES,
        }
    }

    /// Their names as `--sort` takes them.
    pub(super) fn names(self) -> String {
        let names: Vec<&str> = self.columns().iter().map(|column| column.title).collect();
        names.join(", ").to_lowercase()
    }
}

/// What `--sort` says of itself.
pub(super) fn sort_help() -> String {
    let [process, connection, remote] = By::ALL.map(By::names);
    format!(
        "The column to sort by: the greatest first, names from A\n\nWith --by process: {process}\nWith --by connection: \
         {connection}\nWith --by remote: {remote}\n\n[default: rate]"
    )
}

/// Bytes as they are shown; none is a plain nothing.
pub(super) fn amount(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { bytes(number) }
}

/// A cell: kept as what it is, and made a text when it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// It is not known here: the way that was taken does not tell.
    Unknown,
    Word(&'static str),
    Text(String),
    Name(Arc<str>),
    Command(Command),
    /// An address, with the network namespace that it is of where that is not ours.
    Ip(IpAddr, Option<u32>),
    Address(SocketAddr),
    Count(u64),
    Bytes(u64),
    Rate(u64),
    Time(Duration),
}

impl Cell {
    /// What is shown.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Unknown => "–".to_owned(),
            Self::Word(text) => (*text).to_owned(),
            Self::Text(text) => text.clone(),
            Self::Name(text) => text.as_ref().to_owned(),
            Self::Command(command) => command.text(),
            Self::Ip(ip, None) => ip.to_string(),
            Self::Ip(ip, Some(netns)) => format!("{ip}%{netns}"),
            Self::Address(address) => address.to_string(),
            Self::Count(number) => number.to_string(),
            Self::Bytes(number) => amount(*number),
            Self::Rate(0) => amount(0),
            Self::Rate(number) => format!("{}/s", bytes(*number)),
            Self::Time(time) => short(*time),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Word(text) => text.is_empty(),
            _ => false,
        }
    }

    /// Whether it says nothing.
    pub(super) fn is_unknown(&self) -> bool {
        *self == Self::Unknown || self.is_empty()
    }

    fn number(&self) -> Option<u128> {
        match self {
            Self::Count(number) | Self::Bytes(number) | Self::Rate(number) => Some((*number).into()),
            Self::Time(time) => Some(time.as_nanos()),
            _ => None,
        }
    }

    /// The greatest number first, texts and addresses from their beginning; what is not known is last.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let rank = self.is_unknown().cmp(&other.is_unknown());
        rank.then_with(|| match (self, other) {
            (Self::Word(a), Self::Word(b)) => a.cmp(b),
            (Self::Command(a), Self::Command(b)) => a.cmp(b),
            (Self::Ip(a, net_a), Self::Ip(b, net_b)) => (a, net_a).cmp(&(b, net_b)),
            (Self::Address(a), Self::Address(b)) => a.cmp(b),
            (Self::Name(a), Self::Name(b)) => a.cmp(b),
            (a, b) => match (a.number(), b.number()) {
                (Some(a), Some(b)) => b.cmp(&a),
                _ => a.text().cmp(&b.text()),
            },
        })
    }

    fn count(number: usize) -> Self {
        Self::Count(u64::try_from(number).unwrap_or(u64::MAX))
    }

    /// A number that there is, or not.
    fn known(number: Option<u64>) -> Self {
        number.map_or(Self::Unknown, Self::Count)
    }

    fn time(time: Option<Duration>) -> Self {
        time.map_or(Self::Unknown, Self::Time)
    }
}

/// One line.
pub(super) type Row = Vec<Cell>;

/// All lines of a kind, in no order.
pub(super) fn rows(by: By, look: &Look) -> Vec<Row> {
    all(by, look).map(|(row, _)| row).collect()
}

/// What a line is for programs, made when it is asked for.
type Told<'a> = Box<dyn Fn() -> Value + 'a>;

/// All lines of a kind with what they are for programs, in no order.
fn all<'a>(by: By, look: &'a Look) -> Box<dyn Iterator<Item = (Row, Told<'a>)> + 'a> {
    let uses = &look.uses;
    match by {
        By::Process => {
            let used = used(look);
            let processes = look.processes.iter().map(move |process| {
                let mut forwards = used.get(&process.id.pid).cloned().unwrap_or_default();
                forwards.sort_unstable();
                let seen = Seen::of(&process.sums, look);
                let row = of_process(process, seen, &forwards);
                (row, Box::new(move || process_json(process, seen, &forwards)) as Told<'a>)
            });
            Box::new(processes.chain(Nobodys::of(look).map(|nobodys| {
                let row = nobodys.row();
                (row, Box::new(move || nobodys.json()) as Told<'a>)
            })))
        }
        By::Connection => {
            let entrances = uses.entrances(look.connections.iter());
            Box::new(look.connections.iter().map(move |one| {
                let forward = uses.of(&one.record, &entrances).map(str::to_owned);
                let row = of_connection(one, look.at, forward.as_deref());
                let value = move || connection_json(one, look.at, forward.as_deref());
                (row, Box::new(value) as Told<'a>)
            }))
        }
        By::Remote => {
            let entrances = uses.entrances(look.connections.iter());
            let incoming = uses.incoming(&look.connections, &entrances);
            let incoming: HashMap<_, _> = incoming.into_iter().map(|(id, name)| (id, name.to_owned())).collect();
            Box::new(look.remotes.iter().map(move |remote| {
                let of_open = incoming.get(&remote.id).cloned();
                let forward = of_open.or_else(|| uses.of_remote(remote.id, &entrances).map(str::to_owned));
                let failed = Seen::of(&remote.sums, look).failed;
                let row = of_remote(remote, failed, look.foreign(remote.id.netns), forward.as_deref());
                (row, Box::new(move || remote_json(remote, failed, forward.as_deref())) as Told<'a>)
            }))
        }
    }
}

/// The forwards that each process uses now.
fn used(look: &Look) -> HashMap<u32, Vec<String>> {
    let mut used: HashMap<u32, Vec<String>> = HashMap::new();
    let entrances = look.uses.entrances(look.connections.iter());
    if look.uses.is_empty() && entrances.is_empty() {
        return used;
    }
    for one in &look.connections {
        let (Some(owner), Some(name)) = (one.record.owner, look.uses.of(&one.record, &entrances)) else { continue };
        let names = used.entry(owner.process.pid).or_default();
        if !names.iter().any(|have| have == name) {
            names.push(name.to_owned());
        }
    }
    used
}

/// What not every way sees.
#[derive(Clone, Copy)]
struct Seen {
    incoming: Option<u64>,
    failed: Option<u64>,
    closed: Option<u64>,
}

impl Seen {
    fn of(sums: &Sums, look: &Look) -> Self {
        let known = |count: u64| (!look.sees_attempts_alone).then_some(count);
        let failed = look.sees_failures.then_some(sums.failed);
        Self { incoming: known(sums.incoming), failed, closed: known(sums.closed) }
    }
}

/// Open connections of which it is not known whose they are, together: without rights that may be nearly all.
struct Nobodys {
    open: usize,
    rate: Rate,
    sums: Sums,
}

impl Nobodys {
    /// What is said in the place of a name.
    const NAME: &'static str = "(not known)";

    fn of(look: &Look) -> Option<Self> {
        let mut all = Self { open: 0, rate: Rate::default(), sums: Sums::default() };
        for one in look.connections.iter().filter(|one| one.record.owner.is_none()) {
            all.open += 1;
            all.rate.sent = all.rate.sent.saturating_add(one.rate.sent);
            all.rate.received = all.rate.received.saturating_add(one.rate.received);
            all.sums.sent = all.sums.sent.saturating_add(one.record.sent);
            all.sums.received = all.sums.received.saturating_add(one.record.received);
            all.sums.retransmits += u64::from(one.record.retransmits);
        }
        (all.open > 0).then_some(all)
    }

    fn row(&self) -> Row {
        vec![
            Cell::Unknown,
            Cell::Word(Self::NAME),
            Cell::count(self.open),
            Cell::Unknown,
            Cell::Unknown,
            Cell::Unknown,
            Cell::Rate(self.rate.both()),
            Cell::Bytes(self.sums.sent),
            Cell::Bytes(self.sums.received),
            Cell::Count(self.sums.retransmits),
            Cell::Word(""),
            Cell::Unknown,
        ]
    }

    fn json(&self) -> Value {
        json!({
            "pid": null, "command": null, "user": null, "place": null, "open": self.open, "opened": null,
            "incoming": null, "failed": null, "closed": null, "sent": self.sums.sent, "received": self.sums.received,
            "sent_per_second": self.rate.sent, "received_per_second": self.rate.received,
            "retransmits": self.sums.retransmits, "forwards": [],
        })
    }
}

fn of_process(process: &Process, seen: Seen, forwards: &[String]) -> Row {
    let sums = process.whole();
    vec![
        Cell::Count(process.id.pid.into()),
        Cell::Command(process.command),
        Cell::count(process.open),
        Cell::Count(sums.opened),
        Cell::known(seen.incoming),
        Cell::known(seen.failed),
        Cell::Rate(process.rate.both()),
        Cell::Bytes(sums.sent),
        Cell::Bytes(sums.received),
        Cell::Count(sums.retransmits),
        Cell::Text(forwards.join(",")),
        process.place.as_ref().map_or(Cell::Unknown, |place| Cell::Name(Arc::clone(place))),
    ]
}

fn of_connection(one: &Connection, now: Duration, forward: Option<&str>) -> Row {
    let record = &one.record;
    let owner = record.owner;
    vec![
        owner.map_or(Cell::Unknown, |owner| Cell::Count(owner.process.pid.into())),
        owner.map_or(Cell::Unknown, |owner| Cell::Command(owner.command)),
        Cell::Address(record.local),
        Cell::Address(record.remote),
        Cell::Word(if record.incoming { "in" } else { "out" }),
        Cell::Word(record.state.as_str()),
        Cell::time((!record.seen_late).then(|| record.duration(now))),
        Cell::Rate(one.rate.both()),
        Cell::Bytes(record.sent),
        Cell::Bytes(record.received),
        Cell::time(record.rtt),
        Cell::Count(record.retransmits.into()),
        forward.map_or(Cell::Word(""), |name| Cell::Text(name.to_owned())),
    ]
}

fn of_remote(remote: &Remote, failed: Option<u64>, netns: Option<u32>, forward: Option<&str>) -> Row {
    let (id, sums) = (remote.id, remote.whole());
    vec![
        Cell::Ip(id.address, netns),
        Cell::Count(id.port.into()),
        Cell::Word(if id.incoming { "in" } else { "out" }),
        Cell::count(remote.open),
        Cell::Count(sums.opened + sums.incoming),
        Cell::known(failed),
        Cell::Rate(remote.rate.both()),
        Cell::Bytes(sums.sent),
        Cell::Bytes(sums.received),
        Cell::time(remote.rtt),
        Cell::Count(sums.retransmits),
        forward.map_or(Cell::Word(""), |name| Cell::Text(name.to_owned())),
    ]
}

/// All tables as one object, with stable names; chosen and ordered as the lines of the table are.
pub(super) fn json(look: &Look, view: &View, lines: Option<usize>) -> Value {
    let list = |by: By| {
        let mut all: Vec<_> = all(by, look).filter(|(row, _)| view.fits(by, row)).collect();
        all.sort_by(|(a, _), (b, _)| view.compare(by, a, b));
        Value::from(all.iter().take(lines.unwrap_or(usize::MAX)).map(|(_, value)| value()).collect::<Vec<_>>())
    };
    json!({ "processes": list(By::Process), "connections": list(By::Connection), "remotes": list(By::Remote) })
}

fn process_json(process: &Process, seen: Seen, forwards: &[String]) -> Value {
    let sums = process.whole();
    json!({
        "pid": process.id.pid, "command": process.command.text(), "user": process.user,
        "place": process.place.as_deref(), "open": process.open, "opened": sums.opened, "incoming": seen.incoming,
        "failed": seen.failed, "closed": seen.closed, "sent": sums.sent, "received": sums.received,
        "sent_per_second": process.rate.sent, "received_per_second": process.rate.received,
        "retransmits": sums.retransmits, "forwards": forwards,
    })
}

fn connection_json(one: &Connection, now: Duration, forward: Option<&str>) -> Value {
    let mut value = event::connection(&one.record, one.place.as_deref(), forward);
    value["duration_us"] = (!one.record.seen_late).then(|| event::micros(one.record.duration(now))).into();
    value["sent_per_second"] = one.rate.sent.into();
    value["received_per_second"] = one.rate.received.into();
    value
}

fn remote_json(remote: &Remote, failed: Option<u64>, forward: Option<&str>) -> Value {
    let (id, sums) = (remote.id, remote.whole());
    json!({
        "address": id.address.to_string(), "port": id.port,
        "netns": (id.netns != 0).then_some(id.netns), "direction": event::direction(id.incoming),
        "open": remote.open, "connections": sums.opened + sums.incoming, "failed": failed,
        "sent": sums.sent, "received": sums.received, "retransmits": sums.retransmits,
        "sent_per_second": remote.rate.sent, "received_per_second": remote.rate.received,
        "rtt_us": remote.rtt.map(event::micros), "forward": forward,
    })
}

/// A time in a few characters.
pub(super) fn short(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..1_000_000 => format!("{}.{}ms", micros / 1_000, micros / 100 % 10),
        1_000_000..10_000_000 => format!("{}.{}s", micros / 1_000_000, micros / 100_000 % 10),
        10_000_000..60_000_000 => format!("{}s", time.as_secs()),
        60_000_000..3_600_000_000 => format!("{}m{:02}s", time.as_secs() / 60, time.as_secs() % 60),
        3_600_000_000..86_400_000_000 => format!("{}h{:02}m", time.as_secs() / 3600, time.as_secs() / 60 % 60),
        _ => format!("{}d{:02}h", time.as_secs() / 86_400, time.as_secs() / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let times = [
            (80, "80us"),
            (1_500, "1.5ms"),
            (999_960, "999.9ms"),
            (1_590_000, "1.5s"),
            (9_999_999, "9.9s"),
            (59_900_000, "59s"),
            (61_000_000, "1m01s"),
            (7_260_000_000, "2h01m"),
            (180_000_000_000, "2d02h"),
        ];
        for (micros, text) in times {
            assert_eq!(short(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn numbers_are_ordered_from_the_greatest_addresses_and_names_from_their_beginning_and_what_is_unknown_is_last() {
        let address = |text: &str| Cell::Address(text.parse().unwrap());
        let before = |a: &Cell, b: &Cell| a.compare(b) == Ordering::Less && b.compare(a) == Ordering::Greater;
        assert!(before(&Cell::Count(100), &Cell::Count(20)));
        assert!(before(&Cell::Time(Duration::from_secs(1)), &Cell::Time(Duration::from_nanos(1))));
        assert!(before(&address("9.0.0.1:80"), &address("10.0.0.1:80")), "by number, not as a text");
        for cell in [Cell::Count(0), address("1.1.1.1:1"), Cell::Text("z".into())] {
            assert!(before(&cell, &Cell::Unknown), "{cell:?}");
        }
        assert!(before(&Cell::Text("z".into()), &Cell::Word("")), "a place that there is comes before none");
    }

    #[test]
    fn every_column_says_what_it_means_and_all_are_in_the_help_of_sort() {
        let help = sort_help();
        for column in By::ALL.iter().flat_map(|by| by.columns()) {
            assert!(!column.meaning.is_empty() && help.contains(&column.title.to_lowercase()), "{}", column.title);
        }
    }
}
