//! `bench gateway`: `adit up` as a gateway beside nginx and HAProxy in the same role, in the same run.
//!
//! Services and load run in processes of their own: the CPU that is counted is the proxy's alone, all its processes
//! together. Peers take turns within each round, and a figure is the median of the rounds, so that other work on the
//! machine meets all of them.

mod cold;
mod figures;
mod http;
mod idle;
mod latency;
mod options;
mod reload;
pub(crate) mod service;
mod stand;
mod tls;

use testkit::process::raise_descriptor_limit;

use self::figures::{Figure, Rounds};
use self::options::Options;
use self::stand::{Peer, Stand};
use super::table::{self, note, print};

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
    if arguments.iter().any(|word| word == "--help" || word == "-h") {
        print(&options::help());
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    raise_descriptor_limit().map_err(|error| error.to_string())?;
    let stand = Stand::build()?;
    print(&format!("{}\n", stand.description()));
    let mut tables = Vec::new();
    for row in ROWS.iter().filter(|row| options.wants_row(row.name)) {
        let table = row.run(&stand, &options).table(row);
        print(&table.markdown());
        tables.push((row.name, table));
    }
    table::save(options.json.as_deref(), &tables)
}

impl Row {
    fn run(&self, stand: &Stand, options: &Options) -> Rounds {
        let wanted = |peer: &Peer| options.wants_peer(*peer) && stand.has(self.name, *peer);
        let mut peers: Vec<Peer> = self.peers.iter().copied().filter(wanted).collect();
        let mut rounds = Rounds::default();
        for round in 1..=options.rounds {
            note(&format!("{} {round}/{} …", self.name, options.rounds));
            for peer in &peers {
                match (self.measure)(stand, *peer, options) {
                    Ok(values) => rounds.add(*peer, values),
                    Err(error) => note(&format!("  {}: {error}", peer.name())),
                }
            }
            // Whoever came first comes last in the next round.
            peers.reverse();
        }
        rounds
    }
}
