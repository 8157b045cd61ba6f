//! What was found, in words and as JSON. Pure.

use inroad_simulations::offline::{Estimate, PolicyResult};
use serde_json::{Value, json};

use super::Asked;
use crate::output::{count, fields, percent, plural, signed_percent, table};

/// Standard errors from 1 at which an arm's weights speak against its propensities: by chance, once in 16,000 arms.
const ALARM: f64 = 4.0;

/// All that there is to tell.
pub(super) struct Report<'a>(pub(super) &'a Asked);

impl Report<'_> {
    fn key(&self, arm: usize) -> &str {
        self.0.log.arms.get(arm).map_or("", |arm| arm.key.as_str())
    }

    /// A rate as a percentage, an amount as it is.
    fn number(&self, value: f64) -> String {
        if self.0.log.binary.first() == Some(&true) { percent(value) } else { format!("{value:.4}") }
    }

    fn estimate(&self, estimate: Option<Estimate>) -> String {
        estimate
            .map_or_else(|| "–".to_owned(), |e| format!("{} ±{}", self.number(e.value), self.number(e.high - e.value)))
    }

    /// What should make a reader wary of the numbers.
    fn warnings(&self) -> Vec<String> {
        let found = &self.0.found;
        let mut warnings = Vec::new();
        for (i, arm) in found.arms.iter().enumerate() {
            let far = |weight: &Estimate| (weight.value - 1.0).abs() > ALARM * weight.se;
            if arm.rows == 0 {
                warnings.push(format!("no row got {}: what a policy gives to it cannot be told", self.key(i)));
            } else if let Some(weight) = arm.weight.filter(far) {
                let key = self.key(i);
                warnings.push(format!("{key} came {:.3} times as often as its propensities say", weight.value));
            }
        }
        if !found.propensities {
            let told = "there are no propensities: replay's mean is right only if all arms were drawn alike often";
            warnings.push(told.to_owned());
        }
        if found.units < found.rows {
            let units = plural(found.units, "unit");
            warnings.push(format!("{units} in {} rows: rows of one unit were counted apart", count(found.rows)));
        }
        warnings
    }

    pub(super) fn text(&self) -> String {
        let found = &self.0.found;
        let logged = found.arms.iter().enumerate();
        let logged = logged.map(|(i, arm)| vec![self.key(i).to_owned(), count(arm.rows), self.estimate(arm.mean)]);
        let values = found.policies.iter().map(|policy| {
            let lift = policy.lift.map_or_else(
                || "–".to_owned(),
                |e| format!("{} ({} to {})", signed_percent(e.value), signed_percent(e.low), signed_percent(e.high)),
            );
            let estimates = [policy.replay, policy.ips, policy.snips, policy.dr].map(|e| self.estimate(e));
            [policy.policy.clone(), count(policy.matched)].into_iter().chain(estimates).chain([lift]).collect()
        });
        let head = ["policy", "matched", "replay", "IPS", "SNIPS", "DR", "lift over the log"];
        let mut facts = vec![
            ("log", format!("{}, {}", plural(found.rows, "row"), plural(u64::from(found.ticks), "tick"))),
            ("mean of the log", self.estimate(found.mean)),
            ("salt", self.0.salt.clone()),
        ];
        facts.extend(self.warnings().into_iter().map(|warning| ("warning", warning)));
        format!(
            "{}\n\n{}\n\n{}\n\n{}",
            table(&["arm", "rows", "mean"], logged.collect()),
            table(&head, values.collect()),
            self.endings(),
            fields(&facts)
        )
    }

    /// Where each policy stands after the last row.
    fn endings(&self) -> String {
        let shares: Vec<String> = self.0.log.arms.iter().map(|arm| format!("share of {}", arm.key)).collect();
        let mut head = vec!["in the end", "leader", "P(best)", "revisions", "moved"];
        head.extend(shares.iter().map(String::as_str));
        let row = |policy: &PolicyResult| {
            let p_best = policy.p_best.get(policy.leader).copied().unwrap_or(f64::NAN);
            let killed = |arm: usize| if policy.killed.contains(&arm) { " killed" } else { "" };
            let shipped = if policy.shipped.is_some() { " shipped" } else { "" };
            let mut row = vec![
                policy.policy.clone(),
                format!("{}{shipped}", self.key(policy.leader)),
                percent(p_best),
                count(policy.revisions.into()),
                count(policy.moves.between_variations),
            ];
            row.extend(policy.shares.iter().enumerate().map(|(arm, share)| percent(*share) + killed(arm)));
            row
        };
        table(&head, self.0.found.policies.iter().map(row).collect())
    }

    /// Arms go by their keys here.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        let mut value = serde_json::to_value(&self.0.found)?;
        for (i, arm) in self.0.log.arms.iter().enumerate() {
            value["arms"][i]["variation"] = json!(arm.key);
            value["arms"][i]["label"] = json!(arm.label);
        }
        for (i, policy) in self.0.found.policies.iter().enumerate() {
            let told = &mut value["policies"][i];
            told["leader"] = json!(self.key(policy.leader));
            told["shipped"] = json!(policy.shipped.map(|arm| self.key(arm)));
            told["killed"] = policy.killed.iter().map(|arm| self.key(*arm)).collect();
        }
        value["outcome"] = json!(self.0.log.outcomes.first());
        value["salt"] = json!(self.0.salt);
        value["warnings"] = json!(self.warnings());
        Ok(value)
    }
}
