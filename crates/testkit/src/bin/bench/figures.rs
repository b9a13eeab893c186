//! Values of all rounds, their medians, and how they stand to what was asked for.

use crate::k8s::figures::{Better, median};
use crate::table::{Cell, Table, note};

/// Who is measured: adit and others.
pub(crate) trait Contender: Copy + PartialEq + 'static {
    /// Of whom something is asked.
    const ADIT: Self;

    /// Its name on the command line and in the tables.
    fn name(self) -> &'static str;
}

/// One figure of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure<P: 'static> {
    /// What it is, with its unit.
    name: &'static str,
    /// How many decimals are shown.
    decimals: usize,
    /// Which way is better.
    better: Better,
    /// What is asked of adit.
    goal: Goal<P>,
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug)]
enum Goal<P> {
    /// Nothing.
    Open,
    /// So many times another's: what must be, and the aim.
    Times(P, f64, f64),
    /// These values or better: what must be, and the aim.
    Values(f64, f64),
}

/// What was measured: in each round a value for each figure.
#[derive(Debug)]
pub(crate) struct Rounds<P>(Vec<(P, Vec<f64>)>);

impl<P: Contender> Figure<P> {
    /// A time or a cost of which nothing is asked yet.
    pub(crate) const fn lower(name: &'static str, decimals: usize) -> Self {
        Self { name, decimals, better: Better::Lower, goal: Goal::Open }
    }

    /// A rate of which nothing is asked yet.
    pub(crate) const fn higher(name: &'static str, decimals: usize) -> Self {
        Self { name, decimals, better: Better::Higher, goal: Goal::Open }
    }

    /// So many times another's.
    pub(crate) const fn times(mut self, peer: P, must: f64, aim: f64) -> Self {
        self.goal = Goal::Times(peer, must, aim);
        self
    }

    /// These values or better; an infinite one is no bound.
    pub(crate) const fn values(mut self, must: f64, aim: f64) -> Self {
        self.goal = Goal::Values(must, aim);
        self
    }

    fn cell(&self, value: Option<f64>) -> Cell {
        value.filter(|value| value.is_finite()).map_or(Cell::Empty, |value| Cell::Number(value, self.decimals))
    }

    /// What must be, the aim, and which of them is met.
    fn verdict(&self, rounds: &Rounds<P>, at: usize) -> [Cell; 3] {
        let (must, aim, unit, factor) = match self.goal {
            Goal::Open => return [Cell::Empty, Cell::Empty, Cell::Empty],
            Goal::Times(peer, must, aim) => (must, aim, format!(" × {}", peer.name()), rounds.median(peer, at)),
            Goal::Values(must, aim) => (must, aim, String::new(), Some(1.0)),
        };
        let sign = if self.better == Better::Lower { "≤" } else { "≥" };
        let meets = |bound: f64| {
            let (adit, bound) = (rounds.median(P::ADIT, at)?, bound * factor?);
            Some(if self.better == Better::Lower { adit <= bound } else { adit >= bound })
        };
        let met = match (meets(must), meets(aim)) {
            (None, _) | (_, None) => "–",
            (_, Some(true)) => "aim",
            (Some(true), Some(false)) => "must",
            (Some(false), Some(false)) => "**missed**",
        };
        let goal = |value: f64| match value.is_finite() {
            true => Cell::Text(format!("{sign} {value}{unit}")),
            false => Cell::Empty,
        };
        [goal(must), goal(aim), Cell::Text(met.to_owned())]
    }
}

impl<P: Contender> Rounds<P> {
    /// All rounds of a row; the peers take turns, and whoever came first comes last in the next round.
    pub(crate) fn of(
        row: &str,
        mut peers: Vec<P>,
        rounds: usize,
        measure: impl Fn(P) -> Result<Vec<f64>, String>,
    ) -> Self {
        let mut all = Self(Vec::new());
        for round in 1..=rounds {
            note(&format!("{row} {round}/{rounds} …"));
            for peer in &peers {
                match measure(*peer) {
                    Ok(values) => all.0.push((*peer, values)),
                    Err(error) => note(&format!("  {}: {error}", peer.name())),
                }
            }
            peers.reverse();
        }
        all
    }

    /// The row's table: a line for each figure.
    pub(crate) fn table(&self, title: &str, peers: &[P], figures: &[Figure<P>]) -> Table {
        let mut columns = vec!["measure".to_owned()];
        columns.extend(peers.iter().map(|peer| peer.name().to_owned()));
        columns.extend(["adit, all rounds", "÷ peer", "must", "aim", "met"].map(str::to_owned));
        let line = |(at, figure): (usize, &Figure<P>)| (figure.name.to_owned(), self.line(peers, at, figure));
        Table { title: title.to_owned(), columns, lines: figures.iter().enumerate().map(line).collect() }
    }

    fn line(&self, peers: &[P], at: usize, figure: &Figure<P>) -> Vec<Cell> {
        let mut cells: Vec<Cell> = peers.iter().map(|peer| figure.cell(self.median(*peer, at))).collect();
        let all = self.values(P::ADIT, at);
        cells.push(match (all.iter().copied().min_by(f64::total_cmp), all.iter().copied().max_by(f64::total_cmp)) {
            (Some(least), Some(most)) => {
                Cell::Text(format!("{}–{}", figure.cell(Some(least)), figure.cell(Some(most))))
            }
            _ => Cell::Empty,
        });
        let other = match figure.goal {
            Goal::Times(peer, ..) => self.median(peer, at),
            Goal::Open | Goal::Values(..) => None,
        };
        let ratio = self.median(P::ADIT, at).zip(other).map(|(adit, other)| adit / other);
        cells.push(ratio.filter(|ratio| ratio.is_finite()).map_or(Cell::Empty, |ratio| Cell::Number(ratio, 2)));
        cells.extend(figure.verdict(self, at));
        cells
    }

    fn median(&self, peer: P, at: usize) -> Option<f64> {
        median(self.values(peer, at))
    }

    fn values(&self, peer: P, at: usize) -> Vec<f64> {
        let of = self.0.iter().filter(|(measured, _)| *measured == peer);
        of.filter_map(|(_, values)| values.get(at).copied()).filter(|value| !value.is_nan()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Rounds};
    use crate::gateway::stand::Peer;

    const FIGURES: &[Figure<Peer>] = &[
        Figure::higher("per CPU second", 0).times(Peer::Nginx, 0.6, 1.0),
        Figure::lower("added ms", 2).values(2.0, 0.5),
        Figure::lower("errors", 0),
    ];

    #[test]
    fn a_line_compares_with_the_peer_it_is_held_to_and_says_what_is_met() {
        let peers = &[Peer::Nginx, Peer::Adit];
        let rounds = Rounds::of("x", peers.to_vec(), 1, |peer| match peer {
            Peer::Nginx => Ok(vec![1000.0, 0.1, f64::NAN]),
            _ => Ok(vec![500.0, 0.4, 0.0]),
        });
        let text = rounds.table("t", peers, FIGURES).markdown();
        let line = "| per CPU second | 1000 | 500 | 500–500 | 0.50 | ≥ 0.6 × nginx | ≥ 1 × nginx | **missed** |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| added ms | 0.10 | 0.40 | 0.40–0.40 | – | ≤ 2 | ≤ 0.5 | aim |"), "{text}");
        assert!(text.contains("| errors | – | 0 | 0–0 | – | – | – | – |"), "{text}");
    }
}
