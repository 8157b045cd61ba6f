//! The log of a randomised trial, read from CSV or Parquet: the arm and the outcomes of each customer. Independent of
//! servers and policies; `replay` and `counterfactual` both use it.

mod source;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use inroad_assignment::{Timestamp, UnitKey};

use crate::failure::usage_error;
use crate::parse::{instant, slug};
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
    fn parse(text: impl std::io::Read, columns: &Columns<'_>) -> anyhow::Result<Self> {
        Self::collect(columns, |names, on_row| source::read_csv(text, names, on_row))
    }

    fn collect(
        columns: &Columns<'_>,
        read: impl FnOnce(&[&str], &mut source::OnRow<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut wanted = vec![columns.arm];
        let [unit_column, time_column, propensity_column] =
            [columns.unit, columns.time, columns.propensity].map(|name| {
                wanted.extend(name);
                name.map(|_| wanted.len() - 1)
            });
        let first_outcome = wanted.len();
        wanted.extend(columns.outcomes.iter().map(String::as_str));
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        let mut rows = Vec::new();
        read(&wanted, &mut |number, cells| {
            let label = cells[0];
            if let Some(arms) = columns.arms.filter(|arms| !arms.iter().any(|arm| arm == label)) {
                let declared = arms.join(", ");
                return Err(usage_error(format!(
                    "row {number}: the arm {label:?} is not in --arms, which has {declared}"
                )));
            }
            let next = labels.len();
            let arm = match labels.get(label) {
                Some(arm) => *arm,
                None => *labels.entry(label.to_owned()).or_insert(next),
            };
            let unit = unit_column.map(|column| cells[column]);
            if let Some(unit) = unit {
                UnitKey::parse(unit).with_context(|| format!("row {number}"))?;
            }
            let at = time_column.map(|column| instant(cells[column]));
            let at = at.transpose().map_err(|e| anyhow::anyhow!("row {number}: {e}"))?;
            let number_in = |column: usize| {
                let text = cells[column];
                text.parse::<f64>()
                    .ok()
                    .filter(|v| v.is_finite())
                    .with_context(|| format!("row {number}: {} is {text:?}, which is not a number", wanted[column]))
            };
            let propensity = propensity_column.map(number_in).transpose()?;
            if let Some(p) = propensity.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
                let name = columns.propensity.unwrap_or_default();
                return Err(usage_error(format!(
                    "row {number}: {name} is {p}, but a propensity is above 0 and at most 1 (0.5, not 50)"
                )));
            }
            let value = |column: usize| if cells[column].is_empty() { Ok(0.0) } else { number_in(column) };
            let values = (first_outcome..wanted.len()).map(value).collect::<Result<Box<[f64]>, _>>()?;
            rows.push(Row { number, unit: unit.map(Into::into), arm, at, propensity, values });
            Ok(())
        })?;
        if time_column.is_some() {
            rows.sort_by_key(|row| row.at);
        }
        let (arms, order) = order_arms(labels, columns)?;
        for row in &mut rows {
            row.arm = order[row.arm];
        }
        let is_binary = |i: usize| rows.iter().all(|row| row.values[i] == 0.0 || row.values[i] == 1.0);
        let binary: Vec<bool> = (0..columns.outcomes.len()).map(is_binary).collect();
        Ok(Self { arms, outcomes: columns.outcomes.to_vec(), binary, rows })
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

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: &str = "id,when,segment,visit,spend\n\
        a,2026-01-02,Mens E-Mail,1,9.5\n\
        b,2026-01-01,No E-Mail,0,0\n\
        c,2026-01-03,Womens E-Mail,0,\n";

    fn columns<'a>(outcomes: &'a [String], control: Option<&'a str>) -> Columns<'a> {
        Columns { arm: "segment", control, arms: None, outcomes, unit: None, time: None, propensity: None }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn control_is_first_and_other_arms_are_sorted_by_key() {
        let outcomes = names(&["visit", "spend"]);
        let log = Log::parse(TRIAL.as_bytes(), &columns(&outcomes, Some("No E-Mail"))).unwrap();
        let keys: Vec<&str> = log.arms.iter().map(|arm| arm.key.as_str()).collect();
        assert_eq!(keys, ["no-e-mail", "mens-e-mail", "womens-e-mail"]);
        assert_eq!(log.rows.iter().map(|row| row.arm).collect::<Vec<_>>(), [1, 0, 2]);
        assert_eq!(log.binary, [true, false]);
        assert_eq!(*log.rows[0].values, [1.0, 9.5]);
        assert_eq!(log.rows[2].unit_key(), "3");
        assert_eq!(log.tallies()[1], Tally { rows: 1, converted: 1 });
    }

    #[test]
    fn declared_arms_keep_their_order_after_control() {
        let outcomes = names(&["visit"]);
        let arms = names(&["Womens E-Mail", "Post", "No E-Mail", "Mens E-Mail"]);
        let declared = Columns { arms: Some(&arms), ..columns(&outcomes, Some("No E-Mail")) };
        let log = Log::parse(TRIAL.as_bytes(), &declared).unwrap();
        let labels: Vec<&str> = log.arms.iter().map(|arm| arm.label.as_str()).collect();
        assert_eq!(labels, ["No E-Mail", "Womens E-Mail", "Post", "Mens E-Mail"]);
        assert_eq!(log.rows.iter().map(|row| row.arm).collect::<Vec<_>>(), [3, 0, 1]);
    }

    #[test]
    fn time_column_sets_the_order_of_rows() {
        let outcomes = names(&["visit"]);
        let with = Columns { time: Some("when"), unit: Some("id"), ..columns(&outcomes, Some("No E-Mail")) };
        let log = Log::parse(TRIAL.as_bytes(), &with).unwrap();
        assert_eq!(log.rows.iter().map(Row::unit_key).collect::<Vec<_>>(), ["b", "a", "c"]);
    }

    #[test]
    fn errors_name_the_valid_values() {
        let visit = names(&["visit"]);
        let error_text = |columns: &Columns<'_>| format!("{:#}", Log::parse(TRIAL.as_bytes(), columns).unwrap_err());
        assert!(error_text(&columns(&visit, None)).contains("--control; the file has \"Mens E-Mail\""));
        assert!(error_text(&columns(&visit, Some("no e-mail"))).contains("Did you mean \"No E-Mail\"?"));
        assert!(
            error_text(&columns(&names(&["visits"]), Some("No E-Mail"))).contains("The file has id, when, segment")
        );
        let spend = names(&["spend"]);
        let log = Log::parse(TRIAL.as_bytes(), &columns(&spend, Some("No E-Mail"))).unwrap();
        assert!(log.check_first_outcome_is_conversion().unwrap_err().to_string().contains("0/1"));
        let known = Columns { propensity: Some("spend"), ..columns(&visit, Some("No E-Mail")) };
        assert!(error_text(&known).contains("row 1: spend is 9.5, but a propensity is above 0 and at most 1"));
        let two = names(&["No E-Mail", "Mens E-Mail"]);
        let declared = Columns { arms: Some(&two), ..columns(&visit, Some("No E-Mail")) };
        assert!(
            error_text(&declared).contains("row 3: the arm \"Womens E-Mail\" is not in --arms, which has No E-Mail")
        );
        assert!(error_text(&columns(&names(&["when"]), Some("No E-Mail"))).contains("row 1: when is \"2026-01-02\""));
    }

    #[test]
    fn labels_with_the_same_key_are_refused() {
        let visit = names(&["visit"]);
        let text = "segment,visit\nControl,0\nA b,1\na-b,0\n";
        let error = format!("{:#}", Log::parse(text.as_bytes(), &columns(&visit, None)).unwrap_err());
        assert!(error.contains("would both be variation a-b"), "{error}");
    }
}
