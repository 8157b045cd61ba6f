//! Events at the door: each is parsed and checked by itself, exposures against the line they claim to come from. What
//! does not agree is refused with a reason, and takes nothing else with it.

use inroad_assignment::served::ServedParts;
use inroad_assignment::{Timestamp, UnitKey};
use inroad_store::{Event, ExposureEvent, OutcomeEvent};
use inroad_wire::context::struct_to_json;
use inroad_wire::kept::keep_part;
use inroad_wire::time::timestamp_from_wire;
use inroad_wire::v1;
use prost_types::Struct;

use crate::catalogue::{Entry, State};
use crate::config::{
    FUTURE_TOLERANCE, MAX_EXPOSURE_CONTEXT_BYTES, MAX_NAME_BYTES, MAX_OUTCOME_UNITS, MAX_OUTCOME_VALUE,
};

/// Why one event was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// UPPER_SNAKE.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

fn refuse<T>(reason: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, message: message.into() })
}

/// A text as an error message should carry it.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}

/// An exposure that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// What is to be logged.
    pub event: ExposureEvent,
    /// Whether it came with more context than is kept.
    pub trimmed: bool,
}

/// Checks an exposure: the experiment, the generation and the revision are known, and the line gives this unit this
/// variation under that revision; or control, where the owner has been killed.
pub fn check_exposure(state: &State, exposure: v1::Exposure, wall_now: Timestamp) -> Result<Taken, Refusal> {
    let Ok(entry) = state.get(&exposure.experiment) else {
        return refuse(
            "UNKNOWN_EXPERIMENT",
            format!("there is no experiment {}: check the key, or create it", shown(&exposure.experiment)),
        );
    };
    let experiment = &entry.experiment;
    let (Some(generation), Some(hasher)) = (
        experiment.generation_numbered(exposure.generation),
        (exposure.generation as usize).checked_sub(1).and_then(|i| entry.hashers.get(i)),
    ) else {
        return refuse(
            "UNKNOWN_GENERATION",
            format!(
                "the experiment has no generation {}: send the one that the assignment came with",
                exposure.generation
            ),
        );
    };
    let Some(revision) = generation.revision(exposure.revision) else {
        let message = format!(
            "generation {} has no revision {}: send the one that the assignment came with",
            exposure.generation, exposure.revision
        );
        return refuse("UNKNOWN_REVISION", message);
    };
    let Some(arm) = experiment.definition.arm(&exposure.variation) else {
        return refuse(
            "UNKNOWN_VARIATION",
            format!("the experiment has no variation {}: send the one that was served", shown(&exposure.variation)),
        );
    };
    let unit = UnitKey::parse(&exposure.unit).or_else(|e| refuse("INVALID_UNIT", e.to_string()))?;
    let owner = revision.allocation.owner(hasher.digest(unit).point());
    if arm != owner && !(arm.is_control() && generation.was_ever_killed(owner)) {
        return refuse(
            "ASSIGNMENT_MISMATCH",
            format!(
                "revision {} gives this unit another variation than {}: check the client's hash against contract/golden.json",
                exposure.revision,
                shown(&exposure.variation)
            ),
        );
    }
    let occurred_at = instant(exposure.occurred_at, experiment.now(wall_now))?;
    if occurred_at < generation.started_at.minus(FUTURE_TOLERANCE) {
        return refuse("BEFORE_START", "it claims to have happened before the generation started: check the clock");
    }
    let (context, trimmed) = kept(exposure.context.unwrap_or_default(), experiment.definition.unit());
    let event = ExposureEvent {
        experiment: experiment.definition.key().clone(),
        generation: exposure.generation,
        unit: exposure.unit,
        arm,
        revision: exposure.revision,
        occurred_at,
        context,
    };
    Ok(Taken { event, trimmed })
}

/// Checks an outcome.
pub fn check_outcome(state: &State, outcome: v1::Outcome, wall_now: Timestamp) -> Result<Event, Refusal> {
    let name_fits = |name: &str| (1..=MAX_NAME_BYTES).contains(&name.len());
    if outcome.units.is_empty() || outcome.units.len() > MAX_OUTCOME_UNITS {
        return refuse("INVALID_UNIT", format!("name 1 to {MAX_OUTCOME_UNITS} units by type"));
    }
    for (kind, unit) in &outcome.units {
        if !name_fits(kind) {
            return refuse("INVALID_UNIT", format!("a unit type has 1 to {MAX_NAME_BYTES} bytes"));
        }
        UnitKey::parse(unit).or_else(|e| refuse("INVALID_UNIT", format!("{kind}: {e}")))?;
    }
    if !name_fits(&outcome.event) {
        return refuse("INVALID_EVENT", format!("an event name has 1 to {MAX_NAME_BYTES} bytes"));
    }
    if !name_fits(&outcome.event_id) {
        let message = format!("give an event_id of 1 to {MAX_NAME_BYTES} bytes, so that sending again changes nothing");
        return refuse("INVALID_EVENT_ID", message);
    }
    if !outcome.value.is_finite() || outcome.value.abs() > MAX_OUTCOME_VALUE {
        return refuse("INVALID_VALUE", format!("a value is a number within ±{MAX_OUTCOME_VALUE:e}"));
    }
    let now = match outcome.clock.as_str() {
        "" => wall_now,
        key => match state.get(key).ok().and_then(|entry: &Entry| entry.experiment.manual_now) {
            Some(now) => now,
            None => {
                return refuse(
                    "UNKNOWN_CLOCK",
                    format!("no experiment {} has a manual clock: leave `clock` empty for the wall's", shown(key)),
                );
            }
        },
    };
    Ok(Event::Outcome(OutcomeEvent {
        units: outcome.units.into_iter().collect(),
        event: outcome.event,
        value_micros: (outcome.value * 1e6).round() as i64,
        occurred_at: instant(outcome.occurred_at, now)?,
        event_id: outcome.event_id,
        clock: outcome.clock,
    }))
}

/// When something happened: as told, or now; never far in the future.
fn instant(told: Option<prost_types::Timestamp>, now: Timestamp) -> Result<Timestamp, Refusal> {
    let Some(told) = told else { return Ok(now) };
    let at = timestamp_from_wire(&told).or_else(|e| refuse("INVALID_TIME", e.to_string()))?;
    if at > now.plus(FUTURE_TOLERANCE) {
        let ahead = at.since(now).as_secs();
        return refuse("IN_THE_FUTURE", format!("it claims to happen {ahead} s from now: check the sender's clock"));
    }
    Ok(at)
}

/// An exposure that the server itself has just served; no need to check it against the line again.
pub fn own_exposure(
    experiment: &ServedParts,
    unit: &str,
    assignment: &inroad_assignment::Assignment<'_>,
    now: Timestamp,
    context: Struct,
) -> ExposureEvent {
    ExposureEvent {
        experiment: experiment.key.clone(),
        generation: assignment.generation,
        unit: unit.to_owned(),
        arm: assignment.arm,
        revision: assignment.revision,
        occurred_at: now,
        context: kept(context, &experiment.unit).0,
    }
}

/// What the log keeps of a context, as JSON; and whether there was more of it than is kept.
fn kept(mut context: Struct, unit: &str) -> (String, bool) {
    let trimmed = keep_part(&mut context, unit, MAX_EXPOSURE_CONTEXT_BYTES);
    (struct_to_json(context), trimmed)
}
