//! `bench monitor`: what `adit monitor` costs the connections of the machine, and what it takes itself. Needs root.
//!
//! Connections are made in one thread of this process and their processor time is that thread's. Blocks with and without
//! the monitor take turns, and each block with it is compared with those before and after it: so what else the machine
//! does falls on both.

mod bulk;
mod cost;
mod idle;
mod load;
mod stand;
mod start;

use testkit::process::raise_descriptor_limit;

use self::stand::Stand;
use super::asked::{Group, Options};
use super::figures::{self, Contender, Rounds};
use super::table::{self, print};

/// Who is measured: the machine with the monitor beside the machine without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// adit.
    Adit,
}

impl Contender for Peer {
    const ADIT: Self = Self::Adit;

    fn name(self) -> &'static str {
        "adit"
    }
}

/// One figure of a row.
type Figure = figures::Figure<Peer>;

/// One row: some figures that are measured together.
struct Row {
    /// Its name on the command line.
    name: &'static str,
    /// What is measured.
    title: &'static str,
    figures: &'static [Figure],
    /// One round: a value for each figure.
    measure: fn(&Stand, &Options) -> Result<Vec<f64>, String>,
}

/// All rows, in the order they run.
const ROWS: &[Row] = &[
    Row {
        name: "cost",
        title: "connect, accept and two closes in one thread, with and without the monitor: processor time",
        figures: cost::FIGURES,
        measure: cost::measure,
    },
    Row {
        name: "bulk",
        title: "One stream over loopback, with and without the monitor",
        figures: bulk::FIGURES,
        measure: bulk::measure,
    },
    Row {
        name: "load",
        title: "The monitor itself at 20,000 connections a second",
        figures: load::FIGURES,
        measure: load::measure,
    },
    Row {
        name: "idle",
        title: "The monitor itself with 10,000 open connections",
        figures: idle::FIGURES,
        measure: idle::measure,
    },
    Row {
        name: "start",
        title: "From the start of the process until it is ready",
        figures: start::FIGURES,
        measure: start::measure,
    },
];

/// Reads the command line and measures.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let group = group();
    if arguments.iter().any(|word| word == "--help" || word == "-h") {
        print(&group.help());
        return Ok(());
    }
    let options = Options::parse(&group, arguments)?;
    raise_descriptor_limit().map_err(told)?;
    let stand = Stand::build()?;
    print(&format!("{}\n", stand.description()));
    let mut tables = Vec::new();
    for row in ROWS.iter().filter(|row| options.wants_row(row.name)) {
        let rounds = Rounds::of(row.name, vec![Peer::Adit], options.rounds, |_| (row.measure)(&stand, &options));
        let table = rounds.table(row.title, &[Peer::Adit], row.figures);
        print(&table.markdown());
        tables.push((row.name, table));
    }
    table::save(options.json.as_deref(), &tables)
}

/// What there is to be asked for.
fn group() -> Group {
    Group {
        name: "monitor",
        rows: ROWS.iter().map(|row| (row.name, row.title)).collect(),
        peers: vec![Peer::Adit.name()],
        about: "`adit monitor`: what it costs the machine's connections, and what it takes itself. Needs root.",
        programs: "adit is $ADIT_BIN or target/release/adit",
    }
}

/// What to say of an error of the system's.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
