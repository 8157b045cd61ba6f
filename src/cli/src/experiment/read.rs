//! The actions of `experiment` that change nothing.

use inroad_server::explain::estimate_in_words;
use inroad_wire::v1;
use serde_json::{Value, json};

use super::change::decision_text;
use super::serving::{is_rolled_back, is_shipped_killed, serving_text};
use crate::connect::Connection;
use crate::lookup::{get_experiment, list_experiments, list_revisions};
use crate::output::{Output, fields, percent, probability, table};
use crate::response_json;
use crate::results::kills_text;
use crate::wire_text::{state_name, timestamp_text};

/// The largest page that the server returns.
const PAGE_SIZE: u32 = 1_000;

/// Shows experiments.
pub(super) struct ExperimentReader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) out: Output,
}

impl ExperimentReader<'_> {
    pub(super) async fn list(&self, prefix: &str) -> anyhow::Result<()> {
        let all = list_experiments(self.connection, prefix).await?;
        let shown = all.iter().map(response_json::experiment_json).collect::<Result<Vec<_>, _>>()?;
        self.out.print_json(&json!({"experiments": shown}))?;
        if all.is_empty() {
            let text = match prefix {
                "" => "no experiments yet. Create one with `inroad apply -f FILE`.".to_owned(),
                prefix => format!("no experiment has a key that starts with {prefix:?}"),
            };
            self.out.print_text(text)?;
            return Ok(());
        }
        let row = |e: &v1::Experiment| {
            let state =
                if e.killed { format!("{} (killed)", state_name(e.state)) } else { state_name(e.state).to_owned() };
            vec![
                e.key.clone(),
                state,
                e.generation.to_string(),
                e.revision.to_string(),
                e.owner.clone(),
                match (e.shipped.is_empty(), is_rolled_back(e)) {
                    (true, _) => short_shares(e),
                    (false, true) => format!("rolled back: {}", serving_text(e)),
                    (false, false) if is_shipped_killed(e) => format!("shipped, but killed: {}", serving_text(e)),
                    (false, false) if e.generation > 0 => format!("shipped: {}", serving_text(e)),
                    (false, false) => serving_text(e),
                },
            ]
        };
        self.out.print_text(table(
            &["experiment", "state", "run", "revision", "owner", "shares"],
            all.iter().map(row).collect(),
        ))?;
        Ok(())
    }

    pub(super) async fn get(&self, key: &str) -> anyhow::Result<()> {
        let e = get_experiment(self.connection, key).await?;
        let shown = response_json::experiment_json(&e)?;
        self.out.print_json(&shown)?;
        let text = |name: &str| shown[name].as_str().filter(|t| !t.is_empty()).unwrap_or("–").to_owned();
        let state = match (e.killed, e.shipped.as_str()) {
            (true, _) => format!("{} (killed: all units get control)", text("state")),
            (false, "") => text("state"),
            (false, _) if is_rolled_back(&e) => format!("{}, rolled back: {}", text("state"), serving_text(&e)),
            (false, shipped) if is_shipped_killed(&e) => {
                format!("{}, but {shipped} is killed: {}", text("state"), serving_text(&e))
            }
            (false, _) => format!("{}: {}", text("state"), serving_text(&e)),
        };
        self.out.print_text(fields(&[
            ("experiment", e.key.clone()),
            ("description", text("description")),
            ("owner", text("owner")),
            ("state", state),
            ("unit", text("unit")),
            ("audience", if e.audience.is_empty() { "all units".to_owned() } else { e.audience.clone() }),
            ("allocation policy", compact_json(&shown["policy"])),
            (
                "run",
                format!(
                    "{}, salt {}",
                    e.generation,
                    if e.generation_salt.is_empty() { "–" } else { &e.generation_salt }
                ),
            ),
            (
                "revision",
                match e.revision_never_in_effect {
                    true => format!("{}, {NEVER_IN_EFFECT}", e.revision),
                    false => format!("{}, in effect from {}", e.revision, timestamp_text(e.effective_at.as_ref())),
                },
            ),
            ("started", timestamp_text(e.start_time.as_ref())),
            ("now", timestamp_text(e.now.as_ref())),
        ]))?;
        let row = |v: &v1::Variation| {
            vec![
                v.key.clone(),
                percent(v.share),
                if v.killed { "killed" } else { "" }.to_owned(),
                compact_json(&response_json::payload_json(v.payload.as_ref())),
            ]
        };
        let (has_ended, has_kills) = (!e.shipped.is_empty(), e.killed || e.variations.iter().any(|v| v.killed));
        self.out.print_text(format!(
            "\n{}",
            table(
                &["variation", if has_ended { "allocated share" } else { "share" }, "", "payload"],
                e.variations.iter().map(row).collect()
            )
        ))?;
        let has_kills = has_ended && has_kills && e.generation > 0;
        let differences = [
            has_kills.then(|| "units of variations that were killed before the end got control until then".to_owned()),
            e.revision_never_in_effect.then(|| format!("revision {} never took effect", e.revision)),
        ];
        let differences: Vec<String> = differences.into_iter().flatten().collect();
        if !differences.is_empty() {
            let text = differences.join(", and ");
            self.out.print_text(format!("{text}: `inroad results` shows the shares that were served"))?;
        }
        for metric in shown["metrics"].as_array().into_iter().flatten() {
            self.out.print_text(format!("metric {}", compact_json(metric)))?;
        }
        for pin in shown["overrides"].as_array().into_iter().flatten() {
            self.out.print_text(format!("always this variation: {}", compact_json(pin)))?;
        }
        Ok(())
    }

    pub(super) async fn revisions(&self, key: String, generation: u32) -> anyhow::Result<()> {
        let keys = variation_keys(&get_experiment(self.connection, &key).await?);
        let revisions = list_revisions(self.connection, &key, generation).await?;
        let shown: Vec<Value> = revisions.iter().map(|r| response_json::revision_json(r, &keys)).collect();
        self.out.print_json(&json!({"revisions": shown}))?;
        let row = |r: &v1::Revision| {
            let shares = shares_by_owner(&r.buckets, keys.len());
            let mut row = vec![r.number.to_string(), r.cause.clone(), effect_text(r), r.buckets.len().to_string()];
            row.extend(shares.into_iter().map(percent));
            row
        };
        let mut head = vec!["revision", "cause", "in effect from", "buckets"];
        head.extend(keys.iter().map(String::as_str));
        self.out.print_text(table(&head, revisions.iter().map(row).collect()))?;
        Ok(())
    }

    pub(super) async fn explain(
        &self,
        key: String,
        generation: u32,
        revision: u32,
        record: bool,
    ) -> anyhow::Result<()> {
        let request = v1::ExplainRevisionRequest { key: key.clone(), generation, revision };
        let explained = self.connection.experiments().explain_revision(request).await?.into_inner();
        let keys = variation_keys(&get_experiment(self.connection, &key).await?);
        let stored = serde_json::from_str::<Value>(&explained.record_json).unwrap_or(Value::Null);
        self.out.print_json(&json!({
            "revision": explained.revision.as_ref().map(|r| response_json::revision_json(r, &keys)),
            "decision": explained.decision.as_ref().map(response_json::decision_json),
            "record": stored, "reproduced": explained.reproduced, "kills": response_json::kills_json(&explained.kills),
            "summary": explained.summary,
        }))?;
        let r = explained.revision.unwrap_or_default();
        let head = format!(
            "{key} revision {}: {}, {}{}",
            r.number,
            r.cause,
            if r.never_in_effect { "" } else { "in effect from " },
            effect_text(&r)
        );
        let kills = kills_text(&explained.kills);
        let Some(decision) = explained.decision else {
            let at = timestamp_text(r.created_at.as_ref());
            self.out.print_text(format!("{head}\n{at}: {}{kills}", explained.summary))?;
            return Ok(());
        };
        let is_ranked = decision.hold != "BURN_IN";
        let row = |(index, a): (usize, &v1::ArmDecision)| {
            vec![
                a.variation.clone(),
                percent(a.share_before),
                percent(a.share_after),
                // Before the burn-in is over there is too little to rank the variations.
                if is_ranked && !a.killed { probability(a.p_best) } else { "–".to_owned() },
                if is_ranked && !a.killed && index > 0 { probability(a.p_above_control) } else { "–".to_owned() },
                a.expected_loss.filter(|_| is_ranked).map_or_else(|| "–".to_owned(), estimate_in_words),
                a.why.clone(),
            ]
        };
        let columns = [
            "variation",
            "before",
            "after",
            "probability to be best",
            "probability to beat control",
            "expected loss",
            "reason",
        ];
        let recomputed = if explained.reproduced {
            "recomputed from its record, with what was known then; `inroad results` uses what is known now: same boundaries"
        } else {
            "recomputed from its record: DIFFERENT boundaries. Please report this bug."
        };
        self.out.print_text(format!(
            "{head}\n{}\n\n{}\n\n{recomputed}{kills}",
            decision_text(&decision),
            table(&columns, decision.arms.iter().enumerate().map(row).collect())
        ))?;
        if record {
            self.out.print_text(format!("\n{stored:#}"))?;
        }
        Ok(())
    }

    pub(super) async fn decisions(&self, key: String, generation: u32, limit: u32) -> anyhow::Result<()> {
        let mut decisions = Vec::new();
        let mut page_token = String::new();
        while (decisions.len() as u32) < limit {
            let page_size = PAGE_SIZE.min(limit - decisions.len() as u32);
            let request = v1::ListDecisionsRequest { key: key.clone(), generation, page_size, page_token };
            let page = self.connection.experiments().list_decisions(request).await?.into_inner();
            decisions.extend(page.decisions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if decisions.is_empty() {
            self.out.print_text("the allocation policy has made no decision in this run yet")?;
        }
        for decision in &decisions {
            self.out.print_text(decision_text(decision))?;
            for arm in decision.arms.iter().filter(|arm| !arm.why.is_empty()) {
                self.out.print_text(format!("    {} {}", arm.variation, arm.why))?;
            }
        }
        if !decisions.is_empty() {
            self.out.print_text(
                "each says what was known at its time, shortly before its entry in the audit log; `inroad results` uses what \
                 is known now",
            )?;
        }
        let shown: Vec<Value> = decisions.iter().map(response_json::decision_json).collect();
        Ok(self.out.print_json(&json!({"decisions": shown}))?)
    }

    pub(super) async fn audit(&self, key: String, limit: u32) -> anyhow::Result<()> {
        let mut entries = Vec::new();
        let mut page_token = String::new();
        while (entries.len() as u32) < limit {
            let page_size = PAGE_SIZE.min(limit - entries.len() as u32);
            let request = v1::ListAuditEntriesRequest { key: key.clone(), page_size, page_token };
            let page = self.connection.experiments().list_audit_entries(request).await?.into_inner();
            entries.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if entries.is_empty() {
            self.out.print_text("the audit log has no entries")?;
        }
        let shown: Vec<Value> = entries.iter().map(response_json::audit_entry_json).collect();
        for entry in &entries {
            self.out.print_text(format!("{}  {}", timestamp_text(entry.at.as_ref()), entry.summary))?;
            for result in &entry.kept_results {
                self.out.print_text(format!("    {result}"))?;
            }
        }
        Ok(self.out.print_json(&json!({"entries": shown}))?)
    }
}

/// What is said instead of the time at which a revision took effect, if the run ended before.
const NEVER_IN_EFFECT: &str = "never in effect: the run ended before";

/// From when a revision is in effect.
fn effect_text(r: &v1::Revision) -> String {
    if r.never_in_effect { NEVER_IN_EFFECT.to_owned() } else { timestamp_text(r.effective_at.as_ref()) }
}

/// The keys of an experiment's variations, in order.
fn variation_keys(e: &v1::Experiment) -> Vec<String> {
    e.variations.iter().map(|v| v.key.clone()).collect()
}

fn short_shares(e: &v1::Experiment) -> String {
    let share =
        |v: &v1::Variation| format!("{}{}", percent(v.share), if v.killed && !e.killed { " (killed)" } else { "" });
    e.variations.iter().map(share).collect::<Vec<_>>().join(" / ")
}

/// The share of the line that each owner has.
fn shares_by_owner(buckets: &[v1::Bucket], owners: usize) -> Vec<f64> {
    let allocation = inroad_wire::allocation_from_wire(buckets).ok();
    let share = |i| Some(allocation.as_ref()?.width_of(inroad_assignment::Arm::new(i)?).share());
    (0..owners).map(|i| share(i).unwrap_or(f64::NAN)).collect()
}

/// JSON on one line, without the braces of an object.
fn compact_json(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_shows_shares_with_the_digits_of_get() {
        let variation = |share, killed| v1::Variation { share, killed, ..v1::Variation::default() };
        let variations = vec![variation(0.6, false), variation(2.0 / 15.0, false), variation(4.0 / 15.0, true)];
        let e = v1::Experiment { variations, ..v1::Experiment::default() };
        assert_eq!(short_shares(&e), "60.0% / 13.3% / 26.7% (killed)");
    }
}
