//! `bench k8s`: `adit forward` beside stock `kubectl port-forward`, on the same fake cluster in the same run.
//!
//! Cluster and services run in processes of their own: the CPU that is counted is the client's alone. Clients take turns
//! within each round, and a figure is the median of the rounds, so that other work on the machine meets all of them.

pub(crate) mod bulk;
pub(crate) mod client;
pub(crate) mod figures;
pub(crate) mod home;
pub(crate) mod load;
mod memory;
mod options;
mod replaced;
mod stalled;
mod start;
mod traffic;

use testkit::process::raise_descriptor_limit;

use self::client::{Stand, Who};
use self::figures::{Figure, Rounds};
use self::options::Options;
use super::table::{self, note, print};

/// One row: some figures that are measured together.
pub(crate) struct Row {
    /// Its name on the command line.
    name: &'static str,
    /// What is measured.
    title: &'static str,
    figures: &'static [Figure],
    /// Whether the bare connection to the service is measured too.
    direct: bool,
    /// One round for one client: a value for each figure.
    measure: fn(&Stand, Who, &Options) -> Result<Vec<f64>, String>,
}

/// All rows, in the order they run.
const ROWS: &[Row] = &[
    Row { name: "start", title: "Start", figures: start::FIGURES, direct: false, measure: start::measure },
    Row {
        name: "newconn",
        title: "New TCP connection to first byte, warm, one at a time",
        figures: traffic::NEW_FIGURES,
        direct: true,
        measure: traffic::new_connections,
    },
    Row {
        name: "kept",
        title: "Kept connection, one request at a time",
        figures: traffic::KEPT_FIGURES,
        direct: true,
        measure: traffic::kept,
    },
    Row {
        name: "load",
        title: "50 kept connections, as fast as answers come",
        figures: traffic::LOAD_FIGURES,
        direct: true,
        measure: traffic::load,
    },
    Row {
        name: "perconn",
        title: "A connection for each request, 50 at a time",
        figures: traffic::FRESH_FIGURES,
        direct: true,
        measure: traffic::fresh,
    },
    Row { name: "bulk", title: "Bulk, one stream", figures: bulk::FIGURES, direct: true, measure: bulk::measure },
    Row { name: "memory", title: "Resident memory", figures: memory::FIGURES, direct: false, measure: memory::measure },
    Row {
        name: "stalled",
        title: "50 active streams beside one download that nobody reads",
        figures: stalled::FIGURES,
        direct: true,
        measure: stalled::measure,
    },
    Row {
        name: "replaced",
        title: "The pod goes, a second one is ready",
        figures: replaced::FIGURES,
        direct: false,
        measure: replaced::measure,
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
        let rounds = row.run(&stand, &options);
        let table = rounds.table(row.title, row.figures);
        print(&table.markdown());
        tables.push((row.name, table));
    }
    table::save(options.json.as_deref(), &tables)
}

impl Row {
    fn run(&self, stand: &Stand, options: &Options) -> Rounds {
        let mut clients: Vec<Who> = stand.clients().into_iter().filter(|who| options.wants_client(*who)).collect();
        clients.retain(|who| self.direct || *who != Who::Direct);
        let mut rounds = Rounds::default();
        for round in 1..=options.rounds {
            note(&format!("{} {round}/{} …", self.name, options.rounds));
            for who in &clients {
                match (self.measure)(stand, *who, options) {
                    Ok(values) => rounds.add(*who, values),
                    Err(error) => note(&format!("  {}: {error}", who.name())),
                }
            }
            // Whoever came first comes last in the next round.
            clients.reverse();
        }
        rounds
    }
}
