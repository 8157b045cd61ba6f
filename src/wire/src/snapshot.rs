//! Snapshots of experiments. A client with local evaluation relies on them, so a received snapshot is checked as
//! strictly as user input.

use std::sync::Arc;

use inroad_assignment::audience::Audience;
use inroad_assignment::definition::{Override, OverrideTarget};
use inroad_assignment::served::{ServedParts, ServedRevision, ServedVariation};
use inroad_assignment::{Arm, ExperimentKey, KillTarget, Kills, Salt, ServedExperiment, Status, UnitKey, VariationKey};

use crate::error::WireError;
use crate::payload::{payload_from_wire, payload_to_wire};
use crate::reason::{status_from_wire, status_to_wire};
use crate::revision::{allocation_from_wire, allocation_to_wire, arm_from_wire, arm_to_wire};
use crate::time::{self, timestamp_to_wire};
use crate::v1;

/// Converts a served experiment to the snapshot that clients receive.
pub fn snapshot_to_wire(experiment: &ServedExperiment) -> v1::ExperimentSnapshot {
    let parts = experiment.parts();
    let shipped = match parts.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => shipped,
        Status::Draft | Status::Running | Status::Paused => Arm::CONTROL,
    };
    let variations = parts.variations.iter().enumerate().map(|(i, v)| v1::VariationSnapshot {
        key: v.key.to_string(),
        payload: Some(payload_to_wire(&v.payload)),
        killed: Arm::new(i).is_some_and(|arm| parts.kills.is_arm_killed(arm)),
    });
    v1::ExperimentSnapshot {
        key: parts.key.to_string(),
        version: parts.version,
        state: status_to_wire(parts.status).into(),
        generation: parts.generation,
        salt: parts.salt.as_ref().map(Salt::to_string).unwrap_or_default(),
        unit: parts.unit.clone(),
        audience: parts.audience.as_ref().map(|a| a.source().to_owned()).unwrap_or_default(),
        overrides: parts.overrides.iter().map(override_to_wire).collect(),
        variations: variations.collect(),
        killed: parts.kills.everything,
        revisions: parts.revisions.iter().map(revision_to_wire).collect(),
        manual_now: parts.manual_now.map(timestamp_to_wire),
        shipped: arm_to_wire(shipped),
        shipped_within_audience: parts.shipped_within_audience,
    }
}

fn override_to_wire(o: &Override) -> v1::OverrideSnapshot {
    let (units, when) = match &o.target {
        OverrideTarget::Units(units) => (units.iter().cloned().collect(), String::new()),
        OverrideTarget::Audience(audience) => (Vec::new(), audience.source().to_owned()),
    };
    v1::OverrideSnapshot { units, when, variation: arm_to_wire(o.arm) }
}

fn revision_to_wire(revision: &ServedRevision) -> v1::Revision {
    v1::Revision {
        number: revision.number,
        effective_at: Some(timestamp_to_wire(revision.effective_at)),
        buckets: allocation_to_wire(&revision.allocation),
        created_at: None,
        cause: String::new(),
        has_decision: false,
        never_in_effect: false,
    }
}

/// Converts and completely checks a received snapshot. Whether it may replace the known one is checked by
/// [`ServedExperiment::check_can_replace`].
///
/// # Errors
/// If the snapshot contains anything that the server's own checks would refuse.
pub fn snapshot_from_wire(sent: v1::ExperimentSnapshot) -> Result<ServedExperiment, WireError> {
    let key = ExperimentKey::try_from(sent.key).map_err(|e| WireError::field("key", e))?;
    let shipped = arm_from_wire(sent.shipped, || "shipped".to_owned())?;
    let status = status_from_wire(sent.state, shipped)?;
    let salt = match sent.salt.as_str() {
        "" => None,
        _ => Some(Salt::try_from(sent.salt).map_err(|e| WireError::field("salt", e))?),
    };
    check_generation(status, sent.generation, salt.is_some())?;
    if !(1..=128).contains(&sent.unit.len()) {
        return Err(WireError::field("unit", "give the name of a context attribute, 1 to 128 bytes"));
    }
    let (variations, kills) = variations_from_wire(sent.variations, sent.killed)?;
    let overrides = sent.overrides.into_iter().enumerate();
    let overrides = overrides.map(|(i, o)| override_from_wire(o).map_err(|e| e.within(&format!("overrides[{i}]"))));
    let revisions = sent.revisions.iter().enumerate();
    let revisions = revisions.map(|(i, r)| revision_from_wire(r).map_err(|e| e.within(&format!("revisions[{i}]"))));
    let parts = ServedParts {
        key,
        version: sent.version,
        status,
        generation: sent.generation,
        salt,
        unit: sent.unit,
        audience: audience_from_wire(&sent.audience).map_err(|e| e.within("audience"))?,
        overrides: overrides.collect::<Result<_, _>>()?,
        variations,
        kills,
        revisions: revisions.collect::<Result<_, _>>()?,
        manual_now: time::optional_timestamp_from_wire(sent.manual_now.as_ref(), "manual_now")?,
        shipped_within_audience: sent.shipped_within_audience,
    };
    Ok(ServedExperiment::new(parts)?)
}

