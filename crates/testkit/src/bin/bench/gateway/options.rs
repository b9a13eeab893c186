//! What the command line of `bench gateway` asks for.

use std::path::PathBuf;
use std::time::Duration;

use super::ROWS;
use super::stand::Peer;

/// Shown when an argument is not understood.
const USAGE: &str = "usage: bench gateway [ROW…] [--quick] [--rounds N] [--peers A,B] [--json FILE]";

/// All options.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    rows: Vec<String>,
    peers: Vec<String>,
    /// How often every peer is measured.
    pub(crate) rounds: usize,
    /// Short windows and little data: whether it works, not how well.
    pub(crate) quick: bool,
    /// Where the same figures go as JSON.
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Reads the words after `gateway`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { rows: Vec::new(), peers: Vec::new(), rounds: 0, quick: false, json: None };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; {USAGE}"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => {
                    let text = value()?;
                    let rounds = text.parse().ok().filter(|rounds| *rounds > 0);
                    options.rounds = rounds.ok_or_else(|| format!("`{text}` is not a number of rounds; {USAGE}"))?;
                }
                "--peers" => options.peers = value()?.split(',').map(str::to_owned).collect(),
                "--json" => options.json = Some(PathBuf::from(value()?)),
                row if ROWS.iter().any(|known| known.name == row) => options.rows.push(row.to_owned()),
                other => {
                    let rows = ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(" ");
                    return Err(format!("`{other}` is neither a row nor an option; {USAGE}; rows: {rows}"));
                }
            }
        }
        if let Some(unknown) = options.peers.iter().find(|name| Peer::ALL.iter().all(|peer| peer.name() != **name)) {
            return Err(format!("there is no peer `{unknown}`; peers: {}", peers()));
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 1 } else { 5 };
        }
        Ok(options)
    }

    /// Whether a row is wanted.
    pub(crate) fn wants_row(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| row == name)
    }

    /// Whether a peer is wanted.
    pub(crate) fn wants_peer(&self, peer: Peer) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|name| name == peer.name())
    }

    /// A window of so many milliseconds, a quarter of it when it is to be quick.
    pub(crate) fn window(&self, millis: u64) -> Duration {
        Duration::from_millis(if self.quick { millis / 4 } else { millis })
    }

    /// So many, a quarter of it when it is to be quick.
    pub(crate) fn count(&self, count: usize) -> usize {
        if self.quick { count.div_ceil(4) } else { count }
    }
}

/// What `--help` prints.
pub(crate) fn help() -> String {
    let rows: String = ROWS.iter().map(|row| format!("  {:<18}{}\n", row.name, row.title)).collect();
    format!(
        "{USAGE}\n\n`adit up` beside nginx and HAProxy in the same role.\n\nrows (all unless named):\n{rows}\n\
         peers (all that are there unless named):\n  {}\n\n\
         --rounds N is 5, with --quick 1; --quick only shows that it works\n\
         adit is $ADIT_BIN or target/release/adit; nginx and haproxy are those on PATH\n",
        peers()
    )
}

fn peers() -> String {
    Peer::ALL.map(Peer::name).join(" ")
}

#[cfg(test)]
mod tests {
    use super::Options;
    use crate::gateway::stand::Peer;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn rows_peers_and_rounds_are_chosen() {
        let options = parse("http tls --rounds 3 --peers adit,direct").unwrap();
        assert!(options.wants_row("tls") && !options.wants_row("idle"));
        assert!(options.wants_peer(Peer::Adit) && !options.wants_peer(Peer::Nginx));
        assert_eq!(options.rounds, 3);
        assert_eq!(parse("").unwrap().rounds, 5);
        assert_eq!(parse("--quick").unwrap().rounds, 1);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("nonsense").unwrap_err().contains("latency"));
        assert!(parse("--peers nobody").unwrap_err().contains("haproxy-splice"));
        assert!(parse("--rounds 0").is_err() && parse("--rounds x").is_err() && parse("--json").is_err());
    }
}
