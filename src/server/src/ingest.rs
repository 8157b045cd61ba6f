//! Checks incoming events. Each event is checked by itself; an exposure is also compared with the variation that its
//! revision gives this unit. An event that fails is refused with a reason code and a message; the rest of its batch is
//! accepted.

use inroad_assignment::served::ServedParts;
use inroad_assignment::{Timestamp, UnitKey};
use inroad_store::{ExposureEvent, OutcomeEvent};
use inroad_wire::context::struct_to_json;
use inroad_wire::exposure_context::trim_context;
use inroad_wire::time::timestamp_from_wire;
use inroad_wire::v1;
use prost_types::Struct;

use crate::catalogue::{CatalogueEntry, CatalogueState};
use crate::config::{
    FUTURE_TOLERANCE, MAX_EXPOSURE_CONTEXT_BYTES, MAX_NAME_BYTES, MAX_OUTCOME_UNITS, MAX_OUTCOME_VALUE,
};

/// Why one event was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The reason code, in UPPER_SNAKE.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The reason of a refusal for an event that is far in the future.
pub const IN_THE_FUTURE: &str = "IN_THE_FUTURE";

fn refuse<T>(reason: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, message: message.into() })
}

/// A caller's text, shortened and quoted for an error message.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}

/// An exposure that passed its checks.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedExposure {
    /// The event to append to the log.
    pub event: ExposureEvent,
    /// Whether part of its context was dropped because it was too large.
    pub trimmed: bool,
}

/// Checks an exposure: the experiment, generation and revision exist, and that revision gives this unit this variation.
/// Control is accepted as well if the variation was ever killed.
pub fn check_exposure(
    state: &CatalogueState,
    exposure: v1::Exposure,
    wall_now: Timestamp,
) -> Result<AcceptedExposure, Refusal> {
    let Ok(entry) = state.get(&exposure.experiment) else {
        return refuse(
            "UNKNOWN_EXPERIMENT",
            format!("experiment {} does not exist: check the key, or create it", quoted(&exposure.experiment)),
        );
    };
    let experiment = &entry.experiment;
    let (Some(generation), Some(hasher)) = (
        experiment.generation_by_number(exposure.generation),
        (exposure.generation as usize).checked_sub(1).and_then(|i| entry.hashers.get(i)),
    ) else {
        return refuse(
            "UNKNOWN_GENERATION",
            format!(
                "the experiment has no generation {}: send the generation that was returned with the assignment",
                exposure.generation
            ),
        );
    };
    let Some(revision) = generation.revision(exposure.revision) else {
        let message = format!(
            "generation {} has no revision {}: send the revision that was returned with the assignment",
            exposure.generation, exposure.revision
        );
        return refuse("UNKNOWN_REVISION", message);
    };
    let Some(arm) = experiment.definition.arm(&exposure.variation) else {
        return refuse(
            "UNKNOWN_VARIATION",
            format!(
                "the experiment has no variation {}: send the variation that was served",
                quoted(&exposure.variation)
            ),
        );
    };
    let unit = UnitKey::parse(&exposure.unit).or_else(|e| refuse("INVALID_UNIT", e.to_string()))?;
    let owner = revision.allocation.owner(hasher.digest(unit).point());
    if arm != owner && !(arm.is_control() && generation.was_ever_killed(owner)) {
        return refuse(
            "ASSIGNMENT_MISMATCH",
            format!(
                "revision {} does not give this unit the variation {}: check the client's hash against contract/golden.json",
                exposure.revision,
                quoted(&exposure.variation)
            ),
        );
    }
    let occurred_at = event_time(exposure.occurred_at, experiment.clock_reading(wall_now))?;
    if occurred_at < generation.started_at.minus(FUTURE_TOLERANCE) {
        return refuse("BEFORE_START", "the event is from before this generation started: check the sender's clock");
    }
    let (context, trimmed) = context_to_log(exposure.context.unwrap_or_default(), experiment.definition.unit());
    let event = ExposureEvent {
        experiment: experiment.definition.key().clone(),
        generation: exposure.generation,
        unit: exposure.unit,
        arm,
        revision: exposure.revision,
        occurred_at,
        context,
    };
    Ok(AcceptedExposure { event, trimmed })
}

