//! The history of the experiment page: decisions, revisions, kills, shares over time and the audit log.

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Arm, Experiment, ExperimentKey, Generation, KillTarget, Revision, Timestamp};
use inroad_dashboard::chart::{KillPeriod, RevisionMark};
use inroad_dashboard::experiment as view;
use inroad_store::{AuditEntry, PageRequest, StoredDecision};
use serde_json::Value;

use crate::audit_sentence::AuditSentence;
use crate::error::ServerError;
use crate::explain::decision_to_wire;
use crate::kill_texts::kept_results_in_words;
use crate::shared::SharedState;

/// Most decisions and audit entries on the page.
pub(super) const MAX_LISTED: usize = 40;
/// Most bytes of decisions that are read for the page.
pub(super) const DECISION_BYTES: usize = 8 * 1024 * 1024;
/// Audit entries read at a time, by number and bytes, and the most reads for one page: nearly all entries may be
/// automatic decisions, which are not listed.
const AUDIT_READ: (usize, usize, usize) = (200, 256 * 1024, 5);
/// The most changed fields of one entry that a page shows.
const MAX_FIELDS: usize = 100;

/// Views of the newest audit entries before an id, without automatic decisions that changed nothing. The second value is
/// the id before which older entries are found; none if there are none. Few entries are in memory at once.
pub(super) async fn audit_entries_before(
    shared: &SharedState,
    key: &ExperimentKey,
    mut before: u64,
) -> Result<(Vec<view::AuditEntry>, Option<u64>), ServerError> {
    let (limit, max_bytes, max_reads) = AUDIT_READ;
    let mut found = Vec::new();
    for _ in 0..max_reads {
        let entries = shared.store.audit(Some(key), PageRequest { before, limit, max_bytes }).await?;
        if entries.is_empty() {
            return Ok((found, None));
        }
        for entry in entries {
            before = entry.id;
            if entry.action != "tick" {
                found.push(audit_entry(&entry));
            }
            if found.len() == MAX_LISTED {
                return Ok((found, Some(before)));
            }
        }
    }
    Ok((found, Some(before)))
}

/// Views of the stored decisions.
pub(super) fn decisions(
    experiment: &Experiment,
    generation: u32,
    records: &[StoredDecision],
) -> Result<Vec<view::Decision>, ServerError> {
    records
        .iter()
        .map(|StoredDecision { record, .. }| {
            let (input, output): (_, inroad_policy::Decision) =
                (serde_json::from_str(&record.input)?, serde_json::from_str(&record.output)?);
            let ranked = output.burn_in.met;
            let decision = decision_to_wire(experiment, generation, record.revision, &input, &output);
            let arms = decision.arms.iter().map(|arm| view::DecisionArm {
                name: arm.variation.clone(),
                // Before the burn-in is over there is too little to rank them, and a killed variation is not compared.
                p_best: (ranked && !arm.killed).then_some(arm.p_best),
                share_before: arm.share_before,
                share_after: arm.share_after,
                why: arm.why.clone(),
            });
            Ok(view::Decision {
                at: record.at,
                revision: record.revision.unwrap_or_default(),
                kills: !decision.killed.is_empty(),
                summary: decision.summary.clone(),
                arms: arms.collect(),
            })
        })
        .collect()
}

/// The revisions, each with its reason.
pub(super) fn revision_marks(generation: &Generation, decisions: &[view::Decision]) -> Vec<RevisionMark> {
    let mark = |revision: &Revision| {
        let decision = decisions.iter().find(|decision| decision.revision == revision.number);
        let reason = match (revision.cause, decision) {
            (RevisionCause::Policy, Some(decision)) => decision.summary.clone(),
            (RevisionCause::Policy, None) => "automatic decision".to_owned(),
            (RevisionCause::Start, _) => "start".to_owned(),
            (RevisionCause::Grown, _) => "changed manually".to_owned(),
            (RevisionCause::Added, _) => "variation added".to_owned(),
        };
        RevisionMark {
            at: revision.effective_at,
            number: u64::from(revision.number),
            title: format!("Revision {}: {reason}", revision.number),
            href: if decision.is_some() { format!("#revision-{}", revision.number) } else { "#history".to_owned() },
        }
    };
    let ended_at = generation.ended_at().unwrap_or(Timestamp::MAX);
    generation.revisions.iter().filter(|revision| revision.effective_at <= ended_at).map(mark).collect()
}

