//! `bench gateway`: `adit up` as a gateway beside nginx and HAProxy in the same role, in the same run.
//!
//! Services and load run in processes of their own: the CPU that is counted is the proxy's alone, all its processes
//! together. Peers take turns within each round, and a figure is the median of the rounds, so that other work on the
//! machine meets all of them.

mod cold;
mod http;
mod idle;
mod latency;
mod reload;
pub(crate) mod service;
pub(crate) mod stand;
mod tls;

use testkit::process::raise_descriptor_limit;

use self::stand::{Peer, Stand};
use super::asked::{Group, Options};
use super::figures::{self, Rounds};
use super::table::{self, print};

/// One figure of a row.
type Figure = figures::Figure<Peer>;

/// One row: some figures that are measured together.
pub(crate) struct Row {
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
        name: "http",
        title: "HTTP, 64 kept connections, as fast as answers come",
        figures: http::FIGURES,
        peers: &[Peer::Direct, Peer::Nginx, Peer::Haproxy, Peer::Adit],
        measure: http::measure,
    },
    Row {
        name: "tls",
        title: "TLS handed on by its server name",
        figures: tls::FIGURES,
        peers: &[Peer::Direct, Peer::Nginx, Peer::Haproxy, Peer::HaproxySplice, Peer::Adit],
        measure: tls::measure,
    },
    Row {
        name: "latency",
        title: "1,000 requests a second, open loop",
        figures: latency::FIGURES,
        peers: &[Peer::Direct, Peer::Nginx, Peer::Haproxy, Peer::Adit],
        measure: latency::measure,
    },
    Row {
        name: "cold",
        title: "The first request to a route of a cluster",
        figures: cold::FIGURES,
        peers: &[Peer::Adit],
        measure: cold::measure,
    },
    Row {
        name: "idle",
        title: "Idle client connections, after one request each",
        figures: idle::FIGURES,
        peers: &[Peer::Nginx, Peer::Haproxy, Peer::Adit],
        measure: idle::measure,
    },
    Row {
        name: "reload",
        title: "A file of 1,000 routes with one change, under 50 open streams",
        figures: reload::FIGURES,
        peers: &[Peer::Adit],
        measure: reload::measure,
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
    raise_descriptor_limit().map_err(|error| error.to_string())?;
    let stand = Stand::build()?;
    print(&format!("{}\n", stand.description()));
    let mut tables = Vec::new();
    for row in ROWS.iter().filter(|row| options.wants_row(row.name)) {
        let table = row.run(&stand, &options).table(row.title, row.peers, row.figures);
        print(&table.markdown());
        tables.push((row.name, table));
    }
    table::save(options.json.as_deref(), &tables)
}

/// What there is to be asked for.
pub(crate) fn group() -> Group {
    Group {
        name: "gateway",
        rows: ROWS.iter().map(|row| (row.name, row.title)).collect(),
        peers: Peer::ALL.map(figures::Contender::name).to_vec(),
        about: "`adit up` beside nginx and HAProxy in the same role.",
        programs: "adit is $ADIT_BIN or target/release/adit; nginx and haproxy are those on PATH",
    }
}

impl Row {
    fn run(&self, stand: &Stand, options: &Options) -> Rounds<Peer> {
        let wanted = |peer: &Peer| options.wants_peer(figures::Contender::name(*peer)) && stand.has(self.name, *peer);
        let peers = self.peers.iter().copied().filter(wanted).collect();
        Rounds::of(self.name, peers, options.rounds, |peer| (self.measure)(stand, peer, options))
    }
}