/// Checks an outcome: its units, event name, event id, value, clock and time.
pub fn check_outcome(
    state: &CatalogueState,
    outcome: v1::Outcome,
    wall_now: Timestamp,
) -> Result<OutcomeEvent, Refusal> {
    let is_valid_name = |name: &str| (1..=MAX_NAME_BYTES).contains(&name.len());
    if outcome.units.is_empty() || outcome.units.len() > MAX_OUTCOME_UNITS {
        return refuse("INVALID_UNIT", format!("give 1 to {MAX_OUTCOME_UNITS} units, each with its type"));
    }
    for (kind, unit) in &outcome.units {
        if !is_valid_name(kind) {
            return refuse("INVALID_UNIT", format!("use a unit type of 1 to {MAX_NAME_BYTES} bytes"));
        }
        UnitKey::parse(unit).or_else(|e| refuse("INVALID_UNIT", format!("{kind}: {e}")))?;
    }
    if !is_valid_name(&outcome.event) {
        return refuse("INVALID_EVENT", format!("use an event name of 1 to {MAX_NAME_BYTES} bytes"));
    }
    if !is_valid_name(&outcome.event_id) {
        let message = format!("give an event_id of 1 to {MAX_NAME_BYTES} bytes, so that duplicates are ignored");
        return refuse("INVALID_EVENT_ID", message);
    }
    if !outcome.value.is_finite() || outcome.value.abs() > MAX_OUTCOME_VALUE {
        return refuse(
            "INVALID_VALUE",
            format!("use a value between -{MAX_OUTCOME_VALUE:e} and {MAX_OUTCOME_VALUE:e}"),
        );
    }
    let now = match outcome.clock.as_str() {
        "" => wall_now,
        key => match state.get(key).ok().and_then(|entry: &CatalogueEntry| entry.experiment.manual_now) {
            Some(now) => now,
            None => {
                return refuse(
                    "UNKNOWN_CLOCK",
                    format!(
                        "experiment {} does not use simulated time: leave `clock` empty to use real time",
                        quoted(key)
                    ),
                );
            }
        },
    };
    Ok(OutcomeEvent {
        units: outcome.units.into_iter().collect(),
        event: outcome.event,
        value_micros: (outcome.value * 1e6).round() as i64,
        occurred_at: event_time(outcome.occurred_at, now)?,
        event_id: outcome.event_id,
        clock: outcome.clock,
    })
}

/// The time of an event: the sender's, or now. A time far in the future is refused.
fn event_time(sent: Option<prost_types::Timestamp>, now: Timestamp) -> Result<Timestamp, Refusal> {
    let Some(sent) = sent else { return Ok(now) };
    let at = timestamp_from_wire(&sent).or_else(|e| refuse("INVALID_TIME", e.to_string()))?;
    if at > now.plus(FUTURE_TOLERANCE) {
        let ahead = at.since(now).as_secs();
        return refuse(IN_THE_FUTURE, format!("the event is {ahead} s in the future: check the sender's clock"));
    }
    Ok(at)
}

/// The exposure event of an assignment that this server has just made. It needs no check.
pub fn served_exposure(
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
        context: context_to_log(context, &experiment.unit).0,
    }
}

/// The part of a context that the log keeps, as JSON, and whether the rest was dropped.
fn context_to_log(mut context: Struct, unit: &str) -> (String, bool) {
    let trimmed = trim_context(&mut context, unit, MAX_EXPOSURE_CONTEXT_BYTES);
    (struct_to_json(context), trimmed)
}