/// Checks that a started experiment has a generation and a salt, and that a draft has neither.
fn check_generation(status: Status, generation: u32, has_salt: bool) -> Result<(), WireError> {
    let started = generation > 0;
    if started != has_salt {
        return Err(WireError::field(
            "salt",
            "send a salt together with a generation from the first start on, and neither before it",
        ));
    }
    match status {
        Status::Draft if started => Err(WireError::field("generation", "a draft has no generation: send 0")),
        Status::Running | Status::Paused | Status::Concluded { .. } if !started => Err(WireError::field(
            "generation",
            "an experiment that was started has a generation: send its number, from 1",
        )),
        _ => Ok(()),
    }
}

fn variations_from_wire(
    sent: Vec<v1::VariationSnapshot>,
    everything: bool,
) -> Result<(Vec<ServedVariation>, Kills), WireError> {
    let mut kills = Kills::default().with_change(KillTarget::Everything, everything);
    let mut variations: Vec<ServedVariation> = Vec::with_capacity(sent.len().min(1 + Arm::MAX_TREATED));
    for (i, v) in sent.into_iter().enumerate() {
        let path = |field: &str| format!("variations[{i}].{field}");
        let Some(arm) = Arm::new(i) else {
            return Err(WireError::OverLimit {
                field: "variations".to_owned(),
                what: "has too many entries besides control",
                max: Arm::MAX_TREATED,
                remedy: "split the experiment",
            });
        };
        let key = VariationKey::try_from(v.key).map_err(|e| WireError::field(path("key"), e))?;
        // There are at most 65, so a linear search is cheaper than a sorted set.
        if variations.iter().any(|other| other.key == key) {
            return Err(WireError::field(path("key"), format!("{key} is listed twice: list each variation once")));
        }
        let payload = v.payload.ok_or_else(|| WireError::field(path("payload"), "the payload is missing: give one"))?;
        let payload = payload_from_wire(payload).map_err(|e| e.within(&path("payload")))?;
        if variations.first().is_some_and(|control| control.payload.kind() != payload.kind()) {
            let message = "all payloads of an experiment have one type: use that of control's payload";
            return Err(WireError::field(path("payload"), message));
        }
        if v.killed && arm.is_control() {
            return Err(WireError::field(
                path("killed"),
                "control cannot be killed, because killed variations serve it: send false",
            ));
        }
        kills = kills.with_change(KillTarget::Variation(arm), v.killed);
        variations.push(ServedVariation { key, payload });
    }
    Ok((variations, kills))
}

fn audience_from_wire(text: &str) -> Result<Option<Audience>, WireError> {
    match text {
        "" => Ok(None),
        text => Audience::parse(text).map(Some).map_err(|e| WireError::field("", e)),
    }
}

fn override_from_wire(sent: v1::OverrideSnapshot) -> Result<Override, WireError> {
    let arm = arm_from_wire(sent.variation, || "variation".to_owned())?;
    let audience = audience_from_wire(&sent.when).map_err(|e| e.within("when"))?;
    let target = match (sent.units.is_empty(), audience) {
        (false, None) => {
            for (i, unit) in sent.units.iter().enumerate() {
                UnitKey::parse(unit).map_err(|e| WireError::field(format!("units[{i}]"), e))?;
            }
            OverrideTarget::Units(sent.units.into_iter().collect())
        }
        (true, Some(audience)) => OverrideTarget::Audience(audience),
        _ => return Err(WireError::field("units", "give either units or when")),
    };
    Ok(Override { target, arm })
}

fn revision_from_wire(sent: &v1::Revision) -> Result<ServedRevision, WireError> {
    if sent.number == 0 {
        return Err(WireError::field("number", "revisions are numbered from 1"));
    }
    let effective_at = time::optional_timestamp_from_wire(sent.effective_at.as_ref(), "effective_at")?;
    let effective_at = effective_at.ok_or_else(|| WireError::field("effective_at", "the time is missing: give one"))?;
    let allocation = Arc::new(allocation_from_wire(&sent.buckets)?);
    Ok(ServedRevision { number: sent.number, effective_at, allocation })
}
