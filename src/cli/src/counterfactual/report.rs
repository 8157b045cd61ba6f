//! The estimates as text and as JSON. Pure.

use inroad_simulations::offline::{Estimate, PolicyResult};
use serde_json::{Value, json};

use super::Analysis;
use crate::output::{count, fields, number, percent, plural, probability, signed_percent, table};

/// The deviation of an arm's mean weight from 1, in standard errors, that contradicts its propensities. Occurs by chance
/// once in 16,000 arms.
const MAX_WEIGHT_DEVIATION: f64 = 4.0;

/// The report of an analysis.
pub(super) struct Report<'a>(pub(super) &'a Analysis);

impl Report<'_> {
    fn key(&self, arm: usize) -> &str {
        self.0.log.arms.get(arm).map_or("", |arm| arm.key.as_str())
    }

    /// A rate as a percentage, an amount as a number.
    fn value_text(&self, value: f64) -> String {
        if self.0.log.binary.first() == Some(&true) { percent(value) } else { number(value) }
    }

    fn estimate_text(&self, estimate: Option<Estimate>) -> String {
        estimate.map_or_else(
            || "–".to_owned(),
            |e| format!("{} ±{}", self.value_text(e.value), self.value_text(e.high - e.value)),
        )
    }

    /// Reasons not to trust the estimates.
    fn warnings(&self) -> Vec<String> {
        let found = &self.0.result;
        let mut warnings = self.0.log.findings.warnings.clone();
        for (i, arm) in found.arms.iter().enumerate() {
            let contradicts = |weight: &Estimate| (weight.value - 1.0).abs() > MAX_WEIGHT_DEVIATION * weight.se;
            if arm.rows == 0 {
                warnings.push(format!("no row has {}: its effect cannot be estimated", self.key(i)));
            } else if let Some(weight) = arm.weight.filter(contradicts) {
                let key = self.key(i);
                warnings.push(format!("{key} occurs {} times as often as its propensities say", number(weight.value)));
            }
        }
        if !found.propensities {
            let warning =
                "there are no propensities: the replay estimate is valid only if all arms were equally likely";
            warnings.push(warning.to_owned());
        }
        for policy in found.policies.iter().filter(|policy| policy.lift.is_none()) {
            let name = &policy.policy;
            warnings.push(format!("{name}: there are too few outcomes to estimate the lift over the log"));
        }
        if found.units < found.rows {
            let units = plural(found.units, "unit");
            warnings
                .push(format!("{units} in {} rows: rows of the same unit were counted separately", count(found.rows)));
        }
        warnings
    }

    pub(super) fn text(&self) -> String {
        let found = &self.0.result;
        let logged = found.arms.iter().enumerate();
        let logged = logged.map(|(i, arm)| vec![self.key(i).to_owned(), count(arm.rows), self.estimate_text(arm.mean)]);
        let values = found.policies.iter().map(|policy| {
            let lift = policy.lift.map_or_else(
                || "–".to_owned(),
                |e| format!("{} ({} to {})", signed_percent(e.value), signed_percent(e.low), signed_percent(e.high)),
            );
            let estimates = [policy.replay, policy.ips, policy.snips, policy.dr].map(|e| self.estimate_text(e));
            [policy.policy.clone(), count(policy.matched)].into_iter().chain(estimates).chain([lift]).collect()
        });
        let head = ["policy", "matched", "replay", "IPS", "SNIPS", "DR", "lift over the log"];
        let mut facts = vec![
            ("log", format!("{}, {}", plural(found.rows, "row"), plural(u64::from(found.ticks), "update"))),
            ("mean of the log", self.estimate_text(found.mean)),
            ("salt", self.0.salt.clone()),
        ];
        facts.extend(self.0.log.findings.notes.iter().map(|note| ("note", note.clone())));
        facts.extend(self.warnings().into_iter().map(|warning| ("warning", warning)));
        format!(
            "{}\n\n{}\n\n{}\n\n{}",
            table(&["arm", "rows", "mean"], logged.collect()),
            table(&head, values.collect()),
            self.final_states_text(),
            fields(&facts)
        )
    }

    /// The state of each policy after the last row.
    fn final_states_text(&self) -> String {
        let shares: Vec<String> = self.0.log.arms.iter().map(|arm| format!("share of {}", arm.key)).collect();
        let mut head = vec!["final state", "leader", "probability to be best", "revisions", "units moved"];
        head.extend(shares.iter().map(String::as_str));
        let row = |policy: &PolicyResult| {
            let p_best = policy.p_best.get(policy.leader).copied().unwrap_or(f64::NAN);
            let killed_mark = |arm: usize| if policy.killed.contains(&arm) { " killed" } else { "" };
            let shipped = if policy.shipped.is_some() { " shipped" } else { "" };
            let mut row = vec![
                policy.policy.clone(),
                format!("{}{shipped}", self.key(policy.leader)),
                probability(p_best),
                count(policy.revisions.into()),
                count(policy.moves.between_variations),
            ];
            row.extend(policy.shares.iter().enumerate().map(|(arm, share)| percent(*share) + killed_mark(arm)));
            row
        };
        table(&head, self.0.result.policies.iter().map(row).collect())
    }

    /// The result as JSON, with the keys of the arms.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        let mut value = serde_json::to_value(&self.0.result)?;
        for (i, arm) in self.0.log.arms.iter().enumerate() {
            value["arms"][i]["variation"] = json!(arm.key);
            value["arms"][i]["label"] = json!(arm.label);
        }
        for (i, policy) in self.0.result.policies.iter().enumerate() {
            let policy_json = &mut value["policies"][i];
            policy_json["leader"] = json!(self.key(policy.leader));
            policy_json["shipped"] = json!(policy.shipped.map(|arm| self.key(arm)));
            policy_json["killed"] = policy.killed.iter().map(|arm| self.key(*arm)).collect();
        }
        value["outcome"] = json!(self.0.log.outcomes.first());
        value["salt"] = json!(self.0.salt);
        value["notes"] = json!(self.0.log.findings.notes);
        value["rows_excluded"] = json!(self.0.log.findings.excluded);
        value["warnings"] = json!(self.warnings());
        Ok(value)
    }
}
