//! The first half of a fold step: reads events from the log, separates exposures from outcomes and drops known repeats.

use std::borrow::Cow;
use std::sync::Arc;

use inroad_assignment::{Digest, Timestamp, UnitKey, unit_digest};
use inroad_policy::attribution::Exposure;
use rusqlite::{Connection, params};
use serde::Deserialize;

use super::column_values::{arm_from_column, corrupt, to_sql_integer};
use super::log_rows::units_from_json;
use super::recent_exposures::RecentExposures;
use super::tracked_generations::{GenerationIndex, TrackedGenerations};
use super::units::{EventNames, OutcomeContent, StoredOutcome};
use crate::error::StoreError;
use crate::event::Seq;

/// Text that is copied only if it contains escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An exposure that may change its unit's record.
pub(crate) struct ScannedExposure {
    /// The generation that the event names.
    pub(crate) generation: GenerationIndex,
    /// The unit's place on that generation's line.
    pub(crate) digest: Digest,
    /// The digest under which the unit's outcomes are stored.
    pub(crate) unit_digest: Digest,
    /// Time, variation and revision.
    pub(crate) exposure: Exposure,
}

/// An outcome of one unit, not yet compared with the stored outcomes.
pub(crate) struct ScannedOutcome {
    /// The unit's digest.
    pub(crate) unit_digest: Digest,
    /// The outcome.
    pub(crate) outcome: StoredOutcome,
}

/// The events of one part of the log.
#[derive(Default)]
pub(crate) struct LogScan {
    /// How many events were read.
    pub(crate) events: usize,
    /// The place of the last of them.
    pub(crate) last: Seq,
    /// Exposures, without those known to be repeats.
    pub(crate) exposures: Vec<ScannedExposure>,
    /// Outcomes, once for each unit that they name.
    pub(crate) outcomes: Vec<ScannedOutcome>,
    /// How many exposures name a generation that the fold does not know.
    pub(crate) unknown: usize,
}

/// Reads events after a place, at most `limit`. With `stop_at_unknown` it stops at the first unknown generation.
pub(crate) fn scan_log(
    log: &Connection,
    after: Seq,
    limit: usize,
    generations: &TrackedGenerations,
    recent: &RecentExposures,
    stop_at_unknown: bool,
) -> Result<LogScan, StoreError> {
    let mut statement = log.prepare_cached(
        "SELECT seq, occurred_at, experiment, generation, unit, arm, revision,
                units, event, value_micros, event_id, clock
         FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![to_sql_integer(after), to_sql_integer(limit as u64)])?;
    let mut names = EventNames::default();
    let mut scan = LogScan { last: after, ..LogScan::default() };
    while let Some(row) = rows.next()? {
        let text = |column: usize| row.get_ref(column).and_then(|value| value.as_str().map_err(Into::into));
        let at = Timestamp::from_micros(row.get(1)?);
        if let Some(experiment) = row.get_ref(2)?.as_str_or_null().map_err(rusqlite::Error::from)? {
            match generations.find(experiment, row.get(3)?) {
                None if stop_at_unknown => {
                    scan.unknown += 1;
                    return Ok(scan);
                }
                None => {
                    scan.unknown += 1;
                    tracing::warn!(experiment, "an exposure names an unknown generation and is not counted");
                }
                Some((index, tracked)) => {
                    let key = UnitKey::parse(text(4)?).map_err(|error| corrupt("log.unit", error))?;
                    let digest = tracked.hasher.digest(key);
                    let exposure = Exposure { at, revision: row.get(6)?, arm: arm_from_column(row.get(5)?)? };
                    if recent.may_change_record(index, digest, exposure) {
                        let unit_digest = unit_digest(tracked.clock(), tracked.experiment.definition.unit(), key);
                        scan.exposures.push(ScannedExposure { generation: index, digest, unit_digest, exposure });
                    }
                }
            }
        } else {
            let (clock, event, event_id) = (text(11)?, text(8)?, text(10)?);
            let event = names.share(event);
            for (Text(unit_type), Text(key)) in units_from_json::<Text<'_>>(text(7)?)? {
                let parsed = UnitKey::parse(&key).map_err(|error| corrupt("log.units", error))?;
                let unit_digest = unit_digest(clock, &unit_type, parsed);
                let content = OutcomeContent { at, event: Arc::clone(&event), value_micros: row.get(9)? };
                let outcome = StoredOutcome { event_id: event_id.to_owned(), content };
                scan.outcomes.push(ScannedOutcome { unit_digest, outcome });
            }
        }
        scan.events += 1;
        scan.last = row.get::<_, i64>(0)? as Seq;
        // An outcome may name several units.
        if scan.exposures.len() + scan.outcomes.len() >= limit {
            break;
        }
    }
    // Unit by unit, in the order of the tables that are read, so that each page is visited once. Among outcomes with the
    // same id, the smallest comes first and is kept.
    scan.exposures.sort_unstable_by_key(|e| (e.unit_digest, e.generation, e.exposure));
    scan.outcomes.sort_unstable_by(|a, b| {
        let (a_id, b_id) = (&a.outcome.event_id, &b.outcome.event_id);
        (a.unit_digest, a_id, &a.outcome.content).cmp(&(b.unit_digest, b_id, &b.outcome.content))
    });
    scan.outcomes.dedup_by(|b, a| a.unit_digest == b.unit_digest && a.outcome.event_id == b.outcome.event_id);
    Ok(scan)
}
