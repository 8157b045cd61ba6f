//! The log of a randomised trial, read from CSV or Parquet: the arm and the outcomes of each customer. Independent of
//! servers and policies; `replay` and `counterfactual` both use it.

mod cells;
mod csv_source;
mod findings;
mod requested;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
pub(crate) use cells::{CellArgs, EmptyOutcome};
pub(crate) use findings::Findings;
use inroad_assignment::{Timestamp, UnitKey};

use self::cells::OutcomeCell;
use self::findings::RowCounts;
use crate::failure::usage_error;
use crate::parse::slug;
use crate::suggestions::did_you_mean;

/// The meaning of the columns.
#[derive(Debug, Clone)]
pub(crate) struct Columns<'a> {
    /// The arm that the customer got.
    pub(crate) arm: &'a str,
    /// The label of control.
    pub(crate) control: Option<&'a str>,
    /// All valid arms, control at any place; `None`: the arms of the file.
    pub(crate) arms: Option<&'a [String]>,
    /// The outcomes; the first is the primary metric.
    pub(crate) outcomes: &'a [String],
    /// The unit key; `None`: the row number.
    pub(crate) unit: Option<&'a str>,
    /// The time; `None`: rows are spread evenly.
    pub(crate) time: Option<&'a str>,
    /// The probability with which the customer got the arm.
    pub(crate) propensity: Option<&'a str>,
    /// How cells are read.
    pub(crate) cells: CellArgs,
}

/// An arm of the trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arm {
    /// The label in the file.
    pub(crate) label: String,
    /// The variation key made from the label.
    pub(crate) key: String,
}

/// A row of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The row number, from 1; the header is not counted.
    pub(crate) number: u64,
    /// The unit key; `None`: the row number.
    pub(crate) unit: Option<Box<str>>,
    /// The arm that the customer got, as an index into the log's arms.
    pub(crate) arm: usize,
    /// The time, if the file has one.
    pub(crate) at: Option<Timestamp>,
    /// The probability with which the customer got the arm, above 0 and at most 1, if the file has one.
    pub(crate) propensity: Option<f64>,
    /// The outcomes, in the order of the outcome columns.
    pub(crate) values: Box<[f64]>,
}

impl Row {
    /// The unit's key.
    pub(crate) fn unit_key(&self) -> String {
        self.unit.as_ref().map_or_else(|| self.number.to_string(), |unit| unit.to_string())
    }
}

/// A whole log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Log {
    /// Control first; the others by key, or in the declared order.
    pub(crate) arms: Vec<Arm>,
    /// The outcome columns.
    pub(crate) outcomes: Vec<String>,
    /// Whether each outcome column contains only 0 and 1.
    pub(crate) binary: Vec<bool>,
    /// In order of time.
    pub(crate) rows: Vec<Row>,
    /// What a person should know before reading figures of this log.
    pub(crate) findings: Findings,
}

/// The rows and conversions of one arm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Rows.
    pub(crate) rows: u64,
    /// Rows with the first outcome.
    pub(crate) converted: u64,
}

impl Tally {
    /// Adds a row.
    pub(crate) fn add(&mut self, row: &Row) {
        self.rows += 1;
        self.converted += u64::from(row.values.first().is_some_and(|v| *v > 0.0));
    }
}

impl Log {
    /// Reads a whole file.
    pub(crate) fn read(path: &Path, columns: &Columns<'_>) -> anyhow::Result<Self> {
        Self::collect(columns, |names, on_row| source::read(path, names, on_row))
            .with_context(|| path.display().to_string())
    }

    #[cfg(test)]
    fn parse(text: impl std::io::BufRead, columns: &Columns<'_>) -> anyhow::Result<Self> {
        Self::collect(columns, |names, on_row| csv_source::read_csv(text, names, on_row))
    }

    fn collect(
        columns: &Columns<'_>,
        read: impl FnOnce(&[&str], &mut requested::OnRow<'_>) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Self> {
        let wanted = columns.wanted()?;
        let mut builder = LogBuilder::new(columns, &wanted);
        let form = read(&wanted.names, &mut |number, cells| builder.add_row(number, cells))?;
        builder.finish(form)
    }

    /// Checks that the first outcome is a conversion.
    pub(crate) fn check_first_outcome_is_conversion(&self) -> anyhow::Result<()> {
        if self.binary.first() != Some(&false) {
            return Ok(());
        }
        let name = self.outcomes.first().map_or("", String::as_str);
        Err(usage_error(format!(
            "column {name:?} contains numbers other than 0 and 1. Name a 0/1 column first: it is the primary metric."
        )))
    }

    /// The rows and conversions of each arm over the whole file.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        let mut tallies = vec![Tally::default(); self.arms.len()];
        self.rows.iter().for_each(|row| tallies[row.arm].add(row));
        tallies
    }
}

