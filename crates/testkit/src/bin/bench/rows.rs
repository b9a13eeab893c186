//! The rows of the table: what is measured, on which peers, and what is printed.

use testkit::process::raise_descriptor_limit;

use super::options::Options;
use super::peers::{Missing, PEERS, Peer};
use super::service::Origin;
use super::table::{self, Cell, Lines, Table, note, print};

mod bulk;
mod echo;
mod half_close;
mod http;
mod idle;
mod relay;

/// Which peers a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    /// Those that carry streams.
    Tcp,
    /// Those that understand HTTP, and the bare connection.
    Http,
    /// All.
    Any,
    /// adit alone; the row starts what it needs.
    Product,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What is measured.
    pub(crate) title: &'static str,
    carries: Carries,
    columns: &'static [&'static str],
    /// The figure that is also given as a ratio to the bare connection.
    ratio: Option<usize>,
    measure: Measure,
}

/// What measures a row.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// One line for each peer.
    Peer(fn(&Peer, &Options) -> Result<Vec<Cell>, String>),
    /// Lines as the row sees fit.
    Own(fn(&Origin, &Options) -> Result<Lines, Missing>),
}

/// All rows, in the order they run.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "http",
        title: "HTTP requests on kept-alive connections, through an HTTP tunnel or proxy",
        carries: Carries::Http,
        columns: http::COLUMNS,
        ratio: Some(2),
        measure: Measure::Peer(http::kept),
    },
    Row {
        name: "tcp",
        title: "HTTP requests on kept-alive connections, through a TCP tunnel or proxy",
        carries: Carries::Tcp,
        columns: http::COLUMNS,
        ratio: Some(2),
        measure: Measure::Peer(http::kept),
    },
    Row {
        name: "newconn",
        title: "New connection for each request, 16 at a time",
        carries: Carries::Any,
        columns: &["conn/s", "p50 µs", "p99 µs", "CPU µs/conn", "errors"],
        ratio: Some(0),
        measure: Measure::Peer(http::fresh),
    },
    Row {
        name: "firstbyte",
        title: "First byte of a new stream, one at a time",
        carries: Carries::Any,
        columns: &["p50 µs", "p99 µs", "p99.9 µs", "CPU µs/conn", "errors"],
        ratio: Some(0),
        measure: Measure::Peer(http::first_byte),
    },
    Row {
        name: "echo-beside-bulk",
        title: "Echo of 64 bytes beside two unlimited transfers",
        carries: Carries::Tcp,
        columns: echo::COLUMNS,
        ratio: Some(3),
        measure: Measure::Peer(echo::beside_bulk),
    },
    Row {
        name: "bulk",
        title: "Bulk, MB/s and CPU seconds per GB",
        carries: Carries::Any,
        columns: bulk::COLUMNS,
        ratio: None,
        measure: Measure::Peer(bulk::all),
    },
    Row {
        name: "stalled",
        title: "Four stalled readers or writers beside two downloads",
        carries: Carries::Tcp,
        columns: echo::STALLED_COLUMNS,
        ratio: None,
        measure: Measure::Peer(echo::stalled),
    },
    Row {
        name: "relay",
        title: "One stream over a 50 ms round-trip relay",
        carries: Carries::Product,
        columns: relay::COLUMNS,
        ratio: None,
        measure: Measure::Own(relay::all),
    },
    Row {
        name: "idle-streams",
        title: "Idle streams",
        carries: Carries::Tcp,
        columns: idle::STREAM_COLUMNS,
        ratio: None,
        measure: Measure::Peer(idle::streams),
    },
    Row {
        name: "idle-agents",
        title: "Idle agents with two lanes and one tunnel each: the server",
        carries: Carries::Product,
        columns: idle::AGENT_COLUMNS,
        ratio: None,
        measure: Measure::Own(idle::agents),
    },
    Row {
        name: "idle-server",
        title: "Idle server and agent (best of five starts)",
        carries: Carries::Product,
        columns: idle::SERVER_COLUMNS,
        ratio: None,
        measure: Measure::Own(idle::server),
    },
    Row {
        name: "halfclose",
        title: "Half-close (6 cases) and 8 × 8 MB of noise through echo",
        carries: Carries::Tcp,
        columns: half_close::COLUMNS,
        ratio: None,
        measure: Measure::Peer(half_close::all),
    },
];

/// Runs what the options ask for.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    raise_descriptor_limit().map_err(|error| error.to_string())?;
    let origin = Origin::start()?;
    let mut tables = Vec::new();
    for row in ROWS.iter().filter(|row| options.wants_row(row.name)) {
        note(&format!("{} …", row.name));
        let mut table = Table { title: row.title.to_owned(), ..Table::default() };
        table.columns = std::iter::once("peer").chain(row.columns.iter().copied()).map(str::to_owned).collect();
        table.lines = row.lines(&origin, options);
        if let Some(column) = row.ratio {
            table.add_ratio(column);
        }
        print(&table.markdown());
        tables.push((row.name, table));
    }
    table::save(options.json.as_deref(), &tables)
}

impl Row {
    fn lines(&self, origin: &Origin, options: &Options) -> Lines {
        match self.measure {
            Measure::Own(measure) => measure(origin, options).unwrap_or_else(|missing| {
                note(&format!("  {}: {missing}", self.name));
                Vec::new()
            }),
            Measure::Peer(measure) => PEERS
                .iter()
                .filter(|peer| self.carries.includes(peer) && options.wants_peer(peer))
                .filter_map(|name| self.line(name, measure, origin, options))
                .collect(),
        }
    }

    fn line(
        &self,
        name: &str,
        measure: fn(&Peer, &Options) -> Result<Vec<Cell>, String>,
        origin: &Origin,
        options: &Options,
    ) -> Option<(String, Vec<Cell>)> {
        let measured = Peer::start(name, origin).and_then(|peer| measure(&peer, options).map_err(Missing::Failed));
        match measured {
            Ok(cells) => Some((name.to_owned(), cells)),
            Err(missing @ Missing::NotInstalled(_)) => {
                note(&format!("  {name}: {missing}"));
                None
            }
            Err(missing) => {
                note(&format!("  {name}: {missing}"));
                Some((name.to_owned(), vec![Cell::Text("failed".to_owned())]))
            }
        }
    }
}

impl Carries {
    fn includes(self, peer: &str) -> bool {
        let http = peer.ends_with("http");
        match self {
            Self::Tcp => !http,
            Self::Http => http || peer == "direct",
            Self::Any => true,
            Self::Product => false,
        }
    }
}