/// The periods in which something was killed, from the kills and restores of a generation.
pub(super) fn kill_periods(generation: &Generation) -> Vec<KillPeriod> {
    let mut kills: Vec<KillPeriod> = Vec::new();
    for change in &generation.kill_changes {
        let arm = match change.target {
            KillTarget::Everything => None,
            KillTarget::Variation(arm) => Some(arm.index()),
        };
        let open = kills.iter_mut().find(|kill| kill.arm == arm && kill.until.is_none());
        match open {
            Some(kill) if !change.killed => kill.until = Some(change.at),
            None if change.killed => kills.push(KillPeriod { arm, from: change.at, until: None }),
            _ => {}
        }
    }
    kills
}

/// The shares of each arm, from each revision and from the conclusion on.
pub(super) fn share_steps(experiment: &Experiment, generation: &Generation) -> Vec<(Timestamp, Vec<f64>)> {
    let arms = experiment.definition.variations().len();
    let shares = |revision: &Revision| {
        (0..arms).filter_map(Arm::new).map(|arm| revision.allocation.width_of(arm).share()).collect()
    };
    let ended_at = generation.ended_at().unwrap_or(Timestamp::MAX);
    let revisions = generation.revisions.iter().filter(|revision| revision.effective_at <= ended_at);
    let steps = revisions.map(|revision| (revision.effective_at, shares(revision)));
    let shipped = |arm: Arm| (0..arms).map(|i| f64::from(u8::from(i == arm.index()))).collect();
    let conclusions = generation.endings.iter().filter_map(|ending| Some((ending.at, shipped(ending.shipped?))));
    steps.chain(conclusions).collect()
}

/// The view of an audit entry, with the fields that it changed.
pub(in crate::pages) fn audit_entry(entry: &AuditEntry) -> view::AuditEntry {
    let AuditSentence { start, experiment, end } = AuditSentence::new(entry);
    let mut changed = Vec::new();
    if !entry.from.is_empty() {
        let definition = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default()["definition"].take();
        changed = view::changed_fields(&definition(&entry.from), &definition(&entry.to));
    }
    let more_changed = changed.len().saturating_sub(MAX_FIELDS);
    changed.truncate(MAX_FIELDS);
    view::AuditEntry {
        at: entry.at,
        sentence: [start, experiment, end],
        changed,
        more_changed,
        kept_results: kept_results_in_words(entry),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;

    #[test]
    fn audit_entry_has_the_results_kept_with_a_kill() {
        let to = serde_json::json!({
            "kill_results": [{
                "generation": 1, "arm": 1, "at": 5, "actor": "ann", "metric": "buys", "exposed": 9, "units": 9,
                "converted": 0, "open": 9, "mean": null, "control_mean": null, "lift": null, "p_worse": null,
            }],
        });
        let variations = [(1, "on".to_owned())].into();
        let entry = AuditEntry {
            id: 1,
            at: Timestamp::default(),
            actor: "ann".to_owned(),
            action: "kill".to_owned(),
            experiment: None,
            from: "{}".to_owned(),
            to: to.to_string(),
            context: inroad_store::AuditContext { variations, shipped_within_audience: None },
            hash: None,
        };
        let kept = audit_entry(&entry).kept_results;
        assert!(kept.len() == 1 && kept[0].starts_with("on was killed by ann: 9"), "{kept:?}");
    }
}
