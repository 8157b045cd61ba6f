//! The half of `experiment` that only looks.

use inroad_wire::v1;
use serde_json::{Value, json};

use super::change::decision_text;
use crate::connect::Connection;
use crate::diff::diff;
use crate::output::{Output, fields, percent, table};
use crate::views;

/// The largest page that the server gives.
const PAGE: u32 = 1_000;
/// How many changed fields of one audit entry are told in words.
const TOLD: usize = 4;

/// Looks at experiments.
pub(super) struct Look<'a> {
    pub(super) connection: &'a Connection,
    pub(super) out: Output,
}

impl Look<'_> {
    pub(super) async fn list(&self, prefix: String) -> anyhow::Result<()> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListExperimentsRequest { page_size: PAGE, page_token, prefix: prefix.clone() };
            let page = self.connection.experiments().list_experiments(request).await?.into_inner();
            all.extend(page.experiments);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let shown = all.iter().map(views::experiment).collect::<Result<Vec<_>, _>>()?;
        self.out.value(&json!({"experiments": shown}))?;
        if all.is_empty() {
            self.out.line("there is no experiment: declare one with `inroad apply -f FILE`")?;
            return Ok(());
        }
        let row = |e: &v1::Experiment| {
            let state = if e.killed {
                format!("{} (killed)", views::state_name(e.state))
            } else {
                views::state_name(e.state).to_owned()
            };
            vec![
                e.key.clone(),
                state,
                e.generation.to_string(),
                e.revision.to_string(),
                e.owner.clone(),
                short_shares(e),
            ]
        };
        self.out.line(table(
            &["experiment", "state", "generation", "revision", "owner", "shares"],
            all.iter().map(row).collect(),
        ))?;
        Ok(())
    }

    async fn fetch(&self, key: &str) -> anyhow::Result<v1::Experiment> {
        let request = v1::GetExperimentRequest { key: key.to_owned() };
        Ok(self.connection.experiments().get_experiment(request).await?.into_inner())
    }

    pub(super) async fn get(&self, key: String) -> anyhow::Result<()> {
        let e = self.fetch(&key).await?;
        let shown = views::experiment(&e)?;
        self.out.value(&shown)?;
        let text = |name: &str| shown[name].as_str().filter(|t| !t.is_empty()).unwrap_or("–").to_owned();
        let state = match (e.killed, e.shipped.as_str()) {
            (true, _) => format!("{} (killed: everybody gets control)", text("state")),
            (false, "") => text("state"),
            (false, shipped) => format!("{}: everybody gets {shipped}", text("state")),
        };
        self.out.line(fields(&[
            ("experiment", e.key.clone()),
            ("description", text("description")),
            ("owner", text("owner")),
            ("state", state),
            ("unit", text("unit")),
            ("audience", if e.audience.is_empty() { "everybody".to_owned() } else { e.audience.clone() }),
            ("policy", compact(&shown["policy"])),
            (
                "generation",
                format!(
                    "{}, salt {}",
                    e.generation,
                    if e.generation_salt.is_empty() { "–" } else { &e.generation_salt }
                ),
            ),
            ("revision", format!("{}, in effect from {}", e.revision, views::time_text(e.effective_at.as_ref()))),
            ("started", views::time_text(e.start_time.as_ref())),
            ("now", views::time_text(e.now.as_ref())),
        ]))?;
        let row = |v: &v1::Variation| {
            vec![
                v.key.clone(),
                percent(v.share),
                if v.killed { "killed" } else { "" }.to_owned(),
                compact(&views::payload(v.payload.as_ref())),
            ]
        };
        self.out.line(format!(
            "\n{}",
            table(&["variation", "share", "", "payload"], e.variations.iter().map(row).collect())
        ))?;
        for metric in shown["metrics"].as_array().into_iter().flatten() {
            self.out.line(format!("metric {}", compact(metric)))?;
        }
        for pinned in shown["overrides"].as_array().into_iter().flatten() {
            self.out.line(format!("override {}", compact(pinned)))?;
        }
        Ok(())
    }

    pub(super) async fn revisions(&self, key: String, generation: u32) -> anyhow::Result<()> {
        let names = names(&self.fetch(&key).await?);
        let request = v1::ListRevisionsRequest { key, generation };
        let revisions = self.connection.experiments().list_revisions(request).await?.into_inner().revisions;
        let shown: Vec<Value> = revisions.iter().map(|r| views::revision(r, &names)).collect();
        self.out.value(&json!({"revisions": shown}))?;
        let row = |r: &v1::Revision| {
            let shares = shares_of(&r.buckets, names.len());
            let mut row = vec![
                r.number.to_string(),
                r.cause.clone(),
                views::time_text(r.effective_at.as_ref()),
                r.buckets.len().to_string(),
            ];
            row.extend(shares.into_iter().map(percent));
            row
        };
        let mut head = vec!["revision", "cause", "in effect from", "buckets"];
        head.extend(names.iter().map(String::as_str));
        self.out.line(table(&head, revisions.iter().map(row).collect()))?;
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
        let names = names(&self.fetch(&key).await?);
        let stored = serde_json::from_str::<Value>(&explained.record_json).unwrap_or(Value::Null);
        self.out.value(&json!({
            "revision": explained.revision.as_ref().map(|r| views::revision(r, &names)),
            "decision": explained.decision.as_ref().map(views::decision),
            "record": stored, "reproduced": explained.reproduced,
        }))?;
        let r = explained.revision.unwrap_or_default();
        let head = format!(
            "{key} revision {}: {}, in effect from {}",
            r.number,
            r.cause,
            views::time_text(r.effective_at.as_ref())
        );
        let Some(decision) = explained.decision else {
            self.out.line(format!("{head}\nno decision of the policy stands behind it"))?;
            return Ok(());
        };
        let row = |a: &v1::ArmDecision| {
            vec![
                a.variation.clone(),
                percent(a.share_before),
                percent(a.share_after),
                percent(a.p_best),
                percent(a.p_above_control),
                percent(a.expected_loss),
                a.why.clone(),
            ]
        };
        let columns = ["variation", "before", "after", "P(best)", "P(> control)", "expected loss", "why"];
        let told = if explained.reproduced {
            "recomputed from its record: the very same boundaries"
        } else {
            "recomputing its record gives OTHER boundaries: report this"
        };
        self.out.line(format!(
            "{head}\n{}\n\n{}\n\n{told}",
            decision_text(&decision),
            table(&columns, decision.arms.iter().map(row).collect())
        ))?;
        if record {
            self.out.line(format!("\n{stored:#}"))?;
        }
        Ok(())
    }

    pub(super) async fn decisions(&self, key: String, generation: u32, limit: u32) -> anyhow::Result<()> {
        let mut decisions = Vec::new();
        let mut page_token = String::new();
        while (decisions.len() as u32) < limit {
            let page_size = PAGE.min(limit - decisions.len() as u32);
            let request = v1::ListDecisionsRequest { key: key.clone(), generation, page_size, page_token };
            let page = self.connection.experiments().list_decisions(request).await?.into_inner();
            decisions.extend(page.decisions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        for decision in &decisions {
            self.out.line(decision_text(decision))?;
            for arm in decision.arms.iter().filter(|arm| !arm.why.is_empty()) {
                self.out.line(format!("    {} {}", arm.variation, arm.why))?;
            }
        }
        let shown: Vec<Value> = decisions.iter().map(views::decision).collect();
        Ok(self.out.value(&json!({"decisions": shown}))?)
    }

    pub(super) async fn audit(&self, key: String, limit: u32) -> anyhow::Result<()> {
        let mut entries = Vec::new();
        let mut page_token = String::new();
        while (entries.len() as u32) < limit {
            let page_size = PAGE.min(limit - entries.len() as u32);
            let request = v1::ListAuditEntriesRequest { key: key.clone(), page_size, page_token };
            let page = self.connection.experiments().list_audit_entries(request).await?.into_inner();
            entries.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let shown: Vec<Value> = entries.iter().map(views::audit_entry).collect();
        for (entry, shown) in entries.iter().zip(&shown) {
            let at = views::time_text(entry.at.as_ref());
            self.out.line(format!(
                "{at}  {}  {}  {}  {}",
                entry.actor,
                entry.action,
                if entry.experiment.is_empty() { "–" } else { &entry.experiment },
                changes(shown)
            ))?;
        }
        Ok(self.out.value(&json!({"entries": shown}))?)
    }
}

/// What an audit entry changed, in few words.
fn changes(entry: &Value) -> String {
    if entry["from"].is_null() {
        // A unit was forgotten: it is in no experiment, and is called by its digest.
        let unit = entry["to"]["unit_type"].as_str().zip(entry["to"]["digest"].as_str());
        return unit.map(|(kind, digest)| format!("{kind} {digest}")).unwrap_or_default();
    }
    let changes = diff(Some(&entry["from"]), Some(&entry["to"]));
    let told: Vec<String> = changes.iter().take(TOLD).map(ToString::to_string).map(|text| shortened(&text)).collect();
    let more = changes.len().saturating_sub(TOLD);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    told.join("; ") + &rest
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 100;
    if text.chars().count() <= LONGEST { text.to_owned() } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

/// The keys of an experiment's variations.
fn names(e: &v1::Experiment) -> Vec<String> {
    e.variations.iter().map(|v| v.key.clone()).collect()
}

fn short_shares(e: &v1::Experiment) -> String {
    e.variations.iter().map(|v| format!("{:.0}%", v.share * 100.0)).collect::<Vec<_>>().join(" / ")
}

/// How much of the line each owner has.
fn shares_of(buckets: &[v1::Bucket], owners: usize) -> Vec<f64> {
    let allocation = inroad_wire::allocation_from_wire(buckets).ok();
    let share = |i| Some(allocation.as_ref()?.width_of(inroad_assignment::Arm::new(i)?).share());
    (0..owners).map(|i| share(i).unwrap_or(f64::NAN)).collect()
}

/// JSON on one line, without the braces of an object.
fn compact(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
