//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use super::peers::PEERS;
use super::rows::ROWS;

/// Shown when an argument is not understood.
const USAGE: &str =
    "usage: bench [ROW…] [--seconds N] [--peers A,B] [--rate REQ/S] [--streams N] [--agents N] [--json FILE]";

/// All options.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Rows to run, all when empty.
    pub(crate) rows: Vec<String>,
    /// Length of one measurement.
    pub(crate) seconds: u64,
    /// Peers to run, all that can be had when empty.
    pub(crate) peers: Vec<String>,
    /// Requests a second of the open-loop part.
    pub(crate) rate: f64,
    /// Idle streams.
    pub(crate) streams: usize,
    /// Idle agents.
    pub(crate) agents: usize,
    /// Where the same figures go as JSON.
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            rows: Vec::new(),
            seconds: 5,
            peers: Vec::new(),
            rate: 2000.0,
            streams: 10_000,
            agents: 5000,
            json: None,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; {USAGE}"));
            match word.as_str() {
                "--seconds" => options.seconds = number(value()?)?,
                "--rate" => options.rate = number(value()?)?,
                "--streams" => options.streams = number(value()?)?,
                "--agents" => options.agents = number(value()?)?,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--peers" => options.peers = value()?.split(',').map(str::to_owned).collect(),
                row if ROWS.iter().any(|known| known.name == row) => {
                    options.rows.push(row.to_owned());
                }
                other => {
                    return Err(format!("`{other}` is neither a row nor an option; {USAGE}; rows: {}", row_names()));
                }
            }
        }
        if let Some(unknown) = options.peers.iter().find(|peer| !PEERS.contains(&peer.as_str())) {
            return Err(format!("there is no peer `{unknown}`; peers: {}", PEERS.join(", ")));
        }
        Ok(options)
    }

    /// Whether a row is wanted.
    pub(crate) fn wants_row(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| row == name)
    }

    /// Whether a peer is wanted.
    pub(crate) fn wants_peer(&self, name: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|peer| peer == name)
    }

    /// Length of one measurement.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What `--help` prints.
pub(crate) fn help() -> String {
    let rows: String = ROWS.iter().map(|row| format!("  {:<18}{}\n", row.name, row.title)).collect();
    format!(
        "{USAGE}\n\nrows (all unless named):\n{rows}\npeers (all that are installed unless named):\n  {}\n\nadit itself is $ADIT_BIN or target/release/adit\n`bench k8s --help`: adit forward beside kubectl\n`bench gateway --help`: adit up beside nginx and HAProxy\n`bench daemon --help`: the daemon, and its SSH beside ssh -L\n",
        PEERS.join(" ")
    )
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number; {USAGE}"))
}

fn row_names() -> String {
    ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn rows_and_peers_are_chosen_by_name() {
        let options = parse("http bulk --seconds 2 --peers direct,ssh-R").unwrap();
        assert!(options.wants_row("bulk") && !options.wants_row("relay"));
        assert!(options.wants_peer("ssh-R") && !options.wants_peer("nginx-http"));
        assert_eq!(options.seconds, 2);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("nonsense").unwrap_err().contains("idle-agents"));
        assert!(parse("--peers nobody").unwrap_err().contains("haproxy-tcp"));
        assert!(parse("--seconds x").is_err() && parse("--json").is_err());
    }
}
