//! Values of all rounds, their medians, and how they stand to what was asked for.

use super::client::Who;
use crate::table::{Cell, Table};

/// One figure of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// What it is, with its unit.
    pub(crate) name: &'static str,
    /// How many decimals are shown.
    pub(crate) decimals: usize,
    /// Which way is better.
    pub(crate) better: Better,
    /// What it has to be.
    pub(crate) must: Goal,
    /// What it should be.
    pub(crate) aim: Goal,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// Times and costs.
    Lower,
    /// Rates.
    Higher,
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Nothing.
    Open,
    /// So many times kubectl's, the better one of its two.
    Times(f64),
    /// This value or better, whatever kubectl does.
    Value(f64),
}

/// What was measured: in each round a value for each figure. Infinity is "never".
#[derive(Debug, Default)]
pub(crate) struct Rounds(Vec<(Who, Vec<f64>)>);

impl Figure {
    /// A time or a cost of which nothing is asked yet.
    pub(crate) const fn lower(name: &'static str, decimals: usize) -> Self {
        Self { name, decimals, better: Better::Lower, must: Goal::Open, aim: Goal::Open }
    }

    /// A rate of which nothing is asked yet.
    pub(crate) const fn higher(name: &'static str, decimals: usize) -> Self {
        Self { name, decimals, better: Better::Higher, must: Goal::Open, aim: Goal::Open }
    }

    /// So many times kubectl's.
    pub(crate) const fn times(mut self, must: f64, aim: f64) -> Self {
        self.must = Goal::Times(must);
        self.aim = Goal::Times(aim);
        self
    }

    /// These values or better.
    pub(crate) const fn values(mut self, must: f64, aim: f64) -> Self {
        self.must = Goal::Value(must);
        self.aim = Goal::Value(aim);
        self
    }

    /// This value or better is the aim; there is nothing that must be.
    pub(crate) const fn aim(mut self, aim: f64) -> Self {
        self.aim = Goal::Value(aim);
        self
    }

    fn cell(&self, value: Option<f64>) -> Cell {
        match value {
            Some(value) if value.is_finite() => Cell::Number(value, self.decimals),
            Some(_) => Cell::Text("never".to_owned()),
            None => Cell::Empty,
        }
    }

    fn best(&self, values: impl Iterator<Item = f64>) -> Option<f64> {
        match self.better {
            Better::Lower => values.min_by(f64::total_cmp),
            Better::Higher => values.max_by(f64::total_cmp),
        }
    }

    fn meets(&self, goal: Goal, adit: f64, kubectl: Option<f64>) -> Option<bool> {
        let bound = match goal {
            Goal::Open => return None,
            Goal::Value(value) => value,
            Goal::Times(times) => kubectl? * times,
        };
        Some(match self.better {
            Better::Lower => adit <= bound,
            Better::Higher => adit >= bound,
        })
    }

    fn verdict(&self, adit: Option<f64>, kubectl: Option<f64>) -> &'static str {
        let Some(adit) = adit else { return "–" };
        match (self.meets(self.must, adit, kubectl), self.meets(self.aim, adit, kubectl)) {
            (_, Some(true)) => "aim",
            (Some(true), _) => "must",
            (Some(false), _) | (None, Some(false)) => "**missed**",
            (None, None) => "–",
        }
    }

    fn goal(&self, goal: Goal) -> Cell {
        let sign = if self.better == Better::Lower { "≤" } else { "≥" };
        Cell::Text(match goal {
            Goal::Open => "–".to_owned(),
            Goal::Times(times) => format!("{sign} {times} ×"),
            Goal::Value(value) => format!("{sign} {value}"),
        })
    }
}

impl Rounds {
    /// One round of one client.
    pub(crate) fn add(&mut self, who: Who, values: Vec<f64>) {
        self.0.push((who, values));
    }

    /// The row's table: a line for each figure.
    pub(crate) fn table(&self, title: &str, figures: &[Figure]) -> Table {
        let mut columns = vec!["measure".to_owned()];
        columns.extend(Who::ALL.map(|who| who.name().to_owned()));
        columns.extend(["adit, all rounds", "÷ kubectl", "must", "aim", "met"].map(str::to_owned));
        let lines = figures.iter().enumerate().map(|(at, figure)| (figure.name.to_owned(), self.line(at, figure)));
        Table { title: title.to_owned(), columns, lines: lines.collect() }
    }

    fn line(&self, at: usize, figure: &Figure) -> Vec<Cell> {
        let median = |who: Who| median(self.values(who, at));
        let mut cells: Vec<Cell> = Who::ALL.iter().map(|who| figure.cell(median(*who))).collect();
        let adit = median(Who::Adit);
        let kubectl = figure.best([Who::KubectlWs, Who::KubectlSpdy].into_iter().filter_map(median));
        let all = self.values(Who::Adit, at);
        cells.push(match (all.iter().copied().min_by(f64::total_cmp), all.iter().copied().max_by(f64::total_cmp)) {
            (Some(least), Some(most)) => {
                Cell::Text(format!("{}–{}", figure.cell(Some(least)), figure.cell(Some(most))))
            }
            _ => Cell::Empty,
        });
        let ratio = adit.zip(kubectl).map(|(adit, kubectl)| adit / kubectl).filter(|ratio| ratio.is_finite());
        cells.push(ratio.map_or(Cell::Empty, |ratio| Cell::Number(ratio, 2)));
        cells.push(figure.goal(figure.must));
        cells.push(figure.goal(figure.aim));
        cells.push(Cell::Text(figure.verdict(adit, kubectl).to_owned()));
        cells
    }

    fn values(&self, who: Who, at: usize) -> Vec<f64> {
        let of = self.0.iter().filter(|(measured, _)| *measured == who);
        of.filter_map(|(_, values)| values.get(at).copied()).filter(|value| !value.is_nan()).collect()
    }
}

/// The middle one; of two in the middle their mean.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => values.get(middle).copied(),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Rounds, median};
    use crate::k8s::client::Who;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 100.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 2.0]), Some(3.0));
        assert_eq!(median(vec![f64::INFINITY, f64::INFINITY, 1.0]), Some(f64::INFINITY));
    }

    #[test]
    fn a_line_compares_with_the_better_kubectl_and_says_what_is_met() {
        let figures = [Figure::lower("start ms", 0).times(0.5, 0.25), Figure::higher("rate", 0).times(2.0, 4.0)];
        let mut rounds = Rounds::default();
        rounds.add(Who::KubectlWs, vec![100.0, 10.0]);
        rounds.add(Who::KubectlSpdy, vec![80.0, 8.0]);
        rounds.add(Who::Adit, vec![30.0, 15.0]);
        let text = rounds.table("t", &figures).markdown();
        assert!(text.contains("| start ms | – | 100 | 80 | 30 | 30–30 | 0.38 | ≤ 0.5 × | ≤ 0.25 × | must |"), "{text}");
        assert!(text.contains("| rate | – | 10 | 8 | 15 | 15–15 | 1.50 | ≥ 2 × | ≥ 4 × | **missed** |"), "{text}");
    }

    #[test]
    fn what_never_comes_is_said_so_and_a_value_needs_no_kubectl() {
        let figures = [Figure::lower("back ms", 0).values(1000.0, 100.0)];
        let mut rounds = Rounds::default();
        rounds.add(Who::KubectlWs, vec![f64::INFINITY]);
        rounds.add(Who::Adit, vec![12.0]);
        let text = rounds.table("t", &figures).markdown();
        assert!(text.contains("| back ms | – | never | – | 12 | 12–12 | 0.00 | ≤ 1000 | ≤ 100 | aim |"), "{text}");
    }
}