/// The requested columns, each with its position among them.
struct WantedColumns<'a> {
    names: Vec<&'a str>,
    unit: Option<usize>,
    time: Option<usize>,
    propensity: Option<usize>,
    first_outcome: usize,
}

impl<'a> Columns<'a> {
    /// The requested columns: the arm first, the outcomes last.
    ///
    /// # Errors
    ///
    /// A column is requested as two things of which each row has one value.
    fn wanted(&self) -> anyhow::Result<WantedColumns<'a>> {
        let mut names = vec![self.arm];
        let [unit, time, propensity] = [self.unit, self.time, self.propensity].map(|name| {
            names.extend(name);
            name.map(|_| names.len() - 1)
        });
        let first_outcome = names.len();
        names.extend(self.outcomes.iter().map(String::as_str));
        for (i, name) in names.iter().enumerate().skip(first_outcome) {
            if let Some(other) = names[..i].iter().position(|earlier| earlier == name) {
                let role =
                    if other >= first_outcome { "twice as an outcome" } else { "as an outcome and as something else" };
                return Err(usage_error(format!("column {name:?} is requested {role}. Request it once.")));
            }
        }
        Ok(WantedColumns { names, unit, time, propensity, first_outcome })
    }
}

/// Collects the rows of a log.
struct LogBuilder<'a> {
    columns: &'a Columns<'a>,
    wanted: &'a WantedColumns<'a>,
    /// The arms in order of appearance.
    labels: BTreeMap<String, usize>,
    rows: Vec<Row>,
    counts: RowCounts,
}

impl<'a> LogBuilder<'a> {
    fn new(columns: &'a Columns<'a>, wanted: &'a WantedColumns<'a>) -> Self {
        let counts = RowCounts::new(columns.outcomes.len());
        Self { columns, wanted, labels: BTreeMap::new(), rows: Vec::new(), counts }
    }

    /// Adds a row, unless an outcome is empty and such rows are left out.
    fn add_row(&mut self, number: u64, cells: &[&str]) -> anyhow::Result<()> {
        let refuse = |message: String| usage_error(format!("row {number}: {message}"));
        let written = cells[0];
        let cells: Vec<&str> = cells.iter().map(|cell| cell.trim()).collect();
        self.counts.spaced_arms += u64::from(written != cells[0]);
        let arm = self.arm(cells[0]).map_err(refuse)?;
        let wanted = self.wanted;
        let unit = wanted.unit.map(|column| cells[column]);
        if let Some(unit) = unit {
            UnitKey::parse(unit).with_context(|| format!("row {number}"))?;
        }
        let at = wanted.time.map(|column| cells::time(cells[column])).transpose().map_err(refuse)?;
        self.counts.without_zone += u64::from(at.is_some_and(|(_, without_zone)| without_zone));
        let propensity = wanted.propensity.map(|column| self.propensity(cells[column])).transpose().map_err(refuse)?;
        let values = self.outcomes(&cells[wanted.first_outcome..]).map_err(refuse)?;
        self.counts.count_row(arm, values.is_some());
        if let Some(values) = values {
            unit.into_iter().for_each(|unit| self.counts.count_unit(unit, arm));
            self.rows.push(Row {
                number,
                unit: unit.map(Into::into),
                arm,
                at: at.map(|(at, _)| at),
                propensity,
                values,
            });
        }
        Ok(())
    }

    /// The arm of a label, by order of appearance.
    fn arm(&mut self, label: &str) -> Result<usize, String> {
        if label.is_empty() {
            return Err(format!("{} is empty, but each row needs its arm. Remove rows without one.", self.columns.arm));
        }
        if let Some(arms) = self.columns.arms.filter(|arms| !arms.iter().any(|arm| arm == label)) {
            let declared = arms.join(", ");
            return Err(format!("the arm {label:?} is not in --arms, which has {declared}"));
        }
        let next = self.labels.len();
        Ok(match self.labels.get(label) {
            Some(arm) => *arm,
            None => *self.labels.entry(label.to_owned()).or_insert(next),
        })
    }

