//! The first half of a fold step: events read from the log and told apart, with what repeats left out early.

use std::collections::HashMap;

use inroad_assignment::{Arm, Digest, Timestamp, UnitKey, unit_digest};
use inroad_policy::attribution::Exposure;
use rusqlite::{Connection, params};

use super::rows::{arm, bound, damaged, units_from_json};
use super::slots::{SlotIndex, Slots};
use super::units::{Said, StoredOutcome};
use crate::error::StoreError;
use crate::event::Seq;

/// An exposure that may be news.
pub(crate) struct Seen {
    /// Of which generation.
    pub(crate) slot: SlotIndex,
    /// The unit's place on its line.
    pub(crate) digest: Digest,
    /// The digest that the unit's outcomes are kept under.
    pub(crate) unit: Digest,
    /// When, what, and under which revision.
    pub(crate) exposure: Exposure,
}

/// An outcome of one unit, not yet compared with what is known.
pub(crate) struct Heard {
    /// The unit's digest.
    pub(crate) unit: Digest,
    /// The outcome.
    pub(crate) outcome: StoredOutcome,
    /// By which clock.
    pub(crate) clock: String,
    /// The unit's type.
    pub(crate) unit_type: String,
    /// The unit's raw key, to find it on each line.
    pub(crate) key: String,
}

/// What a stretch of the log holds.
#[derive(Default)]
pub(crate) struct Scan {
    /// How many events were read.
    pub(crate) events: usize,
    /// The last of them.
    pub(crate) last: Seq,
    /// Exposures, but for those known to be repeats.
    pub(crate) exposures: Vec<Seen>,
    /// Outcomes, once for each unit they name.
    pub(crate) outcomes: Vec<Heard>,
    /// How many exposures name a generation that the fold does not know.
    pub(crate) unknown: usize,
}

/// Reads events after a place, at most `limit`. With `stop_at_unknown`, it ends at the first unknown generation.
pub(crate) fn scan(
    log: &Connection,
    after: Seq,
    limit: usize,
    slots: &Slots,
    memory: &Memory,
    stop_at_unknown: bool,
) -> Result<Scan, StoreError> {
    let mut statement = log.prepare_cached(
        "SELECT seq, occurred_at, experiment, generation, unit, arm, revision,
                units, event, value_micros, event_id, clock
         FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![bound(after), bound(limit as u64)])?;
    let mut scan = Scan { last: after, ..Scan::default() };
    while let Some(row) = rows.next()? {
        let text = |at: usize| row.get_ref(at).and_then(|value| value.as_str().map_err(Into::into));
        let at = Timestamp::from_micros(row.get(1)?);
        if let Some(experiment) = row.get_ref(2)?.as_str_or_null().map_err(rusqlite::Error::from)? {
            match slots.find(experiment, row.get(3)?) {
                None if stop_at_unknown => {
                    scan.unknown += 1;
                    return Ok(scan);
                }
                None => {
                    scan.unknown += 1;
                    tracing::warn!(experiment, "an exposure names what no catalogue knows, and is not counted");
                }
                Some((index, slot)) => {
                    let key = UnitKey::parse(text(4)?).map_err(|error| damaged("log.unit", error))?;
                    let digest = slot.hasher.digest(key);
                    let exposure = Exposure { at, revision: row.get(6)?, arm: arm(row.get(5)?)? };
                    if memory.is_news(index, digest, exposure) {
                        let unit = unit_digest(slot.clock(), slot.experiment.definition.unit(), key);
                        scan.exposures.push(Seen { slot: index, digest, unit, exposure });
                    }
                }
            }
        } else {
            let (clock, event, event_id) = (text(11)?, text(8)?, text(10)?);
            for (unit_type, key) in units_from_json(text(7)?)? {
                let parsed = UnitKey::parse(&key).map_err(|error| damaged("log.units", error))?;
                let unit = unit_digest(clock, &unit_type, parsed);
                let said = Said { at, event: event.to_owned(), value_micros: row.get(9)? };
                let outcome = StoredOutcome { event_id: event_id.to_owned(), said };
                scan.outcomes.push(Heard { unit, outcome, clock: clock.to_owned(), unit_type, key });
            }
        }
        scan.events += 1;
        scan.last = row.get::<_, i64>(0)? as Seq;
    }
    // In the order of the tables, so that pages are visited once; of one outcome told twice, the least comes first.
    scan.exposures.sort_unstable_by_key(|e| (e.slot, e.digest, e.exposure));
    scan.outcomes.sort_unstable_by(|a, b| {
        (a.unit, &a.outcome.event_id, &a.outcome.said).cmp(&(b.unit, &b.outcome.event_id, &b.outcome.said))
    });
    scan.outcomes.dedup_by(|b, a| a.unit == b.unit && a.outcome.event_id == b.outcome.event_id);
    Ok(scan)
}

/// Exposures that were counted lately: most events repeat one of those, and change nothing. Two halves take turns, so
/// that the older half is forgotten at once and cheaply. It only ever says "no news" of what is on disk.
#[derive(Default)]
pub(crate) struct Memory {
    new: HashMap<(SlotIndex, Digest, Arm), (Timestamp, u32)>,
    old: HashMap<(SlotIndex, Digest, Arm), (Timestamp, u32)>,
    half: usize,
}

impl Memory {
    /// Room for so many exposures.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { half: capacity / 2, ..Self::default() }
    }

    /// Whether an exposure may change something.
    pub(crate) fn is_news(&self, slot: SlotIndex, digest: Digest, exposure: Exposure) -> bool {
        let place = (slot, digest, exposure.arm);
        let known = self.new.get(&place).or_else(|| self.old.get(&place));
        known.is_none_or(|known| (exposure.at, exposure.revision) < *known)
    }

    /// Takes what is on disk of one unit.
    pub(crate) fn keep(&mut self, slot: SlotIndex, digest: Digest, exposures: &[Exposure]) {
        if self.new.len() >= self.half {
            std::mem::swap(&mut self.new, &mut self.old);
            self.new.clear();
        }
        for exposure in exposures {
            self.new.insert((slot, digest, exposure.arm), (exposure.at, exposure.revision));
        }
    }
}
