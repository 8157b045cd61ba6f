//! What a person should know about a log before reading its figures: how cells were read, which rows were left out, and
//! reasons to think that the rows are not those of a randomised trial in order of time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use inroad_simulations::offline::{RowOrder, row_order_of_arms, row_order_of_outcomes};

use super::{Columns, Log};
use crate::output::{count, p_value, plural};

/// The error of each kind of warning: at most one random log in a thousand gets it.
const ALPHA: f64 = 0.001;

/// Notes and warnings about a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Findings {
    /// How the file was read, if not in the plainest way.
    pub(crate) notes: Vec<String>,
    /// Reasons to doubt the figures.
    pub(crate) warnings: Vec<String>,
    /// Rows that were left out because an outcome is empty.
    pub(crate) excluded: u64,
    /// Rows whose unit has an earlier row.
    pub(crate) repeated: u64,
}

/// Counts what is found while rows are read.
#[derive(Debug, Default)]
pub(super) struct RowCounts {
    /// Per outcome column: cells with a word for yes or no.
    pub(super) truths: Vec<u64>,
    /// Per outcome column: empty cells.
    pub(super) empty: Vec<u64>,
    /// Rows without a time zone.
    pub(super) without_zone: u64,
    /// Rows with spaces around their arm.
    pub(super) spaced_arms: u64,
    /// The first arm of each unit.
    units: BTreeMap<Box<str>, usize>,
    repeated: u64,
    changed_arm: u64,
    /// Rows left out and rows kept, by arm in order of appearance.
    rows: Vec<[u64; 2]>,
}

impl RowCounts {
    pub(super) fn new(outcomes: usize) -> Self {
        Self { truths: vec![0; outcomes], empty: vec![0; outcomes], ..Self::default() }
    }

    /// Counts a row of `arm` that is kept or left out.
    pub(super) fn count_row(&mut self, arm: usize, kept: bool) {
        if self.rows.len() <= arm {
            self.rows.resize(arm + 1, [0; 2]);
        }
        self.rows[arm][usize::from(kept)] += 1;
    }

    /// Counts the unit of a row that is kept.
    pub(super) fn count_unit(&mut self, unit: &str, arm: usize) {
        match self.units.entry(unit.into()) {
            Entry::Vacant(entry) => {
                entry.insert(arm);
            }
            Entry::Occupied(entry) => {
                self.repeated += 1;
                self.changed_arm += u64::from(*entry.get() != arm);
            }
        }
    }

    fn excluded(&self) -> u64 {
        self.rows.iter().map(|[excluded, _]| excluded).sum()
    }

    /// The findings about the whole log. `form` is what the reader found out about the file.
    pub(super) fn findings(&self, log: &Log, columns: &Columns<'_>, form: Vec<String>) -> Findings {
        let mut notes = form;
        for (name, truths) in log.outcomes.iter().zip(&self.truths).filter(|(_, truths)| **truths > 0) {
            notes.push(format!("{name}: true or yes is read as 1, false or no as 0 ({})", plural(*truths, "row")));
        }
        if self.without_zone > 0 {
            notes.push(format!("{} without a time zone: read as UTC", plural(self.without_zone, "time")));
        }
        if self.spaced_arms > 0 {
            notes.push(format!(
                "{} with spaces around the arm: they are removed, so \" a \" and \"a\" are one arm",
                plural(self.spaced_arms, "row")
            ));
        }
        let mut warnings = Vec::new();
        let excluded = self.excluded();
        if excluded > 0 {
            let empty = log.outcomes.iter().zip(&self.empty).filter(|(_, empty)| **empty > 0);
            let columns = empty.map(|(name, empty)| format!("{name} {}", count(*empty))).collect::<Vec<_>>().join(", ");
            warnings.push(format!(
                "{} left out because an outcome is empty ({columns}). If an empty cell means 0, give --empty-outcome zero",
                plural(excluded, "row")
            ));
        }
        if let Some(p) = missing_depends_on_arm(&self.rows).filter(|p| *p < ALPHA) {
            warnings.push(format!(
                "the share of rows with an empty outcome differs between the arms (χ² test, {}): leaving them out biases the \
                 figures",
                p_value(p)
            ));
        }
        if self.changed_arm > 0 {
            let rows = plural(self.changed_arm, "row");
            warnings.push(format!("{rows} with a unit that had another arm before: these units saw several arms"));
        }
        warnings.extend(order_warnings(log, columns));
        Findings { notes, warnings, excluded, repeated: self.repeated }
    }
}

/// The p-value of the χ² test that rows are left out equally often in all arms; none if no row is left out or kept.
fn missing_depends_on_arm(rows: &[[u64; 2]]) -> Option<f64> {
    let total = |kind: usize| rows.iter().map(|row| row[kind]).sum::<u64>() as f64;
    let (excluded, kept) = (total(0), total(1));
    if excluded == 0.0 || kept == 0.0 {
        return None;
    }
    let part = excluded / (excluded + kept);
    let term = |row: &[u64; 2]| {
        let n = (row[0] + row[1]) as f64;
        let difference = row[0] as f64 - n * part;
        difference * difference / (n * part * (1.0 - part))
    };
    Some(inroad_simulations::offline::chi_squared_tail(rows.iter().map(term).sum(), rows.len() - 1))
}

/// Whether row order predicts the arm or an outcome. Together these warnings occur in at most one random log of a
/// thousand.
fn order_warnings(log: &Log, columns: &Columns<'_>) -> Vec<String> {
    let arms: Vec<usize> = log.rows.iter().map(|row| row.arm).collect();
    let most = ALPHA / (1 + log.outcomes.len()) as f64;
    let found = |order: Option<RowOrder>| order.filter(|order| order.p_value < most);
    let mut warnings = Vec::new();
    let because = |order: RowOrder| format!("({}, {})", order.test.name(), p_value(order.p_value));
    if columns.time.is_some() {
        // In order of time, outcomes may drift, and known propensities may change.
        if let Some(order) = found(row_order_of_arms(&arms)).filter(|_| columns.propensity.is_none()) {
            warnings.push(format!(
                "the time predicts the arm {}: the arms were not assigned at random with constant probabilities, so the \
                 figures compare different periods",
                because(order)
            ));
        }
        return warnings;
    }
    let advice = "Shuffle the rows, or name the time with --time-column";
    if let Some(order) = found(row_order_of_arms(&arms)) {
        warnings.push(format!(
            "row order predicts the arm {}: the rows seem to be sorted by arm. Without a time, row order is read as time, so \
             the figures mean nothing. {advice}",
            because(order)
        ));
    }
    for (i, name) in log.outcomes.iter().enumerate() {
        let values: Vec<f64> = log.rows.iter().map(|row| row.values[i]).collect();
        if let Some(order) = found(row_order_of_outcomes(&values)) {
            warnings.push(format!(
                "row order predicts {name} {}: either it drifts over time, or the rows are sorted by it and the figures mean \
                 nothing. {advice}",
                because(order)
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_missing_in_one_arm_are_found() {
        assert_eq!(missing_depends_on_arm(&[[0, 50], [0, 60]]), None);
        assert!(missing_depends_on_arm(&[[50, 500], [52, 490]]).unwrap() > 0.5);
        assert!(missing_depends_on_arm(&[[50, 500], [5, 545]]).unwrap() < 1e-8);
    }
}