    fn propensity(&self, text: &str) -> Result<f64, String> {
        let name = self.columns.propensity.unwrap_or_default();
        let number = self.columns.cells.number(text).map_err(|cause| format!("{name} is {text:?}, which {cause}"))?;
        if number > 0.0 && number <= 1.0 {
            return Ok(number);
        }
        Err(format!("{name} is {number}, but a propensity is above 0 and at most 1 (0.5, not 50)"))
    }

    /// The outcomes of a row; `None` if one of them is empty and such rows are left out.
    fn outcomes(&mut self, cells: &[&str]) -> Result<Option<Box<[f64]>>, String> {
        let mut values = Vec::with_capacity(cells.len());
        for (i, text) in cells.iter().enumerate() {
            let name = &self.columns.outcomes[i];
            match self.columns.cells.outcome(text).map_err(|cause| format!("{name} is {text:?}, which {cause}"))? {
                OutcomeCell::Number(number) => values.push(number),
                OutcomeCell::Truth(yes) => {
                    self.counts.truths[i] += 1;
                    values.push(f64::from(u8::from(yes)));
                }
                OutcomeCell::Missing if self.columns.cells.empty_outcome == EmptyOutcome::Zero => values.push(0.0),
                OutcomeCell::Missing => self.counts.empty[i] += 1,
            }
        }
        Ok((values.len() == cells.len()).then(|| values.into()))
    }

    /// The whole log. `form` is what the reader found out about the file.
    fn finish(mut self, form: Vec<String>) -> anyhow::Result<Log> {
        let columns = self.columns;
        if self.rows.is_empty() && !self.labels.is_empty() {
            return Err(usage_error(
                "every row has an empty outcome. Check the names of the outcome columns, or give --empty-outcome zero if \
                 an empty cell means 0.",
            ));
        }
        if columns.time.is_some() {
            self.rows.sort_by_key(|row| row.at);
        }
        let (arms, order) = order_arms(self.labels, columns)?;
        for row in &mut self.rows {
            row.arm = order[row.arm];
        }
        let is_binary = |i: usize| self.rows.iter().all(|row| row.values[i] == 0.0 || row.values[i] == 1.0);
        let binary: Vec<bool> = (0..columns.outcomes.len()).map(is_binary).collect();
        let mut log =
            Log { arms, outcomes: columns.outcomes.to_vec(), binary, rows: self.rows, findings: Findings::default() };
        log.findings = self.counts.findings(&log, columns, form);
        Ok(log)
    }
}

/// The arms with control first and the others by key, or in the declared order; and the new index of each label, by order
/// of appearance in the file.
fn order_arms(mut labels: BTreeMap<String, usize>, columns: &Columns<'_>) -> anyhow::Result<(Vec<Arm>, Vec<usize>)> {
    let control = columns.control;
    for arm in columns.arms.unwrap_or_default() {
        let next = labels.len();
        labels.entry(arm.clone()).or_insert(next);
    }
    let labels = &labels;
    let names = || labels.keys().map(|label| format!("{label:?}")).collect::<Vec<_>>().join(", ");
    if labels.len() < 2 {
        bail!(
            "there are fewer than two arms: the arm column contains {}",
            if labels.is_empty() { "no rows".to_owned() } else { names() }
        );
    }
    let is_control = |label: &str| control.map_or_else(|| slug(label) == "control", |name| name == label);
    if !labels.keys().any(|label| is_control(label)) {
        let (missing, similar) = match control {
            Some(name) => (format!("there is no arm {name:?}"), did_you_mean(name, labels.keys().map(String::as_str))),
            None => ("no arm is named control".to_owned(), String::new()),
        };
        return Err(usage_error(format!(
            "{missing}.{similar} Name the control arm with --control; the file has {}.",
            names()
        )));
    }
    let declared = |label: &String| columns.arms.and_then(|arms| arms.iter().position(|arm| arm == label));
    let mut sorted: Vec<(bool, Option<usize>, String, &String, usize)> =
        labels.iter().map(|(label, seen)| (!is_control(label), declared(label), slug(label), label, *seen)).collect();
    sorted.sort();
    let mut order = vec![0; sorted.len()];
    let mut arms: Vec<Arm> = Vec::with_capacity(sorted.len());
    for (i, (_, _, key, label, seen)) in sorted.into_iter().enumerate() {
        if key.is_empty() {
            bail!("the arm {label:?} has no letter or digit for a variation key. Rename it in the file.");
        }
        if let Some(other) = arms.iter().find(|arm| arm.key == key) {
            bail!("the arms {:?} and {label:?} would both be variation {key}. Rename one in the file.", other.label);
        }
        order[seen] = i;
        arms.push(Arm { label: label.clone(), key });
    }
    Ok((arms, order))
}
