//! `bench monitor`: what `adit monitor` costs the connections of the machine, and what it takes itself. Needs root.
//!
//! Connections are made in one thread of this process and their processor time is that thread's; in `added` the other end is
//! in another process, and both count. Blocks with and without the monitor take turns, and each block with it is compared
//! with those before and after it: so what else the machine does falls on both.

mod alone;
pub(crate) mod between;
mod bulk;
mod cost;
mod idle;
mod load;
mod stand;
mod start;
mod switched;

use testkit::process::raise_descriptor_limit;

use self::alone::Alone;
use self::between::Between;
use self::stand::Stand;
use super::asked::{Group, Options};
use super::figures::{self, Contender, Rounds};
use super::table::{self, print};

/// Who is measured: the machine with somebody who looks at its connections beside the machine without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// `tcplife` of libbpf-tools: one tracepoint, a line for each connection that ends.
    Tcplife,
    /// bpftrace, with a script that tells what tcplife tells: its own ones are for kprobes, which not every kernel has.
    Bpftrace,
    /// adit.
    Adit,
}

impl Contender for Peer {
    const ADIT: Self = Self::Adit;

    fn name(self) -> &'static str {
        match self {
            Self::Tcplife => "tcplife",
            Self::Bpftrace => "bpftrace",
            Self::Adit => "adit",
        }
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
    /// Who is measured.
    peers: &'static [Peer],
    /// One round for one peer: a value for each figure.
    measure: fn(&Stand, Peer, &Options) -> Result<Vec<f64>, String>,
}

/// All rows, in the order they run.
const ROWS: &[Row] = &[
    Row {
        name: "added",
        title: "A client and a server in two processes, with the monitor's programs off and on in turns: processor time of both",
        figures: switched::FIGURES,
        peers: &[Peer::Adit],
        measure: |stand, _, options| switched::measure(stand, options, Between::build),
    },
    Row {
        name: "least",
        title: "The same with both ends in one thread, the least that a connection can cost",
        figures: switched::FIGURES,
        peers: &[Peer::Adit],
        measure: |stand, _, options| switched::measure(stand, options, Alone::build),
    },
    Row {
        name: "cost",
        title: "Both ends in one thread, with somebody who looks and after he has gone, each time started anew",
        figures: cost::FIGURES,
        peers: &[Peer::Tcplife, Peer::Bpftrace, Peer::Adit],
        measure: cost::measure,
    },
    Row {
        name: "bulk",
        title: "One stream over loopback, with and without somebody who looks",
        figures: bulk::FIGURES,
        peers: &[Peer::Tcplife, Peer::Bpftrace, Peer::Adit],
        measure: bulk::measure,
    },
    Row {
        name: "load",
        title: "The monitor itself at 20,000 connections a second",
        figures: load::FIGURES,
        peers: &[Peer::Adit],
        measure: |stand, _, options| load::measure(stand, options),
    },
    Row {
        name: "idle",
        title: "The monitor itself with 10,000 open connections",
        figures: idle::FIGURES,
        peers: &[Peer::Adit],
        measure: |stand, _, options| idle::measure(stand, options),
    },
    Row {
        name: "start",
        title: "From the start of the process until it is ready",
        figures: start::FIGURES,
        peers: &[Peer::Adit],
        measure: |stand, _, options| start::measure(stand, options),
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
        let peers =
            row.peers.iter().copied().filter(|peer| options.wants_peer(peer.name()) && stand.has(*peer)).collect();
        let rounds = Rounds::of(row.name, peers, options.rounds, |peer| (row.measure)(&stand, peer, &options));
        let table = rounds.table(row.title, row.peers, row.figures);
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
        peers: vec![Peer::Tcplife.name(), Peer::Bpftrace.name(), Peer::Adit.name()],
        about: "`adit monitor`: what it costs the machine's connections, and what it takes itself. Needs root.",
        programs: "adit is $ADIT_BIN or target/release/adit",
    }
}

/// What to say of an error of the system's.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
