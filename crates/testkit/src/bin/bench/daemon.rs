//! `bench daemon`: what the daemon costs, and its SSH beside `ssh -L` to the same server, in the same run.
//!
//! Services, the SSH server and load run in processes of their own or here: the CPU that is counted is the client's
//! alone. Peers take turns within each round, and a figure is the median of the rounds.

mod bulk;
mod connect;
mod idle;
mod recovery;
mod reload;
mod shutdown;
mod stand;
mod start;

use testkit::process::raise_descriptor_limit;

use self::stand::{Peer, Stand};
use super::asked::{Group, Options};
use super::figures::{self, Contender, Rounds};
use super::table::{self, print};

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
        name: "shutdown",
        title: "From SIGTERM to the end of a daemon with 50 forwards, half of them over SSH (localport: as published)",
        figures: shutdown::FIGURES,
        peers: &[Peer::Localport, Peer::Adit],
        measure: shutdown::measure,
    },
    Row {
        name: "start",
        title: "Start with 50 forwards on demand: TCP, SSH, Kubernetes",
        figures: start::FIGURES,
        peers: &[Peer::Adit],
        measure: start::measure,
    },
    Row {
        name: "bulk",
        title: "SSH, one stream",
        figures: bulk::FIGURES,
        peers: &[Peer::Ssh, Peer::SshGcm, Peer::Adit],
        measure: bulk::measure,
    },
    Row {
        name: "connect",
        title: "SSH, a new connection through a forward that is up, to its first byte",
        figures: connect::FIGURES,
        peers: &[Peer::Direct, Peer::Ssh, Peer::Adit],
        measure: connect::measure,
    },
    Row {
        name: "reload",
        title: "POST /v1/reload with 1 of 200 forwards changed, an open stream on each of the others",
        figures: reload::FIGURES,
        peers: &[Peer::Adit],
        measure: reload::measure,
    },
    Row {
        name: "recovery",
        title: "The SSH server is killed and started again: from its listening to the first answer",
        figures: recovery::FIGURES,
        peers: &[Peer::Adit],
        measure: recovery::measure,
    },
    Row {
        name: "idle",
        title: "A daemon with 200 forwards that does nothing",
        figures: idle::FIGURES,
        peers: &[Peer::Adit],
        measure: idle::measure,
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
        let peers = row.peers.iter().copied().filter(|peer| options.wants_peer(peer.name())).collect();
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
        name: "daemon",
        rows: ROWS.iter().map(|row| (row.name, row.title)).collect(),
        peers: Peer::ALL.map(Contender::name).to_vec(),
        about: "`adit daemon`: start, end, reload, recovery and cost; and its SSH beside `ssh -L`.",
        programs: "adit is $ADIT_BIN or target/release/adit; ssh and sshd are the system's",
    }
}

/// What to say of an error of the system's.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Milliseconds.
fn millis(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
