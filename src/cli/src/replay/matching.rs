//! The replay method (Li, Chu, Langford and Wang 2011): a row is used if the policy assigns the arm that the customer got,
//! and skipped otherwise. Because the trial was randomised, the used rows are what the policy would have seen. Pure.

use anyhow::bail;
use inroad_assignment::Timestamp;
use inroad_wire::timestamp_to_wire;
use inroad_wire::v1::{AssignResponse, Exposure, Outcome, Reason, RecordRequest};

use crate::trial::{Log, Row};
use crate::wire_text::reason_name;

/// The experiment that a log is replayed through.
#[derive(Debug, Clone)]
pub(crate) struct ReplayTarget {
    /// The experiment's key.
    pub(crate) experiment: String,
    /// The context attribute that contains the unit key.
    pub(crate) unit: String,
}

/// Rows for which the policy assigns the same arm as the trial.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Matched {
    /// Their exposures and outcomes. The same rows give the same events, so that they can be sent again.
    pub(crate) request: RecordRequest,
    /// Their positions in the batch.
    pub(crate) used: Vec<usize>,
}

/// Compares the assignments of a batch with the arms of its rows.
pub(crate) fn match_rows(
    log: &Log,
    target: &ReplayTarget,
    batch: &[(&Row, Timestamp)],
    answers: &[AssignResponse],
) -> anyhow::Result<Matched> {
    if answers.len() != batch.len() {
        bail!("the server returned {} assignments for {} requests", answers.len(), batch.len());
    }
    let mut matched = Matched::default();
    for (i, ((row, at), answer)) in batch.iter().zip(answers).enumerate() {
        match Reason::try_from(answer.reason) {
            Ok(Reason::Split | Reason::Killed) if answer.revision > 0 => {}
            _ => bail!(
                "{} answers row {} with {}. Only a running experiment can be used for a replay.",
                target.experiment,
                row.number,
                reason_name(answer.reason)
            ),
        }
        if log.arms.get(row.arm).is_none_or(|arm| arm.key != answer.variation) {
            continue;
        }
        matched.used.push(i);
        matched.request.exposures.push(Exposure {
            experiment: target.experiment.clone(),
            generation: answer.generation,
            unit: row.unit_key(),
            variation: answer.variation.clone(),
            revision: answer.revision,
            occurred_at: Some(timestamp_to_wire(*at)),
            context: None,
        });
        for (column, (name, value)) in log.outcomes.iter().zip(&row.values).enumerate() {
            if *value != 0.0 {
                matched.request.outcomes.push(Outcome {
                    units: [(target.unit.clone(), row.unit_key())].into(),
                    event: name.clone(),
                    value: *value,
                    occurred_at: Some(timestamp_to_wire(*at)),
                    event_id: format!("row-{}:{column}", row.number),
                    clock: target.experiment.clone(),
                });
            }
        }
    }
    Ok(matched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::{Arm, Findings};

    fn log() -> Log {
        let arm = |label: &str, key: &str| Arm { label: label.to_owned(), key: key.to_owned() };
        let row = |number, arm, values: [f64; 2]| Row {
            number,
            unit: None,
            arm,
            at: None,
            propensity: None,
            values: values.into(),
        };
        Log {
            arms: vec![arm("No", "no"), arm("Mail", "mail")],
            outcomes: vec!["visit".to_owned(), "spend".to_owned()],
            binary: vec![true, false],
            rows: vec![row(1, 0, [0.0, 0.0]), row(2, 1, [1.0, 9.5]), row(3, 1, [1.0, 0.0])],
            findings: Findings::default(),
        }
    }

    fn answer(variation: &str, reason: Reason) -> AssignResponse {
        let variation = variation.to_owned();
        AssignResponse { variation, reason: reason.into(), generation: 1, revision: 4, ..AssignResponse::default() }
    }

    fn run(answers: &[AssignResponse]) -> anyhow::Result<Matched> {
        let log = log();
        let target = ReplayTarget { experiment: "k".to_owned(), unit: "user".to_owned() };
        let at = Timestamp::from_micros(5_000_000);
        let batch: Vec<(&Row, Timestamp)> = log.rows.iter().map(|row| (row, at)).collect();
        match_rows(&log, &target, &batch, answers)
    }

    #[test]
    fn only_rows_with_the_assigned_arm_are_used() {
        let split = |v| answer(v, Reason::Split);
        let matched = run(&[split("no"), split("mail"), split("no")]).unwrap();
        assert_eq!(matched.used, [0, 1]);
        let seen: Vec<(&str, &str)> =
            matched.request.exposures.iter().map(|e| (e.unit.as_str(), e.variation.as_str())).collect();
        assert_eq!(seen, [("1", "no"), ("2", "mail")]);
        let outcomes: Vec<(&str, f64, &str)> =
            matched.request.outcomes.iter().map(|o| (o.event.as_str(), o.value, o.event_id.as_str())).collect();
        assert_eq!(outcomes, [("visit", 1.0, "row-2:0"), ("spend", 9.5, "row-2:1")]);
        assert!(matched.request.outcomes.iter().all(|o| o.clock == "k" && o.units["user"] == "2"));
    }

    #[test]
    fn same_rows_give_the_same_events() {
        let answers = [answer("mail", Reason::Split), answer("mail", Reason::Split), answer("no", Reason::Killed)];
        assert_eq!(run(&answers).unwrap(), run(&answers).unwrap());
    }

    #[test]
    fn experiment_that_is_not_running_stops_the_replay() {
        let paused = answer("no", Reason::Paused);
        let error = run(&[paused.clone(), paused.clone(), paused]).unwrap_err().to_string();
        assert!(error.contains("row 1 with paused"), "{error}");
        assert!(run(&[]).is_err());
    }
}
