//! The answer to "why was this revision made?": a decision of the policy from its stored record, or what a person did.

use std::sync::Arc;

use inroad_assignment::experiment::{ChangeError, RevisionCause};
use inroad_assignment::{Arm, Experiment, Generation, Revision};
use inroad_dashboard::format::NumberFormat;
use inroad_policy::{Decision, DrawsCache, TickInput};
use inroad_store::{DecisionRecord, PageRequest};
use inroad_wire::revision::revision_to_wire;
use inroad_wire::v1;
use serde::Deserialize;

use crate::catalogue::CatalogueEntry;
use crate::error::ServerError;
use crate::explain::decision_to_wire;
use crate::kill_texts::kills_during_revision;
use crate::shared::SharedState;
use crate::tick::growth_requests;

/// Audit entries that are read at a time to find the author of a revision, their bytes, and the most reads.
const AUDIT_READ: usize = 200;
const AUDIT_BYTES: usize = 1024 * 1024;
const MAX_AUDIT_READS: usize = 10;

/// Explains a revision of a run. Makes the decision again, which takes long: do not call it from an async worker.
///
/// # Errors
/// [`ServerError::UnknownRevision`], and errors of the store.
pub(super) async fn explain_revision(
    shared: Arc<SharedState>,
    entry: CatalogueEntry,
    number: u32,
    revision: u32,
) -> Result<v1::ExplainRevisionResponse, ServerError> {
    let key = entry.experiment.definition.key();
    let missing = || ServerError::UnknownRevision { experiment: key.to_string(), kind: "revision", number: revision };
    let generation = entry.experiment.generation_by_number(number).ok_or_else(missing)?;
    let revision = generation.revision(revision).ok_or_else(missing)?;
    let record = shared.store.decision(key, number, revision.number).await?;
    let mut response = v1::ExplainRevisionResponse {
        revision: Some(revision_to_wire(generation, revision, record.is_some())),
        kills: kills_during_revision(&entry.experiment, generation, revision),
        ..v1::ExplainRevisionResponse::default()
    };
    let Some(DecisionRecord { input, output, .. }) = record else {
        let author = author(&shared, &entry.experiment, number, revision.number).await?;
        response.summary = in_words(&entry.experiment, generation, revision, author.as_deref());
        return Ok(response);
    };
    let input: TickInput = serde_json::from_str(&input)?;
    let stored: Decision = serde_json::from_str(&output)?;
    let recomputed = inroad_policy::decide(&input, &mut DrawsCache::default())?;
    let before = generation.revision(revision.number.saturating_sub(1)).ok_or_else(missing)?;
    // I7: the stored input gives the same decision, and the decision gives the same boundaries.
    let grown = before.allocation.grow(&growth_requests(&recomputed), input.floor).map_err(ChangeError::from)?;
    response.reproduced = recomputed == stored && grown == *revision.allocation;
    response.decision = Some(decision_to_wire(&entry.experiment, number, Some(revision.number), &input, &stored));
    response.record_json = serde_json::to_string(&serde_json::json!({ "input": input, "decision": stored }))?;
    Ok(response)
}

/// The part of an audit entry that says which revision was made. An entry has only what changed.
#[derive(Deserialize)]
struct AuditedRevision {
    line: AuditedLine,
}

#[derive(Deserialize)]
struct AuditedLine {
    /// The run, if the change began one.
    generation: Option<u32>,
    revision: u32,
}

/// Who made a revision, by the audit log; none if the entries of its run are not among the newest ones.
async fn author(
    shared: &SharedState,
    experiment: &Experiment,
    generation: u32,
    revision: u32,
) -> Result<Option<String>, ServerError> {
    let (mut before, mut candidate) = (u64::MAX, None);
    for _ in 0..MAX_AUDIT_READS {
        let page = PageRequest { before, limit: AUDIT_READ, max_bytes: AUDIT_BYTES };
        let entries = shared.store.audit(Some(experiment.definition.key()), page).await?;
        let Some(oldest) = entries.last() else { break };
        before = oldest.id;
        // Few entries are parsed, because a definition may have megabytes.
        for entry in entries.into_iter().filter(|entry| entry.to.contains("\"line\"")) {
            let Ok(AuditedRevision { line }) = serde_json::from_str(&entry.to) else { continue };
            if line.revision == revision {
                candidate = Some(entry.actor);
            }
            // Newest first: the entry that began a run comes after those of its other revisions.
            match line.generation {
                Some(number) if number == generation => return Ok(candidate),
                Some(_) => candidate = None,
                None => {}
            }
        }
    }
    Ok(candidate.filter(|_| experiment.generations.len() == 1))
}

/// "by ann: green 20.00% → 70.00%, control 80.00% → 30.00%".
fn in_words(experiment: &Experiment, generation: &Generation, revision: &Revision, author: Option<&str>) -> String {
    let by = author.map(|author| format!(" by {author}")).unwrap_or_default();
    let before =
        generation.revision(revision.number.saturating_sub(1)).filter(|_| revision.cause != RevisionCause::Start);
    let share = |of: &Revision, arm| NumberFormat::Percent2.text(of.allocation.width_of(arm).share());
    let variations = experiment.definition.variations().iter().enumerate();
    let shares = variations.filter_map(|(i, variation)| {
        let arm = Arm::new(i)?;
        let after = share(revision, arm);
        match before.map(|before| share(before, arm)) {
            Some(before) if before == after => None,
            Some(before) => Some(format!("{} {before} → {after}", variation.key)),
            None => Some(format!("{} {after}", variation.key)),
        }
    });
    let shares = shares.collect::<Vec<_>>().join(", ");
    match revision.cause {
        RevisionCause::Start => format!("started{by} with the initial shares of the definition: {shares}"),
        RevisionCause::Added => format!("a variation was added{by}: {shares}"),
        RevisionCause::Grown => format!("grown{by}: {shares}"),
        RevisionCause::Policy => format!("automatic decision: {shares}"),
    }
}
