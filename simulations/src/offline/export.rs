//! Writes the results of the policies as CSV. JSON is written by serde.

use std::io::Write;

use super::{Counterfactual, Estimate};
use crate::SimulationError;

/// Writes CSV with one row per policy. `arms` are the names of the arms, control first, for the columns of shares and
/// probabilities.
///
/// # Errors
///
/// `to` cannot be written.
pub fn write_policies(results: &Counterfactual, arms: &[&str], to: impl Write) -> Result<(), SimulationError> {
    let mut csv = csv::Writer::from_writer(to);
    let mut header = vec!["policy".to_owned(), "rows".to_owned(), "matched".to_owned()];
    for name in ["replay", "ips", "snips", "dr", "lift"] {
        header.extend([name.to_owned(), format!("{name}_low"), format!("{name}_high")]);
    }
    header.extend(["effective_rows", "leader", "revisions", "moved_between_variations"].map(str::to_owned));
    for column in ["share", "p_best"] {
        header.extend(arms.iter().map(|arm| format!("{column}_{arm}")));
    }
    csv.write_record(&header)?;
    for policy in &results.policies {
        let mut line = vec![policy.policy.clone(), results.rows.to_string(), policy.matched.to_string()];
        let estimates = [policy.replay, policy.ips, policy.snips, policy.dr, policy.lift];
        line.extend(estimates.iter().flat_map(|estimate| value_and_interval(estimate.as_ref())));
        line.push(policy.effective_rows.map(|rows| rows.to_string()).unwrap_or_default());
        line.push(arms.get(policy.leader).map_or_else(|| policy.leader.to_string(), |arm| (*arm).to_owned()));
        line.extend([policy.revisions.to_string(), policy.moves.between_variations.to_string()]);
        line.extend(policy.shares.iter().chain(&policy.p_best).map(f64::to_string));
        csv.write_record(&line)?;
    }
    csv.flush().map_err(csv::Error::from)?;
    Ok(())
}

fn value_and_interval(estimate: Option<&Estimate>) -> [String; 3] {
    estimate.map_or_else(Default::default, |e| [e.value, e.low, e.high].map(|number| number.to_string()))
}
