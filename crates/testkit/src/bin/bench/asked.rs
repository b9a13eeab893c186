//! What the command line of a group of rows asks for.

use std::path::PathBuf;
use std::time::Duration;

/// A group: its rows and who is measured in them.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// Its rows and what they measure.
    pub(crate) rows: Vec<(&'static str, &'static str)>,
    /// Who is measured.
    pub(crate) peers: Vec<&'static str>,
    /// What is compared, for `--help`.
    pub(crate) about: &'static str,
    /// Where the programs are, for `--help`.
    pub(crate) programs: &'static str,
}

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
    /// Reads the words after the group's name.
    pub(crate) fn parse(group: &Group, arguments: &[String]) -> Result<Self, String> {
        let usage = group.usage();
        let mut options = Self { rows: Vec::new(), peers: Vec::new(), rounds: 0, quick: false, json: None };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; {usage}"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => {
                    let text = value()?;
                    let rounds = text.parse().ok().filter(|rounds| *rounds > 0);
                    options.rounds = rounds.ok_or_else(|| format!("`{text}` is not a number of rounds; {usage}"))?;
                }
                "--peers" => options.peers = value()?.split(',').map(str::to_owned).collect(),
                "--json" => options.json = Some(PathBuf::from(value()?)),
                row if group.rows.iter().any(|(name, _)| *name == row) => options.rows.push(row.to_owned()),
                other => {
                    let rows = group.rows.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
                    return Err(format!("`{other}` is neither a row nor an option; {usage}; rows: {rows}"));
                }
            }
        }
        if let Some(unknown) = options.peers.iter().find(|name| !group.peers.contains(&name.as_str())) {
            return Err(format!("there is no peer `{unknown}`; peers: {}", group.peers.join(" ")));
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
    pub(crate) fn wants_peer(&self, peer: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|name| name == peer)
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

impl Group {
    /// What `--help` prints.
    pub(crate) fn help(&self) -> String {
        let rows: String = self.rows.iter().map(|(name, title)| format!("  {name:<18}{title}\n")).collect();
        format!(
            "{}\n\n{}\n\nrows (all unless named):\n{rows}\npeers (all that are there unless named):\n  {}\n\n\
             --rounds N is 5, with --quick 1; --quick only shows that it works\n{}\n",
            self.usage(),
            self.about,
            self.peers.join(" "),
            self.programs
        )
    }

    /// Shown when an argument is not understood.
    fn usage(&self) -> String {
        format!("usage: bench {} [ROW…] [--quick] [--rounds N] [--peers A,B] [--json FILE]", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&crate::gateway::group(), &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn rows_peers_and_rounds_are_chosen() {
        let options = parse("http tls --rounds 3 --peers adit,direct").unwrap();
        assert!(options.wants_row("tls") && !options.wants_row("idle"));
        assert!(options.wants_peer("adit") && !options.wants_peer("nginx"));
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
