//! Results as CSV, one line per policy; JSON is serde's.

use std::io::Write;

use super::{Counterfactual, Estimate};
use crate::SimulationError;

/// One line per policy. `arms` names the arms in the head of the columns of shares and beliefs, control first.
pub fn write_policies(found: &Counterfactual, arms: &[&str], to: impl Write) -> Result<(), SimulationError> {
    let mut csv = csv::Writer::from_writer(to);
    let mut head = vec!["policy".to_owned(), "rows".to_owned(), "matched".to_owned()];
    for name in ["replay", "ips", "snips", "dr", "lift"] {
        head.extend([name.to_owned(), format!("{name}_low"), format!("{name}_high")]);
    }
    head.extend(["effective_rows", "leader", "revisions", "moved_between_variations"].map(str::to_owned));
    for what in ["share", "p_best"] {
        head.extend(arms.iter().map(|arm| format!("{what}_{arm}")));
    }
    csv.write_record(&head)?;
    for policy in &found.policies {
        let mut line = vec![policy.policy.clone(), found.rows.to_string(), policy.matched.to_string()];
        let estimates = [policy.replay, policy.ips, policy.snips, policy.dr, policy.lift];
        line.extend(estimates.iter().flat_map(|estimate| numbers(estimate.as_ref())));
        line.push(policy.effective_rows.map(|rows| rows.to_string()).unwrap_or_default());
        line.push(arms.get(policy.leader).map_or_else(|| policy.leader.to_string(), |arm| (*arm).to_owned()));
        line.extend([policy.revisions.to_string(), policy.moves.between_variations.to_string()]);
        line.extend(policy.shares.iter().chain(&policy.p_best).map(f64::to_string));
        csv.write_record(&line)?;
    }
    csv.flush().map_err(csv::Error::from)?;
    Ok(())
}

fn numbers(estimate: Option<&Estimate>) -> [String; 3] {
    estimate.map_or_else(Default::default, |e| [e.value, e.low, e.high].map(|number| number.to_string()))
}
