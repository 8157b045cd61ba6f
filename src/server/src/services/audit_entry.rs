//! Entries of the audit log in wire form.

use inroad_store::AuditEntry;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

use crate::audit_sentence::AuditSentence;
use crate::config::MAX_RESPONSE_BYTES;
use crate::kill_texts::kept_results_in_words;

/// The most bytes of both texts of an audit entry.
const MAX_AUDIT_TEXT_BYTES: usize = MAX_RESPONSE_BYTES - 4096;

/// An audit entry in wire form. Texts that do not fit into a message are replaced by their size: earlier releases accepted
/// larger experiments.
pub(super) fn audit_entry_to_wire(entry: AuditEntry) -> v1::AuditEntry {
    let bytes = entry.from.len() + entry.to.len();
    let (kept_results, summary) = (kept_results_in_words(&entry), AuditSentence::new(&entry).to_string());
    let (from_json, to_json) = match bytes > MAX_AUDIT_TEXT_BYTES {
        true => (String::new(), serde_json::json!({ "left_out_bytes": bytes }).to_string()),
        false => (entry.from, entry.to),
    };
    v1::AuditEntry {
        id: entry.id,
        at: Some(timestamp_to_wire(entry.at)),
        actor: entry.actor,
        action: entry.action,
        experiment: entry.experiment.map(String::from).unwrap_or_default(),
        from_json,
        to_json,
        kept_results,
        summary,
        hash: entry.hash.map(|hash| hash.to_string()).unwrap_or_default(),
        variations: entry.context.variations.into_iter().map(|(arm, key)| (arm as u32, key)).collect(),
    }
}
